"""How much of the past is kept."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.recording import SegmentFile
from services.recorder.core.retention import to_drop


def finished(number: int, size_bytes: int, first_s: float, last_s: float) -> SegmentFile:
    return SegmentFile(number, Path(f"{number}"), size_bytes, (first_s, last_s))


def test_nothing_is_dropped_within_the_bounds() -> None:
    files = [finished(1, 50, 0, 10), finished(2, 50, 10, 20)]
    assert to_drop(files, now_s=100, max_bytes=100, max_age_s=100) == ()


def test_the_oldest_goes_first_when_there_is_too_much() -> None:
    files = [finished(n, 40, n * 10, n * 10 + 10) for n in range(4)]
    assert to_drop(files, now_s=50, max_bytes=90, max_age_s=1000) == (files[0], files[1])


def test_what_ended_too_long_ago_is_dropped_whole() -> None:
    files = [finished(1, 1, 0, 10), finished(2, 1, 10, 60), finished(3, 1, 60, 100)]
    assert to_drop(files, now_s=110, max_bytes=1000, max_age_s=60) == (files[0],)


def test_raw_segments_count_but_are_never_dropped() -> None:
    files = [SegmentFile(1, Path("1"), 80, None), finished(2, 40, 0, 10), SegmentFile(3, Path("3"), 40, None)]
    assert to_drop(files, now_s=10, max_bytes=50, max_age_s=100) == (files[1],)


@given(
    sizes=st.lists(st.integers(1, 1000), max_size=20),
    max_bytes=st.integers(1, 5000),
    max_age_s=st.floats(1, 100),
    now_s=st.floats(0, 300),
)
def test_what_is_kept_fits_and_is_the_newest_part(
    sizes: list[int], max_bytes: int, max_age_s: float, now_s: float
) -> None:
    files = [finished(n, size, n * 10, n * 10 + 10) for n, size in enumerate(sizes)]
    dropped = to_drop(files, now_s, max_bytes, max_age_s)
    kept = files[len(dropped) :]
    assert list(dropped) == files[: len(dropped)]
    assert sum(file.size_bytes for file in kept) <= max_bytes
    assert all(file.span is not None and file.span[1] >= now_s - max_age_s for file in kept)
