"""Disks of domains: names, bases that change, what is left over; and that hosts without the image get no domain."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config import Config, Group, Image, Network
from common.domain import DomainState
from common.phases import Phase
from common.volume import ImageFacts, SeenVolume, files_of, is_readable
from services.actuator.core.disks import (
    Base,
    Disk,
    aged,
    base_of,
    belonging,
    changed,
    identity,
    leaked,
    overlay,
    owner_of,
)
from services.actuator.core.domain_xml import DomainSpec, domain_xml
from services.actuator.core.members import view
from services.actuator.core.placement import Place, place
from services.actuator.core.record import Record, parse
from services.actuator.core.seen import Seen, SeenDomain, SeenHost, Template, Wanted
from services.actuator.core.steps import Define
from services.actuator.drafts import draft

UUIDS = [f"7b1f2f10-1111-5222-8333-12345678900{number}" for number in range(4)]
FACTS = ImageFacts("/images/debian.qcow2", "qcow2", 2 << 30, 300 << 20, "17.000000001", mode=0o640, owner=0, group=108)
RECORD = Record(
    group="web", uuid=UUIDS[0], host="local", phase=Phase.READY, since_mono_s=1.0, since_s=1.0, boot_id="b", slot=0
)
BASE = base_of(FACTS.path, FACTS, 0, 0)
DISK = Disk(FACTS.path, user_data="#cloud-config\n")
GROUP = Group.model_validate({"prefix": "web-", "image": {"disk": FACTS.path}})
NETWORK = Network()
TEMPLATE = Template("", "", "d1", disk=DISK)
WANTED = Wanted("web", GROUP, NETWORK, None, template=TEMPLATE)


def volume(number: int, kind: str = "qcow2", backing: str = "") -> SeenVolume:
    name = f"web-000{number}.{UUIDS[number]}.{kind}"
    return SeenVolume(name, f"/disks/{name}", backing)


def test_a_volume_tells_its_owner_and_a_strangers_file_tells_none() -> None:
    assert owner_of(volume(1).name) == UUIDS[1]
    for name in ("debian.qcow2", f"{UUIDS[0]}.seed", "web-0000.qcow2", f"web-0000.{UUIDS[0]}", "a/b"):
        assert owner_of(name) is None


def test_only_volumes_that_nobody_owns_or_names_are_left_over() -> None:
    found = [volume(0), volume(1), volume(1, "seed"), volume(2), SeenVolume("mine.qcow2", "/disks/mine.qcow2")]
    assert leaked(found, {UUIDS[0]}, {volume(2).path}) == {volume(1).name, volume(1, "seed").name}


def test_what_another_volume_stands_on_is_kept_as_long_as_that_one() -> None:
    frozen, clone = volume(0), volume(1, backing=volume(0).path)
    further = volume(2, backing=clone.path)
    assert leaked([frozen, clone, further], {UUIDS[2]}, ()) == frozenset()
    assert leaked([frozen, clone, further], (), ()) == {frozen.name, clone.name, further.name}


def test_a_file_that_stands_on_a_domains_disk_is_the_domains_whatever_its_name() -> None:
    over = SeenVolume("Snap 1", "/disks/Snap 1", volume(0).path)
    top = SeenVolume("x.Y", "/disks/x.Y", over.path)
    apart = SeenVolume("data.raw", "/disks/data.raw", "/images/base.qcow2")
    found = [volume(0), over, top, apart, volume(1)]
    assert belonging(found, UUIDS[0], ()) == {volume(0).name, over.name, top.name}
    assert leaked(found, {UUIDS[1]}, ()) == {volume(0).name, over.name, top.name}
    assert leaked([over, top, apart], (), ()) == {over.name, top.name}, "also when what they stood on is gone"


def test_nothing_goes_that_another_domain_or_its_disk_stands_on() -> None:
    over = SeenVolume("snap", "/disks/snap", volume(0).path)
    clone = volume(1, backing=over.path)
    assert belonging([volume(0), over, clone], UUIDS[0], ()) == frozenset()
    assert belonging([volume(0), volume(0, "seed"), over], UUIDS[0], {over.path}) == {volume(0, "seed").name}


CHAINS = st.dictionaries(st.integers(0, 7), st.integers(-1, 7), max_size=8)


@given(CHAINS, st.sets(st.integers(0, 7)))
def test_whatever_stands_on_what_a_removal_leaves_no_file_without_its_base(
    backing: dict[int, int], used: set[int]
) -> None:
    names = {n: volume(n).name if n < 4 else f"snap-{n}" for n in range(8)}
    paths = {n: f"/disks/{name}" for n, name in names.items()} | {-1: "/images/base.qcow2"}
    found = [SeenVolume(names[n], paths[n], paths[below]) for n, below in backing.items()]
    others = {paths[n] for n in used}
    gone = belonging(found, UUIDS[0], others)
    left = [each for each in found if each.name not in gone]
    assert not {each.name for each in found if each.path in others} & gone
    assert not {each.name for each in found if owner_of(each.name) not in (None, UUIDS[0])} & gone
    assert not {each.backing for each in left} & {each.path for each in found if each.name in gone}


def test_a_volume_that_was_named_in_between_starts_its_grace_anew() -> None:
    since_s = aged({}, {"a", "b"}, 10.0)
    since_s = aged(since_s, {"a"}, 20.0)
    assert aged(since_s, {"a", "b"}, 30.0) == {"a": 10.0, "b": 30.0}


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        (None, "is missing"),
        (replace(FACTS, format="vmdk"), "must be qcow2 or raw; it is vmdk"),
        (replace(FACTS, format="raw", is_bootable=False), "has it a boot sector"),
        (replace(FACTS, backing="/images/older.qcow2"), "it stands on /images/older.qcow2"),
        (replace(FACTS, mode=0o600), "must be readable for QEMU's user 64055:108"),
    ],
)
def test_an_unusable_image_is_named_with_what_is_wrong(facts: ImageFacts | None, part: str) -> None:
    note = base_of(FACTS.path, facts, 64055, 108).note
    assert FACTS.path in note and part in note


def test_reading_follows_owner_group_and_others() -> None:
    assert is_readable(FACTS, 64055, 108) and not is_readable(FACTS, 64055, 1)
    assert is_readable(replace(FACTS, mode=0o004), 64055, 1)
    assert not is_readable(replace(FACTS, mode=0o044, owner=64055), 64055, 108)
    assert is_readable(replace(FACTS, mode=0), 0, 0), "root reads everything"


def test_identity_changes_with_content_and_not_with_rights() -> None:
    assert identity(FACTS) == identity(replace(FACTS, mode=0o644, owner=5))
    others = [replace(FACTS, mtime="18.0"), replace(FACTS, size_bytes=1), replace(FACTS, path="/images/other.qcow2")]
    assert len({identity(FACTS), *map(identity, others)}) == 4


def test_nothing_is_made_from_a_base_that_changed_under_its_domains() -> None:
    now = base_of(FACTS.path, replace(FACTS, mtime="18.0"), 0, 0)
    stands = {"web-0000": replace(RECORD, base=BASE.identity)}
    assert "has changed under web-0000" in changed(now, stands)
    assert changed(BASE, stands) == ""
    assert changed(now, {"web-0001": replace(RECORD, base=now.identity)}) == ""
    other = base_of("/images/other.qcow2", replace(FACTS, path="/images/other.qcow2"), 0, 0)
    assert changed(other, stands) == "", "a file of another name is no change"
    assert changed(now, {"web-0002": RECORD}) == "", "one without a disk"


def hosts(*bases: Base | None, domains: tuple[SeenDomain, ...] = ()) -> Seen:
    found = tuple(
        SeenHost(f"h{number}", domains, bases={} if base is None else {base.path: base})
        for number, base in enumerate(bases)
    )
    return Seen(1.0, "b", found)


def placed(seen: Seen) -> Place | str:
    wanted = replace(WANTED, group=GROUP.model_copy(update={"hosts": tuple(host.name for host in seen.hosts)}))
    return place(wanted, seen, view(wanted, seen), [], 5.0)


def test_a_domain_goes_to_a_host_that_has_the_image_and_notes_which() -> None:
    where = placed(hosts(Base(FACTS.path, note="it is missing"), BASE))
    assert isinstance(where, Place) and (where.host, where.base) == ("h1", BASE.identity)


def test_no_host_with_the_image_means_no_domain_and_says_why() -> None:
    assert placed(hosts(None)) == f"h0: looking at {FACTS.path}"
    assert placed(hosts(Base(FACTS.path, note="it is missing"))) == "h0: it is missing"
    changed_base = base_of(FACTS.path, replace(FACTS, size_bytes=1), 0, 0)
    ours = SeenDomain("h0", "web-0000", UUIDS[0], DomainState.RUNNING, replace(RECORD, base=BASE.identity))
    assert "has changed under web-0000" in str(placed(hosts(changed_base, domains=(ours,))))


def test_record_keeps_the_base() -> None:
    record = replace(RECORD, base=BASE.identity)
    assert parse(record.to_metadata()) == record


def test_overlay_is_never_smaller_than_its_base() -> None:
    assert overlay("web-0000", UUIDS[0], DISK, BASE).capacity_bytes == 2 << 30
    assert overlay("web-0000", UUIDS[0], replace(DISK, size_bytes=5 << 30), BASE).capacity_bytes == 5 << 30


def test_a_draft_names_the_volumes_it_makes_and_leaves_the_base_to_its_owner() -> None:
    from common.volume import Pool

    step = Define(
        group="web", host="local", domain="web-0000", uuid=UUIDS[0], reason="", accel="qemu",
        record=replace(RECORD, base=BASE.identity),
    )  # fmt: skip
    pool = Pool("p", "/disks")
    made = draft(WANTED, step, TEMPLATE, BASE, pool)
    assert made is not None
    assert [v.name for v in made.volumes] == [f"web-0000.{UUIDS[0]}.qcow2", f"web-0000.{UUIDS[0]}.seed"]
    assert files_of(made.xml) == {FACTS.path, *(pool.path_of(v.name) for v in made.volumes)}
    assert 'relabel="no"' in made.xml and "<kernel>" not in made.xml
    later = base_of(FACTS.path, replace(FACTS, mtime="18.0"), 0, 0)
    assert draft(WANTED, step, TEMPLATE, later, pool) is None, "the base changed between plan and step"


def test_a_kernels_domain_is_as_before() -> None:
    group = Group.model_validate({"prefix": "web-"})
    spec = DomainSpec("web-0000", UUIDS[0], RECORD, "qemu", group, NETWORK, Template("/k", "/i", "d"))
    text = domain_xml(spec)
    assert "<disk" not in text and "<channel" not in text and '"on_reboot"' not in text


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ({"disk": "/a", "directory": "/b"}, "exclude each other"),
        ({"disk": "relative.qcow2"}, "absolute path"),
        ({"disk": "/a\n"}, "printable"),
        ({"disk": "/a\ufffe"}, "printable"),
        ({"user_data": "/a"}, "only with disk"),
        ({"ssh_keys": ["ssh-ed25519 AAAA me"]}, "only with disk"),
        ({"disk": "/a", "ssh_keys": ["two\nlines"]}, "authorized_keys"),
        ({"disk": "/a", "disk_gib": 0}, "greater than 0"),
        ({"machine": "microvm"}, "'pc' or 'q35'"),
    ],
)
def test_impossible_image_settings_are_refused(image: dict[str, object], part: str) -> None:
    with pytest.raises(ValidationError) as error:
        Image.model_validate(image)
    assert part in str(error.value)


def test_existing_groups_have_no_disk_image() -> None:
    with pytest.raises(ValueError, match="kind 'template'"):
        Group.model_validate({"prefix": "web-", "kind": "existing", "image": {"disk": "/a"}})


def test_identity_is_not_asked_of_own_images_unless_one_says_so() -> None:
    assert not GROUP.is_identity_checked
    assert Group.model_validate({"prefix": "a-"}).is_identity_checked
    asked = {"prefix": "a-", "image": {"disk": "/a"}, "readiness": {"identity": True, "protocol": "agent"}}
    assert Group.model_validate(asked).is_identity_checked


def test_documented_keys_are_those_of_the_class() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "autoscaler.toml").read_text(encoding="utf-8")
    section = text.partition("[groups.web.image]")[2].partition("\n[")[0]
    assert all(f"\n{key} = " in section or f"\n# {key} = " in section for key in Image.model_fields)
    assert Config.model_fields
