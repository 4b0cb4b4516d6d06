"""A stand for the monitor: a libvirtd of its own that serves ``test:///``, and waiting for conditions.

The daemon runs as an unprivileged user with directories of its own, so it may be stopped, killed and started again at
will: the machine's own libvirtd notices nothing.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import HypervisorError
from common.hypervisor import Connection
from tests.named import Named
from tests.waiting import wait_until

CLOCK = SystemClock()
NOBODY = 65534
LIBVIRTD = shutil.which("libvirtd", path="/usr/sbin:/usr/bin")


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return when the condition holds; fail if it does not within ``timeout_s``."""
    wait_until(condition, "what the test expects", timeout_s, every_s=0.01)


def is_ours(name: str) -> bool:
    return name.startswith("hvtest-")


def test_domain(name: str, vcpus: int = 1, uuid_text: str = "") -> str:
    """Return the definition of a domain of libvirt's test driver."""
    return (
        f'<domain type="test"><name>{name}</name><uuid>{uuid_text or uuid.uuid4()}</uuid><memory unit="MiB">16</memory>'
        f"<vcpu>{vcpus}</vcpu><os><type>hvm</type></os></domain>"
    )


test_domain.__test__ = False  # type: ignore[attr-defined]


class PrivateLibvirtd:
    """A libvirtd that serves libvirt's test driver at ``uri``; what it knows ends with it."""

    def __init__(self) -> None:
        if LIBVIRTD is None:
            pytest.skip("needs libvirtd")
        self.directory = Path(tempfile.mkdtemp(prefix="hv-", dir="/tmp"))  # socket paths are short
        if os.geteuid() == 0:
            os.chown(self.directory, NOBODY, NOBODY)
        self.socket = self.directory / "libvirt" / "libvirt-sock"
        self.uri = f"test+unix:///default?socket={self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        keys = ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
        environment = {**dict.fromkeys(keys, str(self.directory)), "PATH": os.environ["PATH"]}
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self.process = subprocess.Popen([str(LIBVIRTD)], env=environment, stderr=subprocess.DEVNULL, **user)  # type: ignore[call-overload]
        wait_for(self._answers)

    def stop(self) -> None:
        """End the daemon at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def connect(self, is_read_only: bool = False) -> Connection:
        return Named.open(self.uri, is_read_only=is_read_only, may_touch=is_ours)

    def close(self) -> None:
        self.thaw()
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            self.connect(is_read_only=True).close()
        except HypervisorError:
            return False
        return True
