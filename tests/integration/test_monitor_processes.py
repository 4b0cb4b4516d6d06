"""The end and the freeze of a process, told by the kernel before anyone else knows."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.monitor.core.host import Exited, Froze
from services.monitor.processes import ProcessWatch, _state_of, pid_directory
from tests.integration.monitor_stand import wait_for

UUID = "00000000-0000-4000-8000-000000000000"
WAITING = "import signal; signal.pause()"


class Stand:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[Exited | Froze] = []
        self.watch = ProcessWatch(directory, self.told.append)
        self.processes: list[subprocess.Popen[bytes]] = []

    def follow(self) -> None:
        """Follow the process of web-0000, which may not have its command line yet."""
        wait_for(lambda: self.watch.follow("web-0000", UUID))

    def run(self, name: str = "web-0000", uuid: str = UUID, code: str = WAITING) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, "-c", code, "-uuid", uuid])
        self.processes.append(process)
        (self.directory / f"{name}.pid").write_text(f"{process.pid}\n")
        return process


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(tmp_path)
    yield stand
    stand.watch.close()
    for process in stand.processes:
        process.kill()
        process.wait()


def test_a_killed_process_is_told_with_its_signal_while_nobody_has_reaped_it(stand: Stand) -> None:
    process = stand.run()
    stand.follow()
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: stand.told == [Exited("web-0000", UUID, signal.SIGKILL)])


def test_a_process_that_ends_by_itself_is_told_without_a_signal(stand: Stand) -> None:
    quick = subprocess.Popen([sys.executable, "-c", "input()", "-uuid", UUID], stdin=subprocess.PIPE)
    stand.processes.append(quick)
    (stand.directory / "web-0000.pid").write_text(str(quick.pid))
    stand.follow()
    assert quick.stdin is not None
    quick.stdin.write(b"\n")
    quick.stdin.close()
    wait_for(lambda: stand.told == [Exited("web-0000", UUID, 0)])


def test_a_process_is_followed_once(stand: Stand) -> None:
    process = stand.run()
    stand.follow()
    assert stand.watch.follow("web-0000", UUID)
    process.kill()
    wait_for(lambda: bool(stand.told))
    stand.watch.close()
    assert len(stand.told) == 1


def test_a_domain_started_again_is_followed_again(stand: Stand) -> None:
    for count in (1, 2):
        process = stand.run()
        stand.follow()
        process.kill()
        wait_for(lambda have=count: len(stand.told) == have)  # type: ignore[misc]


def test_a_stopped_process_is_told_once_until_it_runs_again(stand: Stand) -> None:
    process = stand.run()
    stand.follow()
    for count in (1, 2):
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda have=count: stand.told == [Froze("web-0000", UUID)] * have)  # type: ignore[misc]
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: not stand.watch._stopped)
    process.kill()
    wait_for(lambda: stand.told[2:] == [Exited("web-0000", UUID, signal.SIGKILL)])


def test_a_process_is_frozen_when_two_looks_in_a_row_find_it_stopped(stand: Stand) -> None:
    process = stand.run()
    stand.follow()
    stand.watch.close()  # from here on, it is this test that looks
    for is_stopped, told in [(True, 0), (False, 0), (True, 0), (True, 1), (True, 1)]:
        process.send_signal(signal.SIGSTOP if is_stopped else signal.SIGCONT)
        wait_for(lambda have=is_stopped: (_state_of(process.pid) == "T") is have)  # type: ignore[misc]
        stand.watch._look()
        assert len(stand.told) == told


def test_a_process_of_another_domain_is_not_followed(stand: Stand) -> None:
    other = "11111111-0000-4000-8000-000000000000"
    process = stand.run(uuid=other)
    wait_for(lambda: other in Path(f"/proc/{process.pid}/cmdline").read_text())
    assert not stand.watch.follow("web-0000", UUID)


@pytest.mark.parametrize("text", [None, "", "x", "999999999", "-1", "0"])
def test_a_missing_or_senseless_pid_file_is_no_error(stand: Stand, text: str | None) -> None:
    if text is not None:
        (stand.directory / "web-0000.pid").write_text(text)
    assert not stand.watch.follow("web-0000", UUID)


def test_nothing_is_followed_or_told_after_the_end(stand: Stand) -> None:
    process = stand.run()
    stand.follow()
    stand.watch.close()
    stand.watch.close()
    process.kill()
    process.wait()
    assert not stand.watch.follow("web-0000", UUID)
    assert stand.told == []


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", Path("/run/libvirt/qemu")),
        ("qemu+unix:///system?socket=/run/x", Path("/run/libvirt/qemu")),
        ("qemu+ssh://host/system", None),
        ("qemu://host/system", None),
        ("qemu:///session", None),
        ("test:///default", None),
    ],
)
def test_only_hosts_on_this_machine_have_pid_files(uri: str, expected: Path | None) -> None:
    assert pid_directory(uri) == expected
