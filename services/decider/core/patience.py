"""How long the decider waits before it takes away what it may have to bring back.

Note [Patience]
    A scale-in that is followed by a scale-out soon after was a mistake: the calm was shorter than a boot is worth. So
    the group learns: from then on it scales in only after a calm half as long again as the whole calm that misled it,
    measured from the first scale-in's window to the scale-out that undid it. A square wave around the thresholds thus
    costs one scale-in and one scale-out, and then the group stays large enough for its crests: at most two changes of
    direction an hour. "Soon" is five minutes, or two of the longest scale-in windows where that is longer; slower waves
    are load, and are followed. After ``patience_memory_s``, an hour, the lesson is forgotten, and it never asks for
    more than ``patience_s``. A scale-out never waits for patience, nor do the further scale-ins of a calm that goes on:
    it has been long enough, and these come a window and a cooldown after one another.

    Only what the policies themselves took away can teach: a change by an order, by bounds that have moved, by a mode
    or a reload says nothing of their judgement. It ends the run of scale-ins, so that nothing before it is regretted
    after it; and where it made the group larger, the policies only give back what they take away down to the capacity
    from before it. A lesson that was learned before stays, until an order ends it (``patience --reset``).

    A queue or a response time says nothing of how much could be spared: a group that looks at nothing else takes one
    away to see. Where that was wrong it does not try again for the hour, however long the calm. Nor does a group with a
    forecast, which changes its mind in the longest calm.

    A calm in which nobody asks for anything does not mislead: who starts a load, ends it and comes back minutes later
    has not been misjudged. So where hardly a request was worked on at each scale-in of the run, and the scale-out that
    ends it comes more than a window after the first of them, it teaches nothing: the calm was longer than any of a wave
    of two windows. A group that sees nothing of what it could spare learns from that, too.
"""

from dataclasses import dataclass, replace
from typing import Final

from services.decider.core.state import Settings, Standing

REGRET_WINDOWS: Final = 2.0  # in scale-in windows: a scale-out this soon after a scale-in regrets it
REGRET_S: Final = 300.0  # at least: half of a wave of ten minutes
QUIET_WINDOWS: Final = 1.0  # in scale-in windows: how long after its first scale-in the end of a quiet run is new load
GOES_ON: Final = 2.0  # in intervals: a calm that begins so soon after a scale-in is the one that led to it
LESSON: Final = 1.5  # the next calm must last this much longer than the one that misled


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson in force: a scale-in waits for a calm of ``calm_s``, for ``left_s`` more."""

    calm_s: float
    left_s: float


def after_out(standing: Standing, settings: Settings, now_s: float) -> Standing:
    """Return what a scale-out by the policies at ``now_s`` teaches."""
    ended = _without_run(standing)
    if standing.changed_in_at_s is None or standing.turned_at_s is None:
        return ended
    if now_s - standing.changed_in_at_s > max(REGRET_WINDOWS * settings.in_window_s, REGRET_S):
        return ended
    run_s = now_s - standing.turned_at_s
    if standing.is_run_quiet and run_s > QUIET_WINDOWS * settings.in_window_s and not settings.is_blind:
        return ended
    calm_s = required_s(standing, settings, standing.turned_at_s) + run_s
    group = settings.group
    patience_s = group.patience_s if settings.is_blind else min(LESSON * calm_s, group.patience_s)
    return replace(ended, patience_s=patience_s, patience_until_s=now_s + group.patience_memory_s)


def after_in(standing: Standing, desired: int, now_s: float, *, is_quiet: bool) -> Standing:
    """Return the standing after a scale-in to ``desired`` by the policies; ``is_quiet``: hardly any request ran."""
    if standing.ordered_from is not None and desired >= standing.ordered_from:
        return standing
    is_first = standing.turned_at_s is None
    return replace(
        standing,
        changed_in_at_s=now_s,
        turned_at_s=now_s if is_first else standing.turned_at_s,
        is_run_quiet=is_quiet and (is_first or standing.is_run_quiet),
        ordered_from=None,
    )


def after_order(standing: Standing, desired: int) -> Standing:
    """Return the standing after a change to ``desired`` by others: nothing before it can be regretted after it."""
    before = standing.desired or 0
    least = before if standing.ordered_from is None else min(before, standing.ordered_from)
    return replace(_without_run(standing), ordered_from=least if desired > least else None)


def _without_run(standing: Standing) -> Standing:
    return replace(standing, changed_in_at_s=None, turned_at_s=None, is_run_quiet=False, ordered_from=None)


def forgotten(standing: Standing) -> Standing:
    """Return the standing without any lesson, and without a scale-in that could still teach one."""
    return replace(_without_run(standing), patience_s=0.0, patience_until_s=0.0)


def carried(standing: Standing, before: Settings, after: Settings) -> Standing:
    """Return the standing under new settings: other policies regret nothing, a shorter memory forgets sooner."""
    less_s = max(before.group.patience_memory_s - after.group.patience_memory_s, 0.0)
    kept = standing if before.policies == after.policies else _without_run(standing)
    return replace(kept, patience_until_s=kept.patience_until_s - less_s) if less_s else kept


def required_s(standing: Standing, settings: Settings, now_s: float, calm_since_s: float | None = None) -> float:
    """Return how long every policy must have asked for fewer before a scale-in at ``now_s``.

    Args:
        standing: With what was learned.
        settings: With the windows, and the most patience.
        now_s: Monotonic seconds.
        calm_since_s: Since when every policy asks for fewer domains, of the size that is desired now; None: not so.
    """
    changed_s = standing.changed_in_at_s
    if calm_since_s is not None and changed_s is not None and calm_since_s - changed_s <= GOES_ON * settings.interval_s:
        return settings.in_window_s
    learned_s = standing.patience_s if now_s < standing.patience_until_s else 0.0
    return max(settings.in_window_s, min(learned_s, settings.group.patience_s))


def in_force(standing: Standing, settings: Settings, now_s: float) -> Lesson | None:
    """Return the lesson that makes a scale-in at ``now_s`` wait for longer than the policies do, None without one."""
    calm_s = required_s(standing, settings, now_s)
    return Lesson(calm_s, standing.patience_until_s - now_s) if calm_s > settings.in_window_s else None
