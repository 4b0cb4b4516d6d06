"""One host's thread: it may hang, nothing waits for it.

The thread opens the connection, registers for events, and reads the counters whenever it is asked to. All it learns
goes into a queue. A thread that is stuck for longer than the host's ``call_timeout_s`` is given up for a new one
(at most ``MAX_THREADS`` at a time); when it comes back it finds itself replaced, and leaves.
"""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from common.clock import Clock
from common.domain import CpuReading, DomainState, LifecycleEvent
from common.errors import HypervisorError
from common.log import logger
from services.monitor.core.host import Listed, Seen, Silent
from services.monitor.lane import Readable
from services.monitor.processes import ProcessWatch
from services.monitor.sweep import Sweep

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 5.0
MAX_THREADS: Final = 3
PATIENCE: Final = 0.5  # of the interval: how long a round waits for readings


class HostConnection(Readable, Protocol):
    """What the monitor needs of ``common.hypervisor.Connection``."""

    def watch(self, on_event: Callable[[LifecycleEvent], None], on_lost: Callable[[], None]) -> None: ...
    def close(self) -> None: ...


class HostWatcher:
    """Reads one host; ``report`` is called from several threads and must return at once."""

    def __init__(
        self,
        host: str,
        open_connection: Callable[[], HostConnection],
        report: Callable[[str, Seen], None],
        clock: Clock,
        interval_s: float,
        call_timeout_s: float,
        processes: ProcessWatch | None = None,
    ) -> None:
        """Start the thread."""
        self.host = host
        self._open = open_connection
        self._report = report
        self._clock = clock
        self._patience_s = PATIENCE * interval_s
        self._call_timeout_s = call_timeout_s
        self._processes = processes
        self._threads: list[_Reader] = []
        self._replace_thread()

    def ask(self) -> None:
        """Have the counters read; a thread that has not finished the last reading is not asked again."""
        reader = self._threads[-1]
        stuck_s = reader.busy_for_s()
        if stuck_s > self._call_timeout_s:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) < MAX_THREADS:
                logger().warning("host-thread-replaced", host=self.host, stuck_s=round(stuck_s, 1))
                self._replace_thread()
        self._threads[-1].asked.set()

    def close(self) -> None:
        """Let the threads go; those that hang die with the process."""
        for thread in self._threads:
            thread.leave()
        for thread in self._threads:
            thread.join(0.5 / len(self._threads))

    def _replace_thread(self) -> None:
        for thread in self._threads:
            thread.leave()
        reader = _Reader(self.host, self._open, self._report, self._clock, self._patience_s, self._processes)
        self._threads.append(reader)
        reader.start()


class _Reader(threading.Thread):
    """The thread: connect if need be, read, report, wait to be asked."""

    def __init__(
        self,
        host: str,
        open_connection: Callable[[], HostConnection],
        report: Callable[[str, Seen], None],
        clock: Clock,
        patience_s: float,
        processes: ProcessWatch | None,
    ) -> None:
        super().__init__(name=f"host-{host}", daemon=True)
        self.asked = threading.Event()
        self._host = host
        self._open = open_connection
        self._tell = report
        self._clock = clock
        self._patience_s = patience_s
        self._processes = processes
        self._connection: HostConnection | None = None
        self._sweep: Sweep | None = None
        self._is_lost = False
        self._is_leaving = False
        self._busy_since_s: float | None = None
        self._backoff_s = 0.0
        self._retry_at_s = 0.0
        self._reason = ""

    def busy_for_s(self) -> float:
        """Return for how long the present round has been under way, 0 between rounds."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    def leave(self) -> None:
        """Have the thread end after its present call; it reports nothing any more."""
        self._is_leaving = True
        self.asked.set()

    def run(self) -> None:
        """Serve rounds until told to leave."""
        while not self._is_leaving:
            self.asked.wait()
            self.asked.clear()
            self._busy_since_s = self._clock.monotonic_s()
            if not self._is_leaving:
                self._round()
            self._busy_since_s = None
        self._drop()

    def _round(self) -> None:
        try:
            if self._is_lost:
                self._drop()
            sweep = self._sweep or self._connect()
            if sweep is not None:
                readings = sweep.readings(self._patience_s)
                self._follow(readings or ())
                if readings is None:
                    self._report(Silent("libvirt does not answer"))
                else:
                    self._report(Listed(readings, sweep.host_cpu(self._patience_s)))
        except HypervisorError as error:
            self._fail(str(error))

    def _connect(self) -> Sweep | None:
        """Return the means to read a new connection, watched before it is listed; None while a failed one backs off."""
        if self._clock.monotonic_s() < self._retry_at_s:
            self._report(Silent(self._reason, is_certain=True))
            return None
        connection = self._connection = self._open()
        connection.watch(self._on_event, self._on_lost)
        self._sweep = Sweep(self._host, connection, self._clock)
        self._backoff_s = 0.0
        logger().info("host-connected", host=self._host)
        return self._sweep

    def _fail(self, reason: str) -> None:
        """Let go of the connection whatever the error was: a new one lists and watches all afresh."""
        self._drop()
        self._backoff_s = min(max(BACKOFF_FIRST_S, 2 * self._backoff_s), BACKOFF_MAX_S)
        self._retry_at_s = self._clock.monotonic_s() + self._backoff_s
        self._reason = reason
        logger().warning("host-unreachable", host=self._host, reason=reason, retry_in_s=self._backoff_s)
        self._report(Silent(reason, is_certain=True))

    def _drop(self) -> None:
        self._is_lost = False
        if self._sweep is not None:
            self._sweep.close()
            self._sweep = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _follow(self, readings: tuple[CpuReading, ...]) -> None:
        if self._processes is not None:
            for reading in readings:
                if reading.state is DomainState.RUNNING:
                    self._processes.follow(reading.name, reading.uuid)

    def _on_event(self, event: LifecycleEvent) -> None:
        """Called in libvirt's event thread."""
        self._report(event)
        if event.kind == "started" and self._processes is not None:
            self._processes.follow(event.name, event.uuid)

    def _on_lost(self) -> None:
        """Called in libvirt's event thread: connect again at once."""
        self._is_lost = True
        self._report(Silent("libvirt closed the connection", is_certain=True))
        self.asked.set()

    def _report(self, seen: Seen) -> None:
        if not self._is_leaving:
            self._tell(self._host, seen)
