"""``up`` and ``down`` take turns, also where the one that ends removes the lock's file, or its directory."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from cli.turn import NAME, taken, turn
from common.clock import SystemClock
from common.config import System
from common.errors import AutoscalerError
from tests.waiting import wait_until

HOLD = """
import sys
from cli.turn import turn
from common.clock import SystemClock
from common.config import System
with turn(System(run_dir=sys.argv[1], state_dir=sys.argv[1] + "-state"), "up", SystemClock()):
    print("held", flush=True)
    sys.stdin.readline()
"""


def system(home: Path) -> System:
    return System(run_dir=f"{home}/run", state_dir=f"{home}/state")


def holder(home: Path) -> "subprocess.Popen[str]":
    """Return another process that is at work."""
    command = [sys.executable, "-c", HOLD, f"{home}/run"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["done", "killed", "directory removed"])
def test_the_second_one_says_whom_it_waits_for_and_goes_on_when_that_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    other, order = holder(tmp_path), []

    def second() -> None:
        with turn(system(tmp_path), "down", SystemClock()):
            order.append("second")

    thread = Thread(target=second)
    thread.start()
    said = []
    wait_until(
        lambda: said.append(capsys.readouterr().out) or "waiting" in "".join(said), "it says so", 20, every_s=0.05
    )
    waiting = f"autoscaler up (process {other.pid}) is at work on this installation: waiting for its end (0 s)\n"
    assert "".join(said) == waiting
    assert order == []
    if end == "directory removed":
        shutil.rmtree(tmp_path / "run")
    if end == "killed":
        os.kill(other.pid, signal.SIGKILL)
    other.communicate("\n")
    thread.join(20)
    assert order == ["second"]
    assert not (tmp_path / "run" / NAME).exists()


def test_a_lock_on_a_file_that_its_holder_has_just_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / NAME
    locks = iter((path.unlink, lambda: None))

    def late(fd: int, operation: int) -> None:
        next(locks)()  # the holder ends between the opening and the locking
        flock(fd, operation)

    flock = fcntl.flock
    monkeypatch.setattr("cli.turn.fcntl.flock", late)
    assert taken(path) is None
    fd = taken(path)
    assert fd is not None
    os.close(fd)


def test_a_failure_ends_the_turn(tmp_path: Path) -> None:
    with pytest.raises(AutoscalerError, match="step"), turn(system(tmp_path), "up", SystemClock()):
        raise AutoscalerError("step")
    with turn(system(tmp_path), "down", SystemClock()):
        assert (tmp_path / "run" / NAME).read_text() == f"down (process {os.getpid()})"


def test_a_run_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with (
        pytest.raises(AutoscalerError, match=r"run/up\.lock cannot be made"),
        turn(system(tmp_path), "up", SystemClock()),
    ):
        pass
