"""The XML of a template domain, built as a tree: no value can break out of its place.

It boots a kernel and an initramfs directly, has no disk, and learns name, address and port from the kernel's command
line; or it boots from its own overlay over a disk image, and learns them from a seed. The record is inside from the
first moment, so that a domain of ours is never without its mark.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

from common import names
from common.config import Group, Network
from common.domain import AGENT_CHANNEL, METADATA_PREFIX, METADATA_TAG, METADATA_URI
from services.actuator.core import extra_xml
from services.actuator.core.disks import DomainDisks
from services.actuator.core.record import Record
from services.actuator.core.seen import Template

QUOTA_PERIOD_US: Final = 100_000
TB_CACHE_MIB: Final = 32
DISK_TB_CACHE_MIB: Final = 128  # a whole distribution
PLAIN_ARGUMENTS: Final = "console=ttyS0 quiet panic=-1"
OWN_DISKS: Final = ("vda", "vdb")
QEMU_URI: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
# Note [Start without asking each CPU property]
# libvirt asks a new QEMU for every property of its CPU, some 300 questions that QEMU reads byte by byte: 505 ms for a
# start against 150 ms without them (medians of 8, libvirt 9.0, QEMU 7.2). Without this capability it asks for the
# feature words, as it did before libvirt 4.4. The domain's log says "tainted: custom-hypervisor-feature".
ASKED_FOR_EACH_PROPERTY: Final = "cpu-unavailable-features"


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """All that one template domain is made from; ``disks`` where it boots from an image."""

    name: str
    uuid: str
    record: Record
    accel: str
    group: Group
    network: Network
    template: Template
    disks: DomainDisks | None = None


def domain_xml(spec: DomainSpec) -> str:
    """Return the definition of the domain, clean under libvirt's schema.

    Raises:
        ValueError: the name breaks the rule for names, the record has no slot, or a value cannot stand in XML.
    """
    slot = _checked_slot(spec)
    root = ET.Element("domain", type=spec.accel)
    _text(root, "name", spec.name)
    _text(root, "uuid", spec.uuid)
    _metadata(root, spec.record)
    _text(root, "memory", str(spec.group.image.memory_mib), unit="MiB")
    _text(root, "vcpu", str(spec.group.image.vcpus))
    if not spec.record.is_boosted:
        _quota(root, spec.group.image.cpu_quota)
    _boot(root, spec, slot)
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if spec.accel == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
    else:
        cache_mib = TB_CACHE_MIB if spec.disks is None else DISK_TB_CACHE_MIB
        _text(ET.SubElement(features, "tcg"), "tb-cache", str(cache_mib), unit="MiB")
    on_reboot = "destroy" if spec.disks is None else "restart"  # an image's first boot may end in a second one
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", on_reboot), ("on_crash", "destroy")):
        _text(root, event, action)
    _devices(root, spec, slot)
    start_lean(root)
    if spec.template.extra is not None:
        extra_xml.merge(root, spec.template.extra)
    return ET.tostring(root, encoding="unicode")


def kernel_command_line(name: str, group: Group, network: Network, slot: int, arguments: str = "") -> str:
    """Return the image's own arguments and what the guest learns: its name, its address, its gateway, its port."""
    words = [
        *(arguments or PLAIN_ARGUMENTS).split(),
        f"autoscaler.name={name}",
        f"autoscaler.address={network.address(slot)}/{network.prefix_length}",
        f"autoscaler.gateway={network.gateway}",
        f"autoscaler.port={group.port}",
    ]
    return " ".join(words)


def start_lean(root: ET.Element) -> None:
    """Spare the start most of libvirt's questions to QEMU; see Note [Start without asking each CPU property]."""
    ET.register_namespace("qemu", QEMU_URI)
    capabilities = ET.SubElement(root, f"{{{QEMU_URI}}}capabilities")
    ET.SubElement(capabilities, f"{{{QEMU_URI}}}del", capability=ASKED_FOR_EACH_PROPERTY)


def _checked_slot(spec: DomainSpec) -> int:
    if not names.DOMAIN_NAME.fullmatch(spec.name):
        raise ValueError(f"a domain's name must match {names.DOMAIN_NAME.pattern}; got {spec.name!r}")
    slot = spec.record.slot
    if slot is None or not 0 <= slot < spec.network.slots:
        raise ValueError(f"slot must be in 0..{spec.network.slots - 1}; got {slot}")
    for value in (
        *spec.record.to_metadata().values(),
        spec.template.kernel,
        spec.template.initrd,
        spec.template.arguments,
    ):
        if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in value):
            raise ValueError(f"control characters cannot stand in XML; got {value!r}")
    return slot


def _metadata(root: ET.Element, record: Record) -> None:
    metadata = ET.SubElement(root, "metadata")
    ET.register_namespace(METADATA_PREFIX, METADATA_URI)
    ET.SubElement(metadata, f"{{{METADATA_URI}}}{METADATA_TAG}", record.to_metadata())


def _quota(root: ET.Element, cpu_quota: float) -> None:
    if cpu_quota >= 1:
        return
    cputune = ET.SubElement(root, "cputune")
    _text(cputune, "period", str(QUOTA_PERIOD_US))
    _text(cputune, "quota", str(max(1000, round(cpu_quota * QUOTA_PERIOD_US))))


def _boot(root: ET.Element, spec: DomainSpec, slot: int) -> None:
    boot = ET.SubElement(root, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine=spec.group.image.machine)
    if spec.disks is not None:
        ET.SubElement(boot, "boot", dev="hd")
        return
    _text(boot, "kernel", spec.template.kernel)
    _text(boot, "initrd", spec.template.initrd)
    _text(boot, "cmdline", kernel_command_line(spec.name, spec.group, spec.network, slot, spec.template.arguments))


def _devices(root: ET.Element, spec: DomainSpec, slot: int) -> None:
    devices = ET.SubElement(root, "devices")
    if spec.disks is not None:
        _disks(devices, spec.disks)
    if spec.disks is not None or spec.group.readiness.protocol == "agent":
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)
    nic = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(nic, "mac", address=spec.network.mac(slot))
    ET.SubElement(nic, "source", network=spec.network.name)
    ET.SubElement(nic, "model", type="virtio")
    ET.SubElement(nic, "rom", enabled="no")  # it would look for a boot server that nobody asks
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    if spec.template.console_dir:
        serial = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(serial, "source", path=f"{spec.template.console_dir}/{spec.name}.log")
    # Without these libvirt adds a USB controller and a memory balloon that a guest of this kind only pays for.
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")


def _disks(devices: ET.Element, disks: DomainDisks) -> None:
    """Add the overlay and, read-only, the seed. libvirt would change the owner of what is below: it is told not to."""
    overlay = _disk(devices, OWN_DISKS[0], "qcow2", disks.overlay)
    add_backing(overlay, disks)
    seed = _disk(devices, OWN_DISKS[1], "raw", disks.seed)
    ET.SubElement(seed, "readonly")


def add_backing(disk: ET.Element, disks: DomainDisks) -> None:
    """Say what the overlay stands on, down to the image."""
    for path, kind in disks.backing:
        backing = ET.SubElement(disk, "backingStore", type="file")
        ET.SubElement(backing, "format", type=kind)
        source = ET.SubElement(backing, "source", file=path)
        ET.SubElement(source, "seclabel", model="dac", relabel="no")
        disk = backing
    ET.SubElement(disk, "backingStore")


def _disk(devices: ET.Element, target: str, kind: str, path: str) -> ET.Element:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=kind, discard="unmap")
    ET.SubElement(disk, "source", file=path)
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    return disk


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
