"""A staircase: the further the metric is beyond a bound, and the longer, the larger the change, in one decision.

The rule is that of step scaling in public clouds. Each step has a bound and a window; of the steps whose window is full
the largest applies, outwards before inwards. What is coming already counts: its share of the load is taken off before
the bounds are looked at. A share is rounded away from nothing: it changes one domain at least.
"""

import math
from dataclasses import dataclass

from common.config import Step, StepRule
from common.messages import Vote
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.policies.measure import CPU, NAMES, SYMPTOMS, Measure, diluted, measure, shown
from services.decider.core.words import seconds


@dataclass(frozen=True, slots=True)
class State:
    """Since when the metric has been beyond the bound of each step, None where it is not; empty before the first."""

    since_s: tuple[float | None, ...] = ()


def recommend(policy: Step, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the vote of one tick and since when each step holds.

    Args:
        policy: A staircase, in order.
        state: As the tick before left it.
        metrics: The group now.
        now_s: When its figures were measured.

    Returns:
        The capacity that the largest step with a full window asks for, ``desired`` where none has, None where too
        little is known to rule out that the group is busy.
    """
    seen = measure(policy.metric, metrics)
    state = State(_watch(policy, state, metrics, seen, now_s))
    if not seen.is_known:
        return Vote(policy=policy.type, capacity=None, reason=seen.ignorance), state
    holding = [(rule, now_s - at_s) for rule, at_s in zip(policy.steps, state.since_s, strict=True) if at_s is not None]
    outwards = [(rule, held_s) for rule, held_s in holding if rule.is_out]
    if not outwards and not seen.is_complete:
        return Vote(policy=policy.type, capacity=None, reason=seen.ignorance), state
    if not holding:
        reason = f"{NAMES[policy.metric]} {shown(policy.metric, seen.low)}, beyond no step"
        return Vote(policy=policy.type, capacity=metrics.desired, reason=reason, wanted=metrics.desired), state
    return _vote(policy, metrics, seen, outwards or holding), state


def stepped(rule: StepRule, desired: int) -> int:
    """Return the capacity after one step from ``desired``; never on the other side of it."""
    amount = rule.amount
    if rule.unit == "to":
        return max(amount, desired) if rule.is_out else min(amount, desired)
    if rule.unit == "percent":
        share = max(math.ceil(desired * abs(amount) / 100) if rule.is_out else desired * -amount // 100, 1)
        amount = share if rule.is_out else -share
    return max(desired + amount, 0)


def _watch(policy: Step, state: State, metrics: GroupMetrics, seen: Measure, now_s: float) -> tuple[float | None, ...]:
    """Return since when each step's condition holds; a figure vouches for the interval before it."""
    before = state.since_s or (None,) * len(policy.steps)
    began_s = now_s - metrics.interval_s
    low = diluted(policy.metric, metrics, seen.low)
    found: list[float | None] = []
    for rule, since_s in zip(policy.steps, before, strict=True):
        is_beyond = low >= rule.bound if rule.is_out else seen.is_complete and seen.high <= rule.bound
        found.append((began_s if since_s is None else since_s) if seen.is_known and is_beyond else None)
    return tuple(found)


def _vote(policy: Step, metrics: GroupMetrics, seen: Measure, holding: list[tuple[StepRule, float]]) -> Vote:
    """Return what the steps ask for that hold; they stand in the order of the staircase, the largest last."""
    desired = metrics.desired
    wait_s = min(metrics.left_s(policy.window_s(rule), held_s) for rule, held_s in holding)
    full = [rule for rule, held_s in holding if metrics.left_s(policy.window_s(rule), held_s) <= 0]
    rule, held_s = holding[-1]
    capacity = stepped(full[-1], desired) if full else desired
    side, value = ("at or above", seen.low) if rule.is_out else ("at or below", seen.high)
    window_s = policy.window_s(rule)
    reason = (
        f"{NAMES[policy.metric]} {shown(policy.metric, value)}, {side} {shown(policy.metric, rule.bound)} "
        f"for {seconds(min(held_s, window_s))} of {seconds(window_s)}"
    )
    wanted = stepped(rule, desired)
    return Vote(policy=policy.type, capacity=capacity, reason=reason, wanted=wanted, wait_s=wait_s)


def _filled_s(policy: Step, state: State, now_s: float) -> tuple[float, float]:
    filled = {True: 0.0, False: 0.0}
    for rule, since_s in zip(policy.steps, state.since_s, strict=False):
        if since_s is not None:
            filled[rule.is_out] = max(filled[rule.is_out], min(now_s - since_s, policy.window_s(rule)))
    return filled[True], filled[False]


def _window_s(policy: Step, *, is_out: bool) -> float:
    return max((policy.window_s(rule) for rule in policy.steps if rule.is_out == is_out), default=0.0)


def _when(policy: Step, *, is_out: bool) -> str:
    rule = next((rule for rule in policy.steps if rule.is_out == is_out), None)
    if rule is None:
        return ""
    name = "" if policy.metric == CPU else f"with {NAMES[policy.metric]} "
    side = "at or above" if is_out else "at or below"
    return f"{name}{side} {shown(policy.metric, rule.bound)} for {seconds(policy.window_s(rule))}"


def _out_point_ratio(policy: Step) -> float | None:
    if policy.metric != CPU:
        return None
    return min((rule.bound for rule in policy.steps if rule.is_out), default=None)


KIND = Kind(
    name="step",
    start=State,
    restart=lambda _: State(),
    recommend=recommend,
    out_window_s=lambda policy: _window_s(policy, is_out=True),
    in_window_s=lambda policy: _window_s(policy, is_out=False),
    out_point_ratio=_out_point_ratio,
    filled_s=_filled_s,
    sees_spare=lambda policy: policy.metric not in SYMPTOMS,
    sees_cpu=lambda policy: policy.metric == CPU,
    out_when=lambda policy: _when(policy, is_out=True),
    in_when=lambda policy: _when(policy, is_out=False),
)
