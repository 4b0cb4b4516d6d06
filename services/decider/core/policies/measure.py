"""The metric that a policy looks at: one figure for each ready domain, with what is unknown counted both ways."""

from dataclasses import dataclass

from services.decider.core.metrics import GroupMetrics
from services.decider.core.words import percent

CPU, REQUESTS, IN_FLIGHT, RESPONSE, QUEUE = "cpu", "requests-per-domain", "in-flight", "response-time", "queue"
SYMPTOMS = (RESPONSE, QUEUE)  # they show overload, not what could be spared
NAMES = {CPU: "CPU", REQUESTS: "requests", IN_FLIGHT: "load", RESPONSE: "response time", QUEUE: "queue"}


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric now. ``low`` is what scale-out stands on, ``high`` scale-in; without data both are 0.

    ``is_known`` tells whether there is any figure, ``is_complete`` whether nothing is guessed; ``ignorance`` says what
    is missing.
    """

    low: float
    high: float
    is_known: bool
    is_complete: bool
    ignorance: str = ""


def measure(metric: str, metrics: GroupMetrics) -> Measure:
    """Return ``metric`` of the group: a CPU ratio, seconds, or, each a domain: requests/s, in flight, or waiting."""
    if metric == CPU:
        is_known = metrics.ready > 0 and metrics.known > 0
        return Measure(metrics.low, metrics.high, is_known, is_known and not metrics.unknown, metrics.ignorance)
    if metrics.ready == 0:
        return Measure(0.0, 0.0, False, False, metrics.unmeasured)
    value = _traffic(metric, metrics)
    if value is None:
        missing = "no fresh traffic figures from the balancer"
        if metrics.is_traffic_known:
            missing = f"the balancer does not tell the {NAMES[metric]}"
        return Measure(0.0, 0.0, False, False, missing)
    return Measure(value, value, True, True)


def diluted(metric: str, metrics: GroupMetrics, value: float) -> float:
    """Return the figure that each domain would have with those that are coming; a response time says nothing of it."""
    if not metrics.coming:
        return value
    return 0.0 if metric == RESPONSE else value * metrics.ready / (metrics.ready + metrics.coming)


def shown(metric: str, value: float) -> str:
    """Return a figure of ``metric`` as people read it.

    >>> shown("cpu", 0.5), shown("requests-per-domain", 12.0), shown("response-time", 0.25), shown("queue", 1.5)
    ('50 %', '12.0 requests/s each', '250 ms', '1.5 waiting each')
    """
    match metric:
        case "cpu":
            return percent(value)
        case "requests-per-domain":
            return f"{value:.1f} requests/s each"
        case "in-flight":
            return f"{value:.1f} in flight each"
        case "response-time":
            return f"{1000 * value:.0f} ms"
        case _:
            return f"{value:.1f} waiting each"


def _traffic(metric: str, metrics: GroupMetrics) -> float | None:
    if metric == RESPONSE:
        return _response_s(metrics)
    totals = {REQUESTS: metrics.request_rate, IN_FLIGHT: _in_flight(metrics), QUEUE: metrics.queue}
    total = totals[metric]
    return None if total is None else total / metrics.ready


def _in_flight(metrics: GroupMetrics) -> float | None:
    """Return the mean of a few seconds: short requests are seen, or not, by chance."""
    return metrics.in_flight if metrics.in_flight_mean is None else metrics.in_flight_mean


def _response_s(metrics: GroupMetrics) -> float | None:
    """Return how long requests take now; see Note [The response time now] in ``trend``.

    HAProxy's mean is the finer figure, but history where requests are few: it counts as far as Little's law bears it
    out, which is a coarse one while less than one request is in flight.
    """
    if metrics.request_rate == 0 and not metrics.queue:
        return 0.0
    told_s, now_s = metrics.response_time_s, metrics.response_fast_s
    return told_s if told_s is None or now_s is None else min(told_s, now_s)
