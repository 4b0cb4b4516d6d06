"""Domains that this installation made for groups that its configuration no longer has like that.

The services leave them alone; ``down`` removes them with the others.
"""

from common.config import Config
from common.config_live import rename_text
from common.errors import AutoscalerError, HypervisorError
from common.hypervisor import Connection
from services.actuator.cleanup import renamed_domains, stray_domains


def left_over(config: Config, connection: Connection) -> dict[str, str]:
    """Return the group of each such domain of a host, by its name.

    Raises:
        HypervisorError: the host does not answer.
    """
    strays = stray_domains(config, connection.domains(), connection.definition)
    return {facts.name: record.group for facts, record in strays}


def left_over_lines(config: Config) -> list[str]:
    """Return one line for each host that has such domains; of a host that does not answer the services tell."""
    lines = []
    for name, host in config.hosts.items():
        try:
            connection = Connection.open(host.uri, is_read_only=True, may_touch=lambda _name: False)
            try:
                found = left_over(config, connection)
            finally:
                connection.close()
        except HypervisorError:
            continue
        if found:
            lines.append(f"{listed(found)} on {name}, of groups that the configuration no longer has like that")
    return lines


def refuse_renamed(config: Config) -> None:
    """Refuse a configuration in which the group of domains that are there goes by another name.

    Its members would be nobody's: their records name the old group. A host that does not answer is not asked.

    Raises:
        AutoscalerError: such a domain is there; the message says the ways out.
    """
    for host in config.hosts.values():
        try:
            connection = Connection.open(host.uri, is_read_only=True, may_touch=lambda _name: False)
            try:
                found = renamed_domains(config, connection.domains(), connection.definition)
            finally:
                connection.close()
        except HypervisorError:
            continue
        for facts, record, name in found:
            others = sum(1 for _, other, _ in found if other.group == record.group) - 1
            which = f"{facts.name}{f' and {others} more' if others else ''}"
            prefix = config.groups[name].prefix
            raise AutoscalerError(f"{rename_text(record.group, name, prefix)}; of the old name there is {which}")


def listed(groups: dict[str, str], most: int | None = None) -> str:
    """Return domains with their groups in one line: the first ``most`` of them, and how many more there are.

    >>> listed({"old-0001": "old", "old-0000": "old"})
    'old-0000 (group old), old-0001 (group old)'
    >>> listed({"old-0001": "old", "old-0000": "old"}, 1)
    'old-0000 (group old) and 1 more'
    """
    names = [f"{name} (group {group})" for name, group in sorted(groups.items())]
    more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
    return ", ".join(names[:most]) + more
