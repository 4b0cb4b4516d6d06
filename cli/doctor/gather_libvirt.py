"""What libvirt shows of one host: does it answer, what does it offer, which of its domains and networks are ours."""

import grp
import os
import pwd
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.doctor.facts import UNIT_ACCOUNT, AccelFacts, LibvirtFacts, LimitFacts, Net, SocketFacts
from cli.kvm_device import why_closed
from cli.left_over import left_over
from cli.libvirt_daemon import has_systemd
from common.acceleration import remembered
from common.config import Config, Group, Host
from common.domain import DomainFacts, DomainState
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.network_xml import NetworkShape, network_uuid, shape
from common.volume import Pool
from services.actuator.access import address_rule, may_touch
from services.actuator.cleanup import is_template
from services.actuator.core.record import Record, parse

LOCAL_URI: Final = "qemu:///system"
SOCKETS: Final = ("/run/libvirt/libvirt-sock-ro", "/run/libvirt/libvirt-sock")
MODULAR: Final = ("/run/libvirt/virtqemud-sock-ro", "/run/libvirt/virtqemud-sock")


@dataclass(frozen=True, slots=True)
class Nic:
    """What a domain's network interface is plugged into: a network of libvirt's, or a bridge. Either may be empty."""

    mac: str
    network: str
    bridge: str


@dataclass(frozen=True, slots=True)
class Owned:
    """One domain that is of a group of this file: ``record`` is None for a user's domain that was never adopted.

    ``address`` is what libvirt knows of a user's own running domain, by the group's source.
    """

    group: str
    host: str
    facts: DomainFacts
    record: Record | None
    nics: tuple[Nic, ...] = ()
    disks: tuple[str, ...] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class HostView:
    """All that one connection told; empty where there is none.

    ``left``, ``stale``, ``foreign`` and ``others`` as in ``StrayFacts``; ``templates``: what any domain was made from.
    ``leases``: by network, DHCP client identifiers by MAC.
    """

    name: str
    libvirt: LibvirtFacts
    accel: AccelFacts | None = None
    limits: LimitFacts | None = None
    owned: tuple[Owned, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    others: dict[str, str] = field(default_factory=dict)
    templates: frozenset[str] = frozenset()
    networks: tuple[tuple[str, bool], ...] = ()
    leases: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def client_ids(self) -> dict[str, str]:
        """Return DHCP client identifiers by MAC, of all networks."""
        return {mac: client_id for of_network in self.leases.values() for mac, client_id in of_network.items()}

    def network(self, name: str) -> tuple[str | None, bool]:
        """Return the definition of a network and whether it is active."""
        return next(((text, is_on) for text, is_on in self.networks if shape_or_none(text, name)), (None, False))

    def other_networks(self, name: str) -> tuple[Net, ...]:
        """Return the IPv4 networks of the libvirt networks but ``name``."""
        shapes = [shape_or_none(text) for text, _ in self.networks]
        return tuple(Net(s.name, s.address or "0.0.0.0/0", s.bridge) for s in shapes if s and s.name != name)

    def stray_networks(self, configured: str) -> tuple[str, ...]:
        """Return the names of networks that an installation of ours made, and this configuration does not name."""
        shapes = [shape_or_none(text) for text, _ in self.networks]
        return tuple(s.name for s in shapes if s and s.name != configured and s.uuid == network_uuid(s.name))


def view(config: Config, name: str) -> HostView:
    """Return what is to be seen of the host ``name`` of the configuration; never raises for what libvirt does."""
    host = config.hosts[name]
    groups = [group for group in config.groups.values() if name in group.hosts]
    rule = may_touch(groups)
    try:
        connection = Connection.open(host.uri, is_read_only=True, may_touch=rule)
    except HypervisorError as error:
        return HostView(name, _libvirt_facts(host, str(error), str(error)))
    try:
        return _looked_at(config, name, connection, _libvirt_facts(host, "", _write_error(host.uri), connection))
    except HypervisorError as error:
        return HostView(name, _libvirt_facts(host, str(error), str(error)))
    finally:
        connection.close()


def _looked_at(config: Config, name: str, connection: Connection, libvirt: LibvirtFacts) -> HostView:
    host, system = config.hosts[name], config.system
    found = [(facts, parse(facts.metadata)) for facts in connection.domains()]
    pairs = [(facts, record, _group_of(config, facts, record)) for facts, record in found]
    owned = tuple(_owned(connection, config, group, name, facts, record) for facts, record, group in pairs if group)
    left = left_over(config, connection)
    unclaimed = [(facts, record) for facts, record, group in pairs if group is None and facts.name not in left]
    is_ours = may_touch([group for group in config.groups.values() if name in group.hosts])
    stale = {
        facts.name: record.group
        for facts, record in unclaimed
        if record and _is_made(facts, record) and is_ours(facts.name)
    }
    facts = connection.host_facts()
    images, networks = probe_images(config), tuple(connection.networks())
    return HostView(
        name=name,
        libvirt=libvirt,
        accel=AccelFacts(
            wanted=host.accel,
            is_offered="kvm" in facts.domain_types,
            has_device=Path("/dev/kvm").exists(),
            proven=remembered(connection, name, host, images, system.state_path),
            why_closed=why_closed() if libvirt.is_local else "",
        ),
        limits=LimitFacts(
            cpus=connection.host_cpus(),
            total_memory_bytes=connection.total_memory_bytes(),
            free_memory_bytes=connection.free_memory_bytes(),
            owned=dict(Counter(domain.group for domain in owned if domain.facts.state is DomainState.RUNNING)),
            open_files=0,
        ),
        owned=owned,
        left=left,
        stale=stale,
        foreign=tuple(facts.name for facts, _ in unclaimed if is_ours(facts.name) and facts.name not in stale),
        others={f.name: record.group if record else "none" for f, record in unclaimed if not is_ours(f.name)},
        templates=frozenset(record.template for _, record in found if record is not None),
        networks=networks,
        leases={network: _client_ids(connection, network) for text, _ in networks if (network := name_of(text))},
    )


def probe_images(config: Config) -> Path:
    """Return the directory of the kernel that proves acceleration: the demo guest's, else that of a group."""
    demo = config.system.state_path / "images"
    given = [Path(group.image.directory) for group in config.groups.values() if group.image.directory]
    return next((path for path in (demo, *given) if (path / "manifest.json").is_file()), demo)


@contextmanager
def opened(config: Config, name: str, pool: Pool | None = None) -> Iterator[Connection]:
    """Give a connection that may boot guests of ours to look at them: no other domain may be touched by it."""
    connection = Connection.open(config.hosts[name].uri, is_read_only=False, may_touch=lambda _name: False, pool=pool)
    try:
        yield connection
    finally:
        connection.close()


def shape_or_none(text: str, name: str | None = None) -> NetworkShape | None:
    """Return the shape of a network's definition; None where it has no IPv4 we can read, or another name."""
    try:
        found = shape(text)
    except (HypervisorError, ValueError):
        return None
    return found if name is None or found.name == name else None


def _group_of(config: Config, facts: DomainFacts, record: Record | None) -> str | None:
    """Return the group of this file that the domain belongs to: by its name and, where it has one, by its record.

    Another installation on the host may have a group of the same name, with another prefix.
    """
    for name, group in config.groups.items():
        if not may_touch([group])(facts.name):
            continue
        if record is not None and record.uuid == facts.uuid:
            return name if record.group == name else None
        return name if group.kind == "existing" else None
    return None


def _is_made(facts: DomainFacts, record: Record) -> bool:
    """Return whether this program made the domain, here or elsewhere.

    Its owner made one without a record, one with a record that was copied with it, and one that a group took in.
    """
    return record.uuid == facts.uuid and is_template(record)


def _owned(
    connection: Connection, config: Config, group: str, host: str, facts: DomainFacts, record: Record | None
) -> Owned:
    try:
        root = ET.fromstring(connection.definition(facts.name))  # noqa: S314 - libvirt's own text
    except HypervisorError:
        return Owned(group, host, facts, record)  # it has gone since it was listed
    nics = tuple(_nic(interface) for interface in root.iterfind("./devices/interface"))
    sources = root.iterfind("./devices/disk[@device='disk']/source")
    disks = tuple(path for source in sources if (path := source.get("file") or source.get("dev")))
    return Owned(group, host, facts, record, nics, disks, _address(connection, config.groups[group], facts))


def _address(connection: Connection, group: Group, facts: DomainFacts) -> str | None:
    """Return the address of a user's own domain; None where libvirt knows none, or tells it with more rights only."""
    rule = address_rule(group) if facts.state is DomainState.RUNNING else None
    try:
        found = () if rule is None else connection.addresses(facts.name, rule)
    except HypervisorError:
        return None
    return found[0].address if found else None


def _nic(interface: ET.Element) -> Nic:
    mac, source = interface.find("mac"), interface.find("source")
    about = source.attrib if source is not None else {}
    address = mac.get("address", "").lower() if mac is not None else ""
    return Nic(address, about.get("network", ""), "" if "network" in about else about.get("bridge", ""))


def name_of(text: str) -> str:
    """Return the name in a network's definition."""
    return ET.fromstring(text).findtext("name") or ""  # noqa: S314 - libvirt's own text


def _client_ids(connection: Connection, network: str) -> dict[str, str]:
    """Return DHCP client identifiers by MAC; none where the network is not active."""
    try:
        return dict(connection.leases(network))
    except HypervisorError:
        return {}


def _write_error(uri: str) -> str:
    """Return why this user may not change domains, empty if it may: a connection is opened and closed, no more."""
    try:
        Connection.open(uri, is_read_only=False, may_touch=lambda _name: False).close()
    except HypervisorError as error:
        return str(error)
    return ""


def _libvirt_facts(host: Host, read_error: str, write_error: str, connection: Connection | None = None) -> LibvirtFacts:
    is_local = host.uri == LOCAL_URI
    return LibvirtFacts(
        uri=host.uri,
        is_local=is_local,
        user=_user(),
        is_root=os.geteuid() == 0,
        groups=_groups(),
        sockets=_sockets() if is_local else (),
        read_error=read_error,
        write_error=write_error,
        release=_release(connection) if connection is not None else "",
        unit_groups=_unit_groups() if is_local else None,
        has_systemd=has_systemd(),
    )


def _release(connection: Connection) -> str:
    facts = connection.host_facts()
    return f"libvirt {_dotted(facts.libvirt)} with hypervisor {_dotted(facts.hypervisor)}"


def _dotted(number: str) -> str:
    """Return libvirt's version number as people write it.

    >>> _dotted("9000000")
    '9.0.0'
    """
    value = int(number)
    return f"{value // 1_000_000}.{value // 1000 % 1000}.{value % 1000}"


def _sockets() -> tuple[SocketFacts, ...]:
    paths = SOCKETS if any(Path(path).exists() for path in SOCKETS) else MODULAR
    paths = paths if any(Path(path).exists() for path in paths) else SOCKETS
    return tuple(SocketFacts(path, Path(path).exists(), os.access(path, os.W_OK)) for path in paths)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def _groups() -> tuple[str, ...]:
    return _named({*os.getgroups(), os.getegid()})


def _unit_groups() -> tuple[str, ...] | None:
    """Return the groups of the unit's account in the database, where polkit looks too."""
    try:
        return _named(os.getgrouplist(UNIT_ACCOUNT, pwd.getpwnam(UNIT_ACCOUNT).pw_gid))
    except KeyError:
        return None


def _named(gids: Collection[int]) -> tuple[str, ...]:
    known: Mapping[int, str] = {entry.gr_gid: entry.gr_name for entry in grp.getgrall()}
    return tuple(sorted({known.get(gid, str(gid)) for gid in gids}))
