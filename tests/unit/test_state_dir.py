"""The state directory: its mode, and what a service does about one that was lost while it runs."""

import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from common import process
from common.clock import SystemClock
from common.config import Config, Group, System
from common.process import Context
from common.run_dir import store_run_id
from common.state_dir import StateDir, ensure_state_dir


@pytest.fixture
def path(tmp_path: Path) -> Path:
    state = tmp_path / "var" / "state"
    ensure_state_dir(state)
    store_run_id(state / "decider.run", 7)
    return state


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_it_is_made_with_the_way_through_for_others_and_nothing_more_whatever_the_umask(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        ensure_state_dir(tmp_path / "srv" / "state")
    finally:
        os.umask(before)
    assert (tmp_path / "srv" / "state").stat().st_mode & 0o7777 == 0o711
    assert (tmp_path / "srv").stat().st_mode & 0o7777 == 0o755


def test_one_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o750)
    ensure_state_dir(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o7777 == 0o750


def test_what_is_still_there_is_not_lost_whatever_else_is_written(path: Path) -> None:
    state = StateDir(path, "decider", 7)
    (path / "decider.json").write_text("{}")
    (path / "actuator.run").write_text("8\n")
    assert not state.is_lost()


@pytest.mark.parametrize("how", ["removed", "moved", "emptied", "replaced"])
def test_one_that_is_lost_is_noticed_made_anew_and_whole_again(path: Path, how: str) -> None:
    state = StateDir(path, "decider", 7)
    match how:
        case "removed":
            shutil.rmtree(path)
        case "moved":
            path.rename(path.with_name("elsewhere"))
        case "emptied":
            (path / "decider.run").unlink()
        case _:
            path.rename(path.with_name("elsewhere"))
            path.mkdir(mode=0o700)
    assert state.is_lost()
    state.make_anew()
    assert not state.is_lost()
    assert (path / "decider.run").read_text() == "7\n"
    assert path.stat().st_mode & 0o7777 == (0o700 if how == "replaced" else 0o711)


def test_supervisords_logs_have_a_place_again_where_they_had_one(path: Path) -> None:
    (path / "log").mkdir()
    state = StateDir(path, "decider", 7)
    shutil.rmtree(path)
    state.make_anew()
    assert (path / "log").stat().st_mode & 0o7777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to a group")
def test_one_that_several_users_shared_is_shared_again(path: Path) -> None:
    os.chown(path, 0, 10001)
    path.chmod(0o1771)
    state = StateDir(path, "decider", 7)
    shutil.rmtree(path)
    state.make_anew()
    found = path.stat()
    assert (found.st_mode & 0o7777, found.st_gid) == (0o1771, 10001)


# --- the loop of a service -----------------------------------------------------------------------------------


class Keeping:
    """A service that counts how often it is to write again."""

    def __init__(self) -> None:
        self.kept = 0

    def keep_again(self, now_s: float) -> None:
        self.kept += 1


def context_of(path: Path) -> Context:
    config = Config(system=System(state_dir=str(path)), groups={"web": Group(prefix="web-")})
    bus = SimpleNamespace(counters=Counter())
    return Context("decider", config, "", path, SystemClock(), bus, is_stopping=lambda: False)  # type: ignore[arg-type]


def test_a_service_writes_again_what_it_keeps_and_only_then(path: Path) -> None:
    state, context, service = StateDir(path, "decider", 7), context_of(path), Keeping()
    for lost in (False, True, False):
        if lost:
            shutil.rmtree(path)
        process._look_after(state, context, service, 1.0)  # type: ignore[arg-type]
    assert (service.kept, context.notes, context.bus.counters["state_dir_lost"]) == (1, {}, 1)


def test_while_it_cannot_be_made_the_status_says_so_and_it_is_tried_again(path: Path) -> None:
    state, context, service = StateDir(path, "decider", 7), context_of(path), Keeping()
    shutil.rmtree(path.parent)
    path.parent.touch()
    process._look_after(state, context, service, 1.0)  # type: ignore[arg-type]
    assert context.notes == {"state_dir": f"state_dir {path} is lost and cannot be made anew: Not a directory"}
    path.parent.unlink()
    process._look_after(state, context, service, 2.0)  # type: ignore[arg-type]
    assert (service.kept, context.notes) == (1, {})


def test_a_service_starts_also_where_it_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    (tmp_path / "file").touch()
    process._make_state_dir(tmp_path / "file" / "state")
    assert "state-dir-missing" in capsys.readouterr().out
