"""Segments on disk: one is written, finished ones are compressed, old ones are removed."""

import lzma
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import files
from common.recording import SegmentFile, finished_name, header_bytes, raw_name, segment_files, span_of
from common.state_dir import ensure_state_dir
from services.recorder.core.retention import to_drop

PRESET: Final = 0  # of xz: for messages this repetitive no higher one is smaller, and all are slower


@dataclass(slots=True)
class SegmentWriter:
    """The raw segment that is being written. What ``append`` returned from survives the death of this process."""

    number: int
    path: Path
    fd: int
    size_bytes: int
    opened_mono_s: float

    @classmethod
    def open(cls, directory: Path, after: int, boot_id: str, epoch_s: float, mono_s: float) -> "SegmentWriter":
        """Return a new segment, readable by its owner alone; the directory is made if need be.

        Its number is greater than ``after`` and than that of every other one.

        Raises:
            OSError: no space, no permission.
        """
        ensure_state_dir(directory.parent)
        files.ensure_dir(directory, 0o700)
        number = max(after, *(file.number for file in segment_files(directory)), 0) + 1
        path = directory / raw_name(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        writer = cls(number, path, fd, 0, mono_s)
        try:
            writer.append(header_bytes(boot_id, epoch_s))
        except OSError:
            writer.close()
            path.unlink(missing_ok=True)
            raise
        return writer

    def append(self, data: bytes) -> None:
        """Write ``data`` after what is there, whole or not at all.

        Raises:
            OSError: it is not written; the segment still ends with a whole frame if the file could be shortened.
        """
        try:
            written = os.write(self.fd, data)
            while written < len(data):
                written += os.write(self.fd, data[written:])
        except OSError:
            os.ftruncate(self.fd, self.size_bytes)
            raise
        self.size_bytes += len(data)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fdatasync(self.fd)

    def close(self) -> None:
        """Write no more."""
        os.close(self.fd)

    def stands(self) -> bool:
        """Return whether a reader finds the file: nobody removed or moved it, or what it lies in."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))

    @property
    def file(self) -> SegmentFile:
        """Return the segment as a reader sees it."""
        return SegmentFile(self.number, self.path, self.size_bytes, None)


def finish(file: SegmentFile) -> Path | None:
    """Compress a raw segment and remove it; return what stands in its place, None if it held nothing.

    Killed at any point, it leaves the raw segment or the finished one whole.

    Raises:
        OSError: the raw segment still stands.
    """
    data = file.path.read_bytes()
    span = span_of(data, file.path.name)
    if span is None:
        file.path.unlink()
        return None
    finished = file.path.with_name(finished_name(file.number, *span))
    files.replace_file(finished, lzma.compress(data, preset=PRESET), mode=files.PRIVATE, is_durable=True)
    file.path.unlink()
    return finished


def unfinished(directory: Path) -> list[SegmentFile]:
    """Return the raw segments, oldest first; before the first one is opened: what killed recorders left."""
    return [file for file in segment_files(directory) if not file.is_finished]


def drop_old(directory: Path, max_bytes: int, max_age_s: float, most_by_age: int) -> Sequence[SegmentFile]:
    """Remove what no longer belongs to the recording (``to_drop``), and return it."""
    dropped = to_drop(segment_files(directory), max_bytes, max_age_s, most_by_age)
    for file in dropped:
        file.path.unlink(missing_ok=True)
    for left in directory.glob("*.new"):
        left.unlink(missing_ok=True)
    return dropped
