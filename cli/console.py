"""What long work says while it runs: one numbered line a step, its outcome and its seconds."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common.clock import Clock

_DIGITS = re.compile(r"\d+")


class Steps:
    """Numbered progress on standard output; on a terminal the running step shows what it waits for."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._total = total
        self._number = 0
        self._started_s = 0.0
        self._is_terminal = sys.stdout.isatty()
        self._waiting_for = ""

    @contextmanager
    def step(self, title: str) -> Iterator["Steps"]:
        """Announce a step, and say how long it took when it ends well."""
        self._number += 1
        self._started_s = self._clock.monotonic_s()
        self._outcome = "ok"
        self._head = f"[{self._number}/{self._total}] {title}"
        print(self._head, end=" … " if self._is_terminal else "\n", flush=True)
        yield self
        took_s = self._clock.monotonic_s() - self._started_s
        lead = f"\r\033[K{self._head}: " if self._is_terminal else "      "
        print(f"{lead}{self._outcome} ({took_s:.1f} s)", flush=True)

    def say(self, outcome: str) -> None:
        """Set what the running step ends with."""
        self._outcome = outcome

    def wait_for(self, what: str) -> None:
        """Show what the running step waits for: each second on a terminal, elsewhere when it is something new."""
        waited_s = self._clock.monotonic_s() - self._started_s
        if self._is_terminal:
            print(f"\r\033[K{self._head} … {what} ({waited_s:.0f} s)", end="", flush=True)
        elif _DIGITS.sub("", what) != self._waiting_for:
            self._waiting_for = _DIGITS.sub("", what)
            print(f"      {what} ({waited_s:.0f} s)", flush=True)
