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
from services.decider.core.trend import SLOW_S

EXPLAINED: Final = 0.5  # of the CPUs in use, at least, must be in flight as requests
CARRYING_S: Final = 3600.0  # so long after its last request a group still is one that carries requests
LEAST_S: Final = 5.0  # over which requests in flight are averaged, however quickly a group scales out


def doubted(metrics: GroupMetrics, state: GroupState) -> GroupMetrics:
    """Return the metrics with why CPU use does not count for scale-out now, empty where it does."""
    if metrics.doubt or not _may_doubt(metrics, state):
        return metrics
    count = in_flight(metrics, state)
    if count is None or count >= EXPLAINED * used_cpus(state):
        return metrics
    return replace(
        metrics,
        doubt=f"only {count:.1f} requests in flight: work that no request asked for (cpu_without_requests)",
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


def in_flight(metrics: GroupMetrics, state: GroupState) -> float | None:
    """Return how many requests are in flight on average, over about the time after which the group scales out.

    They are counted at instants, which may miss short ones; rate times response time (Little's law) knows these. The
    larger figure is taken: who stands on it must not overlook requests. One longer than an interval is counted.
    """
    trend = state.seen.trend
    if trend is None or metrics.in_flight is None:
        return None
    means = trend.means(min(max(state.settings.out_window_s, LEAST_S), SLOW_S))
    response_s = min(metrics.response_time_s or 0.0, metrics.interval_s)
    return max(means.in_flight, means.request_rate * response_s)


def used_cpus(state: GroupState) -> float:
    """Return how many CPUs the ready members use, of which that is known."""
    ready = [member for member in members(state.seen) if member.phase is Phase.READY]
    readings = state.seen.readings
    rows = [readings[m.host].cpus.get(m.name, (0.0, 0.0)) for m in ready if m.host in readings]
    return sum(used for used, _ in rows)


def _may_doubt(metrics: GroupMetrics, state: GroupState) -> bool:
    """Return whether requests are known, are what the group is for, and do not wait."""
    group = state.settings.group
    if group.cpu_without_requests == "count" or group.protocol == "tcp" or not metrics.is_traffic_known:
        return False
    is_full = metrics.in_flight is not None and metrics.in_flight >= metrics.ready * group.max_in_flight
    if metrics.queue or is_full:
        return False
    return metrics.requested_s_ago is not None and metrics.requested_s_ago <= CARRYING_S
