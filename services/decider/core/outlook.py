"""What will happen if …: the decider's own core, run forward with figures that stay as they are.

Not prose but computation: each scenario is a bounded number of the same ticks that decide in earnest. While nothing
changes a tick can only differ from the one before where a window fills, or a cooldown or a lesson ends: the ticks
between are left out. A calendar may speak at any time, and a forecast with each of its steps: they are asked often.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from services.decider.core import halt, patience, policies
from services.decider.core.decide import Decision, decide
from services.decider.core.evolve import evolve
from services.decider.core.limits import Limit
from services.decider.core.metrics import WINDOW_SLACK, GroupMetrics
from services.decider.core.state import GroupState
from services.decider.core.witness import doubted
from services.decider.core.words import clock, percent, seconds

STEPS: Final = 120  # ticks of one scenario; each may be a step of a forecast


@dataclass(frozen=True, slots=True)
class Outlook:
    """The first change of one scenario: in how many seconds, to how many; ``to`` None: none within ``horizon_s``."""

    scenario: str
    after_s: float
    to: int | None
    horizon_s: float
    limiter: str


def look_ahead(
    state: GroupState,
    metrics: GroupMetrics,
    now_s: float,
    scenario: str,
    cpu_ratio: float | None = None,
    most: int = STEPS,
    within_s: float = math.inf,
) -> Outlook:
    """Return the first change of desired capacity after ``now_s`` if the figures stay as they are.

    Args:
        state: As the last tick left it.
        metrics: The figures to keep.
        now_s: The last tick.
        scenario: What to call it.
        cpu_ratio: Use this CPU ratio for every ready domain instead.
        most: After so many ticks the horizon is where they have come to.
        within_s: A nearer horizon.

    Returns:
        The change, exact to an interval; to a tenth of a forecast's step where a policy that learns counts.
    """
    interval_s, horizon_s = state.settings.interval_s, min(_horizon_s(state, now_s), within_s, metrics.warms_in_s)
    held, settings = _constant(metrics, cpu_ratio), state.settings
    learns = any(policies.of(policy).learned for policy in settings.counting)
    future = evolve(state, history=(), taken=(), ordered=())
    after_s, wait_s, ticks = 0.0, interval_s, 0
    limit = Limit("", "")
    while after_s + wait_s <= horizon_s and ticks < most:
        after_s, ticks = after_s + wait_s, ticks + 1
        seen = replace(held, interval_s=wait_s) if learns else held
        future, decision = decide(future, seen, now_s + after_s)
        limit = decision.limit
        if decision.after != decision.before:
            return Outlook(scenario, after_s, decision.after, horizon_s, limit.name)
        next_s = min(_next_s(future, decision, now_s + after_s), quiet_s(settings.counting, held, now_s + after_s))
        wait_s = interval_s * _intervals(next_s / interval_s)
    return Outlook(scenario, 0.0, None, after_s if ticks >= most else horizon_s, limit.name)


def scenarios(state: GroupState, metrics: GroupMetrics, now_s: float) -> tuple[Outlook, ...]:
    """Return what happens if all stays as it is, if every CPU is busy from now on, and if every CPU is idle.

    Where CPU use does not count because too few requests are there, they are taken as there: the second is about load.
    """
    asked, busy = metrics, f"with {percent(1.0)} CPU from now on"
    if is_unasked(metrics, state):
        asked, busy = replace(metrics, doubt="", doubt_ends=""), f"{busy}, and requests that need it"
    return (
        look_ahead(state, metrics, now_s, "if nothing changes"),
        look_ahead(state, asked, now_s, busy, cpu_ratio=1.0),
        look_ahead(state, metrics, now_s, "with no load from now on", cpu_ratio=0.0),
    )


def tell(outlook: Outlook, desired: int, epoch_s: float) -> str:
    """Return an outlook as a sentence."""
    if outlook.to is None:
        return (
            f"{outlook.scenario}: it keeps {desired} for the next {seconds(outlook.horizon_s)}{bound(outlook.limiter)}"
        )
    way = "out" if outlook.to > desired else "in"
    when = f"in {seconds(outlook.after_s)} ({clock(epoch_s + outlook.after_s)})"
    return f"{outlook.scenario}: it scales {way} to {outlook.to} {when}"


def is_unasked(metrics: GroupMetrics, state: GroupState) -> bool:
    """Return whether CPU use does not count for the lack of requests, and not for another reason."""
    return bool(metrics.doubt) and doubted(replace(metrics, doubt=""), state).doubt == metrics.doubt


def bound(limiter: str) -> str:
    """Return a limiter in parentheses, to be put at the end of a clause; nothing where none binds."""
    return "" if limiter in ("", "none") else f" ({limiter})"


def quiet_s(asked: Iterable[Any], metrics: GroupMetrics, now_s: float) -> float:
    """Return how long no vote of the policies ``asked`` changes by the time alone, while no window fills."""
    pairs = [(policies.of(policy).quiet_s, policy) for policy in asked]
    return min((quiet(policy, metrics, now_s - metrics.age_s) for quiet, policy in pairs if quiet), default=math.inf)


def _horizon_s(state: GroupState, now_s: float) -> float:
    """Return how far to look: past every window, cooldown and lesson in force."""
    settings, standing = state.settings, state.standing
    calm_s = patience.required_s(standing, settings, now_s)
    left_s = max(standing.cooldown_in_until_s, standing.cooldown_out_until_s) - now_s
    return max(left_s, 0.0) + max(calm_s, settings.out_window_s) + 3 * settings.interval_s


def _constant(metrics: GroupMetrics, cpu_ratio: float | None) -> GroupMetrics:
    if cpu_ratio is None or not metrics.ready:
        return metrics
    return replace(metrics, mean=cpu_ratio, low=cpu_ratio, high=cpu_ratio, known=metrics.ready, unknown=())


def _next_s(state: GroupState, decision: Decision, now_s: float) -> float:
    """Return when the next window fills, or the next cooldown or lesson ends; infinite where nothing will."""
    standing, settings = state.standing, state.settings
    left_s = [vote.wait_s for vote in decision.votes]
    left_s += [standing.cooldown_out_until_s - now_s, standing.cooldown_in_until_s - now_s]
    left_s += [standing.patience_until_s - now_s, decision.observing_left_s, halt.left_s(state, now_s)]
    if state.leaning_in_since_s is not None:
        calm_s = patience.required_s(standing, settings, now_s, state.leaning_in_since_s)
        left_s.append(calm_s - decision.leaning_in_s)
    return min((one_s for one_s in left_s if one_s > 0), default=math.inf)


def _intervals(count: float) -> float:
    """Return a time in whole intervals, at least one: when the tick comes at which a window counts as full."""
    return count if math.isinf(count) else max(1, math.ceil(count - WINDOW_SLACK))
