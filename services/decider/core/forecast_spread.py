"""How far the load will be from what was forecast, and whom to believe: a mixture learned online.

Every forecaster keeps histograms of its errors, measured in its own recent mean error, on a fixed grid that is fine
near zero and reaches far out. Some keep further ones for the minute of the hour (jobs start on the clock) and for the
present state (far above its usual level, rising or falling), which lean on the common one until they have data.
Each histogram is an expert. Experts are weighted by their recent logarithmic score, and again by their score in
moments as surprising as this one: after a jump the slow forecasters are known to be wrong.

The weighting is the exponentially weighted forecaster with forgetting (Herbster and Warmuth, 1998).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.decider.core.evolve import evolve
from services.decider.core.forecast_points import (
    ALPHA,
    COMBINED,
    FITTED,
    LAST,
    MIDDLE,
    POINTS,
    REACTION,
    SIMPLE,
    SLOWEST,
    Guess,
    Points,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 61
EDGE = 5.2  # the grid reaches sinh(5.2) / 2 = 45 mean errors on either side
GRID = np.linspace(-EDGE, EDGE, BINS)
STRETCH = 0.5
BIN = float(GRID[1] - GRID[0])
WIDTH = np.cosh(GRID) * STRETCH * BIN
_student = (1 + (np.sinh(GRID) * STRETCH / 0.9) ** 2 / 3) ** -2 * WIDTH
PRIOR = _student / _student.sum()  # Student's t with 3 degrees of freedom: what is believed before any data
PRIOR_COUNT = 25.0
FORGET_SPREAD = 0.995
FORGET_CONTEXT = 0.98
LEAN = 10.0  # observations that the common histogram counts for in a context

RATES = np.array([0.1, 0.01])  # a quick and a slow idea of the recent mean error
FIRST_ERROR = 0.05  # relative, before anything was measured
LEAST_SCALE = 1e-6
FLOOR = 1.0  # times the usual load is added before the logarithm: silence is far away, but not infinitely
EXPERTS_PLAIN = POINTS * len(RATES)
OWNERS = np.array([LAST, COMBINED, FITTED])  # the forecasters with histograms by context
FAMILIES = 2  # the minute of the hour, the state
EXPERTS = EXPERTS_PLAIN + FAMILIES * len(OWNERS)
CENTRES = np.concatenate((np.repeat(np.arange(POINTS), len(RATES)), np.tile(OWNERS, FAMILIES)))
OWNER_ROWS = OWNERS * len(RATES) + 1  # those with the slow scale
STATE_ROWS = EXPERTS - len(OWNERS)  # from here on
ROWS = np.arange(EXPERTS)
MAX_PHASES = 60
ABOVE_USUAL = np.array([0.6, 0.85, 1.15, 1.6])
LAST_CHANGE = np.array([-2.0, -0.7, 0.7, 2.0])
STATES = (len(ABOVE_USUAL) + 1) * (len(LAST_CHANGE) + 1)

SURPRISE = np.array([-6.0, -2.5, -1.0, 1.0, 2.5, 6.0])
FORGET_LOSS, LEARN_LOSS = 0.97, 0.5
FORGET_SURPRISE, LEARN_SURPRISE = 0.95, 0.25
SHARE_OF_COMMON_LOSS = 0.3
JUMPS_STAY = 1.0  # before any was seen: after a jump the load stays where it jumped to
MOST_LOSS = 8.0  # one outlier must not silence an expert for good
LEAST_WEIGHT = 1e-4  # relative to the best: any expert can come back
NEGLIGIBLE = 1e-3  # relative to the best: not worth computing


@dataclass(frozen=True)
class Spread:
    """Scales (POINTS, RATES) relative to the forecast, histograms, and the experts' discounted losses."""

    learned: int
    scale: Floats
    common: Floats  # (EXPERTS_PLAIN, BINS)
    phases: Floats  # (phases of the hour, OWNERS, BINS)
    states: Floats  # (STATES, OWNERS, BINS)
    loss: Floats
    loss_when: Floats  # (surprises, EXPERTS)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The distribution of the load at one step: for each expert its centre, scale, histogram and weights.

    See Note [More load never asks for fewer] in ``forecast``.
    """

    guess: Guess
    scale: Floats
    shapes: Floats
    weights: Floats  # (surprises on the way from the load before, EXPERTS)
    is_rise: bool
    phase: int
    state: int
    surprise: int


def initial(step_s: float) -> Spread:
    """Return a spread that has measured nothing: the prior, with the last value believed first."""
    head_start = np.zeros((POINTS, len(RATES)))
    head_start[1:SIMPLE] = 1.0
    head_start[FITTED] = 2.0
    loss = np.concatenate((head_start.ravel(), np.zeros(EXPERTS - EXPERTS_PLAIN)))
    surprise = np.abs(np.arange(len(SURPRISE) + 1) - len(SURPRISE) / 2)
    slowness = 1 - REACTION[CENTRES]
    phases = max(1, min(MAX_PHASES, round(3600 / step_s)))
    return Spread(
        learned=0,
        scale=np.full((POINTS, len(RATES)), FIRST_ERROR),
        common=np.tile(PRIOR * PRIOR_COUNT, (EXPERTS_PLAIN, 1)),
        phases=np.zeros((phases, len(OWNERS), BINS)),
        states=np.zeros((STATES, len(OWNERS), BINS)),
        loss=loss,
        loss_when=np.outer(surprise, loss) * 0.5 + np.outer(surprise**2, slowness) * JUMPS_STAY,
    )


def outlook(spread: Spread, before: Points, requests: float, guess: Guess, target_s: float) -> Outlook:
    """Return the distribution of the load in the step that starts at ``target_s`` seconds, ``requests`` seen last."""
    phase = int((target_s + 1e-6) * len(spread.phases) // 3600) % len(spread.phases)
    is_rise = requests >= before.requests
    aboves, changes, surprises = (_way(place, before, requests) for place in (_above, _change, _surprise))
    states = [above * (len(LAST_CHANGE) + 1) + change for above in aboves for change in changes]
    shapes = np.empty((EXPERTS, BINS))
    np.divide(spread.common, spread.common.sum(1, keepdims=True), out=shapes[:EXPERTS_PLAIN])
    leaning = np.concatenate((spread.phases[[phase]], spread.states[states])) + shapes[OWNER_ROWS] * LEAN
    leaning /= leaning.sum(2, keepdims=True)
    shapes[EXPERTS_PLAIN:STATE_ROWS] = leaning[0]
    shapes[STATE_ROWS:] = leaning[1] if len(states) == 1 else _edge(leaning[1:], is_rise)
    scale = np.maximum(spread.scale, LEAST_SCALE)
    weights = np.array([_weights(spread, surprise) for surprise in surprises])
    return Outlook(guess, scale, shapes, weights, is_rise, phase, states[-1], surprises[-1])


def learn(spread: Spread, seen: Outlook, value: float) -> Spread:
    """Return the spread after the ``value`` that ``seen`` was about."""
    error = _logarithm(value, seen) - _logarithm(seen.guess.points, seen)
    low, share = _place(error[:, None] / seen.scale)
    owners = OWNER_ROWS
    low_of = np.concatenate((low, low[owners], low[owners]))
    share_of = np.concatenate((share, share[owners], share[owners]))
    common = spread.common * FORGET_SPREAD + PRIOR * (PRIOR_COUNT * (1 - FORGET_SPREAD))
    _count(common, low, share)
    phases, states = spread.phases.copy(), spread.states.copy()
    for kept in (phases[seen.phase], states[seen.state]):
        kept *= FORGET_CONTEXT
        _count(kept, low[owners], share[owners])
    rate = np.maximum(RATES, 1 / (spread.learned + 2))
    scale = spread.scale + rate * (np.minimum(np.abs(error)[:, None], 20 * spread.scale) - spread.scale)
    learned = evolve(
        spread,
        learned=spread.learned + 1,
        scale=np.maximum(scale, LEAST_SCALE),
        common=common,
        phases=phases,
        states=states,
    )
    if value == 0:  # silence says nothing about who forecasts load well
        return learned
    left = seen.shapes[ROWS, low_of] / WIDTH[low_of]
    right = seen.shapes[ROWS, low_of + 1] / WIDTH[low_of + 1]
    density = (left * (1 - share_of) + right * share_of) / _flat(seen.scale)
    return _score(learned, -np.log(density + 1e-12), seen.surprise)


def cumulative(seen: Outlook, loads: Floats) -> Floats:
    """Return for each of ``loads`` the probability that the load is not above it. Shape as ``loads``, in [0, 1]."""
    weights = np.where(seen.weights > seen.weights.max(1, keepdims=True) * NEGLIGIBLE, seen.weights, 0.0)
    chosen = np.flatnonzero(weights.any(0))
    centre = _logarithm(seen.guess.points, seen)[CENTRES[chosen], None]
    distance = (_logarithm(loads, seen)[None, :] - centre) / _flat(seen.scale)[chosen, None]
    place = np.clip((_arcsinh(distance / STRETCH) + EDGE) / BIN + 0.5, 0, BINS - 0.001)
    low = place.astype(np.int64)
    below = np.zeros((len(chosen), BINS + 1))
    np.cumsum(seen.shapes[chosen], axis=1, out=below[:, 1:])
    row = ROWS[: len(chosen), None]
    left = below[row, low]
    at_or_below = left + (below[row, low + 1] - left) * (place - low)
    mixed = (weights[:, chosen] / weights.sum(1, keepdims=True)) @ at_or_below
    answer: Floats = mixed.min(0) if seen.is_rise else mixed.max(0)
    return answer


def _logarithm(loads: Floats | float, seen: Outlook) -> Floats:
    logarithm: Floats = np.log(loads + FLOOR * seen.guess.floor)
    return logarithm


def _arcsinh(x: Floats) -> Floats:
    size = np.abs(x)  # three times as fast as np.arcsinh
    answer: Floats = np.copysign(np.log(size + np.sqrt(size * size + 1)), x)
    return answer


def _flat(scale: Floats) -> Floats:
    slow = scale[OWNERS, 1]
    return np.concatenate((scale.ravel(), slow, slow))


def _place(error: Floats) -> tuple[Ints, Floats]:
    place = np.clip((_arcsinh(error.ravel() / STRETCH) + EDGE) / BIN, 0, BINS - 1.001)
    low = place.astype(np.int64)
    return low, place - low


def _count(histograms: Floats, low: Ints, share: Floats) -> None:
    rows = ROWS[: len(histograms)]
    histograms[rows, low] += 1 - share
    histograms[rows, low + 1] += share


def _score(spread: Spread, loss: Floats, surprise: int) -> Spread:
    regret = np.minimum(loss - loss.min(), MOST_LOSS)
    loss_when = spread.loss_when.copy()
    loss_when[surprise] = loss_when[surprise] * FORGET_SURPRISE + regret * LEARN_SURPRISE
    return evolve(spread, loss=spread.loss * FORGET_LOSS + regret * LEARN_LOSS, loss_when=loss_when)


def _weights(spread: Spread, surprise: int) -> Floats:
    loss = spread.loss * SHARE_OF_COMMON_LOSS + spread.loss_when[surprise]
    weights = np.maximum(np.exp(loss.min() - loss), LEAST_WEIGHT)
    answer: Floats = weights / weights.sum()
    return answer


def _edge(shapes: Floats, is_rise: bool) -> Floats:
    """Return the histograms whose every quantile is the highest (a rise) or the lowest of all these."""
    below = shapes.cumsum(2)
    edge: Floats = np.diff(below.min(0) if is_rise else below.max(0), prepend=0.0)
    return edge


def _way(place: Callable[[Points, float], int], before: Points, requests: float) -> list[int]:
    """Return the places from that of the load before to that of ``requests``, last."""
    start, end = place(before, before.requests), place(before, requests)
    return list(range(start, end + 1)) if end >= start else list(range(start, end - 1, -1))


def _above(before: Points, requests: float) -> int:
    return int(ABOVE_USUAL.searchsorted(requests / (float(before.level[SLOWEST]) + 1e-9)))


def _change(before: Points, requests: float) -> int:
    return int(LAST_CHANGE.searchsorted((requests - before.requests) / (before.volatility + 1e-9)))


def _surprise(before: Points, requests: float) -> int:
    usual_change = before.volatility + 0.02 * before.requests + 1e-9
    away = (requests - float(before.level[MIDDLE])) * (1 - ALPHA[MIDDLE]) / usual_change
    return int(SURPRISE.searchsorted(away))
