"""The actuator on real libvirt with real guests: a group of its own, on a network of its own."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.bus import Inbox
from common.clock import SystemClock
from common.config import Config
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.messages import BackendState, Body, DesiredCapacity, Drain, Header, Membership, Reply, Request
from common.messaging.inbox import PendingRequest, Received
from common.network_xml import network_xml
from common.phases import Phase
from common.process import Context
from services.actuator.access import access
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.images import Images
from services.actuator.shell import ActuatorService
from services.actuator.worker import Access

IMAGE = Path(os.environ.get("AUTOSCALER_TEST_IMAGE", "/var/lib/libvirt-autoscaler/images"))
URI = "qemu:///system"
ROOT = Path(__file__).resolve().parents[2]
CLOCK = SystemClock()


def has_libvirt() -> bool:
    try:
        Connection.open(URI, is_read_only=False, may_touch=lambda _name: False).close()
    except HypervisorError:
        return False
    return (IMAGE / "manifest.json").is_file()


pytestmark = pytest.mark.skipif(not has_libvirt(), reason="needs libvirtd and the guest image (make image)")


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
        self.bus = FakeBus()
        self.desired = 0
        self.generation = 0
        self.in_flight = 0
        self.sick: set[str] = set()
        self.answered: Membership | None = None
        self.said, self.said_s = 0, 0.0
        self.service = self.start()

    def start(self) -> ActuatorService:
        context = Context("actuator", self.config, "", Path("t"), CLOCK, self.bus, lambda: False)  # type: ignore[arg-type] # a fake bus
        return ActuatorService(context, self._access)

    def _access(self, host: str) -> Access:
        real = access(self.config, host)

        def prepare(connection: object) -> str:
            assert isinstance(connection, Connection)
            connection.ensure_network(network_xml(self.config.network), self.config.network.name)
            return "qemu"

        return Access(real.open, real.watch, prepare, real.sources)

    def want(self, desired: int) -> None:
        self.desired, self.generation = desired, self.generation + 1

    def turn(self) -> None:
        if self.generation and self.is_due():
            self.bus.put(
                DesiredCapacity(
                    group="actest",
                    generation=self.generation,
                    desired=self.desired,
                    minimum=0,
                    maximum=4,
                    decision_id=f"d{self.generation}",
                )
            )
        message = self.membership()
        if message is not None and message is not self.answered:
            self.answered = message
            self.bus.put(self._drain(message))
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
        return Drain(group="actest", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=backends)

    def membership(self) -> Membership | None:
        return next((b for b in reversed(self.bus.published) if isinstance(b, Membership)), None)

    def phases(self) -> dict[str, str]:
        message = self.membership()
        return {m.name: str(m.phase) for m in message.members} if message else {}

    def run_until(self, phases: dict[str, str], limit_s: float = 60.0) -> float:
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


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="actest-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def config(place: Path) -> Config:
    return Config.model_validate(
        {
            "system": {"run_dir": str(place / "run"), "state_dir": str(place / "state"), "interval_s": 1.0},
            "network": {"name": "actest", "bridge": "asbr7", "subnet": "192.168.157.0/24", "slots": 20},
            "groups": {
                "actest": {
                    "prefix": "actest-",
                    "min": 0,
                    "max": 4,
                    "endpoint": "127.0.0.1:18999",
                    "image": {"directory": str(IMAGE), "cpu_quota": 0.4},
                }
            },
        }
    )


@pytest.fixture
def users_config(config: Config) -> Config:
    """The same group, of domains that the user has made."""
    values = config.model_dump(by_alias=True, mode="json")
    values["groups"]["actest"] |= {"kind": "existing", "address_source": "static", "readiness": {"identity": True}}
    addresses = {f"actest-{index:04d}": config.network.address(index) for index in range(3)}
    values["groups"]["actest"] |= {"addresses": addresses}
    return Config.model_validate(values)


@pytest.fixture
def users_driver(users_config: Config) -> Iterator[Driver]:
    connection = mine()
    connection.ensure_network(network_xml(users_config.network), "actest")
    for index in range(3):
        connection.define(users_xml(users_config, index))
    connection.start("actest-0002")
    connection.close()
    driver = Driver(users_config)
    yield driver
    driver.close()
    sweep()


def users_xml(config: Config, index: int) -> str:
    """A domain as a user may have made it: without our record."""
    template = Images(config.system.state_path).template(str(IMAGE))
    name, uuid = f"actest-{index:04d}", f"00000000-0000-4000-8000-00000000000{index}"
    record = Record(
        group="", uuid=uuid, host="", phase=Phase.GONE, since_mono_s=0.0, since_s=0.0, boot_id="", slot=index
    )
    group = config.groups["actest"].model_copy(update={"kind": "template"})
    root = ET.fromstring(domain_xml(DomainSpec(name, uuid, record, "qemu", group, config.network, template)))
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    return ET.tostring(root, encoding="unicode")


@pytest.fixture
def driver(config: Config) -> Iterator[Driver]:
    driver = Driver(config)
    yield driver
    driver.close()
    sweep()


def mine() -> Connection:
    return Connection.open(URI, is_read_only=False, may_touch=lambda name: name.startswith("actest-"))


def sweep() -> None:
    connection = mine()
    for domain in connection.domains():
        if domain.name.startswith("actest-"):
            if domain.state != "shutoff":
                connection.destroy(domain.name)
            connection.undefine(domain.name)
    connection.remove_network("actest")
    connection.close()


def fetch(address: str) -> str:
    connection = http.client.HTTPConnection(address, 8080, timeout=3)
    connection.request("GET", "/compute?n=10")
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return f"{response.getheader('X-Served-By')} {body.strip()}"


def test_group_of_real_guests_lives_its_whole_life(driver: Driver) -> None:
    driver.want(1)
    took_s = driver.run_until({"actest-0000": "ready"})
    print("one domain ready after", round(took_s, 2))
    message = driver.membership()
    assert message is not None and message.boot_p50_s is not None
    print("boot", message.boot_p50_s)
    assert fetch(message.members[0].address or "") == "actest-0000 3"
    driver.want(2)
    print("second ready after", round(driver.run_until({"actest-0000": "ready", "actest-0001": "ready"}), 2))
    connection = mine()
    connection.destroy("actest-0000")
    print("replaced after", round(driver.run_until({"actest-0001": "ready", "actest-0002": "ready"}, 30), 2))
    reply = driver.ask("protect", domain="actest-0002")
    assert reply.status == "applied"
    driver.want(1)
    print("scaled in after", round(driver.run_until({"actest-0002": "ready"}, 30), 2))
    assert [d.name for d in connection.domains() if d.name.startswith("actest-")] == ["actest-0002"]
    connection.close()


def test_frozen_guest_is_replaced_and_its_slow_end_holds_up_nobody(driver: Driver) -> None:
    driver.want(1)
    driver.run_until({"actest-0000": "ready"})
    pid = int(Path("/run/libvirt/qemu/actest-0000.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    driver.sick = {"actest-0000"}
    begun_s = CLOCK.monotonic_s()
    driver.run_until_true(lambda: driver.phases().get("actest-0001") in ("booting", "warming", "ready"), 10)
    assert Path(f"/proc/{pid}").exists(), "the replacement runs before the frozen one has ended"
    print("replacement began after", round(CLOCK.monotonic_s() - begun_s, 2))
    driver.run_until({"actest-0001": "ready"}, 60)
    print("only the new one after", round(CLOCK.monotonic_s() - begun_s, 2))
    assert not Path(f"/proc/{pid}").exists()


def test_users_domains_are_started_stopped_and_never_removed(users_driver: Driver) -> None:
    driver, connection = users_driver, mine()
    driver.want(1)
    driver.run_until({"actest-0002": "ready"})
    message = driver.membership()
    assert message is not None and message.members[0].address == "192.168.157.12"
    driver.want(2)
    driver.run_until({"actest-0000": "ready", "actest-0002": "ready"})
    driver.want(1)
    driver.run_until({"actest-0002": "ready"}, 30)
    states = {d.name: str(d.state) for d in connection.domains() if d.name.startswith("actest-")}
    assert states == {"actest-0000": "shutoff", "actest-0001": "shutoff", "actest-0002": "running"}
    connection.close()


def test_killed_actuator_is_rebuilt_from_what_libvirt_shows(driver: Driver) -> None:
    driver.want(2)
    driver.run_until_true(lambda: "booting" in driver.phases().values(), 30)
    driver.service.close()
    driver.bus.published.clear()
    driver.service = driver.start()
    driver.run_until({"actest-0000": "ready", "actest-0001": "ready"})
    connection = mine()
    assert len([d for d in connection.domains() if d.name.startswith("actest-")]) == 2
    connection.close()


def test_cleanup_leaves_nothing_of_ours(driver: Driver, place: Path) -> None:
    driver.want(1)
    driver.run_until({"actest-0000": "ready"})
    driver.close()
    path = place / "autoscaler.toml"
    path.write_text(
        f"""
        [system]
        run_dir = "{place}/run"
        state_dir = "{place}/state"
        [network]
        name = "actest"
        bridge = "asbr7"
        subnet = "192.168.157.0/24"
        slots = 20
        [groups.actest]
        prefix = "actest-"
        endpoint = "127.0.0.1:18999"
        """
    )
    command = [sys.executable, "-m", "services.actuator", "--config", str(path), "--remove-everything"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "actest-0000 removed" in done.stderr and "network actest is removed" in done.stderr
    connection = mine()
    assert [d.name for d in connection.domains() if d.name.startswith("actest-")] == []
    assert not connection.has_network("actest")
    connection.close()
    assert not (place / "state" / "actuator").exists()
