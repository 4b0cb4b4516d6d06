"""The disks of a domain that boots from an image: their names, what they stand on, which of them are left over.

A domain has two volumes in our pool: an overlay, and a seed for cloud-init. Both carry the domain's UUID in their
names, so that each tells whose it is and no two lives of a name share one. The base is only ever read.

# Note [What snapshots put on a disk]
An external snapshot (``virsh snapshot-create-as --disk-only``) makes the domain write to a new file on top of its
overlay, named as the user likes. In our pool such a file belongs to the domain whose volume it stands on, and goes with
it. A file that stands on nothing of the domain's is not taken for its own, even if its definition names it: it may be
the user's data, or a base.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from common.volume import ImageFacts, Overlay, SeenVolume, digest, is_readable
from services.actuator.core.record import Record

GIB: Final = 1024**3
FORMATS: Final = ("qcow2", "raw")
OVERLAY, SEED = "qcow2", "seed"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\.(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[a-z0-9.]+")


@dataclass(frozen=True, slots=True)
class Disk:
    """What a group's disks are made from: ``[groups.NAME.image]``, with the text of its user-data.

    ``name_servers`` are told to the guest; a domain with others is no other domain, so they are no part of the digest.
    """

    path: str
    size_bytes: int = 0
    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return a digest of all of it; the image counts by its path, its content by ``Base.identity``."""
        return digest(self.path, str(self.size_bytes), self.user_data, *self.ssh_keys)


@dataclass(frozen=True, slots=True)
class Base:
    """A base image on one host, at the last look; ``note`` says why no domain can be made from it, else it is empty.

    ``identity`` tells path and content: ``<digest of the path>.<digest of what the host shows>``.
    """

    path: str
    identity: str = ""
    format: str = ""
    capacity_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class DomainDisks:
    """Where the disks of one domain are, and what the overlay stands on.

    ``base`` is the user's image. ``frozen`` lies in between where the domain is a clone: the disk of the template, as
    it was when its memory was saved.
    """

    overlay: str
    seed: str
    base: str
    base_format: str
    frozen: str = ""

    @property
    def backing(self) -> tuple[tuple[str, str], ...]:
        """Return path and format of all that the overlay stands on, from the top."""
        own = ((self.frozen, OVERLAY),) if self.frozen else ()
        return (*own, (self.base, self.base_format))


def volume_name(domain: str, uuid: str, kind: str) -> str:
    """Return the name of a volume of the domain; ``kind`` is ``OVERLAY``, ``SEED`` or another's own.

    >>> volume_name("web-0001", "7b1f2f10-1111-5222-8333-1234567890ab", "seed")
    'web-0001.7b1f2f10-1111-5222-8333-1234567890ab.seed'
    """
    return f"{domain}.{uuid}.{kind}"


def owner_of(volume: str) -> str | None:
    """Return the UUID of the domain that a volume was made for, None if its name is not of our making.

    >>> owner_of("web-0001.7b1f2f10-1111-5222-8333-1234567890ab.seed"), owner_of("debian.qcow2")
    ('7b1f2f10-1111-5222-8333-1234567890ab', None)
    """
    match = _NAME.fullmatch(volume)
    return None if match is None else match["uuid"]


def overlay(domain: str, uuid: str, disk: Disk, base: Base) -> Overlay:
    """Return the overlay of a new domain, as large as the base at least."""
    size_bytes = max(base.capacity_bytes, disk.size_bytes)
    return Overlay(volume_name(domain, uuid, OVERLAY), base.path, base.format, size_bytes)


def base_of(path: str, facts: ImageFacts | None, user: int, group: int) -> Base:
    """Return what a host's file at ``path`` is good for; QEMU runs there as ``user`` and ``group``."""
    if facts is None:
        return Base(path, note=f"disk image {path} is missing")
    return Base(path, identity(facts), facts.format, facts.capacity_bytes, _why_unusable(facts, user, group))


def identity(facts: ImageFacts) -> str:
    """Return what tells this image, in this state, from every other."""
    return f"{digest(facts.path)}.{facts.identity}"


def changed(base: Base, records: Mapping[str, Record]) -> str:
    """Return why nothing more is made from a base that has changed under domains that stand on it; empty if it has not.

    Args:
        base: As it is now.
        records: Those of the host's domains, by name.
    """
    path_digest = base.identity.partition(".")[0]
    broken = sorted(
        name
        for name, record in records.items()
        if record.base != base.identity and record.base.partition(".")[0] == path_digest
    )
    if not base.identity or not broken:
        return ""
    names = f"{', '.join(broken[:3])}{' and others' if len(broken) > 3 else ''}"
    return (
        f"disk image {base.path} has changed under {names}, whose disks stand on it: nothing more is made from it; "
        "put the old file back, or give the new one a name of its own and set it as disk"
    )


def leaked(
    volumes: Iterable[SeenVolume], uuids: Collection[str], files: Collection[str], spared: Collection[str] = ()
) -> frozenset[str]:
    """Return the names of volumes of our making that no domain of the host owns or names, not even as a base.

    Args:
        volumes: All that is in our pool.
        uuids: Of all domains of the host, defined or running, ours or not.
        files: Every file that a disk of theirs names.
        spared: Names of volumes that snapshots need.
    """
    all_volumes = tuple(volumes)
    owners = owners_of(all_volumes)
    kept = {v.path for v in all_volumes if owners[v.path] in (None, *uuids) or v.path in files or v.name in spared}
    return _not_needed(all_volumes, kept)


def belonging(volumes: Iterable[SeenVolume], uuid: str, files_of_others: Collection[str]) -> frozenset[str]:
    """Return the names of the volumes that go with a domain: its own, and what snapshots have put on them.

    Args:
        volumes: All that is in our pool.
        uuid: The domain's.
        files_of_others: Every file that disks of other domains name; neither these nor what they stand on goes.
    """
    all_volumes = tuple(volumes)
    owners = owners_of(all_volumes)
    kept = {v.path for v in all_volumes if owners[v.path] != uuid or v.path in files_of_others}
    return _not_needed(all_volumes, kept)


def owners_of(volumes: Collection[SeenVolume]) -> dict[str, str | None]:
    """Return by path for whom each volume is there; see Note [What snapshots put on a disk]."""
    by_path = {volume.path: volume for volume in volumes}
    return {path: _owner(volume, by_path) for path, volume in by_path.items()}


def _owner(volume: SeenVolume, by_path: Mapping[str, SeenVolume]) -> str | None:
    """Return the owner by name, else that of the next volume below that has one; it may be gone itself."""
    passed = set[str]()
    while owner_of(volume.name) is None and volume.backing and volume.path not in passed:
        passed.add(volume.path)
        below, here = PurePosixPath(volume.backing), PurePosixPath(volume.path).parent
        gone = SeenVolume(below.name if below.parent == here else "", volume.backing)
        volume = by_path.get(volume.backing, gone)
    return owner_of(volume.name)


def _not_needed(volumes: tuple[SeenVolume, ...], kept: set[str]) -> frozenset[str]:
    """Return the names of the volumes that are neither at the paths ``kept`` nor below one of them."""
    while more := {v.backing for v in volumes if v.path in kept and v.backing} - kept:
        kept |= more
    return frozenset(v.name for v in volumes if v.path not in kept)


def aged(since_s: Mapping[str, float], found: Collection[str], now_s: float) -> dict[str, float]:
    """Return since when each of ``found`` has been seen without a break."""
    return {name: since_s.get(name, now_s) for name in found}


def _why_unusable(facts: ImageFacts, user: int, group: int) -> str:
    if facts.format not in FORMATS:
        return f"disk image {facts.path} must be qcow2 or raw; it is {facts.format or 'no image'}"
    if not facts.is_bootable:
        return f"disk image {facts.path} must be qcow2 or raw; it is neither qcow2 nor has it a boot sector"
    if facts.backing:
        return (
            f"disk image {facts.path} must stand alone; it stands on {facts.backing} (qemu-img convert makes one file)"
        )
    if not is_readable(facts, user, group):
        return (
            f"disk image {facts.path} (mode {facts.mode:04o}, owner {facts.owner}:{facts.group}) must be readable for "
            f"QEMU's user {user}:{group}; for instance: chmod o+r {facts.path}"
        )
    return ""
