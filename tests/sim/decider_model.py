"""A model group in virtual time: domains boot, serve, drain; the decider's core is the real one."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from common.config import Group
from common.messages import Drain, HostSample, Member, Membership, Request, Traffic
from common.phases import Phase
from services.decider.core.events import (
    Action,
    Answer,
    Asked,
    CoreEvent,
    DrainSeen,
    Emit,
    MembershipSeen,
    PublishDesired,
    PublishRecord,
    SampleSeen,
    Save,
    Tick,
    TrafficSeen,
)
from services.decider.core.group import handle
from services.decider.core.seen import read_sample
from services.decider.core.state import GroupState, Settings, begin
from services.decider.core.stored import Instant, from_values, to_values

EPOCH_S = 1_700_000_000.0
START_S = 1000.0
BOOT_S = 12.0
DRAIN_S = 3.0

Load = Callable[[float], float]
"""Demand in domains (1.0 keeps one domain fully busy) at ``t`` seconds after the start."""


def settings(**changes: object) -> Settings:
    """Return the settings of a demo group, changed by keys of its table."""
    group = Group.model_validate({"prefix": "web-", **changes})
    return Settings("web", group, interval_s=1.0, stale_after_s=3.5, republish_s=2.0, slots=64, run_id=127)


@dataclass
class Domain:
    """One model domain."""

    name: str
    uuid: str
    started_s: float
    leaving_s: float | None = None
    is_dead: bool = False
    boot_s: float = BOOT_S

    def phase(self, now_s: float) -> Phase:
        if self.is_dead:
            return Phase.FAILED
        if self.leaving_s is not None:
            return Phase.DRAINING if now_s - self.leaving_s < DRAIN_S else Phase.GONE
        return Phase.READY if now_s - self.started_s >= self.boot_s else Phase.BOOTING

    def age_s(self, now_s: float) -> float:
        """Return how long it has been in its phase."""
        booted_s = self.started_s + self.boot_s
        since_s = self.leaving_s if self.leaving_s is not None else booted_s if now_s >= booted_s else self.started_s
        return max(now_s - since_s, 0.0)


@dataclass
class World:
    """The group, its load, and what reaches the decider of them."""

    load: Load
    settings: Settings = field(default_factory=settings)
    ready: int = 1
    loss: float = 0.0
    lost_in_a_row: float = math.inf  # messages of one kind, at most
    chaos: bool = False  # duplicates and reorders messages
    seed: int = 1
    missing: Callable[[float, str], bool] = lambda t, name: False
    traffic: Callable[[float], Traffic | None] | None = None
    boot_s: float = BOOT_S
    state: GroupState = field(init=False)
    now_s: float = START_S
    domains: list[Domain] = field(default_factory=list)
    desired: list[tuple[float, int]] = field(default_factory=list)  # changes: (t, to how many)
    samples: dict[str, HostSample] = field(default_factory=dict)  # by the message's identifier
    actions: list[Action] = field(default_factory=list)
    saved: str = ""
    started: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.state = begin(self.settings)
        self.wanted: int | None = None
        self.generation = 0
        self.held_back: list[CoreEvent] = []
        self.runs_lost: dict[type[CoreEvent], int] = {}
        for _ in range(self.ready):
            self.add(self.now_s - BOOT_S)

    @property
    def t(self) -> float:
        return self.now_s - START_S

    def add(self, started_s: float) -> None:
        self.domains.append(Domain(f"web-{self.started:04d}", f"uuid-{self.started}", started_s, boot_s=self.boot_s))
        self.started += 1

    def capacity(self) -> list[Domain]:
        return [d for d in self.domains if d.leaving_s is None and not d.is_dead]

    def serving(self) -> list[Domain]:
        return [d for d in self.domains if d.phase(self.now_s) is Phase.READY]

    def run(self, seconds: float) -> Self:
        for _ in range(int(seconds)):
            self.step()
        return self

    def step(self) -> None:
        self.now_s += 1.0
        self.act()
        for event in self.heard():
            self.pass_on(event)
        self.pass_on(self.tick())

    def tick(self) -> Tick:
        return Tick(EPOCH_S + self.t)

    def act(self) -> None:
        """Do what an actuator does: replace the dead, add what lacks, let the newest of too many leave."""
        self.domains = [d for d in self.domains if not d.is_dead and d.phase(self.now_s) is not Phase.GONE]
        if self.wanted is None:
            return
        while len(self.capacity()) < self.wanted:
            self.add(self.now_s)
        for domain in self.capacity()[self.wanted :]:
            domain.leaving_s = self.now_s

    def pass_on(self, event: CoreEvent) -> None:
        self.state, actions = handle(self.state, event, self.now_s)
        self.actions += actions
        for action in actions:
            if isinstance(action, Save):
                self.saved = json.dumps(to_values(action.standing, self.instant()))
            if isinstance(action, PublishDesired):
                if self.wanted != action.body.desired:
                    self.desired.append((self.t, action.body.desired))
                self.wanted, self.generation = action.body.desired, action.body.generation

    def instant(self) -> Instant:
        return Instant("boot", self.now_s, EPOCH_S + self.t)

    def restart(self) -> None:
        """Kill the decider and start it again with what it had saved."""
        standing = from_values(json.loads(self.saved), self.instant()) if self.saved else None
        self.state = begin(replace(self.settings, run_id=self.state.settings.run_id + 1), standing)

    def ask(self, verb: str, **args: str | int | bool | None) -> Answer:
        self.pass_on(Asked(Request(verb=verb, args=args), token=1, epoch_s=EPOCH_S + self.t))
        answer = self.actions[-1]
        assert isinstance(answer, Answer)
        return answer

    # --- what is heard ---------------------------------------------------------------------------------------

    def heard(self) -> list[CoreEvent]:
        events = [self.membership(), self.sample(), self.drain(), *self.carried()]
        if self.loss:
            events = [event for event in events if not self.is_lost(event)]
        if not self.chaos:
            return events
        late, self.held_back = self.held_back, [e for e in events if self.random.random() < 0.3]
        events = events + late + [event for event in events if self.random.random() < 0.3]
        self.random.shuffle(events)
        return events

    def is_lost(self, event: CoreEvent) -> bool:
        run = self.runs_lost.get(type(event), 0)
        is_lost = self.random.random() < self.loss and run < self.lost_in_a_row
        self.runs_lost[type(event)] = run + 1 if is_lost else 0
        return is_lost

    def sample(self) -> SampleSeen:
        running = [d for d in self.domains if not d.is_dead]
        serving = self.serving()
        busy = min(self.load(self.t) / len(serving), 1.0) if serving else 0.0
        ratios = [self.ratio(d, busy) for d in running]
        sample = HostSample(
            host="local",
            interval_s=1.0,
            is_reachable=True,
            names=tuple(d.name for d in running),
            uuids=tuple(d.uuid for d in running),
            states=("running",) * len(running),
            cpu_ratios=tuple(ratios),
            allotted_cpus=(1.0,) * len(running),
        )
        return self.told_sample(sample)

    def told_sample(self, sample: HostSample) -> SampleSeen:
        id = f"monitor/1/sample.local/{self.t:.0f}"
        self.samples[id] = sample
        return SampleSeen(read_sample(sample, self.now_s, id))

    def ratio(self, domain: Domain, busy: float) -> float | None:
        if self.missing(self.t, domain.name):
            return None
        return busy if domain.phase(self.now_s) is Phase.READY else 1.0  # a boot is busy

    def membership(self) -> MembershipSeen:
        members = tuple(
            Member(
                name=d.name,
                uuid=d.uuid,
                host="local",
                phase=d.phase(self.now_s),
                since_s=0.0,
                age_s=d.age_s(self.now_s),
                address="10.0.0.1",
                port=80,
            )
            for d in self.domains
        )
        body = Membership(
            group="web",
            generation_seen=self.generation,
            desired_seen=self.wanted,
            members=members,
            owned_total=len(members),
            ceiling=self.settings.group.ceiling,
        )
        return MembershipSeen(body, self.now_s, f"actuator/1/membership.web/{self.t:.0f}")

    def drain(self) -> DrainSeen:
        body = Drain(group="web", endpoint="", is_proxy_alive=True, backends=())
        return DrainSeen(body, self.now_s, f"balancer/1/drain.web/{self.t:.0f}")

    def carried(self) -> list[CoreEvent]:
        body = self.traffic(self.t) if self.traffic else calm(self.load(self.t))
        return [] if body is None else [TrafficSeen(body, self.now_s, f"balancer/1/traffic.web/{self.t:.0f}")]

    # --- what it did -----------------------------------------------------------------------------------------

    def path(self) -> list[int]:
        return [to for _, to in self.desired]

    def turns(self) -> list[float]:
        """Return when the direction changed."""
        found, last = [], 0
        for (_, before), (t, after) in zip(self.desired, self.desired[1:], strict=False):
            way = 1 if after > before else -1
            if last and way != last:
                found.append(t)
            last = way
        return found

    def records(self) -> list[dict[str, object]]:
        return [action.body.model_dump() for action in self.actions if isinstance(action, PublishRecord)]

    def events(self) -> list[str]:
        return [action.body.name for action in self.actions if isinstance(action, Emit)]

    def standing(self) -> dict[str, object]:
        return asdict(self.state.standing)


def calm(load: float, **changes: Any) -> Traffic:
    """Return the traffic of a group in which nobody waits; in flight is what Little's law says, and what queues."""
    values: dict[str, Any] = {
        "group": "web",
        "interval_s": 1.0,
        "is_known": True,
        "request_rate": 20 * load,
        "error_rate": 0.0,
        "queue": 0,
        "response_time_s": 0.02,
    }
    values |= changes
    working = max(math.ceil(load), round(values["request_rate"] * values["response_time_s"]))
    in_flight = working + values["queue"]
    return Traffic.model_validate({"in_flight": in_flight, **values})


def square(low: float, high: float, period_s: float, *, begins_high: bool = True) -> Load:
    """Return a load that is ``high`` and ``low`` for half a period each, in turn."""
    half_s = period_s / 2
    return lambda t: high if (int(t // half_s) % 2 == 0) == begins_high else low
