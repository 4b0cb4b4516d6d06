"""What a forced end really cut: a request that HAProxy sends to another server is answered there.

A drain that is ended ends sessions. HAProxy asks a GET without an answer elsewhere (``retry``, Note [What may be sent
twice] in ``haproxy_config``), in the present worker and in older ones, and counts it at the server that it leaves. So
what was cut is known a moment after the order: when nothing is left there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.balancer.core.answers import Admin, Server

PATIENCE_S: Final = 1.0  # by then sessions that were ended are gone


@dataclass(frozen=True, slots=True)
class Cut:
    """Requests that were in flight at one slot of a process when it was ordered to end them.

    ``redispatched``: how many the slot had seen go elsewhere before. ``at_s``: when that was (monotonic seconds).
    """

    pid: int
    slot: str
    name: str
    in_flight: int
    redispatched: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """How many of a member's requests ended, and how many went on at another one."""

    name: str
    cut: int
    moved: int

    @property
    def text(self) -> str:
        """Return that in words."""
        moved = f"{_requests(self.moved)} without an answer {_were(self.moved)} sent to another domain"
        cut = f"{_requests(self.cut)} in flight {_were(self.cut)} cut off"
        if not self.cut:
            return f"none was cut: {moved}"
        return f"{cut}; {moved}" if self.moved else cut


def settled(
    cuts: Iterable[Cut], workers: Mapping[int, Sequence[Server]], now_s: float
) -> tuple[tuple[Told, ...], tuple[Cut, ...]]:
    """Return what is known by now, by member, and of which cuts it is not yet.

    Args:
        cuts: that are not told yet.
        workers: the group's slots in every process of HAProxy, as just seen.
        now_s: when that was.
    """
    open_ones: list[Cut] = []
    found: dict[str, tuple[int, int]] = {}
    for cut in cuts:
        servers = {server.name: server for server in workers.get(cut.pid, ())}
        there = servers.get(cut.slot)
        if now_s - cut.at_s < PATIENCE_S and (there is None or there.in_flight):
            open_ones.append(cut)
            continue
        moved = _moved(cut, there, servers.values())
        before = found.get(cut.name, (0, 0))
        found[cut.name] = before[0] + cut.in_flight - moved, before[1] + moved
    return tuple(Told(name, *counts) for name, counts in found.items()), tuple(open_ones)


def _moved(cut: Cut, there: Server | None, servers: Iterable[Server]) -> int:
    """Return how many went elsewhere; where nobody else serves, HAProxy counts it too, and refuses them."""
    has_others = any(s.name != cut.slot and s.admin is Admin.READY and s.is_up for s in servers)
    return min(cut.in_flight, max(0, there.redispatched - cut.redispatched)) if there and has_others else 0


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
