"""Hears events, tells those who want to know; keeps what waits on disk, so that a restart loses nothing.

What was said while no notifier ran is looked up in the recording, if there is one. The bus's thread never waits for a
receiver: each has a thread of its own.
"""

import hashlib
import json
import random
from collections import deque
from collections.abc import Iterator
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Final

from common.bus import Inbox
from common.config import Notification
from common.errors import RecordingError
from common.log import logger
from common.messages import Event, Header, message_id
from common.process import Context
from common.recording import Recording, recording_dir
from common.refused import Refused
from services.notifier.core.deliver import (
    Attempt,
    CoreEvent,
    Delivered,
    Finished,
    GaveUp,
    Heard,
    Receiver,
    Save,
    Tick,
    Wait,
    handle,
    is_wanted,
    resumed,
)
from services.notifier.core.notice import id_of, names_of, notice_of
from services.notifier.senders import sender_of, why_unready
from services.notifier.store import NAME, Past, Store
from services.notifier.worker import Worker

IDLE_S: Final = 60.0
MAX_RECENT: Final = 500  # identifiers by which an event of the recording is known to be old
LOOK_BACK_S: Final = 3600.0  # what is older than this is no news any more
OVERLAP_S: Final = 10.0  # the recording may have been written a little later than we heard


def receivers_of(notifications: tuple[Notification, ...]) -> dict[str, tuple[Receiver, Notification]]:
    """Return every receiver under its key: its name, or what it is told by, so that a moved entry keeps its queue."""
    found = {}
    for number, told in enumerate(notifications, start=1):
        where = told.url or json.dumps(told.command)
        key = told.name or f"{number}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
        found[key] = (Receiver(key, names_of(told.events), frozenset(told.groups), told.retries), told)
    return found


class NotifierService:
    """Tells of events, at least once each."""

    def __init__(self, context: Context) -> None:
        """Begin with what an earlier process left."""
        self._context, self._clock, self._bus = context, context.clock, context.bus
        self._counters = context.bus.counters
        self._draw = random.Random()  # noqa: S311 - spreads attempts in time; nothing secret
        self._finished: SimpleQueue[Finished] = SimpleQueue()
        receivers = receivers_of(context.config.notifications)
        self._workers = {
            key: Worker(key, sender_of(told, self._clock), self._report) for key, (_, told) in receivers.items()
        }
        self._told = {key: told for key, (_, told) in receivers.items()}
        self._look_s = float("-inf")
        path = context.config.system.state_path / NAME
        self._store, self._refused = Store(path), Refused(context.notes, path, "what waits to be told")
        past = self._store.read() if receivers else Past()
        self._recent = deque(past.recent, MAX_RECENT)
        self._known = set(past.recent)
        now_s = self._clock.monotonic_s()
        self._state = resumed(tuple(receiver for receiver, _ in receivers.values()), past.queues, now_s)
        self._until_s = now_s
        self._attempts: list[Attempt] = []
        self._is_changed = True
        if not receivers:
            logger().info("nothing-to-do", reason="there is no [[notifications]]")
            return
        for service in context.config.services:
            if service != context.name:
                self._bus.subscribe(service, "event")
        for event in self._missed(past):
            self._feed(event, now_s)

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Take in what arrived and what was told; tell what is due."""
        for message in inbox.messages:
            if isinstance(message.body, Event) and self._workers:
                heard = self._heard(message.header, message.body)
                if heard is not None:
                    self._feed(heard, now_s)
        for finished in self._reports():
            self._feed(finished, now_s)
        if now_s >= self._look_s:
            self._look_at_receivers()
            self._look_s = now_s + IDLE_S
        self._feed(Tick(), now_s)
        self._perform(now_s)
        return max(0.0, min(self._until_s - now_s, self._refused.wait_s(now_s), IDLE_S))

    def keep_again(self, now_s: float) -> None:
        """Keep what waits once more."""
        del now_s
        self._save()

    def close(self) -> None:
        """Keep what waits; an attempt that is under way is made again by the next process."""
        self._save()

    # --- what comes in -----------------------------------------------------------------------------------------

    def _report(self, finished: Finished) -> None:
        self._finished.put(finished)
        self._bus.wake()

    def _reports(self) -> Iterator[Finished]:
        while True:
            try:
                yield self._finished.get_nowait()
            except Empty:
                return

    def _heard(self, header: Header, event: Event) -> Heard | None:
        """Return the event with its notice, None where nobody wants to know or it was heard before."""
        identifier = message_id(event.topic, header)
        is_news = any(is_wanted(receiver, event) for receiver in self._state.receivers)
        if not is_news or id_of(identifier) in self._known:
            return None
        notice = notice_of(event, identifier, header.source, header.sent_at_s, header.cause)
        if len(self._recent) == MAX_RECENT:
            self._known.discard(self._recent[0])
        self._recent.append(notice.id)
        self._known.add(notice.id)
        return Heard(event, notice)

    def _missed(self, past: Past) -> Iterator[Heard]:
        """Yield the events of the recording that no notifier has heard."""
        if past.heard_at_s is None:
            return
        since_s = missed_since_s(past.heard_at_s, self._clock.epoch_s())
        recording = Recording(recording_dir(self._context.config.system.state_path))
        try:
            for _, header, body in recording.messages(since_s=since_s, kinds=["event"]):
                if isinstance(body, Event) and header.source != self._context.name:
                    heard = self._heard(header, body)
                    yield from chain(() if heard is None else (heard,))
        except RecordingError as error:
            logger().info("no-history", reason=str(error))

    def _look_at_receivers(self) -> None:
        """Note those that cannot be told, for ``status`` and the log; their notices wait and are tried all the same."""
        for key, told in self._told.items():
            reason = why_unready(told)
            if reason and key not in self._context.notes:
                logger().error("receiver-unready", receiver=key, reason=reason)
            if reason:
                self._context.notes[key] = f"{key} cannot be told: {reason}"
            else:
                self._context.notes.pop(key, None)

    # --- what goes out -----------------------------------------------------------------------------------------

    def _feed(self, event: CoreEvent, now_s: float) -> None:
        self._state, actions = handle(self._state, event, now_s, self._draw.random())
        self._until_s = now_s + IDLE_S
        for action in actions:
            match action:
                case Save():
                    self._is_changed = True
                case Attempt():
                    self._attempts.append(action)
                case Delivered(receiver, notice):
                    self._counters["delivered"] += 1
                    logger().debug("notice-delivered", receiver=receiver, id=notice.id)
                case GaveUp():
                    self._give_up(action)
                case Wait(until_s):
                    self._until_s = until_s
        if isinstance(event, Finished) and event.error:
            self._counters["failed_attempts"] += 1
            logger().info("notice-not-taken", receiver=event.receiver, id=event.id, reason=event.error)

    def _perform(self, now_s: float) -> None:
        """Keep what has changed, once for all that arrived together; then begin the attempts."""
        if self._is_changed or self._refused.is_due(now_s):
            self._save()
            self._is_changed = False
        for attempt in self._attempts:
            self._counters["attempts"] += 1
            self._workers[attempt.receiver].tell(attempt.notice)
        self._attempts.clear()

    def _give_up(self, lost: GaveUp) -> None:
        self._counters["given_up"] += 1
        text = f"{lost.receiver} was not told of {lost.notice.type}: {lost.reason} ({lost.attempts} attempts)"
        logger().error("notice-given-up", receiver=lost.receiver, id=lost.notice.id, reason=lost.reason)
        self._bus.publish(Event(name="notification-lost", text=text[:500], level="warning"))

    def _save(self) -> None:
        if self._workers:
            self._refused.note(self._store.write(self._state.queues, self._clock.epoch_s(), tuple(self._recent)))


def missed_since_s(heard_at_s: float, epoch_s: float) -> float:
    """Return from when on events may have been missed, in epoch seconds; after a clock was set back, as far as may be.

    >>> missed_since_s(9_000.0, 10_000.0) + OVERLAP_S, missed_since_s(700_000.0, 10_000.0) + LOOK_BACK_S
    (9000.0, 10000.0)
    """
    earliest_s = epoch_s - LOOK_BACK_S
    return earliest_s if heard_at_s > epoch_s else max(heard_at_s - OVERLAP_S, earliest_s)
