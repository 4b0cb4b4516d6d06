"""A user's XML in the definition: merged as a tree, errors with file and line, nothing of ours touched."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from services.actuator.core.disks import Disk, DomainDisks
from services.actuator.core.domain_xml import OWN_DISKS, domain_xml
from services.actuator.core.extra_xml import ExtraXmlError, check
from services.actuator.core.seen import Template
from tests.unit.test_domain_xml import NETWORK, SPEC


def merged(text: str) -> ET.Element:
    extra = check(text, "more.xml", NETWORK, OWN_DISKS)
    return ET.fromstring(domain_xml(replace(SPEC, template=replace(SPEC.template, extra=extra))))


def test_what_has_no_partner_is_added_and_what_has_one_is_changed() -> None:
    root = merged("<domain><cpu mode='maximum'/><features><acpi/><hyperv mode='passthrough'/></features></domain>")
    assert [cpu.get("mode") for cpu in root.findall("cpu")] == ["maximum"]
    assert len(root.findall("features")) == len(root.findall("features/acpi")) == 1
    assert root.find("features/hyperv") is not None and root.find("features/tcg") is not None


def test_devices_without_identity_are_added_and_single_ones_changed() -> None:
    root = merged(
        "<domain><devices><rng model='virtio'><backend model='builtin'/></rng><rng model='virtio'/>"
        "<memballoon model='virtio'/></devices></domain>"
    )
    assert len(root.findall("devices/rng")) == 3
    assert [balloon.get("model") for balloon in root.findall("devices/memballoon")] == ["virtio"]


def test_of_two_boot_devices_none_is_lost_and_their_order_is_the_files() -> None:
    disks = DomainDisks("/p/overlay", "/p/seed", "/srv/base.qcow2", "qcow2")
    extra = check("<domain><os><boot dev='network'/><boot dev='hd'/></os></domain>", "more.xml", NETWORK, OWN_DISKS)
    spec = replace(SPEC, disks=disks, template=Template("", "", "d", disk=Disk("/srv/base.qcow2"), extra=extra))
    assert [boot.get("dev") for boot in ET.fromstring(domain_xml(spec)).iterfind("os/boot")] == ["network", "hd"]


@pytest.mark.parametrize("index", ["", " index='0'"])
def test_a_controller_without_an_index_is_the_first_of_its_type(index: str) -> None:
    root = merged(f"<domain><devices><controller type='usb' model='qemu-xhci'{index}/></devices></domain>")
    assert [found.get("model") for found in root.iterfind("devices/controller[@type='usb']")] == ["qemu-xhci"]


def test_two_new_controllers_of_a_type_stay_two() -> None:
    controllers = "<controller type='scsi' model='virtio-scsi'/><controller type='scsi' index='1'/>"
    root = merged(f"<domain><devices>{controllers}</devices></domain>")
    assert len(root.findall("devices/controller[@type='scsi']")) == 2


def test_a_disk_of_another_target_is_added_and_two_alike_stay_two() -> None:
    disk = "<disk type='file'><source file='/d'/><target dev='vdc'/></disk>"
    assert len(merged(f"<domain><devices>{disk}{disk}</devices></domain>").findall("devices/disk")) == 2


def test_a_namespace_of_libvirt_survives() -> None:
    root = merged(
        "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:commandline>"
        "<qemu:arg value='-d'/><qemu:arg value='guest_errors'/></qemu:commandline></domain>"
    )
    arguments = root.findall(".//{http://libvirt.org/schemas/domain/qemu/1.0}arg")
    assert [argument.get("value") for argument in arguments] == ["-d", "guest_errors"]


def test_merging_nothing_changes_nothing() -> None:
    assert ET.tostring(merged("<domain/>")) == ET.tostring(ET.fromstring(domain_xml(SPEC)))


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("<name>x</name>", "more.xml:2: <name> is not for this file"),
        ("\n\n<uuid>u</uuid>", "more.xml:4: <uuid> is not for this file"),
        ("<memory>1</memory>", "image.memory_mib"),
        ("<vcpu>4</vcpu>", "image.vcpus"),
        ("<os><type machine='q35'/></os>", "image.machine"),
        ("<cputune><quota>1</quota></cputune>", "image.cpu_quota"),
        ("<on_poweroff>restart</on_poweroff>", "is to be gone"),
        ("<metadata><m:member xmlns:m='urn:libvirt-autoscaler:domain:1'/></metadata>", "our own record"),
        ("<devices><disk><target dev='vda'/></disk></devices>", "target dev other than vda and vdb"),
        ("<devices><disk/></devices>", "target dev other than"),
        (f"<devices><interface><mac address='{NETWORK.mac(7).upper()}'/></interface></devices>", "of the slots"),
        ("<devices><channel><target name='org.qemu.guest_agent.0'/></channel></devices>", "is there already"),
    ],
)
def test_what_is_ours_is_refused_with_file_and_line(body: str, part: str) -> None:
    with pytest.raises(ExtraXmlError) as error:
        check(f"<domain>\n{body}</domain>", "more.xml", NETWORK, OWN_DISKS)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("<domain>\n<cpu></domain>", "more.xml:2: not XML: mismatched tag"),
        ("", "not XML: no element found"),
        ("<network/>", "more.xml:1: the root must be <domain>"),
        ("<domain type='kvm'/>", "must have no attributes"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]>\n<domain>&a;</domain>", "more.xml:1: a DTD is not allowed"),
    ],
)
def test_a_file_that_is_no_definition_is_refused(text: str, part: str) -> None:
    with pytest.raises(ExtraXmlError) as error:
        check(text, "more.xml", NETWORK, OWN_DISKS)
    assert part in str(error.value)
