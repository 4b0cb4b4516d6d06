"""How many requests are worked on at a time, on average, and when the last one was seen."""

from dataclasses import dataclass
from typing import Final

from common.messages import Traffic

SMOOTH_S: Final = 5.0  # at least, however quickly a group scales out


@dataclass(frozen=True, slots=True)
class Flow:
    """A mean of the requests in flight, None before the first figure; ``requested_at_s``: when a request was seen."""

    at_s: float
    in_flight: float | None = None
    requested_at_s: float | None = None


def follow(flow: Flow | None, traffic: Traffic, at_s: float, smooth_s: float) -> Flow:
    """Return the flow after one more traffic message measured at ``at_s``, smoothed over about ``smooth_s``."""
    flow = flow or Flow(at_s)
    count = _in_flight(traffic) if traffic.is_known else None
    if count is None:
        return Flow(at_s, flow.in_flight, flow.requested_at_s)
    is_carrying = count > 0 or bool(traffic.request_rate)
    elapsed_s = max(at_s - flow.at_s, 0.0)
    before = count if flow.in_flight is None else flow.in_flight
    mean = before + (count - before) * elapsed_s / (smooth_s + elapsed_s)
    return Flow(at_s, mean, at_s if is_carrying else flow.requested_at_s)


def _in_flight(traffic: Traffic) -> float | None:
    """Return how many requests are in flight: counted at one instant, or rate times response time if that is more.

    An instant misses short requests; the product (Little's law) knows them, and lags behind. The larger one is taken:
    who stands on it must not overlook requests.
    """
    if traffic.in_flight is None:
        return None
    rate, response_s = traffic.request_rate, traffic.response_time_s
    return max(float(traffic.in_flight), rate * response_s if rate and response_s else 0.0)
