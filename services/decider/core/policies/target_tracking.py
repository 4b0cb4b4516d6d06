"""Hold a metric at its target: as many domains as bring the present figure back to it, computed at once.

The rule is that of the Kubernetes HPA, ``ceil(ready * use / target)``, with its tolerance, its treatment of what is
unknown or still coming (idle for scale-out), and its stabilization: out, the lowest recommendation of a window; in, the
highest of another. A domain cannot use more than all its CPU, so at 97 % and more the use is "at least" that.

CPU use and requests are shared out: with twice the domains, each has half. A response time is not, and an empty queue
says nothing of how many could be spared: both ask for one fewer at most, a response time for twice as many at most.
"""

import math
from dataclasses import dataclass
from typing import Final

from common.config import TargetTracking
from common.messages import Vote
from services.decider.core.metrics import WINDOW_SLACK, GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.policies.measure import CPU, NAMES, RESPONSE, SYMPTOMS, Measure, measure, shown
from services.decider.core.words import percent, seconds

SATURATED: Final = 0.97
ROUNDING: Final = 1e-9  # 3 * 0.6 / 0.6 is a little above 3

Marks = tuple[tuple[float, int], ...]
"""(when, recommendation), only those that can still be the lowest, or highest, of their window; oldest first."""


@dataclass(frozen=True, slots=True)
class State:
    """The recommendations that still count, and since when there are any."""

    since_s: float | None = None
    lows: Marks = ()
    highs: Marks = ()


def recommend(policy: TargetTracking, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the vote of one tick and the recommendations that still count after it.

    Args:
        policy: The metric and its target, ``tolerance`` as a fraction of it, windows in seconds.
        state: As the tick before left it.
        metrics: The group now.
        now_s: This tick.

    Returns:
        Domains wanted, before bounds and cooldowns, or None where too little is known to rule out that the group is
        busy.

    Source: Kubernetes HPA, ``pkg/controller/podautoscaler/replica_calculator.go``.
    """
    seen = measure(policy.metric, metrics)
    if not seen.is_known:
        return _no_vote(policy, seen), _remember(policy, state, metrics.desired, metrics.desired, metrics, now_s)
    low, high = wanted(policy, metrics, seen.low), wanted(policy, metrics, seen.high)
    state = _remember(policy, state, low, high, metrics, now_s)
    calm, peak = min(value for _, value in state.lows), max(value for _, value in state.highs)
    if low > metrics.desired:
        wait_s = _out_wait_s(policy, state, metrics, now_s)
        capacity = metrics.desired if wait_s > 0 else max(calm, metrics.desired)
        return _vote(policy, metrics, seen.low, capacity, low, wait_s), state
    if not seen.is_complete:
        return _no_vote(policy, seen), state
    wait_s = _in_wait_s(policy, state, metrics, now_s) if high < metrics.desired else 0.0
    capacity = metrics.desired if wait_s > 0 else min(peak, metrics.desired)
    return _vote(policy, metrics, seen.high, capacity, min(high, metrics.desired), wait_s), state


def wanted(policy: TargetTracking, metrics: GroupMetrics, figure: float) -> int:
    """Return the capacity that would bring ``figure``, the mean over ready domains, back to the target.

    What is still coming counts as idle for scale-out, and not at all for scale-in.
    """
    use = metrics.ready * figure
    needed = math.ceil(use / policy.target - ROUNDING)
    if policy.metric == CPU and figure >= SATURATED and not metrics.coming:
        return max(needed, metrics.desired + 1)
    if figure < policy.target * (1 - policy.tolerance):
        if policy.metric in SYMPTOMS:
            needed = max(needed, metrics.desired - 1)
        return min(needed, metrics.desired)
    if policy.metric == RESPONSE and metrics.coming:
        return metrics.desired
    if use > (metrics.ready + metrics.coming) * policy.target * (1 + policy.tolerance):
        return max(min(needed, 2 * metrics.desired) if policy.metric == RESPONSE else needed, metrics.desired)
    return metrics.desired


def _remember(policy: TargetTracking, state: State, low: int, high: int, metrics: GroupMetrics, now_s: float) -> State:
    slack_s = WINDOW_SLACK * metrics.interval_s
    return State(
        since_s=now_s - metrics.interval_s if state.since_s is None else state.since_s,
        lows=_push(state.lows, low, now_s, policy.out_stabilization_s - slack_s, sign=1),
        highs=_push(state.highs, high, now_s, policy.in_stabilization_s - slack_s, sign=-1),
    )


def _push(marks: Marks, value: int, now_s: float, window_s: float, sign: int) -> Marks:
    """Return the marks with one more: the older ones that are neither expired nor beaten by it, and it."""
    kept = tuple(mark for mark in marks if now_s - mark[0] < window_s and sign * mark[1] < sign * value)
    return (*kept, (now_s, value))


def _out_wait_s(policy: TargetTracking, state: State, metrics: GroupMetrics, now_s: float) -> float:
    """Return how long the present recommendation must last until the whole window asks for more."""
    blocking = [at_s for at_s, value in state.lows if value <= metrics.desired]
    return _wait_s(policy.out_stabilization_s, blocking, state, metrics, now_s)


def _in_wait_s(policy: TargetTracking, state: State, metrics: GroupMetrics, now_s: float) -> float:
    blocking = [at_s for at_s, value in state.highs if value >= metrics.desired]
    return _wait_s(policy.in_stabilization_s, blocking, state, metrics, now_s)


def _wait_s(window_s: float, blocking: list[float], state: State, metrics: GroupMetrics, now_s: float) -> float:
    began_s = state.since_s if state.since_s is not None else now_s
    held_s = now_s - (max(blocking) if blocking else began_s)
    return metrics.left_s(window_s, held_s)


def _vote(policy: TargetTracking, metrics: GroupMetrics, figure: float, capacity: int, aim: int, wait_s: float) -> Vote:
    least = "at least " if policy.metric == CPU and figure >= SATURATED else ""
    value, target = shown(policy.metric, figure), shown(policy.metric, policy.target)
    reason = f"{NAMES[policy.metric]} {least}{value} of {metrics.ready_text}, target {target}"
    if aim != metrics.desired:
        reason += f": {aim} would do" + (f", for {seconds(wait_s)} more to be stable" if wait_s > 0 else "")
    return Vote(policy=policy.type, capacity=capacity, reason=reason, wanted=aim, wait_s=wait_s)


def _no_vote(policy: TargetTracking, seen: Measure) -> Vote:
    return Vote(policy=policy.type, capacity=None, reason=seen.ignorance)


def _out_point_ratio(policy: TargetTracking) -> float | None:
    return min(policy.target_ratio * (1 + policy.tolerance), 1.0) if policy.metric == CPU else None


def _out_when(policy: TargetTracking) -> str:
    over_s = seconds(policy.out_stabilization_s)
    if policy.metric == CPU:
        return f"above {percent(min(policy.target_ratio * (1 + policy.tolerance), SATURATED))} for {over_s}"
    bound = shown(policy.metric, policy.target * (1 + policy.tolerance))
    return f"with {NAMES[policy.metric]} above {bound} for {over_s}"


def _in_when(policy: TargetTracking) -> str:
    name = "" if policy.metric == CPU else f"with {NAMES[policy.metric]} "
    bound = shown(policy.metric, policy.target * (1 - policy.tolerance))
    return f"{name}below {bound} for {seconds(policy.in_stabilization_s)}"


def _filled_s(policy: TargetTracking, state: State, now_s: float) -> tuple[float, float]:
    if state.since_s is None:
        return 0.0, 0.0
    held_s = now_s - state.since_s
    return min(held_s, policy.out_stabilization_s), min(held_s, policy.in_stabilization_s)


KIND = Kind(
    name="target-tracking",
    start=State,
    restart=lambda state: state,
    recommend=recommend,
    out_window_s=lambda policy: policy.out_stabilization_s,
    in_window_s=lambda policy: policy.in_stabilization_s,
    out_point_ratio=_out_point_ratio,
    filled_s=_filled_s,
    sees_spare=lambda policy: policy.metric not in SYMPTOMS,
    sees_cpu=lambda policy: policy.metric == CPU,
    out_when=_out_when,
    in_when=_in_when,
)
