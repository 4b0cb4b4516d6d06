"""Clones in the model world: real files and pipes, a libvirt that restores in memory, a mortal actuator."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import Image
from common.domain import METADATA_TAG, METADATA_URI, DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError
from common.virt import save_image
from common.volume import Overlay, Pool, SeenVolume, Volume
from services.actuator.cloning import CloneOrder, SnapshotOrder
from services.actuator.core.clone_xml import FWCFG_ENTRY, template_xml
from services.actuator.core.disks import Base, Disk, leaked
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.seen import Probe, Snapshot, Template, Wanted
from services.actuator.core.steps import Clone, Define, PlugIn, Step, TakeSnapshot
from services.actuator.drafts import Draft, draft
from services.actuator.hosts import Hosts
from services.actuator.prober import Target
from services.actuator.snapshots import Frozen, order_of
from services.actuator.worker import Bases
from tests.sim.actuator_model import TEMPLATE, FakeDomain, FakeHost, Killed, World, group

STREAM = b"QEVM" + bytes(200_000)
LONG_S = 60.0
CHANGES = 52


class CloningHost(FakeHost):
    """Saves into real files, and restores what it reads from a pipe to its end."""

    world: "CloneWorld"

    def define(self, xml: str) -> str:
        uuid = super().define(xml)
        self.world.xml[uuid] = xml
        return uuid

    def save_to(self, name: str, uuid: str, path: str) -> None:
        self.world.before("save_to", self.name, name)
        domain = self._change("save_to", name, uuid)
        header = save_image.SaveHeader(self.world.xml[domain.uuid], b"<cookie/>", 0)
        Path(path).write_bytes(save_image.pack(header) + STREAM)
        domain.state = DomainState.SHUTOFF
        self.world.after("save_to", self.name, name)

    def restore(self, name: str, path: str) -> None:
        self.world.before("restore", self.name, name)
        with Path(path).open("rb") as pipe:
            head = pipe.read(save_image.HEAD_BYTES)
            saved = save_image.parse(head + pipe.read(save_image.text_bytes(head)))
            assert pipe.read() == STREAM
        error = self.fail("restore", name)
        if error is not None:
            raise error
        root = ET.fromstring(saved.xml)
        element = root.find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
        uuid = root.findtext("uuid")
        assert element is not None and uuid is not None and root.findtext("name") == name
        known = self.by_name.get(name)
        assert known is None or (known.uuid == uuid and known.state is DomainState.SHUTOFF)
        assert f"autoscaler.name={name}" in (root.findtext(f"sysinfo/entry[@name='{FWCFG_ENTRY}']") or "")
        started_s = self.world.now_s - self.world.boot_s
        self.by_name[name] = FakeDomain(name, uuid, DomainState.RUNNING, metadata=dict(element.attrib), is_silent=True)
        self.by_name[name].started_s, self.by_name[name].has_link = started_s, False
        self.world.after("restore", self.name, name)

    def set_link(self, name: str, uuid: str, is_up: bool) -> None:
        self.world.before("set_link", self.name, name)
        domain = self._change("set_link", name, uuid)
        domain.has_link, domain.is_silent = is_up, not is_up or self.world.clones_are_dumb
        if not is_up:
            (self.world.place / f"{name}.log").write_text("no link: waiting for an identity\n")
        self.world.after("set_link", self.name, name)


class CloneWorld(World):
    """A group whose domains are cloned."""

    def __init__(self, place: Path, paused: int = 0, **changes: object) -> None:
        super().__init__(group(warm={"start": "clone", "paused": paused}, **changes))
        self.place = place
        self.xml: dict[str, str] = {}
        self.hosts = {"local": CloningHost(self, "local")}
        self.memory = self.fresh()
        self.is_dead = False
        self.clones_are_dumb = False

    @property
    def snapshot(self) -> Path:
        return self.place / "key.save"

    def before(self, call: str, host: str, name: str) -> None:
        if self.is_dead:
            raise Killed  # kill -9 leaves no time to tidy up
        try:
            super().before(call, host, name)
        except Killed:
            self.is_dead = True
            raise

    def after(self, call: str, host: str, name: str) -> None:
        try:
            super().after(call, host, name)
        except Killed:
            self.is_dead = True
            raise

    def tick(self) -> None:
        self.is_dead = False
        super().tick()

    def wanted(self) -> Wanted:
        return replace(super().wanted(), snapshots={"local": Snapshot("key", self.snapshot.exists())})

    def _made(self, step: Step) -> str | Draft | None:
        return self._order(step) if isinstance(step, Clone | TakeSnapshot) else super()._made(step)

    def _order(self, step: Clone | TakeSnapshot) -> CloneOrder | SnapshotOrder:
        spec = DomainSpec(step.domain, step.uuid, step.record, step.accel, self.group, self.network, TEMPLATE)
        xml, console = domain_xml(spec), str(self.place)
        if isinstance(step, Clone):
            return CloneOrder(xml=xml, snapshot=self.snapshot, network=self.network, console_dir=console)
        return SnapshotOrder(
            xml=template_xml(xml),
            snapshot=self.snapshot,
            target=Target(step.domain, "192.0.2.1", 8080),
            network=self.network,
            console_dir=console,
            boot_s=60.0,
            ask=lambda target: Probe(True, target.name),
        )

    def left(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir() if path.suffix in (".pipe", ".part", ".new"))


def scenario(world: CloneWorld) -> None:
    """Boot one, take the snapshot, clone two, lose one, shrink."""
    world.want(1)
    world.run(LONG_S)
    world.want(3, generation=2)
    world.run(LONG_S)
    for domain in [d for d in world.everything() if d.name == "web-0001"]:
        domain.state = DomainState.CRASHED
    world.run(LONG_S)
    world.want(1, generation=3)
    world.run(2 * LONG_S)


def test_snapshot_whose_first_clone_vanishes_is_not_taken_and_not_tried_all_the_time(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    part = world.snapshot.with_suffix(".part")

    def gone(call: str, name: str) -> DomainGoneError | None:
        return DomainGoneError(f"{name} is gone") if call == "set_link" and part.exists() else None

    world.hosts["local"].fail = gone
    world.want(1)
    world.run(1800)
    tries = kinds(world, TakeSnapshot)
    assert not world.snapshot.exists() and 3 <= len(tries) <= 12
    assert "snapshot-taken" not in [event.name for event in world.events]
    assert any("the domain is gone" in event.text for event in world.events if event.name == "tier-failed")
    world.hosts["local"].fail = lambda _call, _name: None
    world.run_until(world.snapshot.exists, 2000)


def kinds(world: World, kind: type[Step]) -> list[str]:
    return [step.domain for step in world.steps if type(step) is kind]


class DiskCloningHost(CloningHost):
    """Has a pool of volumes, each a file; a domain may be defined anew."""

    world: "DiskCloneWorld"

    def make_volume(self, volume: Volume) -> None:
        error = self.fail("make_volume", volume.name)
        if error is not None:
            raise error
        super().make_volume(volume)
        Path(self.world.pool.path_of(volume.name)).touch()

    def define(self, xml: str) -> str:
        name = ET.fromstring(xml).findtext("name") or ""
        known = self.by_name.get(name)
        if known is None:
            return super().define(xml)
        self.world.xml[known.uuid] = xml
        return known.uuid


class DiskCloneWorld(CloneWorld):
    """The same with domains that boot a disk image."""

    def __init__(self, place: Path) -> None:
        self.pool = Pool("disks", str(place / "disks"))
        (place / "disks").mkdir()
        super().__init__(place, image=Image(disk=BASE.path, cpu_quota=0.4))
        self.hosts = {"local": DiskCloningHost(self, "local")}
        self.template = Template("", "", "d1", console_dir=str(place), disk=Disk(BASE.path))
        self.memory = self.fresh()

    def fresh(self) -> Hosts:
        hosts = super().fresh()
        hosts.stored(Bases("local", {BASE.path: BASE}))
        return hosts

    def _made(self, step: Step) -> str | Draft | None:
        if not isinstance(step, Define) or isinstance(step, Clone):
            return super()._made(step)
        assert self.template is not None
        return draft(self.wanted(), step, self.template, BASE, self.pool)

    def _order(self, step: Clone | TakeSnapshot) -> CloneOrder | SnapshotOrder:
        assert self.template is not None
        manifest, frozen = self.snapshot.with_suffix(".json"), None
        if isinstance(step, Clone):
            disk = json.loads(manifest.read_text())["disk"]
            frozen = Frozen(disk["path"], disk["bytes"], disk["mtime_ns"])
            assert frozen.is_whole
        made = order_of(self.wanted(), step, self.template, self.snapshot, BASE, self.pool, frozen)
        assert made is not None
        return replace(made, ask=lambda target: Probe(True, target.name)) if isinstance(made, SnapshotOrder) else made

    def swept(self) -> set[str]:
        """Return the volumes that are there once the keeper has been by."""
        host = self.hosts["local"]
        volumes = [
            SeenVolume(v.name, self.pool.path_of(v.name), v.base if isinstance(v, Overlay) else "")
            for v in host.stored.values()
        ]
        text = self.snapshot.with_suffix(".json").read_text() if self.snapshot.exists() else ""
        spared = {Path(json.loads(text)["disk"]["path"]).name} if text else set()
        return set(host.stored) - leaked(volumes, {d.uuid for d in host.by_name.values()}, (), spared)


BASE = Base("/srv/debian.raw", "path.content", "raw", 1 << 30)
DISK_CHANGES = 73


def test_disks_are_cloned_with_the_memory_and_each_clone_has_its_own(tmp_path: Path) -> None:
    world = DiskCloneWorld(tmp_path)
    scenario(world)
    assert kinds(world, Define) == ["web-0000"]
    assert kinds(world, Clone) == ["web-0001", "web-0002", "web-0003"]
    assert world.is_settled() and world.left() == []
    assert world.changes == DISK_CHANGES
    volumes = sorted(world.hosts["local"].stored)
    assert len(volumes) == 3, "an overlay and a seed of the one left, and what clones stand on"
    assert sum(name.startswith("web-template.") and name.endswith(".qcow2") for name in volumes) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, DISK_CHANGES + 1))
def test_killed_at_any_side_effect_no_volume_leaks_and_no_clone_loses_what_it_stands_on(
    tmp_path: Path, when: str, index: int
) -> None:
    world = DiskCloneWorld(tmp_path)
    setattr(world, f"kill_{when}", index)
    scenario(world)
    assert world.is_settled(), world.summary()
    assert [state for state, _ in world.final().values()] == ["running"]
    left = world.swept()
    assert len([name for name in left if not name.startswith("web-template.")]) == 2
    assert len([name for name in left if name.startswith("web-template.")]) == (1 if world.snapshot.exists() else 0)


def test_a_disk_clone_that_cannot_be_restored_boots_from_the_image_itself(tmp_path: Path) -> None:
    world = DiskCloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    host = world.hosts["local"]
    host.fail = lambda call, _name: HypervisorError("not a migration stream") if call == "restore" else None
    world.want(2, generation=2)
    world.run(LONG_S)
    assert world.is_settled(), world.summary()
    boots = next(d for d in world.everything() if d.name == "web-0001")
    overlay = next(v for name, v in host.stored.items() if name == f"web-0001.{boots.uuid}.qcow2")
    assert isinstance(overlay, Overlay) and overlay.base == BASE.path
    assert "web-template" not in world.xml[boots.uuid]
    assert boots.metadata["tier"] == ""


def test_a_disk_that_is_full_while_a_clone_is_made_leaves_nothing_of_it(tmp_path: Path) -> None:
    world = DiskCloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    host = world.hosts["local"]
    host.fail = lambda call, name: (
        HypervisorError("no space left") if (call, name[-5:]) == ("make_volume", ".seed") else None
    )
    world.want(2, generation=2)
    world.run(LONG_S)
    assert set(host.by_name) == {"web-0000"}
    host.fail = lambda _call, _name: None
    world.run_until(lambda: world.ready() == 2)
    assert len(host.stored) == 5


def test_the_first_boots_and_the_others_are_cloned_once_a_snapshot_is_there(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    scenario(world)
    assert kinds(world, Define) == ["web-0000"]
    assert kinds(world, TakeSnapshot) == ["web-template"]
    assert kinds(world, Clone) == ["web-0001", "web-0002", "web-0003"]
    assert world.is_settled() and world.left() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, CHANGES + 1))
def test_killed_at_any_side_effect_nothing_leaks_and_the_capacity_is_reached(
    tmp_path: Path, when: str, index: int
) -> None:
    world = CloneWorld(tmp_path)
    setattr(world, f"kill_{when}", index)
    scenario(world)
    assert world.is_settled(), world.summary()
    assert [state for state, _ in world.final().values()] == ["running"]
    assert "web-template" not in world.hosts["local"].by_name
    assert world.most_owned <= world.group.ceiling
    assert world.left() == []


def test_a_snapshot_that_cannot_be_restored_is_made_up_for_by_booting(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    world.hosts["local"].fail = lambda call, _name: (
        HypervisorError("not a migration stream") if call == "restore" else None
    )
    world.want(3, generation=2)
    world.run(LONG_S)
    assert world.is_settled(), world.summary()
    assert {d.metadata["tier"] for d in world.everything()} == {""}
    assert any("not cloned, so it boots" in said for said in world.remarks.of("web", world.now_s))


def test_a_restore_that_hangs_leaves_a_domain_that_boots(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    world.hosts["local"].fail = lambda call, _name: HypervisorBusyError("late") if call == "restore" else None
    world.want(2, generation=2)
    world.run(LONG_S)
    assert world.is_settled(), world.summary()
    assert {d.metadata["tier"] for d in world.everything()} == {""}


def test_a_clone_that_runs_and_does_not_answer_is_replaced_by_one_that_boots(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    world.clones_are_dumb = True
    world.want(2, generation=2)
    world.run(LONG_S)
    assert world.is_settled(), world.summary()
    assert kinds(world, Clone) == ["web-0001"] and kinds(world, Define) == ["web-0000", "web-0002"]
    assert any("no right answer within 20 s" in said for said in world.remarks.of("web", world.now_s))


def test_a_full_disk_leaves_nothing_of_the_template_and_is_not_tried_all_the_time(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.hosts["local"].fail = lambda call, _name: HypervisorError("no space left") if call == "save_to" else None
    world.want(1)
    world.run(2 * LONG_S)
    assert 1 < len(kinds(world, TakeSnapshot)) <= 5
    assert set(world.hosts["local"].by_name) == {"web-0000"} and world.left() == []
    assert any("no space left" in said for said in world.remarks.of("web", world.now_s))
    world.hosts["local"].fail = lambda _call, _name: None
    world.run_until(lambda: world.snapshot.exists())
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    assert kinds(world, Clone) == ["web-0001"]


def test_a_clone_that_a_killed_actuator_left_without_a_link_gets_it_and_serves(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    world.want(2, generation=2)
    world.kill_after = world.changes + 2
    took_s = world.run_until(lambda: world.ready() == 2)
    calls = [call for _, call, name in world.log if name == "web-0001"]
    assert calls[:2] == ["define", "restore"] and calls.count("set_link") == 1
    assert world.kills == 1 and took_s < 10 and kinds(world, PlugIn) == kinds(world, Clone) == ["web-0001"]
    assert any("before it had its link" in said for said in world.remarks.of("web", world.now_s))
    world.run(LONG_S)
    assert kinds(world, PlugIn) == ["web-0001"]


def test_a_clone_whose_link_cannot_be_set_at_once_is_not_taken_for_one_that_boots(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run(LONG_S)
    refusals = iter([HypervisorError("no monitor")])
    world.hosts["local"].fail = lambda call, _name: next(refusals, None) if call == "set_link" else None
    world.want(2, generation=2)
    assert world.run_until(lambda: world.ready() == 2) < 10
    assert world.hosts["local"].by_name["web-0001"].metadata["tier"] == "clone"


def with_reserve(place: Path) -> CloneWorld:
    """Return a group with one domain in service, one paused, and a snapshot."""
    world = CloneWorld(place, paused=1)
    world.want(1)
    world.run(LONG_S)
    assert world.is_settled() and world.snapshot.exists()
    return world


def test_a_reserve_is_refilled_by_a_clone_which_rests_within_its_quota(tmp_path: Path) -> None:
    world = with_reserve(tmp_path)
    begun = world.changes
    world.want(2, generation=2)
    world.run(LONG_S)
    assert world.is_settled() and kinds(world, Clone) == ["web-0001", "web-0002"]
    assert world.changes == begun + REFILL_CHANGES
    refill = world.hosts["local"].by_name["web-0002"]
    assert (refill.state, refill.metadata["tier"], refill.metadata["boosted"]) == (DomainState.PAUSED, "paused", "0")
    calls = [call for _, call, name in world.log[begun:] if name == "web-0002" and call != "set_metadata"]
    assert calls == ["define", "restore", "set_link", "set_quota", "suspend"]
    world.want(3, generation=3)
    assert world.run_until(lambda: world.ready() == 3) < 5
    assert refill.state is DomainState.RUNNING and refill.metadata["tier"] == "paused"


REFILL_CHANGES = 12


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("index", range(1, REFILL_CHANGES + 1))
def test_killed_at_any_side_effect_of_a_refill_the_reserve_is_full_again(tmp_path: Path, when: str, index: int) -> None:
    world = with_reserve(tmp_path)
    setattr(world, f"kill_{when}", world.changes + index)
    world.want(2, generation=2)
    world.run(2 * LONG_S)
    assert world.kills == 1 and world.is_settled(), world.summary()
    assert sorted(str(d.state) for d in world.everything()) == ["paused", "running", "running"]
    assert world.most_owned <= world.group.ceiling and world.left() == []


def test_a_refill_that_cannot_be_cloned_boots_and_stands_by(tmp_path: Path) -> None:
    world = with_reserve(tmp_path)
    world.hosts["local"].fail = lambda call, _name: HypervisorError("no stream") if call == "restore" else None
    world.want(2, generation=2)
    world.run(LONG_S)
    assert world.is_settled() and world.hosts["local"].by_name["web-0002"].state is DomainState.PAUSED
    assert any("not cloned, so it boots" in said for said in world.remarks.of("web", world.now_s))


def test_a_template_that_a_killed_actuator_left_is_removed(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    world.want(1)
    world.run_until(lambda: "web-template" in {name for _, _, name in world.log})
    world.kill_before = world.changes + 1
    world.run(LONG_S)
    assert set(world.hosts["local"].by_name) == {"web-0000"}


def test_every_side_effect_of_the_scenario_is_one_at_which_it_is_killed(tmp_path: Path) -> None:
    world = CloneWorld(tmp_path)
    scenario(world)
    assert world.changes == CHANGES
