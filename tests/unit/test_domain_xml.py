"""The XML of template domains: whole, and closed to hostile values."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Group, Image, Network
from common.domain import METADATA_TAG, METADATA_URI
from common.phases import Phase
from services.actuator.core.domain_xml import QEMU_URI, DomainSpec, domain_xml, kernel_command_line
from services.actuator.core.record import Record, parse
from services.actuator.core.seen import Template

GROUP = Group.model_validate({"prefix": "web-", "image": Image(cpu_quota=0.4, memory_mib=128)})
NETWORK = Network(name="autoscaler", subnet="192.168.150.0/24")
RECORD = Record(
    group="web", uuid="u", host="local", phase=Phase.CREATING, since_mono_s=1.5, since_s=2.5, boot_id="b", slot=3
)
SPEC = DomainSpec("web-0003", "u", RECORD, "qemu", GROUP, NETWORK, Template("/k", "/i", "d1", console_dir="/c"))


def tree(spec: DomainSpec = SPEC) -> ET.Element:
    return ET.fromstring(domain_xml(spec))


def test_record_is_inside_from_the_first_moment() -> None:
    element = tree().find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
    assert element is not None and parse(element.attrib) == RECORD


def test_guest_learns_who_and_where_it_is_from_the_command_line() -> None:
    words = (tree().findtext("os/cmdline") or "").split()
    assert words[-4:] == [
        "autoscaler.name=web-0003",
        "autoscaler.address=192.168.150.13/24",
        "autoscaler.gateway=192.168.150.1",
        "autoscaler.port=8080",
    ]


def test_mac_is_that_of_the_slot() -> None:
    mac = tree().find("devices/interface/mac")
    assert mac is not None and mac.get("address") == NETWORK.mac(3)


def test_quota_is_set_unless_the_domain_boots_without_it() -> None:
    assert tree().findtext("cputune/quota") == "40000"
    assert tree(replace(SPEC, record=replace(RECORD, is_boosted=True))).find("cputune") is None


def test_a_start_is_spared_the_question_for_each_cpu_property() -> None:
    asked = tree().find(f"{{{QEMU_URI}}}capabilities/{{{QEMU_URI}}}del")
    assert asked is not None and asked.get("capability") == "cpu-unavailable-features"


def test_domain_type_is_the_one_that_was_chosen() -> None:
    assert tree(replace(SPEC, accel="kvm")).get("type") == "kvm"
    assert tree(replace(SPEC, accel="kvm")).find("features/tcg") is None


@pytest.mark.parametrize("name", ["a;b", "</name>", "", "-x", "web 1", "x" * 60, "web\n0001"])
def test_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a domain's name must match"):
        domain_xml(replace(SPEC, name=name))


@pytest.mark.parametrize("slot", [None, -1, 200])
def test_slot_outside_the_network_is_refused(slot: int | None) -> None:
    with pytest.raises(ValueError, match="slot must be in"):
        domain_xml(replace(SPEC, record=replace(RECORD, slot=slot)))


def test_control_character_is_refused() -> None:
    with pytest.raises(ValueError, match="control characters"):
        domain_xml(replace(SPEC, record=replace(RECORD, cause="a\x00b")))


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=40))
def test_no_value_breaks_out_of_its_place(text: str) -> None:
    spec = replace(SPEC, record=replace(RECORD, cause=text, note=text))
    try:
        root = tree(spec)
    except ValueError:
        return
    element = root.find(f"metadata/{{{METADATA_URI}}}{METADATA_TAG}")
    assert element is not None and element.get("cause") == text and len(root.findall("devices")) == 1


def test_command_line_never_holds_a_space_inside_a_value() -> None:
    assert kernel_command_line("web-0003", GROUP, NETWORK, 3).count("autoscaler.") == 4
