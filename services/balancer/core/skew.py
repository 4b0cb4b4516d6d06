"""Whether what members have in flight stays far apart: connections that stay do not move to a new member.

Least connections sends everything new to whoever has least, so a difference that lasts is one of connections that stay
(TCP, WebSocket). It is told once it has lasted, and once it has been gone for as long: what comes and goes is no news.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.messages import BackendState
from services.balancer.core.report import News

HOLD_S: Final = 60.0
LEAST: Final = 10  # connections at one member: fewer are no load that anybody would miss elsewhere
APART: Final = 3.0  # the most are more than so many times the least …
TOGETHER: Final = 2.0  # … until they are at most so many times


@dataclass(frozen=True, slots=True)
class Skew:
    """Whether the members are told to be far apart, and since when they look otherwise (monotonic seconds)."""

    is_told: bool = False
    since_s: float | None = None


def serving(backends: Sequence[BackendState]) -> dict[str, int]:
    """Return what the healthy members in rotation have in flight, by name."""
    return {b.name: b.in_flight for b in backends if b.state == "ready" and b.is_healthy}


def follow(skew: Skew, in_flight: Mapping[str, int], now_s: float) -> Skew:
    """Return the skew after a look at what the members in rotation have in flight, by name."""
    if not _looks_otherwise(skew.is_told, in_flight):
        return Skew(skew.is_told)
    since_s = now_s if skew.since_s is None else skew.since_s
    return Skew(not skew.is_told) if now_s - since_s >= HOLD_S else Skew(skew.is_told, since_s)


def skew_news(before: Skew, after: Skew, in_flight: Mapping[str, int]) -> News | None:
    """Return what is to be told of a change, None where there is none."""
    if before.is_told == after.is_told:
        return None
    if after.is_told:
        return News("connections-skewed", "", skew_text(in_flight), "warning")
    return News("connections-even", "", "connections are spread over all members again")


def skew_notes(skew: Skew, backends: Sequence[BackendState]) -> tuple[str, ...]:
    """Return in plain words that the members are far apart, nothing where they are not."""
    in_flight = serving(backends)
    return (skew_text(in_flight),) if skew.is_told and len(in_flight) > 1 else ()


def skew_text(in_flight: Mapping[str, int]) -> str:
    """Return who has the most and who the least.

    >>> skew_text({"db-0000": 20, "db-0001": 0})
    'connections stay far apart: 20 at db-0000, 0 at db-0001; new ones go to the least, old ones do not move'
    """
    most, least = max(in_flight, key=lambda name: in_flight[name]), min(in_flight, key=lambda name: in_flight[name])
    ends = f"{in_flight[most]} at {most}, {in_flight[least]} at {least}"
    return f"connections stay far apart: {ends}; new ones go to the least, old ones do not move"


def _looks_otherwise(is_told: bool, in_flight: Mapping[str, int]) -> bool:
    if len(in_flight) < 2:
        return is_told
    most, least = max(in_flight.values()), min(in_flight.values())
    if is_told:
        return most < LEAST or most <= TOGETHER * least
    return most >= LEAST and most > APART * least
