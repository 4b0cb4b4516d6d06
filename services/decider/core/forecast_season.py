"""The load at this time of other days, and of other weeks.

One period is cut into at most ``MAX_BUCKETS`` buckets. ``settled`` is an exponentially weighted mean over earlier
periods, ``newest`` the latest value of each bucket. A bucket settles shortly before its turn comes again, so a
comparison of now with then never mixes today's values into the past. An unknown bucket is NaN.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.decider.core.evolve import evolve

Floats = npt.NDArray[np.float64]
DAY_S = 86400.0
MAX_BUCKETS = 2016
NEWEST_SHARE = 0.4  # of the latest period in the settled mean: yesterday counts most, spikes fade within days
SMOOTHED_SHARE = 1 / 200  # of a period on either side of a bucket is averaged


@dataclass(frozen=True)
class Season:
    """What earlier periods held. ``settled_to`` is the bucket, counted from the start, up to which all is settled."""

    bucket_s: float
    settled: Floats
    newest: Floats
    settled_to: int
    at: int


def initial(period_s: float, step_s: float) -> Season | None:
    """Return an empty season, or None where a period has fewer than four steps."""
    count = min(MAX_BUCKETS, round(period_s / step_s))
    if count < 4:
        return None
    unknown = np.full(count, np.nan)
    return Season(period_s / count, unknown, unknown.copy(), 0, -1)


def observe(season: Season, at_s: float, value: float, lead_s: float) -> Season:
    """Return the season after ``value`` at ``at_s`` seconds; buckets within reach of ``lead_s`` ahead are settled."""
    count = len(season.settled)
    bucket = _bucket(season, at_s)
    settled, newest = season.settled.copy(), season.newest.copy()
    reach = min(_bucket(season, at_s + lead_s) + _half_window(season) + 1, bucket + count - 1)
    first = max(season.settled_to, reach - count + 1)
    if reach == first:
        _settle_one(settled, newest, first % count)
    elif reach > first:
        _settle(settled, newest, np.arange(first, reach + 1) % count)
    slot = bucket % count
    is_again = bucket == season.at
    newest[slot] = newest[slot] + 0.5 * (value - newest[slot]) if is_again else value
    return evolve(season, settled=settled, newest=newest, settled_to=max(season.settled_to, reach + 1), at=bucket)


def around(season: Season, at_s: float) -> float:
    """Return the smoothed load of earlier periods at this time of the period; NaN where it is unknown."""
    half = _half_window(season)
    centre = _bucket(season, at_s)
    if half == 0:
        return float(season.settled[centre % len(season.settled)])
    window = season.settled.take(np.arange(centre - half, centre + half + 1), mode="wrap")
    return float(window.sum()) / len(window)


def _settle_one(settled: Floats, newest: Floats, slot: int) -> None:
    old, new = float(settled[slot]), float(newest[slot])
    if not math.isnan(new):
        settled[slot] = new if math.isnan(old) else old + NEWEST_SHARE * (new - old)
    newest[slot] = np.nan


def _settle(settled: Floats, newest: Floats, slots: npt.NDArray[np.int64]) -> None:
    old, new = settled[slots], newest[slots]
    blended = np.where(np.isnan(old), new, old + NEWEST_SHARE * (new - old))
    settled[slots] = np.where(np.isnan(new), old, blended)
    newest[slots] = np.nan


def _bucket(season: Season, at_s: float) -> int:
    return int((at_s + 1e-6) // season.bucket_s)


def _half_window(season: Season) -> int:
    return int(len(season.settled) * SMOOTHED_SHARE)
