"""The processes of this machine, by their command lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def commands() -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield number and command line of each process that sees the same files as this one, and has not ended.

    Another root, a container's say, has files of the same names that are other ones. Who may not look at a process's
    root does not see the process.
    """
    here = _PROC / "self" / "root"
    for process in _PROC.glob("[0-9]*"):
        words = command(int(process.name))
        try:
            if words and (process / "root").samefile(here):
                yield int(process.name), words
        except OSError:
            continue  # it has just ended, or is another user's


def command(pid: int) -> tuple[str, ...]:
    """Return the command line of a process, empty if it has ended: also if its parent has not waited for it yet."""
    try:
        data = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(data.decode(errors="replace").removesuffix("\0").split("\0")) if data else ()


def is_running(pid: int) -> bool:
    """Return whether the process has not ended."""
    return bool(command(pid))
