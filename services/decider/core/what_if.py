"""Another configuration over recorded demand: the decider's core decides, a model answers.

# Note [The model]
Demand is what the ready domains used: the sum of CPU ratio x allotted CPUs. The model's domains, all alike, share it
evenly: CPU ratio = (demand + backlog) / capacity, at most 1. What is over waits, up to ``BACKLOG_S`` of the demand, and
shows as requests in flight, as queue, and as response time on top of the shortest recorded one. A new domain serves
the recorded median lead time after the decision; one that is taken away leaves rotation at once and is gone after the
recorded median drain. Not modelled: failures, the operator's orders, CPU that booting takes.

Two errors cannot be avoided: where all recorded domains were busy, the true demand was higher than what they used (too
kind to fewer domains), and what they did later to catch up counts as demand of that time (too hard on more domains).
The recorded policy in the same model shows how large they are.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Final

from common.messages import HostSample, Member, Membership, Traffic
from common.phases import Phase
from services.decider.core.demand import Elasticity, elasticity
from services.decider.core.events import MembershipSeen, PublishRecord, SampleSeen, Tick, TrafficSeen
from services.decider.core.explain import sentence
from services.decider.core.group import handle
from services.decider.core.replay import Replayed
from services.decider.core.seen import Reading, members
from services.decider.core.state import GroupState, Settings, begin

BACKLOG_S: Final = 30.0
DEFAULT_THRESHOLD: Final = 0.8
GAP_INTERVALS: Final = 3.0
SEEN_WITHIN_S: Final = 5.0  # a domain of a decision shows in the membership by then


@dataclass(frozen=True, slots=True)
class Instant:
    """What a recorded tick says about demand; ``request_rate`` None: unknown."""

    now_s: float
    at_s: float
    demand_cpus: float
    request_rate: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """What a side has at a tick, and what it decided; ``cpu_ratio`` None: unknown."""

    ready: int
    owned: int
    desired: int
    cpu_ratio: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Past:
    """What a recording says about one group, tick by tick, and the figures that the model needs.

    Where nothing is known of the demand, the last known one holds for a while (``unknown_ticks``), and then a tick is
    left out (``left_out_ticks``) on all sides. ``boot_s`` is what the actuator had measured, also before the recording.
    """

    settings: Settings
    instants: tuple[Instant, ...]
    steps: tuple[Step, ...]
    allotted_cpus: float
    lead_s: float | None
    boot_s: float | None
    leave_s: float
    response_s: float | None
    unknown_ticks: int
    left_out_ticks: int


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures. ``over_threshold_s``: time at or above the CPU ratio at which the recorded group scales out.

    ``flaps`` counts changes of direction of the desired capacity, ``starts`` new domains.
    """

    domain_hours: float
    over_threshold_s: float
    starts: int
    changes: int
    flaps: int
    elasticity: Elasticity


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the same policy and the other one, both in the model, first want another capacity."""

    at_s: float
    tick: int
    control: str
    other: str


# --- what the recording says -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Watch:
    """What is gathered over the ticks of a recording."""

    samples: dict[str, HostSample] = field(default_factory=dict)
    decided_at_s: dict[str, float] = field(default_factory=dict)
    started_at_s: dict[str, float] = field(default_factory=dict)
    leaving_at_s: dict[str, float] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    leads_s: list[float] = field(default_factory=list)
    leaves_s: list[float] = field(default_factory=list)
    responses_s: list[float] = field(default_factory=list)
    allotments: list[float] = field(default_factory=list)
    unknown_ticks: int = 0
    demand_cpus: float | None = None
    known_at_s: float = 0.0
    boot_s: float | None = None

    def take(self, replayed: Replayed) -> None:
        record = replayed.heard.record
        self.samples.update(
            {body.host: body for body in replayed.heard.inputs.values() if isinstance(body, HostSample)}
        )
        if record.action != "hold":
            self.decided_at_s[record.decision_id] = record.now_s
        membership = replayed.state.seen.membership
        if membership is not None:
            self.boot_s = membership.boot_p50_s or self.boot_s
            self._follow(members(replayed.state.seen), record.now_s)
        if record.evidence.response_time_s is not None:
            self.responses_s.append(record.evidence.response_time_s)
        self._measure(replayed)

    def _follow(self, now: Sequence[Member], now_s: float) -> None:
        """Note who has come, serves and has left; one that stands by is not there until it is woken."""
        now = [member for member in now if member.phase is not Phase.STANDBY]
        is_first = not self.known
        for member in now:
            if member.uuid not in self.known and not is_first and member.phase is not Phase.READY:
                decided_at_s = self.decided_at_s.get(member.cause, now_s)
                is_direct = now_s - decided_at_s <= SEEN_WITHIN_S  # else it replaces one of that decision
                self.started_at_s[member.uuid] = decided_at_s if is_direct else now_s
            self.known.add(member.uuid)
            if member.phase is Phase.READY and member.uuid in self.started_at_s:
                self.leads_s.append(now_s - self.started_at_s.pop(member.uuid))
            if member.phase is Phase.DRAINING:
                self.leaving_at_s.setdefault(member.uuid, now_s)
        gone = self.leaving_at_s.keys() - {member.uuid for member in now if member.phase is not Phase.GONE}
        self.leaves_s += [now_s - self.leaving_at_s.pop(uuid) for uuid in gone]

    def _measure(self, replayed: Replayed) -> None:
        """Add up what the ready domains use; where one is unknown, the mean of the known ones stands for it."""
        evidence = replayed.heard.record.evidence
        rows = {
            name: cpus
            for sample in self.samples.values()
            for name, cpus in zip(sample.names, sample.allotted_cpus, strict=True)
        }
        ready = [member.name for member in members(replayed.state.seen) if member.phase is Phase.READY]
        allotted = [cpus for name in ready if (cpus := rows.get(name))]
        self.allotments += [median(allotted)] if allotted else []
        if evidence.cpu_ratio is None or evidence.domains_known < evidence.domains_ready or not allotted:
            self.unknown_ticks += 1
        if evidence.cpu_ratio is not None and allotted:
            self.known_at_s = replayed.heard.record.now_s
            self.demand_cpus = evidence.cpu_ratio * median(allotted) * evidence.domains_ready


def past(ticks: Iterable[Replayed]) -> Past | None:
    """Return what the recorded ticks of one group say; None if they never show a ready domain's use."""
    watch, instants, steps = _Watch(), [], []
    settings: Settings | None = None
    left_out_ticks = 0
    for replayed in ticks:
        watch.take(replayed)
        settings, record = replayed.state.settings, replayed.heard.record
        is_held = 0 <= record.now_s - watch.known_at_s <= settings.standing_stale_after_s
        if watch.demand_cpus is None or not is_held:
            left_out_ticks += 1
            continue
        rate = record.evidence.request_rate
        instants.append(Instant(record.now_s, record.at_s, watch.demand_cpus, rate))
        owned = len(members(replayed.state.seen))
        evidence = record.evidence
        steps.append(Step(evidence.domains_ready, owned, record.desired_after, evidence.cpu_ratio, sentence(record)))
    if settings is None or not watch.allotments:
        return None
    return Past(
        settings=settings,
        instants=tuple(instants),
        steps=tuple(steps),
        allotted_cpus=median(watch.allotments),
        lead_s=median(watch.leads_s) if watch.leads_s else None,
        boot_s=watch.boot_s,
        leave_s=median(watch.leaves_s) if watch.leaves_s else 0.0,
        response_s=min(watch.responses_s) if watch.responses_s else None,
        unknown_ticks=watch.unknown_ticks - left_out_ticks,
        left_out_ticks=left_out_ticks,
    )


# --- the model -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Domain:
    name: str
    ready_at_s: float
    gone_at_s: float | None = None

    def phase(self, now_s: float) -> Phase:
        if self.gone_at_s is not None:
            return Phase.DRAINING
        return Phase.READY if now_s >= self.ready_at_s else Phase.BOOTING


@dataclass(slots=True)
class _World:
    """The model's domains, and the work that waits; see Note [The model]."""

    past: Past
    lead_s: float
    host: str
    group: str
    max_in_flight: int
    domains: list[_Domain] = field(default_factory=list)
    backlog_cpu_s: float = 0.0
    made: int = 0

    def add(self, ready_at_s: float) -> None:
        self.domains.append(_Domain(f"model-{self.made:04d}", ready_at_s))
        self.made += 1

    def ready(self, now_s: float) -> int:
        return sum(domain.phase(now_s) is Phase.READY for domain in self.domains)

    def carry(self, instant: Instant, elapsed_s: float) -> float:
        """Return the CPU ratio of the ready domains over the last ``elapsed_s``, and keep what they did not manage."""
        capacity = self.ready(instant.now_s) * self.past.allotted_cpus * elapsed_s
        work = instant.demand_cpus * elapsed_s + self.backlog_cpu_s
        served = min(work, capacity)
        self.backlog_cpu_s = min(work - served, BACKLOG_S * instant.demand_cpus)
        return served / capacity if capacity else 0.0

    def obey(self, desired: int, now_s: float) -> None:
        """Start what lacks; let the newest of too many leave."""
        self.domains = [domain for domain in self.domains if domain.gone_at_s is None or domain.gone_at_s > now_s]
        staying = [domain for domain in self.domains if domain.gone_at_s is None]
        for _ in range(desired - len(staying)):
            self.add(now_s + self.lead_s)
        for domain in staying[desired:]:
            domain.gone_at_s = now_s + self.past.leave_s

    def membership(self, now_s: float) -> Membership:
        rows = tuple(
            Member(
                name=domain.name, uuid=domain.name, host=self.host, phase=domain.phase(now_s), since_s=0.0,
                age_s=max(now_s - domain.ready_at_s, 0.0),
                address=None, port=0,
            )
            for domain in self.domains
        )  # fmt: skip
        return Membership(
            group=self.group, generation_seen=0, desired_seen=None, members=rows, owned_total=len(rows),
            ceiling=len(rows), boot_p50_s=self.lead_s, boot_p95_s=self.lead_s,
        )  # fmt: skip

    def traffic(self, instant: Instant) -> Traffic:
        ready, rate = self.ready(instant.now_s), instant.request_rate
        wait_s = self.backlog_cpu_s / (ready * self.past.allotted_cpus) if ready else 0.0
        response_s = None if self.past.response_s is None else self.past.response_s + wait_s
        unanswered = 0 if rate is None or response_s is None else math.ceil(rate * response_s)
        in_flight = min(unanswered, ready * self.max_in_flight)
        return Traffic(
            group=self.group, interval_s=self.past.settings.interval_s, is_known=True, request_rate=rate,
            error_rate=0.0, queue=unanswered - in_flight, in_flight=in_flight, response_time_s=response_s,
        )  # fmt: skip


def modelled(past: Past, settings: Settings, lead_s: float) -> tuple[Step, ...]:
    """Return what ``settings`` would have done over the recorded demand, one step for each recorded tick.

    Args:
        past: With at least one instant.
        settings: The other group's; ``interval_s`` is that of the recording.
        lead_s: From a decision to a domain that serves.
    """
    world = _World(past, lead_s, settings.group.hosts[0], settings.name, settings.group.max_in_flight)
    first = past.instants[0]
    old_s = first.now_s - settings.group.warm_up_s  # who serves when it begins has served for a while
    for number in range(past.steps[0].desired):
        world.add(old_s if number < past.steps[0].ready else first.now_s + lead_s)
    state, steps, last_s = begin(settings), [], first.now_s - settings.interval_s
    for number, instant in enumerate(past.instants):
        elapsed_s = instant.now_s - last_s
        if not 0 < elapsed_s <= GAP_INTERVALS * settings.interval_s:
            elapsed_s, world.backlog_cpu_s = settings.interval_s, 0.0
        ratio = world.carry(instant, elapsed_s)
        state, step = _step(state, world, instant, ratio, number)
        world.obey(step.desired, instant.now_s)
        steps.append(step)
        last_s = instant.now_s
    return tuple(steps)


def _step(state: GroupState, world: _World, instant: Instant, ratio: float, number: int) -> tuple[GroupState, Step]:
    now_s = instant.now_s
    ready, owned = world.ready(now_s), len(world.domains)
    ratios = {domain.name: (domain.name, ratio) for domain in world.domains}
    for event in (
        MembershipSeen(world.membership(now_s), now_s, f"model/membership/{number}"),
        SampleSeen(Reading(world.host, now_s, f"model/sample/{number}", True, ratios)),
        TrafficSeen(world.traffic(instant), now_s, f"model/traffic/{number}"),
    ):
        state, _ = handle(state, event, now_s)
    state, actions = handle(state, Tick(instant.at_s), now_s)
    record = next(action.body for action in actions if isinstance(action, PublishRecord))
    return state, Step(ready, owned, record.desired_after, ratio if ready else None, sentence(record))


def adjusted(settings: Settings, recorded: Settings) -> Settings:
    """Return another configuration's settings on the recording's beat: its figures come no more often."""
    return replace(
        settings,
        name=recorded.name,
        interval_s=recorded.interval_s,
        stale_after_s=recorded.stale_after_s,
        republish_s=recorded.republish_s,
    )


# --- the yardsticks --------------------------------------------------------------------------------------------------


def threshold_ratio(past: Past) -> float:
    """Return the CPU ratio that counts as too busy: where the recorded group scales out, else 0.8."""
    return past.settings.out_point_ratio or DEFAULT_THRESHOLD


def needed(past: Past) -> tuple[int, ...]:
    """Return how many domains the demand of each tick needs to stay below the threshold."""
    full_cpus = past.allotted_cpus * threshold_ratio(past)
    return tuple(math.ceil(instant.demand_cpus / full_cpus) for instant in past.instants)


def judged(past: Past, steps: Sequence[Step]) -> Side:
    """Return the figures of a side, recorded or modelled: the same functions for both."""
    interval_s, threshold = past.settings.interval_s, threshold_ratio(past)
    desired = [step.desired for step in steps]
    moves = [after - before for before, after in pairwise(desired) if after != before]
    supply = [step.ready for step in steps]
    owned = [step.owned for step in steps]
    return Side(
        domain_hours=sum(owned) * interval_s / 3600,
        over_threshold_s=interval_s * sum(step.cpu_ratio is not None and step.cpu_ratio >= threshold for step in steps),
        starts=sum(max(after - before, 0) for before, after in pairwise(owned)),
        changes=len(moves),
        flaps=sum((one > 0) != (other > 0) for one, other in pairwise(moves)),
        elasticity=elasticity(needed(past), supply, interval_s),
    )


def first_difference(past: Past, control: Sequence[Step], steps: Sequence[Step]) -> Difference | None:
    """Return where ``steps`` first want another capacity than ``control``: the model's own error is in both."""
    for number, (own, other) in enumerate(zip(control, steps, strict=True)):
        if own.desired != other.desired:
            return Difference(past.instants[number].at_s, number + 1, own.text, other.text)
    return None
