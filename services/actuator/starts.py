"""Which outcomes tell the breakers something: a start that led nowhere, or to a right answer, or to one that died soon.

What concerns a tier of warm domains is told to the tier's own breaker: where it fails, real capacity comes another way.
Of a group of the user's own domains each domain has a breaker too, and counts once for that of its host.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from common.domain import DomainState
from common.messages import Event
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.breaker import Breaker
from services.actuator.core.members import Member
from services.actuator.core.placement import COMING
from services.actuator.core.plan import Plan
from services.actuator.core.sickness import is_cured
from services.actuator.core.steps import Define, Save, SetPhase, Start, Step, Suspend, TakeSnapshot, Wake
from services.actuator.perform import Outcome, Result

IN_VAIN: Final = "replacing-in-vain"
STARTING: Final = COMING | {Phase.STANDBY}  # who comes back from a pause or a failure has not been started

Breakers = Mapping[str, Breaker]


@dataclass(frozen=True, slots=True)
class Change:
    """What an outcome has made of one breaker; ``domain`` where it is that of one domain."""

    key: str
    old: Breaker
    new: Breaker
    domain: str = ""


def changes(known: Breakers, outcome: Outcome, now_s: float, is_existing: bool) -> list[Change]:
    """Return what the outcome changes, nothing where it tells the breakers nothing.

    Args:
        is_existing: The group's domains are the user's own: each is told from the others.
    """
    step = outcome.step
    own = breakers.domain_key(step.group, step.host, step.domain)
    host = breakers.key(step.group, step.host, step.tier)
    if is_failed_start(outcome):
        uuid = step.uuid if is_existing else ""
        found = [_change(known, host, lambda old: breakers.failed(old, now_s, uuid))]
        found += [_change(known, own, lambda old: breakers.failed(old, now_s), step.domain)] if is_existing else []
    elif outcome.result is Result.DONE and _is_success(outcome):
        found = [_change(known, key, breakers.succeeded) for key in ((host, own) if is_existing else (host,))]
    elif outcome.result is Result.DONE and isinstance(step, SetPhase) and step.served_s is not None:
        found = [_end_of_service(known, step, own if is_existing else "", now_s, step.served_s)]
    else:
        found = []
    return [change for change in found if change.new != change.old]


def events(change: Change, step: Step, error: str, now_s: float) -> list[Event]:
    """Return what is to be told of a change: a breaker that opens or closes, and replacements that do not help."""
    found = []
    old, new, domain = change.old, change.new, change.domain
    about = {"group": step.group, "host": step.host, "domain": domain}
    before, after = breakers.describe(old, now_s), breakers.describe(new, now_s)
    if after == "open" and before != "open":
        text = f"{new.failures} starts in a row failed on {step.host}; the last: {error or step.reason}"
        found.append(Event(name="breaker-opened", text=text, level="warning" if domain else "error", **about))
    elif after == "closed" and before != "closed":
        found.append(Event(name="breaker-closed", text="a start succeeded", **about))
    if new.relapses > max(old.relapses, 1):
        found.append(Event(name=IN_VAIN, text=_in_vain(step, new, now_s), level="warning", **about))
    return found


def cures(known: Breakers, group: str, planned: Plan, now_s: float) -> dict[str, Breaker]:
    """Return the breakers whose relapses are over, by their keys: what was started since has served long enough."""
    members, sick = planned.view.members, breakers.sick_key(group)
    found = {sick} if sick in known and is_cured(members, planned.doubt, now_s) else set()
    for member in members:
        host = member.domain.host
        for key in (breakers.key(group, host), breakers.domain_key(group, host, member.name)):
            if key in known and _has_lasted(member, known[key], now_s):
                found.add(key)
    return {key: breakers.cured(known[key]) for key in found if known[key].relapses}


def is_failed_start(outcome: Outcome) -> bool:
    """Return whether the outcome means that a start did not lead to a serving domain."""
    step = outcome.step
    if isinstance(step, Define | Start | Save | Wake | TakeSnapshot):
        return outcome.result is Result.FAILED
    return (
        isinstance(step, SetPhase)
        and outcome.result is Result.DONE
        and step.record.phase is Phase.FAILED
        and (step.was in COMING or (step.was is Phase.STANDBY and bool(step.tier)))
    )


def _is_success(outcome: Outcome) -> bool:
    """Return whether a done step means that a start has led where it was to lead."""
    step = outcome.step
    if isinstance(step, Suspend):
        return step.is_standby
    if isinstance(step, Save | TakeSnapshot):
        return True
    return isinstance(step, SetPhase) and step.was in STARTING and step.record.phase is Phase.WARMING


def _change(known: Breakers, key: str, turn: Callable[[Breaker], Breaker], domain: str = "") -> Change:
    old = known.get(key, breakers.CLOSED)
    return Change(key, old, turn(old), domain)


def _end_of_service(known: Breakers, step: SetPhase, own: str, now_s: float, served_s: float) -> Change:
    """Return what the end of a member that served changes: of a sick one, or of one that died soon."""
    is_soon = served_s < breakers.SOON_S
    if step.is_sick:
        sick = breakers.sick_key(step.group)
        return _change(known, sick, lambda old: breakers.not_cured(old, now_s, step.ready_s, served_s))
    key = own or breakers.key(step.group, step.host)
    started_s = step.record.started_mono_s
    began_s = now_s - served_s if started_s is None else started_s
    return _change(known, key, lambda old: breakers.relapsed(old, now_s, began_s) if is_soon else old, step.domain)


def _has_lasted(member: Member, breaker: Breaker, now_s: float) -> bool:
    started_s = member.record.started_mono_s
    is_up = member.phase is Phase.READY and member.is_reachable and member.domain.power is DomainState.RUNNING
    is_new = started_s is not None and started_s >= breaker.relapsed_s
    return is_up and is_new and member.age_s(now_s) >= breakers.SOON_S


def _in_vain(step: Step, new: Breaker, now_s: float) -> str:
    if isinstance(step, SetPhase) and step.is_sick:
        again = f"{step.domain} failed its checks again soon after it was ready, at try {new.relapses}"
        return f"replacing does not help: {again}; before the next try it has to fail for twice as long"
    return f"{step.domain}: {breakers.why_in_vain(new.relapses, breakers.relapse_left_s(new, now_s))}"
