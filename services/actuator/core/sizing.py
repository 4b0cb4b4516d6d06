"""How many domains stand by: as configured, or with ``sizing = "auto"`` as many as demand lately asked for at once.

None stands by that could not serve within the bounds in force.

The largest rise of the desired capacity within the lead time of a new domain, as measured here, is what nobody could
have started one for: so many stand by, paused as far as their memory budget goes, the others saved. A short memory
would forget the morning's rush by noon, so ``HISTORY_S`` counts.
"""

from collections.abc import Sequence
from typing import Final

from common.config import Group
from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from services.actuator.core.seen import Standby

HISTORY_S: Final = 6 * 3600.0
UNMEASURED_S: Final = 60.0  # the lead time until one is known
KEPT: Final = 500
NOBODY_KNOWS: Final = 1  # before any rise has been seen

Demand = tuple[tuple[float, int], ...]
"""When the desired capacity changed, in epoch seconds, and what it has been since; oldest first."""


def choose(group: Group, maximum: int, demand: Demand, epoch_s: float, lead_s: float | None = None) -> Standby:
    """Return how many domains of the group are to stand by.

    Args:
        group: the group.
        maximum: the most domains that may be in service now: more can never be woken.
        demand: when the desired capacity changed, and to what.
        epoch_s: now.
        lead_s: from a decision to a new domain in rotation, p95; None where it has not been measured.
    """
    warm = group.warm
    if warm.sizing == "fixed":
        return _within(group, maximum)
    window_s = UNMEASURED_S if lead_s is None else lead_s
    rise = largest_rise(demand, epoch_s, window_s)
    needed, fit = min(rise or NOBODY_KNOWS, _ever_woken(group, maximum)), _fitting(group)
    paused = min(needed, fit)
    known = "no lead time measured yet" if lead_s is None else "the lead time"
    within = f"within {window_s:.1f} s ({known})"
    seen = f"the largest rise in {HISTORY_S / 3600:.0f} h was {rise} {within}" if rise else "no rise yet"
    why = f"warm auto: {paused} paused, {needed - paused} saved: {seen}; {warm.memory_mib} MiB hold {fit} paused"
    return Standby(paused, needed - paused, why)


def largest(group: Group) -> Standby:
    """Return the most domains that may ever stand by within the configured bounds, whatever demand will be."""
    if group.warm.sizing == "fixed":
        return _within(group, group.maximum)
    needed = _ever_woken(group, group.maximum)
    paused = min(needed, _fitting(group))
    return Standby(paused, needed - paused)


def _ever_woken(group: Group, maximum: int) -> int:
    return max(maximum - group.minimum, 0)


def _fitting(group: Group) -> int:
    """Return how many paused domains the memory budget holds."""
    return group.warm.memory_mib * MIB // (group.image.memory_mib * MIB + OVERHEAD_BYTES)


def _within(group: Group, maximum: int) -> Standby:
    """Return the configured sizes, the fastest first, as far as they could ever serve: up to ``max``, or as surge."""
    warm, useful = group.warm, max(maximum + group.surge - group.minimum, 0)
    paused = min(warm.paused, useful)
    saved = min(warm.saved, useful - paused)
    if (paused, saved) == (warm.paused, warm.saved):
        return Standby(paused, saved)
    return Standby(paused, saved, f"warm: {paused} paused, {saved} saved: with max {maximum} more could never serve")


def largest_rise(demand: Demand, epoch_s: float, window_s: float) -> int:
    """Return by how many domains the desired capacity rose at most within ``window_s``; 0 where it did not rise.

    >>> largest_rise(((0.0, 1), (10.0, 2), (20.0, 4), (500.0, 1), (700.0, 2)), 700.0, 60.0)
    3
    """
    rises = [
        later - before
        for at, (since_s, before) in enumerate(demand)
        for rose_s, later in demand[at + 1 :]
        if epoch_s - rose_s <= HISTORY_S and rose_s - _end_s(demand, at, since_s) <= window_s
    ]
    return max([0, *rises])


def with_demand(demand: Sequence[tuple[float, int]], epoch_s: float, desired: int) -> Demand:
    """Return the history with what is desired now; the same history where that is no change.

    >>> with_demand(((0.0, 1),), 5.0, 1), with_demand(((0.0, 1),), 5.0, 3)
    (((0.0, 1),), ((0.0, 1), (5.0, 3)))
    """
    known = tuple((at_s, count) for at_s, count in demand if at_s <= epoch_s)
    if known and known[-1][1] == desired:
        return known
    return _recent((*known, (epoch_s, desired)), epoch_s)


def _recent(demand: Demand, epoch_s: float) -> Demand:
    """Drop what is over; the last value before the history begins still says from where the first rise was."""
    old = sum(1 for at_s, _ in demand if epoch_s - at_s > HISTORY_S)
    return demand[max(old - 1, 0) :][-KEPT:]


def _end_s(demand: Demand, at: int, since_s: float) -> float:
    """Return when the capacity that began at ``since_s`` ended: until then it was enough."""
    return demand[at + 1][0] if at + 1 < len(demand) else since_s
