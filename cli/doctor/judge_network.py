"""Whether our network is as it must be, and those of a user's own domains, and whether anything is in their way."""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from cli.doctor.facts import Chain, Net, NetworkFacts, UserNetFacts
from cli.doctor.finding import Finding, error, note, ok, skipped, warning
from cli.doctor.firewall import closed_chains, has_libvirt_rules
from common.config import Network
from common.network_xml import NetworkShape, network_uuid, network_xml, shape

STP_WHY: Final = "a new domain's port forwards nothing for seconds, so every scale-out is late by as much"


def judge_network(network: Network, facts: NetworkFacts, host: str) -> list[Finding]:
    """Return the findings about the network of template domains on one host; of somebody else's only that it is."""
    about = f"host {host}, network {network.name}"
    judges: tuple[Callable[[Network, NetworkFacts, str], Finding], ...] = (
        definition,
        stp,
        dhcp,
        bridge_name,
        overlap,
        forwarding,
        forward_policy,
    )
    have = _shape(facts)
    if have is not None and have.uuid != network_uuid(network.name):
        judges = (definition,)  # what mends ours would hurt it
    return [judge(network, facts, about) for judge in judges]


def definition(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether the network of our name is ours and as configured."""
    have = _shape(facts)
    if have is None:
        return ok("network", about, "not there yet: the actuator makes it before the first domain")
    if have.uuid != network_uuid(network.name):
        return error(
            "network",
            about,
            f"a network of this name exists and is not ours (UUID {have.uuid})",
            "the actuator never touches another's network, so no domain can start",
            "give [network] in autoscaler.toml another name, bridge and subnet   # that one has its owner: "
            f"virsh net-dumpxml {network.name}",
        )
    want = shape(network_xml(network))
    differing = [key for key in ("bridge", "address", "forward") if getattr(have, key) != getattr(want, key)]
    if differing:
        said = ", ".join(f"{key} is {getattr(have, key)}, should be {getattr(want, key)}" for key in differing)
        return error(
            "network",
            about,
            said,
            "domains would get addresses that nobody expects; it cannot be changed while domains use it",
            "make down && make up",
        )
    return ok("network", about, f"{have.bridge} {have.address}{'' if facts.is_active else ', not started yet'}")


def stp(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether the spanning-tree protocol holds new ports back: in the definition, or in the kernel."""
    have = _shape(facts)
    is_ours_now = have is not None and have.bridge == network.bridge and facts.is_active
    if is_ours_now and facts.bridge is not None and facts.bridge.has_stp:
        return error(
            "network-stp",
            about,
            f"STP is on at the bridge {network.bridge}",
            STP_WHY,
            f"ip link set {network.bridge} type bridge stp_state 0 forward_delay 0",
        )
    if have is not None and have.has_stp:
        return error("network-stp", about, "STP is on in the network's definition", STP_WHY, "make down && make up")
    return ok("network-stp", about, "off")


def dhcp(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether every slot has its reservation, and nothing is given out dynamically."""
    have = _shape(facts)
    if have is None:
        return ok("network-dhcp", about, f"{network.slots} reservations will be made")
    missing = shape(network_xml(network)).hosts - have.hosts
    if have.has_range:
        return warning(
            "network-dhcp",
            about,
            "the network has a dynamic DHCP range",
            "leases outlive domains: the range runs dry, and dnsmasq waits 3 s before it offers an address",
            "make down && make up",
        )
    if missing and facts.is_active:
        return warning(
            "network-dhcp",
            about,
            f"{len(missing)} of {network.slots} slots have no reservation",
            "a domain in such a slot that asks for its address gets none",
            "make up",
        )
    return ok("network-dhcp", about, f"{len(have.hosts)} reservations, no dynamic range")


def bridge_name(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether the bridge's name is free for us, or ours already."""
    users = [other.owner for other in facts.others if other.bridge == network.bridge]
    is_taken = facts.bridge is not None and not facts.is_active
    if users or is_taken:
        who = f"libvirt's network {users[0]}" if users else "an interface that is there already"
        return error(
            "network-bridge",
            about,
            f"the bridge's name {network.bridge} is taken by {who}",
            "libvirt cannot start our network, so no domain can start",
            f"give [network] bridge another name in autoscaler.toml   # that one is: ip -d link show {network.bridge}",
        )
    if facts.is_active and facts.bridge is None:
        return error(
            "network-bridge",
            about,
            f"the network is active and its bridge {network.bridge} is not there",
            "domains would not reach anybody",
            f"virsh net-destroy {network.name}; make up",
        )
    return ok("network-bridge", about, f"{network.bridge} is {'ours' if facts.is_active else 'free'}")


def overlap(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether the subnet is used by anything else on the host."""
    ours = ipaddress.IPv4Network(network.subnet)
    routed = [net for net in facts.routes if net.owner != network.bridge and _meets(ours, net)]
    planned = [net for net in facts.others if _meets(ours, net)]
    if routed or planned:
        what = [f"{net.owner} ({net.cidr})" for net in routed]
        what += [f"libvirt's network {net.owner} ({net.cidr})" for net in planned]
        return error(
            "network-overlap",
            about,
            f"{network.subnet} is also used by {', '.join(what)}",
            "packets for our domains go elsewhere, or those for others come to us",
            "give [network] another subnet in autoscaler.toml, such as 192.168.213.0/24; then: make down && make up",
        )
    return ok("network-overlap", about, f"{network.subnet} is used by nothing else")


def forwarding(_network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether the kernel forwards packets for guests that want out."""
    if facts.is_forwarding is None:
        return skipped("ip-forward", about, "could not be read")
    if facts.is_forwarding:
        return ok("ip-forward", about, "on")
    if not facts.is_active:
        return ok("ip-forward", about, "off; libvirt switches it on with the network")
    return warning(
        "ip-forward",
        about,
        "net.ipv4.ip_forward is 0",
        "guests cannot reach anything outside this host: package mirrors, databases, time servers",
        "sysctl -w net.ipv4.ip_forward=1   # and in /etc/sysctl.d/ for the next boot",
    )


def forward_policy(network: Network, facts: NetworkFacts, about: str) -> Finding:
    """Return whether a firewall (Docker's, usually) drops what guests send out."""
    return _forward_policy(network.bridge, facts.chains, facts.is_active, about)


def _forward_policy(bridge: str, chains: Sequence[Chain] | None, is_active: bool, about: str) -> Finding:
    if chains is None:
        return skipped("forward-policy", about, "the firewall could not be read: it needs root, and nft or iptables")
    closed = closed_chains(chains, bridge)
    if not closed:
        return ok("forward-policy", about, f"what {bridge} forwards is not dropped")
    where = ", ".join(f"chain {chain.name} of table {chain.table}" for chain in closed)
    if not is_active and has_libvirt_rules(chains):
        return note("forward-policy", about, f"{where} drops it now; libvirt opens it with the network")
    return warning(
        "forward-policy",
        about,
        f"{where} drops new connections from {bridge}, by a rule or by its policy (Docker sets DROP)",
        "guests cannot reach anything outside this host, nor others them; the endpoint on this host still works",
        f"iptables -I FORWARD -i {bridge} -j ACCEPT && iptables -I FORWARD -o {bridge} "
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )


def judge_user_network(facts: UserNetFacts, host: str) -> list[Finding]:
    """Return the findings about a network or a bridge of the user's that domains of existing groups use on one host."""
    about = f"host {host}, {f'network {facts.name}' if facts.name else f'bridge {facts.bridge}'}"
    if not facts.is_there or not facts.is_active:
        state = "is not started" if facts.is_there else "is not there"
        mend = (
            f"virsh net-start {facts.name}; virsh net-autostart {facts.name}"
            if facts.name
            else f"ip link add {facts.bridge} type bridge"
        )
        return [error("network", about, f"it {state}, and domains of ours use it", "they cannot be started", mend)]
    found = [_user_stp(facts, about)]
    if facts.range_size:
        found.append(_dhcp_room(facts, about))
    if facts.name and facts.bridge:
        found.append(_forward_policy(facts.bridge, facts.chains, facts.is_active, about))
    return found


def _user_stp(facts: UserNetFacts, about: str) -> Finding:
    if not facts.has_stp:
        return ok("network-stp", about, "off" if facts.has_stp is not None else "no bridge that could have it")
    mend = f"ip link set {facts.bridge} type bridge stp_state 0 forward_delay 0   # only where it closes no loop"
    if facts.name:
        mend += f"   # and for good: virsh net-edit {facts.name}, <bridge stp='off' delay='0'/>"
    return note("network-stp", about, f"STP is on at the bridge {facts.bridge}", STP_WHY, mend)


def _dhcp_room(facts: UserNetFacts, about: str) -> Finding:
    free = facts.range_size - facts.leased
    said = f"{facts.leased} of {facts.range_size} addresses are leased"
    if free >= len(facts.wanting):
        return ok("network-dhcp", about, said)
    return warning(
        "network-dhcp",
        about,
        f"{said}; {len(facts.wanting)} domains of ours have none yet, {facts.wanting[0]} among them",
        "a domain that gets no address never serves; leases outlive the domains that had them",
        f"virsh net-edit {facts.name}: a larger range, or a <host mac=… ip=…/> for each   # virsh net-dhcp-leases",
    )


def _shape(facts: NetworkFacts) -> NetworkShape | None:
    return None if facts.xml is None else shape(facts.xml)


def _meets(ours: ipaddress.IPv4Network, net: Net) -> bool:
    other = ipaddress.ip_network(net.cidr, strict=False)
    return isinstance(other, ipaddress.IPv4Network) and other.prefixlen > 0 and ours.overlaps(other)
