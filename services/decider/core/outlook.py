"""What will happen if …: the decider's own core, run forward with figures that stay as they are.

Not prose but computation: each scenario is a bounded number of the same ticks that decide in earnest.
"""

from dataclasses import dataclass, replace
from typing import Final

from services.decider.core.decide import decide
from services.decider.core.metrics import GroupMetrics
from services.decider.core.state import GroupState
from services.decider.core.words import clock, percent, seconds

STEPS: Final = 120  # of one scenario; a far horizon takes longer steps, not more


@dataclass(frozen=True, slots=True)
class Outlook:
    """The first change of one scenario: in how many seconds, to how many; ``to`` None: none within ``horizon_s``."""

    scenario: str
    after_s: float
    to: int | None
    horizon_s: float
    limiter: str


def look_ahead(
    state: GroupState, metrics: GroupMetrics, now_s: float, scenario: str, cpu_ratio: float | None = None
) -> Outlook:
    """Return the first change of desired capacity after ``now_s`` if the figures stay as they are.

    Args:
        state: As the last tick left it.
        metrics: The figures to keep.
        now_s: The last tick.
        scenario: What to call it.
        cpu_ratio: Use this CPU ratio for every ready domain instead.

    Returns:
        The change, exact to one step: an interval, or a ``STEPS``-th of the longest wait where that is longer.
    """
    horizon_s = _horizon_s(state, now_s)
    step_s = max(state.settings.interval_s, horizon_s / STEPS)
    held = _constant(metrics, cpu_ratio)
    future = replace(state, history=(), taken=(), ordered=())
    steps = int(horizon_s / step_s) + 1
    limiter = ""
    for number in range(1, steps + 1):
        future, decision = decide(future, held, now_s + number * step_s)
        limiter = decision.limit.name
        if decision.after != decision.before:
            return Outlook(scenario, number * step_s, decision.after, horizon_s, limiter)
    return Outlook(scenario, 0.0, None, horizon_s, limiter)


def scenarios(state: GroupState, metrics: GroupMetrics, now_s: float) -> tuple[Outlook, ...]:
    """Return what happens if all stays as it is, if every CPU is busy from now on, and if every CPU is idle."""
    return (
        look_ahead(state, metrics, now_s, "if nothing changes"),
        look_ahead(state, metrics, now_s, f"with {percent(1.0)} CPU from now on", cpu_ratio=1.0),
        look_ahead(state, metrics, now_s, "with no load from now on", cpu_ratio=0.0),
    )


def tell(outlook: Outlook, desired: int, epoch_s: float) -> str:
    """Return an outlook as a sentence."""
    if outlook.to is None:
        return f"{outlook.scenario}: it keeps {desired} for the next {seconds(outlook.horizon_s)} ({outlook.limiter})"
    way = "out" if outlook.to > desired else "in"
    when = f"in {seconds(outlook.after_s)} ({clock(epoch_s + outlook.after_s)})"
    return f"{outlook.scenario}: it scales {way} to {outlook.to} {when}"


def _horizon_s(state: GroupState, now_s: float) -> float:
    """Return how far to look: past every window, cooldown and lesson in force."""
    settings, standing = state.settings, state.standing
    learned_s = standing.patience_s if now_s < standing.patience_until_s else 0.0
    left_s = max(standing.cooldown_in_until_s, standing.cooldown_out_until_s) - now_s
    return max(left_s, 0.0) + max(settings.in_window_s, settings.out_window_s, learned_s) + 3 * settings.interval_s


def _constant(metrics: GroupMetrics, cpu_ratio: float | None) -> GroupMetrics:
    if cpu_ratio is None or not metrics.ready:
        return metrics
    return replace(metrics, mean=cpu_ratio, low=cpu_ratio, high=cpu_ratio, known=metrics.ready, unknown=())
