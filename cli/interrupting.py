"""Before ``up`` puts a changed file in force: what in it would interrupt service, whatever the new values are?

Most of a file is taken over without a request lost. Some keys are not: one that is in HAProxy's own command has it
started anew, and one by which domains are known makes those that serve be nobody's, before others have booted.
"""

import os
from collections.abc import Mapping, Sequence

from cli import haproxy_process, shared_dirs
from cli.supervision import is_supervised
from common import in_force
from common.config import Config, System
from common.config_environment import overriding
from common.config_file import Loaded, read
from common.config_live import changes
from common.domain import DomainFacts, DomainState
from common.errors import AutoscalerError, ConfigError, HypervisorError
from common.hypervisor import Connection
from services.actuator.cleanup import is_template, own_domains
from services.actuator.core.record import Record

Running = Mapping[str, Sequence[tuple[DomainFacts, Record]]]
"""By host of the configuration in force: its domains that run."""

NETWORK = ("network.name", "network.bridge", "network.subnet")
ANEW = "HAProxy would be started anew, and refuse requests for some seconds"


def refuse_interrupting(config: Config, *, is_forced: bool = False, environ: Mapping[str, str] | None = None) -> None:
    """Return if nothing runs, if nothing that runs would be interrupted by this configuration, or if it ``is_forced``.

    Raises:
        AutoscalerError: something would be; nothing was changed.
    """
    if is_forced or not _runs(config.system):
        return
    try:
        old = read(in_force.place(config.system.run_path))
    except ConfigError:
        return  # nobody knows what is in force
    variables = overriding(os.environ if environ is None else environ)
    found = [*restarting(old, config, variables), *abandoning(old.config, config, _running(old.config))]
    if found:
        raise AutoscalerError(f"nothing was changed: {'; '.join(found)}. If it is meant: make up FORCE=1 (up --force)")


def restarting(old: Loaded, new: Config, variables: Mapping[str, str]) -> list[str]:
    """Return what has HAProxy started anew: supervisord keeps none with another command or environment.

    See ``supervisor_config.keeps_haproxy``.
    """
    found = []
    before = old.config.system
    if before.state_path != new.system.state_path:
        found.append(f"system.state_dir {before.state_dir} → {new.system.state_dir}")
    had = old.source.variables
    other = sorted(name for name in {*had, *variables} if had.get(name) != variables.get(name))
    if other:
        found.append(f"the environment sets {', '.join(other)} otherwise than it did")
    return [f"{' and '.join(found)}: {ANEW}"] if found else []


def abandoning(old: Config, new: Config, running: Running) -> list[str]:
    """Return what makes domains that run be nobody's, with these. A group that is gone is meant to go, but where
    another one takes its endpoint.
    """
    said = {".".join(change.path): change.text for change in changes(old, new)}
    left: dict[str, set[str]] = {}
    for host, pairs in running.items():
        for facts, record in pairs:
            for key in _cutting(old, new, host, record):
                if key in said:
                    left.setdefault(key, set()).add(facts.name)
    return [
        f"{said[key]}: {_some(sorted(names))} would serve no more, and others have to boot first"
        for key, names in left.items()
    ]


def _cutting(old: Config, new: Config, host: str, record: Record) -> list[str]:
    """Return the keys by which a domain of the old configuration may be nobody's in the new one."""
    name, before = record.group, old.groups[record.group]
    after = new.groups.get(name)
    if after is None:
        is_taken = any(group.endpoint == before.endpoint for group in new.groups.values())
        return [f"groups.{name}"] if is_taken else []
    keys = [f"groups.{name}.prefix"]
    if not any(new.hosts[other].uri == old.hosts[host].uri for other in after.hosts):
        keys.append(f"hosts.{host}.uri" if host in after.hosts else f"groups.{name}.hosts")
    return [*keys, *NETWORK] if is_template(record) else keys


def _running(config: Config) -> Running:
    """Return what runs of this configuration; a host that does not answer has nothing to lose."""
    found = {}
    for name, host in config.hosts.items():
        try:
            connection = Connection.open(host.uri, is_read_only=True, may_touch=lambda _name: False)
            try:
                pairs = own_domains(config, connection.domains())
            finally:
                connection.close()
        except HypervisorError:
            continue
        found[name] = [
            (facts, record)
            for facts, record in pairs
            if facts.state is DomainState.RUNNING and name in config.groups[record.group].hosts
        ]
    return found


def _runs(system: System) -> bool:
    return is_supervised(system) or haproxy_process.serves(system) or shared_dirs.are_shared(system)


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
