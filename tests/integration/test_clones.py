"""The actuator with real guests that are cloned: on a network of its own, with a decider and a balancer played here."""

import http.client
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.messages import BackendState, DesiredCapacity, Drain, Event, Membership
from common.network_xml import network_xml
from common.process import Context
from common.virt import save_image
from services.actuator.access import access
from services.actuator.shell import ActuatorService
from services.actuator.worker import Access
from tests.integration.actuator_stand import CLOCK, FakeBus
from tests.named import Named

URI = "qemu:///system"
GROUP, PREFIX = "clonet", "clonet-"
LIMIT_S = 150.0
STATES = {"warming": "ready", "ready": "ready", "draining": "draining"}


def has_libvirt() -> bool:
    try:
        Named.open(URI, is_read_only=False, may_touch=lambda _name: False).close()
    except HypervisorError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_libvirt(), reason="needs libvirtd")


class Driver:
    """Runs the actuator's loop in the test's thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bus = FakeBus()
        self.desired, self.generation, self.said_s = 0, 0, 0.0
        self.answered: Membership | None = None
        self.answered_s = 0.0
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

        return Access(real.open, real.watch, prepare, real.sources, version=real.version)

    def want(self, desired: int) -> None:
        self.desired, self.generation, self.said_s = desired, self.generation + 1, 0.0

    def turn(self) -> None:
        now_s = CLOCK.monotonic_s()
        if self.generation and now_s - self.said_s > 0.5:
            self.said_s = now_s
            self.bus.put(
                DesiredCapacity(
                    group=GROUP,
                    generation=self.generation,
                    desired=self.desired,
                    minimum=0,
                    maximum=11,
                    decision_id="d",
                )
            )
        message = self.membership()
        if message is not None and (message is not self.answered or now_s - self.answered_s > 0.5):
            self.answered, self.answered_s = message, now_s
            self.bus.put(drain(message))
        self.service.step(self.bus.receive(0.1), CLOCK.monotonic_s())

    def membership(self) -> Membership | None:
        return next((b for b in reversed(self.bus.published) if isinstance(b, Membership)), None)

    def members(self, *phases: str) -> dict[str, str]:
        """Return name and tier of the members in one of the phases, of all without phases."""
        message = self.membership()
        return {m.name: m.tier for m in message.members if not phases or m.phase in phases} if message else {}

    def events(self, name: str) -> list[str]:
        return [body.text for body in self.bus.published if isinstance(body, Event) and body.name == name]

    def run_until(self, is_so: Callable[[], bool]) -> float:
        begun_s = CLOCK.monotonic_s()
        while not is_so():
            assert CLOCK.monotonic_s() - begun_s < LIMIT_S, (self.membership(), self.bus.published[-20:])
            self.turn()
        return CLOCK.monotonic_s() - begun_s

    def snapshot(self) -> Path | None:
        found = list((self.config.system.state_path / "actuator/snapshots").glob("*/*.json"))
        return found[0].with_suffix(".save") if found else None


def drain(message: Membership) -> Drain:
    backends = tuple(
        BackendState(name=m.name, uuid=m.uuid, slot="vm1", state=STATES[m.phase], is_healthy=True, in_flight=0)
        for m in message.members
        if m.phase in STATES
    )
    return Drain(group=GROUP, endpoint="127.0.0.1:1", is_proxy_alive=True, backends=backends)


class Watcher:
    """Asks every address for its health all the time, and keeps under which names it was answered well.

    ``first`` is what each told about itself at once after its first good answer, and between which times.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.names: dict[str, set[str]] = {address: set() for address in addresses}
        self.first: dict[str, tuple[float, dict[str, Any], float]] = {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(a,), daemon=True) for a in addresses]
        for thread in self._threads:
            thread.start()

    def _watch(self, address: str) -> None:
        while not self._stopping.wait(0.05):
            try:
                status, name, _ = get(address, "/healthz", 0.3)
                if status != 200:
                    continue
                self.names[address].add(name)
                if address not in self.first:
                    asked_s = CLOCK.epoch_s()
                    told = json.loads(get(address, "/identity", 10.0)[2])
                    self.first[address] = asked_s, told, CLOCK.epoch_s()
            except (OSError, http.client.HTTPException):
                continue

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def get(address: str, path: str, timeout_s: float = 5.0) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(address, 8080, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("X-Served-By") or "", response.read().decode()
    finally:
        connection.close()


def cloning(place: Path, images: Path, network: dict[str, Any], group: str, **values: Any) -> Config:
    """Return the configuration of one group of small guests that clones, with its state in ``place``."""
    image = {"directory": str(images), "memory_mib": 96, "cpu_quota": 0.9}
    return Config.model_validate(
        {
            "system": {"run_dir": str(place / "run"), "state_dir": str(place / "state"), "interval_s": 1.0},
            "network": network,
            "groups": {group: {"min": 0, "image": image, "warm": {"start": "clone"}, **values}},
        }
    )


@pytest.fixture
def config(images: Path) -> Iterator[Config]:
    place = Path(tempfile.mkdtemp(prefix="clonet-", dir="/var/tmp"))
    place.chmod(0o755)
    network = {"name": "clonet", "bridge": "asbr9c", "subnet": "192.168.172.0/24", "slots": 30}
    yield cloning(place, images, network, GROUP, prefix=PREFIX, max=11, endpoint="127.0.0.1:18997")
    shutil.rmtree(place)


@pytest.fixture
def driver(config: Config) -> Iterator[Driver]:
    driver = Driver(config)
    yield driver
    driver.service.close()
    sweep()


def sweep() -> None:
    connection = mine()
    connection.remove_mine()
    connection.remove_network("clonet")
    connection.close()


def mine() -> Named:
    return Named.open(URI, is_read_only=False, may_touch=lambda name: name.startswith(PREFIX))


def shown() -> list[str]:
    connection = mine()
    names = [domain.name for domain in connection.domains() if domain.name.startswith(PREFIX)]
    connection.close()
    return names


def test_ten_clones_at_once_share_nothing_and_never_answer_as_another(driver: Driver) -> None:
    driver.want(1)
    driver.run_until(lambda: list(driver.members("ready")) == [f"{PREFIX}0000"])
    driver.run_until(lambda: driver.events("snapshot-taken") != [])
    driver.run_until(lambda: shown() == [f"{PREFIX}0000"])
    network = driver.config.network
    watcher = Watcher([network.address(slot) for slot in range(network.slots) if slot > 0][:16])
    driver.want(11)
    print("ten clones ready after", round(driver.run_until(lambda: len(driver.members("ready")) == 11), 2))
    message = driver.membership()
    assert message is not None
    clones = message.members[1:]
    driver.run_until(lambda: all(member.address in watcher.first for member in clones))
    watcher.stop()
    tiers = driver.members("ready")
    # On a starved machine one or two may be given up, and boot instead; whatever they are, they share nothing.
    assert list(tiers.values()).count("clone") >= 8, driver.membership()
    identities = []
    for member in clones:
        asked_s, found, answered_s = watcher.first[member.address or ""]
        assert asked_s - 0.5 <= found["epoch_s"] <= answered_s + 0.5
        assert (found["name"], found["hostname"], found["address"]) == (member.name, member.name, member.address)
        assert found["machine_id"] == member.uuid.replace("-", "")
        assert watcher.names[member.address or ""] == {member.name}
        identities.append(found)
    for key in ("name", "hostname", "machine_id", "mac", "address", "random"):
        assert len({found[key] for found in identities}) == 10, key


def test_a_damaged_snapshot_is_made_up_for_by_booting(driver: Driver) -> None:
    driver.want(1)
    driver.run_until(lambda: driver.snapshot() is not None and "snapshot-taken" in str(driver.bus.published))
    whole = driver.snapshot()
    assert whole is not None
    damage(whole)
    driver.want(2)
    driver.run_until(lambda: len(driver.members("ready")) == 2)
    assert set(driver.members("ready").values()) == {""}
    assert any("not cloned, so it boots" in text for text in driver.events("tier-failed"))
    message = driver.membership()
    assert message is not None and "not cloned" in str(message.notes)
    whole.write_bytes(whole.read_bytes()[:-1000])  # now the manifest shows it
    driver.run_until(lambda: len(driver.events("snapshot-taken")) == 2)
    driver.want(3)
    driver.run_until(lambda: "clone" in driver.members("ready").values())
    assert not list(whole.parent.glob("*.pipe"))


def damage(snapshot: Path) -> None:
    """Spoil the memory in a way that nobody sees who does not read it."""
    state = snapshot.stat()
    content = bytearray(snapshot.read_bytes())
    start = save_image.parse(bytes(content)).stream_at
    content[start : start + 4096] = bytes(4096)
    snapshot.write_bytes(content)
    os.utime(snapshot, ns=(state.st_atime_ns, state.st_mtime_ns))
