"""What CPU use means on a host whose CPUs are all busy, and when one more domain there would help nobody.

Note [Use against what there is]
    Eight domains of one CPU each, on a host of two, use a quarter of what they are allotted and cannot use more: as a
    share of the allotment they look idle. So on a host without idle CPU, whose domains are allotted more than they can
    have, use is taken against a fair share: what is there for our domains, in proportion to their allotments. Who uses
    more than that is not throttled on paper: it counts as full.

    There for our domains is what they use and what is idle; and ``OUR_SHARE`` of the host at least, because the kernel
    divides busy CPUs among all who want them: a group that hardly uses anything beside a stranger who takes all that is
    left is idle, not starved. Of a stranger who leaves our domains less than that this knows nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from common.messages import HostSample
from common.phases import Phase

if TYPE_CHECKING:
    from services.decider.core.seen import Reading
    from services.decider.core.state import GroupState

IDLE_SHARE: Final = 0.05  # of a host's CPUs: less idle is none
OUR_SHARE: Final = 0.5
SLACK: Final = 0.1  # of an interval: samples are never exactly on time
HAIR: Final = 1e-6
Cpus = Mapping[str, tuple[float, float]]
"""Name of a domain: CPUs that it uses, CPUs that it is allotted."""


def fair_share(sample: HostSample, cpus: Cpus) -> float | None:
    """Return which part of its allotment each of our domains on a host can count on, None where it is all of it."""
    if not is_busy(sample.host_cpus, sample.host_idle_cpus):
        return None
    used_cpus, allotted_cpus = (sum(column) for column in zip(*cpus.values(), strict=True)) if cpus else (0.0, 0.0)
    there_cpus = max(used_cpus + (sample.host_idle_cpus or 0.0), OUR_SHARE * (sample.host_cpus or 0))
    return there_cpus / allotted_cpus if allotted_cpus > there_cpus + HAIR else None


def is_busy(host_cpus: int | None, idle_cpus: float | None) -> bool:
    """Return whether a host has no idle CPU; False where that is unknown.

    >>> is_busy(2, 0.05), is_busy(2, 0.2), is_busy(2, None)
    (True, False, False)
    """
    return host_cpus is not None and idle_cpus is not None and idle_cpus < IDLE_SHARE * host_cpus


def ratio(reading: "Reading", name: str, ratio: float) -> float:
    """Return a domain's CPU ratio, on a full host against its fair share; see Note [Use against what there is]."""
    used_cpus, allotted_cpus = reading.cpus.get(name, (0.0, 0.0))
    if reading.fair_share is None or used_cpus <= 0:
        return ratio
    return max(ratio, used_cpus / max(reading.fair_share * allotted_cpus, used_cpus))


def busy_since(before: Mapping[str, float], reading: "Reading") -> Mapping[str, float]:
    """Return since when each host has had no idle CPU, after one more reading; the same mapping where it is."""
    host = reading.host
    if is_busy(reading.host_cpus, reading.idle_cpus):
        return before if host in before else {**before, host: reading.at_s}
    return {name: at_s for name, at_s in before.items() if name != host} if host in before else before


def full_hosts(state: "GroupState", now_s: float) -> tuple[str, ...]:
    """Return the group's hosts where one more domain could only take CPU from the others; none unless all are full.

    A host is full where what its domains are allotted, with one more, is more than it has, and nothing has been idle
    there for a whole out-window. Domains of this group count with their configured allotment, and what other groups'
    bursts use beyond theirs is left out: boots and bursts pass. A host that is not reached takes no domain either way.
    """
    hosts = [host for host in state.settings.group.hosts if not _is_unreachable(state, host)]
    found = tuple(host for host in hosts if _is_full(state, host, now_s))
    return found if found and len(found) == len(hosts) else ()


def _is_unreachable(state: "GroupState", host: str) -> bool:
    reading = state.seen.readings.get(host)
    return reading is not None and not reading.is_reachable


def _is_full(state: "GroupState", host: str, now_s: float) -> bool:
    settings, reading = state.settings, state.seen.readings.get(host)
    since_s = state.seen.busy_since.get(host)
    if reading is None or reading.host_cpus is None or since_s is None:
        return False
    held_s = reading.at_s - since_s + settings.interval_s  # a sample vouches for the interval before it
    if now_s - reading.at_s > settings.stale_after_s or held_s < settings.out_window_s - SLACK * settings.interval_s:
        return False
    own_cpus = _own_cpus(state, reading)
    allotted_cpus = _allotted_cpus(state, reading) - sum(
        claim.excess_cpus for claim in state.rivals if claim.host == host
    )
    return own_cpus is not None and allotted_cpus + own_cpus > reading.host_cpus + HAIR


def _own_cpus(state: "GroupState", reading: "Reading") -> float | None:
    """Return what one more domain of the group is allotted; of existing ones as much as those have that serve there."""
    group = state.settings.group
    if group.kind == "template":
        return group.image.vcpus * group.image.cpu_quota
    serving = [m.name for m in state.seen.membership.members if m.phase is Phase.READY] if state.seen.membership else []
    known = [reading.cpus[name][1] for name in serving if name in reading.cpus]
    return sum(known) / len(known) if known else None


def _allotted_cpus(state: "GroupState", reading: "Reading") -> float:
    """Return what the domains of a host are allotted, this group's by its configuration where that is known."""
    group = state.settings.group
    own_cpus = group.image.vcpus * group.image.cpu_quota if group.kind == "template" else None
    own = {member.name for member in state.seen.membership.members} if state.seen.membership else set()
    return sum(
        min(cpus, own_cpus) if own_cpus is not None and name in own else cpus
        for name, (_, cpus) in reading.cpus.items()
    )
