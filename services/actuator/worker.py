"""One host's threads: an observer, a few hands, a quick and a slow lane. A host that hangs holds up nobody else.

The observer looks every tick, at once after a step or an event, and never faster than ``LOOK_GAP_S``. The hands
perform steps; what takes milliseconds does not wait for them. Destroying takes up to 12 s where QEMU is frozen, so that
has a lane of its own, and so has taking a snapshot. Everything is reported through one callback; nothing here decides.
The threads are daemons: one that is stuck in a call ends with the process.

# Note [Listing waits for the dying]
While libvirt ends a domain, it holds that domain's lock, and every listing waits for it: 12 s where QEMU is frozen. So
none is begun while a destroy of ours is under way; the other domains are then looked at one by one, by name. A domain
that somebody else makes in those seconds is seen after them. The dying one itself is shown as it was when its end
began: the last listing may be older than the phase that its end follows from.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Final

from common.clock import Clock
from common.domain import DiskTrouble, DomainFacts, DomainState
from common.domain_states import IO_ERROR
from common.errors import AutoscalerError, HypervisorError, HypervisorLostError
from common.log import logger
from common.virt.addresses import Rule
from common.volume import Pool
from services.actuator import guest_agents
from services.actuator.addresses import AddressBook, Found
from services.actuator.core.disks import Base
from services.actuator.core.steps import (
    Define,
    Destroy,
    PlugIn,
    Save,
    SetPhase,
    SetQuota,
    Shutdown,
    Start,
    Step,
    Suspend,
    TakeSnapshot,
    Wake,
)
from services.actuator.drafts import Draft
from services.actuator.host import Host
from services.actuator.keeper import Storage
from services.actuator.perform import Outcome, Result, attempt

LOOK_GAP_S: Final = 0.03
HANDS: Final = 4
QUICK_HANDS: Final = 4  # a frozen QEMU may hold one up for a while
SLOW_HANDS: Final = 2
FIRST_RETRY_S: Final = 0.25
LONGEST_RETRY_S: Final = 4.0
PREPARE_RETRY_S: Final = 5.0
TROUBLE_RETRY_S: Final = 10.0

log = logger()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a host showed; ``started_s`` is when the look began: later changes may be missing in it.

    ``addresses`` and ``troubles`` (of the disks, where an I/O error has paused the domain) are by name.
    """

    host: str
    started_s: float
    domains: tuple[DomainFacts, ...]
    free_memory_bytes: int | None
    cpus: int
    addresses: Mapping[str, Found] = field(default_factory=dict)
    troubles: Mapping[str, tuple[DiskTrouble, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """The host does not answer."""

    host: str
    error: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The host is ready for new domains of the libvirt type ``accel``, or not: then ``error`` says why.

    ``version`` is that of libvirt and its hypervisor.
    """

    host: str
    accel: str | None
    error: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Bases:
    """What the disk images on a host are good for, by path."""

    host: str
    bases: Mapping[str, Base]


Lane = SimpleQueue[tuple[Step, str | Draft | None]]
Report = Observation | Lost | Prepared | Outcome | Bases


@dataclass(frozen=True, slots=True)
class Access:
    """How a worker reaches its host.

    ``open`` connects; ``watch`` registers a callback for lifecycle events and one for the loss of the connection;
    ``prepare`` makes the network and returns the libvirt domain type. ``sources`` tells where the address of an
    existing group's domain is found, None for other names. ``storage`` connects for the keeper of the host's disks,
    which are in ``pool``; None where there is none.
    """

    open: Callable[[], Host]
    watch: Callable[[Host, Callable[[], None]], None]
    prepare: Callable[[Host], str]
    sources: Callable[[str], Rule | None] = lambda _name: None
    version: Callable[[Host], str] = lambda _host: ""
    storage: Callable[[], Storage] | None = None
    pool: Pool | None = None


class HostWorker:
    """The threads of one host."""

    def __init__(
        self, name: str, access: Access, clock: Clock, tick_s: float, report: Callable[[Report], None]
    ) -> None:
        """Start nothing yet; ``report`` is called from any of the threads."""
        self.name = name
        self._access = access
        self._clock = clock
        self._tick_s = tick_s
        self._report = report
        self._look = threading.Event()
        self._stopping = threading.Event()
        self._connection: Host | None = None
        self._to_prepare = threading.Event()
        self._may_change = threading.Event()
        self._may_change.set()
        self._hands: Lane = SimpleQueue()
        self._quick: Lane = SimpleQueue()
        self._slow: Lane = SimpleQueue()
        self._studio: Lane = SimpleQueue()
        self._hurt: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._troubles: dict[str, tuple[str, tuple[DiskTrouble, ...]]] = {}
        self._hurt_asked_s: dict[str, float] = {}
        self._clocks = guest_agents.GuestAgents(name, "clock-unconfirmed")
        self._stops = guest_agents.GuestAgents(name, "shutdown-unconfirmed")
        self._addresses = AddressBook(name, access.sources, clock, self.look)
        self._listing = threading.Lock()
        self._ending: set[str] = set()
        self._made: set[str] = set()
        self._last: dict[str, DomainFacts] = {}

    def start(self) -> None:
        """Start the observer, the preparation and the hands."""
        self._spawn("observer", self._observe)
        self._spawn("prepare", self._prepare)
        self._spawn("disks", self._ask_disks)
        self._spawn("addresses", self._addresses.run)
        for number in range(guest_agents.THREADS):
            self._spawn(f"clock-{number}", self._clocks.run)
            self._spawn(f"stop-{number}", self._stops.run)
        lanes = {"hand": (self._hands, HANDS), "quick": (self._quick, QUICK_HANDS), "slow": (self._slow, SLOW_HANDS)}
        for role, (lane, count) in (lanes | {"studio": (self._studio, 1)}).items():
            for number in range(count):
                self._spawn(f"{role}-{number}", partial(self._work, lane))

    def submit(self, step: Step, xml: str | Draft | None = None) -> None:
        """Hand over a step; its ``Outcome`` is reported, whatever happens."""
        self._lane(step).put((step, xml))

    def ask_agent(self, domain: str, timeout_s: float) -> str | None:
        """Return the host name that the domain's guest agent tells, None while nobody answers."""
        connection = self._connection
        return None if connection is None else connection.agent_host_name(domain, timeout_s)

    def allow(self, is_allowed: bool) -> None:
        """Let the host be made ready for new domains, or leave it as it is: where every group only observes."""
        (self._may_change.set if is_allowed else self._may_change.clear)()

    def doubt(self, uuids: frozenset[str]) -> None:
        """Say of which domains the address is in doubt: it is asked for again, and another one is tried."""
        self._addresses.doubt(uuids)

    def look(self) -> None:
        """Ask for a look as soon as possible; safe from every thread."""
        self._look.set()

    def stop(self) -> None:
        """Tell the threads to end; steps that wait in a lane are not begun any more."""
        self._stopping.set()
        self._addresses.stop()
        self._clocks.stop()
        self._stops.stop()
        self._look.set()
        self._to_prepare.set()
        self._may_change.set()
        self._hurt.put(("", ""))

    def _lane(self, step: Step) -> Lane:
        """Return where the step waits for its turn: what takes milliseconds never does so behind what takes longer."""
        match step:
            case SetPhase() | SetQuota() | PlugIn() | Suspend() | Wake(tier="paused"):
                return self._quick
            case Destroy() | Save():
                return self._slow
            case TakeSnapshot():
                return self._studio
            case _:
                return self._hands

    def _spawn(self, role: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"{self.name}-{role}", daemon=True).start()

    def _observe(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            self._look.clear()
            try:
                self._report(self._observation(self._connected()))
                retry_s = FIRST_RETRY_S
            except HypervisorError as error:
                self._lose(error)
                self._stopping.wait(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
                continue
            self._stopping.wait(LOOK_GAP_S)
            self._look.wait(self._tick_s)

    def _connected(self) -> Host:
        connection = self._connection
        if connection is None:
            connection = self._access.open()
            self._access.watch(connection, self.look)
            self._connection = connection
            self._to_prepare.set()
            log.info("host-connected", host=self.name)
        return connection

    def _lose(self, error: HypervisorError) -> None:
        self._report(Lost(self.name, str(error)))
        connection = self._connection
        if connection is not None and (isinstance(error, HypervisorLostError) or not connection.is_alive()):
            self._connection = None
            connection.close()

    def _observation(self, connection: Host) -> Observation:
        started_s = self._clock.monotonic_s()
        domains = self._domains(connection)
        return Observation(
            host=self.name,
            started_s=started_s,
            domains=domains,
            free_memory_bytes=connection.free_memory_bytes(),
            cpus=connection.host_cpus(),
            addresses=self._addresses.see(connection, domains),
            troubles=self._find_troubles(domains),
        )

    def _domains(self, connection: Host) -> tuple[DomainFacts, ...]:
        """Return all domains; see Note [Listing waits for the dying]."""
        with self._listing:
            if not self._ending:
                self._made.clear()
                self._last = {facts.name: facts for facts in connection.domains()}
                return tuple(self._last.values())
            ending = set(self._ending)
        names = sorted(self._last.keys() | self._made)
        looks = {name: self._last.get(name) if name in ending else connection.facts(name) for name in names}
        self._last = {name: facts for name, facts in looks.items() if facts is not None}
        return tuple(self._last.values())

    def _find_troubles(self, domains: tuple[DomainFacts, ...]) -> dict[str, tuple[DiskTrouble, ...]]:
        """Return what is known of the disks of domains that an I/O error has paused; QEMU is asked by another thread.

        One that is frozen beside keeps that thread, and nobody else: the others' disks are then told later, or never.
        """
        now_s = self._clock.monotonic_s()
        hurt = {d.name: d.uuid for d in domains if d.state is DomainState.PAUSED and d.state_reason == IO_ERROR}
        self._troubles = {name: known for name, known in self._troubles.items() if hurt.get(name) == known[0]}
        self._hurt_asked_s = {name: at_s for name, at_s in self._hurt_asked_s.items() if name in hurt}
        for name, uuid in hurt.items():
            if now_s >= self._hurt_asked_s.get(name, float("-inf")) + TROUBLE_RETRY_S:
                self._hurt_asked_s[name] = now_s
                self._hurt.put((name, uuid))
        return {name: troubles for name, (_, troubles) in self._troubles.items()}

    def _ask_disks(self) -> None:
        while True:
            name, uuid = self._hurt.get()
            if self._stopping.is_set():
                return
            connection = self._connection
            if connection is None:
                continue
            try:
                self._troubles = {**self._troubles, name: (uuid, connection.disk_troubles(name))}
                self.look()
            except HypervisorError as error:
                log.debug("disk-errors-unknown", host=self.name, domain=name, error=str(error))

    def _prepare(self) -> None:
        """Make the host ready for new domains: at each new connection, and again after a start that failed."""
        while True:
            self._to_prepare.wait()
            self._may_change.wait()
            if self._stopping.is_set():
                return
            self._to_prepare.clear()
            connection = self._connection
            if connection is None:
                continue
            try:
                accel = self._access.prepare(connection)
                self._report(Prepared(self.name, accel, version=self._access.version(connection)))
            except AutoscalerError as error:
                self._report(Prepared(self.name, None, str(error)))
                self._to_prepare.set()
            self._stopping.wait(PREPARE_RETRY_S)

    def _work(self, lane: Lane) -> None:
        while True:
            step, xml = lane.get()
            if self._stopping.is_set():
                return
            try:
                result, error = self._attempt(step, xml)
            except Exception as failure:  # noqa: BLE001 - whatever went wrong, the lane goes on and the step is over
                result, error = Result.FAILED, f"{type(failure).__name__}: {failure}"
            if isinstance(step, Start) and result is Result.FAILED:
                self._to_prepare.set()  # the network may have been removed by hand
            self._report(self._outcome(step, result, error))
            self.look()

    def _outcome(self, step: Step, result: Result, error: str) -> Outcome:
        """Return the outcome with a look at its domain; the ends are left to the listing, see ``_domains``."""
        over_s, connection = self._clock.monotonic_s(), self._connection
        if result is not Result.DONE or connection is None or isinstance(step, Destroy):
            return Outcome(step, result, error, over_s)
        try:
            return Outcome(step, result, error, over_s, connection.facts(step.domain), over_s)
        except HypervisorError:
            return Outcome(step, result, error, over_s)  # the next look tells

    def _attempt(self, step: Step, xml: str | Draft | None) -> tuple[Result, str]:
        connection = self._connection
        if connection is None:
            return Result.UNKNOWN, "no connection"
        if isinstance(step, Define):
            self._made.add(step.domain)
        if not isinstance(step, Destroy):
            result, error = attempt(connection, step, xml, self._clocks.set_clock)
            if isinstance(step, Shutdown) and step.is_by_agent_too and result is Result.DONE:
                self._stops.shut_down(connection, step.domain, step.uuid)
            return result, error
        last = _last_look(connection, step.domain)
        with self._listing:
            self._last |= last
            self._ending.add(step.domain)
        try:
            return attempt(connection, step, xml, self._clocks.set_clock)
        finally:
            self._ending.discard(step.domain)


def _last_look(connection: Host, domain: str) -> dict[str, DomainFacts]:
    """Return what the domain shows, by its name; nothing where it does not."""
    try:
        facts = connection.facts(domain)
    except HypervisorError:
        return {}
    return {} if facts is None else {domain: facts}
