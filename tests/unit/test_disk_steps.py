"""Steps that make and remove disks, cut off at every call: after a sweep things are as without the cut."""

from collections.abc import Callable, Mapping

import pytest

from common.domain import DomainFacts, DomainState
from common.errors import HypervisorError, HypervisorLostError
from common.phases import Phase
from common.volume import Filled, SeenVolume, Volume
from services.actuator.core.disks import OVERLAY, SEED, leaked, volume_name
from services.actuator.core.record import Record
from services.actuator.core.steps import Define, Undefine
from services.actuator.drafts import Draft
from services.actuator.perform import Result, attempt
from services.actuator.prober import Target, probe

FIRST, SECOND = "5b1f2f10-1111-4222-8333-123456789000", "5b1f2f10-1111-4222-8333-123456789001"


class Killed(BaseException):
    """The actuator dies here."""


class FakeHost:
    """One host with a pool; the call numbered ``dies_at`` takes effect, and then the actuator is gone."""

    def __init__(self) -> None:
        self.domains: dict[str, str] = {}
        self.stored: set[str] = set()
        self.backing: dict[str, str] = {}
        self.named_by_others: set[str] = set()
        self.asked: list[str] = []
        self.calls = 0
        self.dies_at = 0
        self.refuses: dict[str, HypervisorError] = {}

    def _called(self, what: str) -> None:
        if what in self.refuses:
            raise self.refuses[what]
        self.calls += 1

    def _die(self) -> None:
        if self.calls == self.dies_at:
            raise Killed

    def facts(self, name: str) -> DomainFacts | None:
        if name not in self.domains:
            return None
        return DomainFacts(name, self.domains[name], DomainState.SHUTOFF, "", True, {"group": "web"})

    def make_volume(self, volume: Volume) -> None:
        self._called("make_volume")
        self.stored.add(volume.name)
        self._die()

    def volumes(self) -> list[SeenVolume]:
        self._asked("volumes")
        return [SeenVolume(name, f"/disks/{name}", self.backing.get(name, "")) for name in sorted(self.stored)]

    def owners(self, without: str = "") -> tuple[frozenset[str], frozenset[str]]:
        self._asked("owners")
        return frozenset(self.domains.values()), frozenset(self.named_by_others)

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if what in self.refuses:
            raise self.refuses[what]

    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None:
        self._called("remove_volumes")
        self.stored = {name for name in self.stored if not is_to_go(name)}
        self._die()

    def define(self, xml: str) -> str:
        self._called("define")
        self.domains["web-0000"] = xml
        self._die()
        return xml

    def undefine(self, name: str, uuid: str) -> None:
        self._called("undefine")
        del self.domains[name]
        self._die()

    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None:
        raise AssertionError("no step here writes a record")

    def sweep(self) -> None:
        volumes = [SeenVolume(name, f"/disks/{name}", self.backing.get(name, "")) for name in self.stored]
        self.stored -= leaked(volumes, set(self.domains.values()), ())


def make(uuid: str) -> tuple[Define, Draft]:
    record = Record(
        group="web", uuid=uuid, host="h", phase=Phase.CREATING, since_mono_s=0.0, since_s=0.0, boot_id="b", slot=0
    )
    step = Define(group="web", host="h", domain="web-0000", uuid=uuid, reason="", record=record, accel="qemu")
    return step, Draft(uuid, tuple(Filled(name, b"") for name in disks(uuid)))


def disks(uuid: str) -> list[str]:
    return [volume_name("web-0000", uuid, kind) for kind in (OVERLAY, SEED)]


def remove(uuid: str) -> Undefine:
    return Undefine(group="web", host="h", domain="web-0000", uuid=uuid, reason="", slot=0)


def perform(host: FakeHost, step: Define | Undefine, draft: Draft | None = None) -> tuple[Result, str]:
    return attempt(host, step, draft)  # type: ignore[arg-type] # as much of a host as these steps need


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_define_cut_off_anywhere_leads_to_one_domain_with_its_own_disks(cut: int) -> None:
    host = FakeHost()
    host.dies_at = cut
    with pytest.raises(Killed):
        perform(host, *make(FIRST))
    if not host.domains:
        assert perform(host, *make(SECOND)) == (Result.DONE, "")
    host.sweep()
    uuid = host.domains["web-0000"]
    assert host.stored == set(disks(uuid))


@pytest.mark.parametrize("cut", [1, 2])
def test_an_undefine_cut_off_anywhere_leaves_nothing_once_it_is_done_again(cut: int) -> None:
    host = FakeHost()
    perform(host, *make(FIRST))
    host.dies_at = host.calls + cut
    with pytest.raises(Killed):
        perform(host, remove(FIRST))
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    host.sweep()
    assert not host.domains and not host.stored


def test_a_domain_that_somebody_else_removed_leaves_its_disks_to_the_sweep() -> None:
    host = FakeHost()
    perform(host, *make(FIRST))
    host.domains.clear()
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    host.sweep()
    assert not host.stored


def test_a_refused_definition_takes_its_disks_with_it_and_a_lost_host_keeps_them() -> None:
    host = FakeHost()
    host.refuses["define"] = HypervisorError("refused")
    assert perform(host, *make(FIRST)) == (Result.FAILED, "refused")
    assert not host.stored
    host.refuses["define"] = HypervisorLostError("gone")
    assert perform(host, *make(FIRST)) == (Result.UNKNOWN, "gone")
    assert host.stored == set(disks(FIRST)), "it may have been defined"


def test_disks_that_cannot_be_removed_do_not_keep_the_definition() -> None:
    host = FakeHost()
    perform(host, *make(FIRST))
    host.refuses["remove_volumes"] = HypervisorError("the pool is broken")
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    assert not host.domains and host.stored


def with_snapshot(host: FakeHost) -> None:
    perform(host, *make(FIRST))
    host.stored |= {"before Upgrade", "mine.qcow2"}
    host.backing["before Upgrade"] = f"/disks/{disks(FIRST)[0]}"


def test_what_a_snapshot_has_put_on_a_disk_goes_with_it_and_a_users_own_file_stays() -> None:
    host = FakeHost()
    with_snapshot(host)
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    assert host.stored == {"mine.qcow2"}


def test_a_disk_that_another_domain_uses_by_a_snapshot_stays_with_all_below_it() -> None:
    host = FakeHost()
    with_snapshot(host)
    host.named_by_others = {"/disks/before Upgrade"}
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    assert host.stored == {"mine.qcow2", "before Upgrade", disks(FIRST)[0]}


def test_other_domains_are_asked_only_where_there_is_a_snapshot() -> None:
    host = FakeHost()
    perform(host, *make(FIRST))
    perform(host, remove(FIRST))
    assert host.asked == ["volumes"]


@pytest.mark.parametrize("call", ["volumes", "owners"])
def test_where_a_chain_cannot_be_told_the_domains_own_disks_go_and_the_rest_is_swept(call: str) -> None:
    host = FakeHost()
    with_snapshot(host)
    host.refuses[call] = HypervisorError("the pool is being refreshed")
    assert perform(host, remove(FIRST)) == (Result.DONE, "")
    assert host.stored == {"before Upgrade", "mine.qcow2"}
    host.sweep()
    assert host.stored == {"mine.qcow2"}


def test_a_host_lost_while_a_chain_is_looked_at_keeps_all() -> None:
    host = FakeHost()
    with_snapshot(host)
    host.refuses["volumes"] = HypervisorLostError("gone")
    assert perform(host, remove(FIRST)) == (Result.UNKNOWN, "gone")
    assert host.domains and len(host.stored) == 4


@pytest.mark.parametrize(
    ("answer", "is_checked", "is_right", "detail"),
    [
        (None, False, False, "no answer from the guest agent"),
        ("debian", False, True, "its guest agent answers"),
        ("debian", True, False, "the guest is named debian"),
        ("", True, False, "the guest is named nothing"),
        ("web-0000.example.org", True, True, "its guest agent answers"),
    ],
)
def test_agent_readiness_asks_the_domain_and_by_name_where_it_is_wanted(
    answer: str | None, is_checked: bool, is_right: bool, detail: str
) -> None:
    asked: list[tuple[str, str, float]] = []

    def ask(host: str, domain: str, timeout_s: float) -> str | None:
        asked.append((host, domain, timeout_s))
        return answer

    found = probe(Target("web-0000", "10.0.0.1", 80, "agent", is_identity_checked=is_checked, host="h"), ask)
    assert (found.is_right, found.detail) == (is_right, detail)
    assert asked == [("h", "web-0000", 1.0)]


def test_an_agent_that_cannot_be_asked_is_no_answer() -> None:
    def ask(host: str, domain: str, timeout_s: float) -> str | None:
        raise HypervisorError("cannot ask")

    found = probe(Target("web-0000", "10.0.0.1", 80, "agent"), ask)
    assert not found.is_right and found.detail == "cannot ask"
