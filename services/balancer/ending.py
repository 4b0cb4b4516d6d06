"""Waits until nothing is in flight in a HAProxy that is told to end: ``python -m services.balancer.ending RUN_DIR``.

The keeper (``scripts/keep-haproxy.sh``) has told HAProxy to take nothing new, and ends it when this command returns.

# Note [Nothing in flight is not gone]
HAProxy ends by itself when its last connection does. A client's connection that is idle may last for another 30 s
(``timeout http-keep-alive``; ``idle-close-on-response`` keeps it over a reload): nobody waits for it here. What counts
is requests, those in old workers too, and connections of TCP groups and WebSockets, used or not.

# Note [A moment's silence]
With nothing open at all, HAProxy has ended by itself before the first look, or ends during one: its master or a worker
does not answer then. That is no news, and the keeper ends this command a moment later. Only what lasts is told.

# Note [Ready at once]
It imports nothing that takes long: neither the configuration nor messages. The bound is in a file of the run directory.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Final

from common.clock import Clock, SystemClock
from services.balancer.core import ending
from services.balancer.core.ending import Ending
from services.balancer.core.workers import MASTER_SOCKET
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.haproxy import Master

LOOK_S: Final = 0.1
QUIET_S: Final = 0.2  # a request that comes just now, on a connection that was idle, is seen at the next look
LOST_S: Final = 2.0  # the master is away for less than that while it reloads
TELL_S: Final = 0.5
SILENT_S: Final = 1.0  # see Note [A moment's silence]
DEADLINE_S: Final = 2.0


class Watch:
    """What HAProxy's processes have in flight, look by look."""

    def __init__(self, master: Master, clock: Clock) -> None:
        """Look at nothing yet."""
        self._master = master
        self._clock = clock
        self._held: dict[int, int] = {}
        self._silent: set[int] = set()
        self._lost_at_s: float | None = None
        self._whole_at_s = clock.monotonic_s()

    @property
    def in_flight(self) -> int:
        """Return how many requests there were at the last look; of a process that is silent now, those of before."""
        return sum(self._held.values())

    @property
    def is_whole(self) -> bool:
        """Return whether every process has said at the last look what it has."""
        return not self._silent and self._lost_at_s is None

    def silent_s(self, now_s: float) -> float:
        """Return for how long some process has not said what it has; 0 where each has at the last look."""
        return 0.0 if self.is_whole else now_s - self._whole_at_s

    def look(self) -> bool:
        """Ask every process; return whether HAProxy is still there."""
        now_s = self._clock.monotonic_s()
        is_there = self._look(now_s)
        if self.is_whole:
            self._whole_at_s = now_s
        return is_there

    def _look(self, now_s: float) -> bool:
        try:
            pids = [worker.pid for worker in self._master.workers()]
        except ProxyError:
            return False  # the last worker has ended
        except ProxyLostError:
            self._lost_at_s = now_s if self._lost_at_s is None else self._lost_at_s
            return now_s - self._lost_at_s < LOST_S
        self._lost_at_s, self._silent = None, set()
        self._held = {pid: self._ask(pid) for pid in pids}
        return True

    def _ask(self, pid: int) -> int:
        try:
            return self._master.in_flight(pid)
        except (ProxyError, ProxyLostError):
            self._silent.add(pid)
            return self._held.get(pid, 0)


def wait(run_path: Path, clock: Clock) -> Ending:
    """Return when nothing is in flight, HAProxy has ended, or the time is over; tell meanwhile what is waited for.

    Args:
        run_path: the directory with the master's socket and the bound.
        clock: measures the time.

    Returns:
        The end of it; ``cut`` is what is still in flight, and ends with HAProxy.
    """
    watch, at_most_s = Watch(Master(run_path / MASTER_SOCKET, clock, DEADLINE_S), clock), ending.read_bound(run_path)
    begun_s = quiet_since_s = clock.monotonic_s()
    told_s = begun_s - TELL_S
    while watch.look():
        now_s = clock.monotonic_s()
        if watch.in_flight or not watch.is_whole:
            quiet_since_s = now_s
        if now_s - begun_s >= at_most_s:
            return _tell(run_path, Ending(0, at_most_s, now_s - begun_s, watch.in_flight, watch.is_whole))
        if now_s - quiet_since_s >= QUIET_S:
            break
        if now_s - told_s >= TELL_S and (watch.is_whole or watch.silent_s(now_s) >= SILENT_S):
            told_s = now_s
            _tell(run_path, Ending(watch.in_flight, at_most_s, now_s - begun_s, None, watch.is_whole))
        Event().wait(LOOK_S)
    return _tell(run_path, Ending(0, at_most_s, clock.monotonic_s() - begun_s, cut=0))


def _tell(run_path: Path, told: Ending) -> Ending:
    """Write the file for whoever waits, if it can be written; return what was told."""
    with suppress(OSError):
        ending.write(run_path, told)
    return told


def main(argv: Sequence[str]) -> int:
    """Wait in the run directory that the command line names; say what is cut, for the log."""
    told = wait(Path(argv[0]), SystemClock())
    if told.text:
        sys.stderr.write(f"{told.text}: HAProxy was stopped\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
