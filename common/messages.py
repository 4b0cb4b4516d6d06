"""The catalogue of messages: what travels on the bus, and nothing else does.

A message is two frames: the topic, and a MessagePack map ``{"header": …, "body": …}``. Every body is one
frozen class below, checked once when it arrives (``common.wire``) and never again. A standing message says what is;
the newest one wins, and a late subscriber gets the last one at once. An event happened once; it is sent at
once and shows up in the next standing message too. Unknown fields are ignored, so that versions may be mixed;
an unknown ``version`` is refused. Units are in the names; ``None`` means unknown, never zero.
"""

import math
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from common.phases import Phase

PROTOCOL_VERSION: Final = 1
FROZEN: Final = "frozen"  # a reason of a ``Failure`` that may pass by itself: its process is stopped …
SUSPENDED: Final = "suspended"  # … or libvirt, its owner or a fault of its host has paused it

Ratio = float
"""A share of the whole: in [0, 1], or slightly above where two clocks are involved."""


class Frozen(BaseModel):
    """A value: immutable, finite, tolerant of fields that a newer version added."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Header(Frozen):
    """Who said it, when, and why.

    ``run_id`` grows with every start of the sender; ``seq`` counts its messages of one topic from 1; ``mono_s`` is the
    sender's monotonic clock; ``cause`` is the ``message_id`` of what led to this one.
    """

    source: str
    run_id: int = Field(ge=0)
    seq: int = Field(ge=1)
    sent_at_s: float
    mono_s: float
    cause: str | None = None
    version: int = PROTOCOL_VERSION


class Body(Frozen):
    """What one message says. ``topic`` is derived from it, so that the two never disagree."""

    kind: ClassVar[str]
    standing: ClassVar[bool] = True

    @property
    def topic(self) -> str:
        """Return ``kind`` and, after a dot, what this message is about."""
        return self.kind


def message_id(topic: str, header: Header) -> str:
    """Return the identifier by which later messages name this one as their cause.

    >>> message_id("sample.local", Header(source="monitor", run_id=127, seq=412, sent_at_s=0, mono_s=0))
    'monitor/7f/sample.local/412'
    """
    return f"{header.source}/{header.run_id:x}/{topic}/{header.seq}"


# --- monitor ---------------------------------------------------------------------------------------------------


class HostSample(Body):
    """One host over one interval, in columns: entry *i* of every list is the domain ``names[i]``.

    ``cpu_ratios[i]`` is CPU time over (elapsed x allotted CPUs), None where it is unknown: first sample, counter
    reset, stuck counter, domain not running. Only domains of configured groups are listed. ``suspended_uuids``: those
    of them that do not run and may come back by themselves (``common.domain_states``), until they are seen to run.
    """

    kind: ClassVar[str] = "sample"
    host: str
    interval_s: float = Field(gt=0)
    is_reachable: bool
    names: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    cpu_ratios: tuple[float | None, ...] = ()
    allotted_cpus: tuple[float | None, ...] = ()
    note: str = ""
    host_cpus: int | None = Field(default=None, ge=1)
    host_idle_cpus: float | None = Field(default=None, ge=0)  # CPUs that nobody used, mean over the interval
    suspended_uuids: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """Return ``sample.<host>``."""
        return f"{self.kind}.{self.host}"

    @field_validator("cpu_ratios", "allotted_cpus")
    @classmethod
    def _never_negative(cls, column: tuple[float | None, ...]) -> tuple[float | None, ...]:
        if any(value is not None and not (math.isfinite(value) and value >= 0) for value in column):
            raise ValueError("must be finite and >= 0, or null where unknown")
        return column

    @model_validator(mode="after")
    def _columns_are_equally_long(self) -> "HostSample":
        lengths = {len(column) for column in (self.names, self.uuids, self.states, self.cpu_ratios, self.allotted_cpus)}
        if len(lengths) != 1:
            raise ValueError(f"columns must have equal lengths; got {sorted(lengths)}")
        return self


class Failure(Body):
    """A domain stopped serving, told the moment it is known. ``reason``: crashed, stopped, panicked, suspended, frozen.

    A frozen or suspended one may serve again at any moment: it takes nothing new, and what it works on is not cut off.
    ``detail`` of a suspended one begins with libvirt's reason (``common.domain_states``).
    """

    kind: ClassVar[str] = "failure"
    standing: ClassVar[bool] = False
    host: str
    domain: str
    uuid: str
    reason: str
    detail: str = ""

    @property
    def topic(self) -> str:
        """Return ``failure.<host>.<domain>``."""
        return f"{self.kind}.{self.host}.{self.domain}"


# --- decider ---------------------------------------------------------------------------------------------------


class Vote(Frozen):
    """What one policy recommends: ``capacity`` is None where it lacks data, which forbids scale-in.

    ``wanted`` is what it would recommend without its windows, ``wait_s`` how long that must last before it does.
    ``weight``: ``full``; ``floor``, which holds against scale-in below ``wanted`` but never scales in by itself; or
    ``none``, recorded and not counted. ``most``: the group may not be larger than this, whatever others want; None
    where the policy sets no such limit.
    """

    policy: str
    capacity: int | None
    reason: str
    wanted: int | None = None
    wait_s: float = 0.0
    weight: str = "full"
    most: int | None = None


class DesiredCapacity(Body):
    """How many domains a group is to have. ``generation`` only grows; an older one is never applied.

    ``is_scale_in_allowed`` is false while data are missing: then the actuator adds and replaces, and removes nothing.
    In the modes ``off`` and ``observe`` it changes nothing at all: both permissions are false then too.

    ``burst_quota`` is the share of one CPU for each vCPU of every member in rotation, None for the configured one.
    ``decided_mono_s`` is when ``desired`` took its value, on the monotonic clock of the boot ``boot_id``.
    """

    kind: ClassVar[str] = "capacity.desired"
    group: str
    generation: int = Field(ge=1)
    desired: int = Field(ge=0)
    minimum: int = Field(ge=0)
    maximum: int = Field(ge=0)
    is_scale_in_allowed: bool = True
    is_replacement_allowed: bool = True
    mode: str = "on"
    reason: str = ""
    decision_id: str = ""
    burst_quota: float | None = Field(default=None, gt=0, le=1)
    decided_mono_s: float | None = None
    boot_id: str = ""

    @property
    def topic(self) -> str:
        """Return ``capacity.desired.<group>``."""
        return f"{self.kind}.{self.group}"


class Evidence(Frozen):
    """The figures a decision stands on; None where unknown."""

    cpu_ratio: float | None = None
    cpu_ratio_low_guess: float | None = None  # unknown domains counted as 0: used for scale-out
    cpu_ratio_high_guess: float | None = None  # unknown domains counted as 1: used for scale-in
    domains_ready: int = 0
    domains_coming: int = 0
    domains_known: int = 0
    out_window_filled_s: float = 0.0
    in_window_filled_s: float = 0.0
    request_rate: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    response_time_s: float | None = None  # HAProxy's mean over its last 1,024 requests, however old they are
    error_rate: float | None = None
    domains_overdue: int = 0  # of those that are coming: late, so that nobody waits for them
    in_flight_mean: float | None = None  # over 8 s; known, like the next two, while above one for each ready domain
    response_fast_s: float | None = None  # requests in flight over requests per second: over 8 s …
    response_slow_s: float | None = None  # … and over two minutes
    error_fast_ratio: float | None = None  # of the requests that came over 8 s; known, like the next, while above 0
    error_slow_ratio: float | None = None  # of those that came over two minutes
    requested_s_ago: float | None = None  # when the endpoint last carried a request; None: it was not seen to
    domains_warming: int = 0  # ready, but too new for their own CPU use to count for scale-out
    full_hosts: tuple[str, ...] = ()  # there CPU ratios are shares of what the domains can have, not of their allotment


class Taken(Frozen):
    """A message that a decision took in: its ``message_id`` and when it was measured, on the decider's clock."""

    id: str
    at_s: float


class Ordered(Frozen):
    """A request that a decision took in, and when it was handled, on the decider's clock."""

    verb: str
    args: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    now_s: float


class Claim(Frozen):
    """What an overloaded group could use on one host beyond its allotment, and what it uses beyond it already.

    ``wanted_cpus`` is 0 where the group asks for nothing; ``excess_cpus`` still counts as what the host can spare.
    """

    group: str
    host: str
    wanted_cpus: float = Field(ge=0)
    excess_cpus: float = Field(ge=0, default=0.0)
    reserve_cpus: float = Field(ge=0, default=0.0)


class DecisionRecord(Body):
    """One tick of one group: also when nothing happens.

    ``action`` is ``out``, ``in`` or ``hold``. ``limiter`` names what kept the decision from the recommendation (none,
    bounds, cooldown, window, unknown-data, stale-data, projection, step-limit, paused, operator, observing, unhealthy,
    blocked, floor, host-full, …), ``limiter_text`` says it in plain words and ``counterfactual`` what would change the
    outcome.

    ``now_s``, ``at_s`` (the same instant on the decider's monotonic clock and in epoch seconds), ``taken``, ``ordered``
    and, in the first record of a run, ``resumed_from`` (the stored state it began with, as JSON) and ``learned`` (what
    its policies had learned, as ``learned.to_text``) are all that the decision depends on: the same core, fed with
    them, repeats it. ``basis`` (in the first record of a run and now and then, as JSON) holds the settings that it ran
    with, and the stored state after this tick; beside a later one, more rarely, ``learned`` holds what had been learned
    after the tick.

    ``burst_quota`` is what the actuator was told (see ``DesiredCapacity``), ``burst_text`` why, and ``burst_rivals``
    what other groups claimed of the same hosts.

    ``patience_s`` is the calm that a scale-in waits for where a former one had to be undone, ``patience_left_s`` how
    long that holds; both are 0 where the policies' own windows count.
    """

    kind: ClassVar[str] = "decision"
    group: str
    tick: int = Field(ge=0)
    decision_id: str
    action: str
    desired_before: int
    desired_after: int
    recommended: int | None
    votes: tuple[Vote, ...]
    limiter: str
    limiter_text: str
    counterfactual: str
    evidence: Evidence
    mode: str = "on"
    cooldown_out_left_s: float = 0.0
    cooldown_in_left_s: float = 0.0
    now_s: float = 0.0
    at_s: float = 0.0
    taken: tuple[Taken, ...] = ()
    ordered: tuple[Ordered, ...] = ()
    resumed_from: str = ""
    basis: str = ""
    learned: str = ""
    burst_quota: float | None = None
    burst_text: str = ""
    burst_rivals: tuple[Claim, ...] = ()
    patience_s: float = 0.0
    patience_left_s: float = 0.0

    @property
    def topic(self) -> str:
        """Return ``decision.<group>``."""
        return f"{self.kind}.{self.group}"


# --- actuator --------------------------------------------------------------------------------------------------


class Member(Frozen):
    """One owned domain. ``address`` is None until it is known; ``cause`` leads back to the decision.

    ``tier`` is how it came to service, or in phase standby how it waits for it: ``clone``, ``paused``, ``saved``,
    ``running`` (in rotation beyond what is desired), or empty: it booted. One on its way to phase standby is there
    already for everybody else. ``is_probed``: it answered as itself a moment ago, and may serve without another check.
    """

    name: str
    uuid: str
    host: str
    phase: Phase
    since_s: float
    age_s: float = Field(ge=0)
    address: str | None
    port: int
    is_protected: bool = False
    cause: str = ""
    note: str = ""
    tier: str = ""
    is_probed: bool = False


class LeadTime(Frozen):
    """How long it takes from a decision to a domain in rotation, as measured on one host for one tier ("" is cold)."""

    tier: str
    host: str
    n: int = Field(ge=1)
    p50_s: float = Field(ge=0)
    p95_s: float = Field(ge=0)


class Membership(Body):
    """Every owned domain of a group, as libvirt shows it, and what keeps the group from its desired capacity.

    ``blocked`` says in plain words what the actuator wants but cannot do (breaker open, ceiling, host lost, no room);
    empty when nothing is in the way. ``is_waiting``: part of that passes by itself, for others go first or something is
    being found out; a group that waits is not stuck. ``boot_p50_s`` is the measured time from start to serving, None
    before the first. ``notes``: what was chosen for the group, and what another way had to be found for, and why.
    ``adoptable``: how many domains of an existing group run and are no members yet: they will be, unless the group only
    observes.
    """

    kind: ClassVar[str] = "membership"
    group: str
    generation_seen: int = Field(ge=0)
    desired_seen: int | None
    members: tuple[Member, ...]
    owned_total: int = Field(ge=0)
    ceiling: int = Field(ge=0)
    breaker: str = "closed"
    breaker_opens_until_s: float | None = None
    blocked: str = ""
    unreachable_hosts: tuple[str, ...] = ()
    boot_p50_s: float | None = None
    boot_p95_s: float | None = None
    lead_times: tuple[LeadTime, ...] = ()
    notes: tuple[str, ...] = ()
    adoptable: int = Field(ge=0, default=0)
    is_waiting: bool = False

    @property
    def topic(self) -> str:
        """Return ``membership.<group>``."""
        return f"{self.kind}.{self.group}"


# --- balancer --------------------------------------------------------------------------------------------------


class BackendState(Frozen):
    """One member as HAProxy sees it.

    ``state``: ``joining`` (address set, check pending), ``ready`` (takes traffic), ``draining`` (no new traffic),
    ``left`` (no traffic, no connection, slot free), ``unplaced`` (no slot free), ``held`` (suspended: no new traffic,
    what is in flight waits for it, unchecked), ``unknown`` (its address is not known, and a slot serves that may be its
    own). ``is_healthy`` is HAProxy's own check, None before its first result. ``is_kept``: its checks time out, and it
    keeps its traffic all the same, because somebody waits for it and nobody else is up.
    """

    name: str
    uuid: str
    slot: str | None
    state: str
    is_healthy: bool | None
    check: str = ""
    in_flight: int = Field(ge=0, default=0)
    unhealthy_s: float = 0.0
    is_kept: bool = False


class Drain(Body):
    """What the balancer has done with every member: the actuator's leave to go on with a drain.

    ``notes``: what it does otherwise than usual, and why, for people.
    """

    kind: ClassVar[str] = "drain"
    group: str
    endpoint: str
    is_proxy_alive: bool
    backends: tuple[BackendState, ...]
    slots_total: int = 0
    cut_sessions_total: int = 0
    notes: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """Return ``drain.<group>``."""
        return f"{self.kind}.{self.group}"


class Traffic(Body):
    """What a group's endpoint carried over one interval; columns are by member, in the order of ``names``.

    ``response_time_s`` is HAProxy's mean over its last 1024 requests; rates are per second over the interval.
    ``answer_rate`` counts answers of members with a status of 2xx or 3xx, None where unknown and in TCP mode.
    """

    kind: ClassVar[str] = "traffic"
    group: str
    interval_s: float = Field(gt=0)
    is_known: bool
    request_rate: float | None = None
    error_rate: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    queue_time_s: float | None = None
    response_time_s: float | None = None
    names: tuple[str, ...] = ()
    request_rates: tuple[float | None, ...] = ()
    in_flights: tuple[int | None, ...] = ()
    response_times_s: tuple[float | None, ...] = ()
    answer_rate: float | None = None

    @property
    def topic(self) -> str:
        """Return ``traffic.<group>``."""
        return f"{self.kind}.{self.group}"


# --- every service ---------------------------------------------------------------------------------------------


class Event(Body):
    """Something worth a line in ``autoscaler events`` and a mark on the graph.

    ``name``: scale-out, scale-in, domain-failed, domain-started, domain-ready, domain-stopped, domain-replaced,
    drain-forced, drain-cancelled, breaker-opened, breaker-closed, host-lost, host-back, operator, config-reloaded,
    config-refused, ….
    """

    kind: ClassVar[str] = "event"
    standing: ClassVar[bool] = False
    name: str
    group: str = ""
    domain: str = ""
    host: str = ""
    text: str = ""
    level: str = "info"

    @property
    def topic(self) -> str:
        """Return ``event.<name>``."""
        return f"{self.kind}.{self.name}"


class ServiceStatus(Body):
    """That a process lives and works; sent every ``republish_s`` by its own loop."""

    kind: ClassVar[str] = "service"
    name: str
    pid: int
    started_at_s: float
    release: str
    config_digest: str = ""
    counters: dict[str, int] = Field(default_factory=dict)
    note: str = ""

    @property
    def topic(self) -> str:
        """Return ``service.<name>``."""
        return f"{self.kind}.{self.name}"


# --- request and reply -----------------------------------------------------------------------------------------


QUESTIONS: Final = frozenset({"explain", "history"})
"""The verbs that change nothing: whoever may listen may ask them."""


class Request(Frozen):
    """What an operator asks of one service. ``verb`` and its ``args`` are checked by the service.

    ``by``: sent, it is what the asker calls himself; received, the door has put before it who he is.
    """

    verb: str
    args: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    by: str = ""


class Reply(Frozen):
    """The answer: ``applied``, ``refused`` (understood, not done: see ``reason``) or ``error`` (not understood)."""

    status: str
    reason: str = ""
    data: dict[str, Any] = Field(default_factory=dict)


BODIES: Final[tuple[type[Body], ...]] = (
    HostSample,
    Failure,
    DesiredCapacity,
    DecisionRecord,
    Membership,
    Drain,
    Traffic,
    Event,
    ServiceStatus,
)
