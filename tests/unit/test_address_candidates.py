"""What lease, ARP table and agent tell of a domain's addresses: what is left out, and what is tried first."""

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.virt.addresses import MOST, Candidate, Nic, Rule, Source, leased, nics_in, ranked, remark, told_by_agent
from common.virt.arp import neighbours

FIRST, SECOND, GUESTS_OWN = "52:54:00:00:00:01", "52:54:00:00:00:02", "02:42:00:00:00:01"
NICS = (Nic(FIRST, "lan"), Nic(SECOND, "dmz"))
XML = (
    f"<domain><devices><interface><mac address='{FIRST.upper()}'/><source network='lan' bridge='virbr0'/></interface>"
    f"<interface><mac address='{SECOND}'/><source network='dmz'/></interface>"
    "<interface><source bridge='br7'/></interface></devices></domain>"
)
ARP = """IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0
192.168.150.10   0x1         0x0         52:54:00:D7:00:00     *        asbr0
192.168.150.11   0x1         0x2         52:54:00:D7:00:00     *        asbr0
"""


LEASE = Rule(Source.LEASE)


def found(*candidates: Candidate, rule: Rule = LEASE) -> list[str]:
    return [each.address for each in ranked(candidates, NICS, rule)]


def interface(mac: str | None, *addresses: str) -> dict[str, Any]:
    """What libvirt returns for one interface that an agent tells."""
    return {"hwaddr": mac, "addrs": [{"addr": each, "prefix": 24, "type": 0} for each in addresses] or None}


def agent(**interfaces: dict[str, Any]) -> list[str]:
    named = {name.replace("__", "-"): value for name, value in interfaces.items()}
    return found(*told_by_agent(named, NICS), rule=Rule(Source.AGENT))


def test_the_interfaces_are_those_of_the_definition_in_its_order() -> None:
    assert nics_in(XML) == NICS
    assert nics_in(XML, "dmz") == (NICS[1],)
    assert nics_in(XML, "other") == ()


def test_of_two_leases_of_one_mac_the_one_given_last_comes_first() -> None:
    leases = [{"ipaddr": "10.0.0.10", "expirytime": 1000}, {"ipaddr": "10.0.0.11", "expirytime": 2000}]
    told = leased(FIRST, leases)
    assert found(*told) == found(*reversed(told)) == ["10.0.0.11", "10.0.0.10"]


def test_a_lease_that_never_ends_comes_before_those_that_do() -> None:
    told = leased(FIRST, [{"ipaddr": "10.0.0.10", "expirytime": 1000}, {"ipaddr": "10.0.0.11", "expirytime": 0}])
    assert found(*told) == ["10.0.0.11", "10.0.0.10"]


def test_several_leases_are_said_and_one_is_not() -> None:
    told = ranked(
        leased(FIRST, [{"ipaddr": f"10.0.0.1{n}", "expirytime": n + 1} for n in range(2)]), NICS, Rule(Source.LEASE)
    )
    assert remark(told, Source.LEASE) == f"2 leases for {FIRST}: 10.0.0.11, 10.0.0.10"
    assert remark(told[:1], Source.LEASE) == remark(told, Source.ARP) == ""


def test_all_macs_count_in_the_order_of_the_definition() -> None:
    later = Candidate("10.0.0.20", SECOND, 9000.0)
    assert found(later, Candidate("10.0.0.10", FIRST, 10.0)) == ["10.0.0.10", "10.0.0.20"]


def test_ipv4_comes_before_ipv6() -> None:
    assert found(Candidate("2001:db8::1", FIRST), Candidate("10.0.0.20", SECOND)) == ["10.0.0.20", "2001:db8::1"]


def test_an_agents_loopback_and_what_a_guest_made_for_itself_is_left_out() -> None:
    told = agent(
        lo=interface("00:00:00:00:00:00", "127.0.0.1", "10.0.0.100"),
        docker0=interface(GUESTS_OWN, "172.17.0.1"),
        br__1a2b=interface(GUESTS_OWN, "172.18.0.1"),
        veth12=interface(GUESTS_OWN),
        virbr0=interface(GUESTS_OWN, "192.168.122.1"),
        cni0=interface(GUESTS_OWN, "10.244.0.1"),
        eth0=interface(FIRST, "10.0.0.10", "10.0.0.99", "fe80::1", "169.254.1.1"),
    )
    assert told == ["10.0.0.10", "10.0.0.99"]


def test_an_agents_interface_with_a_mac_that_libvirt_knows_comes_first_whatever_its_name() -> None:
    told = agent(
        ens9=interface(GUESTS_OWN, "10.9.0.1"),
        br__ex=interface(SECOND, "10.0.1.10"),
        eth0=interface(FIRST, "10.0.0.10"),
    )
    assert told == ["10.0.0.10", "10.0.1.10", "10.9.0.1"]


def test_an_agents_nonsense_is_no_address() -> None:
    assert agent(eth0=interface(FIRST, "\x1b[31m", "10.0.0.1;shutdown", "", "0.0.0.0", "224.0.0.1")) == []
    assert agent(eth0=interface(None)) == []


def test_many_addresses_are_bounded() -> None:
    assert len(agent(eth0=interface(FIRST, *(f"10.0.{n}.1" for n in range(100))))) == MOST


def test_a_range_or_a_network_that_is_named_leaves_all_others_out() -> None:
    told = [Candidate("10.0.0.10", FIRST), Candidate("10.0.1.10", SECOND), Candidate("10.0.1.11", GUESTS_OWN)]
    assert found(*told, rule=Rule(Source.ARP, "10.0.1.0/24")) == ["10.0.1.10", "10.0.1.11"]
    named = Rule(Source.AGENT, "dmz")
    assert [each.address for each in ranked(told, nics_in(XML, named.libvirt_network), named)] == ["10.0.1.10"]


def test_every_complete_neighbour_with_the_domains_mac_is_a_candidate() -> None:
    mac = "52:54:00:d7:00:00"
    assert neighbours({mac}, ARP) == [Candidate("192.168.150.11", mac)]
    assert neighbours({mac}, ARP + ARP.splitlines()[3].replace("150.11", "150.12")) == [
        Candidate("192.168.150.11", mac),
        Candidate("192.168.150.12", mac),
    ]
    assert neighbours({"52:54:00:d7:00:01"}, ARP) == neighbours(set(), "") == []


ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.text(max_size=8),
    st.sampled_from(["10.0.0.1", "127.0.0.1", "fe80::1", "169.254.0.1"]),
)
LEASES = st.lists(
    st.builds(Candidate, ADDRESSES, st.sampled_from([FIRST, SECOND, GUESTS_OWN]), st.floats(0, 1e10)), max_size=30
)


@given(LEASES, st.randoms(use_true_random=False), st.sampled_from(["", "10.0.0.0/8", "2001:db8::/32"]))
def test_whatever_is_told_in_whatever_order_the_same_usable_addresses_are_tried_in_the_same_order(
    told: list[Candidate], chance: Any, network: str
) -> None:
    rule, mixed = Rule(Source.LEASE, network), list(told)
    chance.shuffle(mixed)
    tried = found(*told, rule=rule)
    assert tried == found(*mixed, rule=rule)
    assert len(set(tried)) == len(tried) <= MOST
    for address in map(ipaddress.ip_address, tried):
        assert not (address.is_loopback or address.is_link_local)
        assert not network or address in ipaddress.ip_network(network)
