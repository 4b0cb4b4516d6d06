"""Whether libvirt's daemons may be stopped: only if no domain runs, and libvirt's own process is none."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.libvirt_daemon import running_domains
from tests.waiting import wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[int]:
    """Return a process that goes by libvirtd's name."""
    program = tmp_path / "libvirtd"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    named = Path(f"/proc/{process.pid}/comm")  # the name comes a moment after the start is over for us
    wait_until(lambda: named.read_text().strip() == "libvirtd", "its name", every_s=0.005)
    yield process.pid
    process.kill()
    process.wait()


def test_libvirts_own_process_is_no_domain_and_a_domain_of_that_name_is_one(tmp_path: Path, daemon: int) -> None:
    pids = tmp_path / "qemu"
    pids.mkdir()
    (pids / "driver.pid").write_text(f"{daemon}\n")
    assert running_domains(pids) == []
    (pids / "driver.pid").write_text(f"{os.getpid()}")
    (pids / "other.pid").write_text(f"{os.getpid()}")
    assert running_domains(pids) == ["driver", "other"]


def test_what_has_ended_does_not_run_and_what_cannot_be_known_does(tmp_path: Path) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    (tmp_path / "ended.pid").write_text(str(ended.pid))
    (tmp_path / "ended.xml").touch()
    assert running_domains(tmp_path) == []
    (tmp_path / "damaged.pid").write_text("")
    assert running_domains(tmp_path) == ["damaged"]
    assert running_domains(tmp_path / "nowhere") == []
