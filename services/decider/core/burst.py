"""The burst bridge: overloaded members get CPU that their host has idle, at once, until new members serve.

Note [What a host can spare]
    What was idle over the last interval, and what bursting members used beyond their configured allotment: it was idle
    before them and would be again. Less ``reserve_cpus``, the largest of the groups that claim. So a burst does not end
    because it works, and what others begin to use is left to them one sample later. Groups on one host share it
    max-min fairly (``share``): nobody gets more than it asks for, and what it does not need goes to the others.

Note [A raised quota must not calm the decider]
    The CPU ratio of a sample is a share of what was allotted. Where that was more than is configured, the decider takes
    it as a share of the configured allotment (``Base``), so that it may exceed 1: a group that lives on a burst still
    shows that it needs more domains, and how many.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.config import Group
from common.messages import Claim
from common.phases import Phase
from services.decider.core.seen import Reading, Seen, members
from services.decider.core.words import percent

if TYPE_CHECKING:
    from services.decider.core.metrics import GroupMetrics
    from services.decider.core.state import GroupState

STEPS: Final = 4  # a burst that is not needed any more is given back in so many ticks
USEFUL_RATIO: Final = 0.5  # members that use less than this of what they have need no more of it
LEAST_RISE: Final = 0.05  # a quota is raised further only by as much: what is idle trembles
GRAIN: Final = 0.01
MODES: Final = ("on", "out-only")
TOLERANCE: Final = 1.05  # two clocks may disagree so far


@dataclass(frozen=True, slots=True)
class Burst:
    """The quota of the members in rotation, None for the configured one, and in plain words why."""

    quota: float | None = None
    text: str = ""


NO_BURST: Final = Burst()


@dataclass(frozen=True, slots=True)
class Base:
    """The configured allotment of one domain, in CPUs: what a burst goes beyond."""

    cpus: float

    def ratio(self, reading: Reading, name: str, ratio: float) -> float:
        """Return a domain's CPU ratio against the configured allotment; see Note [A raised quota …]."""
        used_cpus, allotted_cpus = reading.cpus.get(name, (0.0, 0.0))
        is_beyond = allotted_cpus > self.cpus or used_cpus > TOLERANCE * self.cpus
        return used_cpus / self.cpus if is_beyond else ratio


def base_of(group: Group) -> Base | None:
    """Return what ratios are to be taken against, None for a group that never bursts."""
    return Base(group.image.vcpus * group.image.cpu_quota) if group.burst.enabled else None


def share(spare_cpus: float, wanted: Mapping[str, float]) -> dict[str, float]:
    """Return what each gets of ``spare_cpus``: max-min fair, in all no more than there is.

    >>> share(1.5, {"a": 0.25, "b": 2.0, "c": 1.0})
    {'a': 0.25, 'c': 0.625, 'b': 0.625}
    """
    left_cpus, granted = max(spare_cpus, 0.0), dict[str, float]()
    for number, (name, cpus) in enumerate(sorted(wanted.items(), key=lambda item: (item[1], item[0]))):
        granted[name] = min(cpus, left_cpus / (len(wanted) - number))
        left_cpus = max(left_cpus - granted[name], 0.0)
    return granted


def claims(state: "GroupState", metrics: "GroupMetrics", now_s: float) -> tuple[Claim, ...]:
    """Return what the group asks of each host that it serves on, and what it uses there beyond its allotment.

    Args:
        state: Before the tick.
        metrics: The group now.
        now_s: Monotonic seconds.
    """
    group, base = state.settings.group, base_of(state.settings.group)
    if base is None:
        return ()
    quota = _wish(state, metrics) or group.image.cpu_quota
    found = []
    for host, names in _serving(state.seen).items():
        reading = _fresh(state, host, now_s)
        wanted_cpus = (quota - group.image.cpu_quota) * group.image.vcpus * len(names)
        excess_cpus = sum(_excess_cpus(reading, name, base) for name in names) if reading else 0.0
        if wanted_cpus > 0 or excess_cpus > 0:
            found.append(
                Claim(
                    group=state.settings.name,
                    host=host,
                    wanted_cpus=wanted_cpus,
                    excess_cpus=excess_cpus,
                    reserve_cpus=group.burst.reserve_cpus,
                )
            )
    return tuple(found)


def bridge(state: "GroupState", metrics: "GroupMetrics", rivals: tuple[Claim, ...], now_s: float) -> Burst:
    """Return the quota until the next tick: raised at once, given back step by step, never beyond what is spare.

    Args:
        state: Before the tick; its ``burst`` is the one in force.
        metrics: The group now.
        rivals: What other groups claim of the same hosts.
        now_s: Monotonic seconds.
    """
    group = state.settings.group
    wish = _wish(state, metrics)
    if wish is None:
        return NO_BURST
    own = claims(state, metrics, now_s)
    granted = [_granted(state, host, (*own, *rivals), now_s) for host in _serving(state.seen)]
    quota, limit = min(granted, default=(group.image.cpu_quota, ""))
    quota = _steadied(state.burst.quota, math.floor(quota / GRAIN + 1e-6) * GRAIN)
    reason = overload(state, metrics)
    if quota < group.image.cpu_quota + GRAIN:
        return Burst(None, f"{reason}, but {limit}" if reason else "")
    quota = round(quota, 2)
    if not reason:
        return Burst(quota, f"the overload is gone: {percent(quota)} of one CPU for each vCPU, less each tick")
    return Burst(quota, f"{reason}: {percent(quota)} of one CPU for each vCPU{'; ' + limit if quota < wish else ''}")


def overload(state: "GroupState", metrics: "GroupMetrics") -> str:
    """Return why the group's members need more CPU at once, empty where they do not."""
    if state.mode not in MODES or not metrics.ready or metrics.high < USEFUL_RATIO:
        return ""
    point = state.settings.out_point_ratio
    if point is not None and metrics.known and metrics.mean >= point and not metrics.doubt:
        return f"CPU {percent(metrics.mean)}, at or above {percent(point)}"
    if metrics.queue:
        return f"{metrics.queue} requests queue"
    last = state.history[-1].recommended if state.history else None
    wanted = max(metrics.desired, last or 0)
    return f"{wanted} wanted, {metrics.ready} serve" if wanted > metrics.ready else ""


def _wish(state: "GroupState", metrics: "GroupMetrics") -> float | None:
    """Return the quota to have if the hosts can spare it, None for the configured one."""
    group = state.settings.group
    if not group.burst.enabled:
        return None
    if overload(state, metrics):
        return group.burst.max_quota
    if state.burst.quota is None or state.mode not in MODES:
        return None
    lower = min(state.burst.quota, group.burst.max_quota) - (group.burst.max_quota - group.image.cpu_quota) / STEPS
    return lower if lower >= group.image.cpu_quota + GRAIN else None


def _granted(state: "GroupState", host: str, claimed: Iterable[Claim], now_s: float) -> tuple[float, str]:
    """Return the quota that one host can spare for this group, and what limits it there."""
    image = state.settings.group.image
    reading = _fresh(state, host, now_s)
    if reading is None or reading.idle_cpus is None:
        return image.cpu_quota, f"it is unknown what {host} can spare"
    here = [claim for claim in claimed if claim.host == host]
    reserve_cpus = max((claim.reserve_cpus for claim in here if claim.wanted_cpus > 0), default=0.0)
    spare_cpus = reading.idle_cpus + sum(claim.excess_cpus for claim in here) - reserve_cpus
    wanted = {claim.group: claim.wanted_cpus for claim in here if claim.wanted_cpus > 0}
    cpus = share(spare_cpus, wanted).get(state.settings.name, 0.0)
    count = len(_serving(state.seen)[host]) * image.vcpus
    others = f" among {len(wanted)} groups" if len(wanted) > 1 else ""
    return image.cpu_quota + cpus / count, f"{host} can spare {max(spare_cpus, 0.0):.2f} CPUs{others}"


def _steadied(before: float | None, quota: float) -> float:
    """Return the quota, not raised for less than ``LEAST_RISE``."""
    return before if before is not None and before <= quota < before + LEAST_RISE else quota


def _serving(seen: Seen) -> dict[str, list[str]]:
    """Return by host the names of the members in rotation, in the order of their hosts' names."""
    found: dict[str, list[str]] = {}
    for member in members(seen):
        if member.phase is Phase.READY and member.uuid not in seen.failed:
            found.setdefault(member.host, []).append(member.name)
    return dict(sorted(found.items()))


def _fresh(state: "GroupState", host: str, now_s: float) -> Reading | None:
    reading = state.seen.readings.get(host)
    is_fresh = reading is not None and reading.is_reachable and now_s - reading.at_s <= state.settings.stale_after_s
    return reading if is_fresh else None


def _excess_cpus(reading: Reading, name: str, base: Base) -> float:
    used_cpus, _ = reading.cpus.get(name, (0.0, 0.0))
    return max(used_cpus - base.cpus, 0.0)
