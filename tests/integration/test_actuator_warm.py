"""Domains that stand by, with real guests: paused in memory, saved to disk, woken, broken, removed."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import config_file
from common.domain import DomainFacts
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.messages import Event
from tests.integration.actuator_stand import CLOCK, Driver
from tests.named import Named

IMAGE = Path(os.environ.get("LIBVIRT_AUTOSCALER_TEST_IMAGE", "/var/lib/libvirt-autoscaler/images"))
URI = "qemu:///system"
ROOT = Path(__file__).resolve().parents[2]
SAVED = Path("/var/lib/libvirt/qemu/save")
PATIENCE_S = 300.0
TEXT = """
[system]
run_dir = "{place}/run"
state_dir = "{place}/state"
[network]
name = "acwarm"
bridge = "asbr8"
subnet = "192.168.158.0/24"
slots = 20
[groups.acwarm]
prefix = "acwarm-"
min = 0
max = 3
endpoint = "127.0.0.1:18997"
boot_timeout_s = 240.0
image = {{ directory = "{image}" }}
warm = {{ {warm} }}
"""


def has_libvirt() -> bool:
    try:
        Named.open(URI, is_read_only=False, may_touch=lambda _name: False).close()
    except HypervisorError:
        return False
    return (IMAGE / "manifest.json").is_file()


pytestmark = pytest.mark.skipif(not has_libvirt(), reason="needs libvirtd and the guest image (make image)")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="acwarm-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def connection() -> Iterator[Connection]:
    found = Named.open(URI, is_read_only=False, may_touch=lambda name: name.startswith("acwarm-"))
    yield found
    found.close()


Start = Callable[[str], Driver]


@pytest.fixture
def start(place: Path, connection: Connection) -> Iterator[Start]:
    """Begin a driver of a group with these warm domains; whatever it made is gone afterwards."""
    drivers: list[Driver] = []

    def begin(warm: str) -> Driver:
        path = place / "autoscaler.toml"
        path.write_text(TEXT.format(place=place, image=IMAGE, warm=warm))
        drivers.append(Driver(config_file.load(path)[0]))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.close()
    for domain in ours(connection).values():
        if domain.state != "shutoff":
            connection.destroy(domain.name)
        connection.undefine(domain.name)
    connection.remove_network("acwarm")


def ours(connection: Connection) -> dict[str, DomainFacts]:
    return {d.name: d for d in connection.domains() if d.name.startswith("acwarm-")}


def fetch(driver: Driver, name: str) -> str:
    return ask(driver, name, "/compute?n=10")[0]


def ask(driver: Driver, name: str, path: str) -> tuple[str, str]:
    """Return who answers at the address of the domain, and what."""
    message = driver.membership()
    assert message is not None
    address = next(m.address for m in message.members if m.name == name)
    connection = http.client.HTTPConnection(address or "", 8080, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    served_by, text = response.getheader("X-Served-By") or "", response.read().decode()
    connection.close()
    return served_by, text


def is_at_rest(connection: Connection, **states: str) -> bool:
    """Return whether our domains of these names stand by in these states."""
    found = ours(connection)
    wanted = {f"acwarm-{name[1:]}": state for name, state in states.items()}
    return all(
        name in found and found[name].state == state and found[name].metadata["phase"] == "standby"
        for name, state in wanted.items()
    )


def events(driver: Driver, name: str) -> list[str]:
    return [f"{b.domain}: {b.text}" for b in driver.bus.published if isinstance(b, Event) and b.name == name]


def test_real_guests_stand_by_are_woken_and_leave_nothing(start: Start, connection: Connection, place: Path) -> None:
    driver = start("paused = 1, saved = 1")
    driver.want(1)
    driver.run_until_true(lambda: is_at_rest(connection, _0001="paused", _0002="shutoff"), PATIENCE_S)
    assert (SAVED / "acwarm-0002.save").is_file()
    assert driver.phases() == {"acwarm-0000": "ready", "acwarm-0001": "standby", "acwarm-0002": "standby"}
    driver.service.close()
    driver.service = driver.start()  # it finds them as they are
    driver.want(3)
    begun_s = CLOCK.monotonic_s()
    driver.run_until_true(lambda: driver.phases().get("acwarm-0001") == "ready", PATIENCE_S)
    print("paused in rotation after", round(CLOCK.monotonic_s() - begun_s, 3))
    driver.run_until({f"acwarm-000{index}": "ready" for index in range(3)}, PATIENCE_S)
    print("saved in rotation after", round(CLOCK.monotonic_s() - begun_s, 3))
    assert [fetch(driver, f"acwarm-000{index}") for index in range(3)] == [f"acwarm-000{index}" for index in range(3)]
    assert not (SAVED / "acwarm-0002.save").exists(), "a saved memory serves once"
    pid = Path("/run/libvirt/qemu/acwarm-0002.pid").read_text()
    driver.want(2)
    driver.run_until_true(lambda: is_at_rest(connection, _0002="paused"), PATIENCE_S)
    assert Path("/run/libvirt/qemu/acwarm-0002.pid").read_text() == pid, "who leaves stands by, as it is"
    driver.run_until_true(lambda: is_at_rest(connection, _0003="shutoff"), PATIENCE_S)
    driver.close()
    command = [sys.executable, "-m", "services.actuator", "--config", str(place / "autoscaler.toml")]
    done = subprocess.run(
        [*command, "--remove-everything"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ours(connection) == {} and not list(SAVED.glob("acwarm-*"))


def test_a_reserve_of_clones_is_woken_with_the_identity_of_each(start: Start, connection: Connection) -> None:
    driver = start('start = "clone", paused = 1, saved = 1')
    driver.maximum = 5
    driver.want(1)
    driver.run_until_true(lambda: events(driver, "snapshot-taken") != [], PATIENCE_S)
    driver.run_until_true(lambda: len(events(driver, "domain-standby")) == 2, PATIENCE_S)
    driver.want(3)
    driver.run_until_true(lambda: list(driver.phases().values()).count("ready") == 3, PATIENCE_S)
    begun_s = CLOCK.monotonic_s()
    driver.run_until_true(lambda: len(events(driver, "domain-standby")) == 4, PATIENCE_S)
    assert is_at_rest(connection, _0003="paused", _0004="shutoff")
    print("both refilled after", round(CLOCK.monotonic_s() - begun_s, 3), "with 5 s of calm before")
    clones = [ours(connection)[f"acwarm-000{index}"] for index in (3, 4)]
    assert [(d.metadata["cloned"], d.metadata["boosted"]) for d in clones] == [("1", "0")] * 2
    driver.want(5)
    driver.run_until({f"acwarm-000{index}": "ready" for index in range(5)}, PATIENCE_S)
    for clone in clones:
        served_by, text = ask(driver, clone.name, "/identity")
        found = json.loads(text)
        assert {served_by, found["name"], found["hostname"]} == {clone.name}
        assert found["machine_id"] == clone.uuid.replace("-", "")


def test_saved_memory_that_is_damaged_is_thrown_away_and_a_boot_takes_its_place(
    start: Start, connection: Connection
) -> None:
    driver = start("saved = 1")
    driver.want(1)
    driver.run_until_true(lambda: is_at_rest(connection, _0001="shutoff"), PATIENCE_S)
    old = ours(connection)["acwarm-0001"].uuid
    with (SAVED / "acwarm-0001.save").open("r+b") as file:
        file.truncate(100_000)
    driver.want(2)
    driver.run_until_true(lambda: list(driver.phases().values()).count("ready") == 2, PATIENCE_S)
    assert "acwarm-0001" in events(driver, "tier-failed")[0]
    message = driver.membership()
    assert message is not None and "acwarm-0001 (saved): " in " ".join(message.notes)
    assert old not in {domain.uuid for domain in ours(connection).values()}


def test_frozen_standby_that_cannot_be_resumed_holds_up_nobody(start: Start, connection: Connection) -> None:
    driver = start("paused = 1")
    driver.want(1)
    driver.run_until_true(lambda: is_at_rest(connection, _0001="paused"), PATIENCE_S)
    pid = int(Path("/run/libvirt/qemu/acwarm-0001.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        driver.want(2)
        driver.run_until_true(
            lambda: driver.phases().get("acwarm-0002") in ("creating", "booting", "warming", "ready"), 60
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    driver.run_until_true(lambda: list(driver.phases().values()).count("ready") >= 2, PATIENCE_S)
