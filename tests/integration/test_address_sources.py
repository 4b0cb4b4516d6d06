"""Addresses of users' domains from a real libvirt network: two leases for one MAC, and networks that are named."""

import os
from collections.abc import Iterator

import libvirt
import pytest

from common.clock import SystemClock
from common.domain import DomainFacts, DomainState
from common.hypervisor import Connection
from common.virt.addresses import Rule, Source
from services.actuator.addresses import AddressBook, Found
from tests.integration.plugged import lease, plugged
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket, namespaces")
URI, NAME, MAC = "qemu:///system", "addrtest-0000", "52:54:00:ad:d1:01"
NETWORK = (
    "<network><name>addrtest-net</name><forward mode='nat'/><bridge name='addrtest0' stp='off' delay='0'/>"
    "<dns enable='no'/><ip address='192.168.246.1' prefix='24'><dhcp>"
    "<range start='192.168.246.10' end='192.168.246.20'/></dhcp></ip></network>"
)
DOMAIN = (
    f"<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>16</memory><os><type machine='pc'>hvm</type></os>"
    f"<devices><interface type='network'><mac address='{MAC}'/><source network='addrtest-net'/></interface></devices>"
    "</domain>"
)


@pytest.fixture
def host(images: object) -> Iterator[Connection]:
    """A user's domain on a network of its own with a range, as libvirt's default network has; it boots nothing."""
    raw = libvirt.open(URI)
    network = raw.networkCreateXML(NETWORK)
    domain = None
    try:
        domain = raw.createXML(DOMAIN)
        connection = Connection.open(URI, is_read_only=False, may_touch=lambda name: name == NAME)
        yield connection
        connection.close()
    finally:
        if domain is not None:
            domain.destroy()
        network.destroy()
        raw.close()


def addresses(host: Connection, network: str = "") -> list[str]:
    return [each.address for each in host.addresses(NAME, Rule(Source.LEASE, network))]


def test_all_leases_of_a_mac_are_candidates_and_are_said_and_tried_in_turn(host: Connection) -> None:
    with plugged("addrtest0", MAC, "addrtest1") as guest:
        before = lease(guest, "ff00000001")["address"]
        after = lease(guest, "ff00000002")["address"]
    assert before != after, "another client identifier is another client"
    wait_until(lambda: len(addresses(host)) == 2, "both leases in libvirt's file")
    assert set(addresses(host)) == {before, after}
    book = AddressBook("local", lambda _name: Rule(Source.LEASE), SystemClock(), lambda: None)
    facts = (DomainFacts(NAME, "u", DomainState.RUNNING, "", True),)
    book.doubt(frozenset({"u"}))

    def tried() -> Found | None:
        book.turn()
        return book.see(host, facts).get(NAME)

    assert book.see(host, facts) == {}
    first = tried()
    assert first is not None and first.note.startswith(f"2 leases for {MAC}: ")
    wait_until(lambda: tried() not in (None, first), "the other lease is tried")


def test_a_network_or_a_range_that_is_named_leaves_the_others_out(host: Connection) -> None:
    with plugged("addrtest0", MAC, "addrtest1") as guest:
        address = lease(guest)["address"]
    wait_until(lambda: addresses(host) == [address], "the lease in libvirt's file")
    assert addresses(host, "addrtest-net") == addresses(host, "192.168.246.0/24") == [address]
    assert addresses(host, "default") == addresses(host, "10.0.0.0/8") == []
