"""The actuator on a host whose pool is full, or whose base image has changed: real storage, and a guest that idles."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from common.config import Config
from common.hypervisor import Connection
from common.phases import Phase
from services.actuator.access import disk_pool
from services.actuator.core.disks import OVERLAY
from services.actuator.keeper import LOOK_S
from tests.e2e.power import qemu_pids
from tests.e2e.small_disk import fill
from tests.faults.proof import Proof
from tests.integration.actuator_stand import CLOCK, Driver
from tests.named import Named

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket")
NAME, PREFIX = "fulltest", "fulltest-"
FIRST, SECOND = f"{PREFIX}0000", f"{PREFIX}0001"
IDLE = b"\xfa\xf4\xeb\xfc"  # cli; hlt; and again
POOL_MIB = 4
LEFT_BYTES = 8192  # beside the room for the first volume of a domain
SOON_S = 30.0


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """A directory that QEMU's user may enter; libvirt has started before, see ``images``."""
    path = Path(tempfile.mkdtemp(prefix=f"{NAME}-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def base(place: Path) -> Path:
    """An image whose boot sector does nothing."""
    path = place / "base.raw"
    path.write_bytes(IDLE + bytes(510 - len(IDLE)) + b"\x55\xaa" + bytes(1024 * 1024 - 512))
    path.chmod(0o644)
    return path


@pytest.fixture
def config(place: Path, base: Path) -> Config:
    group = {
        "prefix": PREFIX,
        "min": 0,
        "max": 4,
        "endpoint": "127.0.0.1:18996",
        "boot_timeout_s": 600,
        "image": {"disk": str(base), "memory_mib": 64},
    }
    return Config.model_validate(
        {
            "system": {"run_dir": f"{place}/run", "state_dir": f"{place}/state", "interval_s": 1.0},
            "network": {"name": NAME, "bridge": "fulltest0", "subnet": "192.168.155.0/24", "slots": 8},
            "groups": {NAME: group},
        }
    )


@pytest.fixture
def disks(config: Config) -> Iterator[Path]:
    """The pool's directory, a small file system; the pool goes after it."""
    path = Path(config.system.state_dir) / "disks"
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={POOL_MIB}m,mode=0711", NAME, str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)
    connection = mine(config)
    connection.remove_pool()
    connection.close()


def mine(config: Config) -> Named:
    may_touch = lambda name: name.startswith(PREFIX)  # noqa: E731
    return Named.open("qemu:///system", is_read_only=False, may_touch=may_touch, pool=disk_pool(config))


@pytest.fixture
def driver(config: Config, disks: Path) -> Iterator[Driver]:
    driver = Driver(config)
    yield driver
    driver.close()
    connection = mine(config)
    connection.remove_mine()
    connection.remove_network(NAME)
    connection.remove_volumes(lambda _name: True)
    connection.close()


def files(disks: Path) -> list[str]:
    return sorted(path.name for path in disks.iterdir())


def fill_but(path: Path, left_bytes: int) -> None:
    """Fill the file system with one file, but for so much."""
    fill(path)
    os.truncate(path, path.stat().st_size - left_bytes)


def blocked(driver: Driver) -> str:
    message = driver.membership()
    return message.blocked if message else ""


def one_that_runs(driver: Driver, disks: Path) -> tuple[dict[str, int], list[str]]:
    """Have one domain run; return its process and its disks."""
    driver.want(1)
    driver.run_until_true(lambda: driver.phases() == {FIRST: Phase.BOOTING} and bool(qemu_pids({FIRST})), SOON_S)
    return qemu_pids({FIRST}), files(disks)


@pytest.mark.fault(54)
def test_a_full_pool_costs_new_domains_only_and_is_tried_less_and_less_often(
    driver: Driver, disks: Path, row: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, before = one_that_runs(driver, disks)
    overlay = next(path for path in disks.iterdir() if path.suffix == f".{OVERLAY}")
    fill_but(disks / "somebodys.iso", overlay.stat().st_blocks * 512 + LEFT_BYTES)
    tries_s: list[float] = []
    make = Connection.make_volume

    def noting(self: Connection, volume: object) -> None:
        tries_s.append(CLOCK.monotonic_s())
        make(self, volume)  # type: ignore[arg-type] # as it was given

    monkeypatch.setattr(Connection, "make_volume", noting)
    driver.want(2)
    driver.run_until_true(lambda: "starts in a row failed; the next trial is in" in blocked(driver), SOON_S)
    told = [body for body in driver.bus.published if getattr(body, "name", "") == "breaker-opened"]
    assert "No space left" in told[0].text, told
    assert driver.phases().get(FIRST) == Phase.BOOTING
    assert set(driver.phases()) == {FIRST}
    row.held("a pool that is full: no creation, and it is told with its reason")
    starts_s = [tries_s[0], *(later for earlier, later in pairwise(tries_s) if later - earlier > 0.5)]
    pauses_s = [later - earlier for earlier, later in pairwise(starts_s)]
    assert len(pauses_s) == 2 and pauses_s[0] < pauses_s[1], pauses_s
    row.held(f"tried again after {pauses_s[0]:.1f} s and {pauses_s[1]:.1f} s, then after a minute, doubling")
    assert files(disks) == sorted([*before, "somebodys.iso"])
    row.held("what was half made is gone; the disks of who runs, and a file of somebody's, are there")
    assert qemu_pids({FIRST}) == pids
    row.held("who runs, runs")


@pytest.mark.fault(55)
def test_a_base_that_changes_under_a_domain_makes_no_other_and_keeps_the_disk_of_that_one(
    driver: Driver, disks: Path, base: Path, row: Proof
) -> None:
    pids, before = one_that_runs(driver, disks)
    overlay = {path: path.read_bytes() for path in disks.iterdir()}
    with base.open("r+b") as image:
        image.seek(4096)
        image.write(b"another")
    looked_s = CLOCK.monotonic_s() + LOOK_S + 1.0  # no word tells that the image has been looked at
    driver.run_until_true(lambda: CLOCK.monotonic_s() > looked_s, SOON_S)
    driver.want(2)
    driver.run_until_true(lambda: "has changed under" in blocked(driver), SOON_S)
    assert set(driver.phases()) == {FIRST} and FIRST in blocked(driver)
    row.held(f"a base that changes under a domain: nothing more is made from it {LOOK_S:g} s later, and it is told")
    assert (qemu_pids({FIRST}), files(disks)) == (pids, before)
    assert {path: path.read_bytes() for path in disks.iterdir()} == overlay
    row.held("the domain runs on, and its disk stands on its base as before")
