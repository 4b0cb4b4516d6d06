"""What the endpoint carries, as means over a few seconds and over two minutes.

Nothing here outlives its cause: without requests every mean falls to nothing when its window has passed, whatever
HAProxy's own mean over its last requests still says. So a replay is exact after the longer window, too.

Note [The response time now]
    HAProxy's response time is a mean over its last 1,024 requests: after an overload a trickle carries it along for
    many minutes. By Little's law the mean number in flight is the rate of requests times the time that each takes, so
    the time that requests take now is the one mean divided by the other. Both are measured anew at every look.
"""

from dataclasses import dataclass
from typing import Final

from common.messages import Traffic

FAST_S: Final = 8.0
SLOW_S: Final = 120.0
LEAST_REQUESTS: Final = 2.0  # fewer tell nothing of how long one takes


@dataclass(frozen=True, slots=True)
class Look:
    """What one traffic message says of the ``span_s`` before ``at_s``; ``in_flight_s`` is requests times seconds."""

    at_s: float
    span_s: float
    in_flight_s: float
    requests: float
    errors: float


@dataclass(frozen=True, slots=True)
class Means:
    """Means over one window; the response time and the share of errors are 0 without requests."""

    in_flight: float = 0.0
    request_rate: float = 0.0
    response_s: float = 0.0
    error_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Trend:
    """The looks of the last ``SLOW_S``, oldest first; at least one."""

    looks: tuple[Look, ...]

    @property
    def at_s(self) -> float:
        """Return when the newest look was measured."""
        return self.looks[-1].at_s

    def means(self, window_s: float) -> Means:
        """Return the means over the last ``window_s``."""
        since_s = self.at_s - window_s
        looks = [look for look in self.looks if look.at_s > since_s]
        span_s = sum(look.span_s for look in looks)
        in_flight_s, requests = sum(look.in_flight_s for look in looks), sum(look.requests for look in looks)
        return Means(
            in_flight=in_flight_s / span_s,
            request_rate=requests / span_s,
            response_s=in_flight_s / requests if requests >= LEAST_REQUESTS else 0.0,
            error_ratio=min(sum(look.errors for look in looks) / requests, 1.0) if requests else 0.0,
        )


def follow(trend: Trend | None, traffic: Traffic, at_s: float) -> Trend | None:
    """Return the trend after one more traffic message measured at ``at_s``; one that lacks a figure changes nothing."""
    rate, in_flight, span_s = traffic.request_rate, traffic.in_flight, traffic.interval_s
    if not traffic.is_known or rate is None or in_flight is None:
        return trend
    look = Look(at_s, span_s, in_flight * span_s, rate * span_s, (traffic.error_rate or 0.0) * span_s)
    kept = () if trend is None else tuple(one for one in trend.looks if at_s - SLOW_S < one.at_s < at_s)
    return Trend((*kept, look))
