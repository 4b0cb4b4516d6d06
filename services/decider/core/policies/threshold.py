"""The original's rule: high for a whole window, more; low for a whole window, fewer.

The mean is taken over the ready domains; a booting one has a boot spike of its own and counts as coming capacity
instead. What is unknown counts as idle for scale-out and as busy for scale-in. While capacity is coming there is no
second scale-out for the same overload: the window begins again when the first one serves.
"""

from dataclasses import dataclass, replace

from common.config import Threshold
from common.messages import Vote
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.words import percent, seconds


@dataclass(frozen=True, slots=True)
class State:
    """Since when the mean is high, and since when it is low; None: it is not."""

    high_since_s: float | None = None
    low_since_s: float | None = None


def recommend(policy: Threshold, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote, State]:
    """Return the vote of one tick and the state of the two windows after it.

    Args:
        policy: Thresholds as ratios, windows in seconds, steps in domains.
        state: As the tick before left it.
        metrics: The group now.
        now_s: This tick.

    Returns:
        ``desired + step_out``, ``desired - step_in``, ``desired``, or None where too little is known to rule out that
        the group is busy.
    """
    state = _watch(policy, state, metrics, now_s)
    if metrics.ready == 0 or metrics.known == 0:
        return Vote(policy=policy.type, capacity=None, reason=metrics.ignorance), state
    if state.high_since_s is not None:
        return _vote_out(policy, now_s - state.high_since_s, metrics), state
    if metrics.unknown:
        return Vote(policy=policy.type, capacity=None, reason=metrics.ignorance), state
    if state.low_since_s is not None:
        return _vote_in(policy, now_s - state.low_since_s, metrics), state
    reason = f"CPU {percent(metrics.mean)}, {_between(policy, metrics)}"
    return Vote(policy=policy.type, capacity=metrics.desired, reason=reason, wanted=metrics.desired), state


def _between(policy: Threshold, metrics: GroupMetrics) -> str:
    if metrics.low >= policy.high_ratio:
        count = metrics.coming
        return f"at or above {percent(policy.high_ratio)}, but {count} more {'is' if count == 1 else 'are'} coming"
    return f"between {percent(policy.low_ratio)} and {percent(policy.high_ratio)}"


def _watch(policy: Threshold, state: State, metrics: GroupMetrics, now_s: float) -> State:
    """Return since when each condition holds; a sample vouches for the interval before it."""
    began_s = now_s - metrics.interval_s
    is_known = metrics.ready > 0 and metrics.known > 0
    is_high = is_known and metrics.low >= policy.high_ratio and metrics.coming == 0
    is_low = is_known and metrics.high <= policy.low_ratio and not metrics.unknown
    high = (state.high_since_s if state.high_since_s is not None else began_s) if is_high else None
    low = (state.low_since_s if state.low_since_s is not None else began_s) if is_low else None
    if high == state.high_since_s and low == state.low_since_s:
        return state
    return replace(state, high_since_s=high, low_since_s=low)


def _vote_out(policy: Threshold, held_s: float, metrics: GroupMetrics) -> Vote:
    wanted = metrics.desired + policy.step_out
    wait_s = metrics.left_s(policy.out_window_s, held_s)
    reason = (
        f"CPU {percent(metrics.low)}, at or above {percent(policy.high_ratio)} "
        f"for {seconds(min(held_s, policy.out_window_s))} of {seconds(policy.out_window_s)}"
    )
    capacity = metrics.desired if wait_s > 0 else wanted
    return Vote(policy=policy.type, capacity=capacity, reason=reason, wanted=wanted, wait_s=wait_s)


def _vote_in(policy: Threshold, held_s: float, metrics: GroupMetrics) -> Vote:
    wanted = max(metrics.desired - policy.step_in, 0)
    wait_s = metrics.left_s(policy.in_window_s, held_s)
    reason = (
        f"CPU {percent(metrics.high)}, at or below {percent(policy.low_ratio)} "
        f"for {seconds(min(held_s, policy.in_window_s))} of {seconds(policy.in_window_s)}"
    )
    capacity = metrics.desired if wait_s > 0 else wanted
    return Vote(policy=policy.type, capacity=capacity, reason=reason, wanted=wanted, wait_s=wait_s)


def _filled_s(policy: Threshold, state: State, now_s: float) -> tuple[float, float]:
    high = 0.0 if state.high_since_s is None else now_s - state.high_since_s
    low = 0.0 if state.low_since_s is None else now_s - state.low_since_s
    return min(high, policy.out_window_s), min(low, policy.in_window_s)


KIND = Kind(
    name="threshold",
    start=State,
    restart=lambda _: State(),
    recommend=recommend,
    out_window_s=lambda policy: policy.out_window_s,
    in_window_s=lambda policy: policy.in_window_s,
    out_point_ratio=lambda policy: policy.high_ratio,
    filled_s=_filled_s,
    sees_spare=lambda _: True,
    sees_cpu=lambda _: True,
    out_when=lambda policy: f"at or above {percent(policy.high_ratio)} for {seconds(policy.out_window_s)}",
    in_when=lambda policy: f"at or below {percent(policy.low_ratio)} for {seconds(policy.in_window_s)}",
)
