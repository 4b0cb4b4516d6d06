"""Waiting for a condition with a deadline, as every test with real parts does instead of sleeping."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.02) -> Any:
    """Return the first true value of ``condition``; fail with ``what`` and its last value after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s  # noqa: TID251 - tests measure real time
    value: Any = None
    while time.monotonic() < deadline:  # noqa: TID251
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}; last seen: {value!r}")


def undisturbed_s(process: subprocess.Popen[Any], begun_s: float, timeout_s: float = 30.0) -> float:
    """Return how long a process took to end, without the time in which a busy machine had no processor for it.

    It still has to be waited for. ``begun_s`` is monotonic, taken before its start; Linux counts in
    ``/proc/PID/schedstat`` for how long a process could have run and did not, also of one that nobody has waited for.
    """
    is_over = lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)  # noqa: E731
    wait_until(is_over, f"the end of process {process.pid}", timeout_s, every_s=0.005)
    took_s = time.monotonic() - begun_s  # noqa: TID251
    return took_s - queued_s(process.pid)


def queued_s(pid: int) -> float:
    """Return for how long a busy machine has had no processor for a process so far, for its first thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


class Stopwatch:
    """Measures what a mechanism takes, without the time in which a busy machine had no processor for it."""

    def __init__(self, *pids: int) -> None:
        """Begin now; it is about this process and those of ``pids``, as long as they live."""
        self._pids = {os.getpid(), *pids}
        self._queued_s = _queue_s(self._pids)
        self._begun_s = time.monotonic()  # noqa: TID251

    def s(self, *born: int) -> float:
        """Return the seconds since the beginning, less those of ``queued_s``."""
        return time.monotonic() - self._begun_s - self.queued_s(*born)  # noqa: TID251

    def queued_s(self, *born: int) -> float:
        """Return the seconds, summed over the threads, in which one could have run and did not.

        ``born``: processes that there are since; those known from the beginning count once.
        """
        return max(_queue_s(self._pids | set(born)) - self._queued_s, 0.0)


def _queue_s(pids: set[int]) -> float:
    return sum(_queued_ns(task) for pid in pids for task in _tasks(pid)) / 1e9


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []  # the process has just ended


def _queued_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0  # the thread has just ended
