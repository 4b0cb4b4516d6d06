"""``up`` and ``down`` take turns: what one of them begins, it ends before another changes the same installation."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from cli.console import Wait
from common import files
from common.clock import Clock
from common.config import System
from common.errors import AutoscalerError

NAME = "up.lock"
LOOK_S = 0.2


@contextmanager
def turn(system: System, command: str, clock: Clock) -> Iterator[None]:
    """Run the body while no other ``up`` or ``down`` is at work on this installation; wait for it, and say so.

    Raises:
        AutoscalerError: the run directory cannot be used.
    """
    path = system.run_path / NAME
    fd = taken(path)
    if fd is None:
        fd = _wait(path, clock)
    try:
        os.ftruncate(fd, 0)
        os.write(fd, f"{command} (process {os.getpid()})".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever waits looks whether what it holds is still the file
        os.close(fd)


def _wait(path: Path, clock: Clock) -> int:
    """Return the held lock when the other one has ended, and say meanwhile who that is."""
    with Wait(clock, "waiting", lead="") as wait:
        wait.wait_for(f"autoscaler {_holder(path)} is at work on this installation: waiting for its end")
        while (fd := taken(path)) is None:
            Event().wait(LOOK_S)
        return fd


def taken(path: Path) -> int | None:
    """Return the held lock, None where another process holds it, or has just ended with the file."""
    try:
        files.ensure_dir(path.parent, 0o700)
        fd = files.open_lock(path)
    except OSError as error:
        raise AutoscalerError(f"{path} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100] or "up or down"
    except OSError:
        return "up or down"
