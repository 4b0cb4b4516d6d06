"""What libvirt's storage shows and is asked to make: images, volumes, pools, as plain values and their XML.

Nothing here talks to libvirt: ``common.hypervisor`` does, with ``common.virt.storage``.
"""

import hashlib
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:libvirt-autoscaler:pool:1")
SECTOR_BYTES: Final = 512
MAX_SPELLINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """A directory of volumes that is ours alone, under its libvirt name."""

    name: str
    path: str

    @property
    def uuid(self) -> str:
        """Return the pool's UUID: how we know that it is ours."""
        return str(uuid.uuid5(NAMESPACE, f"{self.name}\n{self.path}"))

    def path_of(self, volume: str) -> str:
        """Return the path of a volume in it."""
        return f"{self.path}/{volume}"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image file as its host shows it. ``mtime`` is text, to the nanosecond; ``backing`` is its own base, or empty.

    ``mode``, ``owner`` and ``group`` say who may read it; ``is_bootable`` is false for a raw file without a boot
    sector.
    """

    path: str
    format: str
    capacity_bytes: int
    size_bytes: int
    mtime: str
    backing: str = ""
    mode: int = 0o644
    owner: int = 0
    group: int = 0
    is_bootable: bool = True

    @property
    def identity(self) -> str:
        """Return a digest of what changes when the image does; who may read it does not count."""
        return digest(self.format, str(self.capacity_bytes), str(self.size_bytes), self.mtime, self.backing)


@dataclass(frozen=True, slots=True)
class Overlay:
    """A copy-on-write volume to be made over ``base``."""

    name: str
    base: str
    base_format: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A raw volume to be made with ``content``."""

    name: str
    content: bytes


Volume = Overlay | Filled


@dataclass(frozen=True, slots=True)
class SeenVolume:
    """One volume of our pool; ``backing`` is the path of its base, or empty."""

    name: str
    path: str
    backing: str = ""


def digest(*parts: str) -> str:
    """Return eight letters that differ where any of the parts does."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def pool_xml(pool: Pool) -> str:
    """Return the definition of our pool."""
    root = _pool(pool.name, pool.path)
    ET.SubElement(root, "uuid").text = pool.uuid
    ET.SubElement(ET.SubElement(root[1], "permissions"), "mode").text = "0711"  # QEMU's own user passes through
    return ET.tostring(root, encoding="unicode")


def window_xml(name: str, directory: str) -> str:
    """Return the definition of a pool through which a directory of the user's is only looked at."""
    return ET.tostring(_pool(name, directory), encoding="unicode")


def window_path(name: str, directory: str) -> str:
    """Return the directory in a spelling that no user's pool has, and that differs from other windows' by their names.

    >>> window_path("a", "/images") != window_path("b", "/images")
    True
    """
    return directory.rstrip("/") + "/." * (1 + int(digest(name), 16) % MAX_SPELLINGS)


def volume_xml(volume: Volume) -> str:
    """Return the definition of a new volume."""
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = volume.name
    is_overlay = isinstance(volume, Overlay)
    size = volume.capacity_bytes if isinstance(volume, Overlay) else len(volume.content)
    ET.SubElement(root, "capacity", unit="bytes").text = str(size)
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", type="qcow2" if is_overlay else "raw")
    if isinstance(volume, Overlay):
        backing = ET.SubElement(root, "backingStore")
        ET.SubElement(backing, "path").text = volume.base
        ET.SubElement(backing, "format", type=volume.base_format)
    return ET.tostring(root, encoding="unicode")


def image_facts(xml: str) -> ImageFacts:
    """Return what libvirt's description of a volume says of an image."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own text
    found = root.find("target/format")
    return ImageFacts(
        path=root.findtext("target/path", ""),
        format="" if found is None else found.get("type", ""),
        capacity_bytes=int(root.findtext("capacity", "0")),
        size_bytes=int(root.findtext("physical", "0")),
        mtime=root.findtext("target/timestamps/mtime", ""),
        backing=root.findtext("backingStore/path", ""),
        mode=int(root.findtext("target/permissions/mode", "0"), 8),
        owner=int(root.findtext("target/permissions/owner", "0")),
        group=int(root.findtext("target/permissions/group", "0")),
    )


def seen_volume(xml: str) -> SeenVolume:
    """Return what libvirt's description of a volume says of one of ours."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own text
    return SeenVolume(
        root.findtext("name", ""), root.findtext("target/path", ""), root.findtext("backingStore/path", "")
    )


def pool_path(xml: str) -> str:
    """Return the directory of a pool."""
    return ET.fromstring(xml).findtext("target/path", "")  # noqa: S314 - libvirt's own text


def files_of(xml: str) -> frozenset[str]:
    """Return every file that a domain's definition names as a disk or below one.

    >>> sorted(files_of("<domain><devices><disk><source file='/a'/><backingStore><source file='/b'/></backingStore>"
    ...                 "</disk></devices></domain>"))
    ['/a', '/b']
    """
    disks = ET.fromstring(xml).iterfind("devices/disk")  # noqa: S314 - libvirt's own text
    return frozenset(source.get("file", "") for disk in disks for source in disk.iter("source")) - {""}


def reader(capabilities: str) -> tuple[int, int]:
    """Return user and group that QEMU runs as on a host; root where it does not say.

    >>> reader("<capabilities><host><secmodel><model>dac</model><baselabel type='kvm'>+64055:+108</baselabel>"
    ...        "</secmodel></host></capabilities>")
    (64055, 108)
    """
    for model in ET.fromstring(capabilities).iterfind("host/secmodel"):  # noqa: S314 - libvirt's own text
        user, _, group = (model.findtext("baselabel") or "").partition(":")
        if model.findtext("model") == "dac" and user and group:
            return int(user), int(group)
    return 0, 0


def is_readable(facts: ImageFacts, user: int, group: int) -> bool:
    """Return whether ``user`` may read the image by its mode."""
    if user in (0, facts.owner):
        return user == 0 or bool(facts.mode & 0o400)
    return bool(facts.mode & (0o040 if group == facts.group else 0o004))


def directory_of(path: str) -> str:
    """Return the directory of a file."""
    return str(PurePosixPath(path).parent)


def _pool(name: str, path: str) -> ET.Element:
    root = ET.Element("pool", type="dir")
    ET.SubElement(root, "name").text = name
    ET.SubElement(ET.SubElement(root, "target"), "path").text = path
    return root
