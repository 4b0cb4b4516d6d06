"""Whether libvirt's daemons may be stopped: only if no domain runs, and libvirt's own process is none."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import libvirt_daemon
from cli.libvirt_daemon import ANSWERS, ensure_libvirt, running_domains, start_again, stop_libvirt
from common.clock import SystemClock
from common.config import Host, System
from common.errors import HypervisorError
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


DAEMON = """#!/bin/sh
sleep 60 > /dev/null 2>&1 &
echo $! > {pid}
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Return the files of the process identifiers of two daemons that can be started; libvirt answers by libvirtd."""
    files = {name: tmp_path / f"{name}.pid" for name in ("virtlogd", "libvirtd")}
    for name, pid in files.items():
        (tmp_path / name).write_text(DAEMON.format(pid=pid))
        (tmp_path / name).chmod(0o755)
    is_up = lambda name: files[name].exists() and Path(f"/proc/{files[name].read_text().strip()}").exists()  # noqa: E731

    def touch(uri: str) -> None:
        if not is_up("libvirtd"):
            raise HypervisorError(f"no answer from {uri}")

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(libvirt_daemon, "_touch", touch)
    monkeypatch.setattr(
        libvirt_daemon, "_daemon_pid", lambda name: int(files[name].read_text()) if is_up(name) else None
    )
    monkeypatch.setattr(libvirt_daemon, "has_systemd", lambda: False)
    monkeypatch.setattr(libvirt_daemon, "running_domains", list)
    yield files
    for name in filter(is_up, files):
        os.kill(int(files[name].read_text()), signal.SIGKILL)


def test_a_daemon_that_crashed_is_started_again_and_named(tmp_path: Path, started: dict[str, Path]) -> None:
    system, clock = System(run_dir=str(tmp_path)), SystemClock()
    hosts = [Host(uri="qemu:///system")]
    assert start_again(hosts, system, clock) == "started virtlogd and libvirtd (no systemd here)"
    assert start_again(hosts, system, clock) == "" != ANSWERS
    ended(started["libvirtd"])
    assert start_again(hosts, system, clock) == (
        "started libvirtd (no systemd here); the libvirtd of an earlier start is gone: "
        "it crashed, was stopped, or the machine restarted"
    )


def ended(pid: Path) -> None:
    """End a daemon, and wait until it has ended."""
    number = int(pid.read_text())
    os.kill(number, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{number}").exists(), "its end", every_s=0.005)


def test_without_virtlogd_no_domain_starts_so_it_is_started_beside_a_libvirtd_that_answers(
    tmp_path: Path, started: dict[str, Path]
) -> None:
    system, clock = System(run_dir=str(tmp_path)), SystemClock()
    ensure_libvirt(Host(), system, clock)
    (tmp_path / "started.virtlogd").unlink()
    ended(started["virtlogd"])
    assert ensure_libvirt(Host(), system, clock) == f"{ANSWERS}; started virtlogd (no systemd here)"
    assert ensure_libvirt(Host(), system, clock) == ANSWERS


def test_a_libvirtd_that_somebody_else_started_keeps_its_virtlogd(tmp_path: Path, started: dict[str, Path]) -> None:
    system, clock = System(run_dir=str(tmp_path)), SystemClock()
    ensure_libvirt(Host(), system, clock)
    ended(started["libvirtd"])
    subprocess.run(["libvirtd", "-d"], check=True)
    assert stop_libvirt(system) == (
        "libvirt's daemons go on: the libvirtd that runs is not the one that was started here"
    )
    assert Path(f"/proc/{started['virtlogd'].read_text().strip()}").exists()
    ended(started["libvirtd"])
    assert stop_libvirt(system) == "stopped virtlogd, which we had started"


def test_a_daemon_that_nobody_has_waited_for_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, pid = tmp_path / "libvirtd", tmp_path / "pid"
    program.symlink_to("/bin/sleep")
    monkeypatch.setitem(libvirt_daemon._PID_FILES, "libvirtd", str(pid))
    process = subprocess.Popen([str(program), "60"])
    pid.write_text(str(process.pid))
    wait_until(lambda: libvirt_daemon._daemon_pid("libvirtd") == process.pid, "its name", every_s=0.005)
    process.kill()
    wait_until(lambda: libvirt_daemon._daemon_pid("libvirtd") is None, "its end", every_s=0.005)
    assert Path(f"/proc/{process.pid}").exists()
    process.wait()
