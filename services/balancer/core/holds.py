"""Members that failed stay out until membership shows that something about them has changed.

A failure is heard from the monitor at once; membership repeats for a moment that the member is ready. Its phase, or the
time since which it has it, tells the life after the failure from the one before. That a warming member becomes ready is
no other life: the actuator may have said so before it heard of the failure.

Members that are suspended stay out for as long as the monitor says so: at once by a failure, and in every sample.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from common.messages import Member, Membership
from common.phases import Phase

HOLD_S: Final = 30.0  # by then the actuator has said what became of it; a member that returns is checked anyway
SAME_S: Final = 0.5  # the same moment, computed twice


@dataclass(frozen=True, slots=True)
class Hold:
    """One failed member; ``phase`` and ``since_s`` are those of the life that ended, None until membership tells."""

    uuid: str
    until_s: float
    phase: Phase | None = None
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Who is suspended on one host, as its monitor said at ``at_s`` (monotonic seconds)."""

    uuids: frozenset[str] = frozenset()
    at_s: float = 0.0


def suspended(words: Iterable[Word], now_s: float, stale_after_s: float) -> frozenset[str]:
    """Return the UUIDs of those that are suspended; the word of a monitor that has fallen silent ends."""
    return frozenset(uuid for word in words if now_s - word.at_s <= stale_after_s for uuid in word.uuids)


def held(holds: Iterable[Hold], membership: Membership, now_s: float) -> tuple[Hold, ...]:
    """Return the holds that still stand after this membership; those of other groups' members are left as they are."""
    members = {member.uuid: member for member in membership.members}
    kept = []
    for hold in holds:
        member = members.get(hold.uuid)
        if now_s >= hold.until_s:
            continue
        if member is None:
            kept.append(hold)
        elif _is_same_life(hold, member):
            kept.append(replace(hold, phase=member.phase, since_s=member.since_s))
    return tuple(kept)


def _is_same_life(hold: Hold, member: Member) -> bool:
    if hold.phase is None or hold.since_s is None:
        return True
    if (hold.phase, member.phase) == (Phase.WARMING, Phase.READY):
        return True
    return member.phase is hold.phase and abs(member.since_s - hold.since_s) < SAME_S
