"""``up`` and ``down`` take turns: what one of them begins, it ends before another changes the same installation."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from common import files
from common.config import System
from common.errors import AutoscalerError

NAME = "up.lock"
LOOK_S = 0.2


@contextmanager
def turn(system: System, command: str) -> Iterator[None]:
    """Run the body while no other ``up`` or ``down`` is at work on this installation; wait for it, and say so.

    Raises:
        AutoscalerError: the run directory cannot be used.
    """
    path = system.run_path / NAME
    fd = taken(path)
    if fd is None:
        print(f"autoscaler {_holder(path)} is at work on this installation: waiting for its end", flush=True)
    while fd is None:
        Event().wait(LOOK_S)
        fd = taken(path)
    try:
        os.ftruncate(fd, 0)
        os.write(fd, f"{command} (process {os.getpid()})".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever waits looks whether what it holds is still the file
        os.close(fd)


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
