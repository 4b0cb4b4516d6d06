"""Capacity by the calendar: at least so many while a window is open that a cron expression opens.

From each time that the cron expression names the floor is whole for ``duration_s``. Ramps and jitter lie outside of
that: the floor begins to grow ``ramp_s`` before and is gone ``ramp_s`` after it, all of it earlier and later by the
group's share of ``jitter_s``. Outside the policy asks for nothing, so that the group shrinks if the other policies
agree, or if there is none. ``common.cron`` says what happens when the clocks change. Windows that overlap are one.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from common import cron
from common.config import Schedule
from common.messages import Vote
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.words import domains

ROUNDING: Final = 1e-6
MINUTE_S: Final = 60.0  # cron names whole ones


@dataclass(frozen=True, slots=True)
class State:
    """The last and the next time that the cron expression names, epoch seconds; computed once for all until then."""

    last_s: float | None = None
    next_s: float | None = None
    from_s: float = math.inf
    until_s: float = -math.inf

    def is_good(self, epoch_s: float) -> bool:
        """Return whether no time lies between the one of the computation and ``epoch_s``."""
        return self.from_s <= epoch_s < self.until_s


def recommend(policy: Schedule, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the capacity that the calendar asks for at least, 0 outside of its windows; never None."""
    epoch_s = now_s + metrics.age_s + metrics.epoch_offset_s
    state = state if state.is_good(epoch_s) else found(policy, epoch_s)
    capacity = floor(policy, state, epoch_s, metrics.chance)
    return Vote(policy=policy.type, capacity=capacity, reason=_reason(policy, state, capacity), wanted=capacity), state


def found(policy: Schedule, epoch_s: float) -> State:
    """Return the times of the cron expression around ``epoch_s``."""
    last_s, next_s = cron.around(policy.cron, policy.zone, epoch_s)
    from_s = epoch_s if last_s is None else last_s
    return State(last_s, next_s, from_s, math.inf if next_s is None else next_s)


def floor(policy: Schedule, state: State, epoch_s: float, chance: float) -> int:
    """Return the least capacity at ``epoch_s``.

    Args:
        policy: What to hold, and how steep its edges are.
        state: The times around ``epoch_s``.
        epoch_s: Epoch seconds.
        chance: This group's draw, in [0, 1): its share of the jitter.

    Returns:
        0..``policy.capacity``; all of it from each time of the cron expression on for ``duration_s``.
    """
    shift_s = chance * policy.jitter_s
    share = 0.0
    if state.last_s is not None:
        share = _share(epoch_s - (state.last_s + policy.duration_s), shift_s, policy.ramp_s, is_sharp=False)
    if state.next_s is not None:
        share = max(share, _share(state.next_s - epoch_s, shift_s, policy.ramp_s, is_sharp=True))
    return math.ceil(share * policy.capacity - ROUNDING)


def _share(outside_s: float, shift_s: float, ramp_s: float, *, is_sharp: bool) -> float:
    """Return the share of the floor so far outside of a window; the end itself is outside, the start inside."""
    beyond_s = outside_s - shift_s
    if beyond_s < 0 or (is_sharp and beyond_s <= 0):
        return 1.0
    return max(1.0 - beyond_s / ramp_s, 0.0) if ramp_s > 0 else 0.0


def _reason(policy: Schedule, state: State, capacity: int) -> str:
    name = f"'{policy.cron}' {policy.zone}"
    if capacity == policy.capacity:
        return f"{name}: at least {domains(capacity)}"
    if capacity > 0:
        return f"{name}: {capacity} of {domains(policy.capacity)}, at the edge of its window"
    if state.next_s is None:
        return f"{name}: never again"
    at = datetime.fromtimestamp(state.next_s, tz=ZoneInfo(policy.zone))
    return f"{name}: outside of its window; next {at:%Y-%m-%d %H:%M %Z}"


KIND = Kind(
    name="schedule",
    start=State,
    restart=lambda state: state,
    recommend=recommend,
    out_window_s=lambda _: 0.0,
    in_window_s=lambda _: 0.0,
    out_point_ratio=lambda _: None,
    filled_s=lambda *_: (0.0, 0.0),
    sees_spare=lambda _: False,
    out_when=lambda _: "",
    in_when=lambda _: "",
    quiet_s=lambda _, metrics, now_s: MINUTE_S - (now_s + metrics.age_s + metrics.epoch_offset_s) % MINUTE_S,
)
