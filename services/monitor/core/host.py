"""What one host's readings and events mean: a sample each tick, a failure at once, told once.

``handle`` takes what was seen and returns the messages to send. A domain may be seen to fail by several witnesses (the
end of its process, libvirt's event, the next listing): the first one tells. It is told again only after the domain has
been seen up again. A frozen domain is told too, each time that it freezes; it stays up, so its end is still news.

# Note [Suspended is not dead]
What ``common.domain_states`` says may come back (paused by its owner, by libvirt or by a fault of its host, or saved to
disk) is told as ``suspended``, each time anew, and stands in every sample until the domain runs again. It stays up as
well. A reading from just before the pause may arrive after the event: "it runs" is believed from libvirt's event, from
a listing after one that showed it down, or from a counter that moves between two readings.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from common.domain import CpuReading, DomainState, HostCpu, LifecycleEvent
from common.domain_states import MAY_COME_BACK, PAUSING_EVENTS, Meaning, Row, row
from common.messages import FROZEN, SUSPENDED, Body, Event, Failure, HostSample, Recovery
from services.monitor.core.rates import Counter, counter, cpu_ratio, idle_cpus

LOST_TICKS: Final = 3
MAX_GAP_INTERVALS: Final = 2.5

_REASONS: Final = {
    "stopped": "stopped",
    "shutdown": "stopped",
    "crashed": "crashed",
    "failed": "crashed",
    "panicked": "panicked",
}
_STARTING: Final = "starting-up"  # the reason of a pause that is a part of its start: nothing has ended
_UP: Final = {"started", "resumed"}
_LISTED: Final = "seen in the listing only"
_DOWN_STATES: Final = {
    DomainState.SHUTOFF: "stopped",
    DomainState.CRASHED: "crashed",
    DomainState.PAUSED: "crashed",  # by a fault of the guest: all other pauses may end
}


@dataclass(frozen=True, slots=True)
class Track:
    """One domain between two readings.

    ``was_up``: seen running since its last failure. ``is_told``: its failure has been sent. ``is_suspended``: it was
    paused or saved, and has not been seen to run since. ``is_seen_down``: a listing has shown it down since either.
    """

    name: str
    uuid: str
    state: DomainState
    reason: str = "unknown"
    counter: Counter | None = None
    was_up: bool = False
    is_told: bool = False
    is_suspended: bool = False
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
        case Exited() if not seen.signal and _is_suspended(state, seen.uuid):
            return state, ()  # saved to disk, or destroyed: libvirt tells which
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

    Readings of our domains only; each freeze; of each domain's events the first, the first that tells of an end, the
    first that tells of a pause, and the last: however often it went up and down within the burst, it failed once, and
    is now as the last event says.
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
        elif kind := _kind(seen):
            marks.setdefault((host, seen.uuid, "first"), index)
            marks[host, seen.uuid, "last"] = index
            if kind != "start":
                marks.setdefault((host, seen.uuid, kind), index)
    kept |= {index: burst[index][1] for index in marks.values()}
    return [(burst[index][0], kept[index]) for index in sorted(kept)]


def _kind(seen: Exited | LifecycleEvent) -> str:
    """Return whether this ends, pauses or starts a domain; empty where it does none of them."""
    if isinstance(seen, Exited):
        return "end"
    if _pause(seen) is not None:
        return "pause"
    return "end" if seen.kind in _REASONS else "start" if seen.kind in _UP else ""


def _pause(event: LifecycleEvent) -> tuple[str, Row] | None:
    """Return libvirt's reason of the pause that the event tells of, and what it means; None for any other event."""
    if (event.kind, event.detail) == ("stopped", "saved"):
        return "saved", row(DomainState.SHUTOFF, "saved")
    if event.kind != "paused":
        return None
    reason = PAUSING_EVENTS.get(event.detail, "unknown")
    return reason, row(DomainState.PAUSED, reason)


def _is_suspended(state: HostState, uuid: str) -> bool:
    track = state.tracks.get(uuid)
    return track is not None and track.is_suspended


def _on_event(state: HostState, event: LifecycleEvent) -> tuple[HostState, tuple[Body, ...]]:
    pause = _pause(event)
    if pause is not None:
        return _on_pause(state, event, *pause)
    if event.kind in _UP:
        recovery = Recovery(host=state.host, domain=event.name, uuid=event.uuid)
        told = (recovery,) if _is_suspended(state, event.uuid) else ()
        return _with(state, Track(event.name, event.uuid, DomainState.RUNNING, was_up=True)), told
    if event.kind not in _REASONS:
        return state, ()
    return _on_down(state, event.name, event.uuid, _REASONS[event.kind], event.detail)


def _on_pause(state: HostState, event: LifecycleEvent, reason: str, found: Row) -> tuple[HostState, tuple[Body, ...]]:
    if found.meaning not in MAY_COME_BACK:
        return _on_down(state, event.name, event.uuid, _fault(DomainState.PAUSED, reason), event.detail)
    track = state.tracks.get(event.uuid) or Track(event.name, event.uuid, DomainState.UNKNOWN)
    is_not_yet_serving = found.meaning is Meaning.TRANSIENT and not track.was_up
    if track.is_told or is_not_yet_serving or reason == _STARTING:
        return state, ()
    after = replace(_suspended(track), state=DomainState.PAUSED, reason=reason)
    return _with(state, after), (_failure(state, track, SUSPENDED, _detail(reason, found)),)


def _on_down(state: HostState, name: str, uuid: str, reason: str, detail: str) -> tuple[HostState, tuple[Body, ...]]:
    track = state.tracks.get(uuid) or Track(name, uuid, DomainState.UNKNOWN)
    if track.is_told:
        return state, ()
    return _with(state, _told(track)), (_failure(state, track, reason, detail),)


def _on_listed(
    state: HostState, readings: tuple[CpuReading, ...], host: HostCpu | None
) -> tuple[HostState, tuple[Body, ...]]:
    tracks = {reading.uuid: _tracked(state.tracks.get(reading.uuid), reading) for reading in readings}
    found = [(track, *why) for track in state.tracks.values() if (why := _unheard(track, tracks.get(track.uuid)))]
    failures = [_failure(state, track, reason, detail) for track, reason, detail in found]
    back = [Event(name="host-back", host=state.host, text=f"{state.host} answers again")] if state.is_lost_told else []
    reasons = {track.uuid: reason for track, reason, _ in found}
    after_tracks = {uuid: _after(track, reasons.get(uuid)) for uuid, track in tracks.items()}
    after = replace(state, tracks=after_tracks, missed_ticks=0, is_lost_told=False, cpu=host)
    return after, (*failures, *back, _sample(state, after, readings))


def _after(track: Track, told: str | None) -> Track:
    """Return the track after what its listing made known."""
    if told is None:
        return track
    return replace(_suspended(track) if told == SUSPENDED else _told(track), is_seen_down=True)


def _tracked(before: Track | None, reading: CpuReading) -> Track:
    """Return the domain's track after a reading.

    A failed domain is up again when it runs after a listing that showed it down, or when its counter moves: the process
    of a dead one may be listed as running for seconds, but uses no CPU. Of a suspended one see Note [Suspended is not
    dead].
    """
    is_running = reading.state is DomainState.RUNNING
    if before is None:
        return _first(reading)
    now = counter(before.counter, reading)
    has_moved = before.counter is not None and now is not None and now.still_ticks == 0
    runs_again = is_running and (before.is_seen_down or has_moved)
    is_told, is_suspended = before.is_told and not runs_again, before.is_suspended and not runs_again
    return Track(
        name=reading.name,
        uuid=reading.uuid,
        state=reading.state,
        reason=reading.state_reason,
        counter=now,
        was_up=not is_told and (before.was_up or is_running),
        is_told=is_told,
        is_suspended=is_suspended,
        is_seen_down=(is_told or is_suspended) and (before.is_seen_down or reading.state in _DOWN_STATES),
    )


def _first(reading: CpuReading) -> Track:
    """Return the track of a domain that was never seen before: one that is paused then has not failed by that."""
    is_running = reading.state is DomainState.RUNNING
    meaning = row(reading.state, reading.state_reason).meaning
    is_suspended = meaning in MAY_COME_BACK and reading.state in _DOWN_STATES
    return Track(
        name=reading.name,
        uuid=reading.uuid,
        state=reading.state,
        reason=reading.state_reason,
        counter=counter(None, reading),
        was_up=is_running,
        is_suspended=is_suspended,
        is_seen_down=is_suspended,
    )


def _unheard(before: Track, now: Track | None) -> tuple[str, str] | None:
    """Return reason and detail of what ended or paused a domain that was up, if no event said so.

    A pause counts only when it is listed twice: starting and migrating domains are paused for a moment.
    """
    if before.is_told or not before.was_up:
        return None
    if now is None:
        return "stopped", _LISTED
    if now.state not in _DOWN_STATES:
        return None
    if now.state is DomainState.PAUSED and (before.state is not DomainState.PAUSED or now.reason == _STARTING):
        return None
    found = row(now.state, now.reason)
    if found.meaning in MAY_COME_BACK:
        return None if before.is_suspended else (SUSPENDED, _detail(now.reason, found))
    return _fault(now.state, now.reason), _LISTED


def _fault(state: DomainState, reason: str) -> str:
    """Return the reason that is told of a domain that will not come back by itself."""
    return "panicked" if (state, reason) == (DomainState.PAUSED, "crashed") else _DOWN_STATES[state]


def _detail(reason: str, found: Row) -> str:
    return f"{reason}: {found.text}"


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
        suspended_uuids=_suspended_uuids(after),
        cpu_ratios=tuple(ratios),
        allotted_cpus=tuple(reading.allotted_cpus for reading in readings),
        host_cpus=after.cpu.cpus if after.cpu else None,
        host_idle_cpus=idle_cpus(before.cpu, after.cpu, max_gap_s),
    )


def _ratio(before: Track | None, after: Track, max_gap_s: float) -> float | None:
    if before is None or after.is_told or after.is_suspended:
        return None
    return cpu_ratio(before.counter, after.counter, max_gap_s)


def _shown(track: Track) -> str:
    """Return the state to publish: a domain whose failure is known does not run, whatever libvirt still lists."""
    if track.is_told and track.state in (DomainState.RUNNING, DomainState.PAUSED):
        return DomainState.CRASHED.value
    hides = track.is_suspended and track.state is DomainState.RUNNING
    return DomainState.PAUSED.value if hides else track.state.value


def _suspended_uuids(state: HostState) -> tuple[str, ...]:
    return tuple(sorted(track.uuid for track in state.tracks.values() if track.is_suspended))


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
        suspended_uuids=_suspended_uuids(state),
        cpu_ratios=unknown,
        allotted_cpus=unknown,
        note=note,
    )


def _with(state: HostState, track: Track) -> HostState:
    return replace(state, tracks={**state.tracks, track.uuid: track})


def _told(track: Track) -> Track:
    return replace(track, counter=None, was_up=False, is_told=True, is_suspended=False, is_seen_down=False)


def _suspended(track: Track) -> Track:
    return replace(track, counter=None, is_suspended=True, is_seen_down=False)


def _failure(state: HostState, track: Track, reason: str, detail: str) -> Failure:
    return Failure(host=state.host, domain=track.name, uuid=track.uuid, reason=reason, detail=detail)
