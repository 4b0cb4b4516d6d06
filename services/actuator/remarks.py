"""What went another way than wanted, and why: told with the membership for a while, when the domain is long gone."""

from typing import Final

from common.phases import Phase
from services.actuator.core.clones import TIER
from services.actuator.core.steps import Clone, PlugIn, Save, SetPhase, Step, TakeSnapshot, Wake
from services.actuator.perform import Outcome, Result

TOLD_S: Final = 600.0
KEPT: Final = 4


def is_cut_short(step: Step) -> bool:
    """Return whether the step goes on with a clone whose maker was killed: it boots instead, or gets its link."""
    return isinstance(step, PlugIn) or (
        isinstance(step, SetPhase)
        and step.was is step.record.phase is Phase.CREATING
        and step.tier == TIER
        and not step.record.is_cloned
    )


class Remarks:
    """The last remarks of each group."""

    def __init__(self) -> None:
        """Begin with none."""
        self._said: dict[str, list[tuple[float, str]]] = {}

    def note(self, outcome: Outcome, now_s: float) -> None:
        """Keep why a domain of a warm tier failed, if this outcome says so."""
        step = outcome.step
        if isinstance(step, Save | Wake | Clone | TakeSnapshot) and outcome.result is Result.FAILED:
            self.add(step.group, f"{step.domain} ({step.tier}): {outcome.error}", now_s)
        if is_cut_short(step) and outcome.result is Result.DONE:
            self.add(step.group, f"{step.domain} ({step.tier}): {step.reason}", now_s)
        is_failure = isinstance(step, SetPhase) and step.record.phase is Phase.FAILED and step.was is not Phase.READY
        if is_failure and step.tier and outcome.result is Result.DONE:
            self.add(step.group, f"{step.domain} ({step.tier}): {step.reason}", now_s)

    def add(self, group: str, text: str, now_s: float) -> None:
        """Keep a remark, in one line; the same one again only counts anew."""
        text = " ".join(text.split())
        others = [said for said in self._said.get(group, []) if said[1] != text]
        self._said[group] = [*others, (now_s, text)][-KEPT:]

    def of(self, group: str, now_s: float) -> tuple[str, ...]:
        """Return the remarks that are not too old, in order."""
        return tuple(text for at_s, text in self._said.get(group, []) if now_s - at_s < TOLD_S)
