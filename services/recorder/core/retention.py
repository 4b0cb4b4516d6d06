"""How much of the past is kept: whole segments, the newest first, within a size and an age.

# Note [Time in a recording]
Segments are numbered in the order in which they were written; their times come from a clock that may have been wrong.
So an age is the distance to the newest finished segment, never to a clock; what bears a later time than what was
written after it counts as being as old as that; and for each segment that is finished, at most ``PACE`` old ones go by
age: a clock that is days ahead costs little until it is set right. The size is a bound whatever the clock says.
"""

from collections.abc import Sequence
from typing import Final

from common.recording import SegmentFile

PACE: Final = 2


def to_drop(
    files: Sequence[SegmentFile], max_bytes: int, max_age_s: float, most_by_age: int
) -> tuple[SegmentFile, ...]:
    """Return the segments that no longer belong to the recording, oldest first; never the newest finished one.

    Args:
        files: the segments, oldest first; raw ones count by size, and are never dropped: one is being written, the
            others are about to be compressed.
        max_bytes: what all segments together may take, > 0.
        max_age_s: how long before the newest message of all the last one of a segment may have been received, > 0.
        most_by_age: how many may go for their age alone, >= 0; see Note [Time in a recording].
    """
    finished = [file for file in files if file.span is not None]
    ages_s = _ages_s(finished)
    kept_bytes = sum(file.size_bytes for file in files)
    dropped: list[SegmentFile] = []
    for file, age_s in zip(finished[:-1], ages_s, strict=False):
        is_too_much, is_too_old = kept_bytes > max_bytes, age_s > max_age_s
        if not is_too_much and not (is_too_old and most_by_age > 0):
            break
        most_by_age -= not is_too_much
        kept_bytes -= file.size_bytes
        dropped.append(file)
    return tuple(dropped)


def _ages_s(finished: Sequence[SegmentFile]) -> list[float]:
    """Return how long before the newest one each segment ended, >= 0, and never less than one written after it."""
    ends_s = [file.span[1] for file in finished if file.span is not None]
    for at in range(len(ends_s) - 2, -1, -1):
        ends_s[at] = min(ends_s[at], ends_s[at + 1])
    return [ends_s[-1] - end_s for end_s in ends_s] if ends_s else []


def segment_bytes(max_bytes: int, largest: int = 4 * 1024 * 1024) -> int:
    """Return the size at which a raw segment is finished: a small part of the whole, so that dropping one loses little.

    >>> segment_bytes(256 * 1024 * 1024), segment_bytes(1024 * 1024)
    (4194304, 131072)
    """
    return min(largest, max_bytes // 8)
