"""The only file that reads a clock.

Decisions use ``monotonic_s``: on one machine all processes share it, and a jump of the wall
clock does not touch it. ``epoch_s`` is for people, logs and files.
"""

import time
from functools import cache
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What a shell asks for the time."""

    def monotonic_s(self) -> float:
        """Return seconds since this machine booted; comparable between its processes."""

    def epoch_s(self) -> float:
        """Return wall-clock seconds since 1970-01-01 UTC."""


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """Return seconds since this machine booted."""
        return time.monotonic()  # noqa: TID251 - the one place that may

    def epoch_s(self) -> float:
        """Return wall-clock seconds since 1970-01-01 UTC."""
        return time.time()  # noqa: TID251 - the one place that may


@cache
def boot_id() -> str:
    """Return the kernel's identifier of this boot; monotonic times compare only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
