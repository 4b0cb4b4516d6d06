"""What ``autoscaler doctor`` says about networks and firewalls, and how it reads them."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from cli.doctor.facts import BridgeFacts, Chain, LibvirtFacts, Net, NetworkFacts, Rule, UserNetFacts
from cli.doctor.finding import Level, worst
from cli.doctor.firewall import chains_of_iptables, chains_of_nft, closed_chains, has_libvirt_rules
from cli.doctor.gather_libvirt import HostView, Nic, Owned
from cli.doctor.gather_network import routes, user_networks
from cli.doctor.judge_network import judge_network, judge_user_network
from common.config import Network
from common.domain import DomainFacts, DomainState
from common.network_xml import network_xml

NETWORK = Network(slots=3)
XML = network_xml(NETWORK)
OPEN = Chain("ip filter", "FORWARD", "forward", "accept", ())
WELL = NetworkFacts(
    xml=XML,
    is_active=True,
    others=(Net("default", "192.168.122.1/24", "virbr0"),),
    routes=(Net("eth0", "192.0.2.0/24"), Net("asbr0", "192.168.150.0/24")),
    bridge=BridgeFacts(is_bridge=True, has_stp=False, is_up=True),
    is_forwarding=True,
    chains=(OPEN,),
)
CLOSED = replace(OPEN, policy="drop")


def test_our_own_network_is_well() -> None:
    assert worst(judge_network(NETWORK, WELL, "local")) is Level.OK


@pytest.mark.parametrize(
    "changes",
    [{}, {"bridge": BridgeFacts(True, True, True)}, {"bridge": None}, {"xml": XML.replace('stp="off"', 'stp="on"')}],
)
def test_of_somebody_elses_network_of_our_name_nothing_is_to_be_changed(changes: dict[str, Any]) -> None:
    facts = replace(WELL, **changes)
    (found,) = judge_network(NETWORK, replace(facts, xml=(facts.xml or "").replace("<uuid>", "<uuid>0")), "local")
    assert "another name" in found.mend
    assert not re.search("destroy|undefine|remove|ip link set|make", found.mend)


@pytest.mark.parametrize("changes", [{"others": (Net("other", "10.0.0.0/8", "asbr0"),)}, {"is_active": False}])
def test_a_bridge_of_somebody_elses_is_not_to_be_removed(changes: dict[str, Any]) -> None:
    found = judge_network(NETWORK, replace(WELL, **changes), "local")
    assert not [one for one in found if "remove" in one.mend]


def test_a_network_that_is_not_there_yet_is_no_fault() -> None:
    nothing = replace(WELL, xml=None, is_active=False, bridge=None, is_forwarding=False)
    assert worst(judge_network(NETWORK, nothing, "local")) is Level.OK


@pytest.mark.parametrize(
    ("changes", "check", "level", "word"),
    [
        ({"bridge": BridgeFacts(True, True, True)}, "network-stp", Level.ERROR, "stp_state 0"),
        ({"xml": XML.replace('stp="off"', 'stp="on"')}, "network-stp", Level.ERROR, "definition"),
        ({"xml": XML.replace("<dhcp>", '<dhcp><range start="1.1.1.1" end="1.1.1.2" />')}, "network-dhcp",
         Level.WARNING, "dynamic"),
        ({"xml": XML.replace(f'<host mac="{NETWORK.mac(1)}" ip="{NETWORK.address(1)}" />', "")}, "network-dhcp",
         Level.WARNING, "1 of 3"),
        ({"xml": XML.replace("<uuid>", "<uuid>0")}, "network", Level.ERROR, "not ours"),
        ({"xml": XML.replace('address="192.168.150.1"', 'address="192.168.151.1"')}, "network",
         Level.ERROR, "192.168.151.1"),
        ({"others": (Net("other", "192.168.150.128/25"),)}, "network-overlap", Level.ERROR, "other"),
        ({"routes": (Net("eth0", "192.168.0.0/16"),)}, "network-overlap", Level.ERROR, "eth0 (192.168.0.0/16)"),
        ({"others": (Net("other", "10.0.0.0/8", "asbr0"),)}, "network-bridge", Level.ERROR, "other"),
        ({"is_active": False}, "network-bridge", Level.ERROR, "already"),
        ({"bridge": None}, "network-bridge", Level.ERROR, "not there"),
        ({"is_forwarding": False}, "ip-forward", Level.WARNING, "sysctl"),
        ({"is_forwarding": None}, "ip-forward", Level.SKIPPED, "could not"),
        ({"chains": None}, "forward-policy", Level.SKIPPED, "root"),
        ({"chains": (CLOSED,)}, "forward-policy", Level.WARNING, "iptables -I FORWARD -i asbr0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_network_is_said(changes: dict[str, Any], check: str, level: Level, word: str) -> None:
    found = judge_network(NETWORK, replace(WELL, **changes), "local")
    bad = [finding for finding in found if finding.level is not Level.OK]
    assert [(finding.check, finding.level) for finding in bad] == [(check, level)]
    assert word in f"{bad[0].what} {bad[0].mend}"


def test_a_default_route_and_our_own_route_are_no_overlap() -> None:
    facts = replace(WELL, routes=(Net("eth0", "0.0.0.0/0"), Net("asbr0", "192.168.150.0/24")))
    assert worst(judge_network(NETWORK, facts, "local")) is Level.OK


def test_libvirt_opens_a_closed_chain_itself_where_it_writes_into_it() -> None:
    jump = Rule("", "", "LIBVIRT_FWO", True)
    facts = replace(WELL, xml=None, is_active=False, bridge=None, chains=(replace(CLOSED, rules=(jump,)),))
    assert worst(judge_network(NETWORK, facts, "local")) is Level.NOTE


IPTABLES = """-P INPUT ACCEPT
-P FORWARD DROP
-N LIBVIRT_FWO
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j LIBVIRT_FWO
-A DOCKER-USER -j RETURN
"""


def test_a_rule_about_our_bridge_opens_a_closed_chain() -> None:
    assert [chain.name for chain in closed_chains(chains_of_iptables(IPTABLES), "asbr0")] == ["FORWARD"]
    let = IPTABLES + "-A LIBVIRT_FWO -s 192.168.150.0/24 -i asbr0 -j ACCEPT\n"
    assert closed_chains(chains_of_iptables(let), "asbr0") == []
    assert closed_chains(chains_of_iptables(let), "asbr1") != []
    assert has_libvirt_rules(chains_of_iptables(let))


def test_a_rule_about_another_bridge_or_a_negated_one_opens_nothing() -> None:
    other = IPTABLES + "-A FORWARD -i docker0 -j ACCEPT\n-A FORWARD ! -i asbr0 -j ACCEPT\n"
    assert closed_chains(chains_of_iptables(other), "asbr0") != []
    assert closed_chains(chains_of_iptables(IPTABLES + "-A FORWARD -j ACCEPT\n"), "asbr0") == []


def test_a_chain_that_jumps_in_a_circle_ends() -> None:
    circle = "-P FORWARD DROP\n-N A\n-N B\n-A FORWARD -j A\n-A A -j B\n-A B -j A\n"
    assert closed_chains(chains_of_iptables(circle), "asbr0") != []


def nft(*expressions: list[dict[str, Any]], policy: str = "drop") -> str:
    """Return a ruleset as ``nft -j list ruleset`` prints it, with these rules in the forward chain."""
    about = {"family": "inet", "table": "filter"}
    chain = {**about, "name": "fwd", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}
    rules = [{"rule": {**about, "chain": "fwd", "expr": expr}} for expr in expressions]
    other = {"chain": {"family": "ip6", "table": "filter", "name": "x", "hook": "forward", "policy": "drop"}}
    return json.dumps({"nftables": [{"metainfo": {}}, {"chain": chain}, other, *rules]})


def test_nftables_are_read_as_well() -> None:
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "asbr0"}}
    about_port = {"match": {"op": "==", "left": {"payload": {"field": "dport"}}, "right": 53}}
    assert closed_chains(chains_of_nft(nft()), "asbr0") != []
    assert closed_chains(chains_of_nft(nft(policy="accept")), "asbr0") == []
    assert closed_chains(chains_of_nft(nft([match, {"accept": None}])), "asbr0") == []
    assert closed_chains(chains_of_nft(nft([{"counter": {}}, {"accept": None}])), "asbr0") == []
    assert closed_chains(chains_of_nft(nft([about_port, {"accept": None}])), "asbr0") != []
    assert closed_chains(chains_of_nft(nft([match, {"drop": None}])), "asbr0") != []


def test_routes_are_read_without_the_default_one() -> None:
    text = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert routes(text) == (Net("eth0", "192.0.2.0/24"),)


def iptables(*rules: str, policy: str = "ACCEPT") -> tuple[Chain, ...]:
    return chains_of_iptables("\n".join([f"-P FORWARD {policy}", "-N OWN", *rules]))


@pytest.mark.parametrize(
    ("rules", "is_closed"),
    [
        (["-A FORWARD -i asbr0 -j DROP"], True),
        (["-A FORWARD -i asbr0 -j REJECT --reject-with icmp-port-unreachable"], True),
        (["-A FORWARD -j DROP"], True),
        (["-A FORWARD -i asbr0 -j ACCEPT", "-A FORWARD -j DROP"], False),  # the first that decides
        (["-A FORWARD -j DROP", "-A FORWARD -i asbr0 -j ACCEPT"], True),
        (["-A FORWARD -j OWN", "-A OWN -i asbr0 -j DROP"], True),
        (["-A FORWARD -j OWN", "-A OWN -j RETURN", "-A OWN -j DROP"], False),
        (["-A FORWARD -i asbr0 -p tcp --dport 25 -j DROP"], False),  # some packets, not all
        (["-A FORWARD -o asbr0 -j REJECT"], False),  # to guests, not from them
        (["-A FORWARD -i docker0 -j DROP"], False),
        (["-A FORWARD -i asbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -j DROP"], True),
        (["-A FORWARD -i asbr0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", "-A FORWARD -j DROP"], False),
        (["-A FORWARD -o docker0 -j OWN", "-A OWN -j ACCEPT", "-A FORWARD -j DROP"], True),
    ],
)
def test_rules_count_in_their_order_and_for_new_connections_from_the_bridge(rules: list[str], is_closed: bool) -> None:
    assert bool(closed_chains(iptables(*rules), "asbr0")) is is_closed


def test_an_accept_for_standing_connections_alone_opens_no_closed_chain() -> None:
    standing = "-A FORWARD -i asbr0 -m state --state ESTABLISHED -j ACCEPT"
    assert closed_chains(iptables(standing, policy="DROP"), "asbr0") != []
    about = {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}
    assert closed_chains(chains_of_nft(nft([{"match": about}, {"accept": None}])), "asbr0") != []
    about = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "asbr0"}
    drop = nft([{"match": about}, {"counter": {}}, {"drop": None}], policy="accept")
    assert closed_chains(chains_of_nft(drop), "asbr0") != []


# --- networks of a user's own domains ------------------------------------------------------------------------------

DEFAULT = """<network><name>default</name><bridge name='virbr-none' stp='on' delay='0'/>
<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.4'/>
<host mac='52:54:00:00:00:09' ip='192.0.2.9'/></dhcp></ip></network>"""
LIBVIRT = LibvirtFacts("qemu+tls://b/system", False, "ann", False, (), (), "", "")


def owned(name: str, *nics: Nic, group: str = "old") -> Owned:
    return Owned(group, "b", DomainFacts(name, "u", DomainState.SHUTOFF, "", True), None, nics)


def seen(*domains: Owned, leases: dict[str, str] | None = None, is_active: bool = True) -> list[UserNetFacts]:
    view = HostView("b", LIBVIRT, owned=domains, networks=((DEFAULT, is_active),), leases={"default": leases or {}})
    return user_networks(view, {"old"})


def test_what_nics_of_existing_groups_name_is_looked_at_once_and_nothing_else() -> None:
    nics = [Nic(f"52:54:00:00:00:0{n}", "default", "") for n in (1, 2, 9)]
    domains = [owned(f"old-000{n}", nic) for n, nic in enumerate(nics)]
    (found,) = seen(*domains, owned("web-0000", Nic("m", "other", ""), group="web"), leases={nics[0].mac: "", "x": ""})
    assert (found.name, found.bridge, found.has_stp) == ("default", "virbr-none", True)
    assert (found.range_size, found.leased, found.wanting) == (3, 2, ("old-0001",))
    assert seen() == []


def test_a_network_that_is_gone_or_off_and_a_bare_bridge_are_told_apart() -> None:
    nic = Nic("52:54:00:00:00:01", "default", "")
    assert not seen(owned("old-0000", nic), is_active=False)[0].is_active
    assert not seen(owned("old-0000", replace(nic, network="gone")))[0].is_there
    assert seen(owned("old-0000", Nic("m", "", "br7")))[0].bridge == "br7"


USERS = UserNetFacts("default", "virbr0", True, True, False, range_size=3, leased=1, wanting=("a", "b"), chains=(OPEN,))


@pytest.mark.parametrize(
    ("changes", "check", "level", "word"),
    [
        ({"has_stp": True}, "network-stp", Level.NOTE, "virsh net-edit default"),
        ({"leased": 2}, "network-dhcp", Level.WARNING, "2 of 3 addresses are leased; 2 domains of ours have none"),
        ({"chains": (CLOSED,)}, "forward-policy", Level.WARNING, "iptables -I FORWARD -i virbr0"),
        ({"is_active": False}, "network", Level.ERROR, "virsh net-start default"),
        ({"is_there": False}, "network", Level.ERROR, "not there"),
        ({"name": "", "is_there": False}, "network", Level.ERROR, "bridge virbr0"),
    ],
)
def test_what_is_wrong_with_a_users_network_is_said(
    changes: dict[str, Any], check: str, level: Level, word: str
) -> None:
    assert worst(judge_user_network(USERS, "h")) is Level.OK
    bad = [found for found in judge_user_network(replace(USERS, **changes), "h") if found.level is not Level.OK]
    assert [(finding.check, finding.level) for finding in bad] == [(check, level)]
    assert word in f"{bad[0].about} {bad[0].what} {bad[0].mend}"
