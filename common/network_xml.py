"""The libvirt network of template domains, as XML: pure, built with ElementTree, compared by what we set.

Every slot has a fixed MAC and address, and there is no dynamic range: dnsmasq then neither pings an address before
it offers it, nor runs out of leases that outlived their domains. STP is off, so that a new port forwards at once.

# Note [No DNS of ours]
dnsmasq's DNS would need port 53 of the bridge's address, which a resolver of the host's own may hold. So there is none:
guests are told the host's resolvers, in their seeds and by DHCP. A network that an older release made keeps its DNS for
as long as it can be started: guests of that time ask it.
"""

import ipaddress
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.config import Network
from common.errors import HypervisorError

DNSMASQ: Final = "http://libvirt.org/schemas/network/dnsmasq/1.0"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:libvirt-autoscaler:network:1")


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What we set in a network; two networks with equal shapes do the same."""

    name: str
    uuid: str
    forward: str
    bridge: str
    has_stp: bool
    delay: str
    address: str
    hosts: frozenset[tuple[str, str]]  # (MAC, IPv4 address)
    has_range: bool


def network_uuid(name: str) -> str:
    """Return the UUID by which a network of ours is recognised: the same for the same name, anywhere.

    >>> network_uuid("autoscaler") == network_uuid("autoscaler") != network_uuid("other")
    True
    """
    return str(uuid.uuid5(_NAMESPACE, name))


def network_xml(network: Network, name_servers: Sequence[str] = ()) -> str:
    """Return the definition of ``network``: NAT, a bridge of its own, one reservation a slot.

    Args:
        network: what is configured.
        name_servers: those that DHCP tells, by address; see Note [No DNS of ours].
    """
    root = ET.Element("network")
    ET.SubElement(root, "name").text = network.name
    ET.SubElement(root, "uuid").text = network_uuid(network.name)
    ET.SubElement(root, "forward", mode="nat")
    ET.SubElement(root, "bridge", name=network.bridge, stp="off", delay="0")
    ET.SubElement(root, "dns", enable="no")
    ip = ET.SubElement(root, "ip", address=network.gateway, prefix=str(network.prefix_length))
    dhcp = ET.SubElement(ip, "dhcp")
    for slot in range(network.slots):
        ET.SubElement(dhcp, "host", mac=network.mac(slot), ip=network.address(slot))
    if name_servers:
        options = ET.SubElement(root, f"{{{DNSMASQ}}}options")
        told = f"dhcp-option=option:dns-server,{','.join(name_servers)}"
        ET.SubElement(options, f"{{{DNSMASQ}}}option", value=told)
    return ET.tostring(root, encoding="unicode")


def shape(text: str) -> NetworkShape:
    """Return what the definition ``text`` sets, whether we wrote it or libvirt did.

    Raises:
        HypervisorError: the text is no definition of a network.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - our own text, or libvirt's
    except ET.ParseError as error:
        raise HypervisorError(f"a network's definition is not XML: {error}") from error
    forward, bridge, ip = (_find(root, tag) for tag in ("forward", "bridge", "ip"))
    return NetworkShape(
        name=root.findtext("name") or "",
        uuid=root.findtext("uuid") or "",
        forward=forward.get("mode", ""),
        bridge=bridge.get("name", ""),
        has_stp=bridge.get("stp", "on") == "on",
        delay=bridge.get("delay", "0"),
        address=_interface(ip),
        hosts=frozenset((host.get("mac", ""), host.get("ip", "")) for host in ip.findall("dhcp/host")),
        has_range=ip.find("dhcp/range") is not None,
    )


def has_dns(text: str) -> bool:
    """Return whether a network of this definition answers DNS: libvirt's default.

    >>> has_dns("<network/>"), has_dns("<network><dns enable='no'/></network>")
    (True, False)
    """
    dns = ET.fromstring(text).find("dns")  # noqa: S314 - libvirt's own text
    return dns is None or dns.get("enable", "yes") != "no"


def host_xml(mac: str, address: str) -> str:
    """Return the reservation of one slot, as libvirt's live update of a network takes it."""
    return ET.tostring(ET.Element("host", mac=mac, ip=address), encoding="unicode")


def _find(root: ET.Element, tag: str) -> ET.Element:
    found = root.find(tag)
    return ET.Element(tag) if found is None else found


def _interface(ip: ET.Element) -> str:
    """Return ``address/prefix``; libvirt writes back a netmask or a prefix, as it was given."""
    width = ip.get("prefix") or ip.get("netmask")
    return str(ipaddress.IPv4Interface(f"{ip.get('address')}/{width}")) if width else ""
