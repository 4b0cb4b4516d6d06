"""Storage pools that the user has, or makes, on the directory of a disk image: never in each other's way."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import libvirt
import pytest

from common.hypervisor import Connection
from common.volume import Pool, digest, directory_of, window_xml
from services.actuator.keeper import look

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket")
URI = "qemu:///system"
THEIRS = "pooltest-theirs"


@pytest.fixture
def image(images: Path) -> Iterator[Path]:
    """A disk image in a directory of the user's; ``images`` has started libvirt."""
    with tempfile.TemporaryDirectory(prefix="pooltest-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        path = Path(name) / "base.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "10M"], check=True)
        path.chmod(0o644)
        yield path


@pytest.fixture
def raw() -> Iterator[libvirt.virConnect]:
    """The user's own connection; their pool is removed at the end."""
    connection = libvirt.open(URI)
    yield connection
    for pool in connection.listAllStoragePools():
        if pool.name() == THEIRS or pool.name().startswith("pooltest-ours"):
            if pool.isActive():
                pool.destroy()
            if pool.isPersistent():
                pool.undefine()
    connection.close()


@pytest.fixture
def host(image: Path) -> Iterator[Connection]:
    """Our connection."""
    ours = Pool("pooltest-ours", f"{image.parent}/disks")
    connection = Connection.open(URI, is_read_only=False, may_touch=lambda _name: False, pool=ours)
    yield connection
    connection.close()


def define(raw: libvirt.virConnect, image: Path) -> libvirt.virStoragePool:
    return raw.storagePoolDefineXML(window_xml(THEIRS, str(image.parent)), 0)


def pools_over(raw: libvirt.virConnect, image: Path) -> list[str]:
    return [pool.name() for pool in raw.listAllStoragePools() if str(image.parent) in pool.XMLDesc(0)]


def note(host: Connection, image: Path) -> str:
    return look(host, [str(image)])[str(image)].note


def test_a_users_pool_that_is_not_started_is_in_nobodys_way_and_is_not_started(
    host: Connection, raw: libvirt.virConnect, image: Path
) -> None:
    theirs = define(raw, image)
    assert note(host, image) == ""
    assert not theirs.isActive()


def test_a_user_may_define_and_start_a_pool_while_we_look_there_again_and_again(
    host: Connection, raw: libvirt.virConnect, image: Path
) -> None:
    before = host.image(str(image))
    theirs = define(raw, image)
    theirs.create(0)
    assert host.image(str(image)) == before
    assert [volume.name() for volume in theirs.listAllVolumes()] == [image.name]


def test_a_users_active_pool_is_asked_and_stays_as_it_is(
    host: Connection, raw: libvirt.virConnect, image: Path
) -> None:
    theirs = define(raw, image)
    theirs.create(0)
    before = theirs.XMLDesc(0)
    facts = host.image(str(image))
    assert facts is not None and (facts.path, facts.format) == (str(image), "qcow2")
    assert theirs.isActive() and theirs.XMLDesc(0) == before
    assert pools_over(raw, image) == [THEIRS]


def test_nothing_of_ours_stays_open_on_a_users_directory(
    host: Connection, raw: libvirt.virConnect, image: Path
) -> None:
    assert note(host, image) == ""
    assert host.image(f"{image.parent}/missing.qcow2") is None
    assert pools_over(raw, image) == []


def test_a_window_that_an_older_release_left_open_is_closed_by_the_next_look(
    host: Connection, raw: libvirt.virConnect, image: Path
) -> None:
    directory = directory_of(str(image))
    raw.storagePoolCreateXML(window_xml(f"pooltest-ours-base-{digest(directory)}", directory), 0)
    assert note(host, image) == ""
    assert pools_over(raw, image) == []


def test_two_who_look_at_once_do_not_hinder_each_other(host: Connection, image: Path) -> None:
    other = Connection.open(URI, is_read_only=False, may_touch=lambda _name: False)
    found: list[str] = []
    lookers = [Thread(target=lambda h=h: found.extend(note(h, image) for _ in range(30))) for h in (host, other)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    other.close()
    assert found == [""] * 60
