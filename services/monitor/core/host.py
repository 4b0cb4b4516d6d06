"""What one host's readings and events mean: a sample each tick, a failure at once, told once.

``handle`` takes what was seen and returns the messages to send. A domain may be seen to fail by several witnesses (the
end of its process, libvirt's event, the next listing): the first one tells. It is told again only after the domain has
been seen up again. A frozen domain is told too, each time that it freezes; it stays up, so its end is still news.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from common.domain import CpuReading, DomainState, HostCpu, LifecycleEvent
from common.messages import FROZEN, Body, Event, Failure, HostSample
from services.monitor.core.rates import Counter, counter, cpu_ratio, idle_cpus

LOST_TICKS: Final = 3
MAX_GAP_INTERVALS: Final = 2.5

_REASONS: Final = {
    "stopped": "stopped",
    "shutdown": "stopped",
    "crashed": "crashed",
    "failed": "crashed",
    "panicked": "panicked",
    "paused": "paused",
}
_HARMLESS_PAUSES: Final = {"migrated", "restored", "from-snapshot", "postcopy"}
_UP: Final = {"started", "resumed"}
_DOWN_STATES: Final = {
    DomainState.SHUTOFF: "stopped",
    DomainState.CRASHED: "crashed",
    DomainState.PAUSED: "paused",
}


@dataclass(frozen=True, slots=True)
class Track:
    """One domain between two readings.

    ``was_up``: seen running since its last failure. ``is_told``: its failure has been sent. ``is_seen_down``: a listing
    has shown it down since.
    """

    name: str
    uuid: str
    state: DomainState
    counter: Counter | None = None
    was_up: bool = False
    is_told: bool = False
    is_seen_down: bool = False


@dataclass(frozen=True, slots=True)
class HostState:
    """All that is known of one host; ``missed_ticks`` counts those without an answer."""

    host: str
    interval_s: float
    tracks: dict[str, Track] = field(default_factory=dict)
    missed_ticks: int = 0
    is_lost_told: bool = False
    cpu: HostCpu | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """Every domain of the host was read; ``host`` is its own counter, None where that is not known."""

    readings: tuple[CpuReading, ...]
    host: HostCpu | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """The host gave no answer in time, or the connection is gone (``is_certain``)."""

    note: str
    is_certain: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of a domain ended; ``signal`` is what killed it, 0 where it ended by itself or by libvirt's hand."""

    name: str
    uuid: str
    signal: int = 0


@dataclass(frozen=True, slots=True)
class Froze:
    """The process of a domain is stopped (SIGSTOP): it serves nobody, and may go on at any moment."""

    name: str
    uuid: str


Seen = Listed | Silent | Exited | Froze | LifecycleEvent


def handle(state: HostState, seen: Seen) -> tuple[HostState, tuple[Body, ...]]:
    """Return the host's next state and the messages to send, in order: failures before the sample."""
    match seen:
        case Listed():
            return _on_listed(state, seen.readings, seen.host)
        case Silent():
            return _on_silent(state, seen)
        case Exited():
            reason = "crashed" if seen.signal else "stopped"
            detail = f"its process was killed by signal {seen.signal}" if seen.signal else "its process ended"
            return _on_down(state, seen.name, seen.uuid, reason, detail)
        case Froze():
            track = Track(seen.name, seen.uuid, DomainState.RUNNING)
            return state, (_failure(state, track, FROZEN, "its process is stopped (SIGSTOP)"),)
        case LifecycleEvent():
            return _on_event(state, seen)


def coalesce(burst: list[tuple[str, Seen]], is_ours: Callable[[str], bool]) -> list[tuple[str, Seen]]:
    """Return what of a burst of (host, seen) needs handling, in order.

    Readings of our domains only; each freeze; of each domain's events the first, the first that tells of a failure, and
    the last: however often it went up and down within the burst, it failed once, and is now as the last event says.
    """
    kept: dict[int, Seen] = {}
    marks: dict[tuple[str, str, str], int] = {}
    for index, (host, seen) in enumerate(burst):
        if isinstance(seen, Silent):
            kept[index] = seen
        elif isinstance(seen, Listed):
            kept[index] = Listed(tuple(reading for reading in seen.readings if is_ours(reading.name)), seen.host)
        elif not is_ours(seen.name):
            continue
        elif isinstance(seen, Froze):
            kept[index] = seen
        elif _is_down(seen) or _is_up(seen):
            marks.setdefault((host, seen.uuid, "first"), index)
            marks[host, seen.uuid, "last"] = index
            if _is_down(seen):
                marks.setdefault((host, seen.uuid, "down"), index)
    kept |= {index: burst[index][1] for index in marks.values()}
    return [(burst[index][0], kept[index]) for index in sorted(kept)]


def _is_down(seen: Exited | LifecycleEvent) -> bool:
    if isinstance(seen, Exited):
        return True
    return seen.kind in _REASONS and not (seen.kind == "paused" and seen.detail in _HARMLESS_PAUSES)


def _is_up(seen: Exited | LifecycleEvent) -> bool:
    return isinstance(seen, LifecycleEvent) and seen.kind in _UP


def _on_event(state: HostState, event: LifecycleEvent) -> tuple[HostState, tuple[Body, ...]]:
    if _is_up(event):
        track = Track(event.name, event.uuid, DomainState.RUNNING, was_up=True)
        return _with(state, track), ()
    if not _is_down(event):
        return state, ()
    return _on_down(state, event.name, event.uuid, _REASONS[event.kind], event.detail)


def _on_down(state: HostState, name: str, uuid: str, reason: str, detail: str) -> tuple[HostState, tuple[Body, ...]]:
    track = state.tracks.get(uuid) or Track(name, uuid, DomainState.UNKNOWN)
    if track.is_told:
        return state, ()
    return _with(state, _told(track)), (_failure(state, track, reason, detail),)


def _on_listed(
    state: HostState, readings: tuple[CpuReading, ...], host: HostCpu | None
) -> tuple[HostState, tuple[Body, ...]]:
    tracks = {reading.uuid: _tracked(state.tracks.get(reading.uuid), reading) for reading in readings}
    failed = [(track, reason) for track in state.tracks.values() if (reason := _unheard(track, tracks.get(track.uuid)))]
    failures = [_failure(state, track, reason, "seen in the listing only") for track, reason in failed]
    back = [Event(name="host-back", host=state.host, text=f"{state.host} answers again")] if state.is_lost_told else []
    down = {track.uuid for track, _ in failed}
    after_tracks = {uuid: _told(track, is_seen_down=True) if uuid in down else track for uuid, track in tracks.items()}
    after = replace(state, tracks=after_tracks, missed_ticks=0, is_lost_told=False, cpu=host)
    return after, (*failures, *back, _sample(state, after, readings))


def _tracked(before: Track | None, reading: CpuReading) -> Track:
    """Return the domain's track after a reading.

    A failed domain is up again when it runs after a listing that showed it down, or when its counter moves: the process
    of a dead one may be listed as running for seconds, but uses no CPU.
    """
    is_running = reading.state is DomainState.RUNNING
    if before is None:
        return Track(reading.name, reading.uuid, reading.state, counter(None, reading), was_up=is_running)
    now = counter(before.counter, reading)
    has_moved = before.counter is not None and now is not None and now.still_ticks == 0
    is_told = before.is_told and not (is_running and (before.is_seen_down or has_moved))
    return Track(
        name=reading.name,
        uuid=reading.uuid,
        state=reading.state,
        counter=now,
        was_up=not is_told and (before.was_up or is_running),
        is_told=is_told,
        is_seen_down=is_told and (before.is_seen_down or reading.state in _DOWN_STATES),
    )


def _unheard(before: Track, now: Track | None) -> str | None:
    """Return why a domain that was up is down, if no event said so; a pause only when it is listed twice."""
    if before.is_told or not before.was_up:
        return None
    if now is None:
        return "stopped"
    if now.state is DomainState.PAUSED and before.state is not DomainState.PAUSED:
        return None  # starting and migrating domains are paused for a moment
    return _DOWN_STATES.get(now.state)


def _sample(before: HostState, after: HostState, readings: tuple[CpuReading, ...]) -> HostSample:
    max_gap_s = MAX_GAP_INTERVALS * after.interval_s
    ratios = (_ratio(before.tracks.get(r.uuid), after.tracks[r.uuid], max_gap_s) for r in readings)
    return HostSample(
        host=after.host,
        interval_s=after.interval_s,
        is_reachable=True,
        names=tuple(reading.name for reading in readings),
        uuids=tuple(reading.uuid for reading in readings),
        states=tuple(_shown(after.tracks[reading.uuid]) for reading in readings),
        cpu_ratios=tuple(ratios),
        allotted_cpus=tuple(reading.allotted_cpus for reading in readings),
        host_cpus=after.cpu.cpus if after.cpu else None,
        host_idle_cpus=idle_cpus(before.cpu, after.cpu, max_gap_s),
    )


def _ratio(before: Track | None, after: Track, max_gap_s: float) -> float | None:
    if before is None or after.is_told:
        return None
    return cpu_ratio(before.counter, after.counter, max_gap_s)


def _shown(track: Track) -> str:
    """Return the state to publish: a domain whose failure is known does not run, whatever libvirt still lists."""
    hides = track.is_told and track.state is DomainState.RUNNING
    return DomainState.CRASHED.value if hides else track.state.value


def _on_silent(state: HostState, seen: Silent) -> tuple[HostState, tuple[Body, ...]]:
    """Nothing is known of the host's domains; they stay on record, for the listing after the host is back."""
    missed = state.missed_ticks + 1
    is_lost = seen.is_certain or missed >= LOST_TICKS
    after = replace(state, missed_ticks=missed, is_lost_told=state.is_lost_told or is_lost)
    lost = Event(name="host-lost", host=state.host, text=f"{state.host}: {seen.note}", level="warning")
    events = (lost,) if is_lost and not state.is_lost_told else ()
    return after, (*events, _unknown_sample(after, seen.note))


def _unknown_sample(state: HostState, note: str) -> HostSample:
    tracks = sorted(state.tracks.values(), key=lambda track: track.name)
    unknown = tuple(None for _ in tracks)
    return HostSample(
        host=state.host,
        interval_s=state.interval_s,
        is_reachable=False,
        names=tuple(track.name for track in tracks),
        uuids=tuple(track.uuid for track in tracks),
        states=tuple(DomainState.UNKNOWN.value for _ in tracks),
        cpu_ratios=unknown,
        allotted_cpus=unknown,
        note=note,
    )


def _with(state: HostState, track: Track) -> HostState:
    return replace(state, tracks={**state.tracks, track.uuid: track})


def _told(track: Track, is_seen_down: bool = False) -> Track:
    return replace(track, counter=None, was_up=False, is_told=True, is_seen_down=is_seen_down)


def _failure(state: HostState, track: Track, reason: str, detail: str) -> Failure:
    return Failure(host=state.host, domain=track.name, uuid=track.uuid, reason=reason, detail=detail)
