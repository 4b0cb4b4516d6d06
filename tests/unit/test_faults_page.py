"""The page of the fault matrix: a row is kept only if every test of it passed and nothing of it is open."""

import math
from pathlib import Path

import pytest

from tests.faults import page as module
from tests.faults.matrix import OPEN, ROWS
from tests.faults.page import page, with_rows
from tests.faults.proof import SHORT_S, Proof


def shown(*rows: int, fault: str | None = None) -> Proof:
    proof = Proof(rows, fault=fault)
    proof.measured("restart", 1.25, at_most=2.0)
    return proof


def sign(text: str, number: int) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {number} |")).split(" | ")[1]


def test_a_row_is_kept_if_every_test_of_it_passed() -> None:
    text = page({1: [shown(1), shown(1, 2)]}, took_s=90)
    assert sign(text, 1) == "●"
    assert "restart: 1.25 s (at most 2)" in text
    assert "1 of 72 faults kept" in text


def test_a_row_is_broken_by_one_test_that_failed_or_did_not_run() -> None:
    text = page({1: [shown(1), shown(1, fault="no | end")], 2: [shown(2), Proof((2,))]}, took_s=90)
    assert sign(text, 1) == sign(text, 2) == "✗"
    assert "**no \\| end**" in text


def test_a_row_without_a_test_is_not_shown_and_one_with_an_open_part_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OPEN", {3: "needs two hosts"})
    text = page({3: [shown(3)]}, took_s=90)
    assert (sign(text, 3), sign(text, 4)) == ("◐", "○")
    assert "*Open:* needs two hosts" in text


def test_one_row_that_is_run_again_is_written_anew_and_counted() -> None:
    text = page({1: [shown(1)], 2: [shown(2, fault="no end")]}, took_s=90)
    again = with_rows(text, {2: [shown(2)]})
    assert (sign(again, 1), sign(again, 2), sign(again, 3)) == ("●", "●", "○")
    assert "2 of 72 faults kept" in again
    assert with_rows(again, {2: [shown(2, fault="no end")]}) == text


def test_a_figure_beyond_its_bound_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"restart: 2\.50 s"):
        Proof((1,)).measured("restart", 2.5, at_most=2.0)


def test_a_fault_lasts_seconds_at_most_a_minute_where_rows_are_asked_for_and_its_whole_length_if_that_is() -> None:
    assert Proof((1,), longest_s=SHORT_S).lasts_s(600) == 60
    assert Proof((1,)).lasts_s(600) < 10 and Proof((1,)).lasts_s(3) == 3
    assert Proof((1,), longest_s=math.inf).lasts_s(600) == 600


def test_the_page_of_the_last_run_says_what_the_matrix_says() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    lines = {line.split(" | ")[0]: line.split(" | ")[2:4] for line in text.splitlines() if line.startswith("| ")}
    assert {f"| {number}": [row.fault, row.must] for number, row in ROWS.items()}.items() <= lines.items()


def test_every_row_is_there_once_and_only_rows_are_open() -> None:
    assert list(ROWS) == list(range(1, 73))
    assert OPEN.keys() <= ROWS.keys()
