"""Asks one host where the domains of users can be reached, in a thread of its own: an agent may take long to answer.

What is asked when, and what is chosen, is decided in ``core.addresses``. Nothing here survives a restart: the address
that answered stands in the domain's record.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from common.clock import Clock
from common.domain import DomainFacts, DomainState
from common.endpoint import is_address
from common.errors import HypervisorError, HypervisorLostError
from common.log import logger
from common.virt.addresses import Candidate, Rule, remark
from services.actuator.core.addresses import DOUBTED_S, Choice, choose, is_due

TICK_S: Final = DOUBTED_S / 4

log = logger()


class Teller(Protocol):
    """What is needed of ``common.hypervisor.Connection``."""

    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """Where a domain is to be asked, and what an operator should know about that."""

    address: str
    note: str = ""


class AddressBook:
    """The addresses of one host's domains. ``see`` and ``doubt`` may be called from any thread."""

    def __init__(
        self, host: str, rule_of: Callable[[str], Rule | None], clock: Clock, on_change: Callable[[], None]
    ) -> None:
        """Know nothing yet.

        Args:
            host: Its name.
            rule_of: How the address of a domain is found, by its name; None where it is not looked for.
            clock: The time.
            on_change: Called when an address or a note differs, from the thread that looks.
        """
        self._host = host
        self._rule_of = rule_of
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._connection: Teller | None = None
        self._names: dict[str, str] = {}
        self._choices: dict[str, Choice] = {}
        self._doubted: frozenset[str] = frozenset()
        self._is_needed = threading.Event()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until it is stopped; sleeps while no domain needs it."""
        while not self._stopping.is_set():
            self._is_needed.wait()
            self.turn()
            self._stopping.wait(TICK_S)

    def see(self, connection: Teller | None, domains: tuple[DomainFacts, ...]) -> dict[str, Found]:
        """Look after these domains from now on, as far as they run; return what is known, by their names."""
        running = {d.uuid: d for d in domains if d.state is DomainState.RUNNING and self._rule_of(d.name) is not None}
        with self._lock:
            self._connection = connection
            self._names = {uuid: domain.name for uuid, domain in running.items()}
            self._choices = {
                uuid: replace(self._choices.get(uuid, Choice()), answered=_in_record(domain))
                for uuid, domain in running.items()
            }
            self._choose()
            (self._is_needed.set if running else self._is_needed.clear)()
            return self._found()

    def doubt(self, uuids: frozenset[str]) -> None:
        """Say of which domains the address is in doubt."""
        self._doubted = uuids

    def turn(self) -> None:
        """Ask each domain's source that is due, then choose; ``on_change`` is called if anything differs."""
        with self._lock:
            before, names, connection = self._found(), dict(self._names), self._connection
        for uuid, name in names.items() if connection is not None else ():
            self._ask(connection, uuid, name)
        with self._lock:
            self._choose()
            is_news = self._found() != before
        if is_news:
            self._on_change()

    def stop(self) -> None:
        """Have ``run`` end."""
        self._stopping.set()
        self._is_needed.set()

    def _ask(self, connection: Teller | None, uuid: str, name: str) -> None:
        rule, begun_s = self._rule_of(name), self._clock.monotonic_s()
        with self._lock:
            choice = self._choices.get(uuid)
        if connection is None or rule is None or choice is None or not is_due(choice, uuid in self._doubted, begun_s):
            return
        candidates = self._told(connection, name, rule)
        now_s = self._clock.monotonic_s()
        with self._lock:
            if uuid in self._choices:
                asked = replace(self._choices[uuid], asked_s=now_s, took_s=now_s - begun_s)
                self._choices[uuid] = asked if candidates is None else _with(asked, candidates, rule)

    def _told(self, connection: Teller, name: str, rule: Rule) -> tuple[Candidate, ...] | None:
        """Return what the source tells, None where it could not be asked."""
        try:
            return connection.addresses(name, rule)
        except HypervisorLostError:
            return None  # the observer finds that out, and connects anew
        except HypervisorError as error:
            log.debug("address-unknown", host=self._host, domain=name, source=rule.source.value, error=str(error))
            return None

    def _choose(self) -> None:
        now_s = self._clock.monotonic_s()
        shared = {address for address, count in self._claims().items() if count > 1}
        for uuid in sorted(self._choices, key=self._names.__getitem__):
            taken = {c.answered for other, c in self._choices.items() if other != uuid and other not in self._doubted}
            is_doubted = uuid in self._doubted
            self._choices[uuid] = choose(self._choices[uuid], is_doubted, taken, shared, now_s)

    def _claims(self) -> Mapping[str, int]:
        return Counter(address for choice in self._choices.values() for address in choice.candidates)

    def _found(self) -> dict[str, Found]:
        choices = {self._names[uuid]: choice for uuid, choice in self._choices.items()}
        return {name: Found(c.address, c.note) for name, c in choices.items() if c.address}


def _with(choice: Choice, candidates: tuple[Candidate, ...], rule: Rule) -> Choice:
    return replace(choice, candidates=tuple(each.address for each in candidates), note=remark(candidates, rule.source))


def _in_record(domain: DomainFacts) -> str:
    """Return the address at which the domain last answered, if it is this very domain's record that says so."""
    address = domain.metadata.get("address", "")
    return address if domain.metadata.get("uuid") == domain.uuid and is_address(address) else ""
