"""Two looks at HAProxy's counters to one traffic message; a counter that went back is unknown, never negative."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common import figures
from common.messages import Traffic
from services.balancer.core.answers import Server, Snapshot

Owned = Mapping[str, tuple[str, str]]
"""Slot to (name, UUID) of its member."""


def unknown_traffic(group: str, interval_s: float) -> Traffic:
    """Return the message that says: HAProxy does not answer."""
    return Traffic(group=group, interval_s=interval_s, is_known=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What HAProxy showed at ``at_s``, and whose the slots were.

    ``older``: requests in flight in older processes; ``older_by_member``: the same by name and UUID.
    """

    snapshot: Snapshot
    owned: Owned
    at_s: float
    older: int = 0
    older_by_member: Mapping[tuple[str, str], int] = field(default_factory=dict)


def traffic(group: str, before: Look | None, now: Look, interval_s: float) -> Traffic:
    """Return what the group's endpoint carried between two looks.

    Args:
        group: shown by ``now``.
        before: the earlier look; without one, or if it was at another HAProxy process, rates are unknown.
        now: the later look.
        interval_s: to be said where there is no earlier look, > 0.
    """
    if before is not None:
        interval_s = now.at_s - before.at_s
    old = before if before is not None and before.snapshot.pid == now.snapshot.pid else None
    totals, past = now.snapshot.totals[group], old.snapshot.totals.get(group) if old else None
    requests = _growth(totals.requests, past.requests if past else None)
    errors = _growth(totals.errors, past.errors if past else None)
    answers = None if totals.answers is None else _growth(totals.answers, past.answers if past else None)
    columns = _columns(group, old, now, interval_s)
    return Traffic(
        group=group,
        interval_s=interval_s,
        is_known=True,
        request_rate=_rate(requests, interval_s),
        error_rate=_rate(errors, interval_s),
        queue=totals.queue,
        in_flight=totals.in_flight + now.older,
        queue_time_s=totals.queue_time_s if requests else None,
        response_time_s=totals.response_time_s if requests else None,
        names=tuple(name for name, *_ in columns),
        request_rates=tuple(rate for _, rate, *_ in columns),
        in_flights=tuple(in_flight for _, _, in_flight, _ in columns),
        response_times_s=tuple(response_s for *_, response_s in columns),
        answer_rate=_rate(answers, interval_s),
    )


Column = tuple[str, float | None, int | None, float | None]


def _columns(group: str, old: Look | None, now: Look, interval_s: float) -> list[Column]:
    past = {server.name: server for server in old.snapshot.servers.get(group, ())} if old else {}
    owned_before = old.owned if old else {}
    columns = (
        _column(
            server,
            past.get(server.name) if owned_before.get(server.name) == owner else None,
            owner[0],
            now.older_by_member.get(owner, 0),
            interval_s,
        )
        for server in now.snapshot.servers[group]
        if (owner := now.owned.get(server.name)) is not None
    )
    return sorted(
        columns, key=lambda column: column[0]
    )  # a name may be there twice, while one leaves and its next comes


def _column(server: Server, past: Server | None, name: str, older: int, interval_s: float) -> Column:
    requests = _growth(server.sessions_total, past.sessions_total if past else None)
    response_s = server.response_time_s if requests else None
    return name, _rate(requests, interval_s), server.in_flight + older, response_s


def _growth(now: int, before: int | None) -> int | None:
    return None if before is None or now < before else now - before


def _rate(growth: int | None, interval_s: float) -> float | None:
    """Return growth per second; None where it is unknown, or more than there can be: a counter that was damaged."""
    rate = None if growth is None or interval_s <= 0 else growth / interval_s
    return None if rate is None or rate > figures.MAX_RATE else rate
