"""What the gatherers find, as plain values. None means: could not be seen."""

from dataclasses import dataclass, field
from typing import Final

from common.acceleration import Accel
from common.messages import ServiceStatus, Unready

UNIT_ACCOUNT: Final = "libvirt-autoscaler-actuator"  # packaging/systemd/sysusers.conf


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """One of libvirt's sockets: is it there, and may this user write to it (that is: connect)?"""

    path: str
    exists: bool
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class LibvirtFacts:
    """How libvirt answers this user. An empty error means: it answered.

    ``unit_groups`` are those of the account that the installed actuator's unit runs as, None where there is none.
    ``has_systemd``: it runs this machine, so libvirt's daemons are its business.
    """

    uri: str
    is_local: bool
    user: str
    is_root: bool
    groups: tuple[str, ...]
    sockets: tuple[SocketFacts, ...]
    read_error: str
    write_error: str
    release: str = ""
    unit_groups: tuple[str, ...] | None = None
    has_systemd: bool = True


@dataclass(frozen=True, slots=True)
class AccelFacts:
    """What the configuration asks for, what libvirt offers, and what has been proven on this host."""

    wanted: str
    is_offered: bool
    has_device: bool
    proven: Accel | None
    why_closed: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of the host's firewall, its rules in their order."""

    table: str
    name: str
    hook: str
    policy: str
    rules: tuple["Rule", ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What of a rule decides whether a bridge's packets pass: its interfaces, and a verdict or the chain it jumps to.

    ``is_plain``: it asks for nothing beside the interfaces. ``is_for_new``: it may match the first packet of a
    connection.
    """

    came_in: str
    goes_out: str
    verdict: str
    is_plain: bool
    is_for_new: bool = True


@dataclass(frozen=True, slots=True)
class Net:
    """An IPv4 network that something on this host already uses: ``owner`` is an interface or a libvirt network."""

    owner: str
    cidr: str
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """The network interface that has our bridge's name; ``has_stp`` as the kernel runs it."""

    is_bridge: bool
    has_stp: bool | None
    is_up: bool


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """Our network as libvirt has it, and what is around it."""

    xml: str | None
    is_active: bool
    others: tuple[Net, ...]
    routes: tuple[Net, ...]
    bridge: BridgeFacts | None
    is_forwarding: bool | None
    chains: tuple[Chain, ...] | None


@dataclass(frozen=True, slots=True)
class UserNetFacts:
    """A network or a bare bridge that NICs of a user's own domains name; ``name`` is libvirt's, empty for a bridge.

    ``range_size`` is how many addresses DHCP gives out, ``leased`` how many of them are taken; ``wanting`` are domains
    that have none and no reservation.
    """

    name: str
    bridge: str
    is_there: bool
    is_active: bool
    has_stp: bool | None
    range_size: int = 0
    leased: int = 0
    wanting: tuple[str, ...] = ()
    chains: tuple[Chain, ...] | None = None


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """The file system below a path (or below its nearest directory that exists)."""

    path: str
    mount: str
    free_bytes: int
    free_files: int | None
    is_writable: bool


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a group boots. ``problem`` is empty where every part is there and whole.

    ``is_tool_missing``: it is a disk, and there is no ``qemu-img``. ``refusals`` is what the actuator has against it.
    ``capacity_bytes``: as large as a guest sees the disk.
    """

    source: str
    kind: str  # demo | directory | disk
    exists: bool
    problem: str = ""
    size_bytes: int = 0
    capacity_bytes: int = 0
    machine_id: str | None = None
    is_machine_id_read: bool = False
    is_bootable: bool | None = None
    is_tool_missing: bool = False
    refusals: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Return whether a domain can be made from it, by all that was seen."""
        return (
            self.exists
            and not (self.problem or self.refusals or self.is_tool_missing)
            and self.is_bootable is not False
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """What a guest of the group did when it was booted to be looked at.

    ``ended``: ``shutdown`` where the guest powered itself off when it was asked to, None where it did not in time.
    """

    answered_s: float | None
    detail: str
    ended: str | None
    ended_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One domain of a group, as libvirt and the guest itself show it.

    ``identities`` are the machine-ids that could be read, by where they were read from: its disk, its DHCP lease.
    ``why``: what it answered instead of what readiness wants.
    """

    name: str
    host: str
    uuid: str
    phase: str
    is_running: bool
    address: str | None = None
    is_right: bool | None = None
    detail: str = ""
    clock_off_s: float | None = None
    identities: dict[str, str] = field(default_factory=dict)
    stop_calls: int = 0
    why: Unready | None = None


@dataclass(frozen=True, slots=True)
class PortFacts:
    """One address that a process of ours listens at. ``holder`` names who does now, empty where nobody does.

    ``is_expected``: that process is to be listening. ``is_running``: it is known to run.
    """

    key: str
    address: str
    service: str
    holder: str
    is_ours: bool
    bind_error: str = ""
    is_expected: bool = False
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class HaproxyFacts:
    """HAProxy's own words; ``refusal`` is what it says against our configuration."""

    path: str | None
    version_text: str
    refusal: str


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """The wall clock, and what it may be compared with. ``newest_file_s``: the youngest file of ours.

    ``has_systemd``: it runs this machine, and may keep the clock right.
    """

    epoch_s: float
    newest_file_s: float
    newest_file: str
    is_synchronised: bool | None
    has_systemd: bool = True


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """What one host has, and how many file descriptors a process here may open."""

    cpus: int | None
    total_memory_bytes: int | None
    free_memory_bytes: int | None
    owned: dict[str, int]
    open_files: int


@dataclass(frozen=True, slots=True)
class StrayFacts:
    """What carries our mark or a name of ours, and belongs to nothing here.

    ``left``, ``stale``, ``others``: groups by domains' names. ``left`` were made by this installation. Of the rest,
    ``others`` stand under no name of ours; ``stale`` do, and were made by this program; ``foreign`` do, and are
    somebody else's own.
    """

    left: dict[str, str]
    stale: dict[str, str]
    foreign: tuple[str, ...]
    others: dict[str, str]
    networks: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What was heard on the bus, and the digest of the file that is there now.

    ``silence``: why nobody answers although something runs, or may run; empty where that is not so. ``is_closed``: this
    user may not see whether. ``way``: the command that has those with an older file take it over.
    """

    heard: dict[str, ServiceStatus]
    expected: tuple[str, ...]
    digest: str
    is_supervised: bool
    owned_running: int
    silence: str = ""
    is_closed: bool = False
    way: str = "make up"


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """What one question through a group's endpoint brought, in words; ``is_late``: nothing within the patience."""

    is_right: bool
    said: str
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """A group's endpoint, as the services tell it, and as it answers.

    ``serving``: how many are in rotation and healthy, None where nobody says. ``reasons`` say why others do not serve,
    ``blocked`` what the actuator cannot do. ``overdue``: domains that do not serve for longer than the boot timeout.
    ``idle``: why nobody is to serve; then ``answer`` is None, for nobody was asked.
    """

    where: str
    desired: int | None
    serving: int | None
    reasons: tuple[str, ...] = ()
    blocked: str = ""
    is_waiting: bool = False
    overdue: tuple[str, ...] = ()
    idle: str = ""
    answer: EndpointAnswer | None = None


@dataclass(frozen=True, slots=True)
class StopFacts:
    """How many domains of a group left in the recorded past, and how many of them did not obey the power button."""

    left: int
    powered_off: int
    names: tuple[str, ...]
