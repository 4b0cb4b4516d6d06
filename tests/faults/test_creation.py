"""Creations that end otherwise than they seem to, and what becomes of disks: real libvirt, QEMU and storage."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from common.config import Config
from services.actuator.core.breaker import LIMIT, PAUSE_S
from services.actuator.core.disks import owner_of
from services.actuator.worker import HANDS
from tests.answering import answering
from tests.faults.deaf_line import DeafLine
from tests.faults.proof import Proof
from tests.integration.actuator_stand import CLOCK, Driver
from tests.integration.overlay_group import connected, overlay_config, overlay_group

PREFIX = "accre-"
ONE = f"{PREFIX}0000"
NETWORK = {"name": "accre", "bridge": "asbr9", "subnet": "192.168.156.0/24", "slots": 8}
OTHER_BOOT = "00000000-0000-4000-8000-00000000b007"
FAILED = "starts in a row failed"
NEXT_TRIAL = re.compile(r"the next trial is in [3-6]\d s")
LOOKS_S = 2.0  # a new connection, and a look


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """A directory that QEMU's user may enter; libvirt has started before, see ``images``."""
    with TemporaryDirectory(prefix="accre-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def health() -> Iterator[int]:
    """The port of what answers for every domain."""
    with answering() as found:
        yield found


@pytest.fixture
def line(place: Path) -> Iterator[DeafLine]:
    """The actuator's only way to libvirtd."""
    line = DeafLine(place / "line")
    yield line
    line.close()


def uuids(config: Config) -> dict[str, str]:
    """Return name and UUID of the group's domains, as libvirt has them."""
    connection = connected(config)
    try:
        return {facts.name: facts.uuid for facts in connection.domains() if facts.name.startswith(PREFIX)}
    finally:
        connection.close()


def owners(config: Config) -> set[str | None]:
    """Return whose the disks in the group's pool are."""
    connection = connected(config)
    try:
        return {owner_of(volume.name) for volume in connection.volumes()}
    finally:
        connection.close()


def qemu_pid(name: str) -> int:
    return int(Path(f"/run/libvirt/qemu/{name}.pid").read_text(encoding="ascii"))


@pytest.mark.fault(45)
@pytest.mark.parametrize("call", ["define", "start"])
def test_a_creation_that_is_told_as_failed_and_had_succeeded_is_taken_over(
    place: Path, health: int, line: DeafLine, call: str, row: Proof
) -> None:
    uri = f"qemu+unix:///system?socket={place / 'line'}"
    config = overlay_config(place, health, PREFIX, NETWORK, uri)
    with overlay_group(config) as driver:
        line.cut = call
        driver.want(1)
        driver.run_until_true(line.has_cut.is_set, 60)
        cut_s, made = CLOCK.monotonic_s(), uuids(config)
        assert made.keys() == {ONE}
        driver.run_until_true(lambda: ONE in driver.phases(), 60)
        row.measured(f"shown after its {call} without an answer", CLOCK.monotonic_s() - cut_s, at_most=LOOKS_S)
        driver.run_until({ONE: "ready"}, 60)
        assert uuids(config) == made and [name for name, _ in line.calls] == ["define", "start"]
        row.held(f"the same domain serves; libvirt was asked once for its {call}, and knows no second one")


@contextmanager
def closed(directory: Path) -> Iterator[None]:
    """Keep QEMU from the disks below a directory, for as long as the body takes."""
    directory.chmod(0o700)
    try:
        yield
    finally:
        directory.chmod(0o755)


def blocked(driver: Driver) -> str:
    message = driver.membership()
    return "" if message is None else message.blocked


@pytest.mark.fault(44)
def test_domains_that_cannot_be_created_are_tried_less_and_less_often_and_leave_nothing(
    place: Path, health: int, line: DeafLine, row: Proof
) -> None:
    config = overlay_config(place, health, PREFIX, NETWORK, f"qemu+unix:///system?socket={place / 'line'}")
    with overlay_group(config) as driver:
        with closed(place / "state"):
            driver.want(1)
            driver.run_until_true(lambda: FAILED in blocked(driver), 60)
            first, second, third = line.times("start")
            assert second - first >= PAUSE_S and third - second >= 2 * PAUSE_S
            assert NEXT_TRIAL.search(blocked(driver))
            row.held(f"tried again after {second - first:.1f} s and {third - second:.1f} s; told: {blocked(driver)}")
            driver.run_until_true(lambda: not uuids(config), 20)
            assert owners(config) == set()
            row.held("nothing is left behind: no definition, no disk")
        assert len(line.times("start")) == 3


@pytest.mark.fault(44)
def test_many_that_cannot_be_created_are_bounded_work(place: Path, health: int, line: DeafLine, row: Proof) -> None:
    config = overlay_config(place, health, PREFIX, NETWORK, f"qemu+unix:///system?socket={place / 'line'}", max=8)
    with overlay_group(config) as driver, closed(place / "state"):
        driver.maximum = 8
        driver.want(8)
        driver.run_until_true(lambda: FAILED in blocked(driver), 60)
        driver.run_until_true(lambda: not uuids(config), 20)
        row.measured("creations under way at once, of 8 that are wanted", line.most_at_once, at_most=HANDS, unit="")
        row.measured("starts until it pauses for a minute", len(line.times("start")), at_most=HANDS + LIMIT, unit="")
        assert owners(config) == set()


@pytest.mark.fault(41)
def test_the_disk_of_a_killed_domain_goes_with_it(place: Path, health: int, row: Proof) -> None:
    config = overlay_config(place, health, PREFIX, NETWORK)
    with overlay_group(config) as driver:
        driver.want(2)
        driver.run_until({ONE: "ready", f"{PREFIX}0001": "ready"}, 60)
        before = uuids(config)
        assert owners(config) == set(before.values())
        os.kill(qemu_pid(ONE), signal.SIGKILL)
        driver.run_until_true(lambda: before[ONE] not in uuids(config).values(), 60)
        driver.run_until_true(lambda: sorted(driver.phases().values()) == ["ready", "ready"], 60)
        assert owners(config) == set(uuids(config).values()) and before[ONE] not in owners(config)
        row.held("its disk is removed, and the others' are not")


@pytest.mark.fault(49)
def test_after_a_reboot_nobody_starts_and_the_disks_of_the_replaced_go(
    place: Path, health: int, row: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = overlay_config(place, health, PREFIX, NETWORK)
    with overlay_group(config) as driver:
        driver.want(2)
        driver.run_until({ONE: "ready", f"{PREFIX}0001": "ready"}, 60)
        before = uuids(config)
        driver.close()
        for name in before:
            os.kill(qemu_pid(name), signal.SIGKILL)
        for module in ("shell", "cloning"):
            monkeypatch.setattr(f"services.actuator.{module}.boot_id", lambda: OTHER_BOOT)
        with another_life(driver):
            driver.run_until_true(lambda: not uuids(config) and not driver.phases(), 30)
            assert owners(config) == set()
            row.held("who ran before the reboot is not started by itself; it goes, and its disk with it")
            driver.want(1)
            driver.run_until_true(lambda: list(driver.phases().values()) == ["ready"], 60)
            assert not set(before.values()) & set(uuids(config).values())
            assert owners(config) == set(uuids(config).values())
            row.held("once a size is wanted, others are made in their place")


@contextmanager
def another_life(driver: Driver) -> Iterator[None]:
    """Start the service anew, knowing nothing; the group's end closes it."""
    driver.bus.published.clear()
    driver.generation, driver.answered = 0, None
    driver.service = driver.start()
    yield
