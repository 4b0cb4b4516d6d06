"""Reading a host's domains such as to wait for none of them.

While libvirt ends a domain, calls about it wait, and so do listings (see the note in ``common.virt.lines``). So
listings have a thread of their own, and so has each run of readings. Where a run hangs, the next thread goes on with
the rest; the domain it hangs at is unknown, and is not asked again until it answers.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from common.clock import Clock
from common.domain import CpuReading, DomainState, HostCpu
from services.monitor.lane import Lane, Readable, is_done

MAX_LANES: Final = 4
STUCK_SHARE: Final = 0.3  # of the patience: a reading that takes longer hangs; an ordinary one takes a millisecond


class Sweep:
    """The calls that are under way at one host; used by one thread."""

    def __init__(self, host: str, connection: Readable, clock: Clock) -> None:
        """Begin with nothing under way."""
        self._host = host
        self._connection = connection
        self._clock = clock
        self._lister = Lane(f"list-{host}", connection)
        self._lanes: list[Lane] = []
        self._runs: dict[Lane, _Run] = {}
        self._listing: Future[None] | None = None

    def readings(self, patience_s: float) -> tuple[CpuReading, ...] | None:
        """Return a reading of each domain, unknown for those that do not answer; None if the host itself does not.

        Raises:
            HypervisorError: the connection is lost, or libvirt fails.
        """
        end_s = self._clock.monotonic_s() + patience_s
        stuck_s = STUCK_SHARE * patience_s
        is_listed = self._list(stuck_s)
        known = self._connection.known()
        answered = self._read(known, stuck_s, end_s)
        if not (answered or is_listed) and not self._is_host_alive(stuck_s):
            return None
        readings = (answered[uuid] if uuid in answered else self._unknown(uuid, name) for uuid, name in known.items())
        return tuple(reading for reading in readings if reading is not None)

    def host_cpu(self, patience_s: float) -> HostCpu | None:
        """Return the host's idle counter; None where it is not known in time.

        Raises:
            HypervisorError: the connection is lost, or libvirt fails.
        """
        lane = self._free_lane()
        if lane is None:
            return None
        answer = lane.submit(lambda connection: connection.host_cpu())
        return answer.result() if is_done(answer, STUCK_SHARE * patience_s) else None

    def close(self) -> None:
        """Let the lanes go; one that hangs ends when its call returns."""
        for lane in (self._lister, *self._lanes):
            lane.leave()

    def _list(self, patience_s: float) -> bool:
        """Return whether the listing is fresh; one that waits for a domain's end goes on by itself."""
        if self._listing is None:
            self._listing = self._lister.submit(lambda connection: connection.refresh())
        if not is_done(self._listing, patience_s):
            return False
        listing, self._listing = self._listing, None
        listing.result()
        return True

    def _read(self, known: dict[str, str], stuck_s: float, end_s: float) -> dict[str, CpuReading | None]:
        """Return what was read until ``end_s``; where a lane stays at one domain for ``stuck_s``, the next goes on."""
        stuck = {run.at for lane, run in self._runs.items() if not lane.is_free}
        rest = [uuid for uuid in known if uuid not in stuck]
        answered: dict[str, CpuReading | None] = {}
        while rest and (lane := self._free_lane()) is not None:
            run = self._runs[lane] = _Run(rest)
            future = lane.submit(run)
            count = -1
            while not is_done(future, stuck_s) and len(run.answered) > count and self._clock.monotonic_s() < end_s:
                count = len(run.answered)
            rest = run.leave()
            answered |= run.answered
            if future.done():
                future.result()
            if self._clock.monotonic_s() >= end_s:
                break
        return answered

    def _free_lane(self) -> Lane | None:
        free = next((lane for lane in self._lanes if lane.is_free), None)
        if free is None and len(self._lanes) < MAX_LANES:
            free = Lane(f"read-{self._host}-{len(self._lanes)}", self._connection)
            self._lanes.append(free)
        return free

    def _is_host_alive(self, patience_s: float) -> bool:
        lane = self._free_lane()
        if lane is None:
            return False
        answer = lane.submit(lambda connection: connection.ping())
        return is_done(answer, patience_s) and answer.exception() is None

    def _unknown(self, uuid: str, name: str) -> CpuReading:
        return CpuReading(name, uuid, DomainState.UNKNOWN, None, None, self._clock.monotonic_s())


class _Run:
    """Domains to read one after the other; ``at`` is the one being read."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self.at: str | None = None
        self.answered: dict[str, CpuReading | None] = {}
        self._uuids = tuple(uuids)
        self._is_left = False

    def __call__(self, connection: Readable) -> None:
        for uuid in self._uuids:
            self.at = uuid
            if self._is_left:
                return
            self.answered[uuid] = connection.reading(uuid)

    def leave(self) -> list[str]:
        """Have the run end after its present domain; return those behind it."""
        self._is_left = True
        return list(self._uuids[len(self.answered) + 1 :])
