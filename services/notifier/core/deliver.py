"""Who is told what, and when it is tried again: one queue for each receiver, none of which waits for another.

A notice stays in its queue until its receiver took it, so it is told at least once; one receiver has one attempt at a
time. What fails is tried again after a wait that doubles, drawn between half and the whole of it, so that a receiver
that comes back is not met by all at once. Meanwhile the others of its queue go ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from common.messages import Event
from services.notifier.core.notice import Notice

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 300.0
MAX_QUEUED: Final = 500  # notices that wait for one receiver


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is told: ``events`` None stands for all events, ``groups`` empty for all groups."""

    key: str
    events: frozenset[str] | None
    groups: frozenset[str]
    retries: int


@dataclass(frozen=True, slots=True)
class Item:
    """A notice that waits. ``attempts`` were made; the next is due at ``due_s`` (monotonic seconds)."""

    notice: Notice
    attempts: int
    due_s: float


@dataclass(frozen=True, slots=True)
class State:
    """All that waits, by the receivers' keys, oldest first; and what each receiver is being told just now."""

    receivers: tuple[Receiver, ...]
    queues: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    attempted: Mapping[str, str] = field(default_factory=dict)


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """An event was heard, and what would be told of it."""

    event: Event
    notice: Notice


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt ended; ``error`` is empty where the receiver took the notice."""

    receiver: str
    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


# --- actions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """Tell the receiver now."""

    receiver: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the queues: what is told must be found again after a crash. Comes before the attempts that rely on it."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The notice is lost to this receiver: all attempts failed, or the queue was full (then ``attempts`` may be 0)."""

    receiver: str
    notice: Notice
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver took the notice."""

    receiver: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due before ``until_s``."""

    until_s: float


CoreEvent = Heard | Finished | Tick
Action = Attempt | Save | GaveUp | Delivered | Wait


def handle(state: State, event: CoreEvent, now_s: float, chance: float) -> tuple[State, tuple[Action, ...]]:
    """Return the state after an event, and what is to be done, in order.

    Args:
        state: as the last call returned it.
        event: what happened.
        now_s: monotonic seconds.
        chance: drawn evenly from [0, 1), for the wait of a failed attempt.
    """
    told: list[Action] = []
    match event:
        case Heard():
            after = _heard(state, event, now_s, told)
        case Finished():
            after = _finished(state, event, now_s, chance, told)
        case Tick():
            after = state
    save = (Save(),) if after.queues != state.queues else ()
    after, attempts = _due(after, now_s)
    waits = [item.due_s for key, queue in after.queues.items() if key not in after.attempted for item in queue]
    return after, (*told, *save, *attempts, *((Wait(min(waits)),) if waits else ()))


def wait_s(attempts: int, chance: float) -> float:
    """Return the wait after so many failed attempts (at least one): doubled each time, and less by chance.

    >>> [wait_s(n, 0.0) for n in (1, 2, 3, 20)], wait_s(1, 0.5)
    ([1.0, 2.0, 4.0, 300.0], 0.75)
    """
    whole_s = min(FIRST_WAIT_S * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT_S)
    return whole_s * (1.0 - chance / 2)


def is_wanted(receiver: Receiver, event: Event) -> bool:
    """Return whether the receiver is to be told; an event of no group concerns everybody."""
    is_of_interest = receiver.events is None or event.name in receiver.events
    return is_of_interest and (not receiver.groups or not event.group or event.group in receiver.groups)


def resumed(
    receivers: tuple[Receiver, ...], stored: Mapping[str, tuple[tuple[Notice, int], ...]], now_s: float
) -> State:
    """Return the state of a new process: what was stored for receivers that are still there is due at once."""
    keys = {receiver.key for receiver in receivers}
    queues = {
        key: tuple(Item(notice, attempts, now_s) for notice, attempts in items)[-MAX_QUEUED:]
        for key, items in stored.items()
        if key in keys and items
    }
    return State(receivers, queues)


def _heard(state: State, event: Heard, now_s: float, told: list[Action]) -> State:
    queues = dict(state.queues)
    for receiver in state.receivers:
        queue = queues.get(receiver.key, ())
        is_known = any(item.notice.id == event.notice.id for item in queue)
        if is_known or not is_wanted(receiver, event.event):
            continue
        if len(queue) >= MAX_QUEUED:
            queue = _without_oldest(queue, receiver.key, state.attempted.get(receiver.key), told)
        queues[receiver.key] = (*queue, Item(event.notice, 0, now_s))
    return replace(state, queues=queues)


def _without_oldest(queue: tuple[Item, ...], key: str, attempted: str | None, told: list[Action]) -> tuple[Item, ...]:
    """Return the queue with room for one more: the newest says most about what is."""
    oldest = next(item for item in queue if item.notice.id != attempted)
    told.append(GaveUp(key, oldest.notice, oldest.attempts, f"more than {MAX_QUEUED} notices wait"))
    return tuple(item for item in queue if item is not oldest)


def _finished(state: State, event: Finished, now_s: float, chance: float, told: list[Action]) -> State:
    attempted = {key: id for key, id in state.attempted.items() if key != event.receiver}
    queue = state.queues.get(event.receiver, ())
    item = next((item for item in queue if item.notice.id == event.id), None)
    receiver = next((receiver for receiver in state.receivers if receiver.key == event.receiver), None)
    if item is None or receiver is None:
        return replace(state, attempted=attempted)
    rest = tuple(other for other in queue if other is not item)
    attempts = item.attempts + 1
    if not event.error:
        told.append(Delivered(event.receiver, item.notice))
    elif attempts > receiver.retries:
        told.append(GaveUp(event.receiver, item.notice, attempts, event.error))
    else:
        later = replace(item, attempts=attempts, due_s=now_s + wait_s(attempts, chance))
        rest = tuple(later if other is item else other for other in queue)
    queues = {**state.queues, event.receiver: rest}
    return replace(state, queues={key: items for key, items in queues.items() if items}, attempted=attempted)


def _due(state: State, now_s: float) -> tuple[State, tuple[Attempt, ...]]:
    """Return the attempts to make now: of each receiver that has none, the oldest notice that is due."""
    attempts = []
    for key, queue in state.queues.items():
        item = next((item for item in queue if item.due_s <= now_s), None)
        if item is not None and key not in state.attempted:
            attempts.append(Attempt(key, item.notice))
    attempted = {**state.attempted, **{attempt.receiver: attempt.notice.id for attempt in attempts}}
    return replace(state, attempted=attempted), tuple(attempts)
