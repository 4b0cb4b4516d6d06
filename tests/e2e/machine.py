"""A machine of the tests' own, with a real systemd: this one's files and kernel, in namespaces of its own.

What it changes in its files is kept in memory, its network is not this machine's, and its processes end with its first:
nothing of it is left. The hypervisor in it is a libvirtd of its own, as Debian's units start it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.world import wait_until

SCRIPT = Path(__file__).with_name("machine.sh")
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net")
START_S = 60.0
ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}  # nothing of this machine's shell
HAS_STARTED = {"running", "degraded"}


class Machine:
    """One machine that runs; files of ``shown`` are this machine's, whatever file system they are on."""

    def __init__(self, *shown: Path) -> None:
        self._home = Path(f"/var/tmp/asem-{os.getpid()}")
        self._home.mkdir(mode=0o700)
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", SCRIPT, self._home.name, self._home, *shown]
        self._process = subprocess.Popen(command)
        try:
            wait_until(self._has_started, START_S, "systemd to start")
        except AssertionError:
            self.stop()
            raise

    def run(self, *words: str | Path, check: bool = True, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as root."""
        command = ["nsenter", f"--target={self._children()[0]}", *NAMESPACES, "--", *words]
        done = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def stop(self) -> None:
        """End it and all it runs; return when nothing of it is left."""
        self._process.kill()
        self._process.wait(30)
        wait_until(lambda: not any(map(_is_in_use, self._cgroups())), 30, "the machine's processes to end")
        for top in self._cgroups():
            for parent, _, _ in os.walk(top, topdown=False):
                Path(parent).rmdir()
        shutil.rmtree(self._home)

    def _has_started(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{SCRIPT.name} ended with code {self._process.returncode}")
        if not self._children():
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in HAS_STARTED

    def _children(self) -> list[str]:
        """Return its first process as this machine numbers it, once there is one."""
        pid = self._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()

    def _cgroups(self) -> Iterator[Path]:
        return (tree / self._home.name for tree in (CGROUPS, *CGROUPS.iterdir()) if (tree / self._home.name).is_dir())


def _is_in_use(cgroup: Path) -> bool:
    return any(path.read_text(encoding="ascii") for path in cgroup.rglob("cgroup.procs"))
