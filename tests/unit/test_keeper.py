"""The keeper of a host's storage where the host fails it: it says so, goes on, and connects again."""

from collections.abc import Callable
from pathlib import Path

from common.errors import HypervisorError, HypervisorLostError
from common.volume import ImageFacts, SeenVolume
from services.actuator.core.disks import Base
from services.actuator.keeper import SWEEP_S, Keeper, closed_directory
from tests.clocks import FakeClock

LEFT = SeenVolume("web-0000.5b1f2f10-1111-4222-8333-123456789000.seed", "/disks/left")


class FakeStorage:
    """Shows one image and one volume that nobody owns; fails as told."""

    uri = "qemu+ssh://far/system"

    def __init__(self) -> None:
        self.error: HypervisorError | None = None
        self.is_lost = self.is_closed = False
        self.found = [LEFT]

    def image(self, path: str) -> ImageFacts | None:
        if self.error is not None:
            raise self.error
        return ImageFacts(path, "qcow2", 1, 1, "1.0")

    def volumes(self) -> list[SeenVolume]:
        return self.found

    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None:
        self.found = [volume for volume in self.found if not is_to_go(volume.name)]

    def owners(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(), frozenset()

    def reader(self) -> tuple[int, int]:
        return 64055, 108

    def is_alive(self) -> bool:
        return not self.is_lost

    def close(self) -> None:
        self.is_closed = True


class Stand:
    """A keeper, the storages it opened, and what it told."""

    def __init__(self, grace_s: float = 60.0) -> None:
        self.clock = FakeClock()
        self.opened: list[FakeStorage] = []
        self.told: list[dict[str, Base]] = []
        self.keeper = Keeper("far", self._open, self.clock, self.told.append, grace_s)
        self.keeper.aim(["/images/debian.qcow2"])

    def _open(self) -> FakeStorage:
        self.opened.append(FakeStorage())
        return self.opened[-1]


def test_an_image_that_cannot_be_looked_at_is_good_for_nothing() -> None:
    stand = Stand()
    stand.keeper.turn()
    assert stand.told[-1]["/images/debian.qcow2"].note == ""
    stand.opened[0].error = HypervisorError("cannot open directory '/images': No such file or directory")
    stand.keeper.turn()
    assert stand.told[-1]["/images/debian.qcow2"].note == str(stand.opened[0].error)
    assert len(stand.opened) == 1


def test_a_lost_host_is_connected_again_and_nothing_is_told_meanwhile() -> None:
    stand = Stand()
    stand.keeper.turn()
    stand.opened[0].is_lost, stand.opened[0].error = True, HypervisorLostError("gone")
    stand.keeper.turn()
    assert stand.opened[0].is_closed and len(stand.told) == 1
    stand.keeper.turn()
    assert len(stand.opened) == 2 and len(stand.told) == 2


def test_what_is_left_over_goes_after_its_grace_only() -> None:
    stand = Stand(grace_s=60.0)
    for _ in range(2):
        stand.keeper.turn()
        assert stand.opened[0].found == [LEFT]
        stand.clock.now_s += SWEEP_S
    stand.keeper.turn()
    assert stand.opened[0].found == []


def test_a_closed_directory_on_the_way_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o600)
    user, group = inner.stat().st_uid, inner.stat().st_gid
    assert closed_directory(f"{inner}/disk", user or 1, group) != ""
    assert closed_directory(f"{inner}/disk", 0, 0) == "", "root passes everywhere"
    assert closed_directory("/nowhere/at/all/disk", user or 1, group) == "", "what cannot be seen from here"
    inner.parent.chmod(0o755)
