"""The monitor's loop: a sample a host each interval on a steady beat, a failure the moment it is seen.

Threads fill one queue; ``step`` empties it through the core and publishes. A host that has not answered within
``DEADLINE`` of the interval gets a sample that says so; its late answer counts all the same.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from common import names
from common.bus import Inbox
from common.config import Config, Host
from common.hypervisor import Connection
from common.log import logger
from common.messages import Body, Event, Failure, Recovery, Reply
from common.process import Context
from services.monitor.core.host import HostState, Listed, Seen, Silent, coalesce, handle
from services.monitor.processes import ProcessWatch, pid_directory
from services.monitor.watcher import HostConnection, HostWatcher

DEADLINE: Final = 0.8  # of the interval
MAX_QUEUED: Final = 10_000  # events beyond it are lost; the next listing makes up for them

Open = Callable[[str, Callable[[str], bool]], HostConnection]


@dataclass(slots=True)
class _Beat:
    """One host's place in the present interval."""

    state: HostState
    is_answered: bool = False
    is_asked: bool = False


def is_configured(config: Config) -> Callable[[str], bool]:
    """Return the rule for names: those under the prefix of a group."""
    prefixes = tuple(group.prefix for group in config.groups.values())
    return lambda name: any(names.domain_index(prefix, name) is not None for prefix in prefixes)


def open_read_only(uri: str, may_touch: Callable[[str], bool]) -> HostConnection:
    """Return a connection that can only look."""
    return Connection.open(uri, is_read_only=True, may_touch=may_touch)


class MonitorService:
    """Watches every host of the configuration."""

    def __init__(self, context: Context, open_connection: Open = open_read_only) -> None:
        """Start a thread for each host; the first samples are due at once."""
        self._bus, self._clock = context.bus, context.clock
        self._interval_s = context.config.system.interval_s
        self._is_ours = is_configured(context.config)
        self._seen_lock = threading.Lock()
        self._seen: deque[tuple[str, Seen]] = deque(maxlen=MAX_QUEUED)
        self._processes: list[ProcessWatch] = []
        hosts = context.config.hosts
        self._beats = {name: _Beat(HostState(name, self._interval_s)) for name in hosts}
        self._watchers = [self._watcher(name, host, open_connection) for name, host in hosts.items()]
        self._tick_at_s = self._clock.monotonic_s()

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Publish what was seen, ask the hosts where a tick is due; return the seconds to the next tick or deadline."""
        for pending in inbox.requests:
            pending.reply(Reply(status="error", reason=f"the monitor knows no verb {pending.request.verb!r}"))
        self._publish_seen()
        self._expire(now_s)
        if now_s >= self._tick_at_s:
            self._tick(now_s)
        return max(self._next_due_s() - now_s, 0.0)

    def close(self) -> None:
        """Let the threads go."""
        for watcher in self._watchers:
            watcher.close()
        for processes in self._processes:
            processes.close()

    def _watcher(self, name: str, host: Host, open_connection: Open) -> HostWatcher:
        directory = pid_directory(host.uri)
        processes = ProcessWatch(directory, partial(self._report, name)) if directory else None
        self._processes += [processes] if processes else []
        connect = partial(open_connection, host.uri, self._is_ours)
        return HostWatcher(name, connect, self._report, self._clock, self._interval_s, host.call_timeout_s, processes)

    def _report(self, host: str, seen: Seen) -> None:
        """Called in many threads: note what was seen, and wake the loop; one wake serves a burst."""
        with self._seen_lock:
            is_first = not self._seen
            self._seen.append((host, seen))
        if is_first:
            self._bus.wake()

    def _publish_seen(self) -> None:
        with self._seen_lock:
            burst = list(self._seen)
            self._seen.clear()
        for host, what in coalesce(burst, self._is_ours):
            beat = self._beats[host]
            if isinstance(what, (Listed, Silent)):
                beat.is_answered = True
            self._handle(beat, what)

    def _tick(self, now_s: float) -> None:
        """Ask every host, one interval after the last time was due: ticks that were slept through are left out."""
        missed = int((now_s - self._tick_at_s) / self._interval_s)
        self._tick_at_s += self._interval_s * (missed + 1)
        for watcher in self._watchers:
            beat = self._beats[watcher.host]
            beat.is_asked, beat.is_answered = True, False
            watcher.ask()

    def _expire(self, now_s: float) -> None:
        if now_s < self._deadline_s():
            return
        for beat in self._beats.values():
            if beat.is_asked and not beat.is_answered:
                self._handle(beat, Silent(f"no answer within {DEADLINE * self._interval_s:g} s"))
            beat.is_asked = False

    def _deadline_s(self) -> float:
        return self._tick_at_s - (1 - DEADLINE) * self._interval_s

    def _next_due_s(self) -> float:
        is_waiting = any(beat.is_asked and not beat.is_answered for beat in self._beats.values())
        return self._deadline_s() if is_waiting else self._tick_at_s

    def _handle(self, beat: _Beat, seen: Seen) -> None:
        beat.state, messages = handle(beat.state, seen)
        for body in messages:
            self._bus.publish(body)
            _log(body)


def _log(body: Body) -> None:
    if isinstance(body, Failure):
        fields = {"host": body.host, "domain": body.domain, "reason": body.reason, "detail": body.detail}
        (logger().info if body.reason == "stopped" else logger().warning)("domain-down", **fields)
    elif isinstance(body, Recovery):
        logger().info("domain-resumed", host=body.host, domain=body.domain)
    elif isinstance(body, Event):
        (logger().info if body.level == "info" else logger().warning)(body.name, host=body.host, text=body.text)
