"""What the kernel says about networks on this host: routes, bridges, forwarding, firewall."""

import ipaddress
import shutil
import socket
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from cli.doctor.facts import BridgeFacts, Chain, Net, NetworkFacts, UserNetFacts
from cli.doctor.firewall import chains_of_iptables, chains_of_nft
from cli.doctor.gather_libvirt import HostView, name_of
from common.config import Network

PATIENCE_S: Final = 10.0
_ROUTES: Final = Path("/proc/net/route")
_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
_INTERFACES: Final = Path("/sys/class/net")


def network_facts(network: Network, view: HostView) -> NetworkFacts:
    """Return what libvirt and, where the host is this machine, the kernel show of and around our network."""
    xml, is_active = view.network(network.name)
    is_here = view.libvirt.is_local
    return NetworkFacts(
        xml=xml,
        is_active=is_active,
        others=view.other_networks(network.name),
        routes=routes(_ROUTES.read_text(encoding="ascii")) if is_here else (),
        bridge=bridge_facts(network.bridge) if is_here else None,
        is_forwarding=is_forwarding() if is_here else None,
        chains=chains() if is_here else None,
    )


def user_networks(view: HostView, groups: Collection[str]) -> list[UserNetFacts]:
    """Return what NICs of the groups' domains are plugged into, as libvirt and, if it is here, the kernel show it."""
    plugged: dict[tuple[str, str], dict[str, str]] = {}
    nics = [(nic, domain.facts.name) for domain in view.owned if domain.group in groups for nic in domain.nics]
    for nic, domain in nics:
        if nic.network or nic.bridge:
            plugged.setdefault((nic.network, nic.bridge), {})[nic.mac] = domain
    firewall = chains() if plugged and view.libvirt.is_local else None
    return [
        _user_network(view, name, macs, firewall) if name else _user_bridge(view, bridge)
        for (name, bridge), macs in sorted(plugged.items())
    ]


def _user_bridge(view: HostView, name: str) -> UserNetFacts:
    if not view.libvirt.is_local:
        return UserNetFacts("", name, is_there=True, is_active=True, has_stp=None)
    seen = bridge_facts(name)
    return UserNetFacts("", name, seen is not None, is_active=True, has_stp=seen.has_stp if seen else None)


def _user_network(
    view: HostView, name: str, macs: Mapping[str, str], firewall: tuple[Chain, ...] | None
) -> UserNetFacts:
    text, is_active = next(((text, is_on) for text, is_on in view.networks if name_of(text) == name), (None, False))
    if text is None:
        return UserNetFacts(name, "", is_there=False, is_active=False, has_stp=None)
    root = ET.fromstring(text)  # noqa: S314 - libvirt's own text
    bridge = root.find("bridge")
    bridge_name = bridge.get("name", "") if bridge is not None else ""
    seen = bridge_facts(bridge_name) if bridge_name and view.libvirt.is_local else None
    has_stp = seen.has_stp if seen is not None else None if bridge is None else bridge.get("stp", "on") == "on"
    reserved = {host.get("mac", "").lower() for host in root.iterfind("ip/dhcp/host")}
    leased = {mac.lower() for mac in view.leases.get(name, {})}
    return UserNetFacts(
        name=name,
        bridge=bridge_name,
        is_there=True,
        is_active=is_active,
        has_stp=has_stp,
        range_size=sum(map(_range_size, root.iterfind("ip/dhcp/range"))),
        leased=len(leased - reserved),
        wanting=tuple(sorted(domain for mac, domain in macs.items() if mac not in leased | reserved)),
        chains=firewall,
    )


def _range_size(found: ET.Element) -> int:
    first, last = (ipaddress.ip_address(found.get(end, "")) for end in ("start", "end"))
    return int(last) - int(first) + 1 if first.version == 4 else 0


def routes(text: str) -> tuple[Net, ...]:
    """Return the IPv4 networks that have a route, from ``/proc/net/route``; the default route is none of them."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and int(words[7], 16):
            net = ipaddress.IPv4Network((_dotted(words[1]), _dotted(words[7])), strict=False)
            found.append(Net(words[0], str(net)))
    return tuple(found)


def bridge_facts(name: str) -> BridgeFacts | None:
    """Return what the kernel shows of an interface; None where there is none of this name."""
    path = _INTERFACES / name
    if not path.exists():
        return None
    stp = path / "bridge" / "stp_state"
    is_bridge = (path / "bridge").is_dir()
    has_stp = stp.read_text(encoding="ascii").strip() != "0" if is_bridge else None
    return BridgeFacts(is_bridge, has_stp, (path / "operstate").read_text(encoding="ascii").strip() != "down")


def is_forwarding() -> bool | None:
    """Return whether the kernel forwards IPv4; None where it does not tell."""
    try:
        return _FORWARD.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return None


def chains() -> tuple[Chain, ...] | None:
    """Return the chains of the firewall, from nftables and from the older tables beside it; None if neither tells."""
    found: list[tuple[Chain, ...]] = []
    ruleset = _said("nft", "-j", "list", "ruleset")
    if ruleset is not None:
        try:
            found.append(chains_of_nft(ruleset))
        except (ValueError, KeyError, TypeError):
            ruleset = None  # a release of nft that prints otherwise
    legacy = "iptables-legacy" if ruleset is not None else "iptables"
    listed = _said(legacy, "-S")
    if listed is not None:
        found.append(chains_of_iptables(listed))
    return tuple(chain for part in found for chain in part) if found else None


def _said(program: str, *arguments: str) -> str | None:
    """Return what a program prints; None where it is not there or not allowed to."""
    path = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _dotted(word: str) -> str:
    return socket.inet_ntoa(struct.pack("<I", int(word, 16)))
