"""What may take long, in a thread of its own: forcing data to the disk, compressing, removing what is too old."""

import threading
from pathlib import Path
from typing import Final

from common.clock import Clock
from common.errors import RecordingError
from common.log import Quiet, logger
from common.recording import SegmentFile
from services.recorder.core.retention import PACE
from services.recorder.segments import SegmentWriter, drop_old, finish, unfinished

SYNC_S: Final = 2.0
RETRY_S: Final = 60.0
SAY_AGAIN_S: Final = 3600.0
STOP_S: Final = 1.0


class Janitor(threading.Thread):
    """Looks after what the recorder has written. Other threads call ``take_over``, ``written`` and ``stop``."""

    def __init__(self, directory: Path, clock: Clock, max_bytes: int, max_age_s: float) -> None:
        """Work in ``directory`` within these bounds; what killed recorders left there is compressed first."""
        super().__init__(name="janitor", daemon=True)
        self._directory = directory
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._current: SegmentWriter | None = None
        self._retired: list[SegmentWriter] = []
        self._is_dirty = False
        self._is_stopping = False
        self._quiet = Quiet(SAY_AGAIN_S)
        self._to_finish: list[SegmentFile] = unfinished(directory)
        self._clear_up_at_s = clock.monotonic_s()

    def take_over(self, retired: SegmentWriter | None, current: SegmentWriter | None) -> None:
        """Care for ``retired``, which nobody writes any more, and keep ``current`` synchronized."""
        with self._lock:
            self._current = current
            if retired is not None:
                self._retired.append(retired)
        if retired is not None:
            self._wake.set()

    def written(self) -> None:
        """Note that the current segment has grown."""
        self._is_dirty = True

    def stop(self) -> None:
        """Force the last data to the disk and end, soon; a compression that is under way is begun again next time."""
        self._is_stopping = True
        self._wake.set()
        if self.is_alive():
            self.join(STOP_S)

    def run(self) -> None:
        """Look after the recording until told to stop."""
        while not self._is_stopping:
            self._close_retired()
            if self._clock.monotonic_s() >= self._clear_up_at_s:
                self._clear_up_at_s = self._clock.monotonic_s() + RETRY_S
                self._clear_up()
            self._wake.wait(SYNC_S)
            self._wake.clear()
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            current = self._current
        if current is None or not self._is_dirty:
            return
        self._is_dirty = False
        try:
            current.sync()
        except OSError as error:
            self._complain("recording-not-synced", error)

    def _close_retired(self) -> None:
        with self._lock:
            retired, self._retired = self._retired, []
        for writer in retired:
            writer.close()
            self._to_finish.append(writer.file)
            self._clear_up_at_s = self._clock.monotonic_s()

    def _clear_up(self) -> None:
        """Compress what is no longer written, and remove what is too old."""
        waiting, self._to_finish = self._to_finish, []
        for file in waiting:
            if self._is_stopping or not self._has_finished(file):
                self._to_finish.append(file)
        most_by_age = PACE if len(self._to_finish) < len(waiting) else 0
        try:
            drop_old(self._directory, self._max_bytes, self._max_age_s, most_by_age)
        except OSError as error:
            self._complain("recording-not-pruned", error)

    def _has_finished(self, file: SegmentFile) -> bool:
        """Compress the segment; return whether there is no point in trying again."""
        try:
            finish(file)
        except RecordingError as error:  # of another release: not ours to touch
            self._complain("segment-left-alone", error)
        except FileNotFoundError:
            return True
        except OSError as error:
            self._complain("segment-not-compressed", error)
            return False
        return True

    def _complain(self, event: str, error: OSError | RecordingError) -> None:
        if self._quiet.may_say(event, self._clock.monotonic_s()):
            logger().warning(event, reason=str(error), directory=str(self._directory))
