"""How the workers reach the real thing: libvirt, the network of our guests, the proof of acceleration."""

from collections.abc import Callable

from common import acceleration, names
from common.config import Config, Group
from common.hypervisor import Connection
from common.name_servers import name_servers
from common.network_xml import network_xml
from common.virt.addresses import Rule, Source
from common.volume import Pool
from services.actuator.host import Host
from services.actuator.worker import Access


def access(config: Config, host: str) -> Access:
    """Return how ``host`` of the configuration is reached."""
    groups = [group for group in config.groups.values() if host in group.hosts]
    pool = disk_pool(config)

    def connect() -> Connection:
        return Connection.open(config.hosts[host].uri, is_read_only=False, may_touch=may_touch(groups), pool=pool)

    return Access(
        open=connect,
        storage=connect,
        pool=pool,
        watch=_watch,
        prepare=lambda connection: _prepare(config, host, groups, connection),
        sources=lambda name: _source(groups, name),
        version=_version,
    )


def disk_pool(config: Config) -> Pool:
    """Return our pool of disks, the same on every host; like the network it belongs to one installation."""
    return Pool(f"{config.network.name}-disks", f"{config.system.state_dir}/disks")


def may_touch(groups: list[Group]) -> Callable[[str], bool]:
    """Return the rule for names: those under the prefix of one of ``groups``, with four digits, and its template."""
    prefixes = tuple(group.prefix for group in groups)
    templates = {names.template_name(prefix) for prefix in prefixes}
    return lambda name: name in templates or any(names.domain_index(prefix, name) is not None for prefix in prefixes)


def _watch(connection: Host, on_change: Callable[[], None]) -> None:
    assert isinstance(connection, Connection)  # noqa: S101 - opened above
    connection.watch(lambda _event: on_change(), on_change)


def _prepare(config: Config, host: str, groups: list[Group], connection: Host) -> str:
    """Make the network where template domains need it, and return the libvirt domain type to use."""
    assert isinstance(connection, Connection)  # noqa: S101 - opened above
    if not any(group.kind == "template" for group in groups):
        return "qemu"
    connection.ensure_network(network_xml(config.network, name_servers(config.network)), config.network.name)
    return acceleration.choose(config, host, connection).type


def _version(connection: Host) -> str:
    assert isinstance(connection, Connection)  # noqa: S101 - opened above
    facts = connection.host_facts()
    return f"libvirt {facts.libvirt}, hypervisor {facts.hypervisor}"


def _source(groups: list[Group], name: str) -> Rule | None:
    for group in groups:
        if group.kind == "existing" and names.domain_index(group.prefix, name) is not None:
            return address_rule(group)
    return None


def address_rule(group: Group) -> Rule | None:
    """Return how the addresses of an existing group's domains are found, None where the file names them."""
    if group.kind == "template" or group.address_source == "static":
        return None
    return Rule(Source(group.address_source), group.address_network)
