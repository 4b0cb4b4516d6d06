"""A recording as the decider heard it: each of its records with the messages that it names.

The recorder hears every service on a line of its own, so a record may be written before a message that it took in.
Records therefore wait until the recording is ``LOOK_AHEAD_S`` further; messages are kept ``KEPT_S``. Where a recording
ends, in earnest or because it is still being written, the last records are left out if what they took in is not there.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from common.errors import ProtocolError
from common.messages import Body, DecisionRecord, DesiredCapacity, Header, message_id
from common.recording import Recorded
from common.wire import unpack

LOOK_AHEAD_S: Final = 5.0
KEPT_S: Final = 120.0
KINDS: Final = ("decision", "sample", "failure", "membership", "traffic", "drain", "capacity.desired")


@dataclass(frozen=True, slots=True)
class Heard:
    """One recorded record. ``inputs`` holds the messages that it took in, by id; what is lost is not there.

    ``values`` is the body as it was sent, field by field. ``desired`` is what the actuator was last told before.
    """

    frame: Recorded
    header: Header
    record: DecisionRecord
    values: dict[str, Any]
    inputs: dict[str, Body]
    desired: DesiredCapacity | None


@dataclass(slots=True)
class Shelf:
    """The messages of the last ``KEPT_S``, by id; each is checked when it is asked for, once."""

    frames: dict[str, Recorded] = field(default_factory=dict)
    order: deque[tuple[float, str]] = field(default_factory=deque)
    bodies: dict[str, Body] = field(default_factory=dict)

    def put(self, id: str, frame: Recorded) -> None:
        """Keep a message, and let go of those that are too old."""
        self.frames[id] = frame
        self.order.append((frame.mono_s, id))
        while self.order and not 0 <= frame.mono_s - self.order[0][0] <= KEPT_S:
            _, old = self.order.popleft()
            self.frames.pop(old, None)
            self.bodies.pop(old, None)

    def get(self, id: str) -> Body | None:
        """Return the body of a message; None if it is not there, or not one of this program's."""
        if id not in self.bodies and id in self.frames:
            body = _body(self.frames[id])
            if body is not None:
                self.bodies[id] = body
        return self.bodies.get(id)


def records(frames: Iterable[Recorded], group: str | None = None) -> Iterator[Heard]:
    """Yield every record in the order of the recording, each once, with what it took in.

    Args:
        frames: Messages of ``KINDS`` in the order in which they were received.
        group: Only this group's.
    """
    shelf, last = Shelf(), _Last()
    waiting: deque[tuple[Recorded, Header]] = deque()
    for frame in frames:
        while waiting and _is_due(waiting[0][0], frame):
            yield from last.heard(*waiting.popleft(), shelf)
        header = _header(frame)
        if header is None:
            continue
        if frame.topic.startswith("decision."):
            if group is None or frame.topic == f"decision.{group}":
                waiting.append((frame, header))
        else:
            shelf.put(message_id(frame.topic, header), frame)
            last.note(frame)
    while waiting:
        for heard in last.heard(*waiting.popleft(), shelf):
            if any(taken.id not in heard.inputs for taken in heard.record.taken):
                return
            yield heard


class _Last:
    """What came last of each group: to leave out what was recorded twice, and to know what the actuator was told."""

    def __init__(self) -> None:
        self._ticks: dict[str, tuple[int, int]] = {}
        self._desired: dict[str, Recorded] = {}

    def note(self, frame: Recorded) -> None:
        if frame.topic.startswith("capacity.desired."):
            self._desired[frame.topic.removeprefix("capacity.desired.")] = frame

    def heard(self, frame: Recorded, header: Header, shelf: Shelf) -> Iterator[Heard]:
        record = _body(frame)
        if not isinstance(record, DecisionRecord):
            return
        this = (header.run_id, record.tick)
        before = self._ticks.get(record.group, (-1, 0))
        if this[0] == before[0] and this[1] <= before[1]:
            return
        self._ticks[record.group] = this
        found = {taken.id: shelf.get(taken.id) for taken in record.taken}
        inputs = {id: body for id, body in found.items() if body is not None}
        told = self._desired.get(record.group)
        desired = _body(told) if told else None
        yield Heard(
            frame, header, record, unpack(frame.payload)["body"], inputs,
            desired if isinstance(desired, DesiredCapacity) else None,
        )  # fmt: skip


def _is_due(waiting: Recorded, frame: Recorded) -> bool:
    return frame.boot_id != waiting.boot_id or frame.mono_s - waiting.mono_s > LOOK_AHEAD_S


def _header(frame: Recorded) -> Header | None:
    try:
        values = unpack(frame.payload)
        return Header.model_validate(values["header"])
    except (ProtocolError, ValidationError, KeyError, TypeError):
        return None


def _body(frame: Recorded) -> Body | None:
    try:
        return frame.decode()[1]
    except ProtocolError:
        return None
