"""Our network beside a machine that has a DNS server of its own: no port 53, and names all the same."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from common.config import Network
from common.hypervisor import Connection
from common.network_xml import has_dns, network_xml
from tests.faults.proof import Proof
from tests.integration.plugged import lease, plugged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket, port 53, namespaces")
NAME = "dnstest-net"
NETWORK = Network(name=NAME, bridge="dnstest0", subnet="192.168.247.0/24", slots=3)
IP_FREEBIND = 15  # of linux/in.h; Python 3.11 has no name for it
STRANGER_S = 3.0  # the others are answered in milliseconds
OLD = network_xml(NETWORK).replace('<dns enable="no" />', "")


@pytest.fixture
def host(images: Path) -> Iterator[Connection]:
    """A connection; the network is removed at the end. ``images`` has started libvirt."""
    connection = Connection.open("qemu:///system", is_read_only=False, may_touch=lambda _name: False)
    yield connection
    connection.remove_network(NAME)
    connection.close()


@pytest.fixture
def taken() -> Iterator[None]:
    """Port 53 of the network's own address is somebody's, before there is that address."""
    with ExitStack() as held:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            line = held.enter_context(socket.socket(socket.AF_INET, kind))
            line.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            line.bind((NETWORK.gateway, 53))
            if kind is socket.SOCK_STREAM:
                line.listen()
        yield


def definition(host: Connection) -> str:
    return next(text for text, _ in host.networks() if f"<name>{NAME}</name>" in text)


@pytest.mark.usefixtures("taken")
def test_the_network_starts_where_port_53_is_taken_and_dhcp_tells_the_name_servers(host: Connection) -> None:
    host.ensure_network(network_xml(NETWORK, ("192.0.2.7", "192.0.2.8")), NAME)
    assert host.has_network(NAME)
    with plugged(NETWORK.bridge, NETWORK.mac(1), "dnstest1") as machine:
        assert lease(machine) == {"address": NETWORK.address(1), "name_servers": ["192.0.2.7", "192.0.2.8"]}


@pytest.mark.fault(57)
def test_leases_of_the_past_take_no_address_from_a_domain(host: Connection, row: Proof) -> None:
    host.ensure_network(network_xml(NETWORK), NAME)
    for slot in range(NETWORK.slots):
        with plugged(NETWORK.bridge, NETWORK.mac(slot), f"dnstest{slot}") as machine:
            for client_id in ("", f"ff{slot:02x}"):  # one domain of the past, and the next with this MAC
                assert lease(machine, client_id)["address"] == NETWORK.address(slot)
    row.held("where each address has a lease of the past, each slot's MAC is given its own all the same")
    stranger = plugged(NETWORK.bridge, "52:54:00:aa:00:01", "dnstest9")
    with stranger as machine, pytest.raises(subprocess.TimeoutExpired):
        lease(machine, timeout_s=STRANGER_S)
    row.held("somebody else's MAC is given none")


def test_a_machine_without_name_servers_tells_none_and_never_itself(host: Connection) -> None:
    host.ensure_network(network_xml(NETWORK), NAME)
    with plugged(NETWORK.bridge, NETWORK.mac(2), "dnstest2") as machine:
        assert lease(machine) == {"address": NETWORK.address(2), "name_servers": []}


def test_a_network_of_an_older_release_stays_as_it_is_while_it_can(host: Connection) -> None:
    host.ensure_network(OLD, NAME)
    host.ensure_network(network_xml(NETWORK), NAME)
    assert has_dns(definition(host))


@pytest.mark.usefixtures("taken")
def test_a_network_of_an_older_release_whose_port_was_taken_since_starts_without_dns(host: Connection) -> None:
    raw = libvirt.open("qemu:///system")
    raw.networkDefineXML(OLD)
    raw.close()
    host.ensure_network(network_xml(NETWORK), NAME)
    assert host.has_network(NAME) and not has_dns(definition(host))
