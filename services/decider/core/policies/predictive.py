"""Capacity for the load to come: what a domain started now will meet when it serves.

The group's load (CPU in use, or requests) is summed up over steps of ``step_s`` and forecast over the lead time: the
step in which it is noticed and the measured p95 of a boot. Of the forecast, a distribution, the capacity is taken that
``headroom`` is worth (see ``forecast``). Its vote is a floor: others may not scale in below it, because the capacity
would have to come back; it never scales in by itself. Without fresh figures, before ``FIRST_STEPS``, and while the last
known step is further back than the forecast reaches, it has no vote, and like every policy without data that forbids
scale-in. A step that was not seen for half of it at least is unknown, and nothing is learned from it.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from common.config import Predictive
from common.messages import Vote
from services.decider.core import forecast, learned
from services.decider.core.forecast import Forecast
from services.decider.core.learned import Band, Learned, UnderWay
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.policies.measure import CPU
from services.decider.core.words import percent, seconds

FIRST_STEPS: Final = 10
SEEN_SHARE: Final = 0.5  # of a step, at least, to count it
BACK_STEPS: Final = 10  # the wall clock went back further than this: count on from where it is now
MOST_LEAD_STEPS: Final = 120  # each is an outlook that is kept until it has come
BAND_SHARE: Final = forecast.BAND[-1] - forecast.BAND[0]
JUDGED: Final = 100.0  # outcomes over which it is counted how often the band held


@dataclass(frozen=True, slots=True)
class Advice:
    """What the last step led to: ``capacity`` for the load ``lead_s`` later, which is within ``band`` probably."""

    capacity: int
    band: Band
    lead_s: float
    known_steps: int


@dataclass(frozen=True, slots=True)
class State:
    """What is learned, and the step that is being summed up: its number, and what it has shown so far."""

    learned: Learned | None = None
    forecast: Forecast | None = None
    step: int = 0
    advice: Advice | None = None
    under_way: UnderWay = field(default_factory=UnderWay)


def recommend(policy: Predictive, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the vote of one tick: a floor, never below what is desired, without a capacity while there is no forecast.

    Args:
        policy: What one domain is to carry, how long a step is, what headroom is worth.
        state: As the tick before left it.
        metrics: The group now; ``chance`` spreads the ends of the steps of many groups.
        now_s: When its figures were measured.
    """
    state = _counted_on(policy, state, metrics, math.floor(_steps(policy, metrics, now_s)))
    load = load_of(policy, metrics)
    seen = state.under_way
    if load is not None and now_s > seen.newest_s:
        seen = replace(seen, total=seen.total + load, count=seen.count + 1, newest_s=now_s)
        state = replace(state, under_way=seen)
    return _vote(policy, state, metrics, load), state


def next_step_s(policy: Predictive, metrics: GroupMetrics, now_s: float) -> float:
    """Return how long the step still lasts: until then nothing is learned."""
    return policy.step_s * (1.0 - _steps(policy, metrics, now_s) % 1.0)


def _steps(policy: Predictive, metrics: GroupMetrics, now_s: float) -> float:
    return (now_s + metrics.epoch_offset_s) / policy.step_s + metrics.chance


def load_of(policy: Predictive, metrics: GroupMetrics) -> float | None:
    """Return the group's load: domains kept fully busy, or requests per second; None where any of it is unknown."""
    if not metrics.is_membership_fresh or metrics.ready == 0:
        return None
    if policy.metric == CPU:
        is_measured = not metrics.unknown and metrics.known > 0
        mean = metrics.low if 0 < metrics.warming < metrics.ready else metrics.mean
        return metrics.ready * mean if is_measured else None
    return metrics.request_rate


def key_of(policy: Predictive) -> str:
    """Return what is counted: a forecast of something else is of no use."""
    return f"{policy.metric}/{policy.step_s:g}"


def resume(policy: Predictive, kept: Learned) -> State:
    """Return the state that was told; of a step under way that is not known, what comes after counts.

    Raises:
        ValueError: it was learned of another metric, or in other steps.
    """
    if kept.key != key_of(policy):
        raise ValueError(f"it was learned of {kept.key}, and {key_of(policy)} is configured")
    state = learned.current(kept)
    known = State(learned=replace(kept, under_way=None), forecast=state, step=kept.origin + state.step + 1)
    known = _advised(policy, known, state.lead_steps)
    return known if kept.under_way is None else replace(known, under_way=kept.under_way)


def whole(state: State) -> Learned | None:
    """Return what is learned, with the step under way."""
    return None if state.learned is None else replace(state.learned, under_way=state.under_way)


# --- learning --------------------------------------------------------------------------------------------------------


def _counted_on(policy: Predictive, state: State, metrics: GroupMetrics, step: int) -> State:
    """Return the state in the step number ``step``: those before it are closed, and learned from."""
    lead_steps = _lead_steps(policy, metrics)
    if state.learned is None or state.forecast is None:
        fresh = forecast.initial(policy.step_s, lead_steps)
        return State(Learned(key_of(policy), step, fresh), fresh, step)
    if step < state.step - BACK_STEPS:
        moved = replace(state.learned, origin=state.learned.origin + step - state.step)
        fresh_step = replace(state.under_way, total=0.0, count=0, bands=())
        return replace(state, learned=moved, step=step, under_way=fresh_step)
    if step <= state.step:
        return state
    seen = state.under_way
    is_seen = seen.count * metrics.interval_s >= SEEN_SHARE * policy.step_s
    load = min(seen.total / seen.count, forecast.MAX_REQUESTS) if is_seen else math.nan
    kept, after = learned.observed(state.learned, state.forecast, lead_steps, load)
    if step > state.step + 1:
        kept, after = learned.skipped(kept, after, step - state.step - 1)
    next_one = replace(_judged(seen, state.step, load), total=0.0, count=0)
    state = replace(state, learned=kept, forecast=after, step=step, under_way=next_one)
    return _advised(policy, state, lead_steps)


def _advised(policy: Predictive, state: State, lead_steps: int) -> State:
    """Return the state with what the forecast advises."""
    found = state.forecast and forecast.recommend(state.forecast, policy.target, policy.headroom)
    if not found or state.forecast is None or found.age_steps > found.lead_steps:
        return replace(state, advice=None)
    target = state.step - 1 - found.age_steps + lead_steps
    bands = (*(kept for kept in state.under_way.bands if kept[0] >= state.step), (target, found.band))
    advice = Advice(found.capacity, found.band, lead_steps * policy.step_s, found.known_steps)
    return replace(state, advice=advice, under_way=replace(state.under_way, bands=bands))


def _judged(seen: UnderWay, number: int, load: float) -> UnderWay:
    """Return the step with the count of how often the load came to lie within the band."""
    bands = [band for step, band in seen.bands if step == number]
    if not bands or math.isnan(load):
        return seen
    low, _, high = bands[-1]
    judged = seen.judged + 1.0
    rate = max(1.0 / judged, 1.0 / JUDGED)
    is_held = low * (1 - 1e-9) <= load <= high * (1 + 1e-9)
    return replace(seen, held=seen.held + rate * (is_held - seen.held), judged=judged)


def _lead_steps(policy: Predictive, metrics: GroupMetrics) -> int:
    boot_s = policy.lead_s if metrics.boot_s is None else metrics.boot_s
    return min(1 + math.ceil(boot_s / policy.step_s), MOST_LEAD_STEPS)


# --- voting ----------------------------------------------------------------------------------------------------------


def _vote(policy: Predictive, state: State, metrics: GroupMetrics, load: float | None) -> Vote:
    advice = state.advice
    known = state.forecast.points.known if state.forecast else 0
    if load is None:
        return _no_vote(policy, "no forecast is made without fresh figures of the whole group")
    if known < FIRST_STEPS:
        return _no_vote(policy, f"it learns: {known} of {FIRST_STEPS} steps of {seconds(policy.step_s)} known")
    if advice is None:
        return _no_vote(
            policy, f"too much is unknown since the last of {known} known steps of {seconds(policy.step_s)}"
        )
    capacity = max(advice.capacity, metrics.desired)
    return Vote(
        policy=policy.type, capacity=capacity, reason=_reason(policy, state, advice), wanted=advice.capacity,
        weight="floor",
    )  # fmt: skip


def _no_vote(policy: Predictive, reason: str) -> Vote:
    return Vote(policy=policy.type, capacity=None, reason=reason, weight="floor")


def _reason(policy: Predictive, state: State, advice: Advice) -> str:
    low, middle, high = advice.band
    unit = "busy domains" if policy.metric == CPU else "requests/s"
    seen = state.under_way
    held = f", which held {percent(seen.held)} of the time" if seen.judged >= FIRST_STEPS else ""
    return (
        f"in {seconds(advice.lead_s)} low {low:.2f}, mid {middle:.2f}, high {high:.2f} {unit} "
        f"({percent(BAND_SHARE)} band{held}; {advice.known_steps} steps known): {advice.capacity} would do"
    )


KIND = Kind(
    name="predictive",
    start=State,
    restart=lambda state: state,
    recommend=recommend,
    out_window_s=lambda _: 0.0,
    in_window_s=lambda _: 0.0,
    out_point_ratio=lambda _: None,
    filled_s=lambda *_: (0.0, 0.0),
    sees_spare=lambda _: False,
    sees_cpu=lambda policy: policy.metric == CPU,
    out_when=lambda _: "",
    in_when=lambda _: "",
    quiet_s=next_step_s,
    after_gap=lambda state: state,
    learned=lambda state: state.learned,
    whole=whole,
    resume=resume,
)
