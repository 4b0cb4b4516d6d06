"""Whether what ``up`` waits for still comes nearer. It reads no clock: ``now_s`` is an argument.

# Note [A deadline on standing still]
However many groups there are, they take turns; so what is bounded is not the whole wait, but how long nothing comes
nearer. Nearer means further than ever before: a domain that fails and is started anew does not count twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cli.observe import Snapshot
from common.messages import Membership
from common.phases import FATES, Phase

STUCK_S: Final = 20.0
"""No domain of any group that is waited for serves or comes, and the actuators say why."""

_STAGES: Final = (Phase.CREATING, Phase.BOOTING, Phase.WARMING, Phase.READY)


@dataclass(slots=True)
class Progress:
    """How far it ever got, and since when it stands still: ``moved_s``, and ``hopeful_s``, when it last could move."""

    moved_s: float
    hopeful_s: float
    furthest: dict[tuple[str, object], int] = field(default_factory=dict)

    @classmethod
    def begin(cls, now_s: float) -> "Progress":
        """Return the progress of a wait that begins."""
        return cls(now_s, now_s)

    def note(self, waiting: Collection[str], answering: Collection[str], snapshot: Snapshot, now_s: float) -> None:
        """Take in what is seen: which groups are waited for, which answer, and what the services say."""
        now_reached = reached(answering, snapshot)
        if any(count > self.furthest.get(what, 0) for what, count in now_reached.items()):
            self.moved_s = self.hopeful_s = now_s
        for what, count in now_reached.items():
            self.furthest[what] = max(count, self.furthest.get(what, 0))
        if not all(is_stuck(snapshot.memberships.get(name)) for name in waiting):
            self.hopeful_s = now_s

    def is_over(self, now_s: float, patience_s: float) -> bool:
        """Return whether it is no use to wait on; see Note [A deadline on standing still]."""
        return now_s - self.moved_s > patience_s or now_s - self.hopeful_s > STUCK_S

    def over_at_s(self, now_s: float, patience_s: float) -> float:
        """Return when it is no use to wait on if all stays as it was noted at ``now_s``."""
        is_hopeful = self.hopeful_s >= now_s
        return self.moved_s + patience_s if is_hopeful else min(self.moved_s + patience_s, self.hopeful_s + STUCK_S)


def reached(answering: Collection[str], snapshot: Snapshot) -> Mapping[tuple[str, object], int]:
    """Return how far things are: services heard, groups that answer, and domains at each stage or beyond, by group."""
    found: dict[tuple[str, object], int] = {("services", ""): len(snapshot.services)}
    for name, membership in snapshot.memberships.items():
        stages = [_STAGES.index(member.phase) for member in membership.members if member.phase in _STAGES]
        for at, stage in enumerate(_STAGES):
            found[name, stage] = sum(reached_at >= at for reached_at in stages)
    return found | {(name, "answers"): 1 for name in answering}


def is_stuck(membership: Membership | None) -> bool:
    """Return whether no domain serves or comes, and something that does not pass by itself keeps it so."""
    if membership is None or not membership.blocked or membership.is_waiting:
        return False
    return not any(FATES[member.phase].is_capacity for member in membership.members)
