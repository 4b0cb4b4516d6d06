"""One group over one interval, from samples, membership and traffic.

A missing sample is unknown, never 0. Two guesses bound the truth: ``low`` counts unknown domains as idle and is what
scale-out stands on, ``high`` counts them as busy and is what scale-in stands on. Only ready domains are measured:
what boots has a spike of its own, and counts as coming capacity.

Note [Who neither votes nor counts]
    Domains on a lost host of which nothing is known, and suspended ones, keep their place in the desired capacity, but
    say nothing of the load: counted as idle they would hide the overload of the others, counted as busy they would
    keep the group large for as long as the host is gone. They are *held*: neither measured nor coming. Those of them
    that membership shows ready are *silent*: they serve, as far as anybody knows, and people are told so; it is their
    figures that lack. One that has only
    just come into rotation has no figure yet, because a rate takes two samples: it is idle for scale-out and left out
    of the mean for scale-in, so that one that comes again and again does not begin the windows anew each time.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from common.messages import Evidence, Member, Membership, Traffic
from common.outage import is_outage
from common.phases import FATES, Phase
from services.decider.core import lack, shares, warm_up
from services.decider.core.burst import Base
from services.decider.core.lack import NO_LACK, Lack
from services.decider.core.pressure import is_crowded, pressure
from services.decider.core.seen import Seen, members
from services.decider.core.trend import FAST_S, SLOW_S, Trend

WAKING: Final = ("paused", "saved")  # the fastest first
QUIET_IN_FLIGHT: Final = 0.5  # requests at an instant, as a mean: health checks of others, somebody who looks by hand
ANSWERED: Final = 0.5  # of the requests: so many right answers show that somebody serves
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
    coming: int = 0  # booting, or not yet begun: what lacks to the desired capacity, as long as it may come in time
    overdue: int = 0  # the same, when it should have come: nobody waits for it any more
    held: int = 0  # suspended, or on a lost host: see Note [Who neither votes nor counts]
    silent: int = 0  # of these: ready, as far as membership knows, and nothing says how busy; not in ``ready``
    silent_hosts: tuple[str, ...] = ()
    surplus: int = 0  # capacity beyond the desired: on its way out, or started by its owner and not serving yet
    known: int = 0
    unknown: tuple[str, ...] = ()
    new: tuple[str, ...] = ()  # in rotation so briefly that they have no figure yet
    sick: int = 0  # ready, but unhealthy, or for long enough without a figure though others of its host have one
    unhealthy: int = 0  # ready, but HAProxy's check fails
    healthy: int = 0  # whose check succeeds, on lost hosts as well
    mean: float = 0.0
    low: float = 0.0
    high: float = 1.0
    ignorance: str = ""  # why something is unknown, in plain words; empty: all is known
    is_membership_fresh: bool = False
    is_traffic_known: bool = False
    queue: int | None = None
    in_flight: int | None = None
    slots_taken: int | None = None  # of the ready domains: requests and connections that they have now
    request_rate: float | None = None
    response_time_s: float | None = None
    error_rate: float | None = None
    request_rate_mean: float | None = None  # over a few seconds
    answer_rate: float | None = None  # right answers a second, whoever gave them
    in_flight_mean: float | None = None
    response_fast_s: float | None = None  # how long requests take now, by Little's law; 0 without requests
    response_slow_s: float | None = None
    error_fast_ratio: float | None = None  # of the requests that come
    error_slow_ratio: float | None = None
    pressure: tuple[str, ...] = ()  # what users feel now, in plain words
    requested_s_ago: float | None = None  # when the endpoint last carried a request; None: it was not seen to
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
    def missing(self) -> int:
        """Return how many lack to the desired capacity, in time or not."""
        return self.coming + self.overdue

    @property
    def ready_text(self) -> str:
        """Return of how many ready domains the figures are, for people."""
        return f"{self.ready} of {self.ready + self.silent} ready" if self.silent else f"{self.ready} ready"

    @property
    def unmeasured(self) -> str:
        """Return why nobody is measured, in plain words; empty where a ready domain is."""
        return "" if self.ready else _unmeasured(self.silent, self.silent_hosts)

    @property
    def is_halting(self) -> bool:
        """Return whether so much is missing or unhealthy that the fault is more likely ours than theirs."""
        return is_outage(self.sick, self.ready)

    @property
    def is_blind(self) -> bool:
        """Return whether the figures of most domains are missing: what is wrong with one cannot be told."""
        return is_outage(len(self.unknown), self.ready)

    @property
    def is_deserted(self) -> bool:
        """Return whether a request a second comes for one domain more, and no domain is healthy to serve.

        Whoever answers most of them is healthy enough, also where an actuator that is new cannot see who it is. Without
        a word of the actuator the balancer, too, may know no member, and HAProxy serves all the same.
        """
        rate = self.request_rate_mean or 0.0
        is_answered = self.answer_rate is not None and self.answer_rate >= ANSWERED * rate
        is_served = self.healthy > 0 or self.unhealthy < self.ready or is_answered
        is_empty = self.is_membership_fresh and not is_served
        return is_empty and self.desired > 0 and rate >= self.desired + 1

    @property
    def is_quiet(self) -> bool:
        """Return whether hardly a request is worked on: for a few seconds, less than half of one on average."""
        return self.in_flight_mean is not None and self.in_flight_mean < QUIET_IN_FLIGHT

    def left_s(self, window_s: float, held_s: float) -> float:
        """Return how much of a window is not yet full."""
        left_s = window_s - held_s
        return left_s if left_s > WINDOW_SLACK * self.interval_s else 0.0


_NOTHING: Final = GroupMetrics(interval_s=1.0, desired=0)


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
    before: Lack = NO_LACK,
    boot_timeout_s: float = math.inf,
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
        before: Since when domains have been missing, as the tick before left it.
        boot_timeout_s: How long a domain may be expected while no boot has been measured.
        warm_up_s: For so long the CPU use of a new member does not count for scale-out.
    """
    lost = _lost_hosts(seen, now_s - stale_after_s)
    ready, members_total, held = _count(seen, lost)
    silent = _silent(seen, lost)
    ratios = [(name, uuid, _ratio(seen, name, uuid, host, now_s - stale_after_s, base)) for name, uuid, host in ready]
    fresh, told = _new(seen, now_s - stale_after_s), _told(seen, now_s - stale_after_s)
    known = [ratio for _, _, ratio in ratios if ratio is not None]
    unknown = tuple(name for name, uuid, ratio in ratios if ratio is None and uuid not in fresh)
    new = tuple(name for name, uuid, ratio in ratios if ratio is None and uuid in fresh)
    oldest_s = now_s - standing_stale_after_s
    is_fresh = seen.membership is not None and seen.membership_at_s >= oldest_s
    is_traffic_known = _is_traffic_known(seen, oldest_s)
    unhealthy, healthy = _checked(seen, oldest_s, is_healthy=False), _checked(seen, oldest_s, is_healthy=True)
    traffic = seen.traffic if is_traffic_known else None
    trend = seen.trend if traffic and seen.trend and seen.trend.at_s >= oldest_s else None
    total = sum(known)
    missing = max(members_total - len(ready), desired - held - len(ready), 0)
    wait_s = lack.patience_s(seen.membership, interval_s, boot_timeout_s)
    coming = missing if lack.is_expected(before, desired, now_s, wait_s) else 0
    warm = warm_up.low(seen, [(name, ratio) for name, _, ratio in ratios], now_s, warm_up_s)
    return GroupMetrics(
        interval_s=interval_s,
        desired=desired,
        epoch_offset_s=epoch_s - now_s,
        chance=chance,
        boot_s=lead_s(seen.membership) if seen.membership else None,
        age_s=_age_s(seen, ready, now_s, stale_after_s),
        ready=len(ready),
        coming=coming,
        overdue=missing - coming,
        held=held,
        silent=len(silent),
        silent_hosts=tuple(sorted(set(silent))),
        surplus=max(members_total - reserve(seen) - len(uncounted(seen)) - desired, 0),
        known=len(known),
        unknown=unknown,
        new=new,
        sick=sum(1 for name, uuid, host in ready if uuid in unhealthy or (name in unknown and host in told)),
        unhealthy=sum(1 for _, uuid, _ in ready if uuid in unhealthy),
        healthy=len(healthy),
        mean=total / len(known) if known else 0.0,
        low=warm.low,
        high=(total + len(unknown)) / (len(ready) - len(new)) if len(ready) > len(new) else 1.0,
        ignorance=_ignorance(len(ready), unknown, new, silent, is_fresh, is_traffic_known),
        is_membership_fresh=is_fresh,
        is_traffic_known=is_traffic_known,
        queue=traffic.queue if traffic else None,
        in_flight=traffic.in_flight if traffic else None,
        slots_taken=_slots_taken(traffic, ready) if traffic else None,
        request_rate=traffic.request_rate if traffic else None,
        response_time_s=traffic.response_time_s if traffic else None,
        error_rate=traffic.error_rate if traffic else None,
        answer_rate=traffic.answer_rate if traffic else None,
        **(_felt(trend, len(ready)) if trend else {}),
        requested_s_ago=None if seen.requested_at_s is None else max(now_s - seen.requested_at_s, 0.0),
        warming=warm.count,
        warms_in_s=warm.left_s,
        doubt=warm.doubt,
        doubt_ends=warm.doubt_ends,
        full_hosts=_full_hosts(seen, ready),
        blocked=_blocked(seen),
        cause=_cause(seen),
    )


def evidence(metrics: GroupMetrics, out_filled_s: float, in_filled_s: float) -> Evidence:
    """Return the figures of a decision, as its record shows them; of those that do not count now, none."""
    has_any = metrics.known > 0
    crowded = metrics if is_crowded(metrics.in_flight_mean, metrics.ready) else _NOTHING
    failing = metrics if metrics.error_fast_ratio else _NOTHING
    return Evidence(
        cpu_ratio=metrics.mean if has_any else None,
        cpu_ratio_low_guess=metrics.low if metrics.ready else None,
        cpu_ratio_high_guess=metrics.high if metrics.ready else None,
        domains_ready=metrics.ready + metrics.silent,
        domains_coming=metrics.missing,
        domains_overdue=metrics.overdue,
        domains_known=metrics.known,
        domains_warming=metrics.warming,
        requested_s_ago=None if metrics.requested_s_ago is None else round(metrics.requested_s_ago, 3),
        full_hosts=metrics.full_hosts,
        out_window_filled_s=out_filled_s,
        in_window_filled_s=in_filled_s,
        request_rate=metrics.request_rate,
        queue=metrics.queue,
        in_flight=metrics.in_flight,
        response_time_s=metrics.response_time_s,
        error_rate=metrics.error_rate,
        in_flight_mean=crowded.in_flight_mean,
        response_fast_s=crowded.response_fast_s,
        response_slow_s=crowded.response_slow_s,
        error_fast_ratio=failing.error_fast_ratio,
        error_slow_ratio=failing.error_slow_ratio,
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
    """Return how many members have a place in the group: ready ones, those on their way there, and suspended ones."""
    _, count, held = _count(seen, frozenset())
    return count + held


def reserve(seen: Seen) -> int:
    """Return how many members are in rotation beyond what is desired, as the group's running reserve."""
    return sum(1 for member in members(seen) if member.tier == "running" and FATES[member.phase].is_capacity)


def uncounted(seen: Seen) -> list[Member]:
    """Return who serves because their owner has started them, though no desired capacity counts them."""
    serving = (Phase.WARMING, Phase.READY)
    return [m for m in members(seen) if m.is_uncounted and m.phase in serving and m.uuid not in seen.failed]


def _count(seen: Seen, lost: frozenset[str]) -> tuple[list[tuple[str, str, str]], int, int]:
    """Return name, uuid and host of each ready member that has not failed, how many are capacity, how many are held."""
    ready, count, held = [], 0, 0
    for member in members(seen):
        is_suspended = member.phase is Phase.SUSPENDED
        if member.uuid in seen.failed or not (is_suspended or FATES[member.phase].is_capacity):
            continue
        if is_suspended or member.host in lost:
            held += 1
            continue
        count += 1
        if member.phase is Phase.READY:
            ready.append((member.name, member.uuid, member.host))
    return ready, count, held


def _silent(seen: Seen, lost: frozenset[str]) -> list[str]:
    """Return the hosts of the ready members on lost ones, one for each."""
    here = (m for m in members(seen) if m.phase is Phase.READY and m.uuid not in seen.failed)
    return [member.host for member in here if member.host in lost]


def _unmeasured(silent: int, hosts: tuple[str, ...]) -> str:
    """Return why nobody is measured: nobody is ready, or their hosts say nothing."""
    if not silent:
        return "no domain is ready"
    which = f"host {hosts[0]} does" if len(hosts) == 1 else f"hosts {', '.join(hosts[:3])} do"
    return f"no figures of the {silent} ready domain{'' if silent == 1 else 's'}: {which} not answer"


def _told(seen: Seen, oldest_s: float) -> frozenset[str]:
    """Return the hosts of which a fresh sample has a figure of somebody: who lacks one there is missing.

    Elsewhere it is only unknown: the monitor is silent, or has just started, for a rate takes two samples.
    """
    fresh = [r for r in seen.readings.values() if r.at_s >= oldest_s and r.is_reachable]
    return frozenset(r.host for r in fresh if any(ratio is not None for _, ratio in r.ratios.values()))


def _lost_hosts(seen: Seen, oldest_s: float) -> frozenset[str]:
    """Return the hosts that a monitor or the actuator cannot reach, without those that a fresh sample shows."""
    fresh = [reading for reading in seen.readings.values() if reading.at_s >= oldest_s]
    named = seen.membership.unreachable_hosts if seen.membership else ()
    dark = frozenset(reading.host for reading in fresh if not reading.is_reachable)
    return dark | (frozenset(named) - {reading.host for reading in fresh})


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


def _slots_taken(traffic: Traffic, ready: list[tuple[str, str, str]]) -> int | None:
    """Return what the ready domains have in flight; who leaves has slots that nobody new gets."""
    names = {name for name, *_ in ready}
    found = [count for name, count in zip(traffic.names, traffic.in_flights, strict=False) if name in names]
    known = [count for count in found if count is not None]
    return sum(known) if known else None


def _is_traffic_known(seen: Seen, oldest_s: float) -> bool:
    if seen.traffic is None or seen.traffic_at_s < oldest_s or not seen.traffic.is_known:
        return False
    return seen.drain is None or seen.drain_at_s < oldest_s or seen.drain.is_proxy_alive


def _checked(seen: Seen, oldest_s: float, *, is_healthy: bool) -> frozenset[str]:
    """Return the members whose check at HAProxy succeeds, or fails."""
    if seen.drain is None or seen.drain_at_s < oldest_s:
        return frozenset()
    return frozenset(backend.uuid for backend in seen.drain.backends if backend.is_healthy is is_healthy)


def _new(seen: Seen, since_s: float) -> frozenset[str]:
    """Return who is in rotation only since then: a first figure takes two samples, and its lack is no sickness."""
    return frozenset(
        m.uuid for m in members(seen) if m.phase is Phase.READY and seen.membership_at_s - m.age_s > since_s
    )


def _ignorance(
    ready: int,
    unknown: tuple[str, ...],
    new: tuple[str, ...],
    silent: list[str],
    is_fresh: bool,
    is_traffic_known: bool,
) -> str:
    if unknown:
        some = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        return f"no fresh CPU figure of {len(unknown)} of {ready} ready domains ({some})"
    if not is_fresh:
        return "no fresh membership from the actuator"
    if not ready:
        return _unmeasured(len(silent), tuple(sorted(set(silent))))
    if len(new) == ready:
        return "no CPU figure yet of the domains that have only just come"
    return "" if is_traffic_known else "no fresh traffic figures from the balancer"


def _felt(trend: Trend, ready: int) -> dict[str, Any]:
    """Return what users feel, and the means that it stands on."""
    fast, slow = trend.means(FAST_S), trend.means(SLOW_S)
    return {
        "request_rate_mean": fast.request_rate,
        "in_flight_mean": fast.in_flight,
        "response_fast_s": fast.response_s,
        "response_slow_s": slow.response_s,
        "error_fast_ratio": fast.error_ratio,
        "error_slow_ratio": slow.error_ratio,
        "pressure": pressure(fast, slow, ready),
    }


def _blocked(seen: Seen) -> str:
    """Return what keeps the actuator from the desired capacity; that others go first is no obstacle."""
    membership = seen.membership
    return "" if membership is None or membership.is_waiting else membership.blocked


def _cause(seen: Seen) -> str:
    newest = max(seen.readings.values(), key=lambda reading: (reading.at_s, reading.host), default=None)
    return newest.id if newest else seen.membership_id
