"""A group of domains that the user made beforehand: started and stopped, never defined nor undefined."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.e2e.world import World, wait_until

NETWORK = "asex-own"
PREFIX = "asex-"
MISSING = f"1 more wanted, but no other domain named {PREFIX}0000 and up exists"
NETWORK_XML = f"""
<network>
  <name>{NETWORK}</name>
  <forward mode="nat"/>
  <bridge name="asexbr" stp="off" delay="0"/>
  <ip address="192.168.175.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.175.50" end="192.168.175.99"/></dhcp>
  </ip>
</network>
"""
CONFIG = """
[system]
run_dir = "{run_dir}"
state_dir = "{state_dir}"

[groups.own]
kind = "existing"
prefix = "asex-"
min = 1
max = 3
endpoint = "127.0.0.1:{port}"
address_source = "lease"
port = 8080
cooldown_in_s = 2.0

[groups.own.readiness]
identity = true
"""


def domain_xml(name: str, images: Path) -> str:
    """Return a domain as its owner would write it: nothing in it knows of us."""
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
    ET.SubElement(nic, "source", network=NETWORK)
    ET.SubElement(nic, "model", type="virtio")
    return ET.tostring(root, encoding="unicode")


@pytest.fixture(scope="module")
def connection() -> Iterator[libvirt.virConnect]:
    connection = libvirt.open("qemu:///system")
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def own_domains(
    connection: libvirt.virConnect, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[libvirt.virDomain]]:
    """Define two domains, the first of them running, on a network of their owner's."""
    copies = Path("/var/tmp/asex-images")
    shutil.copytree(images, copies, dirs_exist_ok=True)
    network = connection.networkDefineXML(NETWORK_XML)
    network.create()
    domains = [connection.defineXML(domain_xml(f"{PREFIX}{index:04d}", copies)) for index in range(2)]
    domains[0].create()
    yield domains
    for domain in domains:
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    network.destroy()
    network.undefine()
    shutil.rmtree(copies)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], own_domains: list[libvirt.virDomain]) -> World:
    """Return an installation that runs that group alone."""
    world = make_world("asex", 5)
    world.config.write_text(
        CONFIG.format(run_dir=world.run_dir, state_dir=world.state_dir, port=world.port), encoding="utf-8"
    )
    world.autoscaler("up")
    return world


def phases(world: World) -> dict[str, str]:
    """Return the phase of every domain by name."""
    return {domain["name"]: domain["phase"] for domain in world.group("own")["domains"]}


def test_a_running_domain_is_adopted_without_a_restart(world: World, own_domains: list[libvirt.virDomain]) -> None:
    wait_until(lambda: phases(world).get("asex-0000") == "ready", 30, "its record, which follows the endpoint's answer")
    assert world.get("/healthz")[:2] == (200, "asex-0000")
    assert not own_domains[1].isActive()


def test_the_group_grows_by_starting_what_is_there(world: World, own_domains: list[libvirt.virDomain]) -> None:
    world.autoscaler("scale", "2")
    wait_until(lambda: phases(world).get("asex-0001") == "ready", 90, "the second domain in rotation")
    assert own_domains[1].isActive()


def test_more_than_exist_is_reported_not_made(world: World) -> None:
    world.autoscaler("scale", "3")
    wait_until(lambda: MISSING in (world.group("own")["blocked"] or ""), 15, "a word about the missing third domain")
    assert world.domains() == ["asex-0000", "asex-0001"]
    world.autoscaler("scale", "2")


def test_the_group_shrinks_by_shutting_down_and_keeps_the_definition(
    world: World, own_domains: list[libvirt.virDomain]
) -> None:
    world.autoscaler("scale", "1")
    wait_until(lambda: sum(domain.isActive() for domain in own_domains) == 1, 60, "one domain shut down")
    assert world.domains() == ["asex-0000", "asex-0001"]


def test_down_leaves_the_owners_domains_as_they_are(world: World, own_domains: list[libvirt.virDomain]) -> None:
    before = [domain.isActive() for domain in own_domains]
    world.autoscaler("down")
    assert [domain.isActive() for domain in own_domains] == before
    assert not any(
        "autoscaler" in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).split("cmdline")[0] for domain in own_domains
    )
