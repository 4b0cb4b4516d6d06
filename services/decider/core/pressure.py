"""What users feel now: reasons not to take anybody away although CPU use is low.

CPU use alone does not show a group that is slow for another reason, such as a lock or a database. So nobody is taken
away while requests queue, take longer and longer, or fail. Each reason is a figure of now and ends with its cause: a
response time counts only while domains have more than one request each, because until then no request waits for
another one; errors count only as a share of the requests that come.
"""

from typing import Final

from services.decider.core.trend import Means
from services.decider.core.words import percent

RISE: Final = 1.25  # a fast mean this much above the slow one is a rise …
RESPONSE_FLOOR_S: Final = 0.005  # … if it is also more than a few milliseconds
ERRORS_FLOOR_RATIO: Final = 0.02  # … or more than one request in fifty
FAILING_RATIO: Final = 0.2  # so many requests fail at once: what the others cost says little of what all would


def pressure(fast: Means, slow: Means, ready: int) -> tuple[str, ...]:
    """Return, in plain words, what speaks against a scale-in of a group with ``ready`` domains; empty: nothing."""
    return tuple(reason for reason in (_slowing(fast, slow, ready), _failing(fast, slow)) if reason)


def is_crowded(in_flight: float | None, ready: int) -> bool:
    """Return whether requests wait for each other: on average more are in flight than domains are ready."""
    return in_flight is not None and in_flight > max(ready, 1)


def _slowing(fast: Means, slow: Means, ready: int) -> str:
    is_rise = fast.response_s > RISE * slow.response_s + RESPONSE_FLOOR_S
    if not is_rise or not is_crowded(fast.in_flight, ready):
        return ""
    return (
        f"response time rises: {1000 * fast.response_s:.0f} ms now, {1000 * slow.response_s:.0f} ms over two minutes, "
        f"with {fast.in_flight:.1f} requests in flight"
    )


def _failing(fast: Means, slow: Means) -> str:
    if fast.error_ratio >= FAILING_RATIO:
        return f"{percent(fast.error_ratio)} of the requests fail"
    if fast.error_ratio > RISE * slow.error_ratio + ERRORS_FLOOR_RATIO:
        return f"errors rise: {percent(fast.error_ratio)} of requests now, {percent(slow.error_ratio)} over two minutes"
    return ""
