"""A model world for the actuator: hosts with domains that boot, a balancer, virtual time. No threads, no sleep.

Every call that changes a domain is numbered, so that a test can let the actuator die right before or right after any
of them, or let a call fail.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from common.config import Group, Image, Network
from common.domain import METADATA_TAG, METADATA_URI, DiskTrouble, DomainFacts, DomainState
from common.errors import DomainGoneError, HypervisorError, HypervisorLostError
from common.messages import DesiredCapacity, Event, Membership
from common.virt.addresses import Candidate, Rule
from common.volume import Overlay, SeenVolume, Volume
from services.actuator.alarms import Alarms
from services.actuator.core import breaker as breakers
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.doubt import Doubt
from services.actuator.core.events import event_of, vanished
from services.actuator.core.membership import membership
from services.actuator.core.plan import Plan, context_of, plan
from services.actuator.core.seen import Backend, Load, Probe, Seen, Template, Wanted
from services.actuator.core.sizing import Demand, choose
from services.actuator.core.standing import standing
from services.actuator.core.steps import Define, Destroy, SetPhase, Step, Undefine
from services.actuator.drafts import Draft
from services.actuator.hosts import Hosts
from services.actuator.perform import Outcome, attempt
from services.actuator.remarks import Remarks
from services.actuator.starts import cures
from services.actuator.worker import Lost, Observation
from tests.starts import count_start

TEMPLATE = Template(kernel="/images/vmlinuz", initrd="/images/initramfs.img", digest="d1")
BOOT_ID = "boot-1"
FALL_S = 3.0  # so long HAProxy's checks fail before it takes a server down
STALLED_S = 30.0  # so long the last one that is up is kept without an answer


class Killed(BaseException):
    """The actuator dies here."""


@dataclass
class FakeDomain:
    """One domain of the model."""

    name: str
    uuid: str
    state: DomainState = DomainState.SHUTOFF
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    started_s: float | None = None
    is_deaf: bool = False  # does not react to ACPI
    never_boots: bool = False
    is_unhealthy_since_s: float | None = None
    in_flight: int = 0
    has_saved: bool = False
    is_saved_badly: bool = False  # its saved memory cannot be restored
    is_silent: bool = False  # runs, and answers nobody
    has_link: bool = True
    cpu_quota: float | None = None
    disk: str = "vda"  # what it writes to as long as it runs
    hangs_since_s: float | None = None  # from then on its checks time out, and nobody gets an answer
    let_go_s: float | None = None  # since when HAProxy does not hold it for up any more though it hangs
    is_held: bool = False  # somebody else has paused or saved it, and will let it go on

    def become(self, state: DomainState, reason: str) -> None:
        """Enter a state for a reason of libvirt's, whoever did it."""
        self.state, self.reason = state, reason


class FakeHost:
    """A libvirt host in memory, with the interface of ``common.hypervisor.Connection``."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.by_name: dict[str, FakeDomain] = {}
        self.stored: dict[str, Volume] = {}
        self.is_lost = False
        self.calls: list[tuple[str, str]] = []
        self.agent_calls: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], HypervisorError | None] = lambda _call, _name: None
        self.never_boots = False
        self.told_addresses = ["10.0.0.9"]
        self.free_memory = 16 * 1024**3
        self.is_full = False  # its disks have no space: who writes is paused
        self.refuses_records = False  # nor has the one on which libvirt keeps what we write about a domain

    def fill(self) -> None:
        """Pause whoever runs, as QEMU does at the next write to a disk that is full."""
        for domain in self.by_name.values():
            if self.is_full and domain.disk and domain.state is DomainState.RUNNING:
                domain.become(DomainState.PAUSED, "ioerror")

    def disk_troubles(self, name: str) -> tuple[DiskTrouble, ...]:
        domain = self.by_name[name]
        is_hurt = (domain.state, domain.reason) == (DomainState.PAUSED, "ioerror")
        return (DiskTrouble(domain.disk, f"/pool/{name}.qcow2", True),) if is_hurt else ()

    def troubles(self) -> dict[str, tuple[DiskTrouble, ...]]:
        return {name: found for name in self.by_name if (found := self.disk_troubles(name))}

    def domains(self) -> list[DomainFacts]:
        if self.is_lost:
            raise HypervisorLostError(f"{self.name} is gone")
        return [
            DomainFacts(d.name, d.uuid, d.state, d.reason, True, dict(d.metadata), d.has_saved, d.has_link)
            for d in self.by_name.values()
        ]

    def facts(self, name: str) -> DomainFacts | None:
        return next((facts for facts in self.domains() if facts.name == name), None)

    def note_trespass(self, call: str, name: str) -> None:
        """Note what nobody but its owner may do, planned or done: what he has paused is neither ended nor resumed."""
        domain = self.by_name.get(name)
        if domain is not None and (domain.is_held or (call != "resume" and domain.reason == "ioerror")):
            self.world.trespasses.append(f"{call} of {name}, {domain.state} ({domain.reason})")

    def _change(self, call: str, name: str, uuid: str) -> FakeDomain:
        if self.is_lost:
            raise HypervisorLostError(f"{self.name} is gone")
        error = self.fail(call, name)
        if error is not None:
            raise error
        if name not in self.by_name or self.by_name[name].uuid != uuid:
            raise DomainGoneError(f"{name} is gone")
        return self.by_name[name]

    def define(self, xml: str) -> str:
        root = ET.fromstring(xml)
        name, uuid = root.findtext("name"), root.findtext("uuid")
        assert name and uuid
        self.world.before("define", self.name, name)
        if self.is_lost:
            raise HypervisorLostError(f"{self.name} is gone")
        error = self.fail("define", name)
        if error is not None:
            raise error
        if name in self.by_name:
            raise HypervisorError(f"{name} exists")
        element = root.find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
        metadata = {} if element is None else dict(element.attrib)
        self.by_name[name] = FakeDomain(name, uuid, metadata=metadata, never_boots=self.never_boots)
        self.world.after("define", self.name, name)
        return uuid

    def start(self, name: str, uuid: str) -> None:
        self.world.before("start", self.name, name)
        domain = self._change("start", name, uuid)
        if domain.state is not DomainState.SHUTOFF and domain.state is not DomainState.CRASHED:
            raise HypervisorError(f"{name} is {domain.state}")
        if domain.is_saved_badly:
            raise HypervisorError("unable to restore from managed state; maybe the file is corrupted?")
        started_s = domain.started_s if domain.has_saved else self.world.now_s
        domain.become(DomainState.RUNNING, "restored" if domain.has_saved else "booted")
        domain.started_s, domain.has_saved = started_s, False
        self.world.after("start", self.name, name)

    def shutdown_by_agent(self, name: str, uuid: str) -> bool:
        self.agent_calls.append((name, uuid))
        return False

    def shutdown(self, name: str, uuid: str) -> None:
        self.world.before("shutdown", self.name, name)
        domain = self._change("shutdown", name, uuid)
        if not domain.is_deaf:
            domain.become(DomainState.SHUTOFF, "shutdown")
        self.world.after("shutdown", self.name, name)

    def destroy(self, name: str, uuid: str) -> None:
        self.world.before("destroy", self.name, name)
        self.note_trespass("destroy", name)
        self._change("destroy", name, uuid).become(DomainState.SHUTOFF, "destroyed")
        self.world.after("destroy", self.name, name)

    def make_volume(self, volume: Volume) -> None:
        self.world.before("make_volume", self.name, volume.name)
        self.stored[volume.name] = volume
        self.world.after("make_volume", self.name, volume.name)

    def volumes(self) -> list[SeenVolume]:
        found = [(volume.name, volume.base if isinstance(volume, Overlay) else "") for volume in self.stored.values()]
        return [SeenVolume(name, f"/disks/{name}", base) for name, base in found]

    def owners(self, without: str = "") -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(d.uuid for d in self.by_name.values() if d.uuid != without), frozenset()

    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None:
        for name in [name for name in self.stored if is_to_go(name)]:
            self.world.before("remove_volumes", self.name, name)
            del self.stored[name]
            self.world.after("remove_volumes", self.name, name)

    def agent_host_name(self, name: str, timeout_s: float) -> str | None:
        return None

    def undefine(self, name: str, uuid: str) -> None:
        self.world.before("undefine", self.name, name)
        self.note_trespass("undefine", name)
        assert self._change("undefine", name, uuid).state is not DomainState.RUNNING, f"{name} undefined while it runs"
        del self.by_name[name]
        self.world.after("undefine", self.name, name)

    def suspend(self, name: str, uuid: str) -> None:
        self.world.before("suspend", self.name, name)
        self._change("suspend", name, uuid).become(DomainState.PAUSED, "user")
        self.world.after("suspend", self.name, name)

    def resume(self, name: str, uuid: str) -> None:
        self.world.before("resume", self.name, name)
        self.note_trespass("resume", name)
        self._change("resume", name, uuid).become(DomainState.RUNNING, "unpaused")
        self.world.after("resume", self.name, name)

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool:
        return False

    def save(self, name: str, uuid: str) -> None:
        self.world.before("save", self.name, name)
        domain = self._change("save", name, uuid)
        domain.become(DomainState.SHUTOFF, "saved")
        domain.has_saved = True
        self.world.after("save", self.name, name)

    def save_to(self, name: str, uuid: str, path: str) -> None:
        raise HypervisorError(f"the model saves nothing of {name} to {path}")

    def restore(self, name: str, path: str) -> None:
        raise HypervisorError(f"the model restores nothing of {name} from {path}")

    def set_link(self, name: str, uuid: str, is_up: bool) -> None:
        raise HypervisorError(f"the model has no link of {name} to set {'up' if is_up else 'down'}")

    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None:
        self.world.before("set_metadata", self.name, name)
        if self.refuses_records:
            raise HypervisorError("no space left on device")
        self._change("set_metadata", name, uuid).metadata = dict(metadata)
        self.world.after("set_metadata", self.name, name)

    def set_quota(self, name: str, uuid: str, cpu_quota: float | None) -> None:
        self.world.before("set_quota", self.name, name)
        self._change("set_quota", name, uuid).cpu_quota = cpu_quota
        self.world.after("set_quota", self.name, name)

    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]:
        return tuple(Candidate(each, "52:54:00:00:00:01") for each in self.told_addresses)

    def free_memory_bytes(self) -> int:
        return self.free_memory

    def host_cpus(self) -> int:
        return 4

    def is_alive(self) -> bool:
        return not self.is_lost

    def close(self) -> None:
        pass


class World:
    """Hosts, balancer, decider and an actuator that may die at any change; time moves by ``tick_s``."""

    def __init__(self, group: Group, hosts: tuple[str, ...] = ("local",), name: str = "web") -> None:
        self.group, self.name = group, name
        self.network = Network(slots=20)
        self.now_s = 1000.0
        self.tick_s = 0.5
        self.jump_at_s, self.jump_s = 0.0, 0.0  # from when on the wall clock is wrong, and by how much
        self.boot_s = 3.0
        self.hosts = {host: FakeHost(self, host) for host in hosts}
        self.desired: DesiredCapacity | None = None
        self.is_decider_fresh = True
        self.is_balancer_alive = True
        self.template: Template | None = TEMPLATE
        self.breakers: dict[str, breakers.Breaker] = {}
        self.load: Load | None = Load(queue=0, in_flight=0, request_rate=0.0, answer_rate=0.0)
        self.doubt = Doubt()
        self.stored: dict[str, dict[str, int]] = {}
        self.changes = 0
        self.kill_before: int | None = None
        self.kill_after: int | None = None
        self.kills = 0
        self.log: list[tuple[float, str, str]] = []
        self.trespasses: list[str] = []
        self.steps: list[Step] = []
        self.demand: Demand = ()
        self.remarks = Remarks()
        self.events: list[Event] = []
        self.alarms = Alarms(self.events.append)
        self.backend_ready_s: dict[tuple[str, str], float] = {}
        self.most_owned = 0
        self.last_plan: Plan | None = None
        self.message: Membership | None = None
        self.memory = self.fresh()

    def fresh(self) -> Hosts:
        return Hosts(self.hosts, self.now_s, 3.5, self.stored)

    def want(self, desired: int, generation: int = 1, **changes: object) -> None:
        """Order a capacity, as an operator does: all who run now are meant."""
        running = [domain.uuid for domain in self.everything() if domain.state is DomainState.RUNNING]
        body = DesiredCapacity(
            group=self.name,
            generation=generation,
            desired=desired,
            minimum=0,
            maximum=max(desired, self.group.maximum),
            decision_id=f"decision-{generation}",
            counted=tuple(running),
        )
        self.desired = body.model_copy(update=changes)

    def before(self, call: str, host: str, name: str) -> None:
        self.changes += 1
        self.log.append((self.now_s, call, name))
        if self.changes == self.kill_before:
            raise Killed

    def after(self, call: str, host: str, name: str) -> None:
        if self.changes == self.kill_after:
            raise Killed

    def wanted(self) -> Wanted:
        cause = self.desired.decision_id if self.desired else ""
        wanted = Wanted(
            self.name, self.group, self.network, self.desired, cause, self.is_decider_fresh, self.template, "no image"
        )
        return replace(wanted, standby=choose(self.group, wanted.maximum, self.demand, self.now_s))

    def seen(self) -> Seen:
        return Seen(
            epoch_s=self.epoch_s(),
            boot_id=BOOT_ID,
            hosts=tuple(replace(host, accel="qemu") for host in self.memory.seen(self.now_s)),
            probes=self._probes(),
            backends=self._backends() if self.is_balancer_alive else None,
            in_flight=self.memory.in_flight(),
            breakers=self.breakers,
            load=self.load,
            doubt=self.doubt,
        )

    def epoch_s(self) -> float:
        return self.now_s + 1e9 + (self.jump_s if self.now_s >= self.jump_at_s else 0.0)

    def _probes(self) -> dict[tuple[str, str], Probe]:
        return {
            (d.name, d.uuid): Probe(True, d.name)
            for d in self.everything()
            if d.state is DomainState.RUNNING
            and not d.never_boots
            and not d.is_silent
            and d.is_unhealthy_since_s is None
            and d.hangs_since_s is None
            and d.started_s is not None
            and self.now_s - d.started_s >= self.boot_s
        }

    def _backends(self) -> dict[tuple[str, str], Backend]:
        """A balancer that takes a member in one second after it warms, and never hurries."""
        backends: dict[tuple[str, str], Backend] = {}
        for member in self.message.members if self.message else ():
            key = member.name, member.uuid
            domain = next((d for d in self.everything() if d.uuid == member.uuid), None)
            sick_s = domain.is_unhealthy_since_s if domain else None
            if domain is not None and domain.hangs_since_s is not None:
                domain.let_go_s = (
                    None if self._keeps(domain) else self.now_s if domain.let_go_s is None else domain.let_go_s
                )
                sick_s = None if domain.let_go_s is None else domain.let_go_s + FALL_S
                sick_s = None if sick_s is None or sick_s > self.now_s else sick_s
            healthy = sick_s is None
            in_flight = domain.in_flight if domain else 0
            unhealthy_s = 0.0 if sick_s is None else self.now_s - sick_s
            if member.phase in ("warming", "ready"):
                since_s = self.backend_ready_s.setdefault(key, self.now_s + 1.0)
                state = "ready" if self.now_s >= since_s else "joining"
            elif member.phase == "draining":
                state = "draining"
            else:
                self.backend_ready_s.pop(key, None)
                continue
            is_kept = domain is not None and domain.hangs_since_s is not None and domain.let_go_s is None
            backends[key] = Backend(state, healthy, in_flight, unhealthy_s, is_kept=is_kept and state == "ready")
        return backends

    def _keeps(self, domain: FakeDomain) -> bool:
        """Return whether HAProxy holds it for up though it hangs: it is asked, and nobody else is up."""
        ready = {m.uuid for m in self.message.members if m.phase == "ready"} if self.message else set()
        others = [d for d in self.everything() if d.uuid in ready and d.state is DomainState.RUNNING]
        is_sound = any(d.hangs_since_s is None and d.is_unhealthy_since_s is None for d in others)
        return domain.in_flight > 0 and not is_sound and self.now_s - (domain.hangs_since_s or 0.0) < STALLED_S

    def everything(self) -> list[FakeDomain]:
        return [domain for host in self.hosts.values() for domain in host.by_name.values()]

    def look(self) -> None:
        for host in self.hosts.values():
            try:
                facts = tuple(host.domains())
            except HypervisorLostError as error:
                self.memory.lost(Lost(host.name, str(error)))
                continue
            look = Observation(host.name, self.now_s, facts, host.free_memory_bytes(), 4, troubles=host.troubles())
            self.memory.observed(look)
            self._say_vanished()

    def _say_vanished(self) -> None:
        self.events += [vanished(d, d.record) for d in self.memory.take_vanished() if d.record is not None]

    def tick(self) -> None:
        """One round of the actuator: look, plan, tell, perform; it may die and is a new one in the next round."""
        self.now_s += self.tick_s
        for host in self.hosts.values():
            host.fill()
        try:
            self.look()
            self.stored = self.memory.owned()
            found = plan(self.wanted(), self.seen(), self.now_s)
            self.last_plan, self.doubt = found, found.doubt
            self.breakers.update(cures(self.breakers, self.name, found, self.now_s))
            self.message = membership(self.wanted(), self.seen(), found, (), self.now_s)
            self.alarms.tell(standing(context_of(self.wanted(), self.seen(), self.now_s)))
            for step in found.steps:
                self._perform(step)
        except Killed:
            self.kills += 1
            self.memory = self.fresh()
        self.look()
        self.last_plan = plan(self.wanted(), self.seen(), self.now_s)
        ours = [d for d in self.everything() if d.metadata.get("group") == self.name]
        self.most_owned = max(self.most_owned, len(ours))

    def _perform(self, step: Step) -> None:
        self.steps.append(step)
        if isinstance(step, Destroy | Undefine):
            self.hosts[step.host].note_trespass(type(step).__name__, step.domain)
        self.memory.begun(step, self.now_s)
        result, error = attempt(self.hosts[step.host], step, self._made(step))
        outcome = Outcome(step, result, error, self.now_s)
        self.memory.finished(outcome)
        self._say_vanished()
        self.remarks.note(outcome, self.now_s)
        event = event_of(step, error, self.now_s)
        self.events += [] if event is None else [event]
        self.breakers.update(count_start(self.breakers, outcome, self.now_s, self.group.kind == "existing"))

    def _made(self, step: Step) -> str | Draft | None:
        """Return what the step makes."""
        if not isinstance(step, Define):
            return None
        spec = DomainSpec(step.domain, step.uuid, step.record, step.accel, self.group, self.network, TEMPLATE)
        return domain_xml(spec)

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.tick()

    def run_until(self, is_so: Callable[[], bool], limit_s: float = 300.0) -> float:
        """Run until ``is_so``; return how long it took."""
        begun_s = self.now_s
        while not is_so():
            assert self.now_s < begun_s + limit_s, f"not so within {limit_s} s: {self.summary()}"
            self.tick()
        return self.now_s - begun_s

    def phases(self) -> dict[str, str]:
        return {m.name: str(m.phase) for m in self.message.members} if self.message else {}

    def ready(self) -> int:
        return sum(1 for phase in self.phases().values() if phase == "ready")

    def summary(self) -> dict[str, str]:
        return {d.name: f"{d.state} {d.metadata.get('phase')}" for d in self.everything()}

    def final(self) -> dict[str, tuple[str, str]]:
        """The state that must not depend on when the actuator was killed: power and phase by name."""
        return {d.name: (str(d.state), d.metadata.get("phase", "")) for d in self.everything()}

    def is_settled(self) -> bool:
        if self.desired is None or self.last_plan is None or self.last_plan.steps:
            return False
        told = membership(self.wanted(), self.seen(), self.last_plan, (), self.now_s).members
        wanted = self.desired.desired + self.group.warm.running
        return (
            sum(1 for member in told if member.phase == "ready") == wanted
            and len(told) == wanted + self.wanted().standby.total
            and not any(d.metadata.get("phase") in ("creating", "booting", "draining") for d in self.everything())
        )


def group(**changes: object) -> Group:
    """A template group as in the demo, with some keys changed."""
    values: dict[str, object] = {"prefix": "web-", "min": 1, "max": 4, "image": Image(cpu_quota=0.4)}
    return Group.model_validate(values | changes)


def phase_steps(world: World) -> list[tuple[str, str]]:
    """Every phase change so far: (domain, phase)."""
    return [(step.domain, str(step.record.phase)) for step in world.steps if isinstance(step, SetPhase)]
