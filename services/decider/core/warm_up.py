"""Members that warm up: they serve already, but their own CPU use says little of the load.

A member that has just come into service fills its caches, compiles, indexes; its CPU is busy whatever is asked of it.
Taken as load, that asks for another member, which does the same. So for ``warm_up_s`` of its group a member's own use
is left out of the mean that scale-out stands on, and the others' stands for it: that it serves does count. Scale-in,
which must be careful, counts it as it is. Where all are new, CPU says nothing for scale-out yet; a queue does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.phases import Phase
from services.decider.core.seen import Seen, members
from services.decider.core.words import seconds


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The mean CPU ratio for scale-out, how many are left out of it, and when the next of them counts."""

    low: float
    count: int = 0
    left_s: float = math.inf
    doubt: str = ""
    doubt_ends: str = ""


def low(seen: Seen, ratios: Sequence[tuple[str, float | None]], now_s: float, warm_up_s: float) -> WarmUp:
    """Return the mean of the ready members that have warmed up, unknown ones as 0; 0 where all are new.

    Args:
        seen: Who is ready, and since when.
        ratios: Name and CPU ratio of each ready member, None where it is unknown.
        now_s: Monotonic seconds.
        warm_up_s: How long a member in service is new.
    """
    left_s = _left_s(seen, now_s, warm_up_s) if warm_up_s > 0 else {}
    warm = [ratio or 0.0 for name, ratio in ratios if name not in left_s]
    found = {name: left_s[name] for name, _ in ratios if name in left_s}
    mean = sum(warm) / max(len(warm), 1)
    if not found:
        return WarmUp(mean)
    next_s = min(found.values())
    if warm:
        return WarmUp(mean, len(found), next_s)
    return WarmUp(
        mean, len(found), next_s,
        doubt=f"{'all have' if len(found) > 1 else 'it has'} served for less than {seconds(warm_up_s)} (warm_up_s)",
        doubt_ends=f"{seconds(next_s)} later CPU use counts for scale-out",
    )  # fmt: skip


def _left_s(seen: Seen, now_s: float, warm_up_s: float) -> dict[str, float]:
    """Return by name how long each new member is still new."""
    ready = (member for member in members(seen) if member.phase is Phase.READY)
    ages_s = {member.name: now_s - seen.membership_at_s + member.age_s for member in ready}
    return {name: warm_up_s - age_s for name, age_s in ages_s.items() if age_s < warm_up_s}
