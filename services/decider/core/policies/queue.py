"""The policy that every group has, unasked: a queue, or no free slot, for a whole window asks for one domain more.

It sees overload that CPU use does not show: a lock, a slow disk, a database; and connections that stay without doing
anything (WebSocket, TCP), each of which holds one of its domain's ``max_in_flight`` slots. Whoever comes when all are
taken waits, and is refused in the end. It never asks for fewer, and keeps as many domains as have slots for what is in
flight. Else it says nothing while there is no queue; that traffic is unknown, it says with a vote without a capacity,
which forbids scale-in.

While no domain is healthy nothing queues, because HAProxy refuses every request at once. Requests that keep coming are
then as good as a queue, for at most as many domains as requests come a second: a probe now and then is no load.
"""

from dataclasses import dataclass
from typing import Final

from common.messages import Vote
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies.kind import Kind
from services.decider.core.words import seconds

NAME: Final = "queue"
FULL: Final = 0.9  # of the slots that would be left: so many taken, and nobody is taken away


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, or all of the ready domains' slots taken, for a full ``out_window_s``: one domain more."""

    out_window_s: float
    slots: int | None = None  # of one domain
    type: str = NAME
    mode: str = "on"


@dataclass(frozen=True, slots=True)
class State:
    """Since when requests have been queueing."""

    since_s: float | None = None


def recommend(policy: Queue, state: State, metrics: GroupMetrics, now_s: float) -> tuple[Vote | None, State]:
    """Return the vote of one tick, None where there is no queue, and since when there is one."""
    if not metrics.is_traffic_known:
        return Vote(policy=NAME, capacity=None, reason="no fresh traffic figures from the balancer"), State()
    waiting = _waiting(metrics) or _full(policy, metrics)
    if not waiting:
        return _held(policy, metrics), State()
    if metrics.coming:
        reason = f"{waiting}, but more domains are coming"
        return Vote(policy=NAME, capacity=metrics.desired, reason=reason, wanted=metrics.desired), State()
    since_s = now_s - metrics.interval_s if state.since_s is None else state.since_s
    held_s = now_s - since_s
    wait_s = metrics.left_s(policy.out_window_s, held_s)
    wanted = metrics.desired + 1
    reason = f"{waiting}, for {seconds(min(held_s, policy.out_window_s))} of {seconds(policy.out_window_s)}"
    capacity = metrics.desired if wait_s > 0 else wanted
    return Vote(policy=NAME, capacity=capacity, reason=reason, wanted=wanted, wait_s=wait_s), State(since_s)


def _waiting(metrics: GroupMetrics) -> str:
    if metrics.queue:
        return f"{metrics.queue} requests queue"
    if metrics.is_deserted:
        return f"{metrics.request_rate_mean:.1f} requests/s come, and no domain is healthy to serve them"
    return ""


def _full(policy: Queue, metrics: GroupMetrics) -> str:
    if policy.slots is None or metrics.slots_taken is None:
        return ""
    slots = policy.slots * max(metrics.ready - metrics.unhealthy, 0)
    return f"all {slots} slots are taken (max_in_flight)" if 0 < slots <= metrics.slots_taken else ""


def _held(policy: Queue, metrics: GroupMetrics) -> Vote | None:
    """Return the vote against fewer domains than have slots for what is in flight, None where fewer have."""
    if policy.slots is None or metrics.slots_taken is None or metrics.desired < 2:
        return None
    left = (metrics.desired - 1) * policy.slots
    if metrics.slots_taken < FULL * left:
        return None
    reason = f"{metrics.slots_taken} in flight need more than the {left} slots of one domain fewer (max_in_flight)"
    return Vote(policy=NAME, capacity=metrics.desired, reason=reason, wanted=metrics.desired)


def _filled_s(policy: Queue, state: State, now_s: float) -> tuple[float, float]:
    held_s = 0.0 if state.since_s is None else now_s - state.since_s
    return min(held_s, policy.out_window_s), 0.0


KIND = Kind(
    name=NAME,
    start=State,
    restart=lambda _: State(),
    recommend=recommend,
    out_window_s=lambda policy: policy.out_window_s,
    in_window_s=lambda _: 0.0,
    out_point_ratio=lambda _: None,
    filled_s=_filled_s,
    sees_spare=lambda _: False,
    out_when=lambda policy: f"with requests queueing, or no slot free, for {seconds(policy.out_window_s)}",
    in_when=lambda _: "",
)
