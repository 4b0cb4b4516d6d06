"""The load ``lead`` steps ahead, as a distribution, and the capacity that is worth having for it.

``observe`` takes one step's requests; ``recommend`` asks a newsvendor's question of the distribution. A missing share
of the demand weighs ``w`` times as much as the same share too many, ``w = exp(2 * headroom) / 5``: the answer is the
least capacity ``s`` for which the demand ``d <= s``, each ``d`` counted with 1/d, is ``w`` times the demand above it,
counted with 1/s. Counting with 1/d makes the sum of relative errors, the SPEC elasticity metrics, the thing that is
minimised. Only this last step knows headroom and domain size, so one forecast serves every setting.

State is frozen, of bounded size, and the same bytes after a round trip through ``forecast_store``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.decider.core import forecast_points, forecast_spread
from services.decider.core.evolve import evolve
from services.decider.core.forecast_points import LAST, SLOWEST, Points
from services.decider.core.forecast_spread import Outlook, Spread

Floats = npt.NDArray[np.float64]
DEFAULT_HEADROOM = 2.0
MAX_HEADROOM = 20.0  # more makes no difference: what is missing weighs 10**17 times as much
MAX_LEAD_STEPS = 3600
MAX_REQUESTS = 1e15
MAX_CAPACITY = 1_000_000
EXACT_TO = 200  # capacities up to here are weighed one by one, beyond that in steps of 0.5 %
_ladder = np.unique(np.ceil(np.geomspace(EXACT_TO, MAX_CAPACITY, math.ceil(math.log(MAX_CAPACITY / EXACT_TO) / 0.005))))
CAPACITIES = np.concatenate((np.arange(EXACT_TO, dtype=float), _ladder))
NEVER = 1e-12  # a probability that rounding could make as well
LEAST_SHARE = 0.5  # of the usual load: a collapse below it is not spared for at the price of a jump
BAND = (0.1, 0.5, 0.9)

# Note [More load never asks for fewer]
#
# All else equal, a larger newest load never lowers the capacity, at any headroom and size of domain. It holds because
# the distribution's every quantile rises with the newest load: each centre rises with it (a fit that would not is held
# where the load before puts it); histograms, scales, weights and the fit learn from it only after the outlook was
# made; and where it chooses whom to believe (surprise, state), the highest of all the distributions on the way up
# from the load before counts, or on the way down the lowest. Demand above ``s`` counts with 1/s, not 1/d, and no demand
# like the least: else a jump that grows would count for less, and silence that becomes less likely for more.


@dataclass(frozen=True)
class Forecast:
    """What is known of one group's load after ``step`` + 1 steps of ``step_s`` seconds.

    ``pending`` holds the outlooks whose step has not come yet, oldest first; None for a step that was unknown.
    ``latest`` is the newest outlook, ``age_steps`` how many unknown steps ago it was made.
    """

    step_s: float
    lead_steps: int
    step: int
    points: Points
    spread: Spread
    pending: tuple[Outlook | None, ...]
    latest: Outlook | None
    age_steps: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The capacity wanted, and why. ``band`` is the 10 %, 50 % and 90 % quantile of the requests in the step ahead."""

    capacity: int
    band: tuple[float, float, float]
    lead_steps: int
    weight: float
    age_steps: int
    known_steps: int


def initial(step_s: float, lead_steps: int) -> Forecast:
    """Return a forecast that has seen nothing.

    Args:
        step_s: Length of a step in seconds, > 0.
        lead_steps: Steps from a decision to its supply, 1..MAX_LEAD_STEPS.

    Raises:
        ValueError: A value is outside its range.
    """
    if not (math.isfinite(step_s) and step_s > 0):
        raise ValueError(f"step_s must be finite and > 0; got {step_s}")
    _check_lead(lead_steps)
    points, spread = forecast_points.initial(step_s), forecast_spread.initial(step_s)
    return Forecast(step_s, lead_steps, -1, points, spread, (), None, 0)


def observe(state: Forecast, requests: float) -> Forecast:
    """Return the state one step later.

    Args:
        state: The state before.
        requests: Requests counted in the step, 0..MAX_REQUESTS; NaN for a step that nobody counted: time passes and
            nothing is learned.

    Raises:
        ValueError: ``requests`` is negative, infinite or absurd.
    """
    if not (math.isnan(requests) or 0 <= requests <= MAX_REQUESTS):
        raise ValueError(f"requests must be NaN (unknown) or in 0..{MAX_REQUESTS:g}; got {requests}")
    due, pending = _due(state)
    step = state.step + 1
    if math.isnan(requests):
        return evolve(state, step=step, pending=(*pending, None), age_steps=state.age_steps + 1)
    at_s, lead_s = step * state.step_s, state.lead_steps * state.step_s
    points, spread = forecast_points.observe(state.points, requests, at_s, lead_s), state.spread
    before = state.points if state.points.known else points
    guess = forecast_points.guess(points, before, at_s, state.lead_steps, lead_s)
    latest = forecast_spread.outlook(spread, before, requests, guess, at_s + lead_s)
    if due is not None:
        spread = forecast_spread.learn(spread, due, requests)
        points = forecast_points.learn(points, due.guess, requests)
    return evolve(
        state, step=step, points=points, spread=spread, pending=(*pending, latest), latest=latest, age_steps=0
    )


def recommend(state: Forecast, requests_per_domain: float, headroom: float = DEFAULT_HEADROOM) -> Recommendation | None:
    """Return the capacity for the step ``lead_steps`` after the last one, or None before any load was seen.

    Args:
        state: What is known.
        requests_per_domain: Requests that one domain serves in one step, > 0.
        headroom: How much to spare, >= 0; 0 is as tight as it dares.

    Returns:
        Capacity >= 0 and finite; it never falls when ``headroom`` grows.

    Raises:
        ValueError: An argument is outside its range.

    >>> state = initial(60.0, 1)
    >>> for requests in (90, 110, 100, 105, 95):
    ...     state = observe(state, requests)
    >>> recommend(state, 50.0).capacity
    3
    """
    if state.latest is None:
        return None
    capacity = capacities(state, requests_per_domain, (headroom,))[0]
    return Recommendation(
        capacity, band(state), state.lead_steps, weight_of(headroom), state.age_steps, state.points.known
    )


def capacities(state: Forecast, requests_per_domain: float, headrooms: Sequence[float]) -> list[int]:
    """Return the capacity at each of ``headrooms``: one forecast, many decisions. 0 before any load was seen."""
    if not 1 / MAX_REQUESTS <= requests_per_domain <= MAX_REQUESTS:
        raise ValueError(
            f"requests_per_domain must be in {1 / MAX_REQUESTS:g}..{MAX_REQUESTS:g}; got {requests_per_domain}"
        )
    weights = [weight_of(headroom) for headroom in headrooms]
    if state.latest is None:
        return [0] * len(weights)
    candidates = _candidates(state.latest, requests_per_domain)
    at_or_below = forecast_spread.cumulative(state.latest, candidates * requests_per_domain)
    at_or_below[-1] = 1.0  # whatever is beyond the last candidate needs at least that one
    at_or_below[0] = 0.0  # no demand at all counts as the least there is
    demand = np.maximum((candidates[1:] + candidates[:-1] + 1) / 2, _least_demand(state.latest) / requests_per_domain)
    enough = np.cumsum(np.diff(at_or_below) / demand)
    missing = np.maximum(1 - at_or_below[1:] - NEVER, 0.0) / demand
    wanted = (enough / np.maximum(missing, 1e-300)).searchsorted(np.array(weights))
    chosen: list[float] = candidates[1:][np.minimum(wanted, len(enough) - 1)].tolist()
    return [int(capacity) for capacity in chosen]


def band(state: Forecast) -> tuple[float, float, float]:
    """Return the 10 %, 50 % and 90 % quantiles of the requests in the step ahead; zeros before any load was seen."""
    if state.latest is None:
        return (0.0, 0.0, 0.0)
    top = _top(state.latest)
    loads = np.concatenate(((0.0,), np.geomspace(1e-3 * top, top, 64)))
    at_or_below = forecast_spread.cumulative(state.latest, loads)
    low, middle, high = np.interp(BAND, np.maximum.accumulate(at_or_below), loads)
    return float(low), float(middle), float(high)


def weight_of(headroom: float) -> float:
    """Return how many times worse a missing share is than the same share too many.

    >>> weight_of(0)
    0.2
    """
    if not headroom >= 0:
        raise ValueError(f"headroom must be >= 0; got {headroom}")
    return math.exp(2 * min(headroom, MAX_HEADROOM)) / 5


def with_lead(state: Forecast, lead_steps: int) -> Forecast:
    """Return the state for another lead time. What was learned stays; the spread adapts within some steps."""
    _check_lead(lead_steps)
    if lead_steps == state.lead_steps:
        return state
    return evolve(state, lead_steps=lead_steps, pending=())


def _due(state: Forecast) -> tuple[Outlook | None, tuple[Outlook | None, ...]]:
    if len(state.pending) < state.lead_steps:
        return None, state.pending
    return state.pending[0], state.pending[1:]


def _candidates(latest: Outlook, requests_per_domain: float) -> Floats:
    top = min(_top(latest) / requests_per_domain + 20, MAX_CAPACITY)
    return CAPACITIES[: int(CAPACITIES.searchsorted(top)) + 1]


def _least_demand(latest: Outlook) -> float:
    points = latest.guess.points
    return LEAST_SHARE * float(min(points[LAST], points[SLOWEST]))


def _top(latest: Outlook) -> float:
    return 8 * float(latest.guess.points.max()) + 1e-6


def _check_lead(lead_steps: int) -> None:
    if not 1 <= lead_steps <= MAX_LEAD_STEPS:
        raise ValueError(f"lead_steps must be in 1..{MAX_LEAD_STEPS}; got {lead_steps}")
