"""``--forget-capacity``: after ``down`` nothing is desired and no cooldown runs; an operator's orders stay."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common.run_dir import Lock
from services.decider.__main__ import FORGET, run
from services.decider.core.state import Standing
from services.decider.store import NAME, Store
from tests.unit.test_decider_store import AT, FULL


def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(
        f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}"\n[groups.web]\nprefix = "web-"\n',
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (FULL, "web: ordered by an operator, and still so at the next start: mode out-only, min 2, max 6, paused\n"),
        (replace(FULL, minimum=None, maximum=None, mode=None, is_paused=False), ""),
    ],
)
def test_only_what_an_operator_ordered_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], standing: Standing, told: str
) -> None:
    Store(tmp_path / NAME).save("web", standing, AT)
    assert run(["--config", str(config(tmp_path)), FORGET]) == 0
    left = json.loads((tmp_path / NAME).read_text(encoding="utf-8"))["groups"]["web"]["standing"]
    orders = {name: getattr(standing, name) for name in ("minimum", "maximum", "mode", "is_paused")}
    assert left == asdict(Standing(**orders))
    assert capsys.readouterr().err == told


def test_without_a_store_there_is_nothing_to_forget(tmp_path: Path) -> None:
    assert run(["--config", str(config(tmp_path)), FORGET]) == 0
    assert not (tmp_path / NAME).exists()


def test_a_running_decider_keeps_what_it_has(tmp_path: Path) -> None:
    Store(tmp_path / NAME).save("web", FULL, AT)
    path = config(tmp_path)
    (tmp_path / "run").mkdir(mode=0o700)
    lock = Lock.take(tmp_path / "run" / "decider.lock")
    try:
        assert run(["--config", str(path), FORGET]) == 75
    finally:
        lock.release()
    assert Store(tmp_path / NAME).standing("web", AT) == FULL
