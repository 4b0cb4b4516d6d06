"""The mark of a service's life: what a run learns of the one before it, and when that is told."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from common.life import CALM_S, EVERY_S, FAILED, FREELY, STOPPED, Life, Mark, first, is_news, place, read, sentence
from tests.clocks import FakeClock

BOOT = "0c9a3b54"
KILLED = Life(BOOT, 4711, 10.0, 50.0, 1_795_374_063.0)


def begun(last: Life | None, boot: str = BOOT, mono_s: float = 60.0) -> Life:
    return first(last, boot, 4712, mono_s, 1_795_374_073.0)


@pytest.mark.parametrize(
    ("last", "deaths"),
    [
        (None, 0),
        (KILLED, 1),
        (replace(KILLED, end=FAILED, why="ValueError: x"), 1),
        (replace(KILLED, end=STOPPED), 0),
        (replace(KILLED, boot_id="another"), 0),
        (replace(KILLED, deaths=2), 3),
    ],
    ids=["first", "killed", "failed", "stopped", "machine booted anew", "again and again"],
)
def test_a_run_that_was_not_told_to_end_in_this_boot_died(last: Life | None, deaths: int) -> None:
    life = begun(last)
    assert life.deaths == deaths
    assert is_news(life, 60.0) == (deaths > 0)
    assert not life.is_ended


def test_a_run_knows_when_the_one_before_it_lived_whatever_its_end() -> None:
    assert begun(replace(KILLED, end=STOPPED)).before_mono_s == 50.0
    assert begun(replace(KILLED, boot_id="another")).before_mono_s == 0.0


def test_a_crash_loop_is_told_freely_at_first_then_more_and_more_seldom() -> None:
    life, told_at_s = begun(None, mono_s=0.0), []
    for now_s in range(3, 3600, 3):
        life = first(life, BOOT, now_s, float(now_s), 0.0)
        if is_news(life, float(now_s)):
            told_at_s.append(now_s)
            life = replace(life, deaths=0, told=life.told + 1, told_mono_s=float(now_s))
    assert told_at_s[:FREELY] == [3, 6, 9, 12, 15]
    assert [later - sooner for sooner, later in pairwise(told_at_s[4:])] == [60, 120, 240, 480, 960]


def test_a_long_calm_ends_that() -> None:
    often = replace(KILLED, told=99, told_mono_s=49.0)
    assert not is_news(begun(often), 60.0)
    assert is_news(begun(replace(often, seen_mono_s=10.0 + CALM_S)), 60.0)


def test_what_is_told_says_how_it_ended_and_until_when_it_is_known_to_have_lived() -> None:
    assert sentence("decider", KILLED, 1) == (
        "decider runs again. Its last run (process 4711) did not end by itself: it was killed, or crashed; "
        "last known to live at 2026-11-22 19:01:03 UTC"
    )
    failed = sentence("decider", replace(KILLED, end=FAILED, why="ValueError: x"), 7)
    assert "did not end by itself: it failed at 2026-11-22 19:01:03 UTC (ValueError: x); 7 runs" in failed


def test_the_mark_stands_from_the_start_is_renewed_and_tells_the_end(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    mark = Mark(tmp_path, "decider", clock)
    assert mark.last is None
    assert mark.news(100.0) == ""
    at_start = read(tmp_path, "decider")
    assert at_start is not None and (at_start.seen_mono_s, at_start.end) == (100.0, "")
    clock.now_s = 100.0 + EVERY_S / 2
    mark.lives(clock.now_s)
    assert read(tmp_path, "decider") == at_start, "it is not written at each turn of the loop"
    clock.now_s = 100.0 + EVERY_S
    mark.lives(clock.now_s)
    renewed = read(tmp_path, "decider")
    assert renewed is not None and renewed.seen_mono_s == 100.0 + EVERY_S
    mark.stopped()
    stopped = read(tmp_path, "decider")
    assert stopped is not None and stopped.is_ended


def test_a_death_is_told_once_and_by_the_next_run(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    Mark(tmp_path, "decider", clock)
    second = Mark(tmp_path, "decider", clock)
    assert "decider runs again" in second.news(101.0)
    assert second.news(102.0) == ""
    second.stopped()
    assert Mark(tmp_path, "decider", clock).news(103.0) == ""


def test_an_end_by_an_error_says_which(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    Mark(tmp_path, "decider", clock).failed("RuntimeError: two\nlines " + "x" * 500)
    text = Mark(tmp_path, "decider", clock).news(101.0)
    assert "(RuntimeError: two lines xxx" in text and len(text) < 500


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"boot_id": 1}'])
def test_a_damaged_mark_is_none(tmp_path: Path, content: bytes) -> None:
    place(tmp_path, "decider").write_bytes(content)
    assert read(tmp_path, "decider") is None
    assert Mark(tmp_path, "decider", FakeClock()).news(1.0) == ""


@pytest.mark.parametrize(("key", "value"), [("seen_at_s", 1e300), ("pid", -1), ("began_mono_s", "x"), ("told", 1.5)])
def test_a_mark_with_an_absurd_figure_is_none(tmp_path: Path, key: str, value: object) -> None:
    Mark(tmp_path, "decider", FakeClock())
    path = place(tmp_path, "decider")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert read(tmp_path, "decider") is None


def test_where_it_cannot_be_written_the_service_runs_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = Mark(tmp_path / "gone", "decider", FakeClock())
    mark.lives(1000.0)
    mark.stopped()
    assert capsys.readouterr().out.count("life-not-marked") == 1
