"""The breaker on failed starts: one for each group and host, and one more for each tier of warm domains there.

Closed: starts go ahead, with a pause that grows with the failures in a row. After ``LIMIT`` of them it opens for 60 s,
doubling to 30 min. Then one trial goes through (half open): success closes it, failure
opens it again.
"""

from dataclasses import dataclass, replace
from typing import Final

LIMIT: Final = 3
FIRST_S: Final = 60.0
LONGEST_S: Final = 1800.0
PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Failed starts in a row, how often it opened since the last success, and until when it is open."""

    failures: int = 0
    openings: int = 0
    open_until_s: float | None = None
    last_failure_s: float = 0.0


CLOSED: Final = Breaker()


def key(group: str, host: str, tier: str = "") -> str:
    """Return the name under which a breaker is kept."""
    return f"{group}@{host}/{tier}" if tier else f"{group}@{host}"


def is_open(breaker: Breaker, now_s: float) -> bool:
    """Return whether no start may be tried now."""
    return breaker.open_until_s is not None and now_s < breaker.open_until_s


def is_half_open(breaker: Breaker, now_s: float) -> bool:
    """Return whether exactly one trial may run now."""
    return breaker.open_until_s is not None and now_s >= breaker.open_until_s


def is_pausing(breaker: Breaker, now_s: float) -> bool:
    """Return whether the pause after a failure is not over yet."""
    return breaker.failures > 0 and now_s < breaker.last_failure_s + min(breaker.failures, LIMIT) * PAUSE_S


def failed(breaker: Breaker, now_s: float) -> Breaker:
    """Return the breaker after one more failed start.

    A failure that arrives while it is open belongs to a start from before, and does not lengthen the wait.
    """
    if is_open(breaker, now_s):
        return breaker
    failures = breaker.failures + 1
    if failures < LIMIT:
        return Breaker(failures, breaker.openings, None, now_s)
    wait_s = min(FIRST_S * 2**breaker.openings, LONGEST_S)
    return Breaker(failures, breaker.openings + 1, now_s + wait_s, now_s)


def succeeded(_breaker: Breaker) -> Breaker:
    """Return the breaker after a start that led to a right answer: closed, and all forgotten."""
    return CLOSED


def describe(breaker: Breaker, now_s: float) -> str:
    """Return ``closed``, ``open`` or ``half-open``."""
    if is_open(breaker, now_s):
        return "open"
    return "half-open" if is_half_open(breaker, now_s) else "closed"


def restored(breaker: Breaker, now_s: float, is_same_boot: bool) -> Breaker:
    """Return a stored breaker on this machine's clock: after a reboot an open one waits its last wait again."""
    if is_same_boot or breaker.open_until_s is None:
        return replace(breaker, last_failure_s=min(breaker.last_failure_s, now_s))
    wait_s = min(FIRST_S * 2 ** max(breaker.openings - 1, 0), LONGEST_S)
    return replace(breaker, open_until_s=now_s + wait_s, last_failure_s=now_s)
