"""The end of domains by the clean-up: power button, guest agent, power off, in that order."""

import threading
from collections.abc import Callable

from common.clock import SystemClock
from common.domain import DomainFacts, DomainState
from common.errors import HypervisorError
from common.volume import SeenVolume
from services.actuator.cleanup import Removal

PATIENCE_S = 1.0
HEARS, ASKED_TWICE, AGENT, BAD_AGENT, HUNG_AGENT, DEAF = "hears", "asked-twice", "agent", "bad-agent", "hung", "deaf"
BOOTS = "boots"


class Host:
    """A host of guests, each named by what moves it; it keeps which call ended whom."""

    def __init__(self) -> None:
        self.running = {HEARS, ASKED_TWICE, AGENT, BAD_AGENT, HUNG_AGENT, DEAF, BOOTS}
        self.there = set(self.running)
        self.ended: dict[str, str] = {}
        self.asked: list[str] = []
        self.goes_on = threading.Event()

    def domains(self) -> list[DomainFacts]:
        states = {True: DomainState.RUNNING, False: DomainState.SHUTOFF}
        return [DomainFacts(name, name, states[name in self.running], "", True, {}) for name in sorted(self.there)]

    def shutdown(self, name: str, _uuid: str) -> None:
        self.asked.append(name)
        if name == HEARS or (name == ASKED_TWICE and self.asked.count(name) == 2):
            self._end(name, "power button")

    def shutdown_by_agent(self, name: str, _uuid: str) -> bool:
        if name == AGENT:
            self._end(name, "agent")
        if name == BAD_AGENT:
            raise HypervisorError("the agent is not available")
        return name == AGENT or (name == HUNG_AGENT and self.goes_on.wait(20))

    def destroy(self, name: str, _uuid: str) -> None:
        self._end(name, "power cut")
        if self.running <= {HUNG_AGENT}:
            self.goes_on.set()

    def undefine(self, name: str, _uuid: str) -> None:
        self.there.discard(name)

    def volumes(self) -> list[SeenVolume]:
        return []

    def owners(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(), frozenset()

    def remove_volumes(self, _which: Callable[[str], bool]) -> None:
        return None

    def _end(self, name: str, by: str) -> None:
        self.running.discard(name)
        self.ended[name] = by


def test_agent_is_asked_where_the_power_button_did_not_help_and_only_the_deaf_are_cut_off() -> None:
    host = Host()
    assert Removal(host, "local", SystemClock(), PATIENCE_S).run(host.domains(), {BOOTS}) == []  # type: ignore[arg-type]
    host.goes_on.set()
    assert list(host.ended)[:2] == [HEARS, BOOTS] and BOOTS not in host.asked
    assert host.ended == {
        HEARS: "power button",
        ASKED_TWICE: "power button",
        AGENT: "agent",
        BAD_AGENT: "power cut",
        HUNG_AGENT: "power cut",
        DEAF: "power cut",
        BOOTS: "power cut",
    }
