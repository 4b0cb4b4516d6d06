"""What a domain's owner does with it beside us (suspend, snapshot, dump, save): it serves again, with its power on.

Every act is done through libvirt as virsh does it, under a stream of GETs. What the power of a domain went through is
libvirt's own word, not ours.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from tests.e2e.owner import dump_memory, suspended
from tests.e2e.service import BOOT_S, MakeWorld, Service, in_service, owners_group
from tests.e2e.world import now_s, wait_until
from tests.faults.proof import Proof

OWN = "aseo"
GRACE_S = 4.0
CUT_S = 2.0  # from a pause to "takes nothing new", with room for a busy machine
SOON_S = 10.0  # from the end of an act to "takes traffic again"
SAVED = "saved"
# The other one is often told to leave while it boots, and misses that: it is asked again after half of this time.
EXTRA = f"unhealthy_grace_s = {GRACE_S}\nstop_timeout_s = 10.0"

Act = Callable[[libvirt.virDomain, Path], None]


def suspend_for(seconds: float) -> Act:
    """Return ``virsh suspend``, so many seconds, ``virsh resume``."""

    def act(domain: libvirt.virDomain, _place: Path) -> None:
        with suspended(domain):
            time.sleep(seconds)  # the act is its length

    return act


def snapshot_memory(domain: libvirt.virDomain, place: Path) -> None:
    """Do what ``virsh snapshot-create-as --memspec`` does, and leave nothing of it."""
    memory = f"<memory snapshot='external' file='{place}/memory'/>"
    snapshot = domain.snapshotCreateXML(f"<domainsnapshot>{memory}</domainsnapshot>")
    snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def save_and_start(domain: libvirt.virDomain, _place: Path) -> None:
    """Do what ``virsh managedsave`` and ``virsh start`` do."""
    domain.managedSave()
    domain.create()


ACTS: dict[str, Act] = {
    "suspended for 1 s": suspend_for(1.0),
    "suspended for 3 s": suspend_for(3.0),
    "suspended for 20 s": suspend_for(20.0),
    "memory snapshot": snapshot_memory,
    "memory dump": dump_memory,
    "saved and started": save_and_start,
}


QUICK = ("suspended for 3 s", "memory snapshot", "saved and started")


class Acted:
    """One act on one domain of a group: who served before it, and what must hold after it."""

    def __init__(self, service: Service) -> None:
        """Choose the domain with the lowest name of those in rotation."""
        service.wait_until_whole()
        whole = self._whole = service.whole
        power = self._power = service.power
        self._members = {member["name"]: member for member in whole.ready()}
        self.name = min(self._members)
        self.address: str = self._members[self.name]["address"]
        self.domain = whole.domain(self.name)
        self._failed = len(whole.steady.failures)
        self._answered = answered(self.address)
        power.forget()

    def cut(self) -> list[tuple[str, str]]:
        """Return who of those that served lost its power by another's hand than its owner's, and how."""
        return [(name, how) for name, how in self._power.ends() if name in self._members and how != SAVED]

    def failures(self, since_s: float = 0.0) -> list[tuple[float, str]]:
        """Return the GETs that failed and were sent at ``since_s`` or later."""
        return [(at_s, what) for at_s, what in self._whole.steady.failures[self._failed :] if at_s >= since_s]

    def takes_traffic(self) -> bool:
        """Return whether HAProxy sends requests to the domain."""
        return self._whole.takes_traffic(self.address)

    def others(self) -> set[str]:
        """Return who was started beside those that served."""
        return set(self._power.starts()) - self._members.keys()

    def others_in_rotation(self) -> set[str]:
        """Return who of them serves by now."""
        return self.others() & {member["name"] for member in self._whole.ready()}

    def ends_as_it_began(self) -> None:
        """Pass once the same domains serve and no other is left, none of them having lost its power or its memory."""
        self._come_to(self.takes_traffic, SOON_S, f"{self.name} in rotation again")
        self._come_to(self._is_as_before, BOOT_S, f"{sorted(self._members)} in rotation and no other")
        assert answered(self.address) >= self._answered, "the guest has begun anew"

    def _come_to(self, what_must_be: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Return when it is so; fail at once if one of those that served has lost its power meanwhile."""
        wait_until(lambda: self.cut() or what_must_be(), timeout_s, what)
        assert self.cut() == []

    def _is_as_before(self) -> bool:
        shown = {member["uuid"] for member in self._whole.group()["domains"]}
        serving = {member["uuid"] for member in self._whole.ready()}
        return shown == serving == {member["uuid"] for member in self._members.values()}


def answered(address: str) -> int:
    """Return how many computations this boot of the guest has answered."""
    connection = http.client.HTTPConnection(address, 8080, timeout=10)
    try:
        connection.request("GET", "/stats")
        return int(json.loads(connection.getresponse().read())["compute_get"])
    finally:
        connection.close()


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """Return a directory for what libvirt writes, which goes away."""
    directory = Path(f"/var/tmp/{OWN}-acts")
    directory.mkdir()
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


@pytest.fixture(scope="module")
def existing(make_world: MakeWorld, images: Path) -> Iterator[Service]:
    """Return a group of three domains of somebody's, two of them in rotation, under 20 GETs a second."""
    made = owners_group(make_world, images, OWN, 22, minimum=2, extra=EXTRA)
    with made as (world, _), in_service(world, count=2) as service:
        yield service


@pytest.fixture(scope="module")
def ours(make_world: MakeWorld) -> Iterator[Service]:
    """Return a group of one domain of ours, under 20 GETs a second."""
    world = make_world("asep", 23, group_extra=f"unhealthy_grace_s = {GRACE_S}")
    with in_service(world, count=1) as service:
        yield service


@pytest.mark.parametrize("act", [act if act in QUICK else pytest.param(act, marks=pytest.mark.slow) for act in ACTS])
def test_an_existing_domain_serves_again_and_no_get_fails(existing: Service, act: str, place: Path) -> None:
    acted = Acted(existing)
    ACTS[act](acted.domain, place)
    acted.ends_as_it_began()
    assert acted.failures() == []


@pytest.mark.fault(43)
def test_a_suspended_domain_takes_nothing_new_and_another_is_started_beside_it(existing: Service, row: Proof) -> None:
    acted = Acted(existing)
    with suspended(acted.domain):
        begin = now_s()
        wait_until(lambda: not acted.takes_traffic(), CUT_S, "it to take nothing new", every_s=0.01)
        wait_until(acted.others, GRACE_S + SOON_S, "a start beside it")
        print(f"\n  another was started {now_s() - begin:.1f} s after the suspend; grace {GRACE_S:.0f} s")
        assert acted.cut() == []
    acted.ends_as_it_began()
    assert acted.failures() == []
    row.held("suspended by its owner: out of rotation until it ran, then in service with its power; no GET failed")


@pytest.mark.slow
@pytest.mark.parametrize("act", ["suspended for 1 s", "memory snapshot", "memory dump"])
def test_the_only_domain_of_a_template_group_serves_again_at_once(ours: Service, act: str, place: Path) -> None:
    acted = Acted(ours)
    ACTS[act](acted.domain, place)
    ended_s = now_s()
    acted.ends_as_it_began()
    assert acted.failures(since_s=ended_s + CUT_S) == []


def test_a_template_groups_domain_that_stays_suspended_is_replaced_beside_it(ours: Service) -> None:
    ours.world.autoscaler("bounds", "--min", "2", "--max", "4")
    acted = Acted(replace(ours, count=2))
    with suspended(acted.domain):
        wait_until(
            lambda: acted.others() & {m["name"] for m in ours.whole.ready()}, BOOT_S, "a replacement in rotation"
        )
        assert acted.cut() == []
        assert acted.domain.isActive()
    acted.ends_as_it_began()
    assert acted.failures() == []
