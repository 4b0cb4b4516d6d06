"""The life of a domain, and what each phase means for capacity and traffic.

``creating → booting → warming → ready → draining → stopping → gone``; from creating, booting,
warming and ready a domain may become ``failed``; ``standby`` is warm reserve; ``suspended`` is out of rotation for as
long as somebody else keeps it from running (``common.domain_states``). ``FATES`` is total: a test walks the enum, so a
new phase cannot be forgotten anywhere.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a domain stands in its life."""

    CREATING = "creating"  # defined, not started
    BOOTING = "booting"  # started, not yet answering
    WARMING = "warming"  # answers as itself; the balancer is taking it in
    READY = "ready"  # in rotation
    DRAINING = "draining"  # no new traffic; finishing what is in flight
    STOPPING = "stopping"  # asked to shut down
    SUSPENDED = "suspended"  # served, and may again: its owner, libvirt or a fault of its host has paused it
    STANDBY = "standby"  # warm reserve: owned, counted against the ceiling, no capacity
    FAILED = "failed"  # to be replaced and removed
    GONE = "gone"  # libvirt no longer shows it


class OnDeadline(StrEnum):
    """What happens to a domain that stays in its phase too long."""

    FAIL = "fail"
    STOP = "stop"
    DESTROY = "destroy"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Fate:
    """What one phase means. ``deadline`` names the group's setting that bounds it."""

    is_capacity: bool
    takes_traffic: bool
    may_be_victim: bool
    deadline: str | None
    on_deadline: OnDeadline


FATES: dict[Phase, Fate] = {
    Phase.CREATING: Fate(True, False, True, "start_timeout_s", OnDeadline.FAIL),
    Phase.BOOTING: Fate(True, False, True, "boot_timeout_s", OnDeadline.FAIL),
    Phase.WARMING: Fate(True, True, True, None, OnDeadline.STAY),
    Phase.READY: Fate(True, True, True, None, OnDeadline.STAY),
    Phase.DRAINING: Fate(False, False, False, "drain_timeout_s", OnDeadline.STOP),
    Phase.STOPPING: Fate(False, False, False, "stop_timeout_s", OnDeadline.DESTROY),
    Phase.SUSPENDED: Fate(False, False, False, None, OnDeadline.STAY),
    Phase.STANDBY: Fate(False, False, False, None, OnDeadline.STAY),
    Phase.FAILED: Fate(False, False, False, None, OnDeadline.DESTROY),
    Phase.GONE: Fate(False, False, False, None, OnDeadline.STAY),
}
