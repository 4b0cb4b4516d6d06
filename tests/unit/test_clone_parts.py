"""The save file's header and what a clone's definition says: golden bytes, malformed input, anything at all."""

import json
import os
import struct
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, Network
from common.domain import METADATA_TAG, METADATA_URI
from common.errors import HypervisorError
from common.phases import Phase
from common.virt import save_image
from common.virt.save_image import SaveHeader, pack, parse
from common.volume import Filled, Pool
from services.actuator.core.clone_xml import (
    CloneIdentity,
    clone_xml,
    snapshot_key,
    template_xml,
    why_not_cloned,
    words,
)
from services.actuator.core.disks import Base, Disk, DomainDisks
from services.actuator.core.record import Record
from services.actuator.core.record import parse as parse_record
from services.actuator.core.seed import seed_bytes
from services.actuator.core.seen import SeenHost, Template
from services.actuator.core.steps import Clone, SetPhase, TakeSnapshot
from services.actuator.drafts import CloneDisks
from services.actuator.perform import Outcome, Result
from services.actuator.snapshots import LOOKING, Snapshots, key_of

XML = "<domain type='qemu'><name>a</name></domain>"
GOLDEN = (
    b"LibvirtQemudSave" + struct.pack("=5I", 2, 44 + 10, 1, 0, 44) + bytes(56) + XML.encode() + b"\0" + b"<cookie/>\0"
)
RECORD = Record(
    group="web", uuid="10000000-0000-4000-8000-000000000001", host="local", phase=Phase.BOOTING, since_mono_s=1.0,
    since_s=2.0, boot_id="b", slot=3, template="d1", is_cloned=True,
)  # fmt: skip
IDENTITY = CloneIdentity("web-0003", RECORD, Network(), "/state/console", 1_700_000_000_123, "ab" * 32)
SAVED = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web-template</name><uuid>00000000-0000-4000-8000-00000000000a</uuid>
  <metadata><autoscaler:member xmlns:autoscaler="urn:libvirt-autoscaler:domain:1" group="web" uuid="old"/></metadata>
  <os><type arch='x86_64'>hvm</type><kernel>/k</kernel><initrd>/i</initrd><cmdline>c</cmdline></os>
  <devices>
    <interface type='network'><mac address='52:54:00:41:00:00'/><link state='down'/></interface>
    <serial type='file'><source path='/state/console/web-template.log'/></serial>
    <console type='file'><source path='/state/console/web-template.log'/></console>
  </devices>
  <qemu:capabilities><qemu:del capability='cpu-unavailable-features'/></qemu:capabilities>
</domain>"""


def test_header_has_libvirts_bytes() -> None:
    header = SaveHeader(XML, b"<cookie/>", 0)
    assert pack(header) == GOLDEN
    assert parse(GOLDEN + b"QEVM") == replace(header, stream_at=len(GOLDEN))


def test_padding_after_the_cookie_belongs_to_neither() -> None:
    padded = bytearray(GOLDEN + bytes(100))
    struct.pack_into("=I", padded, 20, 54 + 100)
    assert parse(bytes(padded)) == SaveHeader(XML, b"<cookie/>", len(padded))


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, 0, "begins with"),
        (16, 1, "version"),
        (16, 2 << 24, "version"),  # another byte order
        (20, 0, "bytes"),
        (20, 1 << 30, "bytes"),
        (28, 2, "compressed"),
        (32, 55, "cookie"),
    ],
)
def test_what_is_no_whole_save_file_of_ours_is_refused(at: int, value: int, said: str) -> None:
    spoiled = bytearray(GOLDEN)
    struct.pack_into("=I", spoiled, at, value)
    with pytest.raises(HypervisorError, match=said):
        parse(bytes(spoiled))


@pytest.mark.parametrize("length", [0, 1, 91, 92, 100, len(GOLDEN) - 1])
def test_a_file_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(HypervisorError):
        parse(GOLDEN[:length])


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_understood_or_refused(data: bytes, has_head: bool) -> None:
    try:
        found = parse((GOLDEN[:36] if has_head else b"") + data)
    except HypervisorError:
        return
    assert found.stream_at <= len(data) + 36


@given(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
    st.binary().map(lambda b: b.replace(b"\0", b"")),
)
def test_what_is_packed_is_read_back(xml: str, cookie: bytes) -> None:
    data = pack(SaveHeader(xml, cookie, 0))
    assert parse(data + b"stream") == SaveHeader(xml, cookie, len(data))


def test_a_clone_has_nothing_of_its_own_from_the_template() -> None:
    text = clone_xml(SAVED, IDENTITY)
    root = ET.fromstring(text)
    assert "web-template" not in text and "00000000000a" not in text and "52:54:00:41:00:00" not in text
    assert (root.findtext("name"), root.findtext("uuid")) == ("web-0003", RECORD.uuid)
    member = root.find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
    assert member is not None and parse_record(member.attrib) == RECORD
    assert [s.get("path") for s in root.iter("source")] == ["/state/console/web-0003.log"] * 2
    assert root.find("os/kernel") is None and root.findtext("os/type") == "hvm"
    assert root.findtext("sysinfo[@type='fwcfg']/entry[@name='opt/libvirt-autoscaler']") == words(IDENTITY)
    assert len(clone_xml(text, IDENTITY)) == len(text)


def test_the_guest_is_told_who_it_is() -> None:
    assert words(IDENTITY) == (
        "autoscaler.name=web-0003 autoscaler.address=192.168.150.13/24 autoscaler.gateway=192.168.150.1 "
        f"autoscaler.mac={Network().mac(3)} autoscaler.epoch_ms=1700000000123 autoscaler.seed={'ab' * 32}"
    )


@pytest.mark.parametrize("saved", ["", "<domain", "<domain/>", "<domain><name>a</name></domain>"])
def test_a_saved_definition_that_is_not_whole_is_refused(saved: str) -> None:
    with pytest.raises(HypervisorError, match="save file"):
        clone_xml(saved, IDENTITY)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_no_value_breaks_out_of_its_place(text: str) -> None:
    hostile = replace(IDENTITY, record=replace(RECORD, cause=text, note=text))
    root = ET.fromstring(clone_xml(SAVED, hostile))
    member = root.find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
    assert member is not None and member.get("note") == text and len(root.findall("name")) == 1


def test_a_template_says_so_to_its_guest_and_a_disk_says_it_in_its_seed() -> None:
    assert "c autoscaler.template=1" in template_xml(SAVED)
    assert template_xml("<domain><os/></domain>") == "<domain><os/></domain>"


DISK_SAVED = SAVED.replace(
    "</devices>",
    """<disk type='file' device='disk'><source file='/disks/template.qcow2' index='2'/>
      <backingStore type='file'><format type='raw'/><source file='/base.raw'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/disks/template.seed'/><target dev='vdb' bus='virtio'/></disk>
    <channel type='unix'><source mode='bind' path='/run/web-template/agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>""",
)
DISKS = DomainDisks("/disks/own.qcow2", "/disks/own.seed", "/base.raw", "raw", frozen="/disks/template.qcow2")


def test_a_clone_with_a_disk_has_an_overlay_of_its_own_over_the_frozen_one() -> None:
    root = ET.fromstring(clone_xml(DISK_SAVED, IDENTITY, DISKS))
    overlay, seed = (root.find(f"devices/disk/target[@dev='{name}']/..") for name in ("vda", "vdb"))
    assert overlay is not None and seed is not None
    chain = [(b.find("source"), b.find("format")) for b in overlay.iter("backingStore") if b.find("source") is not None]
    assert [(s.get("file"), f.get("type")) for s, f in chain if s is not None and f is not None] == [
        ("/disks/template.qcow2", "qcow2"),
        ("/base.raw", "raw"),
    ]
    assert [e.get("file") for d in (overlay, seed) for e in d.findall("source")] == ["/disks/own.qcow2", DISKS.seed]
    assert root.find("devices/channel/source") is None


def test_a_saved_definition_without_the_disks_is_refused() -> None:
    with pytest.raises(HypervisorError, match="vda"):
        clone_xml(SAVED, IDENTITY, DISKS)


@pytest.mark.parametrize("boot", ["<os firmware='efi'/>", "<os><nvram>/n</nvram></os>"])
def test_domains_with_uefi_are_not_cloned_and_that_is_said(boot: str) -> None:
    assert "UEFI" in why_not_cloned(f"<domain>{boot}</domain>")
    assert why_not_cloned("<domain><os><type>hvm</type></os></domain>") == ""


def test_another_definition_host_or_version_needs_another_snapshot() -> None:
    keys = {
        snapshot_key(*values)
        for values in [("x", "qemu", "7.2"), ("y", "qemu", "7.2"), ("x", "kvm", "7.2"), ("x", "qemu", "8")]
    }
    assert len(keys) == 4


def config() -> Config:
    groups = {"web": {"prefix": "web-", "endpoint": "127.0.0.1:8000", "warm": {"start": "clone"}}}
    return Config.model_validate({"groups": groups})


TEMPLATE = Template("/k", "/i", "d1", console_dir="/c")
HOST = SeenHost("local", version="libvirt 9, hypervisor 7.2")


def put(store: Snapshots, content: bytes, digest: str | None = None) -> Path:
    key, _ = key_of("web", config().groups["web"], TEMPLATE, config().network, HOST)
    path = store.path("web", "local", key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = digest or "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090"  # of b"abc123"
    path.with_suffix(".json").write_text(json.dumps({"format": 1, "sha256": digest, "bytes": len(content)}))
    return path


def is_there(store: Snapshots, host: SeenHost = HOST) -> bool:
    return store.seen("web", config().groups["web"], TEMPLATE, config(), (host,))["local"].is_there


def test_a_snapshot_counts_only_while_it_is_as_its_manifest_says(tmp_path: Path) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    assert not is_there(store)
    path = put(store, b"abc123")
    assert is_there(store)
    assert not is_there(store, replace(HOST, version="libvirt 9, hypervisor 8"))
    assert store.damaged() == []
    path.write_bytes(b"abc12")
    assert not is_there(store) and not path.exists()
    assert (store.damaged(), store.damaged()) == ([("web", "local")], [])


@pytest.mark.parametrize("suffix", [".save", ".json"])
def test_a_snapshot_that_others_may_change_is_not_used(tmp_path: Path, suffix: str) -> None:
    """Its header is a definition: who may write it may hand any file of the host to a guest."""
    path = put(Snapshots(tmp_path), b"abc123")
    path.with_suffix(suffix).chmod(0o666)
    assert not is_there(Snapshots(tmp_path, do=lambda work: work()))


def test_in_a_directory_that_others_may_change_no_snapshot_is_taken(tmp_path: Path) -> None:
    put(Snapshots(tmp_path), b"abc123")
    (tmp_path / "actuator").chmod(0o777)
    store = Snapshots(tmp_path, do=lambda work: work())
    seen = store.seen("web", config().groups["web"], TEMPLATE, config(), (HOST,))["local"]
    assert not seen.is_there
    assert seen.why_not == f"others may change {tmp_path}/actuator (mode 0777): chmod go-w {tmp_path}/actuator"


def test_a_snapshot_is_hashed_elsewhere_once_and_neither_used_nor_taken_anew_meanwhile(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    store = Snapshots(tmp_path, do=waiting.append)
    put(store, b"abc123")
    for _ in range(2):
        found = store.seen("web", config().groups["web"], TEMPLATE, config(), (HOST,))["local"]
        assert (found.is_there, found.why_not) == (False, LOOKING)
    (check,) = waiting
    check()
    assert is_there(store) and len(waiting) == 1


def test_a_snapshot_that_was_just_taken_is_used_at_once(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    store = Snapshots(tmp_path, do=waiting.append)
    path = put(store, b"abc123")
    step = TakeSnapshot(
        group="web", host="local", domain="web-template", uuid="u", reason="r", record=RECORD, accel="qemu",
        snapshot=path.stem,
    )  # fmt: skip
    store.finished(Outcome(step, Result.DONE, "", 1.0))
    assert is_there(store) and waiting == []


def test_a_snapshot_from_before_is_looked_at_at_the_start(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    store = Snapshots(tmp_path, do=waiting.append)
    put(store, b"abc123")
    store.sweep(config())
    (check,) = waiting
    check()
    assert is_there(store)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_manifest_that_cannot_be_read_means_no_snapshot(tmp_path: Path, text: str) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    put(store, b"abc123").with_suffix(".json").write_text(text)
    assert not is_there(store)


def test_two_failed_clones_in_a_row_end_a_snapshot_and_a_right_answer_between_them_saves_it(tmp_path: Path) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    put(store, b"abc123")
    failed = Outcome(
        Clone(
            group="web", host="local", domain="web-0001", uuid="u", reason="r", tier="clone", record=RECORD,
            accel="qemu", snapshot="k",
        ),
        Result.FAILED, "no", 1.0,
    )  # fmt: skip
    record = replace(RECORD, phase=Phase.WARMING)
    step = SetPhase(
        group="web",
        host="local",
        domain="web-0001",
        uuid="u",
        reason="r",
        tier="clone",
        record=record,
        was=Phase.BOOTING,
    )
    served = Outcome(step, Result.DONE, "", 1.0)
    assert is_there(store)
    assert [store.finished(each) for each in (failed, served, failed)] == ["", "", ""]
    assert is_there(store)
    assert store.finished(failed) == "2 clones in a row failed; the last: no"
    assert not is_there(store)


@pytest.mark.parametrize(
    ("after", "is_woken", "is_there_still"),
    [(Phase.STANDBY, False, True), (Phase.FAILED, False, False), (Phase.FAILED, True, True)],
)
def test_what_becomes_of_a_clone_in_reserve_tells_of_its_snapshot_until_it_is_woken(
    tmp_path: Path, after: Phase, is_woken: bool, is_there_still: bool
) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    put(store, b"abc123")
    assert is_there(store)
    record = replace(RECORD, phase=after, tier="paused", is_woken=is_woken)
    step = SetPhase(
        group="web", host="local", domain="web-0001", uuid="u", reason="r", tier="paused", record=record,
        was=Phase.BOOTING,
    )  # fmt: skip
    for _ in range(2):
        store.finished(Outcome(step, Result.DONE, "", 1.0))
    assert is_there(store) is is_there_still


def test_a_record_of_the_release_before_tells_by_its_tier_that_it_is_a_clone() -> None:
    for tier, is_cloned in (("", True), ("paused", True), ("saved", False), ("", False)):
        new = replace(RECORD, tier=tier, is_cloned=is_cloned)
        assert parse_record(new.to_metadata()) == new
    older = {key: value for key, value in RECORD.to_metadata().items() if key != "cloned"}
    assert older["tier"] == "clone" and parse_record(older) == RECORD


def test_what_a_killed_process_left_is_swept_and_groups_that_do_not_clone_lose_theirs(tmp_path: Path) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    kept = put(store, b"abc123")
    for left in (kept.with_suffix(".part"), kept.with_suffix(".new"), kept.with_name("alone.json")):
        left.touch()
    pipe = kept.with_name("u.pipe")
    os.mkfifo(pipe)
    reader = threading.Thread(target=pipe.read_bytes, daemon=True)
    reader.start()
    other = kept.parent.parent / "gone@local"
    other.mkdir()
    store.sweep(config())
    assert sorted(path.name for path in kept.parent.iterdir()) == sorted([kept.name, kept.with_suffix(".json").name])
    assert not other.exists()
    reader.join(5.0)
    assert not reader.is_alive(), "libvirt waits for nobody any more"


def test_taking_a_snapshot_removes_those_that_fit_no_more(tmp_path: Path) -> None:
    store = Snapshots(tmp_path, do=lambda work: work())
    old = put(store, b"abc123")
    new = old.with_name("fresh.save")
    new.write_bytes(b"x")
    step = TakeSnapshot(
        group="web", host="local", domain="web-template", uuid="u", reason="r", record=RECORD, accel="qemu",
        snapshot="fresh",
    )  # fmt: skip
    store.finished(Outcome(step, Result.DONE, "", 1.0))
    assert not old.exists() and new.exists()


DISK_TEMPLATE = Template("", "", "d2", console_dir="/c", disk=Disk("/base.raw"))
DISK_HOST = replace(HOST, bases={"/base.raw": Base("/base.raw", "path.content", "raw", 1 << 30)})


def disk_key(host: SeenHost = DISK_HOST) -> tuple[str, str]:
    return key_of("web", config().groups["web"], DISK_TEMPLATE, config().network, host)


def test_another_content_of_the_image_needs_another_snapshot() -> None:
    other = replace(DISK_HOST, bases={"/base.raw": Base("/base.raw", "path.other", "raw", 1 << 30)})
    assert disk_key() == disk_key() != disk_key(other)


@pytest.mark.parametrize(
    ("bases", "why"),
    [({}, "looking at /base.raw"), ({"/base.raw": Base("/base.raw", note="it is missing")}, "it is missing")],
)
def test_an_image_that_cannot_be_used_is_not_cloned_and_that_is_said(
    tmp_path: Path, bases: dict[str, Base], why: str
) -> None:
    host = replace(DISK_HOST, bases=bases)
    seen = Snapshots(tmp_path, do=lambda work: work()).seen(
        "web", config().groups["web"], DISK_TEMPLATE, config(), (host,)
    )
    assert (seen["local"].is_there, seen["local"].why_not) == (False, why)


def test_domains_that_are_asked_by_their_agent_are_not_cloned_and_that_is_said(tmp_path: Path) -> None:
    group = config().groups["web"]
    asked = group.model_copy(update={"readiness": group.readiness.model_copy(update={"protocol": "agent"})})
    seen = Snapshots(tmp_path).seen("web", asked, TEMPLATE, config(), (HOST,))
    assert not seen["local"].is_there and "guest agent" in seen["local"].why_not


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_a_snapshot_counts_only_while_its_disk_is_as_it_was_and_spares_it(tmp_path: Path, mode: int) -> None:
    store, disk = Snapshots(tmp_path, do=lambda work: work()), tmp_path / f"web-template.{RECORD.uuid}.qcow2"
    disk.write_bytes(b"disk")
    state = disk.stat()
    path = store.path("web", "local", disk_key()[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc123")
    manifest = {
        "format": 1,
        "sha256": "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090",
        "disk": {"path": str(disk), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns},
    }
    path.with_suffix(".json").write_text(json.dumps(manifest))

    def is_whole() -> bool:
        return store.seen("web", config().groups["web"], DISK_TEMPLATE, config(), (DISK_HOST,))["local"].is_there

    disk.chmod(mode)
    assert is_whole() is (mode == 0o640), "an older release left it open to all"
    if mode != 0o640:
        return
    assert store.spared() == {disk.name}
    found = store.frozen(path)
    assert found is not None and found.path == str(disk)
    disk.write_bytes(b"other")
    assert not is_whole() and store.spared() == frozenset()
    assert not path.exists()


def test_all_seeds_of_a_group_that_clones_have_one_size_and_end_with_an_identity() -> None:
    disk = Disk("/base.raw", user_data="#cloud-config\n" + "#" * 900_000, ssh_keys=("ssh-ed25519 AAAA",))
    disks = CloneDisks("/f", Base("/base.raw", "i", "raw", 1), disk, Pool("p", "/disks"), Network())
    seeds = []
    for name in ("web-0003", "web-template-canary" * 3):
        seed = disks.volumes("web-0003", replace(IDENTITY, guest_name=name))[1]
        assert isinstance(seed, Filled)
        seeds.append(seed.content)
    assert len(seeds[0]) == len(seeds[1]) == seed_bytes(disk.ssh_keys, disk.user_data) == 2 << 20
    said = json.loads(seeds[0][-4096:].rstrip(b"\0"))
    assert (said["name"], said["machine_id"], said["mac"], said["address"], said["epoch_ms"]) == (
        "web-0003", RECORD.uuid.replace("-", ""), Network().mac(3), "192.168.150.13", "1700000000123",
    )  # fmt: skip


def test_head_tells_how_much_to_read() -> None:
    assert save_image.text_bytes(GOLDEN) == 54
