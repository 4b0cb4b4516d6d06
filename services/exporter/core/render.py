"""From what was heard to what Prometheus reads. A figure that is stale is not there; it is never shown as zero.

Facts about silence are the exception: that a service is down, and how old the newest sample is, are known exactly when
nothing arrives any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from common.messages import (
    BackendState,
    Body,
    DecisionRecord,
    DesiredCapacity,
    Drain,
    HostSample,
    Member,
    Membership,
    ServiceStatus,
    Traffic,
)
from common.phases import Phase
from common.rotation import serving
from services.exporter.core.state import Heard, Labels, State, bounded

MODES: Final = ("on", "off", "observe", "out-only")
BREAKER_STATES: Final = ("closed", "open", "half-open")
COLD: Final = "cold"
MAX_COUNTERS: Final = 40  # of one service
_AT_REST: Final = (Phase.STANDBY, Phase.FAILED, Phase.GONE)

_B = TypeVar("_B", bound=Body)


@dataclass(frozen=True, slots=True)
class Sample:
    """One series: the metric's name, its label values in the order of the catalogue, and the value."""

    name: str
    labels: Labels
    value: float


def render(state: State, now_s: float) -> tuple[Sample, ...]:
    """Return every series that is known at ``now_s`` (monotonic seconds), each once."""
    samples = [Sample(name, labels, value) for (name, labels), value in state.counts.items()]
    for group in state.scope.ceilings:
        samples += _group_samples(state, group, now_s)
    for host in state.scope.hosts:
        samples += _host_samples(state, host, now_s)
    for service in state.scope.services:
        samples += _service_samples(state, service, now_s)
    return tuple(samples)


def fresh(state: State, topic: str, kind: type[_B], now_s: float) -> _B | None:
    """Return what stands under ``topic``, None where it is missing or older than ``stale_after_s``."""
    heard = state.heard.get(topic)
    if heard is None or now_s - heard.at_s > state.scope.stale_after_s:
        return None
    return heard.body if isinstance(heard.body, kind) else None


# --- one group ---------------------------------------------------------------------------------------------------


def _group_samples(state: State, group: str, now_s: float) -> Iterator[Sample]:
    desired = fresh(state, f"capacity.desired.{group}", DesiredCapacity, now_s)
    if desired is not None:
        yield from _desired_samples(desired)
    decision = fresh(state, f"decision.{group}", DecisionRecord, now_s)
    if decision is not None:
        yield from _known("autoscaler_group_cpu_ratio", (group,), decision.evidence.cpu_ratio)
    traffic = fresh(state, f"traffic.{group}", Traffic, now_s)
    if traffic is not None and traffic.is_known:
        yield from _traffic_samples(traffic)
    drain = fresh(state, f"drain.{group}", Drain, now_s)
    if drain is not None:
        yield Sample("autoscaler_haproxy_up", (group,), float(drain.is_proxy_alive))
        yield Sample("autoscaler_group_cut_requests_total", (group,), float(drain.cut_sessions_total))
    membership = fresh(state, f"membership.{group}", Membership, now_s)
    if membership is not None:
        yield from _membership_samples(membership, drain)
        yield from _lead_time_samples(membership, state.scope.hosts)
        yield from _domain_samples(state, membership, drain, now_s)


def _desired_samples(desired: DesiredCapacity) -> Iterator[Sample]:
    group = (desired.group,)
    yield Sample("autoscaler_group_desired_domains", group, float(desired.desired))
    least, most = desired.bounds_in_force
    yield Sample("autoscaler_group_min_domains", group, float(least))
    yield Sample("autoscaler_group_max_domains", group, float(most))
    yield Sample("autoscaler_group_scale_in_allowed", group, float(desired.is_scale_in_allowed))
    yield Sample("autoscaler_group_replacement_allowed", group, float(desired.is_replacement_allowed))
    yield from _one_of("autoscaler_group_mode", desired.group, MODES, desired.mode)
    yield from _known("autoscaler_group_burst_quota_ratio", group, desired.burst_quota)


def _traffic_samples(traffic: Traffic) -> Iterator[Sample]:
    group = (traffic.group,)
    yield from _known("autoscaler_group_queued_requests", group, traffic.queue)
    yield from _known("autoscaler_group_in_flight_requests", group, traffic.in_flight)
    yield from _known("autoscaler_group_queue_time_seconds", group, traffic.queue_time_s)
    yield from _known("autoscaler_group_response_time_seconds", group, traffic.response_time_s)


def _membership_samples(membership: Membership, drain: Drain | None) -> Iterator[Sample]:
    group = (membership.group,)
    phases = [member.phase for member in membership.members]
    served = serving(membership, drain)
    yield from _known("autoscaler_group_ready_domains", group, None if served is None else len(served))
    for phase in Phase:
        if phase is not Phase.GONE:
            yield Sample("autoscaler_group_domains", (*group, phase.value), float(phases.count(phase)))
    tiers = [_tier(member.tier) for member in membership.members]
    for tier in sorted({COLD, *tiers}):
        yield Sample("autoscaler_group_tier_domains", (*group, tier), float(tiers.count(tier)))
    yield Sample("autoscaler_group_owned_domains", group, float(membership.owned_total))
    yield Sample("autoscaler_group_ceiling_domains", group, float(membership.ceiling))
    yield from _one_of("autoscaler_group_breaker", membership.group, BREAKER_STATES, membership.breaker)
    yield Sample("autoscaler_group_blocked", group, float(bool(membership.blocked) and not membership.is_waiting))
    yield Sample("autoscaler_group_unreachable_hosts", group, float(len(membership.unreachable_hosts)))
    yield from _known("autoscaler_group_boot_time_p50_seconds", group, membership.boot_p50_s)
    yield from _known("autoscaler_group_boot_time_p95_seconds", group, membership.boot_p95_s)


def _lead_time_samples(membership: Membership, hosts: tuple[str, ...]) -> Iterator[Sample]:
    leads = {(lead.host, _tier(lead.tier)): lead for lead in membership.lead_times if lead.host in hosts}
    for (host, tier), lead in leads.items():
        labels = (membership.group, host, tier)
        yield Sample("autoscaler_group_lead_time_p50_seconds", labels, lead.p50_s)
        yield Sample("autoscaler_group_lead_time_p95_seconds", labels, lead.p95_s)


def _tier(tier: str) -> str:
    """Return the tier as a label: a domain that was booted from nothing has none of its own."""
    return bounded(tier) if tier else COLD


# --- one domain --------------------------------------------------------------------------------------------------


def _domain_samples(state: State, membership: Membership, drain: Drain | None, now_s: float) -> Iterator[Sample]:
    """Yield the series of the members, at most as many as the group may own; one that is gone has none.

    It may own what the file says or, where an operator raised the bounds, what the actuator says. An existing group may
    hold more domains than that; those at rest are left out first.
    """
    backends = {backend.uuid: backend for backend in drain.backends} if drain is not None else {}
    columns = _columns(state, now_s)
    members = {member.name: member for member in membership.members if member.host in state.scope.hosts}
    shown = sorted(members.values(), key=lambda member: (member.phase in _AT_REST, member.name))
    for member in shown[: max(membership.ceiling, state.scope.ceilings[membership.group])]:
        labels = (membership.group, member.host, member.name)
        ratio, cpus = columns.get((member.host, member.uuid), (None, None))
        yield from _known("autoscaler_domain_cpu_ratio", labels, ratio)
        yield from _known("autoscaler_domain_allotted_cpus", labels, cpus)
        yield from _backend_samples(labels, member, backends.get(member.uuid))


def _columns(state: State, now_s: float) -> dict[tuple[str, str], tuple[float | None, float | None]]:
    """Return CPU ratio and allotment by host and UUID, of every host whose sample is fresh."""
    found = {}
    for host in state.scope.hosts:
        sample = fresh(state, f"sample.{host}", HostSample, now_s)
        if sample is not None and sample.is_reachable:
            rows = zip(sample.uuids, sample.cpu_ratios, sample.allotted_cpus, strict=True)
            found.update({(host, uuid): (ratio, cpus) for uuid, ratio, cpus in rows})
    return found


def _backend_samples(labels: Labels, member: Member, backend: BackendState | None) -> Iterator[Sample]:
    if backend is None or member.phase not in (Phase.WARMING, Phase.READY, Phase.DRAINING):
        return
    health = None if backend.is_healthy is None else float(backend.is_healthy)
    yield from _known("autoscaler_domain_healthy", labels, health)
    yield Sample("autoscaler_domain_in_flight_requests", labels, float(backend.in_flight))


# --- hosts and services ------------------------------------------------------------------------------------------


def _host_samples(state: State, host: str, now_s: float) -> Iterator[Sample]:
    heard = state.heard.get(f"sample.{host}")
    yield Sample("autoscaler_sample_age_seconds", (host,), _age_s(heard, state.began_s, now_s))
    sample = fresh(state, f"sample.{host}", HostSample, now_s)
    if sample is not None:
        yield Sample("autoscaler_host_reachable", (host,), float(sample.is_reachable))
        yield from _known("autoscaler_host_cpus", (host,), sample.host_cpus)
        yield from _known("autoscaler_host_idle_cpus", (host,), sample.host_idle_cpus)


def _service_samples(state: State, service: str, now_s: float) -> Iterator[Sample]:
    heard = state.heard.get(f"service.{service}")
    age_s = _age_s(heard, state.began_s, now_s)
    status = heard.body if heard is not None and isinstance(heard.body, ServiceStatus) else None
    is_up = status is not None and age_s <= state.scope.silent_after_s
    yield Sample("autoscaler_service_up", (service,), float(is_up))
    yield Sample("autoscaler_service_status_age_seconds", (service,), age_s)
    if status is None or not is_up:
        return
    yield Sample("autoscaler_service_start_time_seconds", (service,), status.started_at_s)
    yield Sample("autoscaler_service_info", (service, status.release[:40]), 1.0)
    plain = sorted(name for name in status.counters if bounded(name) == name)
    for name in plain[:MAX_COUNTERS]:
        yield Sample("autoscaler_service_activity_total", (service, name), float(status.counters[name]))


def _age_s(heard: Heard | None, began_s: float, now_s: float) -> float:
    return max(0.0, now_s - (heard.at_s if heard is not None else began_s))


def _known(name: str, labels: Labels, value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield Sample(name, labels, float(value))


def _one_of(name: str, group: str, allowed: tuple[str, ...], now: str) -> Iterator[Sample]:
    """Yield one series for each state: 1 for the present one; a state of a newer release is none of them."""
    for state in allowed:
        yield Sample(name, (group, state), float(state == now))
