"""The steps a plan is made of: values that say what to do to one domain, why, and which message led to it."""

from dataclasses import dataclass

from common.phases import Phase
from services.actuator.core.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do to one domain. ``cause`` is the identifier of what led here, ``tier`` the way to service."""

    group: str
    host: str
    domain: str
    uuid: str
    reason: str
    cause: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Define(Step):
    """Make the domain known to libvirt, with its record inside; it is not started. ``replaces`` names a lost one.

    ``memory_mib`` is what its guest takes of the host.
    """

    record: Record
    accel: str
    replaces: str = ""
    memory_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone(Define):
    """Make the domain known to libvirt, and let it go on from the group's snapshot of this key instead of booting."""

    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot(Step):
    """Boot a template domain, save its memory under this key, prove it by a first clone, and leave nothing else."""

    record: Record
    accel: str
    snapshot: str
    memory_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Step):
    """DomainState on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPhase(Step):
    """Write the record; ``was`` is the phase before, None where the domain had no record.

    ``lead_s``: how long it took from the decision to this step, where it ends a start. ``served_s``: how long it had
    been ready and well since ``ready_s``, where it fails from there; ``is_sick``: it runs, and is given up for its
    checks.
    """

    record: Record
    was: Phase | None
    lead_s: float | None = None
    served_s: float | None = None
    ready_s: float = 0.0
    is_sick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota(Step):
    """Give the running domain its CPU quota, and write the record that says so.

    The record of a raised quota is written first: cut short in between, it is lowered again all the same.
    """

    record: Record
    cpu_quota: float
    is_raised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugIn(Step):
    """Set the running domain's link up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Step):
    """Ask the guest to power off, then write the record that counts the request.

    By its power button; ``is_by_agent_too``: and through its agent, if one listens.
    """

    record: Record
    is_by_agent_too: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy(Step):
    """DomainState off at once; may take long where QEMU is frozen, so it runs in the slow lane.

    ``is_own_doing``: what keeps it from running, if anything does, is our own doing. Without that nothing is destroyed
    that may come back.
    """

    is_own_doing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Step):
    """Let a domain go on that a fault of its host has paused; one that anybody else paused is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Step):
    """Pause the domain in memory: a failed one that is kept for a look, or one that stands by."""

    is_standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Save(Step):
    """Save the domain's memory to disk and end its process; where that fails, ``otherwise`` is written."""

    otherwise: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake(Step):
    """Resume a domain that stands by, or start it from its saved memory, then write ``record``.

    Where that fails, ``otherwise`` is written.
    """

    record: Record
    otherwise: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Undefine(Step):
    """Remove the definition of a template domain that is powered off; ``slot`` becomes free.

    ``is_own_doing``: where libvirt has its memory saved, we had it saved. Without that a saved memory is left alone.
    """

    slot: int | None = None
    is_own_doing: bool = False
