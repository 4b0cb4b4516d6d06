"""Who leaves: not protected, not ready before ready, fewest in flight, then newest. No chance in it."""

from collections.abc import Iterable

from common.phases import FATES, Phase
from services.actuator.core.members import Member

_NEAR_TO_SERVING = {Phase.CREATING: 0, Phase.BOOTING: 1, Phase.WARMING: 2, Phase.READY: 3}
_UNKNOWN_IN_FLIGHT = 1_000_000


def may_leave(member: Member) -> bool:
    """Return whether the member may be taken away to shrink the group."""
    is_taken = member.record.protected or member.record.order or member.is_reserve
    return FATES[member.phase].may_be_victim and not is_taken


def pick(members: Iterable[Member], count: int) -> list[Member]:
    """Return up to ``count`` victims, the first to go first; fewer where too many are protected.

    One that is busy now keeps its place in the queue, and is taken in a later plan: nobody else goes for it.
    """
    chosen = sorted((m for m in members if m.is_reachable and may_leave(m)), key=_order)[: max(count, 0)]
    return [m for m in chosen if not m.is_busy]


def _order(member: Member) -> tuple[int, int, float, str]:
    """Return the place in the queue; a backend that the balancer does not report counts as the busiest."""
    is_serving = member.phase in (Phase.WARMING, Phase.READY)
    in_flight = 0 if not is_serving else _UNKNOWN_IN_FLIGHT if member.backend is None else member.backend.in_flight
    return _NEAR_TO_SERVING.get(member.phase, 4), in_flight, -member.record.since_mono_s, _backwards(member.name)


def _backwards(name: str) -> str:
    """Return a sort key that puts higher names first, so that domains of one age leave from the top."""
    return "".join(chr(0x10FFFF - ord(letter)) for letter in name)
