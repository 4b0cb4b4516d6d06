"""What the graph remembers: of every domain and group the last minutes, and nothing older.

``handle`` takes the messages of the bus one by one. What is unknown is None, never zero: a sender that falls silent, a
domain without a ratio and the time before a restart are gaps. Within one ``resolution_s`` the newest value wins, so
that a week takes no more memory than ten minutes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from common.messages import Body, DesiredCapacity, Drain, Event, Failure, HostSample, Membership
from common.names import domain_index
from common.phases import Phase
from common.rotation import serving

Points = tuple[tuple[float, float | None], ...]
"""When (monotonic seconds, growing) and what; None is unknown."""

RUNNING: Final = "running"  # as libvirt calls it; a domain that is shut off has no line
MAX_MARKS: Final = 200
MAX_POINTS: Final = 1200
SAME_FAILURE_S: Final = 15.0
_CHANGE: Final = re.compile(r"from (\d+) to (\d+)")
_TROUBLE: Final = (
    "breaker-opened",
    "host-lost",
    "scaling-halted",
    "drain-forced",
    "recording-paused",
    "recording-resumed",
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened. ``kind``: out, in, failure, trouble or operator; ``group`` is empty if it is of all."""

    at_s: float
    kind: str
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class GroupSeries:
    """One group. Ratios are shares of the allotted CPU; counts are domains; ``phases`` those that were told last."""

    ratios: Mapping[str, Points] = field(default_factory=lambda: MappingProxyType({}))
    mean: Points = ()
    desired: Points = ()
    ready: Points = ()
    phases: Mapping[str, Phase] | None = None
    mode: str = ""
    drain: Drain | None = None
    drain_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """All that the graph knows. ``prefixes`` tells which group a domain's name belongs to."""

    prefixes: Mapping[str, str]
    span_s: float
    stale_after_s: float
    resolution_s: float
    groups: Mapping[str, GroupSeries]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """There is something new to see."""


def empty(prefixes: Mapping[str, str], span_s: float, interval_s: float, stale_after_s: float) -> State:
    """Return the state that knows nothing yet.

    Args:
        prefixes: of each group's domains, by the group's name.
        span_s: how far back the graph reaches, > 0.
        interval_s: between two samples.
        stale_after_s: after this much silence a value is unknown; coarser where the points are.
    """
    resolution_s = max(interval_s / 2, span_s / MAX_POINTS)
    groups = {name: GroupSeries() for name in prefixes}
    return State(dict(prefixes), span_s, max(stale_after_s, 3 * resolution_s), resolution_s, groups)


def handle(state: State, event: Body, now_s: float) -> tuple[State, tuple[Draw, ...]]:
    """Return the state after a message said at ``now_s`` (monotonic seconds), and whether to draw."""
    match event:
        case HostSample():
            return _drop_old(_with_sample(state, event, now_s), now_s), (Draw(),)
        case Membership() if event.group in state.groups:
            return _with_membership(state, event, now_s), ()
        case Drain() if event.group in state.groups:
            group = replace(state.groups[event.group], drain=event, drain_at_s=now_s)
            return _with_group(state, event.group, group), ()
        case DesiredCapacity() if event.group in state.groups:
            group = state.groups[event.group]
            desired = extend(group.desired, now_s, float(event.desired), state)
            return _with_group(state, event.group, replace(group, desired=desired, mode=event.mode)), ()
        case Failure():
            group_name = _group_of(state, event.domain)
            if _is_on_its_way_out(state, group_name, event):
                return state, ()
            return _with_mark(state, Mark(now_s, "failure", group_name, event.domain)), ()
        case Event():
            mark = _mark_of(state, event, now_s)
            return (state if mark is None else _with_mark(state, mark)), ()
        case _:
            return state, ()


def extend(points: Points, at_s: float, value: float | None, state: State) -> Points:
    """Return ``points`` with one more; silence before it becomes a gap, and what is older than the span is dropped."""
    if points:
        last_s, last = points[-1]
        if at_s <= last_s:
            return points
        if at_s - last_s < state.resolution_s:
            return (*points[:-1], (last_s, value))
        if at_s - last_s > state.stale_after_s and last is not None:
            points = (*points, (last_s + state.resolution_s, None))
    return (*_since(points, at_s - state.span_s), (at_s, value))


def newest(points: Points, now_s: float, stale_after_s: float) -> float | None:
    """Return the last value, None if it is unknown or stale."""
    if not points or now_s - points[-1][0] > stale_after_s:
        return None
    return points[-1][1]


def _since(points: Points, since_s: float) -> Points:
    """Return the points from ``since_s`` on, and the one before them, from which the line comes."""
    first = 0
    while first + 1 < len(points) and points[first + 1][0] < since_s:
        first += 1
    return points[first:] if first else points


def _with_sample(state: State, sample: HostSample, now_s: float) -> State:
    by_group: dict[str, dict[str, Points]] = {}
    for name, domain_state, ratio in zip(sample.names, sample.states, sample.cpu_ratios, strict=True):
        group = _group_of(state, name)
        if group and (domain_state == RUNNING or ratio is not None):
            ratios = by_group.setdefault(group, dict(state.groups[group].ratios))
            ratios[name] = extend(ratios.get(name, ()), now_s, ratio if sample.is_reachable else None, state)
    for name, ratios in by_group.items():
        group_series = replace(state.groups[name], ratios=ratios)
        mean = extend(group_series.mean, now_s, _mean(group_series, now_s, state.stale_after_s), state)
        state = _with_group(state, name, replace(group_series, mean=mean))
    return state


def _mean(group: GroupSeries, now_s: float, stale_after_s: float) -> float | None:
    """Return the mean over the ready domains, over all while nobody tells which are ready; None if none is known."""
    members = [name for name in group.ratios if group.phases is None or group.phases.get(name) is Phase.READY]
    known = [newest(group.ratios[name], now_s, stale_after_s) for name in members]
    ratios = [ratio for ratio in known if ratio is not None]
    return sum(ratios) / len(ratios) if ratios else None


def _with_membership(state: State, membership: Membership, now_s: float) -> State:
    group = state.groups[membership.group]
    phases = {member.name: member.phase for member in membership.members}
    drain = group.drain if now_s - group.drain_at_s <= state.stale_after_s else None
    served = serving(membership, drain)
    ready = extend(group.ready, now_s, None if served is None else float(len(served)), state)
    return _with_group(state, membership.group, replace(group, phases=phases, ready=ready))


def _is_on_its_way_out(state: State, group_name: str, failure: Failure) -> bool:
    """Return whether the domain stopped because it was to stop: the monitor tells every end, wanted or not.

    One that stands by was paused, or its memory saved, by us.
    """
    group = state.groups.get(group_name)
    phase = group.phases.get(failure.domain) if group and group.phases else None
    is_leaving = phase in (None, Phase.DRAINING, Phase.STOPPING, Phase.FAILED)
    return phase is Phase.STANDBY or (failure.reason == "stopped" and is_leaving)


def _mark_of(state: State, event: Event, now_s: float) -> Mark | None:
    group = event.group or _group_of(state, event.domain)
    if event.name in ("scale-out", "scale-in"):
        change = _CHANGE.search(event.text)
        text = f"{change[1]}→{change[2]}" if change else ""
        return Mark(now_s, event.name.removeprefix("scale-"), group, text)
    if event.name == "domain-failed":
        return Mark(now_s, "failure", group, event.domain)
    if event.name in _TROUBLE:
        return Mark(now_s, "trouble", group, event.name.replace("-", " "))
    if event.name == "operator":
        return Mark(now_s, "operator", group, "operator")
    return None


def _with_mark(state: State, mark: Mark) -> State:
    """Return the state with the mark; a failure, which monitor and actuator both tell, is marked once."""
    for other in state.marks:
        is_same = (other.kind, other.group, other.text) == (mark.kind, mark.group, mark.text)
        if mark.kind == "failure" and is_same and abs(mark.at_s - other.at_s) < SAME_FAILURE_S:
            return state
    return replace(state, marks=(*state.marks, mark)[-MAX_MARKS:])


def _drop_old(state: State, now_s: float) -> State:
    """Return the state without the domains and marks that have left the span."""
    since_s = now_s - state.span_s
    marks = tuple(mark for mark in state.marks if mark.at_s >= since_s)
    if len(marks) != len(state.marks):
        state = replace(state, marks=marks)
    for name, group in state.groups.items():
        kept = {domain: points for domain, points in group.ratios.items() if points[-1][0] >= since_s}
        if len(kept) != len(group.ratios):
            state = _with_group(state, name, replace(group, ratios=kept))
    return state


def _with_group(state: State, name: str, group: GroupSeries) -> State:
    return replace(state, groups={**state.groups, name: group})


def _group_of(state: State, domain: str) -> str:
    for name, prefix in state.prefixes.items():
        if domain_index(prefix, domain) is not None:
            return name
    return ""
