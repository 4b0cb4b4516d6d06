"""What a state of libvirt's means: who did it, whether it ends by itself, and what follows for the group.

``MEANINGS`` is total over every pair of state and reason that libvirt has (a test walks them); what a newer libvirt
adds is shown as ``unknown`` and falls to the careful row of its state.

=============== ==================================== ====================== ===========================================
meaning         examples                             who ends it            what follows
=============== ==================================== ====================== ===========================================
``up``          running                              nobody                 health checks say whether it serves
``transient``   snapshot, save, dump, migration      libvirt, by itself     out of rotation at once, nothing new; back
                                                                            to warming when it runs; replaced beside it
``owner``       ``virsh suspend``, a managed save    whoever did it         the same; never resumed, never powered off
``host-fault``  no space, an I/O error               room, or a repair      the same; resumed again and again, an alarm
``guest-fault`` panic, watchdog                      nobody                 replaced; only this one, of a template
                                                                            group, gives up its place without a
                                                                            replacement beside it
``off``         shut down, destroyed, crashed        nobody                 replaced
``unknown``     no state                             nobody knows           nothing is done
=============== ==================================== ====================== ===========================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from common.domain import DomainState

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0


class Meaning(StrEnum):
    """Whose doing a state is."""

    UP = "up"
    TRANSIENT = "transient"
    OWNER = "owner"
    HOST_FAULT = "host-fault"
    GUEST_FAULT = "guest-fault"
    OFF = "off"
    UNKNOWN = "unknown"


MAY_COME_BACK: Final = frozenset({Meaning.TRANSIENT, Meaning.OWNER, Meaning.HOST_FAULT})
"""Out of rotation and not lost: it keeps its power and its place."""


@dataclass(frozen=True, slots=True)
class Row:
    """One state: its meaning, in words what happened, and how long it may last before an operator is told.

    ``limit_s``: seconds, 0 at once, None for ever. It never ends a domain that may come back.
    """

    meaning: Meaning
    text: str
    limit_s: float | None = None


IO_ERROR: Final = "ioerror"
SAVED: Final = "saved"

_UP = Row(Meaning.UP, "it runs")
CHECKS_FAIL: Final = Row(Meaning.UP, "it runs, and its checks fail", MINUTE_S)
"""No state of libvirt's, but one that ends like some of them do: a domain that has served and fails its checks.

It is never ended before as many serve without it as are desired. ``limit_s`` is for where there is no room for one more
beside it: only after that does it give up its place.
"""

MEANINGS: Final[Mapping[tuple[DomainState, str], Row]] = {
    (DomainState.RUNNING, "unknown"): _UP,
    (DomainState.RUNNING, "booted"): _UP,
    (DomainState.RUNNING, "migrated"): _UP,
    (DomainState.RUNNING, "restored"): _UP,
    (DomainState.RUNNING, "from-snapshot"): _UP,
    (DomainState.RUNNING, "unpaused"): _UP,
    (DomainState.RUNNING, "migration-canceled"): _UP,
    (DomainState.RUNNING, "save-canceled"): _UP,
    (DomainState.RUNNING, "wakeup"): _UP,
    (DomainState.RUNNING, "crashed"): _UP,  # resumed after a panic: its checks tell
    (DomainState.RUNNING, "postcopy"): _UP,
    (DomainState.RUNNING, "postcopy-failed"): _UP,
    (DomainState.PAUSED, "unknown"): Row(Meaning.OWNER, "it was paused, nobody knows by whom", HOUR_S),
    (DomainState.PAUSED, "user"): Row(Meaning.OWNER, "it was suspended by hand or by another program", HOUR_S),
    (DomainState.PAUSED, "migration"): Row(Meaning.TRANSIENT, "it is being migrated or restored", 10 * MINUTE_S),
    (DomainState.PAUSED, "save"): Row(Meaning.TRANSIENT, "its memory is being saved", 10 * MINUTE_S),
    (DomainState.PAUSED, "dump"): Row(Meaning.TRANSIENT, "its memory is being dumped", 10 * MINUTE_S),
    (DomainState.PAUSED, IO_ERROR): Row(Meaning.HOST_FAULT, "a disk of it cannot be read or written", 0.0),
    (DomainState.PAUSED, "watchdog"): Row(Meaning.GUEST_FAULT, "its watchdog has paused it", 0.0),
    (DomainState.PAUSED, "from-snapshot"): Row(Meaning.OWNER, "it was set back to a paused snapshot", HOUR_S),
    (DomainState.PAUSED, "shutting-down"): Row(Meaning.TRANSIENT, "it is shutting down", 5 * MINUTE_S),
    (DomainState.PAUSED, "snapshot"): Row(Meaning.TRANSIENT, "a snapshot of it is being taken", 10 * MINUTE_S),
    (DomainState.PAUSED, "crashed"): Row(Meaning.GUEST_FAULT, "its kernel has panicked", 0.0),
    (DomainState.PAUSED, "starting-up"): Row(Meaning.TRANSIENT, "libvirt is starting it", 5 * MINUTE_S),
    (DomainState.PAUSED, "postcopy"): Row(Meaning.TRANSIENT, "it is being migrated", 10 * MINUTE_S),
    (DomainState.PAUSED, "postcopy-failed"): Row(Meaning.HOST_FAULT, "its migration has failed half-way", 0.0),
    (DomainState.PAUSED, "api-error"): Row(Meaning.HOST_FAULT, "libvirt could not resume it after a call", 0.0),
    (DomainState.PAUSED, "pmsuspended"): Row(Meaning.OWNER, "it sleeps (suspend to memory)", HOUR_S),
    (DomainState.STOPPING, "unknown"): Row(Meaning.TRANSIENT, "it is shutting down", 5 * MINUTE_S),
    (DomainState.STOPPING, "user"): Row(Meaning.TRANSIENT, "it is shutting down", 5 * MINUTE_S),
    (DomainState.SHUTOFF, "unknown"): Row(Meaning.OFF, "it is off"),
    (DomainState.SHUTOFF, "shutdown"): Row(Meaning.OFF, "it was shut down"),
    (DomainState.SHUTOFF, "destroyed"): Row(Meaning.OFF, "its power was cut"),
    (DomainState.SHUTOFF, "crashed"): Row(Meaning.OFF, "its QEMU has ended"),
    (DomainState.SHUTOFF, "migrated"): Row(Meaning.OFF, "it was migrated away"),
    (DomainState.SHUTOFF, SAVED): Row(Meaning.OWNER, "its memory was saved, and it is off", HOUR_S),
    (DomainState.SHUTOFF, "failed"): Row(Meaning.OFF, "it could not be started"),
    (DomainState.SHUTOFF, "from-snapshot"): Row(Meaning.OFF, "it was set back to a snapshot that is off"),
    (DomainState.SHUTOFF, "daemon"): Row(Meaning.OFF, "libvirt's daemon ended it"),
    (DomainState.CRASHED, "unknown"): Row(Meaning.GUEST_FAULT, "it has crashed", 0.0),
    (DomainState.CRASHED, "panicked"): Row(Meaning.GUEST_FAULT, "its kernel has panicked", 0.0),
    (DomainState.UNKNOWN, "unknown"): Row(Meaning.UNKNOWN, "libvirt does not tell its state"),
}

PAUSING_EVENTS: Final[Mapping[str, str]] = {
    "paused": "user",
    "migrated": "migration",
    "ioerror": IO_ERROR,
    "watchdog": "watchdog",
    "restored": "starting-up",
    "from-snapshot": "from-snapshot",
    "api-error": "api-error",
    "postcopy": "postcopy",
    "postcopy-failed": "postcopy-failed",
    "memory": "pmsuspended",
    "disk": "pmsuspended",
}
"""What the detail of libvirt's events ``suspended`` and ``pmsuspended`` says, as the reason of the state that follows.

libvirt sends the detail ``paused`` for snapshots, dumps and saves too: the next listing tells them apart.
"""


RESUMED: Final = frozenset({(DomainState.PAUSED, IO_ERROR), (DomainState.PAUSED, "api-error")})
"""Faults of a host after which the domain is resumed by us; what failed half-way in a migration is not."""
RESUMED_AFTER_S: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long after the pause, and after each try, it is resumed; the last one again and again."""


def is_resumed_by_us(state: DomainState, reason: str) -> bool:
    """Return whether a domain in this state is to be resumed: nobody meant it to be paused."""
    return (state, reason) in RESUMED


def row(state: DomainState, reason: str) -> Row:
    """Return what a state means; a reason that is not known, or not told, counts as the state's ``unknown``."""
    return MEANINGS.get((state, reason)) or MEANINGS[state, "unknown"]


def shown(state: DomainState, reason: str, has_saved_state: bool) -> Row:
    """Return what a state means, where it is known whether libvirt keeps the domain's memory on disk.

    libvirt forgets with its daemon that a domain was saved, but not the memory that it keeps. Of one that was saved to
    a file of its owner's it only remembers that it was: without the domain and its disks nothing could be restored.
    """
    return row(state, SAVED if state is DomainState.SHUTOFF and has_saved_state else reason)


def meaning(state: DomainState, reason: str) -> Meaning:
    """Return whose doing a state is.

    >>> meaning(DomainState.PAUSED, "snapshot"), meaning(DomainState.PAUSED, "one of a newer libvirt")
    (<Meaning.TRANSIENT: 'transient'>, <Meaning.OWNER: 'owner'>)
    """
    return row(state, reason).meaning
