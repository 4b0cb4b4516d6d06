"""What survives: written whole, read back exactly, moved to the clock of the next boot, ignored where damaged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.decider.core.state import Standing
from services.decider.core.stored import Instant, from_values, to_values
from services.decider.store import Store

AT = Instant("boot-1", 1000.0, 1_700_000_000.0)
FULL = Standing(
    desired=3,
    generation=17,
    cooldown_out_until_s=1005.0,
    cooldown_in_until_s=1030.0,
    changed_in_at_s=990.0,
    turned_at_s=980.0,
    patience_s=45.0,
    patience_until_s=4600.0,
    minimum=2,
    maximum=6,
    mode="out-only",
    is_paused=True,
)
times = st.floats(0, 1e7, allow_nan=False)


@given(cooldown=times, patience=times, mono=times)
def test_a_standing_survives_exactly(cooldown: float, patience: float, mono: float) -> None:
    standing = replace(FULL, cooldown_in_until_s=cooldown, patience_s=patience)
    at = replace(AT, mono_s=mono)
    assert from_values(json.loads(json.dumps(to_values(standing, at))), replace(at, mono_s=mono + 9)) == standing


def test_after_a_boot_the_wall_clock_tells_what_is_left_of_a_cooldown() -> None:
    later = Instant("boot-2", 20.0, AT.epoch_s + 12.0)
    found = from_values(to_values(FULL, AT), later)
    assert found.cooldown_in_until_s == pytest.approx(20.0 + 18.0)
    assert found.changed_in_at_s == pytest.approx(20.0 - 22.0)
    assert (found.desired, found.patience_s, found.mode) == (3, 45.0, "out-only")


def test_after_a_boot_with_the_wall_clock_set_back_the_whole_cooldown_is_left() -> None:
    found = from_values(to_values(FULL, AT), Instant("boot-2", 20.0, AT.epoch_s - 3600.0))
    assert found.cooldown_in_until_s == pytest.approx(20.0 + 30.0)


GOOD = to_values(FULL, AT)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {**GOOD, "version": 2},
        {"version": 1, "saved": GOOD["saved"]},
        {**GOOD, "standing": {**GOOD["standing"], "odd": 1}},
        {**GOOD, "standing": {**GOOD["standing"], "desired": -1}},
        {**GOOD, "standing": {**GOOD["standing"], "desired": "3"}},
        {**GOOD, "standing": {**GOOD["standing"], "generation": None}},
        {**GOOD, "standing": {**GOOD["standing"], "cooldown_in_until_s": float("nan")}},
        {**GOOD, "standing": {**GOOD["standing"], "patience_s": "long"}},
        {**GOOD, "standing": {**GOOD["standing"], "mode": "fast"}},
        {**GOOD, "standing": {**GOOD["standing"], "is_paused": 1}},
        {**GOOD, "saved": {**GOOD["saved"], "boot_id": 7}},
        {**GOOD, "saved": None},
    ],
)
def test_damaged_values_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|impossible|missing"):
        from_values(values, AT)


def test_each_group_is_read_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "state" / "decider.json"
    store = Store(path)
    store.save("web", FULL, AT)
    store.save("api", Standing(desired=1, generation=1), AT)
    again = Store(path)
    assert again.standing("web", AT) == FULL
    assert again.standing("api", AT) == Standing(desired=1, generation=1)
    assert again.standing("other", AT) is None
    assert [entry.name for entry in path.parent.iterdir()] == ["decider.json"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"groups": 3}', b"\xff\xfe", b"[" * 100_000, b" " * 5_000_000])
def test_an_unreadable_file_counts_as_empty(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "decider.json"
    path.write_bytes(raw)
    store = Store(path)
    assert store.standing("web", AT) is None
    store.save("web", FULL, AT)
    assert Store(path).standing("web", AT) == FULL


def test_one_damaged_group_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "decider.json"
    path.write_text(json.dumps({"groups": {"web": {"version": 9}, "api": to_values(FULL, AT)}}))
    store = Store(path)
    assert store.standing("web", AT) is None
    assert store.standing("api", AT) == FULL


def test_a_disk_that_refuses_does_not_stop_the_decider(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "decider.json")
    store.save("web", FULL, AT)
    assert store.standing("web", AT) == FULL


def test_a_torn_new_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "decider.json"
    Store(path).save("web", FULL, AT)
    (tmp_path / "decider.new").write_text('{"groups": {"web"')
    assert Store(path).standing("web", AT) == FULL
