"""The network of template domains: what its definition says, and when two are the same."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from common.config import Network
from common.errors import HypervisorError
from common.network_xml import DNSMASQ, has_dns, host_xml, network_uuid, network_xml, shape

NETWORK = Network(slots=3)
AS_LIBVIRT_SHOWS_IT = f"""
<network connections='2'>
  <name>autoscaler</name>
  <uuid>{network_uuid("autoscaler")}</uuid>
  <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
  <bridge name='asbr0' stp='off' delay='0'/>
  <mac address='52:54:00:aa:bb:cc'/>
  <ip address='192.168.150.1' netmask='255.255.255.0'>
    <dhcp>
      <host mac='{NETWORK.mac(2)}' ip='192.168.150.12'/>
      <host mac='{NETWORK.mac(0)}' ip='192.168.150.10'/>
      <host mac='{NETWORK.mac(1)}' ip='192.168.150.11'/>
    </dhcp>
  </ip>
</network>"""


def test_stp_is_off_so_that_a_new_port_forwards_at_once() -> None:
    bridge = ET.fromstring(network_xml(NETWORK)).find("bridge")
    assert bridge is not None and bridge.attrib == {"name": "asbr0", "stp": "off", "delay": "0"}


def test_every_slot_has_a_reservation_and_there_is_no_range() -> None:
    found = shape(network_xml(NETWORK))
    assert found.hosts == {(NETWORK.mac(slot), NETWORK.address(slot)) for slot in range(3)}
    assert not found.has_range


def test_it_needs_no_port_53_and_tells_name_servers_by_dhcp_alone() -> None:
    assert not has_dns(network_xml(NETWORK))
    told = network_xml(NETWORK, ("192.0.2.1", "192.0.2.2"))
    values = [option.get("value") for option in ET.fromstring(told).iter(f"{{{DNSMASQ}}}option")]
    assert values == ["dhcp-option=option:dns-server,192.0.2.1,192.0.2.2"]
    assert DNSMASQ not in network_xml(NETWORK)


def test_a_network_of_an_older_release_is_as_good_as_one_without_dns() -> None:
    assert has_dns(AS_LIBVIRT_SHOWS_IT)
    assert shape(AS_LIBVIRT_SHOWS_IT) == shape(network_xml(NETWORK, ("192.0.2.1",)))


def test_what_libvirt_shows_has_the_shape_of_what_we_wrote() -> None:
    assert shape(AS_LIBVIRT_SHOWS_IT) == shape(network_xml(NETWORK))


@pytest.mark.parametrize(
    "other",
    [
        Network(slots=4),
        Network(slots=3, bridge="other0"),
        Network(slots=3, subnet="192.168.151.0/24"),
        Network(slots=3, subnet="192.168.150.0/25"),
        Network(slots=3, name="other"),
    ],
)
def test_a_changed_setting_changes_the_shape(other: Network) -> None:
    assert shape(network_xml(other)) != shape(network_xml(NETWORK))


def test_a_range_or_stp_set_by_hand_is_a_difference() -> None:
    ours = shape(network_xml(NETWORK))
    assert shape(AS_LIBVIRT_SHOWS_IT.replace("<dhcp>", "<dhcp><range start='a' end='b'/>")) == replace(
        ours, has_range=True
    )
    assert shape(AS_LIBVIRT_SHOWS_IT.replace("stp='off'", "stp='on'")) == replace(ours, has_stp=True)


def test_a_network_of_another_kind_has_a_shape_too() -> None:
    assert shape("<network><name>x</name></network>").address == ""


def test_a_text_that_is_no_xml_is_refused() -> None:
    with pytest.raises(HypervisorError, match="not XML"):
        shape("<network")


def test_a_reservation_names_mac_and_address() -> None:
    assert ET.fromstring(host_xml("52:54:00:00:00:01", "192.168.150.10")).attrib == {
        "mac": "52:54:00:00:00:01",
        "ip": "192.168.150.10",
    }
