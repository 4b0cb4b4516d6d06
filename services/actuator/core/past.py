"""What this process has seen of one domain's power: since when it is as it is, and what a fault of its host did to it.

A record cannot tell that: it may not be writable just then, the disk being full. A new process begins anew, which costs
nothing but a resume that comes earlier than it would have.
"""

from dataclasses import dataclass, replace
from typing import Final

from common.domain import DiskTrouble, DomainState
from common.domain_states import RESUMED_AFTER_S, is_resumed_by_us

STEADY_S: Final = 2.0
"""A domain that was resumed after a fault of its host is out of it once it has run for so long."""
FORGET_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Past:
    """One domain's power over time, in monotonic seconds.

    ``since_s``: when it was first seen in the state that it is in, None where it has been in it since the first look.
    ``faulted_s``: when a fault of its host paused it, None without one; ``resumes`` counts what we tried against it,
    the last time at ``resumed_s``; ``troubles`` are what libvirt has told of its disks since.
    """

    power: DomainState
    reason: str
    since_s: float | None = None
    faulted_s: float | None = None
    resumes: int = 0
    resumed_s: float | None = None
    troubles: tuple[DiskTrouble, ...] = ()


def seen(
    past: Past | None, power: DomainState, reason: str, now_s: float, troubles: tuple[DiskTrouble, ...] = ()
) -> Past:
    """Return the past after a look at ``now_s``.

    A fault is forgotten once the domain has run for ``FORGET_S`` (until then its resumes go on being rarer), or is off.
    """
    if past is None:
        past = Past(power, reason)
    elif (past.power, past.reason) != (power, reason):
        past = replace(past, power=power, reason=reason, since_s=now_s)
    if is_resumed_by_us(power, reason):
        first_s = now_s if past.faulted_s is None else past.faulted_s
        return replace(past, faulted_s=first_s, troubles=troubles or past.troubles)
    is_over = power is not DomainState.RUNNING or now_s - (past.since_s or 0.0) >= FORGET_S
    return replace(past, faulted_s=None, resumes=0, resumed_s=None, troubles=()) if is_over else past


def resumed(past: Past, now_s: float) -> Past:
    """Return the past after one more try to resume it."""
    return replace(past, resumes=past.resumes + 1, resumed_s=now_s)


def is_resume_due(past: Past, now_s: float) -> bool:
    """Return whether the domain, paused by a fault of its host, is to be resumed now: soon at first, then rarer."""
    if past.faulted_s is None or not is_resumed_by_us(past.power, past.reason):
        return False
    last_s = past.faulted_s if past.resumed_s is None else past.resumed_s
    return now_s - last_s >= RESUMED_AFTER_S[min(past.resumes, len(RESUMED_AFTER_S) - 1)]


def is_shaky(past: Past | None, now_s: float) -> bool:
    """Return whether a fault of its host paused it a moment ago, so that it may be paused again at its next write."""
    if past is None or past.faulted_s is None or past.power is not DomainState.RUNNING:
        return False
    return past.since_s is not None and now_s - past.since_s < STEADY_S
