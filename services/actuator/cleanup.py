"""The end of what the actuator made: ``python -m services.actuator --remove-domains`` or ``--remove-everything``.

For when the services are stopped. Domains that we made are shut down and undefined; a user's own domains stay as they
are and lose our record. The network goes with its last domain, for its DHCP server is a process too, and so does the
pool of disks. Domains of groups that were renamed or taken out of the configuration go too, where it is certain that
this installation made them: by their network and by files in our state directory.
``--remove-everything`` also removes the copies of the images. Every part has a deadline.

A domain that somebody else has suspended, or whose memory somebody has saved, stays, and is named: that memory would be
lost with it. ``--discard-saved`` allows it.
"""

import argparse
import shutil
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from common import config_file, config_places, names
from common.clock import Clock, SystemClock
from common.config import Config
from common.config_defaults import DEFAULTS
from common.domain import DomainFacts, DomainState
from common.domain_states import SAVED, Meaning, shown
from common.errors import AutoscalerError, DomainGoneError, HypervisorError
from common.hypervisor import Connection
from common.phases import Phase
from common.run_dir import Lock, ensure_run_dir
from services.actuator.access import disk_pool, may_touch
from services.actuator.core.disks import leaked
from services.actuator.core.record import Record, Unreadable, parse, read
from services.actuator.host import remove_disks
from services.actuator.snapshots import Snapshots

OFF: Final = frozenset({DomainState.SHUTOFF, DomainState.CRASHED})
UNSERVED: Final = frozenset({Phase.CREATING, Phase.BOOTING, Phase.STANDBY})
"""Nothing in such a domain is worth keeping, and one that boots misses its power button."""
LOOK_S: Final = 0.2
DESTROY_PATIENCE_S: Final = 20.0


def main(argv: Sequence[str]) -> int:
    """Clean up as the command line asks; return 0 when nothing of ours is left, else 1, 2 or 75."""
    options = _parse(argv)
    try:
        config, _ = config_file.load(config_places.chosen(options.config))
        ensure_run_dir(config.system.run_path)
        lock = Lock.take(config.system.run_path / "actuator.lock")
        try:
            return _clean(config, options.remove_everything, options.discard_saved)
        finally:
            lock.release()
    except AutoscalerError as error:
        _say(str(error))
        return error.exit_code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.actuator", description="Remove what the actuator made.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    parser.add_argument(
        "--remove-domains", action="store_true", help="shut down and undefine our domains; remove the network"
    )
    parser.add_argument("--remove-everything", action="store_true", help="copied images and stores too")
    parser.add_argument(
        "--discard-saved", action="store_true", help="also domains that somebody has suspended or saved"
    )
    return parser.parse_args(argv)


def _clean(config: Config, is_everything: bool, may_discard: bool) -> int:
    is_clean = True
    for host in config.hosts:
        try:
            is_clean &= _clean_host(config, host, is_everything, may_discard)
        except HypervisorError as error:
            _say(f"{host}: {error}")
            is_clean = False
    if is_everything and is_clean:
        shutil.rmtree(config.system.state_path / "actuator", ignore_errors=True)
        (config.system.state_path / "actuator.json").unlink(missing_ok=True)
    return 0 if is_clean else 1


def _clean_host(config: Config, host: str, is_everything: bool, may_discard: bool) -> bool:
    groups = [group for group in config.groups.values() if host in group.hosts]
    connection = Connection.open(
        config.hosts[host].uri, is_read_only=False, may_touch=may_touch(groups), pool=disk_pool(config)
    )
    try:
        found = connection.domains()
        for facts, record in [(facts, read(facts.metadata)) for facts in found if facts.metadata]:
            if isinstance(record, Unreadable):
                _say(f"{host}: {facts.name} stays: its record cannot be true ({record.why})")
        ours = own_domains(config, found)
        strays = stray_domains(config, found, connection.definition)
        for facts, record in strays:
            _say(f"{host}: {facts.name} is of group {record.group}, which the configuration no longer has like that")
        for facts, _ in [pair for pair in ours if not is_template(pair[1])]:
            connection.set_metadata(facts.name, facts.uuid, {})
            _say(f"{host}: {facts.name} is yours; it stays as it is ({facts.state})")
        made = [pair for pair in (*ours, *strays) if is_template(pair[1])]
        waiting = {facts.name: why for facts, record in made if (why := why_it_waits(facts, record))}
        for name, why in waiting.items():
            kept_text = "its memory would be lost: it stays; let it run again, or use --discard-saved"
            _say(f"{host}: {name}: {why}; {'its memory goes with it' if may_discard else kept_text}")
        kept = [] if may_discard else list(waiting)
        going = [(facts, record) for facts, record in made if facts.name not in kept]
        unserved = frozenset(facts.uuid for facts, record in going if record.phase in UNSERVED)
        left = kept + Removal(connection, host, SystemClock(), _patience_s(config)).run(
            [facts for facts, _ in going], unserved
        )
        _remove_disks(connection, host, () if is_everything else Snapshots(config.system.state_path).spared())
        has_made_network = bool(strays) or any(group.kind == "template" for group in groups)
        if not left and has_made_network and connection.has_network(config.network.name):
            connection.remove_network(config.network.name)
            _say(f"{host}: network {config.network.name} is removed")
        return not left
    finally:
        connection.close()


def _remove_disks(connection: Connection, host: str, spared: Collection[str]) -> None:
    """Remove what is left of our volumes, and the pool with the last; a domain that is still there keeps its own."""
    names = leaked(connection.volumes(), *connection.owners(), spared)
    if names:
        connection.remove_volumes(names.__contains__)
        _say(f"{host}: removed {len(names)} volumes that no domain owned")
    if not connection.remove_pool():
        kept = f"the disks of {len(spared)} snapshots are" if spared else "volumes are left"
        _say(f"{host}: the pool of disks stays: {kept} in it")


def own_domains(config: Config, found: Sequence[DomainFacts]) -> list[tuple[DomainFacts, Record]]:
    """Return the domains that carry a record of this configuration's groups, written for themselves."""
    pairs = [(facts, parse(facts.metadata)) for facts in found]
    return [
        (facts, record)
        for facts, record in pairs
        if record is not None
        and record.uuid == facts.uuid
        and record.group in config.groups
        and _is_name_of(config.groups[record.group].prefix, facts.name)
    ]


def stray_domains(
    config: Config, found: Sequence[DomainFacts], definition: Callable[[str], str]
) -> list[tuple[DomainFacts, Record]]:
    """Return the domains that this installation made for groups that the configuration no longer has like that.

    Args:
        config: what is configured now.
        found: the domains of a host.
        definition: gives the XML of a domain by its name.
    """
    known = {facts.uuid for facts, _ in own_domains(config, found)}
    pairs = [(facts, parse(facts.metadata)) for facts in found if facts.uuid not in known]
    return [
        (facts, record)
        for facts, record in pairs
        if record is not None
        and record.uuid == facts.uuid
        and is_template(record)
        and _is_made_here(config, definition(facts.name))
    ]


def renamed_domains(
    config: Config, found: Sequence[DomainFacts], definition: Callable[[str], str]
) -> list[tuple[DomainFacts, Record, str]]:
    """Return the domains of a group that now goes by another name: their names fit a group, their records another.

    Args:
        config: what is configured now.
        found: the domains of a host.
        definition: gives the XML of a domain by its name; only what this installation made, or took in, counts.

    Returns:
        Each with its record and the name of the group that its own name fits.
    """
    pairs = [(facts, parse(facts.metadata)) for facts in found]
    return [
        (facts, record, name)
        for facts, record in pairs
        if record is not None and record.uuid == facts.uuid
        for name, group in config.groups.items()
        if name != record.group
        and _is_name_of(group.prefix, facts.name)
        and (not is_template(record) or _is_made_here(config, definition(facts.name)))
    ]


def _is_made_here(config: Config, xml: str) -> bool:
    """Return whether a definition is on our network and names files in our state directory: another's has its own."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirt wrote it
    networks = {source.get("network") for source in root.iterfind("devices/interface/source")}
    sources = list(root.iterfind("devices/*/source"))
    paths = [root.findtext("os/kernel"), *(source.get("path") or source.get("file") for source in sources)]
    state = config.system.state_path
    return config.network.name in networks and any(Path(path).is_relative_to(state) for path in paths if path)


def _is_name_of(prefix: str, name: str) -> bool:
    return names.domain_index(prefix, name) is not None or name == names.template_name(prefix)


def why_it_waits(facts: DomainFacts, record: Record) -> str:
    """Return why a domain does not run that somebody else has suspended or saved; nothing of any other one."""
    state = shown(facts.state, facts.state_reason, facts.has_saved_state)
    is_saved = state == shown(DomainState.SHUTOFF, SAVED, False)
    is_suspended = facts.state is DomainState.PAUSED and state.meaning in (Meaning.OWNER, Meaning.TRANSIENT)
    is_reserve = record.tier in ("paused", "saved") and not record.is_woken
    is_ours = is_reserve or record.phase in (Phase.STANDBY, Phase.CREATING)
    return state.text if (is_saved or is_suspended) and not is_ours else ""


def is_template(record: Record) -> bool:
    """Return whether we made the domain: then its record names the image it was made from."""
    return bool(record.template)


def _patience_s(config: Config) -> float:
    """Return how long those may take that are removed: none of the user's own."""
    allowed = (group.stop_timeout_s for group in config.groups.values() if group.kind == "template")
    return max(allowed, default=DEFAULTS["stop_timeout_s"].disk)


class Removal:
    """Takes domains from running to gone: all are asked to shut down, those that do not are destroyed, side by side.

    Whom the power button did not move by half of the time is also asked through the guest's agent. A saved memory goes
    with its definition.
    """

    def __init__(self, connection: Connection, host: str, clock: Clock, patience_s: float) -> None:
        """``patience_s`` is how long guests may take to shut down."""
        self._connection = connection
        self._host = host
        self._clock = clock
        self._patience_s = patience_s
        self._pause = threading.Event()

    def run(self, domains: Sequence[DomainFacts], unserved: Collection[str] = ()) -> list[str]:
        """Return the names of those that are still there at the end.

        Args:
            domains: who is to go.
            unserved: the UUIDs of those among them that are powered off at once.
        """
        mine = {facts.name: facts.uuid for facts in domains}
        running = {facts.name: facts.uuid for facts in domains if facts.state is DomainState.RUNNING}
        paused = {facts.name: facts.uuid for facts in domains if facts.state is DomainState.PAUSED}
        self._ask({name: uuid for name, uuid in running.items() if uuid not in unserved}, "asked")
        self._end(paused | {name: uuid for name, uuid in running.items() if uuid in unserved})
        self._wait(mine, self._patience_s / 2)
        states = self._states(mine)
        deaf = {name: uuid for name, uuid in mine.items() if states.get(name) is DomainState.RUNNING}
        self._ask_agents(deaf)
        self._ask(deaf, "asked again")
        self._wait(mine, self._patience_s / 2)
        self._end({name: mine[name] for name, state in self._states(mine).items() if state not in OFF})
        self._wait(mine, DESTROY_PATIENCE_S)
        left = sorted(self._states(mine))
        if left:
            _say(f"{self._host}: not removed: {', '.join(left)}")
        return left

    def _ask(self, uuids: Mapping[str, str], how: str) -> None:
        for name, uuid in uuids.items():
            self._try(name, uuid, f"{how} to shut down", self._connection.shutdown)

    def _ask_agents(self, uuids: Mapping[str, str]) -> None:
        """Ask side by side, without waiting: an agent's answer may take a minute, and need not come."""
        _side_by_side(self._shut_down_by_agent, uuids)

    def _shut_down_by_agent(self, name: str, uuid: str) -> None:
        with suppress(HypervisorError):  # it has its time all the same, and what then becomes of it is said
            if self._connection.shutdown_by_agent(name, uuid):
                _say(f"{self._host}: {name} shut down by its guest agent")

    def _end(self, uuids: Mapping[str, str]) -> None:
        """Destroy them side by side: those that do not shut down, and those that cannot or need not."""
        _side_by_side(self._destroy, uuids)

    def _wait(self, mine: dict[str, str], patience_s: float) -> None:
        """Undefine each as soon as it is off, until none is left or the time is over."""
        until_s = self._clock.monotonic_s() + patience_s
        while states := self._states(mine):
            for name, state in states.items():
                if state in OFF:
                    self._try(name, mine[name], "removed", self._undefine)
            if self._clock.monotonic_s() >= until_s:
                return
            self._pause.wait(LOOK_S)

    def _states(self, mine: dict[str, str]) -> dict[str, DomainState]:
        return {f.name: f.state for f in self._connection.domains() if mine.get(f.name) == f.uuid}

    def _destroy(self, name: str, uuid: str) -> None:
        self._try(name, uuid, "powered off", self._connection.destroy)

    def _undefine(self, name: str, uuid: str) -> None:
        remove_disks(self._connection, uuid)
        self._connection.undefine(name, uuid)

    def _try(self, name: str, uuid: str, done: str, call: Callable[[str, str], None]) -> None:
        try:
            call(name, uuid)
            _say(f"{self._host}: {name} {done}")
        except DomainGoneError:
            _say(f"{self._host}: {name} is gone")
        except HypervisorError as error:
            _say(f"{self._host}: {name}: {error}")


def _side_by_side(call: Callable[[str, str], None], uuids: Mapping[str, str]) -> None:
    for each in uuids.items():
        threading.Thread(target=call, args=each, daemon=True).start()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is a command
