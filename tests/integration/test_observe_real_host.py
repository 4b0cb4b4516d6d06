"""``mode = "observe"`` on real libvirt: the whole actuator and the decider's core decide, and no write call is made.

Every call that the actuator makes on its connection is counted. There is a lot that it would do otherwise: our network
is missing, a domain of ours is off although it is marked ready, and the load asks for more.
"""

import os
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.bus import Inbox
from common.clock import SystemClock
from common.config import Config
from common.hypervisor import Connection
from common.messages import Body, Header, HostSample, Membership, Request
from common.messaging.inbox import Received
from common.phases import Phase
from common.process import Context
from services.actuator.access import access
from services.actuator.core.record import Record
from services.actuator.shell import ActuatorService
from services.actuator.worker import Access
from services.decider.core.events import Asked, MembershipSeen, PublishDesired, PublishRecord, SampleSeen, Tick
from services.decider.core.group import handle
from services.decider.core.seen import read_sample
from services.decider.core.state import Settings, begin
from tests.named import Named

URI = "qemu:///system"
NAME = "asobs-0000"
CLOCK = SystemClock()
READS = {
    "domains",
    "facts",
    "address",
    "free_memory_bytes",
    "host_cpus",
    "host_facts",
    "is_alive",
    "close",
    "watch",
    "uri",
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs libvirt's system socket")


class Counting:
    """A connection that counts what is asked of it."""

    def __init__(self, connection: Connection, calls: "Counter[str]") -> None:
        self.__dict__["_of"] = connection, calls

    def __getattr__(self, name: str) -> Any:
        connection, calls = self.__dict__["_of"]
        calls[name] += 1
        return getattr(connection, name)


class Bus:
    """Brings the messages of the actuator to the decider's core, and those of the core to the actuator."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.memberships: list[Membership] = []
        self.waiting: list[Received] = []
        self.waker = threading.Event()

    def publish(self, body: Body, cause: str | None = None) -> str:
        if isinstance(body, Membership):
            self.memberships.append(body)
        return f"actuator/1/{body.topic}/1"

    def subscribe(self, service: str, *kinds: str) -> None:
        return None

    def wake(self) -> None:
        self.waker.set()

    def put(self, body: Body) -> None:
        header = Header(source="decider", run_id=1, seq=1, sent_at_s=0.0, mono_s=0.0)
        self.waiting.append(Received(topic=body.topic, header=header, body=body, age_s=0.0, id=f"d/{body.topic}"))

    def receive(self, timeout_s: float) -> Inbox:
        self.waker.wait(timeout_s)
        self.waker.clear()
        inbox, self.waiting = Inbox(tuple(self.waiting), ()), []
        return inbox


class Both:
    """The actuator's service on real libvirt, and the decider's core under a load that asks for more."""

    def __init__(self, config: Config) -> None:
        self.calls: Counter[str] = Counter()
        self.config, self.bus, self.records = config, Bus(), list[Any]()
        group = config.groups["web"]
        settings = Settings("web", group, interval_s=0.2, stale_after_s=3.5, republish_s=0.4, slots=64, run_id=1)
        self.state = begin(settings)
        context = Context("actuator", config, "", Path("t"), CLOCK, self.bus, lambda: False)  # type: ignore[arg-type] # a fake bus
        self.service = ActuatorService(context, self._access)

    def _access(self, host: str) -> Access:
        real = access(self.config, host)

        def connect() -> Any:
            return Counting(Named.open(URI, is_read_only=False, may_touch=lambda name: name == NAME), self.calls)

        def prepare(connection: Any) -> str:
            connection.ensure_network  # noqa: B018 - counted; it is not called: the host is left as it is
            return "qemu"

        return Access(
            open=connect,
            watch=lambda _host, _changed: None,
            prepare=prepare,
            sources=real.sources,
            storage=connect,
            pool=real.pool,
        )

    def turn(self) -> None:
        self.service.step(self.bus.receive(0.05), CLOCK.monotonic_s())
        now_s = CLOCK.monotonic_s()
        sample = HostSample(
            host="local", interval_s=0.2, is_reachable=True, names=(NAME,), uuids=("u",), states=("running",),
            cpu_ratios=(1.0,), allotted_cpus=(1.0,),
        )  # fmt: skip
        events: list[Any] = [SampleSeen(read_sample(sample, now_s, "s"))]
        events += [MembershipSeen(body, now_s, "m") for body in self.bus.memberships[-1:]]
        for event in (*events, Tick(CLOCK.epoch_s())):
            self.decide(event, now_s)

    def decide(self, event: Any, now_s: float) -> None:
        self.state, actions = handle(self.state, event, now_s)
        for action in actions:
            if isinstance(action, PublishDesired):
                self.bus.put(action.body)
            if isinstance(action, PublishRecord):
                self.records.append(action.body)

    def run_until(self, is_so: Callable[[], bool], what: str) -> None:
        until_s = CLOCK.monotonic_s() + 60
        while not is_so():
            assert CLOCK.monotonic_s() < until_s, f"{what}; calls {self.calls}, last {self.bus.memberships[-1:]}"
            self.turn()

    def writes(self) -> set[str]:
        return set(self.calls) - READS


@pytest.fixture
def config() -> Iterator[Config]:
    with tempfile.TemporaryDirectory(prefix="asobs-", dir="/var/tmp") as place:
        group = {"prefix": "asobs-", "min": 2, "mode": "observe", "endpoint": "127.0.0.1:18999"}
        values = {
            "system": {"run_dir": f"{place}/run", "state_dir": f"{place}/state", "interval_s": 0.2},
            "network": {"name": "asobs", "bridge": "asobs0", "subnet": "192.168.198.0/24", "slots": 4},
            "groups": {"web": group},
        }
        yield Config.model_validate(values)


@pytest.fixture
def crashed(config: Config) -> Iterator[str]:
    """Define a domain of ours that is off although its record says that it serves; return its UUID."""
    identity = str(uuid.uuid4())
    record = Record(
        group="web", uuid=identity, host="local", phase=Phase.READY, since_mono_s=0, since_s=0, boot_id="", template="t"
    )
    connection = Named.open(URI, is_read_only=False, may_touch=lambda name: name == NAME)
    connection.define(
        f"<domain type='qemu'><name>{NAME}</name><uuid>{identity}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
    )
    connection.set_metadata(NAME, record.to_metadata())
    yield identity
    if connection.facts(NAME) is not None:
        connection.undefine(NAME)
    connection.close()


def phase_in_libvirt() -> str:
    connection = Named.open(URI, is_read_only=True, may_touch=lambda name: name == NAME)
    try:
        facts = connection.facts(NAME)
        return facts.metadata["phase"] if facts is not None else "gone"
    finally:
        connection.close()


def test_no_write_call_is_made_while_it_observes_and_then_they_are(config: Config, crashed: str) -> None:
    both = Both(config)
    try:
        both.run_until(lambda: both.calls["domains"] >= 15 and len(both.records) >= 15, "looks and decisions")
        assert both.writes() == set()
        assert phase_in_libvirt() == Phase.READY
        assert [member.uuid for member in both.bus.memberships[-1].members] == [crashed]
        told = both.bus.memberships[-1]
        assert "mode observe" in " ".join((told.blocked, *told.notes))
        assert {record.mode for record in both.records} == {"observe"}
        both.decide(Asked(Request(verb="mode", args={"mode": "on"}), 1, CLOCK.epoch_s()), CLOCK.monotonic_s())
        both.run_until(lambda: both.writes() >= {"set_metadata", "ensure_network"}, "the first writes")
    finally:
        both.service.close()
