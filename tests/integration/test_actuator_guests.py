"""The actuator on real libvirt with real guests: a group of its own, on a network of its own."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import Config
from common.errors import HypervisorError
from common.messages import Event
from common.network_xml import network_xml
from common.phases import Phase
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.record import Record
from services.actuator.images import Images
from tests.faults.proof import Proof
from tests.integration.actuator_stand import CLOCK, Driver
from tests.named import Named

IMAGE = Path(os.environ.get("LIBVIRT_AUTOSCALER_TEST_IMAGE", "/var/lib/libvirt-autoscaler/images"))
URI = "qemu:///system"
ROOT = Path(__file__).resolve().parents[2]


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
                    "burst": {"enabled": True},
                }
            },
        }
    )


@pytest.fixture
def users_config(config: Config) -> Config:
    """The same group, of domains that the user has made."""
    values = config.model_dump(by_alias=True, mode="json")
    values["groups"]["actest"] |= {"kind": "existing", "address_source": "static", "readiness": {"identity": True}}
    values["groups"]["actest"] |= {"burst": {"enabled": False}}
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


def mine() -> Named:
    return Named.open(URI, is_read_only=False, may_touch=lambda name: name.startswith("actest-"))


def sweep() -> None:
    connection = mine()
    connection.remove_mine()
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
    driver.run_until_true(lambda: (told := driver.membership()) is not None and told.boot_p50_s is not None, 10)
    message = driver.membership()
    assert message is not None
    print("boot", message.boot_p50_s)
    assert fetch(message.members[0].address or "") == "actest-0000 3"
    driver.run_until_true(lambda: bool((driver.membership() or message).lead_times), 30)
    assert [lead.tier for lead in (driver.membership() or message).lead_times] == [""]
    bursts_and_gives_back(driver, message.members[0].uuid)
    driver.want(2)
    print("second ready after", round(driver.run_until({"actest-0000": "ready", "actest-0001": "ready"}), 2))
    connection = mine()
    connection.destroy("actest-0000")
    print("replaced after", round(driver.run_until({"actest-0001": "ready", "actest-0002": "ready"}), 2))
    reply = driver.ask("protect", domain="actest-0002")
    assert reply.status == "applied"
    driver.want(1)
    print("scaled in after", round(driver.run_until({"actest-0002": "ready"}), 2))
    assert [d.name for d in connection.domains() if d.name.startswith("actest-")] == ["actest-0002"]
    connection.close()


def bursts_and_gives_back(driver: Driver, uuid: str) -> None:
    """A member gets what the decider says, and loses it when the decider falls silent."""
    connection = mine()

    def allotted_cpus() -> float | None:
        reading = connection.reading(uuid)
        return reading.allotted_cpus if reading else None

    assert allotted_cpus() == 0.4
    driver.burst_quota = 0.9
    driver.run_until_true(lambda: allotted_cpus() == 0.9, 20)
    driver.is_decider_silent = True
    driver.run_until_true(lambda: allotted_cpus() == 0.4, 20)
    driver.is_decider_silent, driver.burst_quota = False, None
    connection.close()


@pytest.mark.fault(40)
def test_frozen_guest_is_replaced_and_its_slow_end_holds_up_nobody(driver: Driver, row: Proof) -> None:
    driver.want(1)
    driver.run_until({"actest-0000": "ready"})
    pid = int(Path("/run/libvirt/qemu/actest-0000.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    driver.sick = {"actest-0000"}
    begun_s = CLOCK.monotonic_s()
    in_time_s = 10 + driver.config.groups["actest"].unhealthy_grace_s  # its checks fail for so long at least
    driver.run_until_true(lambda: driver.phases().get("actest-0001") in ("booting", "warming", "ready"), in_time_s)
    assert Path(f"/proc/{pid}").exists(), "the replacement runs before the frozen one has ended"
    row.held("its end delays nobody: its replacement runs before it has ended")
    print("replacement began after", round(CLOCK.monotonic_s() - begun_s, 2))
    driver.run_until({"actest-0001": "ready"})
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
    driver.run_until({"actest-0002": "ready"})
    states = {d.name: str(d.state) for d in connection.domains() if d.name.startswith("actest-")}
    assert states == {"actest-0000": "shutoff", "actest-0001": "shutoff", "actest-0002": "running"}
    connection.close()


@pytest.fixture
def patient(config: Config, users_config: Config) -> Iterator[Driver]:
    """Two domains of a user's: the first takes 15 s to shut down, the second ignores its power button for ever."""
    values = users_config.model_dump(by_alias=True, mode="json")
    group = values["groups"]["actest"] | {"power_off": "after-stop-timeout", "readiness": {"identity": False}}
    del group["stop_timeout_s"]
    users = Config.model_validate(values | {"groups": {"actest": group}})
    connection = mine()
    connection.ensure_network(network_xml(users.network), "actest")
    slow, deaf = (ET.fromstring(users_xml(users, index)) for index in range(2))
    line = slow.find("os/cmdline")
    assert line is not None
    line.text = f"{line.text} autoscaler.linger_ms=15000"
    for boot in deaf.findall("os"):
        for what in [each for each in boot if each.tag in ("kernel", "initrd", "cmdline")]:
            boot.remove(what)
    for root in (slow, deaf):
        connection.define(ET.tostring(root, encoding="unicode"))
    connection.close()
    driver = Driver(users)
    yield driver
    driver.close()
    sweep()


def powered_off(driver: Driver) -> list[Event]:
    return [body for body in driver.bus.published if isinstance(body, Event) and body.name == "domain-powered-off"]


def is_asked_and_stopping(driver: Driver) -> bool:
    """Return whether the first domain is asked to shut down; a guest that was asked something a moment ago lingers."""
    fetch("192.168.157.10")
    return driver.phases().get("actest-0000") == "stopping"


def test_slow_guest_is_not_cut_off_by_the_default_and_the_cut_of_a_deaf_one_names_the_key(patient: Driver) -> None:
    driver, group = patient, patient.config.groups["actest"]
    driver.want(1)
    driver.run_until({"actest-0000": "ready"})
    driver.want(2)
    driver.run_until_true(lambda: driver.phases().get("actest-0001") == "booting", 30)
    driver.want(0)
    driver.run_until_true(lambda: is_asked_and_stopping(driver), 60)
    begun_s = CLOCK.monotonic_s()
    driver.run_until_true(lambda: "actest-0000" not in driver.phases(), 60)
    took_s = CLOCK.monotonic_s() - begun_s
    print("the slow one was off after", round(took_s, 2))
    assert group.stop_timeout_s == 120.0 and took_s > 12.0 and not powered_off(driver)
    short = group.model_copy(update={"stop_timeout_s": 3.0})
    changed = driver.config.model_copy(update={"groups": {"actest": short}})
    reloaded_s = CLOCK.monotonic_s()
    driver.service.reload(changed, reloaded_s)
    driver.run_until_true(lambda: not driver.phases(), 30)
    print("the deaf one was cut", round(CLOCK.monotonic_s() - reloaded_s, 2), "s after the reload")
    assert CLOCK.monotonic_s() - reloaded_s >= 3.0, "it had the whole of the new time"
    (cut,) = powered_off(driver)
    assert (cut.domain, cut.level) == ("actest-0001", "warning") and "groups.actest.stop_timeout_s" in cut.text


def test_actuator_that_was_closed_is_rebuilt_from_what_libvirt_shows(driver: Driver) -> None:
    driver.want(2)
    driver.run_until_true(lambda: "booting" in driver.phases().values(), 30)
    driver.service.close()
    driver.bus.published.clear()
    driver.service = driver.start()
    driver.run_until({"actest-0000": "ready", "actest-0001": "ready"})
    connection = mine()
    assert len([d for d in connection.domains() if d.name.startswith("actest-")]) == 2
    connection.close()


@pytest.mark.parametrize("name", ["actest", "renamed"])
def test_cleanup_leaves_nothing_of_ours(driver: Driver, place: Path, name: str) -> None:
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
        [groups.{name}]
        prefix = "{name}-"
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
