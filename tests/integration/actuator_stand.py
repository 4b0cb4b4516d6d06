"""The actuator's own loop on real libvirt, with a decider and a balancer played by the test."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from common.bus import Inbox
from common.clock import SystemClock
from common.config import Config
from common.hypervisor import Connection
from common.messages import BackendState, Body, DesiredCapacity, Drain, Header, Membership, Reply, Request, Traffic
from common.messaging.inbox import PendingRequest, Received
from common.network_xml import network_xml
from common.process import Context
from services.actuator.access import access
from services.actuator.shell import ActuatorService
from services.actuator.worker import Access

CLOCK: Final = SystemClock()


class FakeBus:
    """Keeps what is published, and gives what a test puts in."""

    def __init__(self) -> None:
        self.published: list[Body] = []
        self.counters: Counter[str] = Counter()
        self.waker = threading.Event()
        self.messages: list[Received] = []
        self.requests: list[PendingRequest] = []

    def publish(self, body: Body, cause: str | None = None) -> str:
        self.published.append(body)
        return f"actuator/1/{body.topic}/{len(self.published)}"

    def subscribe(self, service: str, *kinds: str) -> None:
        pass

    def wake(self) -> None:
        self.waker.set()

    def receive(self, timeout_s: float) -> Inbox:
        self.waker.wait(timeout_s)
        self.waker.clear()
        inbox = Inbox(tuple(self.messages), tuple(self.requests))
        self.messages, self.requests = [], []
        return inbox

    def put(self, body: Body) -> None:
        header = Header(source="test", run_id=1, seq=len(self.published) + 1, sent_at_s=0.0, mono_s=0.0)
        self.messages.append(Received(topic=body.topic, header=header, body=body, age_s=0.0, id=f"test/{body.topic}"))
        self.waker.set()


class Driver:
    """Runs the service's loop in the test's thread, with a decider and a balancer played by the test."""

    def __init__(self, config: Config) -> None:
        self.config = config
        (self.group,) = config.groups
        self.bus = FakeBus()
        self.desired, self.maximum = 0, 4
        self.generation = 0
        self.in_flight = 0
        self.burst_quota: float | None = None
        self.is_decider_silent = False
        self.sick: set[str] = set()
        self.answered: Membership | None = None
        self.said, self.said_s = 0, 0.0
        self.carried_s = 0.0
        self.service = self.start()

    def start(self) -> ActuatorService:
        context = Context("actuator", self.config, "", Path("t"), CLOCK, self.bus, lambda: False)  # type: ignore[arg-type] # a fake bus
        return ActuatorService(context, self._access)

    def _access(self, host: str) -> Access:
        real = access(self.config, host)

        def prepare(connection: object) -> str:
            assert isinstance(connection, Connection)
            if any(group.kind == "template" for group in self.config.groups.values()):  # an owner's domains have theirs
                connection.ensure_network(network_xml(self.config.network), self.config.network.name)
            return "qemu"

        return replace(real, prepare=prepare)

    def want(self, desired: int) -> None:
        self.desired, self.generation = desired, self.generation + 1

    def turn(self) -> None:
        message = self.membership()
        if self.generation and not self.is_decider_silent and self.is_due():
            self.bus.put(
                DesiredCapacity(
                    group=self.group,
                    generation=self.generation,
                    desired=self.desired,
                    minimum=0,
                    maximum=self.maximum,
                    decision_id=f"d{self.generation}",
                    burst_quota=self.burst_quota,
                    counted=tuple(m.uuid for m in message.members if m.is_uncounted) if message else (),
                )
            )
        if message is not None and message is not self.answered:
            self.answered = message
            self.bus.put(self._drain(message))
        if CLOCK.monotonic_s() - self.carried_s >= 0.5:
            self.carried_s = CLOCK.monotonic_s()
            self.bus.put(Traffic(group=self.group, interval_s=0.5, is_known=True, queue=0, in_flight=self.in_flight))
        self.service.step(self.bus.receive(0.1), CLOCK.monotonic_s())

    def is_due(self) -> bool:
        """Return whether the decider is to speak again: on a new decision, and twice a second."""
        if self.said == self.generation and CLOCK.monotonic_s() - self.said_s < 0.5:
            return False
        self.said, self.said_s = self.generation, CLOCK.monotonic_s()
        return True

    def _drain(self, message: Membership) -> Drain:
        states = {"warming": "ready", "ready": "ready", "draining": "draining"}
        backends = tuple(
            BackendState(
                name=m.name,
                uuid=m.uuid,
                slot="vm1",
                state=states[m.phase],
                is_healthy=m.name not in self.sick,
                unhealthy_s=60.0 if m.name in self.sick else 0.0,
                in_flight=self.in_flight,
            )
            for m in message.members
            if m.phase in states
        )
        return Drain(group=self.group, endpoint="127.0.0.1:1", is_proxy_alive=True, backends=backends)

    def membership(self) -> Membership | None:
        return next((b for b in reversed(self.bus.published) if isinstance(b, Membership)), None)

    def phases(self) -> dict[str, str]:
        message = self.membership()
        return {m.name: str(m.phase) for m in message.members} if message else {}

    def run_until(self, phases: dict[str, str], limit_s: float = 120.0) -> float:
        begun_s = CLOCK.monotonic_s()
        self.run_until_true(lambda: self.phases() == phases, limit_s)
        return CLOCK.monotonic_s() - begun_s

    def run_until_true(self, is_so: Callable[[], bool], limit_s: float) -> None:
        begun_s = CLOCK.monotonic_s()
        while not is_so():
            assert CLOCK.monotonic_s() - begun_s < limit_s, (self.phases(), self.membership())
            self.turn()

    def ask(self, verb: str, **args: str | bool) -> Reply:
        replies: list[Reply] = []

        class Pending:
            request = Request(verb=verb, args=dict(args), by="test")

            def reply(self, reply: Reply) -> None:
                replies.append(reply)

        self.bus.requests.append(Pending())  # type: ignore[arg-type] # a fake request
        self.bus.wake()
        begun_s = CLOCK.monotonic_s()
        while not replies:
            assert CLOCK.monotonic_s() - begun_s < 15
            self.turn()
        return replies[0]

    def close(self) -> None:
        self.service.close()
