"""Our network beside a machine that has a DNS server of its own: no port 53, and names all the same."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from common.config import Network
from common.hypervisor import Connection
from common.network_xml import has_dns, network_xml
from tests.integration.plugged import lease, plugged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirt's system socket, port 53, namespaces")
NAME = "dnstest-net"
NETWORK = Network(name=NAME, bridge="dnstest0", subnet="192.168.247.0/24", slots=3)
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
    """Port 53 of every address of this machine is somebody's."""
    with ExitStack() as held:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            line = held.enter_context(socket.socket(socket.AF_INET, kind))
            try:
                line.bind(("0.0.0.0", 53))
            except OSError:
                continue  # somebody's it is already
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
