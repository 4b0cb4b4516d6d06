"""What the shell knows of all hosts at this moment: the newest observation of each, and the steps in flight.

Nothing here survives a restart, and nothing has to: the next look brings it back.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from common.domain import DomainFacts, DomainState
from common.phases import Phase
from services.actuator.addresses import Found
from services.actuator.core.disks import Base
from services.actuator.core.events import WAS_LEAVING
from services.actuator.core.members import Member
from services.actuator.core.past import Past, resumed, seen
from services.actuator.core.record import Record, Unreadable, read
from services.actuator.core.seen import SeenDomain, SeenHost
from services.actuator.core.steps import Define, Resume, Step, TakeSnapshot, Undefine
from services.actuator.perform import Outcome, Result
from services.actuator.worker import Bases, Lost, Observation, Prepared

QUARANTINE_S: Final = 10.0
FORGET_S: Final = 120.0
FORGET_SNAPSHOT_S: Final = 1800.0  # every part of it has a deadline of its own
RETRY_S: Final = 1.0
VANISHED_S: Final = 60.0  # so long it is known who is gone, for whoever takes the place


@dataclass(slots=True)
class Flight:
    """A step that was begun; it is over once a look that began after ``over_s`` has been taken.

    A step that failed is over a moment later than it ended: what fails is not tried many times a second.
    """

    step: Step
    begun_s: float
    over_s: float | None = None


@dataclass(slots=True)
class HostState:
    """One host as last heard."""

    name: str
    first_s: float
    domains: tuple[SeenDomain, ...] = ()
    observed_s: float | None = None
    is_lost: bool = False
    accel: str | None = None
    note: str = ""
    version: str = ""
    free_memory_bytes: int | None = None
    cpus: int = 1
    freed: dict[int, float] = field(default_factory=dict)
    owned: dict[str, int] = field(default_factory=dict)
    looks: dict[str, tuple[float, SeenDomain | None]] = field(default_factory=dict)
    pasts: dict[str, Past] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)
    vanished: tuple[SeenDomain, ...] = ()


class Hosts:
    """All hosts; used by the service's own thread only."""

    def __init__(
        self, hosts: Iterable[str], now_s: float, stale_after_s: float, owned: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Start knowing nothing about ``hosts`` but how many domains of each group were last seen there: ``owned``."""
        self._hosts = {name: HostState(name, now_s, owned=dict(owned.get(name, {}))) for name in hosts}
        self._stale_after_s = stale_after_s
        self._flights: dict[tuple[str, str], Flight] = {}
        self._news: list[SeenDomain] = []

    def observed(self, report: Observation) -> bool:
        """Take in a look; return whether the host was lost before."""
        host = self._hosts[report.host]
        was_lost, host.is_lost = host.is_lost, False
        host.looks = {name: look for name, look in host.looks.items() if look[0] > report.started_s}
        listed = tuple(_seen_domain(host, facts, report) for facts in report.domains if facts.name not in host.looks)
        before, host.domains = host.domains, _with_looks(listed, host.looks)
        self._note_vanished(host, before, report.started_s)
        host.pasts = {domain.uuid: domain.past for domain in host.domains if domain.past is not None}
        host.observed_s = report.started_s
        host.owned = dict(Counter(d.record.group for d in host.domains if d.record and _counts(d, d.record)))
        host.free_memory_bytes, host.cpus = report.free_memory_bytes, report.cpus
        for key, flight in list(self._flights.items()):
            if key[0] == report.host and flight.over_s is not None and flight.over_s <= report.started_s:
                del self._flights[key]
        return was_lost

    def lost(self, report: Lost) -> bool:
        """Note that the host does not answer; return whether that is news."""
        host = self._hosts[report.host]
        is_news, host.is_lost = not host.is_lost, True
        return is_news

    def prepared(self, report: Prepared) -> None:
        """Note the host's acceleration, or why it is not known."""
        host = self._hosts[report.host]
        host.accel, host.note, host.version = report.accel, report.error, report.version

    def stored(self, report: Bases) -> None:
        """Note what the host's disk images are good for."""
        self._hosts[report.host].bases = report.bases

    def base(self, host: str, path: str) -> Base | None:
        """Return what is known of a disk image on a host, None where it has not been looked at."""
        return self._hosts[host].bases.get(path)

    def begun(self, step: Step, now_s: float) -> None:
        """Note that the step is in flight."""
        self._flights[(step.host, step.domain)] = Flight(step, now_s)
        pasts = self._hosts[step.host].pasts
        if isinstance(step, Resume) and step.uuid in pasts:
            pasts[step.uuid] = resumed(pasts[step.uuid], now_s)

    def finished(self, outcome: Outcome) -> None:
        """Note that the step is over; its effect counts once it has been looked at."""
        flight = self._flights.get((outcome.step.host, outcome.step.domain))
        if flight is not None and flight.step is outcome.step:
            flight.over_s = outcome.finished_s + (0.0 if outcome.result is Result.DONE else RETRY_S)
            if outcome.result is Result.DONE and outcome.looked_s is not None:
                self._looked(outcome, outcome.looked_s)
                del self._flights[(outcome.step.host, outcome.step.domain)]
        step = outcome.step
        if isinstance(step, Undefine) and outcome.result is Result.DONE and step.slot is not None:
            self._hosts[step.host].freed[step.slot] = outcome.finished_s

    def _looked(self, outcome: Outcome, looked_s: float) -> None:
        """Take in how the step's domain looks after it, so that nobody waits for the next listing."""
        host, step = self._hosts[outcome.step.host], outcome.step
        known = next((d for d in host.domains if d.name == step.domain), None)
        addresses = {}
        if known is not None and known.uuid == step.uuid and known.address is not None:
            addresses[step.domain] = Found(known.address, known.address_note)
        look = Observation(host.name, looked_s, (), None, 0, addresses)
        domain = None if outcome.facts is None else _seen_domain(host, outcome.facts, look)
        host.looks[step.domain] = looked_s, domain
        before, host.domains = host.domains, _with_looks(host.domains, {step.domain: (looked_s, domain)})
        self._note_vanished(host, before, looked_s)

    def _note_vanished(self, host: HostState, before: tuple[SeenDomain, ...], now_s: float) -> None:
        """Note who was there before and is gone, unless a step of ours has removed it, or tells it itself."""
        left = {domain.uuid for domain in host.domains}
        removed = {
            flight.step.uuid
            for flight in self._flights.values()
            if flight.step.host == host.name and isinstance(flight.step, Undefine | Define | TakeSnapshot)
        }
        host.vanished = tuple(d for d in host.vanished if d.record and now_s - d.record.since_mono_s < VANISHED_S)
        for domain in before:
            record = domain.record
            if record is None or not _counts(domain, record) or domain.uuid in left | removed:
                continue
            self._news.append(domain)
            if record.phase not in WAS_LEAVING and not Member(domain, record).is_reserve:
                failed = replace(record, phase=Phase.FAILED, since_mono_s=now_s)
                host.vanished += (replace(domain, power=DomainState.SHUTOFF, record=failed, past=None),)

    def take_vanished(self) -> list[SeenDomain]:
        """Return, once, the domains of ours that are gone and that we have not removed, as they were seen last."""
        news, self._news = self._news, []
        return news

    def is_busy(self, host: str, domain: str) -> bool:
        """Return whether a step for this domain is in flight."""
        return (host, domain) in self._flights

    def is_standing_by(self, host: str, uuid: str) -> bool:
        """Return whether the domain stands by, or boots to stand by."""
        found = (d for d in self._hosts[host].domains if d.uuid == uuid) if host in self._hosts else ()
        return any(Member(domain, domain.record).is_reserve for domain in found if domain.record is not None)

    def overdue(self, now_s: float) -> list[Step]:
        """Return and forget the steps that have been under way for so long that their thread must be lost."""
        late = [flight.step for flight in self._flights.values() if now_s - flight.begun_s > _patience_s(flight.step)]
        for step in late:
            del self._flights[(step.host, step.domain)]
        return late

    def in_flight(self) -> tuple[Step, ...]:
        """Return the steps in flight, oldest first."""
        return tuple(flight.step for flight in self._flights.values())

    def owned(self) -> dict[str, dict[str, int]]:
        """Return by host how many domains of each group it has, or had when it was last seen."""
        return {host.name: dict(host.owned) for host in self._hosts.values()}

    def seen(self, now_s: float) -> tuple[SeenHost, ...]:
        """Return all hosts as values for the planner."""
        return tuple(self._seen_host(host, now_s) for host in self._hosts.values())

    def _seen_host(self, host: HostState, now_s: float) -> SeenHost:
        heard_s = host.first_s if host.observed_s is None else host.observed_s
        silent_s = max(0.0, now_s - heard_s)
        host.freed = {slot: at_s for slot, at_s in host.freed.items() if now_s - at_s < QUARANTINE_S}
        is_reachable = host.observed_s is not None and not host.is_lost and silent_s <= self._stale_after_s
        return SeenHost(
            name=host.name,
            domains=host.domains,
            is_reachable=is_reachable,
            unreachable_s=0.0 if is_reachable else silent_s,
            is_ever_seen=host.observed_s is not None,
            accel=host.accel,
            free_memory_bytes=host.free_memory_bytes,
            cpus=host.cpus,
            quarantined_slots=frozenset(host.freed),
            note=host.note,
            remembered=host.owned,
            version=host.version,
            bases=host.bases,
            vanished=host.vanished,
        )


def _patience_s(step: Step) -> float:
    return FORGET_SNAPSHOT_S if isinstance(step, TakeSnapshot) else FORGET_S


def _counts(domain: SeenDomain, record: Record) -> bool:
    return record.uuid == domain.uuid and record.phase is not Phase.GONE and record.tier != "template"


def _with_looks(
    domains: tuple[SeenDomain, ...], looks: Mapping[str, tuple[float, SeenDomain | None]]
) -> tuple[SeenDomain, ...]:
    """Return the domains as they were seen last: those in ``looks`` were looked at one by one since."""
    if not looks:
        return domains
    found = {domain.name: domain for domain in domains} | {name: domain for name, (_, domain) in looks.items()}
    return tuple(domain for domain in found.values() if domain is not None)


def _seen_domain(host: HostState, facts: DomainFacts, look: Observation) -> SeenDomain:
    """Return the domain as it looked, and note what that adds to its past."""
    troubles, found = look.troubles.get(facts.name, ()), look.addresses.get(facts.name)
    past = seen(host.pasts.get(facts.uuid), facts.state, facts.state_reason, look.started_s, troubles)
    host.pasts[facts.uuid] = past
    record = read(facts.metadata) if facts.metadata else None
    return SeenDomain(
        host=host.name,
        name=facts.name,
        uuid=facts.uuid,
        power=facts.state,
        record=record if isinstance(record, Record) else None,
        unreadable=record if isinstance(record, Unreadable) else None,
        power_reason=facts.state_reason,
        is_persistent=facts.is_persistent,
        address=None if found is None else found.address,
        address_note="" if found is None else found.note,
        has_saved_state=facts.has_saved_state,
        has_link=facts.has_link,
        past=past,
    )
