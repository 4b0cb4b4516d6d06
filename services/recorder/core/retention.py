"""How much of the past is kept: whole segments, the newest first, within a size and an age."""

from collections.abc import Sequence

from common.recording import SegmentFile


def to_drop(files: Sequence[SegmentFile], now_s: float, max_bytes: int, max_age_s: float) -> tuple[SegmentFile, ...]:
    """Return the segments that no longer belong to the recording, oldest first.

    Args:
        files: the segments, oldest first; raw ones count by size, and are never dropped: one is being written, the
            others are about to be compressed.
        now_s: epoch seconds.
        max_bytes: what all segments together may take, > 0.
        max_age_s: how long ago the last message of a segment may have been received, > 0.
    """
    kept_bytes = sum(file.size_bytes for file in files)
    dropped: list[SegmentFile] = []
    for file in files:
        if file.span is None:
            continue
        if kept_bytes <= max_bytes and file.span[1] >= now_s - max_age_s:
            continue
        kept_bytes -= file.size_bytes
        dropped.append(file)
    return tuple(dropped)


def segment_bytes(max_bytes: int, largest: int = 4 * 1024 * 1024) -> int:
    """Return the size at which a raw segment is finished: a small part of the whole, so that dropping one loses little.

    >>> segment_bytes(256 * 1024 * 1024), segment_bytes(1024 * 1024)
    (4194304, 131072)
    """
    return min(largest, max_bytes // 8)
