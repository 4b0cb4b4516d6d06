"""Writes every message of the bus to disk. It only listens: when it fails, nothing else notices.

The bus's thread writes; one ``write`` a step, so that nothing is lost when this process is killed. Whatever may take
long belongs to the janitor's thread: forcing the data to the disk, compressing, removing what is too old.
"""

import threading
from typing import Final

from common.bus import Inbox
from common.clock import boot_id
from common.log import Quiet, logger
from common.process import Context
from common.recording import frame_bytes, recording_dir, segment_files
from services.recorder.core.retention import segment_bytes
from services.recorder.janitor import Janitor
from services.recorder.segments import SegmentWriter

BATCH_S: Final = 0.5  # messages that arrive within this are written together
IDLE_S: Final = 60.0
RETRY_S: Final = 5.0
SEGMENT_AGE_S: Final = 3600.0
SAY_AGAIN_S: Final = 300.0
NOTE: Final = "recording"


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
        self._lost = 0
        self._quiet = Quiet(SAY_AGAIN_S)
        self._pause = threading.Event()
        self._janitor = Janitor(self._directory, self._clock, system.recording_max_bytes, system.recording_max_age_s)
        self._bus.keep_every_message()
        for service in context.config.services:
            if service != context.name:
                self._bus.subscribe(service)
        self._janitor.start()

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Write what arrived."""
        if inbox.messages:
            at_s = self._clock.epoch_s()
            frames = [frame_bytes(at_s, now_s, message.topic, message.payload) for message in inbox.messages]
            self._write(frames, now_s)
            if not self._is_stopping():
                self._pause.wait(BATCH_S)
        return IDLE_S

    def close(self) -> None:
        """Force what was written to the disk; the next start compresses it."""
        self._janitor.stop()
        if self._writer is not None:
            self._writer.close()

    def _write(self, frames: list[bytes], now_s: float) -> None:
        if now_s < self._retry_at_s:
            self._lose(len(frames))
            return
        try:
            self._current(now_s).append(b"".join(frames))
        except OSError as error:
            self._give_up(error, now_s)
            self._lose(len(frames))
            return
        self._bus.counters["recorded"] += len(frames)
        self._janitor.written()
        self._notes.pop(NOTE, None)
        if self._lost:
            logger().info("recording-resumed", messages_lost=self._lost)
            self._lost = 0

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
        self._retry_at_s = now_s + RETRY_S
        self._notes[NOTE] = f"nothing is recorded: {error.strerror}"
        if self._quiet.may_say(error.errno, now_s):
            logger().error("recording-paused", reason=error.strerror, directory=str(self._directory), retry_s=RETRY_S)

    def _lose(self, count: int) -> None:
        self._lost += count
        self._bus.counters["lost"] += count
