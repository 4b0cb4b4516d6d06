"""What the planner is told: what is wanted of a group, and what is seen of the world. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.config import Group, Network
from common.domain import DomainState
from common.messages import DesiredCapacity, Unready
from services.actuator.core.breaker import Breaker
from services.actuator.core.disks import Base, Disk
from services.actuator.core.doubt import NO_DOUBT, Doubt
from services.actuator.core.extra_xml import Extra
from services.actuator.core.past import Past
from services.actuator.core.record import Record, Unreadable
from services.actuator.core.steps import Step


@dataclass(frozen=True, slots=True)
class SeenDomain:
    """One domain as its host shows it; ``record`` is None where it carries no metadata of ours.

    ``unreadable`` where it does, and they cannot be true: it is left alone, told, and keeps its network slot.

    ``past`` is what was seen of it before, and what libvirt told of its disks; None where nobody has looked.
    ``address`` is where a user's domain is to be asked now; it serves where it last answered (``core.addresses``).
    ``address_note`` is what an operator should know about that.
    """

    host: str
    name: str
    uuid: str
    power: DomainState
    record: Record | None
    power_reason: str = ""
    is_persistent: bool = True
    address: str | None = None
    address_note: str = ""
    has_saved_state: bool = False
    has_link: bool = True
    past: Past | None = None
    unreadable: Unreadable | None = None


@dataclass(frozen=True, slots=True)
class SeenHost:
    """One host. While it is not reachable, ``domains`` are the last ones seen and nothing there is touched.

    ``accel`` is the libvirt domain type to use, None until it is known; ``free_memory_bytes`` None where unknown;
    ``unreachable_s`` is how long nothing has been heard; ``is_ever_seen`` is false before the first look; then
    ``remembered`` says how many domains each group had there when it was last seen. ``bases`` are the disk images that
    were looked at there, by path. ``vanished`` are domains that are gone and that we have not removed, with the record
    of one that has failed then. ``version`` is that of libvirt and its hypervisor. ``note``: why it takes no new
    domains.
    """

    name: str
    domains: tuple[SeenDomain, ...] = ()
    is_reachable: bool = True
    unreachable_s: float = 0.0
    is_ever_seen: bool = True
    accel: str | None = "qemu"
    free_memory_bytes: int | None = None
    cpus: int = 2
    quarantined_slots: frozenset[int] = frozenset()
    note: str = ""
    remembered: Mapping[str, int] = field(default_factory=dict)
    version: str = ""
    bases: Mapping[str, Base] = field(default_factory=dict)
    vanished: tuple[SeenDomain, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """The newest probe of a domain's ``address``: did the right one answer? ``answered`` names who did.

    ``why``: what came instead of the right answer.
    """

    is_right: bool
    answered: str = ""
    detail: str = ""
    address: str = ""
    why: Unready | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """The balancer's word on one member, from a fresh message.

    ``is_kept``: its checks time out, and HAProxy holds it for up all the same, because nobody else is.
    """

    state: str
    is_healthy: bool | None = None
    in_flight: int = 0
    unhealthy_s: float = 0.0
    is_in_flight_known: bool = True
    is_kept: bool = False

    @property
    def is_done(self) -> bool:
        """Return whether it takes nothing new, and is known to have nothing in flight."""
        return self.state in {"left", "draining"} and self.in_flight == 0 and self.is_in_flight_known


@dataclass(frozen=True, slots=True)
class Load:
    """What the group's endpoint carries now, from a fresh message; rates are per second, None where unknown.

    ``queue`` requests wait in HAProxy. ``answer_rate``: answers with a status of 2xx or 3xx.
    """

    queue: int
    in_flight: int
    request_rate: float | None = None
    answer_rate: float | None = None

    @property
    def is_asked(self) -> bool:
        """Return whether anybody wants an answer."""
        return self.queue > 0 or self.in_flight > 0 or (self.request_rate or 0.0) > 0


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything there is to see. Probes and backends are by (name, uuid), breakers and failures by (host, name).

    ``backends`` is None where the balancer's last word is too old or was never heard, and so is ``load``. ``in_flight``
    are steps that were begun and whose effect has not been observed yet: their domains are left alone, and counted.
    ``doubt`` is what the looks before this one have left.
    """

    epoch_s: float
    boot_id: str
    hosts: tuple[SeenHost, ...]
    probes: Mapping[tuple[str, str], Probe] = field(default_factory=dict)
    backends: Mapping[tuple[str, str], Backend] | None = None
    is_proxy_alive: bool = True
    in_flight: tuple[Step, ...] = ()
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    failure_causes: Mapping[str, str] = field(default_factory=dict)
    load: Load | None = None
    doubt: Doubt = NO_DOUBT


@dataclass(frozen=True, slots=True)
class Template:
    """What template domains boot: files and the kernel's arguments, or a ``disk``; ``digest`` changes whenever they do.

    ``extra`` is the user's own part of the definition.
    """

    kernel: str
    initrd: str
    digest: str
    arguments: str = ""
    console_dir: str = ""
    disk: Disk | None = None
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class Standby:
    """How many domains are to stand by, paused in memory and saved to disk; ``why`` where that was chosen here."""

    paused: int = 0
    saved: int = 0
    why: str = ""

    @property
    def total(self) -> int:
        """Return how many stand by in all."""
        return self.paused + self.saved

    def of(self, tier: str) -> int:
        """Return how many of the tier ``paused`` or ``saved`` stand by."""
        return {"paused": self.paused, "saved": self.saved}[tier]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What new domains of a group can be cloned from on one host: the one with ``key`` fits, if it ``is_there``.

    ``why_not``: why none can be.
    """

    key: str
    is_there: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one group.

    ``desired`` is the newest accepted word of the decider; while it is None nothing is added or taken away.
    ``is_desired_fresh`` is false when the decider fell silent: then failures are still replaced, nothing is removed.
    ``template`` is None where the image is missing; ``template_note`` says why. ``slots``: those of the proxy.
    """

    name: str
    group: Group
    network: Network
    desired: DesiredCapacity | None
    cause: str = ""
    is_desired_fresh: bool = True
    template: Template | None = None
    template_note: str = ""
    slots: int = 64
    standby: Standby = Standby()
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)

    @property
    def quota(self) -> float:
        """Return the CPU quota of members in rotation: the decider's burst while it speaks, else the configured one."""
        configured, burst = self.group.image.cpu_quota, self.group.burst
        told = self.desired.burst_quota if self.desired is not None and self.is_desired_fresh else None
        return configured if told is None or not burst.enabled else min(max(told, configured), burst.max_quota)

    @property
    def maximum(self) -> int:
        """Return the most domains to have: the file's bound, or the one an operator has set since, within the slots."""
        return self.group.maximum if self.desired is None else min(self.desired.maximum, self.slots)

    @property
    def room(self) -> int:
        """Return the most domains to own besides those in reserve: ``maximum`` and, for replacements, ``surge``."""
        return self.maximum + self.group.surge

    @property
    def ceiling(self) -> int:
        """Return the most domains to own, in whatever phase: ``room``, those that are to stand by, and a template."""
        return self.room + self.standby.total + self.group.warm.templates


def is_observing(group: Group, desired: DesiredCapacity | None) -> bool:
    """Return whether no call may be made that changes anything; the file decides until the decider has spoken."""
    return (desired.mode if desired is not None else group.mode) == "observe"
