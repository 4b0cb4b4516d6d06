"""The catalogue of messages: what travels on the bus, and nothing else does.

A message is two frames: the topic, and a MessagePack map ``{"header": …, "body": …}``. Every body is one
frozen class below, checked once when it arrives (``common.wire``) and never again. A standing message says what is;
the newest one wins, and a late subscriber gets the last one at once. An event happened once; it is sent at
once and shows up in the next standing message too. Unknown fields are ignored, so that versions may be mixed;
an unknown ``version`` is refused. Units are in the names; ``None`` means unknown, never zero.

Every field is bounded by its type: a figure beyond its bounds refuses the message, a text is made plain and cut.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common import figures
from common.phases import Phase
from common.plain import MAX_LINE, MAX_NAME, plain, plain_names, plain_text, plain_values

PROTOCOL_VERSION: Final = 1
FROZEN: Final = "frozen"  # a reason of a ``Failure`` that may pass by itself: its process is stopped …
SUSPENDED: Final = "suspended"  # … or libvirt, its owner or a fault of its host has paused it

MAX_DOMAINS: Final = 10_000  # in one column
MAX_ROWS: Final = 1_000  # policies, hosts, notes, …: what a group has a handful of
MAX_ARGUMENTS: Final = 64
MAX_TAKEN: Final = 20_000
MAX_BLOB: Final = 4 * 1024 * 1024  # as a message

Ratio = Annotated[float, Field(ge=0, le=figures.MAX_RATIO)]
"""A share of the whole: in [0, 1], or above where two clocks or a burst are involved."""
Cpus = Annotated[float, Field(ge=0, le=figures.MAX_CPUS)]
Rate = Annotated[float, Field(ge=0, le=figures.MAX_RATE)]
Count = Annotated[int, Field(ge=0, le=figures.MAX_COUNT)]
Mean = Annotated[float, Field(ge=0, le=figures.MAX_COUNT)]
Number = Annotated[int, Field(ge=0, le=figures.MAX_NUMBER)]
DurationS = Annotated[float, Field(ge=0, le=figures.MAX_DURATION_S)]
MonoS = Annotated[float, Field(ge=-figures.MAX_MONO_S, le=figures.MAX_MONO_S)]
"""On a monotonic clock; before its begin too, for what was measured elsewhere or in a boot before."""
EpochS = Annotated[float, Field(ge=0, le=figures.MAX_EPOCH_S)]
Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True, slots=True)
class Plain:
    """Makes a field's text plain, of at most ``most`` characters; with ``is_text``, its lines are kept."""

    most: int
    is_text: bool = False

    def __call__(self, text: str) -> str:
        """Return the text, plain; most are already."""
        if len(text) <= self.most and text.isprintable():
            return text
        return (plain_text if self.is_text else plain)(text, self.most)


Name = Annotated[str, AfterValidator(Plain(MAX_NAME))]
Line = Annotated[str, AfterValidator(Plain(MAX_LINE))]
Text = Annotated[str, AfterValidator(Plain(MAX_LINE, is_text=True))]
Blob = Annotated[str, AfterValidator(Plain(MAX_BLOB))]
"""JSON for a program: as long as a message may be."""
Names = Annotated[tuple[str, ...], Field(max_length=MAX_DOMAINS), AfterValidator(plain_names)]
Lines = Annotated[tuple[Line, ...], Field(max_length=MAX_ROWS)]
Argument = (
    Line
    | Annotated[int, Field(ge=-figures.MAX_NUMBER, le=figures.MAX_NUMBER)]
    | Annotated[float, Field(ge=-figures.MAX_EPOCH_S, le=figures.MAX_EPOCH_S)]
    | bool
    | None
)
"""What an operator may give to a verb."""
Arguments = Annotated[dict[Name, Argument], Field(max_length=MAX_ARGUMENTS)]
Data = Annotated[dict[str, Any], Field(max_length=MAX_ROWS), AfterValidator(partial(plain_values, most=MAX_BLOB))]


class Frozen(BaseModel):
    """A value: immutable, finite, tolerant of fields that a newer version added."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Header(Frozen):
    """Who said it, when, and why.

    ``run_id`` grows with every start of the sender; ``seq`` counts its messages of one topic from 1; ``mono_s`` is the
    sender's monotonic clock; ``cause`` is the ``message_id`` of what led to this one.
    """

    source: Name
    run_id: int = Field(ge=0, le=2**63 - 1)
    seq: int = Field(ge=1, le=figures.MAX_NUMBER)
    sent_at_s: EpochS
    mono_s: MonoS
    cause: Name | None = None
    version: int = Field(default=PROTOCOL_VERSION, ge=-figures.MAX_NUMBER, le=figures.MAX_NUMBER)


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
    host: Name
    interval_s: float = Field(gt=0, le=figures.MAX_DURATION_S)
    is_reachable: bool
    names: Names = ()
    uuids: Names = ()
    states: Names = ()
    cpu_ratios: Annotated[tuple[Ratio | None, ...], Field(max_length=MAX_DOMAINS)] = ()
    allotted_cpus: Annotated[tuple[Cpus | None, ...], Field(max_length=MAX_DOMAINS)] = ()
    note: Line = ""
    host_cpus: int | None = Field(default=None, ge=1, le=int(figures.MAX_CPUS))
    host_idle_cpus: Cpus | None = None  # CPUs that nobody used, mean over the interval
    suspended_uuids: Names = ()

    @property
    def topic(self) -> str:
        """Return ``sample.<host>``."""
        return f"{self.kind}.{self.host}"

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
    host: Name
    domain: Name
    uuid: Name
    reason: Name
    detail: Line = ""

    @property
    def topic(self) -> str:
        """Return ``failure.<host>.<domain>``."""
        return f"{self.kind}.{self.host}.{self.domain}"


class Recovery(Body):
    """A domain that was told as suspended runs again, told the moment it is known. Its checks say if it serves."""

    kind: ClassVar[str] = "recovery"
    standing: ClassVar[bool] = False
    host: Name
    domain: Name
    uuid: Name

    @property
    def topic(self) -> str:
        """Return ``recovery.<host>.<domain>``."""
        return f"{self.kind}.{self.host}.{self.domain}"


# --- decider ---------------------------------------------------------------------------------------------------


class Vote(Frozen):
    """What one policy recommends: ``capacity`` is None where it lacks data, which forbids scale-in.

    ``wanted`` is what it would recommend without its windows, ``wait_s`` how long that must last before it does.
    ``weight``: ``full``; ``floor``, which holds against scale-in below ``wanted`` but never scales in by itself; or
    ``none``, recorded and not counted. ``most``: the group may not be larger than this, whatever others want; None
    where the policy sets no such limit.
    """

    policy: Name
    capacity: Count | None
    reason: Line
    wanted: Count | None = None
    wait_s: DurationS = 0.0
    weight: Name = "full"
    most: Count | None = None


class DesiredCapacity(Body):
    """How many domains a group is to have. ``generation`` only grows; an older one is never applied.

    ``is_scale_in_allowed`` is false while data are missing: then the actuator adds and replaces, and removes nothing.
    In the modes ``off`` and ``observe`` it changes nothing at all: both permissions are false then too.

    ``burst_quota`` is the share of one CPU for each vCPU of every member in rotation, None for the configured one.
    ``bounds`` are those in force; ``minimum`` and ``maximum`` give way to a ``desired`` that is frozen outside of them.
    ``decided_mono_s`` is when ``desired`` took its value, on the monotonic clock of the boot ``boot_id``. ``counted``:
    the UUIDs of uncounted members that ``desired`` counts, until the actuator no longer tells them as uncounted.
    """

    kind: ClassVar[str] = "capacity.desired"
    group: Name
    generation: int = Field(ge=1, le=figures.MAX_TOLD_GENERATION)
    desired: Count
    minimum: Count
    maximum: Count
    is_scale_in_allowed: bool = True
    is_replacement_allowed: bool = True
    mode: Name = "on"
    reason: Line = ""
    decision_id: Name = ""
    burst_quota: float | None = Field(default=None, gt=0, le=1)
    decided_mono_s: MonoS | None = None
    boot_id: Name = ""
    bounds: tuple[Count, Count] | None = None
    counted: Names = ()

    @property
    def bounds_in_force(self) -> tuple[int, int]:
        """Return the fewest and the most domains; an older decider tells only those that give way."""
        return self.bounds or (self.minimum, self.maximum)

    @property
    def topic(self) -> str:
        """Return ``capacity.desired.<group>``."""
        return f"{self.kind}.{self.group}"


class Evidence(Frozen):
    """The figures a decision stands on; None where unknown."""

    cpu_ratio: Ratio | None = None
    cpu_ratio_low_guess: Ratio | None = None  # unknown domains counted as 0: used for scale-out
    cpu_ratio_high_guess: Ratio | None = None  # unknown domains counted as 1: used for scale-in
    domains_ready: Count = 0
    domains_coming: Count = 0
    domains_known: Count = 0
    out_window_filled_s: DurationS = 0.0
    in_window_filled_s: DurationS = 0.0
    request_rate: Rate | None = None
    queue: Count | None = None
    in_flight: Count | None = None
    response_time_s: DurationS | None = None  # HAProxy's mean over its last 1,024 requests, however old they are
    error_rate: Rate | None = None
    domains_overdue: Count = 0  # of those that are coming: late, so that nobody waits for them
    in_flight_mean: Mean | None = None  # over 8 s; known, like the next two, while above one for each ready domain
    response_fast_s: DurationS | None = None  # requests in flight over requests per second: over 8 s …
    response_slow_s: DurationS | None = None  # … and over two minutes
    error_fast_ratio: Rate | None = None  # of the requests that came over 8 s; known, like the next, while above 0
    error_slow_ratio: Rate | None = None  # of those that came over two minutes
    requested_s_ago: DurationS | None = None  # when the endpoint last carried a request; None: it was not seen to
    domains_warming: Count = 0  # ready, but too new for their own CPU use to count for scale-out
    full_hosts: Lines = ()  # there CPU ratios are shares of what the domains can have, not of their allotment


class Taken(Frozen):
    """A message that a decision took in: its ``message_id`` and when it was measured, on the decider's clock."""

    id: Name
    at_s: MonoS


class Ordered(Frozen):
    """A request that a decision took in, and when it was handled, on the decider's clock."""

    verb: Name
    args: Arguments = Field(default_factory=dict)
    now_s: MonoS


class Claim(Frozen):
    """What an overloaded group could use on one host beyond its allotment, and what it uses beyond it already.

    ``wanted_cpus`` is 0 where the group asks for nothing; ``excess_cpus`` still counts as what the host can spare.
    """

    group: Name
    host: Name
    wanted_cpus: Cpus
    excess_cpus: Cpus = 0.0
    reserve_cpus: Cpus = 0.0


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
    group: Name
    tick: Number
    decision_id: Name
    action: Name
    desired_before: Count
    desired_after: Count
    recommended: Count | None
    votes: Annotated[tuple[Vote, ...], Field(max_length=MAX_ROWS)]
    limiter: Name
    limiter_text: Line
    counterfactual: Line
    evidence: Evidence
    mode: Name = "on"
    cooldown_out_left_s: DurationS = 0.0
    cooldown_in_left_s: DurationS = 0.0
    now_s: MonoS = 0.0
    at_s: EpochS = 0.0
    taken: Annotated[tuple[Taken, ...], Field(max_length=MAX_TAKEN)] = ()
    ordered: Annotated[tuple[Ordered, ...], Field(max_length=MAX_TAKEN)] = ()
    resumed_from: Blob = ""
    basis: Blob = ""
    learned: Blob = ""
    burst_quota: float | None = Field(default=None, gt=0, le=1)
    burst_text: Line = ""
    burst_rivals: Annotated[tuple[Claim, ...], Field(max_length=MAX_TAKEN)] = ()
    patience_s: DurationS = 0.0
    patience_left_s: DurationS = 0.0

    @property
    def topic(self) -> str:
        """Return ``decision.<group>``."""
        return f"{self.kind}.{self.group}"


# --- actuator --------------------------------------------------------------------------------------------------


class Unready(Frozen):
    """What came back when a domain was last asked whether it serves, where that is not what readiness wants.

    ``kind``: ``status`` or ``identity`` (an HTTP answer with another status, or as another domain), ``refused``,
    ``timeout``, ``unreachable``, ``broken`` (no HTTP), ``no-address``, ``agent`` (its guest agent does not answer) or
    ``agent-identity``. ``came``: what came back; ``wanted``: what readiness wants; ``common.unready`` has the words.
    """

    kind: Name
    address: Name | None = None
    port: Port | None = None
    path: Name = ""
    came: Line = ""
    wanted: Line = "200"


class Member(Frozen):
    """One owned domain. ``address`` is None until it is known; ``cause`` leads back to the decision.

    ``tier`` is how it came to service, or in phase standby how it waits for it: ``clone``, ``paused``, ``saved``,
    ``running`` (in rotation beyond what is desired), or empty: it booted. One on its way to phase standby is there
    already for everybody else. ``is_probed``: it answered as itself a moment ago, and may serve without another check.
    ``unready``: why it does not serve, where it was asked and did not answer rightly. ``is_uncounted``: of an existing
    group, its owner has started it, and no desired capacity has counted it since.
    """

    name: Name
    uuid: Name
    host: Name
    phase: Phase
    since_s: EpochS
    age_s: DurationS
    address: Name | None
    port: Port
    is_protected: bool = False
    cause: Name = ""
    note: Line = ""
    tier: Name = ""
    is_probed: bool = False
    unready: Unready | None = None
    is_uncounted: bool = False


class LeadTime(Frozen):
    """How long it takes from a decision to a domain in rotation, as measured on one host for one tier ("" is cold)."""

    tier: Name
    host: Name
    n: int = Field(ge=1, le=figures.MAX_COUNT)
    p50_s: DurationS
    p95_s: DurationS


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
    group: Name
    generation_seen: int = Field(ge=0, le=figures.MAX_SEEN_GENERATION)
    desired_seen: Count | None
    members: Annotated[tuple[Member, ...], Field(max_length=MAX_DOMAINS)]
    owned_total: Count
    ceiling: Count
    breaker: Name = "closed"
    breaker_opens_until_s: MonoS | None = None
    blocked: Line = ""
    unreachable_hosts: Lines = ()
    boot_p50_s: DurationS | None = None
    boot_p95_s: DurationS | None = None
    lead_times: Annotated[tuple[LeadTime, ...], Field(max_length=MAX_ROWS)] = ()
    notes: Lines = ()
    adoptable: Count = 0
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
    what is in flight waits for it, unchecked), ``restless`` (went down again and again: no new traffic, and
    unhealthy), ``unknown`` (its address is not known, and a slot serves that may be its own). ``is_healthy`` is
    HAProxy's own check, None before its first result. ``in_flight``: requests, those too that an older process of
    HAProxy works on after a reload; not ``is_in_flight_known``: at least so many, for such a process has not said what
    it has, or may still ask the member. ``is_kept``: its checks time out, and it keeps its traffic all the same,
    because somebody waits for it and nobody else is up.
    """

    name: Name
    uuid: Name
    slot: Name | None
    state: Name
    is_healthy: bool | None
    check: Line = ""
    in_flight: Count = 0
    is_in_flight_known: bool = True
    unhealthy_s: DurationS = 0.0
    is_kept: bool = False


class Drain(Body):
    """What the balancer has done with every member: the actuator's leave to go on with a drain.

    ``notes``: what it does otherwise than usual, and why, for people.
    """

    kind: ClassVar[str] = "drain"
    group: Name
    endpoint: Name
    is_proxy_alive: bool
    backends: Annotated[tuple[BackendState, ...], Field(max_length=MAX_DOMAINS)]
    slots_total: Count = 0
    cut_sessions_total: Count = 0
    notes: Lines = ()

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
    group: Name
    interval_s: float = Field(gt=0, le=figures.MAX_DURATION_S)
    is_known: bool
    request_rate: Rate | None = None
    error_rate: Rate | None = None
    queue: Count | None = None
    in_flight: Count | None = None
    queue_time_s: DurationS | None = None
    response_time_s: DurationS | None = None
    names: Names = ()
    request_rates: Annotated[tuple[Rate | None, ...], Field(max_length=MAX_DOMAINS)] = ()
    in_flights: Annotated[tuple[Count | None, ...], Field(max_length=MAX_DOMAINS)] = ()
    response_times_s: Annotated[tuple[DurationS | None, ...], Field(max_length=MAX_DOMAINS)] = ()
    answer_rate: Rate | None = None

    @property
    def topic(self) -> str:
        """Return ``traffic.<group>``."""
        return f"{self.kind}.{self.group}"


# --- every service ---------------------------------------------------------------------------------------------


class Event(Body):
    """Something worth a line in ``autoscaler events`` and a mark on the graph.

    ``name``: scale-out, scale-in, domain-failed, domain-started, domain-ready, domain-stopped, domain-replaced,
    drain-forced, drain-cancelled, breaker-opened, breaker-closed, host-lost, host-back, operator, config-reloaded,
    config-refused, service-restarted, recording-gap, ….
    """

    kind: ClassVar[str] = "event"
    standing: ClassVar[bool] = False
    name: Name
    group: Name = ""
    domain: Name = ""
    host: Name = ""
    text: Line = ""
    level: Name = "info"

    @property
    def topic(self) -> str:
        """Return ``event.<name>``."""
        return f"{self.kind}.{self.name}"


class ServiceStatus(Body):
    """That a process lives and works; sent every ``republish_s`` by its own loop."""

    kind: ClassVar[str] = "service"
    name: Name
    pid: int = Field(ge=0, le=figures.MAX_COUNT)
    started_at_s: EpochS
    release: Name
    config_digest: Name = ""
    counters: Annotated[dict[Name, Number], Field(max_length=MAX_ROWS)] = Field(default_factory=dict)
    note: Line = ""

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

    verb: Name
    args: Arguments = Field(default_factory=dict)
    by: Name = ""


class Reply(Frozen):
    """The answer: ``applied``, ``refused`` (understood, not done: see ``reason``) or ``error`` (not understood)."""

    status: Name
    reason: Text = ""
    data: Data = Field(default_factory=dict)


BODIES: Final[tuple[type[Body], ...]] = (
    HostSample,
    Failure,
    Recovery,
    DesiredCapacity,
    DecisionRecord,
    Membership,
    Drain,
    Traffic,
    Event,
    ServiceStatus,
)
