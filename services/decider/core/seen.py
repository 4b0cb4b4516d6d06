"""The newest of each message about a group: what arrives late, twice or out of order changes nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.messages import Drain, Failure, HostSample, Member, Membership, Traffic
from common.phases import Phase
from services.decider.core.evolve import evolve
from services.decider.core.shares import busy_since, fair_share
from services.decider.core.trend import Trend, follow


@dataclass(frozen=True, slots=True)
class Reading:
    """One host's sample, indexed by domain name once for all groups."""

    host: str
    at_s: float
    id: str
    is_reachable: bool
    ratios: Mapping[str, tuple[str, float | None]]  # name -> (uuid, CPU ratio; None: unknown)
    cpus: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # name -> CPUs (used, allotted), where known
    idle_cpus: float | None = None  # of the host
    host_cpus: int | None = None
    fair_share: float | None = None  # of their allotments that domains can have where the host is full, see ``shares``


@dataclass(frozen=True)
class Seen:
    """The newest of each message about the group, and when it was measured."""

    readings: Mapping[str, Reading] = field(default_factory=dict)
    membership: Membership | None = None
    membership_at_s: float = 0.0
    membership_id: str = ""
    traffic: Traffic | None = None
    traffic_at_s: float = 0.0
    trend: Trend | None = None
    drain: Drain | None = None
    drain_at_s: float = 0.0
    requested_at_s: float | None = None  # when the endpoint last carried a request
    busy_since: Mapping[str, float] = field(default_factory=dict)  # host -> since when it has no idle CPU
    failed: Mapping[str, float] = field(default_factory=dict)  # uuid -> when it failed, until membership shows it


def read_sample(sample: HostSample, at_s: float, id: str) -> Reading:
    """Return the sample indexed by name; a ratio that cannot be (not finite, negative, not running) is unknown.

    A ratio above 1 counts as 1: a domain cannot use more than all it has, only two clocks can disagree.
    """
    rows = zip(sample.names, sample.uuids, sample.states, sample.cpu_ratios, strict=True)
    ratios = {name: (uuid, _plausible(ratio) if state == "running" else None) for name, uuid, state, ratio in rows}
    cpus, idle_cpus = _cpus(sample), _plain(sample.host_idle_cpus)
    fair = fair_share(sample, cpus)
    return Reading(sample.host, at_s, id, sample.is_reachable, ratios, cpus, idle_cpus, sample.host_cpus, fair)


def with_reading(seen: Seen, reading: Reading) -> Seen:
    """Return what is seen after a sample; one older than the host's last changes nothing."""
    last = seen.readings.get(reading.host)
    if last is not None and reading.at_s < last.at_s:
        return seen
    return evolve(
        seen, readings={**seen.readings, reading.host: reading}, busy_since=busy_since(seen.busy_since, reading)
    )


def with_membership(seen: Seen, membership: Membership, at_s: float, id: str, patience_s: float) -> Seen:
    """Return what is seen after a membership; failures that it shows, or outlives by ``patience_s``, are settled."""
    if seen.membership is not None and at_s < seen.membership_at_s:
        return seen
    failed = seen.failed
    if failed:
        ready = {member.uuid for member in membership.members if member.phase is Phase.READY}
        failed = {uuid: since for uuid, since in failed.items() if uuid in ready and at_s - since < patience_s}
    return evolve(seen, membership=membership, membership_at_s=at_s, membership_id=id, failed=failed)


def with_traffic(seen: Seen, traffic: Traffic, at_s: float) -> Seen:
    """Return what is seen after a traffic message."""
    if seen.traffic is not None and at_s < seen.traffic_at_s:
        return seen
    is_carrying = traffic.is_known and bool(traffic.request_rate or traffic.in_flight)
    return evolve(
        seen,
        traffic=traffic,
        traffic_at_s=at_s,
        trend=follow(seen.trend, traffic, at_s),
        requested_at_s=at_s if is_carrying else seen.requested_at_s,
    )


def with_drain(seen: Seen, drain: Drain, at_s: float) -> Seen:
    """Return what is seen after HAProxy's view of the members."""
    if seen.drain is not None and at_s < seen.drain_at_s:
        return seen
    return evolve(seen, drain=drain, drain_at_s=at_s)


def with_failure(seen: Seen, failure: Failure, at_s: float) -> Seen:
    """Return what is seen after a failure: the domain no longer counts as ready, before membership says so.

    That one which stands by is paused, or ends with its memory saved, is no failure.
    """
    if failure.uuid not in {member.uuid for member in members(seen) if member.phase is not Phase.STANDBY}:
        return seen
    return evolve(seen, failed={**seen.failed, failure.uuid: at_s})


def members(seen: Seen) -> tuple[Member, ...]:
    """Return the group's members, none where no membership has arrived."""
    return () if seen.membership is None else seen.membership.members


def _cpus(sample: HostSample) -> dict[str, tuple[float, float]]:
    rows = zip(sample.names, sample.states, sample.cpu_ratios, sample.allotted_cpus, strict=True)
    pairs = ((name, _plain(ratio), _plain(cpus)) for name, state, ratio, cpus in rows if state == "running")
    return {name: (ratio * cpus, cpus) for name, ratio, cpus in pairs if ratio is not None and cpus is not None}


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _plausible(ratio: float | None) -> float | None:
    if ratio is None or not math.isfinite(ratio) or ratio < 0:
        return None
    return min(ratio, 1.0)
