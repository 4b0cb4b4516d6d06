"""What others pause, save or starve, with real libvirt and QEMU: the actuator's loop, guests that only write to disk.

The health check of every member is answered by the test itself: what is tried here is the power of the domains.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import libvirt
import pytest

from common.config import Config
from common.domain_states import RESUMED_AFTER_S
from common.messages import Event
from tests.answering import answering
from tests.faults.proof import Proof
from tests.integration.actuator_stand import CLOCK, Driver
from tests.integration.busy_disk import SmallFileSystem, small_file_system, write_disk
from tests.integration.overlay_group import overlay_config, overlay_group

PREFIX = "acsus-"
ONE, TWO, THREE = (f"{PREFIX}{index:04d}" for index in range(3))
ONE_TRY_S = RESUMED_AFTER_S[0] + 3.0  # one that has no space is resumed once by then, and paused again
GRACE_S = 3.0
BOTH = {ONE: "ready", TWO: "ready"}
XML = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
      <target dev='vda' bus='virtio'/></disk>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
"""


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """A directory that QEMU's user may enter; libvirt has started before, see ``images``."""
    with TemporaryDirectory(prefix="acsus-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def disks(place: Path) -> Iterator[SmallFileSystem]:
    """Where the disks are, and nothing else."""
    with small_file_system(place / "disks", place / "disks.img") as made:
        yield made


@pytest.fixture
def health() -> Iterator[int]:
    """The port of what answers for every domain, at every address of this machine."""
    with answering() as found:
        yield found


@pytest.fixture
def domains(disks: SmallFileSystem) -> Iterator[dict[str, libvirt.virDomain]]:
    """Three domains as a user may have made them, two of them running; they do not listen to their power button."""
    connection = libvirt.open("qemu:///system")
    made = {}
    try:
        for name in (ONE, TWO, THREE):
            disk = write_disk(disks.directory / f"{name}.raw")
            made[name] = connection.defineXML(XML.format(name=name, disk=disk))
        made[ONE].create()
        made[TWO].create()
        yield made
    finally:
        with_all = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        for domain in made.values():
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(with_all)
        connection.close()


@pytest.fixture
def driver(place: Path, health: int, domains: dict[str, libvirt.virDomain]) -> Iterator[Driver]:
    """The actuator, with both running domains in rotation."""
    group = {
        "kind": "existing",
        "prefix": PREFIX,
        "min": 0,
        "max": 4,
        "endpoint": "127.0.0.1:18998",
        "port": health,
        "address_source": "static",
        "addresses": {name: f"127.0.0.{index}" for index, name in enumerate(domains, start=2)},
        "readiness": {"path": "/", "identity": False},
        "stop_timeout_s": 2.0,
        "unhealthy_grace_s": 5.0,
    }
    system = {"run_dir": str(place / "run"), "state_dir": str(place / "state"), "interval_s": 1.0}
    driver = Driver(Config.model_validate({"system": system, "groups": {"acsus": group}}))
    driver.want(2)
    driver.run_until(BOTH, 60)
    yield driver
    driver.close()


@pytest.fixture
def template_driver(place: Path, health: int) -> Iterator[tuple[Driver, SmallFileSystem]]:
    """Two domains made from an image, their overlays on a small file system, in rotation."""
    network = {"name": "acsus", "bridge": "asbr8", "subnet": "192.168.159.0/24", "slots": 8}
    config = overlay_config(place, health, PREFIX, network, unhealthy_grace_s=GRACE_S)
    with ExitStack() as stack:
        disks = stack.enter_context(small_file_system(place / "state" / "disks", place / "disks.img"))
        driver = stack.enter_context(overlay_group(config))
        driver.want(2)
        driver.run_until(BOTH, 90)
        yield driver, disks


def events(driver: Driver) -> list[str]:
    return [f"{body.name} {body.domain}".strip() for body in driver.bus.published if isinstance(body, Event)]


def run_for(driver: Driver, seconds: float) -> None:
    until_s = CLOCK.monotonic_s() + seconds
    driver.run_until_true(lambda: CLOCK.monotonic_s() >= until_s, seconds + 60)


def ended(driver: Driver) -> list[str]:
    """Return what was ended by us: nothing may be."""
    return [event for event in events(driver) if event.split()[0] in ("domain-powered-off", "domain-failed")]


def test_domain_that_is_suspended_for_3_s_comes_back_and_nobody_stands_in(
    driver: Driver, domains: dict[str, libvirt.virDomain]
) -> None:
    process = domains[ONE].ID()
    domains[ONE].suspend()
    driver.run_until({ONE: "suspended", TWO: "ready"}, 10)
    run_for(driver, 3)
    domains[ONE].resume()
    driver.run_until(BOTH, 20)
    assert domains[ONE].ID() == process and not domains[THREE].isActive() and ended(driver) == []


def test_domain_that_is_suspended_for_20_s_keeps_its_power_and_who_stood_in_is_asked_to_leave(
    driver: Driver, domains: dict[str, libvirt.virDomain]
) -> None:
    process = domains[ONE].ID()
    domains[ONE].suspend()
    begun_s = CLOCK.monotonic_s()
    driver.run_until({ONE: "suspended", TWO: "ready", THREE: "ready"}, 60)
    driver.run_until_true(lambda: CLOCK.monotonic_s() - begun_s > 20, 60)
    domains[ONE].resume()
    driver.run_until({ONE: "ready", TWO: "ready", THREE: "stopping"}, 30)
    driver.run_until_true(lambda: f"shutdown-ignored {THREE}" in events(driver), 30)
    assert domains[ONE].ID() == process and domains[THREE].isActive() and ended(driver) == []
    message = driver.membership()
    assert message is not None and any("power_off is never" in note for note in message.notes)


def dump(domain: libvirt.virDomain, place: Path) -> None:
    domain.coreDumpWithFormat(
        str(place / "core"), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
    )


def snapshot(domain: libvirt.virDomain, place: Path) -> None:
    xml = f"""<domainsnapshot><memory snapshot='external' file='{place}/memory'/>
      <disks><disk name='vda' snapshot='external'><source file='{place}/disks/layer.qcow2'/></disk></disks>
      </domainsnapshot>"""
    domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)


def save_and_start(domain: libvirt.virDomain, _place: Path) -> None:
    domain.managedSave()
    domain.create()


@pytest.mark.fault(43)
@pytest.mark.parametrize("act", [dump, snapshot, save_and_start])
def test_ordinary_acts_of_an_owner_cost_his_domain_nothing(
    driver: Driver,
    domains: dict[str, libvirt.virDomain],
    place: Path,
    act: Callable[[libvirt.virDomain, Path], None],
    row: Proof,
) -> None:
    place.chmod(0o777)
    thread = threading.Thread(target=act, args=(domains[ONE], place))
    thread.start()
    driver.run_until_true(lambda: not thread.is_alive(), 60)
    run_for(driver, 1)
    driver.run_until_true(lambda: all(driver.phases().get(name) == "ready" for name in BOTH), 30)
    assert domains[ONE].isActive() and ended(driver) == []
    row.held(f"{act.__name__}: paused by libvirt, and in service again with its power")


def test_saved_domain_stays_saved_until_its_owner_starts_it(
    driver: Driver, domains: dict[str, libvirt.virDomain]
) -> None:
    domains[ONE].managedSave()
    driver.run_until({ONE: "suspended", TWO: "ready", THREE: "ready"}, 60)
    assert domains[ONE].hasManagedSaveImage() and not domains[ONE].isActive()
    domains[ONE].create()
    driver.run_until_true(lambda: driver.phases().get(ONE) == "ready", 30)
    assert ended(driver) == []


@pytest.mark.fault(43)
def test_full_disk_destroys_nobody_is_told_by_its_files_and_ends_with_room(
    driver: Driver, domains: dict[str, libvirt.virDomain], disks: SmallFileSystem, row: Proof
) -> None:
    processes = [domains[name].ID() for name in BOTH]
    disks.fill(left_bytes=256 * 1024)
    driver.run_until({ONE: "suspended", TWO: "suspended"}, 60)
    driver.run_until_true(lambda: "host-fault" in events(driver), 30)
    (fault,) = [body for body in driver.bus.published if isinstance(body, Event) and body.name == "host-fault"]
    assert fault.level == "error" and fault.text.startswith("no space on a disk of host local (vda of acsus-000")
    assert f"{disks.directory}/acsus-000" in fault.text
    run_for(driver, ONE_TRY_S)
    assert driver.phases() == {ONE: "suspended", TWO: "suspended"}, "resumed, paused again, and never in rotation"
    message = driver.membership()
    assert message is not None and "no space on a disk of host local" in message.blocked
    disks.free()
    driver.run_until(BOTH, 70)
    driver.run_until_true(lambda: "host-fault-over" in events(driver), 30)
    assert [domains[name].ID() for name in BOTH] == processes and not domains[THREE].isActive()
    assert ended(driver) == [] and events(driver).count("host-fault") == 1
    row.held("paused by an error of its disk: kept with its power, out of rotation, and resumed once there was room")


def test_full_disk_of_a_pool_destroys_no_domain_of_a_template_group(
    template_driver: tuple[Driver, SmallFileSystem],
) -> None:
    driver, disks = template_driver
    disks.fill(left_bytes=256 * 1024)
    driver.run_until({ONE: "suspended", TWO: "suspended"}, 60)
    run_for(driver, max(ONE_TRY_S, 4 * GRACE_S))
    assert driver.phases() == {ONE: "suspended", TWO: "suspended"} and ended(driver) == []
    message = driver.membership()
    assert message is not None and f"of {ONE}: {disks.directory}/{ONE}." in message.blocked
    disks.free()
    driver.run_until(BOTH, 70)
    assert ended(driver) == []
    created = sorted(event for event in events(driver) if event.startswith("domain-created"))
    assert created == [f"domain-created {ONE}", f"domain-created {TWO}"]
