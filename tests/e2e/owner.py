"""Domains as their owner made them by hand, on a network of their owner's, and what owners do with a domain.

Nothing in these domains knows of us.
"""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt

NETWORK_XML = """
<network>
  <name>{name}-own</name>
  <forward mode="nat"/>
  <bridge name="{name}br" stp="off" delay="0"/>
  <ip address="192.168.{subnet}.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.{subnet}.50" end="192.168.{subnet}.99"/></dhcp>
  </ip>
</network>
"""
CONFIG = """
[system]
run_dir = "{run_dir}"
state_dir = "{state_dir}"

[groups.{group}]
kind = "existing"
prefix = "{name}-"
min = {minimum}
max = 3
endpoint = "127.0.0.1:{port}"
address_source = "lease"
port = 8080
cooldown_in_s = 2.0
{extra}

[groups.{group}.readiness]
identity = true
"""


def domain_xml(name: str, images: Path, network: str) -> str:
    """Return a domain that boots the demo guest, as its owner would write it."""
    manifest = json.loads((images / "manifest.json").read_text(encoding="utf-8"))
    root = ET.fromstring("<domain type='qemu'><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = "128"
    boot = root.find("os")
    assert boot is not None
    for tag, text in (
        ("kernel", str(images / manifest["kernel"]["file"])),
        ("initrd", str(images / manifest["initramfs"]["file"])),
        ("cmdline", f"{manifest['kernel_arguments']} autoscaler.name={name}"),
    ):
        ET.SubElement(boot, tag).text = text
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    nic = ET.SubElement(ET.SubElement(root, "devices"), "interface", type="network")
    ET.SubElement(nic, "source", network=network)
    ET.SubElement(nic, "model", type="virtio")
    return ET.tostring(root, encoding="unicode")


@contextmanager
def own_domains(
    connection: libvirt.virConnect, images: Path, name: str, subnet: int, count: int, running: int = 1
) -> Iterator[list[libvirt.virDomain]]:
    """Define ``NAME-0000`` and up, the first ones running; take them and their network away at the end."""
    copies = Path(f"/var/tmp/{name}-images")
    shutil.copytree(images, copies, dirs_exist_ok=True)
    network = connection.networkDefineXML(NETWORK_XML.format(name=name, subnet=subnet))
    network.create()
    names = [f"{name}-{index:04d}" for index in range(count)]
    domains = [connection.defineXML(domain_xml(each, copies, f"{name}-own")) for each in names]
    for domain in domains[:running]:
        domain.create()
    try:
        yield domains
    finally:
        for domain in domains:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
        network.destroy()
        network.undefine()
        shutil.rmtree(copies)


@contextmanager
def suspended(domain: libvirt.virDomain) -> Iterator[None]:
    """Keep the domain suspended for as long as the body takes."""
    domain.suspend()
    try:
        yield
    finally:
        with suppress(libvirt.libvirtError):  # it has lost its power, which is told elsewhere
            domain.resume()


def dump_memory(domain: libvirt.virDomain, place: Path) -> None:
    """Do what ``virsh dump --memory-only`` does."""
    form = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW
    domain.coreDumpWithFormat(f"{place}/dump", form, libvirt.VIR_DUMP_MEMORY_ONLY)
