"""Whether what users feel gets worse: a fast mean above a slow one.

CPU use alone does not show a group that is slow for another reason, such as a lock or a database. While queue, errors
or response time rise, nobody is taken away.
"""

from dataclasses import dataclass
from typing import Final

from common.messages import Traffic

FAST_S: Final = 4.0
SLOW_S: Final = 60.0
RISE: Final = 1.25  # the fast mean this much above the slow one is a rise …
RESPONSE_FLOOR_S: Final = 0.005  # … if it is also more than a few milliseconds
ERRORS_FLOOR: Final = 0.05  # … or more than one error in 20 s


@dataclass(frozen=True, slots=True)
class Trend:
    """Fast and slow means of response time (seconds) and errors (per second); None before the first figure."""

    at_s: float
    response_fast_s: float | None = None
    response_slow_s: float | None = None
    errors_fast: float | None = None
    errors_slow: float | None = None


def follow(trend: Trend | None, traffic: Traffic, at_s: float) -> Trend:
    """Return the trend after one more traffic message measured at ``at_s``."""
    trend = trend or Trend(at_s)
    elapsed_s = max(at_s - trend.at_s, 0.0)
    response, errors = (traffic.response_time_s, traffic.error_rate) if traffic.is_known else (None, None)
    return Trend(
        at_s=at_s,
        response_fast_s=_towards(trend.response_fast_s, response, elapsed_s, FAST_S),
        response_slow_s=_towards(trend.response_slow_s, response, elapsed_s, SLOW_S),
        errors_fast=_towards(trend.errors_fast, errors, elapsed_s, FAST_S),
        errors_slow=_towards(trend.errors_slow, errors, elapsed_s, SLOW_S),
    )


def rising(trend: Trend | None) -> tuple[str, ...]:
    """Return, in plain words, what rises."""
    if trend is None:
        return ()
    found = []
    if _is_rise(trend.response_fast_s, trend.response_slow_s, RESPONSE_FLOOR_S):
        found.append("response time")
    if _is_rise(trend.errors_fast, trend.errors_slow, ERRORS_FLOOR):
        found.append("errors")
    return tuple(found)


def _towards(mean: float | None, value: float | None, elapsed_s: float, time_constant_s: float) -> float | None:
    if value is None or mean is None:
        return mean if value is None else value
    return mean + (value - mean) * elapsed_s / (time_constant_s + elapsed_s)


def _is_rise(fast: float | None, slow: float | None, floor: float) -> bool:
    return fast is not None and slow is not None and fast > RISE * slow + floor
