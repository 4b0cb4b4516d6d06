"""How long the decider waits before it takes away what it may have to bring back.

Note [Patience]
    A scale-in that is followed by a scale-out soon after was a mistake: the calm was shorter than a boot is worth. So
    the group learns: from then on it scales in only after a calm half as long again as the whole calm that misled it,
    measured from the first scale-in's window to the scale-out that undid it. A square wave around the thresholds thus
    costs one scale-in and one scale-out, and then the group stays large enough for its crests: at most two changes of
    direction an hour. "Soon" is five minutes, or two of the longest scale-in windows where that is longer; slower waves
    are load, and are followed. After an hour the lesson is forgotten. A scale-out never waits for patience.

    A queue or a response time says nothing of how much could be spared: a group that looks at nothing else takes one
    away to see. Where that was wrong it does not try again for the hour, however long the calm. Nor does a group with a
    forecast, which changes its mind in the longest calm.
"""

from dataclasses import replace
from typing import Final

from services.decider.core.state import Settings, Standing

REGRET_WINDOWS: Final = 2.0  # in scale-in windows: a scale-out this soon after a scale-in regrets it
REGRET_S: Final = 300.0  # at least: half of a wave of ten minutes
LESSON: Final = 1.5  # the next calm must last this much longer than the one that misled
MEMORY_S: Final = 3600.0


def after_out(standing: Standing, settings: Settings, now_s: float) -> Standing:
    """Return what a scale-out at ``now_s`` teaches."""
    if standing.changed_in_at_s is None or standing.turned_at_s is None:
        return standing
    learned = replace(standing, changed_in_at_s=None, turned_at_s=None)
    if now_s - standing.changed_in_at_s > max(REGRET_WINDOWS * settings.in_window_s, REGRET_S):
        return learned
    calm_s = required_s(standing, settings, standing.turned_at_s) + now_s - standing.turned_at_s
    patience_s = MEMORY_S if settings.is_blind else LESSON * calm_s
    return replace(learned, patience_s=patience_s, patience_until_s=now_s + MEMORY_S)


def after_in(standing: Standing, now_s: float) -> Standing:
    """Return the standing after a scale-in at ``now_s``."""
    turned_at_s = now_s if standing.turned_at_s is None else standing.turned_at_s
    return replace(standing, changed_in_at_s=now_s, turned_at_s=turned_at_s)


def required_s(standing: Standing, settings: Settings, now_s: float) -> float:
    """Return how long every policy must have asked for fewer before a scale-in at ``now_s``."""
    learned_s = standing.patience_s if now_s < standing.patience_until_s else 0.0
    return max(settings.in_window_s, learned_s)
