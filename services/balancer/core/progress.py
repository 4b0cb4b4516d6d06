"""Whether a busy server still answers anybody: what tells an overloaded one from one that hangs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.balancer.core.answers import Server


@dataclass(frozen=True, slots=True)
class Answered:
    """How many answers a server has given, and when that grew last, or nobody waited (monotonic seconds)."""

    total: int
    at_s: float


def progress(before: Mapping[str, Answered], servers: Iterable[Server], now_s: float) -> dict[str, Answered]:
    """Return, by slot, since when each server has answered nobody of those who wait for it."""
    return {server.name: _answered(before.get(server.name), server, now_s) for server in servers}


def stalled(answered: Mapping[str, Answered], now_s: float, limit_s: float) -> frozenset[str]:
    """Return the slots that answered nobody for longer than ``limit_s``, as long as any request may take."""
    return frozenset(name for name, last in answered.items() if now_s - last.at_s > limit_s)


def _answered(last: Answered | None, server: Server, now_s: float) -> Answered:
    if last is not None and server.is_busy and server.answers == last.total:
        return last
    return Answered(server.answers, now_s)
