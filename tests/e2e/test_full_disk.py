"""The disk of a host is full: its guests pause, nobody's power is cut, it is said, and they run on once there is room.

Two domains with a disk image each write to overlays on a small file system; the state directory is another one. The
tests share one installation and run in the order in which they stand.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from tests.e2e.power import Power, qemu_pids
from tests.e2e.small_disk import fill, small_disk
from tests.e2e.steady import Steady
from tests.e2e.whole import Whole
from tests.e2e.world import World, now_s, wait_until

pytestmark = pytest.mark.slow

NAME, NUMBER = "asef", 24
COUNT = 2
DISKS_MIB, STATE_MIB = 400, 128
WRITE_MIB = 48
GRACE_S = 4.0
HOLD_S = 30.0  # of a full disk: at 841b0c9 everything was destroyed within 3 s
RESUME_S = 75.0  # a domain that its host has paused is tried again after 60 s at most
GAP_S = 10.0
BOOT_S = 900.0  # a minute and a half if nothing else runs
WRITE = f"dd if=/dev/zero of=/var/tmp/written bs=1M count={WRITE_MIB} conv=fsync"
NO_SPACE = re.compile("no space", re.IGNORECASE)
LOST = re.compile(r"\d+ message")


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], disk: Path) -> Iterator[World]:
    """Return a running installation whose overlays and whose state directory are small file systems of their own."""
    world = make_world(
        NAME,
        NUMBER,
        minimum=str(COUNT),
        maximum=str(COUNT + 1),
        group_extra=f"boot_timeout_s = {BOOT_S}\nunhealthy_grace_s = {GRACE_S}",
        image=f'disk = "{disk}"\nmemory_mib = 512',
    )
    home = world.config.parent
    with ExitStack() as undo:
        undo.enter_context(small_disk(world.state_dir, home / "state.img", STATE_MIB))
        undo.callback(world.autoscaler, "down", "--everything")
        undo.enter_context(small_disk(world.state_dir / "disks", home / "disks.img", DISKS_MIB))
        undo.callback(world.autoscaler, "down")
        world.autoscaler("up", timeout_s=BOOT_S + 60)
        yield world


@pytest.fixture(scope="module")
def power(world: World) -> Iterator[Power]:
    """Listen to libvirt all the time."""
    with Power(f"{NAME}-") as power:
        yield power


@pytest.fixture(scope="module")
def whole(world: World, power: Power) -> Iterator[Whole]:
    """Return the installation once two domains serve."""
    with Steady(world, rate=2, threads=1, ask=("/healthz", "fine")) as steady:
        whole = Whole(world, steady)
        try:
            wait_until(lambda: len(whole.ready()) == COUNT, BOOT_S, f"{COUNT} domains in rotation", every_s=1.0)
            power.forget()
            yield whole
        finally:
            whole.close()


@pytest.fixture(scope="module")
def before(whole: Whole) -> dict[str, int]:
    """Return the process of each domain as it was before anything was full."""
    return qemu_pids({member["name"] for member in whole.ready()})


@pytest.fixture(scope="module")
def filler(world: World, before: dict[str, int]) -> Iterator[Path]:
    """Fill the file system of the overlays, and have every guest write; the file that fills it is to be removed."""
    filler = world.state_dir / "disks" / "filler"
    fill(filler)
    connection = libvirt.open("qemu:///system")
    for name in before:
        write(connection.lookupByName(name))
    connection.close()
    yield filler
    filler.unlink(missing_ok=True)


def write(domain: libvirt.virDomain) -> None:
    """Let the guest write more than its host has room for, and do not wait for it."""
    order = {"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", WRITE]}}
    libvirt_qemu.qemuAgentCommand(domain, json.dumps(order), 10, 0)


def states(whole: Whole, names: dict[str, int]) -> set[tuple[int, int]]:
    """Return what libvirt says of the domains: states with their reasons."""
    return {tuple(whole.domain(name).state()) for name in names}


def events(world: World) -> list[dict[str, Any]]:
    """Return the newest events of the recording."""
    found: list[dict[str, Any]] = json.loads(world.autoscaler("events", "--json", "--limit", "1000").stdout)
    return found


def test_guests_of_a_full_disk_pause_and_none_of_them_loses_its_power(
    whole: Whole, power: Power, before: dict[str, int], filler: Path
) -> None:
    paused = {(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)}
    until = now_s() + HOLD_S
    wait_until(lambda: power.ends() or states(whole, before) == paused, HOLD_S, "every guest to be paused")
    time.sleep(max(0.0, until - now_s()))  # the fault is its length
    assert power.ends() == []
    assert qemu_pids(set(before)) == before
    assert states(whole, before) == paused


def test_status_and_events_say_that_there_is_no_space(whole: Whole, filler: Path) -> None:
    group = whole.group()
    assert NO_SPACE.search(" ".join([group["blocked"] or "", *group["notes"]])), group
    assert [event for event in events(whole.world) if NO_SPACE.search(event["text"])]


def test_they_go_on_by_themselves_once_there_is_room(
    whole: Whole, power: Power, before: dict[str, int], filler: Path
) -> None:
    filler.unlink()
    begin = now_s()
    running = {(libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED)}
    wait_until(lambda: states(whole, before) == running, RESUME_S, "every guest to run again")
    print(f"\n  all run again {now_s() - begin:.1f} s after there was room")
    wait_until(lambda: {m["name"] for m in whole.ready()} == before.keys(), 60, "the same domains in rotation")
    assert power.ends() == []
    assert qemu_pids(set(before)) == before


def test_the_recording_says_what_it_lost_while_its_own_disk_was_full(whole: Whole) -> None:
    filler = whole.world.state_dir / "filler"
    until = now_s() + GAP_S
    fill(filler)
    time.sleep(max(0.0, until - now_s()))  # the fault is its length
    filler.unlink()
    told = lambda: [e for e in events(whole.world) if e["source"] == "recorder" and LOST.search(e["text"])]  # noqa: E731
    print(f"\n  {wait_until(told, 30, 'how many messages were lost')[-1]['text']}")
