"""The gap before a recorder's start: when it is told, and in which words."""

from dataclasses import replace

import pytest

from common.life import STOPPED, Life
from common.recording import Recorded
from services.recorder.core.gap import unrecorded

BOOT = "0c9a3b54"
NEWEST = Recorded(1_795_374_063.0, 1000.0, BOOT, "event.x", b"")
DIED = Life(BOOT, 1, 10.0, 1000.0, 0.0)
STOPPED_TOO = replace(DIED, end=STOPPED)
LIVES_ON = replace(DIED, seen_mono_s=1036.0)
BEGINS_NOW = Life(BOOT, 2, 1036.0, 1036.0, 0.0, before_mono_s=1002.0)
TEXT = "nothing was recorded from 19:01:03 to 19:01:40 UTC (37 s): events of that time are missing"


def told(newest: Recorded | None, own: Life | None, *others: Life, lasted_s: float = 37.0, boot: str = BOOT) -> str:
    return unrecorded(newest, own, others, boot, 1000.0 + lasted_s, 1_795_374_063.0 + lasted_s, 1.0)


def test_after_a_recorder_that_was_killed_the_gap_is_told() -> None:
    assert told(NEWEST, DIED) == TEXT
    assert told(NEWEST, replace(DIED, end="failed")) == TEXT


def test_after_one_that_was_stopped_it_is_told_if_another_service_went_on() -> None:
    assert told(NEWEST, STOPPED_TOO, STOPPED_TOO, LIVES_ON) == TEXT
    began_anew = replace(BEGINS_NOW, before_mono_s=1030.0)
    assert told(NEWEST, STOPPED_TOO, began_anew) == TEXT, "its run of before went on, and it has just begun anew"
    assert told(NEWEST, STOPPED_TOO, replace(LIVES_ON, end=STOPPED)) == TEXT, "it went on, and was stopped later"


@pytest.mark.parametrize(
    "others",
    [(), (STOPPED_TOO,), (BEGINS_NOW,), (replace(LIVES_ON, boot_id="another"),)],
    ids=["nobody", "all stopped with it", "ended a little later and has just begun", "of another boot"],
)
def test_after_a_stop_of_all_nothing_is_told(others: tuple[Life, ...]) -> None:
    assert told(NEWEST, STOPPED_TOO, *others) == ""
    assert told(NEWEST, None, *others) == "", "nothing is known of the run before"


def test_a_machine_that_was_booted_anew_an_empty_recording_and_a_moment_are_no_gap() -> None:
    assert told(NEWEST, DIED, LIVES_ON, boot="another") == ""
    assert told(None, DIED, LIVES_ON) == ""
    assert told(NEWEST, DIED, lasted_s=1.4) == ""
    assert told(NEWEST, DIED, lasted_s=1.6) != ""
    assert told(NEWEST, STOPPED_TOO, LIVES_ON, lasted_s=5.5) == ""
