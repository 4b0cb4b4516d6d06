"""How much of the past is kept."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.recording import SegmentFile
from services.recorder.core.retention import PACE, to_drop


def finished(number: int, size_bytes: int, first_s: float, last_s: float) -> SegmentFile:
    return SegmentFile(number, Path(f"{number}"), size_bytes, (first_s, last_s))


def test_nothing_is_dropped_within_the_bounds() -> None:
    files = [finished(1, 50, 0, 10), finished(2, 50, 10, 20)]
    assert to_drop(files, max_bytes=100, max_age_s=100, most_by_age=2) == ()


def test_the_oldest_goes_first_when_there_is_too_much() -> None:
    files = [finished(n, 40, n * 10, n * 10 + 10) for n in range(4)]
    assert to_drop(files, max_bytes=90, max_age_s=1000, most_by_age=0) == (files[0], files[1])


def test_what_ended_too_long_before_the_newest_is_dropped_whole() -> None:
    files = [finished(1, 1, 0, 10), finished(2, 1, 10, 60), finished(3, 1, 60, 100)]
    assert to_drop(files, max_bytes=1000, max_age_s=60, most_by_age=2) == (files[0],)


def test_no_more_go_for_their_age_than_may() -> None:
    files = [finished(n, 1, n * 10, n * 10 + 10) for n in range(9)]
    assert to_drop(files, max_bytes=1000, max_age_s=10, most_by_age=2) == tuple(files[:2])
    assert to_drop(files, max_bytes=1000, max_age_s=10, most_by_age=0) == ()


def test_raw_segments_count_but_are_never_dropped() -> None:
    files = [
        SegmentFile(1, Path("1"), 80, None),
        finished(2, 40, 0, 10),
        finished(3, 1, 10, 20),
        SegmentFile(4, Path("4"), 40, None),
    ]
    assert to_drop(files, max_bytes=50, max_age_s=100, most_by_age=2) == (files[1],)


@given(sizes=st.lists(st.integers(1, 1000), max_size=20), max_bytes=st.integers(1, 5000))
def test_what_is_kept_fits_or_is_the_newest_alone(sizes: list[int], max_bytes: int) -> None:
    files = [finished(n, size, n * 10, n * 10 + 10) for n, size in enumerate(sizes)]
    dropped = to_drop(files, max_bytes, max_age_s=1e9, most_by_age=0)
    kept = files[len(dropped) :]
    assert list(dropped) == files[: len(dropped)]
    assert sum(file.size_bytes for file in kept) <= max_bytes or len(kept) == 1
    assert kept or not files


DAY_S = 86400.0


@given(data=st.data())
def test_a_clock_that_is_days_off_never_takes_the_past_at_once(data: st.DataObject) -> None:
    """Hours are recorded; now and then the clock is set, by up to eight days, and set right again."""
    hours = data.draw(st.integers(1, 70))
    offs_days = data.draw(st.lists(st.floats(-8, 8), min_size=hours, max_size=hours))
    stays = data.draw(st.lists(st.booleans(), min_size=hours, max_size=hours))
    files: list[SegmentFile] = []
    off_s = 0.0
    for hour, (off_days, stay) in enumerate(zip(offs_days, stays, strict=True)):
        off_s = off_s if stay else off_days * DAY_S
        files.append(finished(hour, 1, hour * 3600 + off_s, hour * 3600 + 3600 + off_s))
        dropped = to_drop(files, max_bytes=1000, max_age_s=7 * DAY_S, most_by_age=PACE)
        assert len(dropped) <= PACE
        assert files[-1] not in dropped
        files = files[len(dropped) :]


def test_a_clock_that_was_ahead_for_an_hour_costs_next_to_nothing() -> None:
    files = [finished(n, 1, n * 3600, n * 3600 + 3600) for n in range(70)]
    ahead = finished(70, 1, 70 * 3600 + 8 * DAY_S, 71 * 3600 + 8 * DAY_S)
    right = finished(71, 1, 71 * 3600, 72 * 3600)
    assert to_drop([*files, ahead], 1000, 7 * DAY_S, most_by_age=PACE) == tuple(files[:PACE])
    assert to_drop([*files, ahead, right], 1000, 7 * DAY_S, most_by_age=PACE) == ()


def test_what_a_clock_wrote_that_was_ahead_is_as_old_as_what_follows_it() -> None:
    ahead, right = finished(1, 1, 8 * DAY_S, 8 * DAY_S + 10), finished(2, 1, 10, 20)
    newest = finished(3, 1, 7 * DAY_S, 7 * DAY_S + 30)
    assert to_drop([ahead, right, newest], 1000, 7 * DAY_S, most_by_age=PACE) == (ahead, right)
