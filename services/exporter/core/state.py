"""What the exporter remembers: the newest of each standing message, and what it has counted since it began.

Only what is configured is taken in, and every name that a label is made of is bounded here: however long it runs, and
whatever is sent, the number of series has a limit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from common.messages import Body, DecisionRecord, Event, Failure, HostSample, ServiceStatus, Traffic
from common.messaging.inbox import Received

Labels = tuple[str, ...]
Counts = Mapping[tuple[str, Labels], float]

OTHER: Final = "other"
ENDS: Final = ("crashed", "stopped", "suspended", "panicked", "frozen")
MAX_SETS: Final = 256  # label sets of one counter, for each group and once more
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is configured.

    ``ceilings``: of each group, the most domains it may own; ``prefixes``: of each group's domains. What was said
    longer ago than ``stale_after_s`` is unknown; a service that was silent for ``silent_after_s`` is down.
    """

    ceilings: Mapping[str, int]
    prefixes: Mapping[str, str]
    hosts: tuple[str, ...]
    services: tuple[str, ...]
    stale_after_s: float
    silent_after_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A standing message, and when it was said, on this machine's monotonic clock."""

    body: Body
    at_s: float


@dataclass(frozen=True, slots=True)
class State:
    """All that the exporter knows. ``heard`` is keyed by topic."""

    scope: Scope
    began_s: float
    heard: Mapping[str, Heard] = field(default_factory=lambda: MappingProxyType({}))
    counts: Counts = field(default_factory=lambda: MappingProxyType({}))


def begin(scope: Scope, now_s: float) -> State:
    """Return the state that has heard nothing yet; counters of groups begin at zero, so that their growth is seen."""
    counts: dict[tuple[str, Labels], float] = {}
    for group in scope.ceilings:
        for direction in ("out", "in"):
            counts["autoscaler_scale_events_total", (group, direction)] = 0.0
        for reason in ENDS:
            counts["autoscaler_domain_ends_total", (group, reason)] = 0.0
        for name in _BY_GROUP:
            counts[name, (group,)] = 0.0
    return State(scope, now_s, counts=counts)


def handle(state: State, message: Received, now_s: float) -> State:
    """Return the state after a message that was received at ``now_s`` (monotonic seconds)."""
    body = message.body
    if not _is_configured(state.scope, body):
        return state
    counts = _counted(state, message)
    if not body.standing:
        return replace(state, counts=counts)
    heard = {**state.heard, body.topic: Heard(body, now_s - message.age_s)}
    return replace(state, counts=counts, heard=heard)


def bounded(text: str) -> str:
    """Return ``text`` if it is a plain word, else ``other``.

    >>> bounded("unknown-data"), bounded("d4e9…"), bounded("")
    ('unknown-data', 'other', 'other')
    """
    return text if _LABEL.fullmatch(text) else OTHER


def group_of(scope: Scope, domain: str) -> str:
    """Return the group that a domain's name belongs to: of the longest prefix; ``other`` where none fits."""
    fitting = [(len(prefix), group) for group, prefix in scope.prefixes.items() if domain.startswith(prefix)]
    return max(fitting)[1] if fitting else OTHER


_BY_GROUP: Final = (
    "autoscaler_domain_failures_total",
    "autoscaler_drains_forced_total",
    "autoscaler_breaker_openings_total",
)
_BY_EVENT: Final = {  # of the actuator: the balancer tells forced drains too, for the same domain
    "domain-failed": "autoscaler_domain_failures_total",
    "drain-forced": "autoscaler_drains_forced_total",
    "breaker-opened": "autoscaler_breaker_openings_total",
}


def _is_configured(scope: Scope, body: Body) -> bool:
    match body:
        case HostSample():
            return body.host in scope.hosts
        case ServiceStatus():
            return body.name in scope.services
        case Failure():
            return body.host in scope.hosts
        case Event():
            return body.group in scope.ceilings or not body.group
        case _:
            return getattr(body, "group", None) in scope.ceilings


def _counted(state: State, message: Received) -> Counts:
    match message.body:
        case DecisionRecord() as body:
            labels = (body.group, bounded(body.action), bounded(body.limiter))
            return _added(state, "autoscaler_decisions_total", labels)
        case Failure() as body:
            end = (group_of(state.scope, body.domain), bounded(body.reason))
            return _added(state, "autoscaler_domain_ends_total", end)
        case Event() as body:
            return _event_counted(state, body, message.header.source)
        case Traffic() as body if body.is_known:
            return _traffic_counted(state, body)
        case _:
            return state.counts


def _event_counted(state: State, event: Event, source: str) -> Counts:
    state = replace(state, counts=_added(state, "autoscaler_events_total", (bounded(event.name),)))
    if not event.group:
        return state.counts
    if event.name in ("scale-out", "scale-in"):
        return _added(state, "autoscaler_scale_events_total", (event.group, event.name.removeprefix("scale-")))
    name = _BY_EVENT.get(event.name) if source == "actuator" else None
    return _added(state, name, (event.group,)) if name else state.counts


def _traffic_counted(state: State, traffic: Traffic) -> Counts:
    """Return the counts with the requests of one interval: its rate is a growth divided by just this interval."""
    for name, rate in (
        ("autoscaler_group_requests_total", traffic.request_rate),
        ("autoscaler_group_request_errors_total", traffic.error_rate),
    ):
        if rate is not None:
            state = replace(state, counts=_added(state, name, (traffic.group,), rate * traffic.interval_s))
    return state.counts


def _added(state: State, name: str, labels: Labels, by: float = 1.0) -> Counts:
    """Return the counts with one of them grown; past the limit of its sets, the last label becomes ``other``."""
    counts = state.counts
    if (name, labels) not in counts:
        limit = MAX_SETS * (1 + len(state.scope.ceilings))
        if sum(known == name for known, _ in counts) >= limit:
            labels = (*labels[:-1], OTHER)
    return {**counts, (name, labels): counts.get((name, labels), 0.0) + by}
