"""The definitions of a template domain and of its clones, as trees: no value can break out of its place.

A clone's own definition, with which it could boot, is that of any other domain. What is made here goes into the header
of the saved memory: what QEMU must find as it was stays, what makes it another domain is replaced.
"""

import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

from common.config import Network
from common.domain import AGENT_CHANNEL, METADATA_PREFIX, METADATA_TAG, METADATA_URI
from common.errors import HypervisorError
from services.actuator.core.disks import DomainDisks
from services.actuator.core.domain_xml import OWN_DISKS, QEMU_URI, add_backing
from services.actuator.core.record import Record

FWCFG_ENTRY: Final = "opt/libvirt-autoscaler"
TEMPLATE_WORD: Final = "autoscaler.template=1"
_SEED: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CloneIdentity:
    """What makes a clone another domain. ``seed``: 32 random bytes in hex; ``epoch_ms``: the wall clock."""

    name: str
    record: Record
    network: Network
    console_dir: str
    epoch_ms: int
    seed: str
    guest_name: str = ""

    @property
    def slot(self) -> int:
        """Return the network slot, 0 where the record has none."""
        return self.record.slot or 0


def template_xml(xml: str) -> str:
    """Return a domain's definition for a guest that knows that it is to be saved; a disk's guest knows by its seed."""
    root = ET.fromstring(xml)  # noqa: S314 - our own definition
    command_line = root.find("os/cmdline")
    if command_line is None:
        return xml
    command_line.text = f"{command_line.text} {TEMPLATE_WORD}"
    return _text(root)


def why_not_cloned(xml: str) -> str:
    """Return why domains with this definition cannot be cloned; empty if they can."""
    boot = ET.fromstring(xml).find("os")  # noqa: S314 - our own definition
    if boot is not None and (boot.get("firmware") == "efi" or boot.find("nvram") is not None):
        return "domains with UEFI have variables of their own, which are not cloned"
    return ""


def clone_xml(saved: str, identity: CloneIdentity, disks: DomainDisks | None = None) -> str:
    """Return the definition to restore a clone with, from that in the template's save file.

    Args:
        saved: The template's.
        identity: Who the clone is.
        disks: Its own, where it has any.

    Raises:
        HypervisorError: the saved definition is no XML, or not one of a template of ours.
    """
    try:
        root = ET.fromstring(saved)  # noqa: S314 - libvirt's own text, checked by its length and by the file's digest
    except ET.ParseError as error:
        raise HypervisorError(f"the definition in the save file is not XML: {error}") from error
    if not _SEED.fullmatch(identity.seed):
        raise ValueError(f"seed must be 64 hexadecimal digits; got {identity.seed!r}")
    _part(root, "name").text = identity.name
    _part(root, "uuid").text = identity.record.uuid
    _part(root, "devices/interface/mac").set("address", identity.network.mac(identity.slot))
    _replace_record(root, identity.record)
    for device in ("serial", "console"):
        for source in root.findall(f"devices/{device}/source[@path]"):
            source.set("path", f"{identity.console_dir}/{identity.name}.log")
    if disks is not None:
        _replace_disks(root, disks)
    for channel in root.findall("devices/channel"):
        target, named = channel.find("target"), channel.find("source")
        if named is not None and target is not None and target.get("name") == AGENT_CHANNEL:
            channel.remove(named)  # libvirt names the socket after the domain
    for tag in ("kernel", "initrd", "cmdline"):  # the memory holds them: QEMU need not load them again
        for found in root.findall(f"os/{tag}"):
            _part(root, "os").remove(found)
    for old in root.findall("sysinfo[@type='fwcfg']"):
        root.remove(old)
    entry = ET.SubElement(ET.SubElement(root, "sysinfo", type="fwcfg"), "entry", name=FWCFG_ENTRY)
    entry.text = words(identity)
    return _text(root)


def words(identity: CloneIdentity) -> str:
    """Return what the guest reads about itself, in the form of the kernel's command line."""
    network, slot = identity.network, identity.slot
    return " ".join(
        (
            f"autoscaler.name={identity.guest_name or identity.name}",
            f"autoscaler.address={network.address(slot)}/{network.prefix_length}",
            f"autoscaler.gateway={network.gateway}",
            f"autoscaler.mac={network.mac(slot)}",
            f"autoscaler.epoch_ms={identity.epoch_ms}",
            f"autoscaler.seed={identity.seed}",
        )
    )


def snapshot_key(xml: str, accel: str, version: str, base: str = "") -> str:
    """Return the name of the snapshot that fits: another definition, host or version needs another.

    Args:
        xml: The template's definition with a name, UUID, slot and record that are always the same.
        accel: The libvirt domain type.
        version: Those of libvirt and QEMU.
        base: The identity of the disk image, and what else its guest is told; empty without one.
    """
    return hashlib.sha256(f"3 {accel} {version} {base}\n{xml}".encode()).hexdigest()[:16]


def _part(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise HypervisorError(f"the definition in the save file has no <{path}>")
    return found


def _replace_record(root: ET.Element, record: Record) -> None:
    metadata = _part(root, "metadata")
    member = f"{{{METADATA_URI}}}{METADATA_TAG}"
    for old in metadata.findall(member):
        metadata.remove(old)
    ET.SubElement(metadata, member, record.to_metadata())


def _replace_disks(root: ET.Element, disks: DomainDisks) -> None:
    for target, path in zip(OWN_DISKS, (disks.overlay, disks.seed), strict=True):
        disk = _part(root, f"devices/disk/target[@dev='{target}']/..")
        _part(disk, "source").set("file", path)
        for old in disk.findall("backingStore"):
            disk.remove(old)
        if path == disks.overlay:
            add_backing(disk, disks)


def _text(root: ET.Element) -> str:
    ET.register_namespace("qemu", QEMU_URI)
    ET.register_namespace(METADATA_PREFIX, METADATA_URI)
    return ET.tostring(root, encoding="unicode")
