"""Writes every message of the bus to disk. All that it says is what became of the recording: gaps, a lost directory.

The bus's thread writes; one ``write`` a step, so that nothing is lost when this process is killed. Whatever may take
long belongs to the janitor's thread: forcing the data to the disk, compressing, removing what is too old.
"""

import math
import threading
from pathlib import Path
from typing import Final

from common import life
from common.bus import Inbox
from common.clock import boot_id
from common.errors import RecordingError
from common.log import Quiet, logger
from common.messages import Event
from common.process import KEEP_S, Context
from common.recording import Recorded, Recording, frame_bytes, recording_dir, segment_files
from services.recorder.core.gap import span, unrecorded
from services.recorder.core.retention import segment_bytes
from services.recorder.janitor import Janitor
from services.recorder.segments import SegmentWriter

BATCH_S: Final = 0.5  # messages that arrive within this are written together
LOOK_S: Final = 15.0  # how often it is made sure that what is written can be found
RETRY_S: Final = 5.0
TELL_GAP_AGAIN_S: Final = 15.0  # until it stands in the recording itself
SEGMENT_AGE_S: Final = 3600.0
SAY_AGAIN_S: Final = 300.0
SAY_GAP_AGAIN_S: Final = 60.0
NOTE: Final = "recording"
LOST_NOTE: Final = "recording-lost"
SHOW_LOST_S: Final = 60.0


class RecorderService:
    """Hears all, keeps all, within the bounds of the configuration."""

    def __init__(self, context: Context) -> None:
        """Listen to every other service."""
        self._bus, self._clock, self._notes = context.bus, context.clock, context.notes
        self._is_stopping = context.is_stopping
        system = context.config.system
        self._directory = recording_dir(system.state_path)
        self._segment_bytes = segment_bytes(system.recording_max_bytes)
        self._writer: SegmentWriter | None = None
        self._retry_at_s = 0.0
        self._last_number = max((file.number for file in segment_files(self._directory)), default=0)
        self._lost, self._why = 0, ""
        self._paused = self._resumed = (0.0, 0.0)  # monotonic and epoch seconds
        self._gap, self._gap_at_s = self._unrecorded(context), -math.inf
        self._bus.counters["lost"] += 0  # shown from the start, so that its first growth is seen
        self._unheard = 0
        self._looked_s = self._shown_s = self._clock.monotonic_s()
        self._quiet, self._quiet_gaps = Quiet(SAY_AGAIN_S), Quiet(SAY_GAP_AGAIN_S)
        self._pause = threading.Event()
        self._janitor = Janitor(self._directory, self._clock, system.recording_max_bytes, system.recording_max_age_s)
        self._bus.keep_every_message()
        for service in context.config.services:
            if service != context.name:
                self._bus.subscribe(service)
        self._bus.subscribe(context.name, "event")
        self._janitor.start()

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Write what arrived; tell what did not, and whether what was written is still there."""
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._look(now_s)
        self._tell_gap(now_s)
        self._tell_unheard(now_s)
        if inbox.messages:
            at_s = self._clock.epoch_s()
            frames = [frame_bytes(at_s, now_s, message.topic, message.payload) for message in inbox.messages]
            is_gap_heard = any(isinstance(m.body, Event) and m.body.text == self._gap for m in inbox.messages)
            if self._write(frames, now_s) and is_gap_heard:
                self._gap = ""
            if not self._is_stopping():
                self._pause.wait(BATCH_S)
        return LOOK_S

    def keep_again(self, now_s: float) -> None:
        """Go on in a new segment if the directory of this one is gone."""
        self._look(now_s)

    def close(self) -> None:
        """Force what was written to the disk; the next start compresses it."""
        self._janitor.stop()
        if self._writer is not None:
            self._writer.close()

    def _write(self, frames: list[bytes], now_s: float) -> bool:
        """Write; return whether it was."""
        if now_s < self._retry_at_s:
            self._lose(len(frames))
            return False
        try:
            self._current(now_s).append(b"".join(frames))
        except OSError as error:
            self._give_up(error, now_s)
            self._lose(len(frames))
            return False
        self._bus.counters["recorded"] += len(frames)
        self._janitor.written()
        if self._notes.pop(NOTE, None):
            self._resumed = now_s, self._clock.epoch_s()
        if self._lost and self._quiet_gaps.may_say("resumed", now_s):
            logger().info("recording-resumed", messages_lost=self._lost)
            (from_s, from_at_s), (until_s, until_at_s) = self._paused, self._resumed
            lasted = span(from_at_s, until_at_s, until_s - from_s)
            self._say("recording-resumed", f"{lasted}: {self._lost} messages were lost ({self._why})")
            self._lost = 0
        return True

    def _current(self, now_s: float) -> SegmentWriter:
        """Return the segment to write to; a full one, or one that spans an hour, gives way to the next."""
        writer = self._writer
        if writer is not None:
            is_due = writer.size_bytes >= self._segment_bytes or now_s - writer.opened_mono_s >= SEGMENT_AGE_S
            if not is_due:
                return writer
            self._writer = None
            self._janitor.take_over(writer, None)
        fresh = SegmentWriter.open(self._directory, self._last_number, boot_id(), self._clock.epoch_s(), now_s)
        self._writer, self._last_number = fresh, fresh.number
        self._janitor.take_over(None, fresh)
        return fresh

    def _give_up(self, error: OSError, now_s: float) -> None:
        """Stop writing for a while; the next attempt begins a new segment."""
        if self._writer is not None:
            self._janitor.take_over(self._writer, None)
            self._writer = None
        self._retry_at_s, self._why = now_s + RETRY_S, str(error.strerror)
        if not self._lost:
            self._paused = now_s, self._clock.epoch_s()
        self._notes[NOTE] = f"nothing is recorded: {error.strerror}"
        if self._quiet.may_say(error.errno, now_s):
            logger().error("recording-paused", reason=error.strerror, directory=str(self._directory), retry_s=RETRY_S)
            self._say("recording-paused", f"nothing is recorded: {error.strerror}; {self._directory}")

    def _lose(self, count: int) -> None:
        self._lost += count
        self._bus.counters["lost"] += count

    def _look(self, now_s: float) -> None:
        """Begin a new segment if the present one was removed, moved or unmounted."""
        if now_s - self._shown_s >= SHOW_LOST_S:
            self._notes.pop(LOST_NOTE, None)
        if self._writer is None or self._writer.stands():
            return
        self._janitor.take_over(self._writer, None)
        self._writer, self._shown_s = None, now_s
        text = f"{self._directory} was removed, moved or unmounted: a new recording is begun"
        self._notes[LOST_NOTE] = text
        logger().warning("recording-lost", directory=str(self._directory))
        self._say("recording-lost", text)

    def _unrecorded(self, context: Context) -> str:
        """Return what is to be told of the time since the recorder before this one wrote its last message."""
        system = context.config.system
        marks = (life.read(system.run_path, name) for name in context.config.services if name != context.name)
        return unrecorded(
            _newest(self._directory),
            context.last_life,
            [mark for mark in marks if mark is not None],
            boot_id(),
            self._clock.monotonic_s(),
            self._clock.epoch_s(),
            min(system.interval_s, system.republish_s),
        )

    def _tell_gap(self, now_s: float) -> None:
        """Tell what nobody recorded before this recorder came; again, until that itself is recorded."""
        is_due = now_s - self._gap_at_s >= TELL_GAP_AGAIN_S and NOTE not in self._notes
        if self._gap and is_due:
            self._gap_at_s = now_s
            logger().warning("recording-gap", reason=self._gap)
            self._bus.publish(Event(name="recording-gap", text=self._gap, level="warning"), keep_s=KEEP_S)

    def _tell_unheard(self, now_s: float) -> None:
        """Tell how many messages the bus dropped on their way here."""
        unheard = self._bus.counters["gaps"] - self._unheard
        if unheard and self._quiet_gaps.may_say("unheard", now_s):
            self._unheard += unheard
            self._say("recording-gap", f"{unheard} messages did not reach the recorder")

    def _say(self, name: str, text: str) -> None:
        """Publish a warning; it is recorded as all that is heard."""
        self._bus.publish(Event(name=name, text=text, level="warning"))


def _newest(directory: Path) -> Recorded | None:
    """Return the last message of a recording; None where there is none that can be read."""
    try:
        return Recording(directory).newest()
    except RecordingError:
        return None
