"""From members and slots to steps: which member goes into which slot, and what is ordered for it.

``plan`` remembers nothing. It compares what membership wants with what HAProxy shows and returns the steps that can be
taken now; each takes the slot one further on its way, so a plan that is cut short anywhere goes on at the next look.
Join: address and drain, a check of the new address, ready. Leave: drain, maintenance, no connection, no address.

# Note [Whose slot]
HAProxy knows a slot's address, not its domain. ``owner`` is what this process ordered; after a restart it is None, and
the member that membership shows at the slot's address takes it over. As long as the owner is known, another domain
at the same address is not it: the slot is emptied first and taken again.

# Note [Who needs no check]
Our own check of a slot takes 100 to 300 ms. A member that has just answered the actuator as itself (``is_probed``) is
ready without it: HAProxy counts a server that leaves maintenance as up, and down at the first failed check or at our
push; a request that finds nobody goes elsewhere (``retry-on``, ``redispatch``). A member that was in rotation goes
straight back when nobody serves: nothing can get worse.

# Note [Nothing is lost by not knowing]
A slot that serves well, or finishes what it has, is left alone while membership is incomplete (it lists nobody, or a
host cannot be reached). So is one of which nobody knows the owner while a member in service has no address: it may be
that one's.

# Note [Connections that are being made]
Where a server is marked down, HAProxy ends its sessions, and sends a GET without an answer elsewhere. But a request
whose connection is still being made is closed without a word, whatever its method (seen with 2.6). So whoever is to be
cut gets nothing new at first, and no checks, which may fail sooner than that. What is not connected within ``timeout
connect`` goes to another, and then the rest is ended. HAProxy's own checks mark a server that cannot be reached down no
sooner than 1.2 s after the first that failed. By then it has got nothing new for long enough, if another one is up: it
is avoided at once.

# Note [Held]
A domain that its owner, libvirt or a fault of its host has paused may go on at any moment, with all that it was working
on. It gets nothing new, and its checks are stopped: three that fail would cut what is in flight. HAProxy keeps both
over a reload, and shows both: who runs again is checked anew, and is ready after that; at once if nobody else serves,
because nothing can get worse.

# Note [The last one standing]
An overloaded member answers its checks too late. If nobody else is up, to take it out would help nobody: what is in
flight is cut, and the next requests are refused. So while its last check timed out (it was not refused, and got no
wrong answer), somebody waits for it, and it does answer now and then, each failed check is forgiven before the third.
Its checks go on all the same: they decide as soon as another is up, nobody waits, or it has answered nobody for as long
as a request may take (``is_stalled``).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from common.messages import Member, Membership
from common.phases import FATES, Phase
from services.balancer.core.answers import Admin, Server
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, EMPTY_PORT


class Goal(IntEnum):
    """What is owed to a member; of two at one address the first here is believed."""

    SERVE = 0
    DRAIN = 1
    HOLD = 2  # it is suspended: nothing new, and nothing in flight is cut
    OUT = 3
    CUT = 4  # it has failed: no new request, and those in flight go elsewhere at once


@dataclass(frozen=True, slots=True)
class Placement:
    """One member with an address.

    ``is_known_good``: it has been in rotation before. ``is_probed``: the actuator had a right answer from it a moment
    ago. ``is_coming``: it does not serve yet, as far as membership says.
    """

    name: str
    uuid: str
    address: str
    port: int
    goal: Goal
    is_known_good: bool = False
    is_probed: bool = False
    is_coming: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A group's members. ``is_complete``: a slot that none of them explains has no right to be.

    ``unlocated``: name and UUID of those who are owed a slot, and whose address nobody knows.
    """

    placements: tuple[Placement, ...]
    is_complete: bool
    unlocated: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a slot was given to."""

    name: str
    uuid: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A server of the backend and its owner, None where nobody knows.

    ``is_stalled``: somebody waits for it, and it has answered nobody for too long to be only slow. ``is_settled``:
    nothing new has come for so long that no connection to it is being made any more. ``restless_s``: for how long its
    member has been kept out because it goes down again and again (``flapping``), None where it has not.
    """

    server: Server
    owner: Owner | None = None
    is_stalled: bool = False
    is_settled: bool = True
    restless_s: float | None = None

    @property
    def is_free(self) -> bool:
        """Return whether the slot may be given to a member."""
        server = self.server
        return server.admin is Admin.MAINT and server.is_idle and is_empty(server)


@dataclass(frozen=True, slots=True)
class Step:
    """An order for one slot."""

    slot: str


@dataclass(frozen=True, slots=True)
class Assign(Step):
    """Give the slot to a member; ``is_trusted`` takes it into rotation without waiting for a check."""

    owner: Owner
    is_trusted: bool = False


@dataclass(frozen=True, slots=True)
class SetReady(Step):
    """Take the slot into rotation, with full weight; ``is_trusted``: without waiting for a check."""

    is_trusted: bool = False


@dataclass(frozen=True, slots=True)
class SetDrain(Step):
    """Send it no new traffic."""


@dataclass(frozen=True, slots=True)
class SetMaint(Step):
    """End what still goes through it."""


@dataclass(frozen=True, slots=True)
class Cut(Step):
    """Mark it down, so that what is in flight is sent elsewhere, and keep it out."""


@dataclass(frozen=True, slots=True)
class Avoid(Step):
    """Send it nothing new until HAProxy's checks succeed again; they decide about what is in flight."""


@dataclass(frozen=True, slots=True)
class StopChecks(Step):
    """Send it nothing new, and let no check cut what is in flight."""


@dataclass(frozen=True, slots=True)
class StartChecks(Step):
    """Have it checked again; ``is_fresh``: it counts as up only after a check that succeeds from now on."""

    is_fresh: bool


@dataclass(frozen=True, slots=True)
class KeepUp(Step):
    """Forgive the checks that failed so far."""


@dataclass(frozen=True, slots=True)
class Clear(Step):
    """Take away its address: the slot is free."""


_OWED_A_SLOT: Final = frozenset({Goal.SERVE, Goal.DRAIN, Goal.HOLD})
_IN_SERVICE: Final = frozenset({Phase.BOOTING, Phase.WARMING, Phase.READY, Phase.DRAINING, Phase.SUSPENDED})
# Booting: taken in on its first right answer, before its record says so.


def is_empty(server: Server) -> bool:
    """Return whether the server has the address of an empty slot."""
    return (server.address, server.port) == (EMPTY_ADDRESS, EMPTY_PORT)


def wanted_from(membership: Membership, cut: Iterable[str], suspended: Iterable[str] = ()) -> Wanted:
    """Return what the membership asks for.

    Args:
        membership: as the actuator published it.
        cut: UUIDs of members that failed after that.
        suspended: UUIDs of those that do not run now, and may again.
    """
    dead, still = frozenset(cut), frozenset(suspended)
    goals = [(member, _goal(member, member.uuid in dead, member.uuid in still)) for member in membership.members]
    return Wanted(
        tuple(_placement(member, goal) for member, goal in goals if member.address),
        is_complete=bool(membership.members) and not membership.unreachable_hosts,
        unlocated=frozenset((m.name, m.uuid) for m, goal in goals if not m.address and goal in _OWED_A_SLOT),
    )


def is_in_service(phase: Phase) -> bool:
    """Return whether a member of this phase may have requests in flight."""
    return phase in _IN_SERVICE


def match(wanted: Wanted, slots: Sequence[Slot]) -> dict[str, Placement]:
    """Return the member of each slot that has one: no member twice (see Note [Whose slot])."""
    order = {Admin.READY: 0, Admin.DRAIN: 1, Admin.MAINT: 2}
    candidates = sorted(
        (placement.goal, slot.owner is None, order[slot.server.admin], index, placement.name, placement.uuid)
        for index, slot in enumerate(slots)
        for placement in wanted.placements
        if _may_be(placement, slot)
    )
    by_key = {(placement.name, placement.uuid): placement for placement in wanted.placements}
    matched: dict[str, Placement] = {}
    taken: set[tuple[str, str]] = set()
    for *_, index, name, uuid in candidates:
        slot_name = slots[index].server.name
        if slot_name not in matched and (name, uuid) not in taken:
            matched[slot_name] = by_key[name, uuid]
            taken.add((name, uuid))
    return matched


def plan(
    wanted: Wanted, slots: Sequence[Slot], occupied: Collection[tuple[str, int]] = frozenset()
) -> tuple[Step, ...]:
    """Return the steps that bring the slots closer to what is wanted; none when they are there or must be waited for.

    Args:
        wanted: the members of one group.
        slots: every slot of its backend, as just seen.
        occupied: addresses that nobody gets yet: an older process of HAProxy still has to do with who was there.
    """
    matched = match(wanted, slots)
    is_outage = not any(_serves(slot.server) for slot in slots)
    steps = [step for slot in slots for step in _steps(slot, matched.get(slot.server.name), wanted, is_outage)]
    falling = [slot.server for slot in slots if slot.server.admin is Admin.READY and slot.server.is_falling]
    keepers = kept(slots, matched)
    keeps = [KeepUp(server.name) for server in falling if server.name in keepers]
    avoided = [Avoid(server.name) for server in falling if server.is_unreachable and _has_sound(slots)]
    return (*steps, *keeps, *avoided, *_joins(wanted, slots, matched, occupied, is_outage))


def kept(slots: Sequence[Slot], matched: Mapping[str, Placement]) -> frozenset[str]:
    """Return the slots that keep their traffic though their checks time out (see Note [The last one standing])."""
    if _has_sound(slots):
        return frozenset()
    serving = {name for name, placement in matched.items() if placement.goal is Goal.SERVE}
    up = [slot for slot in slots if _serves(slot.server)]
    return frozenset(slot.server.name for slot in up if slot.server.name in serving and _is_overloaded(slot))


def waiting(wanted: Wanted, matched: Mapping[str, Placement]) -> list[Placement]:
    """Return the members that are to serve and have no slot, in the order in which they get one."""
    placed = {(placement.name, placement.uuid) for placement in matched.values()}
    homeless = (p for p in wanted.placements if p.goal is Goal.SERVE and (p.name, p.uuid) not in placed)
    return sorted(homeless, key=lambda p: (not p.is_known_good, p.name, p.uuid))


def is_unexplained(slot: Slot, wanted: Wanted) -> bool:
    """Return whether the slot has work, and membership may only have failed to mention it, or its address."""
    server, owner = slot.server, slot.owner
    is_listed = any((p.address, p.port) == (server.address, server.port) for p in wanted.placements)
    may_be_unlocated = bool(wanted.unlocated) and (owner is None or (owner.name, owner.uuid) in wanted.unlocated)
    has_work = _serves(server) or (server.admin is Admin.DRAIN and server.is_busy)
    return has_work and not is_listed and (may_be_unlocated or not wanted.is_complete)


def with_owners(
    servers: Iterable[Server],
    owners: Mapping[str, Owner],
    stalled: Collection[str] = (),
    unsettled: Collection[str] = (),
) -> tuple[Slot, ...]:
    """Return the slots; an owner counts only while HAProxy shows the address that was given to it.

    Args:
        servers: of one backend, as just seen.
        owners: by slot, as they were.
        stalled: names of servers that answer nobody.
        unsettled: names of those to which connections may still be being made.
    """
    return tuple(
        Slot(s, _valid(owners.get(s.name), s), is_stalled=s.name in stalled, is_settled=s.name not in unsettled)
        for s in servers
    )


def next_owners(wanted: Wanted, slots: Sequence[Slot], steps: Iterable[Step]) -> dict[str, Owner]:
    """Return who owns each slot once the steps are done; a slot that is being left keeps its owner."""
    owners = {slot.server.name: slot.owner for slot in slots if slot.owner is not None}
    for name, placement in match(wanted, slots).items():
        owners[name] = Owner(placement.name, placement.uuid, placement.address, placement.port)
    owners |= {step.slot: step.owner for step in steps if isinstance(step, Assign)}
    return owners


def _valid(owner: Owner | None, server: Server) -> Owner | None:
    return owner if owner and (owner.address, owner.port) == (server.address, server.port) else None


def _goal(member: Member, is_cut: bool, is_suspended: bool) -> Goal:
    if is_cut or member.phase is Phase.FAILED:
        return Goal.CUT
    if member.phase is Phase.SUSPENDED or (is_suspended and is_in_service(member.phase)):
        return Goal.HOLD
    if FATES[member.phase].takes_traffic:
        return Goal.SERVE
    return Goal.DRAIN if member.phase is Phase.DRAINING else Goal.OUT


def _placement(member: Member, goal: Goal) -> Placement:
    return Placement(
        member.name,
        member.uuid,
        member.address or "",
        member.port,
        goal,
        is_known_good=member.phase is Phase.READY,
        is_probed=member.is_probed and goal is Goal.SERVE,
        is_coming=member.phase is Phase.BOOTING,
    )


def _may_be(placement: Placement, slot: Slot) -> bool:
    if is_empty(slot.server) or (placement.address, placement.port) != (slot.server.address, slot.server.port):
        return False
    return slot.owner is None or (slot.owner.name, slot.owner.uuid) == (placement.name, placement.uuid)


def _serves(server: Server) -> bool:
    return server.admin is Admin.READY and server.is_up


def _has_sound(slots: Iterable[Slot]) -> bool:
    """Return whether somebody serves whose checks succeed."""
    servers = (slot.server for slot in slots if _serves(slot.server))
    return any(server.is_proven and not server.times_out for server in servers)


def _steps(slot: Slot, placement: Placement | None, wanted: Wanted, is_outage: bool) -> list[Step]:
    if placement is None:
        return [] if is_unexplained(slot, wanted) else _leave(slot)
    match placement.goal:
        case Goal.SERVE if slot.restless_s is not None and slot.server.admin is not Admin.MAINT:
            return _drain(slot.server) or _checked(slot.server)
        case Goal.SERVE:
            return _serve(slot.server, placement, is_outage)
        case Goal.DRAIN if slot.server.admin is not Admin.MAINT:
            return _drain(slot.server) or _checked(slot.server)
        case Goal.HOLD if slot.server.admin is not Admin.MAINT:
            return [StopChecks(slot.server.name)] if slot.server.has_checks else _drain(slot.server)
        case Goal.CUT if slot.server.admin is not Admin.MAINT:
            return _cut(slot)
        case Goal.OUT if placement.is_coming and slot.owner is not None and _serves(slot.server):
            return []  # it was taken in before its record said so, and the actuator was started anew
        case _:
            return _leave(slot)


def _is_overloaded(slot: Slot) -> bool:
    return slot.server.times_out and slot.server.is_busy and not slot.is_stalled


def _drain(server: Server) -> list[Step]:
    return [SetDrain(server.name)] if server.admin is Admin.READY else []


def _cut(slot: Slot) -> list[Step]:
    """Give it nothing new, then end what it has; see Note [Connections that are being made]."""
    if slot.server.has_checks:
        return [StopChecks(slot.server.name)]
    return _drain(slot.server) or ([Cut(slot.server.name)] if slot.is_settled else [])


def _checked(server: Server) -> list[Step]:
    """Have it checked if it is not: a slot in rotation serves meanwhile, another one has to prove itself."""
    return [] if server.has_checks else [StartChecks(server.name, is_fresh=server.admin is not Admin.READY)]


def _serve(server: Server, placement: Placement, is_outage: bool) -> list[Step]:
    if server.admin is Admin.MAINT:
        return [_assign(server.name, placement, is_outage)]
    if not server.has_checks:
        return _checked(server)
    if server.admin is Admin.DRAIN:
        is_trusted = is_outage and server.is_held
        return [SetReady(server.name, is_trusted)] if is_trusted or server.is_proven or placement.is_probed else []
    if is_outage and server.is_held and server.is_unreachable:
        return [KeepUp(server.name)]  # it was avoided while another one served
    return [] if server.is_weight_right else [SetReady(server.name)]


def _leave(slot: Slot) -> list[Step]:
    name = slot.server.name
    if slot.server.admin is not Admin.MAINT:
        return [SetMaint(name)]
    return [Clear(name)] if slot.server.is_idle and not is_empty(slot.server) else []


def _joins(
    wanted: Wanted,
    slots: Sequence[Slot],
    matched: Mapping[str, Placement],
    occupied: Collection[tuple[str, int]],
    is_outage: bool,
) -> Iterable[Assign]:
    """Return one step for each free slot and member without one; never an address that another slot still has."""
    free = [slot.server.name for slot in slots if slot.is_free]
    taken = {(slot.server.address, slot.server.port) for slot in slots if not slot.is_free} | set(occupied)
    for placement in waiting(wanted, matched):
        address = (placement.address, placement.port)
        if free and address not in taken:
            taken.add(address)
            yield _assign(free.pop(0), placement, is_outage)


def _assign(slot: str, placement: Placement, is_outage: bool) -> Assign:
    """Return the join; see Note [Who needs no check]."""
    owner = Owner(placement.name, placement.uuid, placement.address, placement.port)
    return Assign(slot, owner, is_trusted=placement.is_probed or (is_outage and placement.is_known_good))
