"""When so much is missing or unhealthy that the fault is more likely elsewhere: look, take nobody away.

A halt begins at once and ends when nothing of the kind was seen for ``CALM_S``: domains that fail together come and go
together, and a halt that ends with each of their good seconds would take away those that are there. It never keeps a
group from growing.
"""

from typing import TYPE_CHECKING, Final

from services.decider.core.words import seconds

if TYPE_CHECKING:
    from services.decider.core.metrics import GroupMetrics
    from services.decider.core.state import GroupState

CALM_S: Final = 30.0


def left_s(state: "GroupState", now_s: float) -> float:
    """Return how long a halt lasts yet if nothing more of the kind is seen, 0 without one."""
    return 0.0 if state.halt_seen_s is None else max(state.halt_seen_s + CALM_S - now_s, 0.0)


def text(state: "GroupState", metrics: "GroupMetrics", now_s: float) -> str:
    """Return what halts, or halted until a moment ago; empty: nothing does."""
    if metrics.is_halting:
        return f"{metrics.sick} of {metrics.ready} ready domains are missing or unhealthy"
    left = left_s(state, now_s)
    return f"too many domains were missing or unhealthy, {seconds(CALM_S - left)} ago" if left > 0 else ""
