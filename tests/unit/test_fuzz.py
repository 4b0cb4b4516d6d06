"""Damaged input at every door: nobody ends, nobody grows, and enough of it comes in; `make fuzz` does more."""

from pathlib import Path

import pytest

from tests.fuzz import doors
from tests.fuzz.run import LEAST_SHARE, MOST_GROWTH_BYTES, run

SEED = 20261129


def feed(name: str, count: int, scratch: Path) -> None:
    found = run(name, count, SEED, scratch)
    print(found.text())
    assert not found.fault, found.fault
    assert found.grown_bytes < MOST_GROWTH_BYTES
    assert found.count < 300 or found.share >= LEAST_SHARE, "hardly anything came through the first check"


@pytest.mark.parametrize("name", doors.DOORS)
def test_a_few_hundred_damaged_inputs_end_nobody(name: str, tmp_path: Path) -> None:
    feed(name, 300, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", doors.DOORS)
def test_ten_thousand_damaged_inputs_end_nobody(name: str, tmp_path: Path) -> None:
    feed(name, 10_000, tmp_path)


def test_a_fault_is_told_with_what_repeats_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def raises(*_: object) -> bool:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(doors.CronDoor, "feed", raises)
    found = run("cron", 100, 7, tmp_path)
    assert "broken on purpose" in found.fault and "seed 7, input 0" in found.fault
