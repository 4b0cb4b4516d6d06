"""One step against one host. Before anything is changed, the domain is looked at once more.

Between the plan and the call an operator may have removed our domain and made another under its name; so every step
checks that the UUID is the one it was planned for, and that our record is there, and changes the domain by its UUID.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

from common.domain import DomainFacts, DomainState
from common.domain_states import MAY_COME_BACK, Meaning, shown
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.phases import Phase
from common.plain import plain
from services.actuator.cloning import CloneOrder, SnapshotOrder, clone, take
from services.actuator.core.events import GONE
from services.actuator.core.steps import (
    Clone,
    Define,
    Destroy,
    PlugIn,
    Resume,
    Save,
    SetPhase,
    SetQuota,
    Shutdown,
    Start,
    Step,
    Suspend,
    TakeSnapshot,
    Undefine,
    Wake,
)
from services.actuator.drafts import Draft
from services.actuator.host import Host, define, remove_disks

NOTE_LENGTH: Final = 200
IS_DONE_BY_GOING: Final[Mapping[type[Step], bool]] = {
    Define: False,
    Clone: False,
    TakeSnapshot: False,
    Start: False,
    SetPhase: False,
    SetQuota: False,
    PlugIn: False,
    Shutdown: True,
    Destroy: True,
    Resume: False,
    Suspend: False,
    Save: False,
    Wake: False,
    Undefine: True,
}
"""Whether a step's aim is reached once its domain is gone; total over the steps, a test walks them."""
_Order = TypeVar("_Order", CloneOrder, SnapshotOrder)


SetClock = Callable[[Host, str, str], None]
"""Given the host and the domain's name and UUID."""


def leave_clock(_host: Host, _name: str, _uuid: str) -> None:
    """Set no clock."""


class Result(StrEnum):
    """How a step ended. ``UNKNOWN``: the call was lost or late; the next look tells."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step.

    ``facts`` are what its domain was like at ``looked_s``, after the step; None where it is gone. ``looked_s`` is None
    where nobody looked.
    """

    step: Step
    result: Result
    error: str
    finished_s: float
    facts: DomainFacts | None = None
    looked_s: float | None = None


def attempt(host: Host, step: Step, xml: str | Draft | None, set_clock: SetClock = leave_clock) -> tuple[Result, str]:
    """Perform the step and return how it ended; where its domain is gone, ``IS_DONE_BY_GOING`` says.

    Args:
        host: Where.
        step: What.
        xml: The definition, for ``Define`` only; with the volumes that go before it.
        set_clock: Sets the clock of a guest that goes on after a pause; raises nothing.
    """
    try:
        perform(host, step, xml, set_clock)
    except DomainGoneError:
        return (Result.DONE, "") if IS_DONE_BY_GOING[type(step)] else (Result.FAILED, GONE)
    except (HypervisorBusyError, HypervisorLostError) as error:
        return Result.UNKNOWN, str(error)
    except HypervisorError as error:
        if isinstance(step, Save | Wake):
            _give_up(host, step, error)
        return Result.FAILED, str(error)
    return Result.DONE, ""


def perform(host: Host, step: Step, xml: str | Draft | None, set_clock: SetClock = leave_clock) -> None:
    """Carry out the step; a guest of ours that goes on has its clock set before its record says that it may serve.

    Raises:
        HypervisorError: libvirt refused, or the domain is not the one that the step was planned for.
    """
    _check_is_ours(host, step)
    match step:
        case Clone():
            clone(host, step, _order(xml, CloneOrder))
        case TakeSnapshot():
            take(host, step, _order(xml, SnapshotOrder))
        case Define():
            define(host, step, _required(xml))
        case Start():
            host.start(step.domain, step.uuid)
        case SetPhase(was=Phase.SUSPENDED) if step.record.template and step.record.phase is Phase.WARMING:
            set_clock(host, step.domain, step.uuid)
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
        case SetPhase():
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
        case SetQuota(is_raised=True):
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
            host.set_quota(step.domain, step.uuid, step.cpu_quota)
        case SetQuota():
            host.set_quota(step.domain, step.uuid, step.cpu_quota)
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
        case PlugIn():
            host.set_link(step.domain, step.uuid, True)
        case Shutdown():
            host.shutdown(step.domain, step.uuid)
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
        case Destroy():
            host.destroy(step.domain, step.uuid)
        case Resume():
            host.resume(step.domain, step.uuid)
        case Suspend():
            host.suspend(step.domain, step.uuid)
        case Save():
            host.save(step.domain, step.uuid)
        case Wake():
            (host.start if step.tier == "saved" else host.resume)(step.domain, step.uuid)
            set_clock(host, step.domain, step.uuid)
            host.set_metadata(step.domain, step.uuid, step.record.to_metadata())
        case Undefine():
            remove_disks(host, step.uuid)
            host.undefine(step.domain, step.uuid)


def _give_up(host: Host, step: Save | Wake, error: HypervisorError) -> None:
    """Write that the domain has failed, and why: it would be tried again for ever. The next look tells if that fails.

    Its saved memory, if any, goes with its definition.
    """
    try:
        _check_is_ours(host, step)
        note = plain(f"{step.otherwise.note}: {error}", NOTE_LENGTH)
        host.set_metadata(step.domain, step.uuid, replace(step.otherwise, note=note).to_metadata())
    except HypervisorError:
        return  # it stands by as before, and is planned for anew


def _check_is_ours(host: Host, step: Step) -> None:
    facts = host.facts(step.domain)
    if isinstance(step, Define | TakeSnapshot):
        if facts is not None:
            raise HypervisorError(f"{step.domain} exists already on {step.host}; nothing is defined over it")
        return
    if facts is None:
        raise DomainGoneError(f"{step.domain} is gone from {step.host}")
    if facts.uuid != step.uuid:
        raise HypervisorError(f"{step.domain} on {step.host} is another domain now; it is left alone")
    if not (isinstance(step, SetPhase) and step.was is None) and facts.metadata.get("group") != step.group:
        raise HypervisorError(f"{step.domain} on {step.host} does not carry our record any more; it is left alone")
    _check_is_meant(step, facts)


def _check_is_meant(step: Step, facts: DomainFacts) -> None:
    """Refuse what would end a domain that somebody else has paused since the plan, or end a pause that is not ours."""
    match step:
        case Destroy():
            is_harmless = step.is_own_doing or facts.state is DomainState.SHUTOFF
        case Undefine():
            is_harmless = step.is_own_doing
        case Start():
            is_harmless = False  # it would go on from the memory that somebody has saved
        case Resume():
            is_harmless = True
        case _:
            return
    state = shown(facts.state, facts.state_reason, facts.has_saved_state)
    if state.meaning in MAY_COME_BACK and not is_harmless:
        raise HypervisorError(f"{step.domain} on {step.host} may come back ({state.text}); it is left alone")
    if isinstance(step, Resume) and state.meaning not in (Meaning.UP, Meaning.HOST_FAULT):
        raise HypervisorError(f"{step.domain} on {step.host} is not ours to resume ({state.text}); it is left alone")


def _order(made: str | Draft | None, kind: type[_Order]) -> _Order:
    if not isinstance(made, kind):
        raise ValueError(f"the step needs a {kind.__name__}; got {type(made).__name__}")
    return made


def _required(xml: str | Draft | None) -> Draft:
    if xml is None:
        raise ValueError("a Define step needs its XML")
    return Draft(xml) if isinstance(xml, str) else xml
