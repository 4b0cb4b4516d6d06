"""The actuator's process is told to end in the middle of a drain, and its successor goes on with it.

Its domains live in a libvirtd of their own, so they outlive it; this test answers their health checks, and plays
decider and balancer.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.domain import DomainState
from common.messages import BackendState, DesiredCapacity, Drain, Member, Membership, Traffic
from common.phases import Phase
from services.actuator.core.record import parse
from tests.answering import answering
from tests.integration.monitor_stand import PrivateLibvirtd, test_domain
from tests.waiting import Stopwatch

CLOCK = SystemClock()
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
NAMES = ("hvtest-0000", "hvtest-0001")
TEXT = """
[system]
run_dir = "{place}/run"
state_dir = "{place}/state"
interval_s = 0.3
republish_s = 0.5
stale_after_s = 3.0
[hosts.local]
uri = "{uri}"
[groups.web]
kind = "existing"
prefix = "hvtest-"
min = 0
max = 2
endpoint = "127.0.0.1:18996"
port = {port}
address_source = "static"
addresses = {{ "hvtest-0000" = "127.0.0.2", "hvtest-0001" = "127.0.0.3" }}
drain_timeout_s = 600.0
[groups.web.readiness]
path = "/"
identity = false
"""


@pytest.fixture
def daemon() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest.fixture
def port() -> Iterator[int]:
    """What answers for every domain, at every address of this machine."""
    with answering() as found:
        yield found


class Around:
    """Decider and balancer on the bus, and the actuator's process; ``in_flight`` is what each domain serves."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path.with_name("actuator.log")
        config = config_file.load(path)[0]
        self.decider = Bus.open(config, "decider", CLOCK)
        self.balancer = Bus.open(config, "balancer", CLOCK)
        self.decider.subscribe("actuator", "membership")
        self.members: dict[str, Member] = {}
        self.desired, self.generation, self.in_flight = 2, 1, 1
        self.told, self.blocked = 0, ""
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        self.members = {}
        command = [sys.executable, "-m", "services.actuator", "--config", str(self.path)]
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
        return self.process

    def turn(self) -> None:
        self.decider.publish(
            DesiredCapacity(
                group="web",
                generation=self.generation,
                desired=self.desired,
                minimum=0,
                maximum=2,
                counted=tuple(m.uuid for m in self.members.values() if m.is_uncounted),
            )
        )
        for received in self.decider.receive(0.1).messages:
            if isinstance(received.body, Membership):
                self.members = {member.name: member for member in received.body.members}
                self.told, self.blocked = self.told + 1, received.body.blocked
        self.balancer.publish(
            Drain(group="web", endpoint="", is_proxy_alive=True, backends=tuple(map(self.slot, self.members.values())))
        )
        self.balancer.publish(
            Traffic(group="web", interval_s=0.3, is_known=True, queue=0, in_flight=self.in_flight, request_rate=0.0)
        )
        self.balancer.receive(0.0)

    def slot(self, member: Member) -> BackendState:
        return BackendState(
            name=member.name,
            uuid=member.uuid,
            slot="vm1",
            state="draining" if member.phase is Phase.DRAINING else "ready",
            is_healthy=True,
            in_flight=self.in_flight,
        )

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        until_s = CLOCK.monotonic_s() + PATIENCE_S
        while not is_so():
            assert CLOCK.monotonic_s() < until_s, f"not so: {what}; {self.blocked}; {self.log.read_text()[-2000:]}"
            self.turn()

    def named(self, phase: Phase) -> list[str]:
        return [name for name, member in self.members.items() if member.phase is phase]

    def phase(self, name: str) -> Phase | None:
        return self.members[name].phase if name in self.members else None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.decider.close()
        self.balancer.close()


@pytest.fixture
def around(tmp_path: Path, daemon: PrivateLibvirtd, port: int) -> Iterator[Around]:
    writer = daemon.connect()
    for name in NAMES:
        writer.define(test_domain(name))
        writer.start(name)
    path = tmp_path / "autoscaler.toml"
    path.write_text(TEXT.format(place=tmp_path, uri=daemon.uri, port=port))
    found = Around(path)
    yield found
    found.close()
    writer.close()  # with its last connection the daemon forgets its domains


def states(daemon: PrivateLibvirtd) -> dict[str, tuple[DomainState, Phase | None]]:
    reader = daemon.connect(is_read_only=True)
    try:
        found = {facts.name: (facts.state, parse(facts.metadata)) for facts in reader.domains()}
    finally:
        reader.close()
    return {name: (state, record.phase if record else None) for name, (state, record) in found.items()}


def test_a_drain_outlives_the_actuator_and_its_successor_ends_it(around: Around, daemon: PrivateLibvirtd) -> None:
    around.until(lambda: around.named(Phase.READY) == list(NAMES), "both in rotation")
    around.desired, around.generation = 1, 2
    around.until(lambda: len(around.named(Phase.DRAINING)) == 1, "a drain")
    (leaves,), (stays,) = around.named(Phase.DRAINING), around.named(Phase.READY)
    watch = Stopwatch(around.process.pid)
    around.process.send_signal(signal.SIGTERM)
    assert around.process.wait(PATIENCE_S) == 0
    assert watch.s() < 3.0
    both_run = {stays: (DomainState.RUNNING, Phase.READY), leaves: (DomainState.RUNNING, Phase.DRAINING)}
    assert states(daemon) == both_run

    around.start()
    around.until(lambda: bool(around.members), "a first word of its successor")
    assert around.phase(leaves) is Phase.DRAINING, "it goes on where it was"
    told = around.told
    around.until(lambda: around.told > told + 4, "more words")
    assert states(daemon) == both_run, "a request is in flight"

    around.in_flight = 0
    around.until(lambda: states(daemon)[leaves][0] is DomainState.SHUTOFF, "its end")
    assert states(daemon)[stays] == (DomainState.RUNNING, Phase.READY)
