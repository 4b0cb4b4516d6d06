"""Waiting for a condition with a deadline, as every test with real parts does instead of sleeping."""

import time
from collections.abc import Callable
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
