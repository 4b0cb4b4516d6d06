"""Metrics made to measure, and what a policy votes on a row of ticks, one a second."""

from typing import Any

from common.messages import Vote
from services.decider.core import policies
from services.decider.core.metrics import GroupMetrics


def metrics(ratio: float = 0.5, *, ready: int = 2, unknown: int = 0, **changes: Any) -> GroupMetrics:
    """Return a group whose known ready domains all have ``ratio``."""
    known = ready - unknown
    values: dict[str, Any] = {
        "interval_s": 1.0,
        "desired": ready,
        "ready": ready,
        "known": known,
        "unknown": tuple(f"web-{number:04d}" for number in range(unknown)),
        "mean": ratio,
        "low": ratio * known / ready if ready else 0.0,
        "high": (ratio * known + unknown) / ready if ready else 1.0,
        "ignorance": "something is unknown" if unknown or not ready else "",
        "is_membership_fresh": True,
        "is_traffic_known": True,
        "queue": 0,
        "request_rate": 100.0 * ratio,
        "response_time_s": 0.02,
    }
    return GroupMetrics(**(values | changes))


def ballots(policy: Any, series: list[GroupMetrics], begin_s: float = 100.0, state: Any = None) -> list[Vote]:
    """Return the votes of each tick."""
    kind, found = policies.of(policy), []
    state = kind.start() if state is None else state
    for tick, seen in enumerate(series):
        vote, state = kind.recommend(policy, state, seen, begin_s + tick)
        assert vote is not None
        found.append(vote)
    return found


def votes(policy: Any, series: list[GroupMetrics]) -> list[int | None]:
    """Return the capacity voted for on each tick."""
    return [vote.capacity for vote in ballots(policy, series)]
