"""Whether high CPU use asks for more domains, or shows something else than load.

Note [CPU that requests do not explain]
    A request that is worked on is in flight, so requests keep about as many CPUs busy as are in flight on average, at
    most. Where the members use more than twice that, most of it is other work: nightly jobs, an update, a scan. More
    domains would not relieve it, and would do the same work once more each. So it does not scale the group out, unless
    its file says ``cpu_without_requests = "count"``: for applications that go on working after they have answered, or
    that work on one request with many CPUs.

    It must never hide requests that wait: with a queue, or with all slots of the members taken, CPU use counts. So it
    does where the figures are unknown; for connections (``protocol = "tcp"``), of which one carries any number of
    requests; and for a group that has carried none for an hour: what it does, it does not do for requests.
"""

from dataclasses import replace
from typing import Any, Final

from common.messages import Vote
from common.phases import Phase
from services.decider.core import policies
from services.decider.core.metrics import GroupMetrics
from services.decider.core.seen import members
from services.decider.core.state import GroupState

EXPLAINED: Final = 0.5  # of the CPUs in use, at least, must be in flight as requests
CARRYING_S: Final = 3600.0  # so long after its last request a group still is one that carries requests


def doubted(metrics: GroupMetrics, state: GroupState, now_s: float) -> GroupMetrics:
    """Return the metrics with why CPU use does not count for scale-out now, empty where it does."""
    if metrics.doubt or not _is_unasked(metrics, state, now_s):
        return metrics
    flow = state.seen.flow
    in_flight = 0.0 if flow is None or flow.in_flight is None else flow.in_flight
    return replace(
        metrics,
        doubt=f"only {in_flight:.1f} requests in flight: work that no request asked for (cpu_without_requests)",
        doubt_ends="with requests in flight, or a queue, CPU use counts for scale-out again",
    )


def hushed(policy: Any, vote: Vote, metrics: GroupMetrics) -> Vote:
    """Return a vote that stands on CPU use as it counts where that is in doubt: it holds, and asks for nobody more."""
    kind = policies.of(policy)
    if not metrics.doubt or vote.capacity is None or not kind.sees_cpu(policy):
        return vote
    wanted, point = vote.capacity if vote.wanted is None else vote.wanted, kind.out_point_ratio(policy)
    if max(vote.capacity, wanted) <= metrics.desired and (point is None or metrics.mean < point):
        return vote
    capacity, wanted = min(vote.capacity, metrics.desired), min(wanted, metrics.desired)
    reason = f"{vote.reason}; but {metrics.doubt}"
    return vote.model_copy(update={"capacity": capacity, "wanted": wanted, "wait_s": 0.0, "reason": reason})


def _is_unasked(metrics: GroupMetrics, state: GroupState, now_s: float) -> bool:
    """Return whether requests are known, and explain less than half of the CPU use."""
    group, flow = state.settings.group, state.seen.flow
    if group.cpu_without_requests == "count" or group.protocol == "tcp" or not metrics.is_traffic_known:
        return False
    if flow is None or flow.in_flight is None or flow.requested_at_s is None:
        return False
    is_full = metrics.in_flight is not None and metrics.in_flight >= metrics.ready * group.max_in_flight
    if metrics.queue or is_full or now_s - flow.requested_at_s > CARRYING_S:
        return False
    return flow.in_flight < EXPLAINED * used_cpus(state)


def used_cpus(state: GroupState) -> float:
    """Return how many CPUs the ready members use, of which that is known."""
    ready = [member for member in members(state.seen) if member.phase is Phase.READY]
    readings = state.seen.readings
    rows = [readings[m.host].cpus.get(m.name, (0.0, 0.0)) for m in ready if m.host in readings]
    return sum(used for used, _ in rows)
