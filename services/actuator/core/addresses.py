"""Where a user's domain is asked, and where it serves: a choice among candidates that is dropped when it disappoints.

# Note [An address is a guess until somebody answers there]
What lease, ARP table or agent say may be stale, or of a network that we cannot reach. So each domain has candidates,
and one of them is the choice. While it disappoints, its source is asked again each ``DOUBTED_S``, and each ``TURN_S``
the next candidate is tried; else it is asked again each ``CALM_S``. The address that answered is kept in the domain's
record: there it serves until it answers, as itself, at another one. An address that several domains' sources claim is
tried last, and one at which another domain serves is not tried at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core.members import SERVING, Member
from services.actuator.core.placement import COMING
from services.actuator.core.seen import Wanted

DOUBTED_S: Final = 1.0
CALM_S: Final = 30.0
TURN_S: Final = 3.0
UNHEALTHY_S: Final = 2.0  # an overload that passes is no reason to look for another address
PATIENCE: Final = 10.0  # who took long to tell is not asked again before this many times as long


@dataclass(frozen=True, slots=True)
class Choice:
    """Which address of a domain is tried since ``since_s``; what its source said at ``asked_s``, and how long it took.

    ``answered`` is the address in the domain's record: the last at which it answered as itself.
    """

    address: str = ""
    since_s: float = float("-inf")
    answered: str = ""
    candidates: tuple[str, ...] = ()
    note: str = ""
    asked_s: float = float("-inf")
    took_s: float = 0.0


def is_due(choice: Choice, is_doubted: bool, now_s: float) -> bool:
    """Return whether the domain's source is to be asked now."""
    age_s = DOUBTED_S if is_doubted or not choice.address else CALM_S
    return now_s - choice.asked_s >= max(age_s, PATIENCE * choice.took_s)


def choose(choice: Choice, is_doubted: bool, taken: Collection[str], shared: Collection[str], now_s: float) -> Choice:
    """Return the choice after a look at the candidates; see Note [An address is a guess until somebody answers there].

    Args:
        choice: The one so far.
        is_doubted: Whether the domain does not answer there, or its checks fail.
        taken: Addresses at which other domains serve.
        shared: Addresses that the sources of several domains name.
        now_s: The time.
    """
    if choice.answered and not is_doubted and choice.answered not in taken:
        return _at(choice, choice.answered, now_s)
    ring = _ring(choice, taken, shared)
    if not ring:
        return choice
    if choice.address not in ring:
        return _at(choice, ring[0], now_s)
    if is_doubted and now_s - choice.since_s >= TURN_S:
        return _at(choice, ring[(ring.index(choice.address) + 1) % len(ring)], now_s, is_new=True)
    return choice


def doubted(wanted: Wanted, members: Sequence[Member]) -> frozenset[str]:
    """Return the UUIDs of a user's domains whose address is in doubt: nobody answers there as them, or checks fail."""
    if wanted.group.kind == "template" or wanted.group.address_source == "static":
        return frozenset()
    return frozenset(member.domain.uuid for member in members if _is_doubted(member))


def asked_at(wanted: Wanted, member: Member) -> str | None:
    """Return where a user's domain is asked whether it serves."""
    return wanted.group.addresses.get(member.name) or member.domain.address or member.record.address or None


def served_at(wanted: Wanted, member: Member) -> str | None:
    """Return where a user's domain serves: while it does, where it last answered, whatever its source says now."""
    fixed, answered = wanted.group.addresses.get(member.name), _answered(member)
    if fixed or member.phase in COMING:
        return fixed or answered or asked_at(wanted, member)
    return member.record.address or asked_at(wanted, member)


def news(wanted: Wanted, member: Member) -> str:
    """Return the address at which a member has answered as itself and that its record does not name; else empty."""
    if wanted.group.kind == "template" or wanted.group.addresses.get(member.name):
        return ""
    answered = _answered(member)
    return answered if answered != member.record.address else ""


def answered_at(wanted: Wanted, member: Member) -> dict[str, str]:
    """Return what changes in the record of a user's domain that answers: where it does."""
    address = news(wanted, member)
    return {"address": address} if address else {}


def unwritten(wanted: Wanted, member: Member) -> str:
    """Return the address of a member that serves well and whose record, an older release's, does not name it."""
    is_well = member.phase is Phase.READY and member.backend is not None and member.backend.is_healthy is True
    is_found = wanted.group.kind == "existing" and not wanted.group.addresses.get(member.name)
    return member.domain.address or "" if is_found and is_well and not member.record.address else ""


def is_moving(wanted: Wanted, member: Member) -> bool:
    """Return whether a serving member is asked at another address than the one at which it serves."""
    is_known = wanted.group.kind == "existing" and member.phase in SERVING and bool(member.record.address)
    return is_known and served_at(wanted, member) != asked_at(wanted, member)


def is_doing_badly(wanted: Wanted, member: Member) -> bool:
    """Return whether a member in rotation fails HAProxy's checks, and can be asked why where it serves."""
    is_failing = member.phase in SERVING and member.backend is not None and member.backend.is_healthy is False
    is_fixed = wanted.group.kind == "template" or member.name in wanted.group.addresses
    return is_failing and (is_fixed or bool(member.record.address)) and member.domain.power is DomainState.RUNNING


def _answered(member: Member) -> str:
    return member.probe.address if member.probe is not None and member.probe.is_right else ""


def _is_doubted(member: Member) -> bool:
    backend = member.backend
    if member.phase in SERVING:
        return backend is not None and backend.is_healthy is False and backend.unhealthy_s >= UNHEALTHY_S
    is_asked = member.phase in COMING or (member.phase is Phase.STANDBY and not member.is_reserve)
    is_lost = member.phase is Phase.FAILED and member.domain.power is DomainState.RUNNING
    return (is_asked or is_lost) and not _answered(member)


def _ring(choice: Choice, taken: Collection[str], shared: Collection[str]) -> list[str]:
    """Return what is tried in turn: what answered last, then the candidates, those of several domains last."""
    known = [choice.answered, *sorted(choice.candidates, key=lambda address: address in shared)]
    return [address for address in dict.fromkeys(known) if address and address not in taken]


def _at(choice: Choice, address: str, now_s: float, is_new: bool = False) -> Choice:
    return choice if choice.address == address and not is_new else replace(choice, address=address, since_s=now_s)
