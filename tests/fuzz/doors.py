"""The doors: what comes in at each, what checks it first, and who takes one turn with what passed.

``feed`` returns whether the first check let the input through. An exception that is not the check's own refusal is a
fault; it leaves ``feed``, and the run tells seed and number.
"""

import contextlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

import msgpack

from cli import traces
from common import acceleration, config_file, cron, domain, messages, recording
from common.config import Config, Group
from common.errors import AutoscalerError, ConfigError, ProtocolError, RecordingError
from common.http_answer import HttpAnswer
from common.messages import Body, Header, Reply, Request
from common.messaging.inbox import Desk, Inbox, Received
from common.messaging.requests import encode_request
from common.messaging.rights import Peer
from common.phases import Phase
from common.virt.addresses import Nic, Rule, Source, leased, nics_in, ranked, remark, told_by_agent
from common.wire import decode, encode
from services.actuator.core import breaker as breakers
from services.actuator.core.addresses import Choice, choose
from services.actuator.core.membership import membership
from services.actuator.core.orders import order_of
from services.actuator.core.plan import context_of, plan
from services.actuator.core.record import Record, Unreadable, parse, read
from services.actuator.core.seen import Seen, SeenDomain, SeenHost, Wanted
from services.actuator.core.standing import standing
from services.actuator.core.steps import Step
from services.actuator.ledger import Ledger
from services.actuator.prober import Target, judge
from services.actuator.prober import probe as probed
from services.actuator.store import read as read_actuator
from services.balancer.core.answers import durable, parse_look, refusal, split_answers
from services.balancer.core.traffic import Look, traffic
from services.balancer.errors import ProxyError
from services.decider.core import group as deciding
from services.decider.core import learned
from services.decider.core.events import Asked, PublishDesired, PublishRecord, Save, Tick
from services.decider.core.replay import replay
from services.decider.core.state import GroupState, begin
from services.decider.core.stored import Instant, from_values, to_values
from services.decider.library import Library
from services.decider.shell import events_of
from services.decider.store import Store
from services.exporter.core import state as exporting
from services.exporter.core.render import render
from services.exporter.page import registry_of
from services.monitor.core import host as monitoring
from services.notifier.core import deliver
from services.notifier.core.notice import notice_of
from services.notifier.senders import environment
from services.notifier.store import Store as Notices
from services.plotter.core import layout, series, view
from tests.contract.test_messages import EXAMPLES
from tests.fuzz import mutate
from tests.sim.decider_model import settings
from tests.sim.decider_tape import Tape
from tests.unit.test_actuator_plan import NOW_S, seen, wanted
from tests.unit.test_actuator_plan import domain as seen_domain
from tests.unit.test_actuator_plan import record as a_record
from tests.unit.test_balancer_answers import INFO, STAT, STATE
from tests.unit.test_balancer_shell import Bench
from tests.unit.test_replay_core import world

ROOT: Final = Path(__file__).parents[2]
EPOCH_S: Final = 1_700_000_000.0
RESET_EVERY: Final = 200  # inputs after which whoever stands behind begins anew


class Door(ABC):
    """One door; ``share`` is how large a part of the asked count it gets, for those whose turn is dear."""

    name: ClassVar[str]
    share: ClassVar[float] = 1.0

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.fed = 0

    @abstractmethod
    def feed(self, random: Random) -> bool:
        """Damage one valid input, hand it in, and let whoever stands behind take a turn; return whether it came in."""


# --- the bus ---------------------------------------------------------------------------------------------------

HEADER: Final = Header(source="x", run_id=7, seq=3, sent_at_s=EPOCH_S, mono_s=NOW_S, cause="decider/7e/decision.web/7")
_MEMBER: Final = messages.Member(
    name="web-0000", uuid="u-web-0000", host="local", phase=Phase.READY, since_s=EPOCH_S, age_s=60.0,
    address="10.0.0.5", port=80,
)  # fmt: skip
VALID: Final[tuple[Body, ...]] = (
    *EXAMPLES.values(),
    messages.HostSample(
        host="local", interval_s=1.0, is_reachable=True, names=("web-0000", "web-0001"), uuids=("u-web-0000", "u1"),
        states=("running", "paused"), cpu_ratios=(0.95, None), allotted_cpus=(1.0, 0.5), host_cpus=4,
        host_idle_cpus=1.5, suspended_uuids=("u1",),
    ),
    messages.Membership(
        group="web", generation_seen=3, desired_seen=2, owned_total=2, ceiling=5, boot_p50_s=9.0, boot_p95_s=12.0,
        members=(_MEMBER, _MEMBER.model_copy(update={"name": "web-0001", "uuid": "u1", "phase": Phase.DRAINING})),
        lead_times=(messages.LeadTime(tier="", host="local", n=3, p50_s=9.0, p95_s=12.0),), notes=("all is well",),
    ),
    messages.Drain(
        group="web", endpoint="127.0.0.1:8000", is_proxy_alive=True, slots_total=64,
        backends=(
            messages.BackendState(
                name="web-0000", uuid="u-web-0000", slot="vm1", state="ready", is_healthy=True, in_flight=3
            ),
            messages.BackendState(name="web-0001", uuid="u1", slot="vm2", state="draining", is_healthy=None),
        ),
    ),
    messages.Traffic(
        group="web", interval_s=1.0, is_known=True, request_rate=40.0, error_rate=0.5, queue=3, in_flight=9,
        queue_time_s=0.1, response_time_s=0.2, names=("web-0000",), request_rates=(40.0,), in_flights=(9,),
        response_times_s=(0.2,), answer_rate=39.0,
    ),
    messages.DesiredCapacity(
        group="web", generation=9, desired=2, minimum=0, maximum=4, burst_quota=0.5, decided_mono_s=100.0, boot_id="b"
    ),
    messages.Failure(host="local", domain="web-0000", uuid="u-web-0000", reason="suspended", detail="io-error"),
    messages.Recovery(host="local", domain="web-0000", uuid="u-web-0000"),
)  # fmt: skip


class BusDoor(Door):
    """Messages of every kind that the subscriber listens to."""

    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        bodies = [body for body in VALID if body.kind in self.kinds]
        self._valid = [(body, encode(HEADER, body)) for body in bodies]
        self._values = {
            id(body): mutate.listed({"header": HEADER.model_dump(), "body": body.model_dump()}) for body in bodies
        }

    def feed(self, random: Random) -> bool:
        if self.fed % RESET_EVERY == 0:
            self.begin()
        self.fed += 1
        body, frames = random.choice(self._valid)
        if random.random() < 0.2:
            frames = [frames[0], mutate.bytes_of(random, frames[1], random.choice(self._valid)[1][1])]
        else:
            values = mutate.values_of(random, self._values[id(body)], is_mild=random.random() < 0.6)
            with contextlib.suppress(ValueError, OverflowError, TypeError):  # what cannot even be packed
                frames = [_topic(body, values), msgpack.packb(values, unicode_errors="surrogatepass")]
        try:
            topic, header, found = decode(frames)
        except ProtocolError as error:
            assert len(str(error)) < 10_000
            return False
        self.take(Received(topic, header, found, random.choice((0.0, 0.5, 1e6)), f"x/7/{topic}/1", frames[1]), random)
        return True

    @abstractmethod
    def begin(self) -> None:
        """Begin anew."""

    @abstractmethod
    def take(self, received: Received, random: Random) -> None:
        """Take a message, and one turn."""


def _topic(body: Body, values: Any) -> bytes:
    """Return the topic that a careless sender would have made of these values."""
    with contextlib.suppress(Exception):
        return type(body).model_construct(**values["body"]).topic.encode()
    return body.topic.encode()


class DeciderBus(BusDoor):
    name = "bus-decider"
    kinds = ("sample", "failure", "membership", "traffic", "drain")

    def begin(self) -> None:
        self.now_s = NOW_S
        self.state: GroupState = begin(settings(min=0, max=6))

    def take(self, received: Received, random: Random) -> None:
        self.now_s += 1.0
        groups = {"web": self.state}
        for _, event in events_of(received, groups, self.now_s):
            self.state, _ = deciding.handle(self.state, event, self.now_s)
        self.state, actions = deciding.handle(self.state, Tick(EPOCH_S + self.now_s), self.now_s)
        for action in actions:
            if isinstance(action, PublishDesired | PublishRecord):
                decode(encode(HEADER, action.body))
            if isinstance(action, PublishDesired):
                assert 0 <= action.body.desired <= 6
            if isinstance(action, Save):
                at = Instant("b", self.now_s, EPOCH_S)
                from_values(json.loads(json.dumps(to_values(action.standing, at))), at)


class ActuatorBus(BusDoor):
    name = "bus-actuator"
    kinds = ("capacity.desired", "drain", "traffic", "failure")

    def begin(self) -> None:
        self.now_s, self.ledger = NOW_S, Ledger()

    def take(self, received: Received, random: Random) -> None:
        self.now_s += 1.0
        heard_s = self.now_s - received.age_s
        match received.body:
            case messages.DesiredCapacity() as body if body.group == "web":
                self.ledger.hear_desired(body, received.id, heard_s)
            case messages.Drain() as body:
                self.ledger.hear_drain(body, heard_s)
            case messages.Traffic() as body:
                self.ledger.hear_traffic(body, heard_s)
        see = replace(
            seen(seen_domain("web-0000"), seen_domain("web-0001", Phase.DRAINING)),
            backends=self.ledger.backends(self.now_s, 3.5),
            load=self.ledger.load(self.now_s, 3.5),
        )
        want = replace(wanted(None), desired=self.ledger.desired, cause=self.ledger.cause)
        check_plan(want, see, self.now_s)


def check_plan(want: Wanted, see: Seen, now_s: float) -> tuple[Step, ...]:
    """Plan, check that what would be written can be read and what would be said can be sent; return the steps."""
    found = plan(want, see, now_s)
    for step in found.steps:
        written = getattr(step, "record", None)
        if isinstance(written, Record):
            kept = parse(domain.parse_metadata(domain.metadata_element(written.to_metadata())))
            assert kept is not None and kept.phase is written.phase and kept.generation <= written.generation
    for event in standing(context_of(want, see, now_s)).values():
        decode(encode(HEADER, event))
    decode(encode(HEADER, membership(want, see, found, (9.0,), now_s)))
    return found.steps


class BalancerBus(BusDoor):
    name = "bus-balancer"
    kinds = ("membership", "failure", "recovery", "sample")

    def begin(self) -> None:
        self.bench = Bench(self.scratch)
        self.bench.service._save = lambda snapshot: None  # type: ignore[method-assign] # files are another door

    def take(self, received: Received, random: Random) -> None:
        self.bench.clock.now_s += 1.0
        self.bench.service.step(Inbox((received,)), self.bench.clock.now_s)
        for order in self.bench.api.orders:
            assert order.isprintable() and ";" not in order
        for body in self.bench.bus.published:
            decode(encode(HEADER, body))
        self.bench.api.orders.clear()
        self.bench.bus.published.clear()


class PlotterBus(BusDoor):
    name = "bus-plotter"
    kinds = ("sample", "failure", "capacity.desired", "membership", "event", "traffic", "drain")

    def begin(self) -> None:
        self.now_s = NOW_S
        self.state = series.empty({"web": "web-"}, span_s=60.0, interval_s=1.0, stale_after_s=3.5)
        self.views = view.views(Config(groups={"web": Group(prefix="web-")}))

    def take(self, received: Received, random: Random) -> None:
        self.now_s += 1.0
        self.state, _ = series.handle(self.state, received.body, self.now_s)
        layout.arrange(self.state, self.views, self.now_s)


class RecorderBus(BusDoor):
    name = "bus-recorder"
    kinds = tuple(body.kind for body in messages.BODIES)

    def begin(self) -> None:
        self.data = recording.header_bytes("b", EPOCH_S)

    def take(self, received: Received, random: Random) -> None:
        frame = recording.frame_bytes(EPOCH_S + self.fed, NOW_S, received.topic, received.payload)
        assert recording.span_of(self.data + frame, "x") == (EPOCH_S + self.fed,) * 2
        again = recording.Recorded(EPOCH_S, NOW_S, "b", received.topic, received.payload).decode()
        assert again == (received.header, received.body)


class NotifierBus(BusDoor):
    name = "bus-notifier"
    kinds = ("event",)

    def begin(self) -> None:
        self.state = deliver.resumed((deliver.Receiver("a", None, frozenset(), 2),), {}, 0.0)

    def take(self, received: Received, random: Random) -> None:
        assert isinstance(received.body, messages.Event)
        header = received.header
        notice = notice_of(received.body, received.id, header.source, header.sent_at_s, header.cause)
        environment(notice, {})
        json.loads(notice.body)
        self.state, _ = deliver.handle(self.state, deliver.Heard(received.body, notice), float(self.fed), 0.5)
        self.state, _ = deliver.handle(self.state, deliver.Tick(), float(self.fed), 0.5)


class ExporterBus(BusDoor):
    name = "bus-exporter"
    kinds = tuple(body.kind for body in messages.BODIES)

    def begin(self) -> None:
        self.now_s = NOW_S
        scope = exporting.Scope({"web": 5}, {"web": "web-"}, ("local",), ("monitor",), 3.5, 6.0)
        self.state = exporting.begin(scope, self.now_s)

    def take(self, received: Received, random: Random) -> None:
        self.now_s += 0.5
        self.state = exporting.handle(self.state, received, self.now_s)
        samples = render(self.state, self.now_s)
        if self.fed % 50 == 0:
            from prometheus_client import generate_latest

            generate_latest(registry_of(lambda: samples))


class ControlDoor(Door):
    """Requests of operators: the desk, then decider and actuator."""

    name = "control"
    requests: ClassVar = (
        Request(verb="scale", args={"group": "web", "desired": 3}, by="me"),
        Request(verb="bounds", args={"group": "web", "min": 1, "max": 4}, by="me"),
        Request(verb="mode", args={"group": "web", "mode": "observe"}),
        Request(verb="pause", args={"group": "web"}),
        Request(verb="resume", args={"group": "web"}),
        Request(verb="explain", args={"group": "web", "since_s": 60, "at_s": EPOCH_S}),
        Request(verb="patience", args={"group": "web", "reset": True}),
        Request(verb="drain", args={"domain": "web-0000"}, by="me"),
        Request(verb="protect", args={"domain": "web-0000"}),
    )

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self._frames = [encode_request(request) for request in self.requests]

    def feed(self, random: Random) -> bool:
        if self.fed % RESET_EVERY == 0:
            self.state = begin(settings(min=0, max=6))
            from collections import Counter

            self.desk = Desk(Counter())
        self.fed += 1
        frame = random.choice(self._frames)
        if random.random() < 0.25:
            frame = mutate.bytes_of(random, frame, random.choice(self._frames))
        else:
            values = mutate.listed(msgpack.unpackb(frame))
            with contextlib.suppress(ValueError, OverflowError, TypeError):
                changed = mutate.values_of(random, values, is_mild=random.random() < 0.6)
                frame = msgpack.packb(changed, unicode_errors="surrogatepass")
        sent: list[bytes] = []
        now_s = NOW_S + self.fed
        pending = self.desk.accept([b"", frame], sent.append, now_s, Peer("root"))
        if pending is None:
            return False
        order_of(pending.request)
        self.state, actions = deciding.handle(self.state, Asked(pending.request, 1, EPOCH_S), now_s)
        for action in actions:
            reply = getattr(action, "reply", None)
            if isinstance(reply, Reply):
                pending.reply(reply)
        self.state, _ = deciding.handle(self.state, Tick(EPOCH_S + now_s), now_s)
        return True


# --- guests, libvirt, HAProxy ------------------------------------------------------------------------------------


class MetadataDoor(Door):
    """Our record in a domain's metadata, edited by hand."""

    name = "metadata"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        whole = a_record("web-0000", cpu_quota=0.4, probed_mono_s=NOW_S, served_mono_s=NOW_S - 9, address="10.0.0.5")
        self._records = [replace(whole, phase=phase).to_metadata() for phase in Phase]
        self._wants = [wanted(2), wanted(1, kind="existing", image={})]

    def feed(self, random: Random) -> bool:
        self.fed += 1
        values = dict(random.choice(self._records))
        for _ in range(random.randint(1, 3)):
            key = random.choice(list(values))
            match random.randrange(5):
                case 0:
                    del values[key]
                case 1:
                    values[key] = str(random.choice(mutate.NUMBERS))
                case 2:
                    values[key] = str(random.choice(mutate.MILD))
                case _:
                    values[key] = mutate.text_of(random, values[key])
            if not values:
                return False
        found = read(values)
        power = random.choice(list(domain.DomainState))
        edited = SeenDomain(
            "local", "web-0000", "u-web-0000", power, found if isinstance(found, Record) else None,
            unreadable=found if isinstance(found, Unreadable) else None,
        )  # fmt: skip
        want, see = random.choice(self._wants), seen(edited, seen_domain("web-0001"))
        steps = check_plan(want, see, NOW_S)
        if isinstance(found, Unreadable):
            assert len(found.why) < 1000 and "web-0000" not in {step.domain for step in steps}
        return isinstance(found, Record)


class GuestDoor(Door):
    """What a guest answers to a probe: status, header, body; and its agent."""

    name = "guest"

    def feed(self, random: Random) -> bool:
        self.fed += 1
        target = Target("web-0000", "10.0.0.1", 80, is_identity_checked=random.random() < 0.5)
        body = mutate.bytes_of(random, random.choice((b"web-0000\n", b"ok", b"<html>it works</html>" * 20)))[:4096]
        header = "web-0000" if random.random() < 0.4 else mutate.text_of(random, "web-0000")
        if random.random() < 0.3:
            answer = probed(replace(target, protocol="agent"), lambda *_: header)
        else:
            answer = judge(target, HttpAnswer(random.choice((200, 200, 200, 503, 0, 999)), header, None, body))
        assert (answer.detail + answer.answered).isprintable() and len(answer.detail) < 400
        if self.fed % 4:  # what is written depends on these few texts alone
            return answer.is_right
        see = seen(
            seen_domain("web-0000", Phase.BOOTING),
            probes={("web-0000", "u-web-0000"): replace(answer, address="10.0.0.1")},
        )
        check_plan(wanted(1), see, NOW_S)
        return answer.is_right


class AddressDoor(Door):
    """What agents and leases say of addresses."""

    name = "addresses"
    told: ClassVar[Any] = {
        "lo": {"hwaddr": "00:00:00:00:00:00", "addrs": [{"addr": "127.0.0.1", "prefix": 8, "type": 0}]},
        "eth0": {
            "hwaddr": "52:54:00:aa:00:01",
            "addrs": [{"addr": "10.0.0.5", "prefix": 24, "type": 0}, {"addr": "fd00::5"}],
        },
        "docker0": {"hwaddr": "02:42:00:00:00:01", "addrs": None},
    }
    leases: ClassVar[Any] = [{"ipaddr": "10.0.0.5", "expirytime": 1_700_000_100, "mac": "52:54:00:aa:00:01"}]

    def feed(self, random: Random) -> bool:
        """Damage only values: their types are libvirt's, which has parsed the agent's answer."""
        self.fed += 1
        nics = (Nic("52:54:00:aa:00:01", "lan"),)
        told, leases = mutate.listed(self.told), mutate.listed(self.leases)
        each = random.choice([entry for interface in told.values() for entry in interface["addrs"] or []])
        each["addr"] = mutate.text_of(random, each["addr"])
        told[mutate.text_of(random, "eth0")] = told["eth0"]
        leases[0]["ipaddr"] = mutate.text_of(random, "10.0.0.5")
        leases[0]["expirytime"] = random.choice((0, 1, -1, 2**63 - 1, 1_700_000_100))
        rule = Rule(random.choice(list(Source)))
        candidates = told_by_agent(told, nics) + leased("52:54:00:aa:00:01", leases)
        found = ranked(candidates, nics, rule)
        choice = choose(
            Choice(candidates=tuple(c.address for c in found), note=remark(found, rule.source)), True, (), (), NOW_S
        )
        assert choice.address is None or choice.address.isprintable()
        return bool(found)


class HAProxyDoor(Door):
    """What HAProxy says: info, statistics, servers state, refusals."""

    name = "haproxy"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self._before = Look(parse_look([INFO, STAT, STATE], ["web", "db"]), {"vm1": ("web-0000", "u0")}, 0.0)

    def feed(self, random: Random) -> bool:
        self.fed += 1
        parts = [INFO, STAT, STATE]
        at = random.randrange(3)
        if random.random() < 0.6:
            parts[at] = self._cell(random, parts[at], "," if at == 1 else " ")
        else:
            parts[at] = mutate.text_of(random, parts[at], random.choice((STAT, STATE)))
        text = "".join(f"{part}\n\n" for part in parts)
        try:
            snapshot = parse_look(split_answers(text, 3), ["web", "db"])
        except ProxyError as error:
            assert len(str(error)) < 5000
            return False
        durable(snapshot)
        assert refusal(mutate.text_of(random, "No such server.")) is not None
        for group in snapshot.servers:
            for server in snapshot.servers[group]:
                assert server.check.isprintable() and server.status.isprintable()
            if group in self._before.snapshot.servers:
                said = traffic(group, self._before, Look(snapshot, {"vm1": ("web-0000", "u0")}, 1.0), 1.0)
                decode(encode(HEADER, said))
        return True

    @staticmethod
    def _cell(random: Random, text: str, mark: str) -> str:
        """Return the text with one cell replaced."""
        lines = text.split("\n")
        at = random.randrange(len(lines))
        cells = lines[at].split(mark)
        spot = random.randrange(len(cells))
        cells[spot] = random.choice((*map(str, mutate.NUMBERS), *map(str, mutate.MILD), *mutate.TEXTS)).replace(
            "\n", ""
        )
        lines[at] = mark.join(cells)
        return "\n".join(lines)


class ReadingsDoor(Door):
    """What libvirt tells the monitor of domains and hosts: counters, states, events, names."""

    name = "libvirt-readings"

    def feed(self, random: Random) -> bool:
        if self.fed % RESET_EVERY == 0:
            self.state, self.now_s = monitoring.HostState("local", 1.0), NOW_S
        self.fed += 1
        self.now_s += random.choice((0.0, 1e-9, 1.0, 1.0, 1.0, 1e6))
        seen_now: monitoring.Seen
        match random.randrange(4):
            case 0:
                kind = random.choice(("paused", "stopped", "crashed", "resumed", random.choice(mutate.TEXTS)))
                seen_now = domain.LifecycleEvent(self._text(random), "u0", kind, self._text(random))
            case 1:
                seen_now = monitoring.Silent(self._text(random), is_certain=random.random() < 0.5)
            case _:
                cpu = domain.HostCpu(random.choice((1, 4, 4096)), self._figure(random), self.now_s)
                seen_now = monitoring.Listed(tuple(self._reading(random, uuid) for uuid in ("u0", "u1")), cpu)
        self.state, told = monitoring.handle(self.state, seen_now)
        for body in told:
            decode(encode(HEADER, body))
        return True

    def _reading(self, random: Random, uuid: str) -> domain.CpuReading:
        state = random.choice(list(domain.DomainState))
        allotted = random.choice((None, 1.0, 0.5, 1e-3, 4096.0))
        return domain.CpuReading(
            "web-0000", uuid, state, self._figure(random), allotted, self.now_s, state_reason="user"
        )

    @staticmethod
    def _figure(random: Random) -> float:
        """Return seconds of a counter of nanoseconds, which libvirt keeps in 64 bits."""
        return random.choice((0.0, 1.0, 1.5, 60.0, 2.0**53, 1.8446744073709552e10))

    @staticmethod
    def _text(random: Random) -> str:
        return mutate.text_of(random, "web-0000")


class LibvirtDoor(Door):
    """Definitions and capabilities: libvirt's own well-formed text, with names and values that others chose."""

    name = "libvirt-xml"
    definition: ClassVar = (
        "<domain type='kvm'><name>web-0000</name><devices><disk><source file='/d.qcow2'/><target dev='vda'/></disk>"
        "<interface type='network'><mac address='52:54:00:AA:00:01'/><source network='lan'/>"
        "<link state='up'/></interface>"
        "<channel><target name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>"
    )
    capabilities: ClassVar = (
        "<capabilities><host><cpu><arch>x86_64</arch><vendor>X</vendor><model>Y</model></cpu></host>"
        "<guest><arch name='x86_64'><domain type='kvm'/></arch></guest></capabilities>"
    )

    def feed(self, random: Random) -> bool:
        import xml.etree.ElementTree as ET

        self.fed += 1
        found = []
        for text in (self.definition, self.capabilities):
            root = ET.fromstring(text)
            for _ in range(random.randint(1, 4)):
                node = random.choice(list(root.iter()))
                match random.randrange(4):
                    case 0 if node.attrib:
                        key = random.choice(list(node.attrib))
                        node.set(key, domain.plain(mutate.text_of(random, node.attrib[key])))
                    case 1 if node.attrib:
                        del node.attrib[random.choice(list(node.attrib))]
                    case 2 if len(node):
                        node.remove(random.choice(list(node)))
                    case _:
                        node.text = domain.plain(random.choice(mutate.TEXTS))
            found.append(ET.tostring(root, encoding="unicode"))
        definition, capabilities = found
        domain.has_link(definition)
        domain.has_agent(definition)
        domain.disk_sources(definition)
        domain.networks_of(definition)
        domain.domain_types(capabilities)
        domain.cpu_model(capabilities)
        nics_in(definition, random.choice(("", "lan")))
        quota = {
            key: random.choice((0, -1, 1, 50_000, 2**63 - 1)) for key in ("vcpu_quota", "vcpu_period", "global_quota")
        }
        assert domain.allotted_cpus(2, quota) >= 0
        return True


# --- files -------------------------------------------------------------------------------------------------------


class FileDoor(Door):
    """Files that may have been cut off, edited or written by another: read as a starting service reads them."""

    def put(self, name: str, data: bytes) -> Path:
        path = self.scratch / name
        path.write_bytes(data)
        return path

    @staticmethod
    def damaged(random: Random, values: Any) -> bytes:
        """Return JSON of these values, damaged as values or as bytes."""
        if random.random() < 0.3:
            return mutate.bytes_of(random, json.dumps(values).encode())
        changed = mutate.values_of(random, values, is_mild=random.random() < 0.7)
        try:
            return json.dumps(changed, default=str).encode()
        except RecursionError:
            return b"[" * 100_000


class ActuatorStore(FileDoor):
    name = "store-actuator"
    values: ClassVar[Any] = {
        "boot_id": "b",
        "breakers": {"web/local": {"failures": 2, "openings": 1, "open_until_s": 60.0, "last_failure_s": 30.0,
                                   "culprits": ["u1"], "relapses": 1, "relapsed_s": 9.0, "held": 1}},
        "boot_times_s": {"web": [9.0, 12.5]},
        "lead_times_s": {"web//local": [9.0]},
        "demand": {"web": [[EPOCH_S, 2], [EPOCH_S + 60, 3]]},
        "owned": {"local": {"web": 2}},
        "terms": {"web": "0123abcd"},
    }  # fmt: skip

    def feed(self, random: Random) -> bool:
        from services.actuator.core import lead_times
        from services.actuator.core.sizing import choose as sized

        self.fed += 1
        path = self.put("actuator.json", self.damaged(random, self.values))
        stored = read_actuator(path, NOW_S, random.choice(("b", "other")))
        see = replace(seen(seen_domain("web-0000")), breakers=stored.breakers)
        hosts = (SeenHost("local", is_ever_seen=False, is_reachable=False, remembered=stored.owned.get("local", {})),)
        for breaker in stored.breakers.values():
            breakers.failed(breaker, NOW_S)
            breakers.why_held(breaker, NOW_S)
        check_plan(wanted(3), see if random.random() < 0.5 else replace(see, hosts=hosts), NOW_S)
        group = (
            Group.model_validate({"prefix": "web-", "warm": {"sizing": "auto"}}) if self.fed < 0 else wanted(1).group
        )
        sized(group, 4, stored.demand.get("web", ()), EPOCH_S, 9.0)
        found = plan(wanted(1), see, NOW_S)
        times, leads = stored.boot_times_s.get("web", ()), lead_times.told("web", stored.lead_times_s)
        decode(encode(HEADER, membership(wanted(1), see, found, times, NOW_S, leads)))
        return bool(stored.breakers or stored.boot_times_s or stored.owned)


class DeciderStore(FileDoor):
    name = "store-decider"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        life = Tape(world()).run(120).world
        self._values = {"groups": {"web": json.loads(life.saved)}}

    def feed(self, random: Random) -> bool:
        self.fed += 1
        path = self.put("decider.json", self.damaged(random, self._values))
        at = Instant(random.choice(("boot", "b")), NOW_S, EPOCH_S)
        store = Store(path)
        standing_found = store.standing("web", at)
        if self.fed % 10 == 0:
            assert store.write() == ""
        state = begin(settings(min=0, max=6), standing_found)
        state, actions = deciding.handle(state, Tick(EPOCH_S), NOW_S)
        for action in actions:
            if isinstance(action, PublishDesired | PublishRecord):
                decode(encode(HEADER, action.body))
        return standing_found is not None


class LibraryStore(FileDoor):
    name = "store-learned"
    share = 0.1

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self._settings = settings(min=0, max=6, policies=[{"type": "predictive"}])
        self._library = Library(scratch / "learned")
        tape = Tape(World_(self._settings)).run(200)
        from services.decider.core.state import learned_of

        self._library.save("web", 0, learned_of(tape.world.state)[0], is_base_new=True)
        self._files = {path: path.read_bytes() for path in sorted((scratch / "learned").iterdir())}

    def feed(self, random: Random) -> bool:
        self.fed += 1
        for path, data in self._files.items():
            changed = data
            if random.random() < 0.08:
                changed = mutate.bytes_of(random, data)
            elif random.random() < 0.5:
                values = mutate.values_of(random, mutate.listed(learned._unpacked(data)), is_mild=random.random() < 0.9)
                with contextlib.suppress(ValueError, OverflowError, TypeError):
                    changed = learned._packed(values)
            path.write_bytes(changed)
        found = self._library.learned(self._settings)
        state = begin(self._settings, None, found)
        deciding.handle(state, Tick(EPOCH_S), NOW_S)
        return bool(found)


def World_(of: Any) -> Any:  # noqa: N802 - makes one
    from tests.sim.decider_model import World

    return World(lambda t: 1.5, settings=of)


class NotifierStore(FileDoor):
    name = "store-notifier"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        event = messages.Event(name="scale-out", group="web", text="from 1 to 2")
        notice = notice_of(event, "decider/1/event.scale-out/1", "decider", EPOCH_S, None)
        self._values = {"heard_at_s": EPOCH_S, "recent": [notice.id],
                        "queues": {"a": [[notice.id, notice.type, notice.body, 1]]}}  # fmt: skip

    def feed(self, random: Random) -> bool:
        from services.notifier.shell import missed_since_s

        self.fed += 1
        past = Notices(self.put("notifier.json", self.damaged(random, self._values))).read()
        state = deliver.resumed((deliver.Receiver("a", None, frozenset(), 2),), past.queues, NOW_S)
        state, actions = deliver.handle(state, deliver.Tick(), NOW_S, 0.5)
        for action in actions:
            if isinstance(action, deliver.Attempt):
                environment(action.notice, {})
        if past.heard_at_s is not None:
            missed_since_s(past.heard_at_s, EPOCH_S)
        return past.heard_at_s is not None


class AccelerationStore(FileDoor):
    name = "store-acceleration"

    def feed(self, random: Random) -> bool:
        self.fed += 1
        others = {f"host-{n}": {"type": "qemu", "reason": "no", "circumstances": {"cpu": "Z"}} for n in range(3)}
        values = {"local": {"type": "kvm", "reason": "proven", "circumstances": {"cpu": "X"}}, **others}
        self.put(acceleration.STORE, self.damaged(random, values))
        found = acceleration._recall(self.scratch, "local", {"cpu": "X"})
        acceleration._read(self.scratch / acceleration.STORE)
        assert found is None or str(found).isprintable()
        return found is not None


class ConfigDoor(Door):
    """autoscaler.toml, and variables that set its keys."""

    name = "config"
    share = 0.1

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self._texts = [
            (ROOT / "autoscaler.toml").read_text(encoding="utf-8"),
            '[groups.web]\nprefix = "web-"\nmin = 1\nmax = 4\n[[groups.web.policies]]\ntype = "schedule"\n'
            'cron = "0 8 * * 1-5"\nduration_s = 3600\ncapacity = 2\n[[notifications]]\nurl = "https://x.example/hook"\n',
            '[system]\ninterval_s = 0.5\n[network]\nsubnet = "10.9.0.0/24"\n[groups.web]\nprefix = "web-"\n'
            "min = 1\nmax = 4\ncooldown_in_s = 60.0\nboot_timeout_s = 90\n[metrics]\nlisten = '127.0.0.1:9464'\n",
        ]
        self._path = scratch / "autoscaler.toml"

    def feed(self, random: Random) -> bool:
        self.fed += 1
        text = random.choice(self._texts)
        if random.random() < 0.8:
            raw = self._other_value(random, text).encode(errors="replace")
        else:
            raw = mutate.bytes_of(random, text.encode())
        environ = {}
        if random.random() < 0.3:
            key = random.choice(
                ("GROUPS__WEB__MAX", "SYSTEM__INTERVAL_S", "GROUPS__WEB__POLICIES__0__TYPE", "NOTIFICATIONS__0__URL")
            )
            environ[f"AUTOSCALER_{mutate.text_of(random, key) if random.random() < 0.3 else key}"] = random.choice(
                mutate.TEXTS
            )
        self._path.write_bytes(raw)
        try:
            config_file.load(self._path, environ)
        except ConfigError as error:
            assert str(error)
            return False
        return True

    @staticmethod
    def _other_value(random: Random, text: str) -> str:
        """Return the text with another value for one key: mostly a number not far from the old one."""
        lines = text.split("\n")
        numbers = [at for at, line in enumerate(lines) if re.fullmatch(r"[a-z_]+ = [0-9.]+.*", line)]
        at = random.choice(numbers or [0])
        if random.random() < 0.7:
            lines[at] = re.sub(r"= ([0-9.]+)", lambda found: _near(random, found[1]), lines[at])
        else:
            hostile = (*map(str, mutate.NUMBERS), "true", '"on"', '""', "[]", "{}", f"'{random.choice(mutate.TEXTS)}'")
            lines[at] = f"{lines[at].partition('=')[0]}= {random.choice(hostile)}"
        return "\n".join(lines)


def _near(random: Random, text: str) -> str:
    """Return ``= NUMBER`` of the same type as the text's."""
    scale = random.choice((0.5, 0.9, 1.0, 1.1, 2.0))
    return f"= {float(text) * scale}" if "." in text else f"= {int(int(text) * scale)}"


class RecordingDoor(FileDoor):
    """A recording: its frames, and the decider run through them again."""

    name = "recording"
    share = 0.02

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        tape = Tape(world()).run(60)
        self._frames = list(tape.frames)
        self._data = recording.header_bytes("b", EPOCH_S) + b"".join(
            recording.frame_bytes(f.at_s, f.mono_s, f.topic, f.payload) for f in self._frames
        )

    def feed(self, random: Random) -> bool:
        self.fed += 1
        if random.random() < 0.5:
            path = self.put(recording.raw_name(1), mutate.bytes_of(random, self._data, self._data))
            found = recording.Recording(path)
            with contextlib.suppress(RecordingError):
                frames = list(found.frames())
                list(found.decoded(frames))
                found.damage.text()
                return self._replayed(frames)
            return False
        frames = list(self._frames)
        at = random.randrange(len(frames))
        values = mutate.values_of(
            random, mutate.listed(msgpack.unpackb(frames[at].payload)), is_mild=random.random() < 0.7
        )
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            frames[at] = replace(frames[at], payload=msgpack.packb(values, unicode_errors="surrogatepass"))
        return self._replayed(frames)

    @staticmethod
    def _replayed(frames: list[recording.Recorded]) -> bool:
        try:
            return any(True for _ in replay(frames, lambda group, run_id: replace(settings(), run_id=run_id)))
        except (ValueError, AutoscalerError):  # ``cli.replay.ticks`` tells it
            return False


class TraceDoor(FileDoor):
    """A trace of request rates."""

    name = "trace"

    def feed(self, random: Random) -> bool:
        self.fed += 1
        rows = [f"{t},{t % 50 + random.random():.2f}" for t in range(0, 600, 60)]
        text = "t_seconds,requests\n" + "\n".join(rows) + "\n"
        if random.random() < 0.5:
            lines = text.split("\n")
            at = random.randrange(1, len(lines) - 1)
            lines[at] = f"{lines[at].partition(',')[0]},{random.choice((*mutate.MILD, *mutate.NUMBERS))}"
            text = "\n".join(lines)
        else:
            text = mutate.text_of(random, text)
        try:
            found = traces.read(self.put("trace.csv", text.encode(errors="surrogatepass")))
        except traces.TraceError:
            return False
        assert found.step_s > 0 and all(0 <= each <= traces.MOST_REQUESTS for each in found.requests)
        return True


class CronDoor(Door):
    """The five fields of a schedule."""

    name = "cron"
    share = 0.2

    def feed(self, random: Random) -> bool:
        self.fed += 1
        try:
            text = random.choice(("0 8 * * 1-5", "*/5 * * * *", "0 0 1 1 *"))
            fields = text.split(" ")
            fields[random.randrange(5)] = random.choice(
                ("*", "1", "*/2", "1-3", "1,2", "0", "7", "L", "99", "-1", "1/0")
            )
            cron.check(mutate.text_of(random, text) if random.random() < 0.4 else " ".join(fields))
        except ValueError:
            return False
        return True


DOORS: Final[dict[str, type[Door]]] = {
    door.name: door
    for door in (
        DeciderBus, ActuatorBus, BalancerBus, PlotterBus, RecorderBus, NotifierBus, ExporterBus, ControlDoor,
        MetadataDoor, GuestDoor, AddressDoor, HAProxyDoor, ReadingsDoor, LibvirtDoor, ActuatorStore,
        DeciderStore, LibraryStore, NotifierStore, AccelerationStore, ConfigDoor, RecordingDoor, TraceDoor,
        CronDoor,
    )
}  # fmt: skip
