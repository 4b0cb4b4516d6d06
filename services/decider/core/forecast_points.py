"""What the load will be: many simple forecasters side by side, none of them right for every load.

Levels at seven smoothing constants, damped trends at four, the last value and a level carried along the shape of
yesterday and of last week, the mean of all weighted by recent error, and a recursive least-squares fit over some of
them that learns how this load returns to its mean. ``forecast_spread`` learns which of them to believe when.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.decider.core import forecast_season
from services.decider.core.evolve import evolve
from services.decider.core.forecast_season import Season

Floats = npt.NDArray[np.float64]

# Smoothing of the level, of the trend, and the damping of the trend for each step ahead.
LEVELS = ((1.0, 0, 0), (0.7, 0, 0), (0.5, 0, 0), (0.3, 0, 0), (0.15, 0, 0), (0.07, 0, 0), (0.03, 0, 0))
TRENDS = ((1.0, 0.3, 0.8), (0.7, 0.2, 0.9), (0.5, 0.15, 0.9), (0.15, 0.03, 0.97))
ALPHA, BETA, DAMPING = np.array(LEVELS + TRENDS, dtype=float).T.copy()
LAST, MIDDLE, SLOW, SLOWER, SLOWEST = 0, 3, 4, 5, 6  # rows of ALPHA that other parts look at
SMOOTHERS = len(ALPHA)
SEASONAL = 6  # three for the day, three for the week
SIMPLE = SMOOTHERS + SEASONAL
POINTS = SIMPLE + 2
COMBINED, FITTED = SIMPLE, SIMPLE + 1
FEATURES = 12
# How much of a jump each forecaster follows at once; those made of others by what they mostly lean on.
REACTION = np.concatenate((ALPHA, (1.0, 0.3, 0.0, 1.0, 0.3, 0.0), (0.3, 0.7)))
FORGET_FIT = 0.998
FORGET_ERROR = 0.97
FIRST_UNCERTAIN = 1.0
MOST_UNCERTAIN = 1e4  # bound on the trace of the fit's covariance: a quiet load must not wind it up


@dataclass(frozen=True)
class Points:
    """The state of all point forecasters. ``known`` counts the values seen; loads are requests in one step."""

    known: int
    requests: float
    previous: float
    level: Floats
    trend: Floats
    volatility: float
    mean: float
    day: Season | None
    week: Season | None
    fit: Floats
    covariance: Floats
    squared_error: Floats


@dataclass(frozen=True, slots=True)
class Guess:
    """What all forecasters said at one step about the step ``lead`` later."""

    points: Floats
    features: Floats
    unit: float  # the load that errors are measured against
    floor: float  # the same before the newest load was seen


def initial(step_s: float) -> Points:
    """Return forecasters that have seen nothing."""
    fit = np.zeros(FEATURES)
    fit[0] = 1.0
    return Points(
        known=0,
        requests=0.0,
        previous=0.0,
        level=np.zeros(SMOOTHERS),
        trend=np.zeros(SMOOTHERS),
        volatility=0.0,
        mean=0.0,
        day=forecast_season.initial(forecast_season.DAY_S, step_s),
        week=forecast_season.initial(7 * forecast_season.DAY_S, step_s),
        fit=fit,
        covariance=np.eye(FEATURES) * FIRST_UNCERTAIN,
        squared_error=np.full(SIMPLE, 1e-12),
    )


def observe(points: Points, value: float, at_s: float, lead_s: float) -> Points:
    """Return the forecasters after ``value`` requests in the step that ends ``lead_s`` before the one forecast next."""
    day = points.day and forecast_season.observe(points.day, at_s, value, lead_s)
    week = points.week and forecast_season.observe(points.week, at_s, value, lead_s)
    known = points.known + 1
    if points.known == 0:
        return evolve(
            points,
            known=1,
            requests=value,
            previous=value,
            level=np.full(SMOOTHERS, value),
            volatility=0.05 * value,
            mean=value,
            day=day,
            week=week,
        )
    expected = points.level + DAMPING * points.trend
    error = value - expected
    change = abs(value - points.requests)
    return evolve(
        points,
        known=known,
        requests=value,
        previous=points.requests,
        level=expected + ALPHA * error,
        trend=DAMPING * points.trend + ALPHA * BETA * error,
        volatility=points.volatility + max(0.05, 1 / known) * (change - points.volatility),
        mean=points.mean + max(1 / 2000, 1 / known) * (value - points.mean),
        day=day,
        week=week,
    )


def learn(points: Points, guess: Guess, value: float) -> Points:
    """Return the forecasters after comparing ``guess`` with the ``value`` that came."""
    squared = points.squared_error * FORGET_ERROR + ((value - guess.points[:SIMPLE]) / guess.unit) ** 2
    x = guess.features / guess.unit
    gain = points.covariance @ x
    step = gain / (FORGET_FIT + float(x @ gain))
    limit = 6 * math.sqrt(float(squared.min()) * (1 - FORGET_ERROR))  # one spike must not bend the fit
    error = min(limit, max(-limit, value / guess.unit - float(points.fit @ x)))
    covariance = (points.covariance - np.outer(step, gain)) / FORGET_FIT
    trace = float(covariance.trace())
    if trace > MOST_UNCERTAIN:
        covariance *= MOST_UNCERTAIN / trace
    return evolve(points, squared_error=squared, fit=points.fit + step * error, covariance=covariance)


def guess(points: Points, before: Points, at_s: float, lead_steps: int, lead_s: float) -> Guess:
    """Return what each forecaster expects ``lead_steps`` after the last value; every entry is finite and >= 0.

    Given those ``before`` the last value, no entry falls when that value grows.
    """
    ahead = DAMPING * (1 - DAMPING**lead_steps) / (1 - DAMPING)
    smooth = points.level + ahead * points.trend
    quiet = 0.05 * before.mean + 1e-9  # an idle hour of yesterday must not make a ratio of millions
    day, day_rise = _seasonal(points, points.day, quiet, at_s, lead_s)
    week, week_rise = _seasonal(points, points.week, quiet, at_s, lead_s)
    simple = np.concatenate((np.maximum(smooth, 0.0), day, week))
    trust = 1 / np.maximum(points.squared_error, 1e-30) ** 2
    combined = float(simple @ (trust / trust.sum()))
    level = points.level
    recent = (points.requests, points.previous, level[2], level[SLOW], level[SLOWER], smooth[7], smooth[8])
    features = np.array((*recent, *day, week[0], week[2]))
    rise = ALPHA * (1 + ahead * BETA)  # of each forecaster, when the last value is one more
    rises = np.array((1.0, 0.0, *rise[[2, SLOW, SLOWER, 7, 8]], *day_rise, week_rise[0], week_rise[2]))
    fall = min(0.0, float(points.fit @ rises))
    fitted = max(0.0, float(points.fit @ features) - fall * (points.requests - before.requests))
    return Guess(np.concatenate((simple, (combined, fitted))), features, _unit(points), _unit(before))


def _seasonal(
    points: Points, season: Season | None, quiet: float, at_s: float, lead_s: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the last value and a level carried along the season, and the season; and how each rises with the value."""
    value, level = points.requests, float(points.level[MIDDLE])
    now = then = math.nan
    if season is not None:
        now, then = forecast_season.around(season, at_s), forecast_season.around(season, at_s + lead_s)
    if math.isnan(now) or math.isnan(then):
        return (value, level, float(points.level[SLOWER])), (1.0, float(ALPHA[MIDDLE]), float(ALPHA[SLOWER]))
    growth = (then + quiet) / (now + quiet)
    return (value * growth, level * growth, then), (growth, float(ALPHA[MIDDLE]) * growth, 0.0)


def _unit(points: Points) -> float:
    return max(float(points.level[SLOW]), 0.01 * points.mean, 1e-9)
