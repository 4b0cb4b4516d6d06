"""One group over one interval, from samples, membership and traffic.

A missing sample is unknown, never 0. Two guesses bound the truth: ``low`` counts unknown domains as idle and is what
scale-out stands on, ``high`` counts them as busy and is what scale-in stands on. Only ready domains are measured:
what boots has a spike of its own, and counts as coming capacity.
"""

import math
from dataclasses import dataclass
from typing import Final

from common.messages import Evidence, Membership
from common.phases import FATES, Phase
from services.decider.core import shares, trend, warm_up
from services.decider.core.burst import Base
from services.decider.core.seen import Seen, members

HALT_SHARE: Final = 0.45  # more than this share missing or unhealthy: look, do not touch
HALT_COUNT: Final = 2  # … if it is at least so many: one sick domain of two is a sick domain, not an outage
WAKING: Final = ("paused", "saved")  # the fastest first
WINDOW_SLACK: Final = 0.1  # of an interval: ticks are never exactly on time


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """What policies and limits look at. Ratios are means over ready domains; ``mean`` over the known ones of them.

    In a group that may burst they are shares of the configured allotment, and exceed 1 during a burst.
    """

    interval_s: float
    desired: int
    age_s: float = 0.0  # of the oldest sample among these figures: a window fills with what was measured, no further
    epoch_offset_s: float = 0.0  # epoch seconds less monotonic seconds: for what goes by the calendar
    chance: float = 0.0  # this group's draw in [0, 1), always the same: spreads over time what many groups do
    boot_s: float | None = None  # from a decision to serving, p95 as measured; None before the first
    ready: int = 0
    coming: int = 0  # booting, or not yet begun: what lacks to the desired capacity
    surplus: int = 0  # capacity beyond the desired: on its way out
    known: int = 0
    unknown: tuple[str, ...] = ()
    sick: int = 0  # ready, but unhealthy, or for long enough and missing
    unhealthy: int = 0  # ready, but HAProxy's check fails
    mean: float = 0.0
    low: float = 0.0
    high: float = 1.0
    ignorance: str = ""  # why something is unknown, in plain words; empty: all is known
    is_membership_fresh: bool = False
    is_traffic_known: bool = False
    queue: int | None = None
    in_flight: int | None = None
    request_rate: float | None = None
    response_time_s: float | None = None
    error_rate: float | None = None
    rising: tuple[str, ...] = ()
    warming: int = 0  # ready, but too new for their own CPU use to count for scale-out: it is not in ``low``
    warms_in_s: float = math.inf  # until the next of these counts
    doubt: str = ""  # why CPU use asks for nobody more now, in plain words; empty: it may
    doubt_ends: str = ""  # … and when it will again
    full_hosts: tuple[str, ...] = ()  # where CPU ratios are shares of what domains can have there, see ``shares``
    blocked: str = ""  # what keeps the actuator from the desired capacity
    cause: str = ""

    @property
    def is_complete(self) -> bool:
        """Return whether nothing that a scale-in stands on is unknown."""
        return not self.ignorance

    @property
    def is_halted(self) -> bool:
        """Return whether so much is missing or unhealthy that the fault is more likely ours than theirs."""
        return self.sick >= HALT_COUNT and self.sick > HALT_SHARE * self.ready

    def left_s(self, window_s: float, held_s: float) -> float:
        """Return how much of a window is not yet full."""
        left_s = window_s - held_s
        return left_s if left_s > WINDOW_SLACK * self.interval_s else 0.0


def aggregate(
    seen: Seen,
    desired: int,
    now_s: float,
    *,
    interval_s: float,
    stale_after_s: float,
    standing_stale_after_s: float,
    epoch_s: float = 0.0,
    chance: float = 0.0,
    base: Base | None = None,
    warm_up_s: float = 0.0,
) -> GroupMetrics:
    """Return the group's metrics at ``now_s``.

    Args:
        seen: The newest messages.
        desired: The desired capacity in force.
        now_s: Monotonic seconds.
        interval_s: Seconds between two samples.
        stale_after_s: A sample older than this is unknown.
        standing_stale_after_s: So is a message that is repeated less often than samples are.
        epoch_s: The same instant for people.
        chance: The group's own draw in [0, 1).
        base: What CPU ratios are taken against, None for what was allotted.
        warm_up_s: For so long the CPU use of a new member does not count for scale-out.
    """
    ready, members_total = _count(seen)
    ratios = [(name, _ratio(seen, name, uuid, host, now_s - stale_after_s, base)) for name, uuid, host in ready]
    known = [ratio for _, ratio in ratios if ratio is not None]
    unknown = tuple(name for name, ratio in ratios if ratio is None)
    oldest_s = now_s - standing_stale_after_s
    is_fresh = seen.membership is not None and seen.membership_at_s >= oldest_s
    is_traffic_known = _is_traffic_known(seen, oldest_s)
    unhealthy = _unhealthy(seen, oldest_s)
    new = _new(seen, now_s - stale_after_s)
    traffic = seen.traffic if is_traffic_known else None
    total, count = sum(known), max(len(ready), 1)
    warm = warm_up.low(seen, ratios, now_s, warm_up_s)
    return GroupMetrics(
        interval_s=interval_s,
        desired=desired,
        epoch_offset_s=epoch_s - now_s,
        chance=chance,
        boot_s=lead_s(seen.membership) if seen.membership else None,
        age_s=_age_s(seen, ready, now_s, stale_after_s),
        ready=len(ready),
        coming=max(members_total - len(ready), desired - len(ready), 0),
        surplus=max(members_total - reserve(seen) - desired, 0),
        known=len(known),
        unknown=unknown,
        sick=sum(1 for name, uuid, _ in ready if uuid in unhealthy or (name in unknown and uuid not in new)),
        unhealthy=sum(1 for _, uuid, _ in ready if uuid in unhealthy),
        mean=total / len(known) if known else 0.0,
        low=warm.low,
        high=(total + len(unknown)) / count if ready else 1.0,
        ignorance=_ignorance(len(ready), unknown, is_fresh, is_traffic_known),
        is_membership_fresh=is_fresh,
        is_traffic_known=is_traffic_known,
        queue=traffic.queue if traffic else None,
        in_flight=traffic.in_flight if traffic else None,
        request_rate=traffic.request_rate if traffic else None,
        response_time_s=traffic.response_time_s if traffic else None,
        error_rate=traffic.error_rate if traffic else None,
        rising=trend.rising(seen.trend) if traffic else (),
        warming=warm.count,
        warms_in_s=warm.left_s,
        doubt=warm.doubt,
        doubt_ends=warm.doubt_ends,
        full_hosts=_full_hosts(seen, ready),
        blocked=seen.membership.blocked if seen.membership else "",
        cause=_cause(seen),
    )


def evidence(metrics: GroupMetrics, out_filled_s: float, in_filled_s: float) -> Evidence:
    """Return the figures of a decision, as its record shows them."""
    has_any = metrics.known > 0
    return Evidence(
        cpu_ratio=metrics.mean if has_any else None,
        cpu_ratio_low_guess=metrics.low if metrics.ready else None,
        cpu_ratio_high_guess=metrics.high if metrics.ready else None,
        domains_ready=metrics.ready,
        domains_coming=metrics.coming,
        domains_known=metrics.known,
        domains_warming=metrics.warming,
        full_hosts=metrics.full_hosts,
        out_window_filled_s=out_filled_s,
        in_window_filled_s=in_filled_s,
        request_rate=metrics.request_rate,
        queue=metrics.queue,
        in_flight=metrics.in_flight,
        response_time_s=metrics.response_time_s,
        error_rate=metrics.error_rate,
    )


def lead_s(membership: Membership) -> float | None:
    """Return the p95 of the time from a decision to serving, of the tier that the next domain comes from.

    Who stands by is woken first, the fastest before others; then domains are made the way the newest ones were. Where
    that has not been measured, a start's p95 counts: it is never less.
    """
    standby = [m.tier for m in membership.members if m.phase is Phase.STANDBY]
    made = [m for m in membership.members if m.phase is Phase.READY and m.tier in ("", "clone")]
    newest = min(made, key=lambda m: (m.age_s, m.name), default=None)
    tier = next((tier for tier in WAKING if tier in standby), newest.tier if newest else "")
    found = [lead.p95_s for lead in membership.lead_times if lead.tier == tier]
    return max(found, default=membership.boot_p95_s)


def capacity(seen: Seen) -> int:
    """Return how many members count as capacity: ready ones and those on their way there."""
    return _count(seen)[1]


def reserve(seen: Seen) -> int:
    """Return how many members are in rotation beyond what is desired, as the group's running reserve."""
    return sum(1 for member in members(seen) if member.tier == "running" and FATES[member.phase].is_capacity)


def _count(seen: Seen) -> tuple[list[tuple[str, str, str]], int]:
    """Return name, uuid and host of each ready member that has not failed, and how many count as capacity."""
    ready, count = [], 0
    for member in members(seen):
        if member.uuid in seen.failed or not FATES[member.phase].is_capacity:
            continue
        count += 1
        if member.phase is Phase.READY:
            ready.append((member.name, member.uuid, member.host))
    return ready, count


def _ratio(seen: Seen, name: str, uuid: str, host: str, oldest_s: float, base: Base | None) -> float | None:
    reading = seen.readings.get(host)
    if reading is None or reading.at_s < oldest_s or not reading.is_reachable:
        return None
    found = reading.ratios.get(name)
    if found is None or found[0] != uuid or found[1] is None:
        return None
    return shares.ratio(reading, name, found[1] if base is None else base.ratio(reading, name, found[1]))


def _full_hosts(seen: Seen, ready: list[tuple[str, str, str]]) -> tuple[str, ...]:
    hosts = sorted({host for _, _, host in ready if host in seen.readings})
    return tuple(host for host in hosts if seen.readings[host].fair_share is not None)


def _age_s(seen: Seen, ready: list[tuple[str, str, str]], now_s: float, stale_after_s: float) -> float:
    readings = [seen.readings.get(host) for host in {host for _, _, host in ready}]
    ages_s = [now_s - reading.at_s for reading in readings if reading is not None]
    return max((age_s for age_s in ages_s if 0 <= age_s <= stale_after_s), default=0.0)


def _is_traffic_known(seen: Seen, oldest_s: float) -> bool:
    if seen.traffic is None or seen.traffic_at_s < oldest_s or not seen.traffic.is_known:
        return False
    return seen.drain is None or seen.drain_at_s < oldest_s or seen.drain.is_proxy_alive


def _unhealthy(seen: Seen, oldest_s: float) -> frozenset[str]:
    if seen.drain is None or seen.drain_at_s < oldest_s:
        return frozenset()
    return frozenset(backend.uuid for backend in seen.drain.backends if backend.is_healthy is False)


def _new(seen: Seen, since_s: float) -> frozenset[str]:
    """Return who is in rotation only since then: a first figure takes two samples, and its lack is no sickness."""
    return frozenset(
        m.uuid for m in members(seen) if m.phase is Phase.READY and seen.membership_at_s - m.age_s > since_s
    )


def _ignorance(ready: int, unknown: tuple[str, ...], is_fresh: bool, is_traffic_known: bool) -> str:
    if unknown:
        some = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        return f"no fresh CPU figure of {len(unknown)} of {ready} ready domains ({some})"
    if not is_fresh:
        return "no fresh membership from the actuator"
    if not ready:
        return "no domain is ready"
    return "" if is_traffic_known else "no fresh traffic figures from the balancer"


def _cause(seen: Seen) -> str:
    newest = max(seen.readings.values(), key=lambda reading: (reading.at_s, reading.host), default=None)
    return newest.id if newest else seen.membership_id
