"""Who leaves: not protected, not ready before ready, fewest in flight, then the one started last. No chance in it.

One that comes back after others had paused it leaves last: another was started in its place, and that one goes, also
when the first is ready again. One that comes back after it has failed has to prove itself first.
"""

from collections.abc import Iterable, Iterator

from common.phases import FATES, Phase
from services.actuator.core.members import Member

_NEAR_TO_SERVING = {Phase.CREATING: 0, Phase.BOOTING: 1, Phase.WARMING: 2, Phase.READY: 3}
_UNKNOWN_IN_FLIGHT = 1_000_000


def may_leave(member: Member) -> bool:
    """Return whether the member may be taken away to shrink the group."""
    is_taken = member.record.protected or member.record.order or member.is_reserve
    return FATES[member.phase].may_be_victim and not is_taken


def pick(members: Iterable[Member], count: int, spare: int) -> list[Member]:
    """Return up to ``count`` victims, the first to go first; fewer where too many are protected.

    One that is busy now keeps its place in the queue, and is taken in a later plan: nobody else goes for it.

    Args:
        members: Of whom.
        count: How many may leave.
        spare: How many of those in rotation may: who is still to come, or to come back, stands in for nobody.
    """
    known = list(members)
    there = frozenset(member.domain.uuid for member in known if member.is_in_rotation)
    ranked = sorted((m for m in known if m.is_reachable and may_leave(m)), key=lambda member: _order(member, there))
    return [m for m in list(_dispensable(ranked, spare))[: max(count, 0)] if not m.is_busy]


def _dispensable(ranked: Iterable[Member], spare: int) -> Iterator[Member]:
    """Yield who may leave, in their order; nobody goes for one whose time has not come."""
    for member in ranked:
        spare -= member.is_in_rotation
        if spare < 0 and member.is_in_rotation:
            return
        yield member


def _order(member: Member, there: frozenset[str]) -> tuple[bool, int, bool, int, float, str]:
    """Return the place in the queue; a backend that the balancer does not report counts as the busiest.

    One that we did not start, or whose start nobody remembers, is older than all others. ``there``: the UUIDs of those
    in rotation; who stands in for one of them goes first.
    """
    is_serving = member.phase in (Phase.WARMING, Phase.READY)
    in_flight = 0 if not is_serving else _UNKNOWN_IN_FLIGHT if member.backend is None else member.backend.in_flight
    near = _NEAR_TO_SERVING.get(member.phase, 4)
    near -= member.phase is Phase.READY and not member.is_in_rotation
    is_needed = member.record.replaces not in there
    return is_returning(member), near, is_needed, in_flight, -_started_s(member), _backwards(member.name)


def is_returning(member: Member) -> bool:
    """Return whether it has served, was paused by others, and is on its way back."""
    is_coming = member.phase in (Phase.BOOTING, Phase.WARMING)
    return is_coming and member.record.has_served and not member.record.failures


def _started_s(member: Member) -> float:
    started_s = member.record.started_mono_s
    return float("-inf") if started_s is None else started_s


def _backwards(name: str) -> str:
    """Return a sort key that puts higher names first, so that domains of one age leave from the top."""
    return "".join(chr(0x10FFFF - ord(letter)) for letter in name)
