"""What a domain's owner does with it beside us (suspend, snapshot, dump, save): it serves again, with its power on.

Every act is done through libvirt as virsh does it, under a stream of GETs. What the power of a domain went through is
libvirt's own word, not ours.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from tests.e2e.owner import CONFIG, own_domains
from tests.e2e.power import Power
from tests.e2e.steady import Steady
from tests.e2e.whole import Whole
from tests.e2e.world import World, now_s, wait_until

OWN, OWN_NUMBER, OWN_SUBNET = "aseo", 22, 176
OURS, OURS_NUMBER = "asep", 23
GRACE_S = 4.0
CUT_S = 2.0  # from a pause to "takes nothing new", with room for a busy machine
SOON_S = 10.0  # from the end of an act to "takes traffic again"
BOOT_S = 90.0  # generous: guests boot in software emulation beside everything else on two cores
SAVED = "saved"

Act = Callable[[libvirt.virDomain, Path], None]


def suspend_for(seconds: float) -> Act:
    """Return ``virsh suspend``, so many seconds, ``virsh resume``."""

    def act(domain: libvirt.virDomain, _place: Path) -> None:
        with suspended(domain):
            time.sleep(seconds)  # the act is its length

    return act


@contextmanager
def suspended(domain: libvirt.virDomain) -> Iterator[None]:
    """Keep the domain suspended for as long as the body takes."""
    domain.suspend()
    try:
        yield
    finally:
        domain.resume()


def snapshot_memory(domain: libvirt.virDomain, place: Path) -> None:
    """Do what ``virsh snapshot-create-as --memspec`` does, and leave nothing of it."""
    memory = f"<memory snapshot='external' file='{place}/memory'/>"
    snapshot = domain.snapshotCreateXML(f"<domainsnapshot>{memory}</domainsnapshot>")
    snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def dump_memory(domain: libvirt.virDomain, place: Path) -> None:
    """Do what ``virsh dump --memory-only`` does."""
    form = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW
    domain.coreDumpWithFormat(f"{place}/dump", form, libvirt.VIR_DUMP_MEMORY_ONLY)


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


class Acted:
    """One act on one domain of a group: who served before it, and what must hold after it."""

    def __init__(self, whole: Whole, power: Power) -> None:
        """Choose the domain with the lowest name of those in rotation."""
        self._whole, self._power = whole, power
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

    def ends_as_it_began(self) -> None:
        """Pass once the same domains serve and no other is left, none of them having lost its power or its memory."""
        wait_until(self.takes_traffic, SOON_S, f"{self.name} in rotation again; cut: {self.cut()}")
        wait_until(self._is_as_before, BOOT_S, f"{sorted(self._members)} and no other; cut: {self.cut()}", every_s=0.5)
        assert self.cut() == []
        assert answered(self.address) >= self._answered, "the guest has begun anew"

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
def existing(make_world: Callable[..., World], images: Path) -> Iterator[tuple[Whole, Power]]:
    """Return a group of three domains of somebody's, two of them in rotation, under 20 GETs a second."""
    connection = libvirt.open("qemu:///system")
    with own_domains(connection, images, OWN, OWN_SUBNET, count=3):
        world = make_world(OWN, OWN_NUMBER)
        places = {"run_dir": world.run_dir, "state_dir": world.state_dir, "port": world.port}
        extra = f"unhealthy_grace_s = {GRACE_S}"
        text = CONFIG.format(group="web", name=OWN, minimum=2, extra=extra, **places)
        world.config.write_text(text, encoding="utf-8")
        with in_service(world, count=2) as found:
            yield found
        world.autoscaler("down")
    connection.close()


@pytest.fixture(scope="module")
def ours(make_world: Callable[..., World]) -> Iterator[tuple[Whole, Power]]:
    """Return a group of one domain of ours, under 20 GETs a second."""
    world = make_world(OURS, OURS_NUMBER, group_extra=f"unhealthy_grace_s = {GRACE_S}")
    with in_service(world, count=1) as found:
        yield found


@contextmanager
def in_service(world: World, count: int) -> Iterator[tuple[Whole, Power]]:
    """Bring the installation up, and give it once so many domains serve."""
    world.autoscaler("up")
    with Steady(world, rate=20) as steady, Power(f"{world.name}-") as power:
        whole = Whole(world, steady)
        try:
            wait_until(lambda: len(whole.ready()) == count, BOOT_S, f"{count} domain(s) in rotation")
            yield whole, power
        finally:
            whole.close()


@pytest.mark.parametrize("act", ACTS)
def test_an_existing_domain_serves_again_and_no_get_fails(existing: tuple[Whole, Power], act: str, place: Path) -> None:
    acted = Acted(*existing)
    ACTS[act](acted.domain, place)
    acted.ends_as_it_began()
    assert acted.failures() == []


def test_a_suspended_domain_takes_nothing_new_and_another_is_started_beside_it(existing: tuple[Whole, Power]) -> None:
    acted = Acted(*existing)
    with suspended(acted.domain):
        begin = now_s()
        wait_until(lambda: not acted.takes_traffic(), CUT_S, "it to take nothing new", every_s=0.01)
        wait_until(acted.others, GRACE_S + SOON_S, "a start beside it")
        print(f"\n  another was started {now_s() - begin:.1f} s after the suspend; grace {GRACE_S:.0f} s")
        assert acted.cut() == []
    acted.ends_as_it_began()
    assert acted.failures() == []


@pytest.mark.parametrize("act", ["suspended for 1 s", "memory snapshot", "memory dump"])
def test_the_only_domain_of_a_template_group_serves_again_at_once(
    ours: tuple[Whole, Power], act: str, place: Path
) -> None:
    acted = Acted(*ours)
    ACTS[act](acted.domain, place)
    ended_s = now_s()
    acted.ends_as_it_began()
    assert acted.failures(since_s=ended_s + CUT_S) == []


def test_a_template_groups_domain_that_stays_suspended_is_replaced_beside_it(ours: tuple[Whole, Power]) -> None:
    whole = ours[0]
    whole.world.autoscaler("bounds", "--min", "2", "--max", "4")
    wait_until(lambda: len(whole.ready()) == 2, BOOT_S, "two domains in rotation")
    acted = Acted(*ours)
    with suspended(acted.domain):
        wait_until(lambda: acted.others() & {m["name"] for m in whole.ready()}, BOOT_S, "a replacement in rotation")
        assert acted.cut() == []
        assert acted.domain.isActive()
    acted.ends_as_it_began()
    assert acted.failures() == []
