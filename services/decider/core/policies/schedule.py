"""Capacity by the calendar: at least, or at most, so many while a window is open that a cron expression opens.

From each time that the cron expression names the window is open for ``duration_s``, or until the time that ``until``
names next. The floor is whole in it. Ramps and jitter lie outside of it: the floor begins to grow ``ramp_s`` before and
is gone ``ramp_s`` after it, all of it earlier and later by the group's share of ``jitter_s``. A cap has sharp edges,
those of the window, and binds like a max. Outside the policy asks for nothing, so that the group shrinks if the other
policies agree, or if there is none. ``common.cron`` says what happens when the clocks change. Windows that overlap are
one.
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
    """The last and the next time that the cron expression names, epoch seconds; computed once for all until then.

    ``end_s`` is when the window ends that the last one opened.
    """

    last_s: float | None = None
    end_s: float = -math.inf
    next_s: float | None = None
    from_s: float = math.inf
    until_s: float = -math.inf

    def is_good(self, epoch_s: float) -> bool:
        """Return whether no time lies between the one of the computation and ``epoch_s``."""
        return self.from_s <= epoch_s < self.until_s


def recommend(policy: Schedule, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the capacity that the calendar asks for at least, 0 where for none, and what it allows at most."""
    epoch_s = now_s + metrics.age_s + metrics.epoch_offset_s
    state = state if state.is_good(epoch_s) else found(policy, epoch_s)
    capacity, most = floor(policy, state, epoch_s, metrics.chance), cap(policy, state, epoch_s)
    reason = _reason(policy, state, capacity, most)
    return Vote(policy=policy.type, capacity=capacity, reason=reason, wanted=capacity, most=most), state


def found(policy: Schedule, epoch_s: float) -> State:
    """Return the times of the cron expression around ``epoch_s``."""
    last_s, next_s = cron.around(policy.cron, policy.zone, epoch_s)
    from_s = epoch_s if last_s is None else last_s
    end_s = -math.inf if last_s is None else _end_s(policy, last_s)
    return State(last_s, end_s, next_s, from_s, math.inf if next_s is None else next_s)


def cap(policy: Schedule, state: State, epoch_s: float) -> int | None:
    """Return the most capacity at ``epoch_s``, None where there is no such limit or its window is not open."""
    return policy.maximum if epoch_s < state.end_s else None


def floor(policy: Schedule, state: State, epoch_s: float, chance: float) -> int:
    """Return the least capacity at ``epoch_s``.

    Args:
        policy: What to hold, and how steep its edges are.
        state: The times around ``epoch_s``.
        epoch_s: Epoch seconds.
        chance: This group's draw, in [0, 1): its share of the jitter.

    Returns:
        0..``policy.capacity``; all of it from each time of the cron expression to the end of its window.
    """
    if policy.capacity is None:
        return 0
    shift_s = chance * policy.jitter_s
    share = 0.0
    if state.last_s is not None:
        share = _share(epoch_s - state.end_s, shift_s, policy.ramp_s, is_sharp=False)
    if state.next_s is not None:
        share = max(share, _share(state.next_s - epoch_s, shift_s, policy.ramp_s, is_sharp=True))
    return math.ceil(share * policy.capacity - ROUNDING)


def _share(outside_s: float, shift_s: float, ramp_s: float, *, is_sharp: bool) -> float:
    """Return the share of the floor so far outside of a window; the end itself is outside, the start inside."""
    beyond_s = outside_s - shift_s
    if beyond_s < 0 or (is_sharp and beyond_s <= 0):
        return 1.0
    return max(1.0 - beyond_s / ramp_s, 0.0) if ramp_s > 0 else 0.0


def _end_s(policy: Schedule, begin_s: float) -> float:
    """Return when the window ends that begins at ``begin_s``, infinite where ``until`` names no later time."""
    if policy.until is None:
        return begin_s + (policy.duration_s or 0.0)
    end_s = cron.around(policy.until, policy.zone, begin_s)[1]
    return math.inf if end_s is None else end_s


def _reason(policy: Schedule, state: State, capacity: int, most: int | None) -> str:
    name = f"'{policy.cron}' {policy.zone}"
    at_most = "" if most is None else f"at most {domains(most)}"
    if capacity and capacity == policy.capacity:
        return f"{name}: at least {domains(capacity)}{', ' + at_most if at_most else ''}"
    if capacity > 0:
        return f"{name}: {capacity} of {domains(policy.capacity or 0)}, at the edge of its window"
    if at_most:
        return f"{name}: {at_most}"
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
