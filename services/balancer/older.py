"""Asks HAProxy's master what its old workers hold, and waits for none that hangs."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Final, TypeVar

from common.clock import Clock
from services.balancer.core.older import Old, Older, old_ones
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.haproxy import Master

AGAIN_S: Final = 0.5  # the master is away for as long while it reloads
HANGING_S: Final = 5.0
QUICK_S: Final = 0.1
UNKNOWN: Final = Older(is_whole=False)
T = TypeVar("T")


class OldWorkers:
    """Those that reloads have left, as the balancer reaches them."""

    def __init__(self, master: Master, clock: Clock) -> None:
        """Ask nothing yet."""
        self.master = master
        self._clock = clock
        self._not_before_s: dict[int, float] = {}  # by process, 0 is the master

    def look(self, present_pid: int, groups: Collection[str]) -> Older:
        """Return what old workers show; not whole where one of them, or the master, does not answer.

        Args:
            present_pid: the worker that has just answered at the runtime API.
            groups: those to be shown.
        """
        workers = self._ask(0, self.master.workers)
        ages_s = None if workers is None else old_ones(workers, present_pid)
        if ages_s is None:
            return UNKNOWN
        self._not_before_s = {pid: at_s for pid, at_s in self._not_before_s.items() if pid in {0, *ages_s}}
        found = {pid: self._ask(pid, partial(self.master.look, pid, groups)) for pid in ages_s}
        seen = tuple(Old(shown, ages_s[pid]) for pid, shown in found.items() if shown is not None)
        return Older(seen, is_whole=len(seen) == len(ages_s))

    def end_sessions(self, pid: int, group: str, slot: str, spared: Collection[str]) -> tuple[str, ...]:
        """End an old worker's sessions with one server; return which were ended now."""
        return self._ask(pid, lambda: self.master.end_sessions(pid, group, slot, spared)) or ()

    def _ask(self, pid: int, question: Callable[[], T]) -> T | None:
        """Return the answer, None where there is none; whoever hangs is not asked again for a while."""
        begin_s = self._clock.monotonic_s()
        if begin_s < self._not_before_s.get(pid, begin_s):
            return None
        try:
            return question()
        except (ProxyError, ProxyLostError):
            now_s = self._clock.monotonic_s()
            self._not_before_s[pid] = now_s + (AGAIN_S if now_s - begin_s < QUICK_S else HANGING_S)
            return None
