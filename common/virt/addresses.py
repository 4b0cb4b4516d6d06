"""Where a user's domain may be reached: every address that a source tells, in the order in which they are tried.

Values only: ``common.hypervisor`` fills them in. What an agent or a lease says is text of a guest's: only what is an
address gets through, and of these at most ``MOST``.
"""

import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

MOST: Final = 16
NOT_THE_GUESTS: Final = (
    "docker", "veth", "br-", "virbr", "vnet", "cni", "flannel", "cali", "cilium", "weave", "kube", "podman", "lxc",
    "lxd", "tunl", "vxlan", "dummy", "tailscale", "wg",
)  # fmt: skip
"""How the names of interfaces begin that a guest makes for itself: their addresses mean nothing outside of it."""


class Source(StrEnum):
    """Who tells an address."""

    LEASE = "lease"
    ARP = "arp"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Rule:
    """How the addresses of a group's domains are found.

    ``network``: a libvirt network whose interfaces alone count, or a CIDR that the address must be in; empty for any.
    """

    source: Source
    network: str = ""

    @property
    def cidr(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """Return the range that the address must be in, None if any will do."""
        return ipaddress.ip_network(self.network) if "/" in self.network else None

    @property
    def libvirt_network(self) -> str:
        """Return the libvirt network that the interface must be on, empty if any will do."""
        return "" if "/" in self.network else self.network


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface as the domain's definition has it; ``network`` is libvirt's, or empty."""

    mac: str
    network: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address that a source tells. ``expires_s``: when its lease ends (epoch seconds); None: never, or unknown."""

    address: str
    mac: str
    expires_s: float | None = None


def nics_in(xml: str, network: str = "") -> tuple[Nic, ...]:
    """Return the interfaces of a domain's definition in its order: all, or those on one libvirt network.

    >>> nics_in("<domain><devices><interface><mac address='52:54:00:AA:00:01'/><source network='lan'/></interface>"
    ...         "</devices></domain>")
    (Nic(mac='52:54:00:aa:00:01', network='lan'),)
    """
    found = [_nic(interface) for interface in ET.fromstring(xml).iterfind("devices/interface")]  # noqa: S314 - libvirt's
    return tuple(nic for nic in found if nic.mac and network in ("", nic.network))


def leased(mac: str, leases: Iterable[Mapping[str, Any]]) -> list[Candidate]:
    """Return what libvirt's leases of a MAC say; one that never ends has 0 as its end."""
    return [Candidate(str(lease["ipaddr"]), mac, float(lease.get("expirytime") or 0) or None) for lease in leases]


def told_by_agent(interfaces: Mapping[str, Mapping[str, Any]], nics: Collection[Nic]) -> list[Candidate]:
    """Return what a guest's agent says of its interfaces: not of its loopback, nor of what it has made for itself.

    An interface with a MAC of the definition is the guest's way out, whatever its name.
    """
    known = {nic.mac for nic in nics}
    found = []
    for name, interface in interfaces.items():
        mac = str(interface.get("hwaddr") or "").lower()
        if name != "lo" and (mac in known or not name.startswith(NOT_THE_GUESTS)):
            found += [Candidate(str(address["addr"]), mac) for address in interface.get("addrs") or ()]
    return found


def ranked(candidates: Iterable[Candidate], nics: Sequence[Nic], rule: Rule) -> tuple[Candidate, ...]:
    """Return the candidates that can be the domain's, each address once, the best first.

    IPv4 before IPv6; then by interfaces in the order of the definition, those it does not name last (never, where the
    rule names a libvirt network); then the lease that ends last, for it was given last.
    """
    order = {nic.mac: index for index, nic in enumerate(nics)}
    usable = [each for each in candidates if _is_usable(each, order, rule)]
    usable.sort(key=lambda each: _rank(each, order))
    best = {each.address: each for each in reversed(usable)}
    return tuple(each for each in usable if best[each.address] is each)[:MOST]


def remark(candidates: Sequence[Candidate], source: Source) -> str:
    """Return what an operator should know: that a MAC has several leases; empty if there is nothing."""
    by_mac: dict[str, list[str]] = {}
    for each in candidates if source is Source.LEASE else ():
        by_mac.setdefault(each.mac, []).append(each.address)
    several = [f"{len(found)} leases for {mac}: {', '.join(found)}" for mac, found in by_mac.items() if len(found) > 1]
    return "; ".join(several)


def _nic(interface: ET.Element) -> Nic:
    mac, source = interface.find("mac"), interface.find("source")
    address = "" if mac is None else mac.get("address", "").lower()
    return Nic(address, "" if source is None else source.get("network", ""))


def _is_usable(candidate: Candidate, order: Mapping[str, int], rule: Rule) -> bool:
    try:
        address = ipaddress.ip_address(candidate.address)
    except ValueError:
        return False
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return False
    if rule.libvirt_network and candidate.mac not in order:
        return False
    return rule.cidr is None or address in rule.cidr


def _rank(candidate: Candidate, order: Mapping[str, int]) -> tuple[int, int, float, str]:
    ends_s = float("inf") if candidate.expires_s is None else candidate.expires_s
    version = ipaddress.ip_address(candidate.address).version
    return (
        version,
        order.get(candidate.mac, len(order)),
        -ends_s,
        "" if candidate.expires_s is None else candidate.address,
    )
