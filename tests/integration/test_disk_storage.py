"""Disks through libvirt's own storage, on the real one: overlays, seeds, sweeping, unusable images. No guest."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from common.clock import SystemClock
from common.config import Config
from common.config_file import load
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.phases import Phase
from common.virt.storage import ensure_pool
from common.volume import Filled, Overlay, Pool
from services.actuator.core.disks import OVERLAY, SEED, Base, Disk, overlay, volume_name
from services.actuator.core.record import Record
from services.actuator.core.seen import Wanted
from services.actuator.core.steps import Define, Undefine
from services.actuator.drafts import Draft, draft
from services.actuator.image_check import main as check_images
from services.actuator.images import ImageError, Images
from services.actuator.keeper import GRACE_S, SWEEP_S, Keeper, look
from services.actuator.perform import Result, attempt
from tests.clocks import FakeClock
from tests.faults.proof import Proof
from tests.named import Named

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket")
URI = "qemu:///system"
NAME = "dsktest"
UUIDS = [f"5b1f2f10-1111-4222-8333-12345678900{number}" for number in range(3)]


@pytest.fixture
def place(images: Path) -> Iterator[Path]:
    """A directory that QEMU's user may enter; libvirt has started before, see ``images``."""
    with tempfile.TemporaryDirectory(prefix="dsktest-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def base(place: Path) -> Path:
    """A raw image with a boot sector, of no use but its looks."""
    path = place / "base.raw"
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1024 * 1024 - 512))
    path.chmod(0o644)
    return path


@pytest.fixture
def pool(place: Path) -> Pool:
    """Our pool."""
    return Pool(f"{NAME}-disks", f"{place}/state/disks")


@pytest.fixture
def host(pool: Pool) -> Iterator[Connection]:
    """A connection; what it made is removed at the end."""
    connection = Named.open(URI, is_read_only=False, may_touch=lambda n: n.startswith(f"{NAME}-"), pool=pool)
    yield connection
    connection.remove_mine()
    connection.remove_volumes(lambda _name: True)
    assert connection.remove_pool()
    connection.close()


@pytest.fixture
def config(place: Path, base: Path) -> Config:
    """A group of disks."""
    return load(written(place, base))[0]


@pytest.fixture
def raw() -> Iterator[libvirt.virConnect]:
    """The operator's own connection."""
    connection = libvirt.open(URI)
    yield connection
    connection.close()


def written(place: Path, base: Path, extra: str = "") -> Path:
    path = place / "autoscaler.toml"
    path.write_text(
        f'[system]\nrun_dir = "{place}/run"\nstate_dir = "{place}/state"\n'
        f'[network]\nname = "{NAME}"\nbridge = "dsk0"\nsubnet = "192.168.199.0/24"\n'
        f'[groups.web]\nprefix = "{NAME}-"\n[groups.web.image]\ndisk = "{base}"\n{extra}',
        encoding="utf-8",
    )
    return path


def define(host: Connection, config: Config, number: int = 0) -> tuple[Define, Draft]:
    """Return the step that makes a domain, and what it makes."""
    group = config.groups["web"]
    template = Images(config.system.state_path).of(group.image, config.network)
    known = look(host, [group.image.disk], host.reader())[group.image.disk]
    record = Record(
        group="web", uuid=UUIDS[number], host="local", phase=Phase.CREATING, since_mono_s=0.0, since_s=0.0, boot_id="b",
        slot=number, base=known.identity,
    )  # fmt: skip
    step = Define(
        group="web", host="local", domain=f"{NAME}-000{number}", uuid=UUIDS[number], reason="", record=record,
        accel="qemu",
    )  # fmt: skip
    made = draft(Wanted("web", group, config.network, None, template=template), step, template, known, pool_of(config))
    assert made is not None
    return step, made


def pool_of(config: Config) -> Pool:
    return Pool(f"{NAME}-disks", f"{config.system.state_dir}/disks")


def undefine(step: Define) -> Undefine:
    return Undefine(group="web", host="local", domain=step.domain, uuid=step.uuid, reason="", slot=0)


def names(host: Connection) -> list[str]:
    return [volume.name for volume in host.volumes()]


@pytest.mark.fault(55)
def test_disks_come_and_go_with_their_domain_and_the_base_stays_as_it_is(
    host: Connection, config: Config, base: Path, row: Proof
) -> None:
    before = hashlib.sha256(base.read_bytes()).digest(), base.stat().st_mtime_ns, base.stat().st_uid
    step, made = define(host, config)
    assert attempt(host, step, made) == (Result.DONE, "")
    assert names(host) == [volume_name(step.domain, step.uuid, kind) for kind in (OVERLAY, SEED)]
    assert host.volumes()[0].backing == str(base)
    assert attempt(host, undefine(step), None) == (Result.DONE, "")
    assert names(host) == [] and host.facts(step.domain) is None
    assert (hashlib.sha256(base.read_bytes()).digest(), base.stat().st_mtime_ns, base.stat().st_uid) == before
    row.held("a disk comes and goes, and its base is the same to the byte, and to its owner")


def test_a_definition_that_libvirt_refuses_leaves_no_disk_behind(host: Connection, config: Config) -> None:
    step, made = define(host, config)
    bad = replace(made, xml=made.xml.replace("<devices>", "<nonsense /><devices>"))
    result, error = attempt(host, step, bad)
    assert result is Result.FAILED and "nonsense" in error
    assert names(host) == []


def test_a_step_that_was_cut_off_is_made_again_over_what_it_left(host: Connection, config: Config) -> None:
    step, made = define(host, config)
    for volume in made.volumes:
        host.make_volume(volume)
    host.make_volume(Filled(made.volumes[1].name, b"half"))
    assert attempt(host, step, made)[0] is Result.DONE
    seed = made.volumes[1]
    assert isinstance(seed, Filled)
    assert Path(f"{config.system.state_dir}/disks/{seed.name}").read_bytes() == seed.content


def test_several_that_need_the_pool_at_once_all_have_it(host: Connection, pool: Pool) -> None:
    lines = [libvirt.open(URI) for _ in range(4)]
    try:
        for _ in range(5):
            together = threading.Barrier(len(lines))

            def make(line: libvirt.virConnect, together: threading.Barrier = together) -> bool:
                together.wait(10)
                return bool(ensure_pool(line, pool).isActive())

            with ThreadPoolExecutor(len(lines)) as pool_of_threads:
                assert all(pool_of_threads.map(make, lines))
            assert host.remove_pool()
    finally:
        for line in lines:
            line.close()


@pytest.mark.fault(49, 56)
def test_what_nobody_owns_is_swept_after_its_grace_and_nothing_else(
    host: Connection, config: Config, row: Proof
) -> None:
    step, made = define(host, config)
    attempt(host, step, made)
    _, other = define(host, config, 1)
    for volume in other.volumes:
        host.make_volume(volume)
    stranger = Path(f"{config.system.state_dir}/disks/notes.txt")
    stranger.write_text("mine", encoding="utf-8")
    clock = FakeClock()
    keeper = Keeper("local", lambda: host, clock, lambda _bases: None)
    passed_s = 0.0
    while len(names(host)) == 5:
        assert passed_s <= GRACE_S, "they were not swept"
        clock.now_s += SWEEP_S
        keeper.turn()
        passed_s += SWEEP_S
    assert passed_s - SWEEP_S >= GRACE_S, "they were swept before their grace was over"
    row.held(f"disks that no domain refers to: removed {passed_s - SWEEP_S:g} s after they were first seen")
    assert names(host) == ["dsktest-0000." + UUIDS[0] + ".qcow2", "dsktest-0000." + UUIDS[0] + ".seed", "notes.txt"]
    row.held("those of a domain that is defined, and a file of somebody's, stay")


@pytest.mark.fault(55)
def test_keeper_tells_what_an_image_is_good_for_and_when_it_changes(host: Connection, base: Path, row: Proof) -> None:
    told: list[dict[str, Base]] = []
    keeper = Keeper("local", lambda: host, SystemClock(), told.append)
    keeper.aim([str(base), f"{base}.missing"])
    keeper.turn()
    assert told[-1][str(base)].note == "" and told[-1][str(base)].format == "raw"
    assert told[-1][f"{base}.missing"].note == f"disk image {base}.missing is missing"
    os.utime(base, ns=(1, 1))
    keeper.turn()
    assert told[-1][str(base)].identity != told[-2][str(base)].identity
    base.rename(f"{base}.missing")
    keeper.turn()
    assert "is missing" in told[-1][str(base)].note and told[-1][f"{base}.missing"].note == ""
    row.held("a base that is changed, or missing, is told")


def _qcow2_over(base: Path) -> None:
    other = base.with_name("other.raw")
    base.rename(other)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", other, "-F", "raw", base], check=True)


@pytest.mark.fault(55)
@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda base: base.unlink(), "is missing"),
        (lambda base: base.chmod(0o600), "must be readable for QEMU's user"),
        (lambda base: base.write_bytes(b"no image" * 200), "neither qcow2 nor has it a boot sector"),
        (lambda base: base.parent.chmod(0o700), "chmod o+x"),
        (_qcow2_over, "must stand alone"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_before_anything_is_made(
    place: Path,
    base: Path,
    images: Path,
    spoil: Callable[[Path], object],
    part: str,
    capsys: pytest.CaptureFixture[str],
    row: Proof,
) -> None:
    path = written(place, base)
    spoil(base)
    assert check_images(["--config", str(path), "--check-images"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("groups.web.image on local: ") and str(base) in error and part in error
    row.held(f"named before anything is made: {part}")


def test_what_is_wrong_with_the_files_beside_the_image_is_said_too(
    place: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "more.xml").write_text("<domain>\n<devices><unknown/></devices></domain>", encoding="utf-8")
    (place / "user").write_text("packages: []\n", encoding="utf-8")
    check_images(["--config", str(written(place, base, f'xml = "{place}/more.xml"\n'))])
    assert "libvirt refuses the definition with" in capsys.readouterr().err
    check_images(["--config", str(written(place, base, f'user_data = "{place}/user"\n'))])
    assert "must begin as user-data of cloud-init does" in capsys.readouterr().err
    (place / "more.xml").write_text("<domain>\n<cpu></domain>", encoding="utf-8")
    check_images(["--config", str(written(place, base, f'xml = "{place}/more.xml"\n'))])
    assert f"{place}/more.xml:2: not XML" in capsys.readouterr().err
    assert check_images(["--config", str(written(place, base))]) == 0


def test_files_beside_the_image_are_read_again_when_they_change(place: Path, config: Config) -> None:
    image = config.groups["web"].image.model_copy(update={"user_data": f"{place}/user"})
    images = Images(config.system.state_path)
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        images.of(image, config.network)
    (place / "user").write_text("#cloud-config\n", encoding="utf-8")
    first = images.of(image, config.network)
    (place / "user").write_text("#cloud-config\na: 1\n", encoding="utf-8")
    second = images.of(image, config.network)
    assert first.digest != second.digest and second.disk is not None and "a: 1" in second.disk.user_data


@pytest.mark.fault(54)
def test_a_full_disk_costs_the_new_volume_only(host: Connection, pool: Pool, base: Path, row: Proof) -> None:
    Path(pool.path).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", pool.path], check=True)
    try:
        kept = overlay("dsktest-0000", UUIDS[0], Disk(str(base)), look(host, [str(base)], host.reader())[str(base)])
        host.make_volume(kept)
        with pytest.raises(HypervisorError, match="No space left"):
            host.make_volume(Filled(volume_name("dsktest-0001", UUIDS[1], SEED), bytes(1024 * 1024)))
        assert names(host) == [kept.name]
        row.held("a volume that does not fit is not left behind half made, and another one stays")
    finally:
        host.remove_volumes(lambda _name: True)
        subprocess.run(["umount", "-l", pool.path], check=True)


def test_a_pool_of_another_is_left_alone(host: Connection, pool: Pool, place: Path, base: Path) -> None:
    host.make_volume(Overlay("a.qcow2", str(base), "raw", 1024 * 1024))
    other = Named.open(
        URI, is_read_only=False, may_touch=lambda _name: False, pool=replace(pool, path=f"{place}/elsewhere")
    )
    try:
        with pytest.raises(HypervisorError, match="is not ours"):
            other.remove_pool()
    finally:
        other.close()
    assert names(host) == ["a.qcow2"]


# --- external snapshots that an operator takes of a member ---


def without_network(xml: str) -> str:
    root = ET.fromstring(xml)
    devices = root.find("devices")
    assert devices is not None
    for interface in devices.findall("interface"):
        devices.remove(interface)
    return ET.tostring(root, encoding="unicode")


def snapshot(raw: libvirt.virConnect, domain: str, name: str, file: str = "") -> None:
    disk = f'<disks><disk name="vda" snapshot="external"><source file="{file}"/></disk></disks>' if file else ""
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    xml = f"<domainsnapshot><name>{name}</name>{disk}</domainsnapshot>"
    raw.lookupByName(domain).snapshotCreateXML(xml, flags)


def test_all_files_of_a_members_chain_go_with_it_and_its_base_and_others_stay(
    host: Connection,
    config: Config,
    raw: libvirt.virConnect,
    base: Path,
) -> None:
    before = base.read_bytes()
    step, made = define(host, config)
    other, others = define(host, config, 1)
    assert attempt(host, other, others)[0] is Result.DONE
    assert attempt(host, step, replace(made, xml=without_network(made.xml)))[0] is Result.DONE
    disks = Path(config.system.state_dir) / "disks"
    mine = disks / "operators-own.qcow2"
    mine.write_bytes(b"")
    host.start(step.domain)
    snapshot(raw, step.domain, "Before-Upgrade")
    snapshot(raw, step.domain, "second", f"{disks}/Anything at all.qcow2")
    host.destroy(step.domain)
    assert len(list(disks.iterdir())) == 7, "two of each domain, two of the snapshots, and the operator's"
    assert attempt(host, undefine(step), None) == (Result.DONE, "")
    assert host.facts(step.domain) is None
    assert {file.name for file in disks.iterdir()} == {mine.name, *(volume.name for volume in others.volumes)}
    assert base.read_bytes() == before
    mine.unlink()


def test_a_pool_whose_directory_somebody_removed_is_empty_and_can_be_removed(
    host: Connection, config: Config, pool: Pool, raw: libvirt.virConnect
) -> None:
    step, made = define(host, config)
    assert attempt(host, step, made)[0] is Result.DONE
    host.undefine(step.domain)
    shutil.rmtree(pool.path)
    assert host.volumes() == []
    host.remove_volumes(lambda _name: True)
    shutil.rmtree(pool.path)
    assert host.remove_pool()
    assert pool.name not in [each.name() for each in raw.listAllStoragePools()]
    assert not Path(pool.path).exists()


def test_a_snapshot_that_another_domain_was_given_stays_with_its_chain(
    host: Connection,
    config: Config,
    raw: libvirt.virConnect,
) -> None:
    step, made = define(host, config)
    assert attempt(host, step, made)[0] is Result.DONE
    snapshot(raw, step.domain, "shared")
    file = next(volume for volume in host.volumes() if volume.name.endswith(".shared"))
    disk = f"<devices><disk type='file'><source file='{file.path}'/><target dev='vda'/></disk></devices>"
    xml = f"<domain type='qemu'><name>someones</name><memory>16384</memory><os><type>hvm</type></os>{disk}</domain>"
    theirs = raw.defineXML(xml)
    try:
        assert attempt(host, undefine(step), None) == (Result.DONE, "")
        assert file.name in names(host) and Path(file.backing).exists()
    finally:
        theirs.undefine()
