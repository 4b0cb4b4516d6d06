"""Which outcomes of steps are worth an ``Event``, and what it says."""

from typing import Final

from common.messages import Event
from common.phases import Phase
from services.actuator.core.record import Record
from services.actuator.core.seen import SeenDomain
from services.actuator.core.steps import (
    Clone,
    Define,
    Destroy,
    Save,
    SetPhase,
    Start,
    Step,
    Suspend,
    TakeSnapshot,
    Undefine,
    Wake,
)

NOT_IN_TIME = "it did not shut down in time"
"""How the reason of a step begins that cuts the power of a guest which did not obey its power button."""
GONE: Final = "the domain is gone"
"""The error of a step that finds nothing to change; the next look tells it, whoever found it so (``vanished``)."""
WAS_LEAVING: Final = frozenset({Phase.DRAINING, Phase.STOPPING, Phase.FAILED})
"""Phases of which the end is no news: it was meant to end, or its failure has been told."""


def more_time(group: str) -> str:
    """Return which key gives a guest of the group more time to shut down.

    >>> more_time("web")
    'if it only needs longer, raise groups.web.stop_timeout_s'
    """
    return f"if it only needs longer, raise groups.{group}.stop_timeout_s"


def event_of(step: Step, error: str, now_s: float) -> Event | None:
    """Return the event that a finished step stands for; None where nobody needs to know.

    Args:
        error: Empty where the step succeeded.
        now_s: When it finished, for the measured boot time.
    """
    if error and isinstance(step, Save | Wake | Clone | TakeSnapshot):
        return _say(step, "tier-failed", f"{step.tier}: {error}; another way is found", "warning")
    if error == GONE:
        return None
    if error:
        return _say(step, "step-failed", f"{type(step).__name__.lower()}: {error}", "warning")
    if isinstance(step, SetPhase):
        return _phase_event(step, now_s)
    if isinstance(step, Start):
        return _say(step, "domain-started", step.reason)
    if isinstance(step, Define):
        return _say(step, "domain-replaced" if step.replaces else "domain-created", step.reason)
    if isinstance(step, TakeSnapshot):
        return _say(step, "snapshot-taken", "new domains are cloned from it")
    if isinstance(step, Wake):
        return _say(step, "domain-woken", step.reason)
    if isinstance(step, Save) or (isinstance(step, Suspend) and step.is_standby):
        return _say(step, "domain-standby", f"it stands by, {step.tier}")
    if isinstance(step, Destroy):
        level = "warning" if step.reason.startswith(NOT_IN_TIME) else "info"
        return _say(step, "domain-powered-off", step.reason, level)
    if isinstance(step, Undefine):
        return _say(step, "domain-stopped", step.reason)
    return None


def vanished(domain: SeenDomain, record: Record) -> Event:
    """Return what is told of a domain of ours that libvirt does not know any more, though we have not removed it.

    Args:
        domain: As it was seen last.
        record: Its record then.
    """
    how = "somebody has ended and undefined it" if domain.is_persistent else "it ended, and it was not defined"
    is_meant = record.phase in WAS_LEAVING
    return Event(
        name="domain-stopped" if is_meant else "domain-failed",
        group=record.group,
        domain=domain.name,
        host=domain.host,
        text=f"it is gone: {how}",
        level="info" if is_meant else "warning",
    )


def boot_time_s(step: Step, now_s: float) -> float | None:
    """Return how long the domain took from its start to serving, where the step is the one that makes it ready."""
    if not isinstance(step, SetPhase) or step.was is not Phase.WARMING or step.record.phase is not Phase.READY:
        return None
    first_s = step.record.served_mono_s
    has_served = first_s is not None and first_s < step.record.since_mono_s
    if step.record.is_woken or step.record.started_mono_s is None or has_served:
        return None
    return max(0.0, now_s - step.record.started_mono_s)


def _phase_event(step: SetPhase, now_s: float) -> Event | None:
    if step.was is None and step.record.phase is Phase.BOOTING:
        return _say(step, "domain-adopted", step.reason)
    if step.was is step.record.phase or step.was is None:
        return None
    match step.record.phase:
        case Phase.SUSPENDED:
            return _say(step, "domain-suspended", f"{step.reason}; it serves again when it runs")
        case Phase.WARMING | Phase.BOOTING if step.was is Phase.SUSPENDED:
            return _say(step, "domain-resumed", step.reason)
        case Phase.WARMING if step.was is Phase.FAILED:
            return _say(step, "domain-recovered", step.reason)
        case Phase.WARMING if step.was in (Phase.BOOTING, Phase.STANDBY):
            took = (
                "" if step.record.started_mono_s is None else f" {now_s - step.record.started_mono_s:.1f} s after start"
            )
            return _say(step, "domain-answering", f"{step.reason}{took}")
        case Phase.READY if step.was is Phase.WARMING:
            boot_s = boot_time_s(step, now_s)
            took = "" if boot_s is None else f", {boot_s:.1f} s after its start"
            return _say(step, "domain-ready", f"{step.reason}{took}")
        case Phase.READY | Phase.WARMING:
            return _say(step, "drain-cancelled", step.reason)
        case Phase.DRAINING:
            return _say(step, "drain-started", step.reason)
        case Phase.STOPPING if step.reason.startswith("drain deadline"):
            return _say(step, "drain-forced", step.reason, "warning")
        case Phase.STOPPING if step.was not in (Phase.DRAINING, Phase.STOPPING, Phase.STANDBY):
            return _say(step, "shutdown-asked", step.reason)
        case Phase.FAILED:
            return _say(step, "domain-failed", step.reason, "warning")
        case Phase.STANDBY if step.record.tier:
            return None  # it is told when it is at rest
        case Phase.STANDBY:
            return _say(step, "domain-silent", step.reason, "warning")
        case Phase.GONE:
            return _say(step, "domain-stopped", step.reason)
        case _:
            return None


def _say(step: Step, name: str, text: str, level: str = "info") -> Event:
    return Event(name=name, group=step.group, domain=step.domain, host=step.host, text=text, level=level)
