"""``up`` where the installation already runs from another directory with this program: refused, unless it is meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli import stack, supervision
from cli.console import Steps
from cli.supervision import other_tree, refuse_other_tree
from cli.supervisor_config import supervisor_config
from common.clock import SystemClock
from common.config import SERVICES, Config, System
from common.errors import AutoscalerError

CLOCK = SystemClock()


def tree(path: Path) -> Path:
    """Make a directory that holds the program."""
    (path / "cli").mkdir(parents=True)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the tree that ``up`` is called in."""
    path = tree(tmp_path / "copy")
    monkeypatch.setattr(supervision, "ROOT", path)
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], System]:
    """Return what pretends that supervisord runs from a tree."""
    monkeypatch.setattr(supervision, "is_supervised", lambda _system: True)
    monkeypatch.setattr(supervision, "is_ending", lambda _system: False)

    def pretend(root: Path, python: str = ".venv/bin/python") -> System:
        system = System(run_dir=f"{tmp_path}/run", state_dir=f"{tmp_path}/state")
        system.run_path.mkdir()
        text = supervisor_config(system, SERVICES, root / "autoscaler.toml", root / python, root)
        (system.run_path / supervision.CONF).write_text(text)
        return system

    return pretend


def test_what_runs_from_another_tree_is_refused_with_both_and_the_ways_out(
    tmp_path: Path, here: Path, runs: Callable[[Path], System]
) -> None:
    there = tree(tmp_path / "op 100%")
    with pytest.raises(AutoscalerError) as raised:
        refuse_other_tree(runs(there))
    said = str(raised.value)
    assert f"runs from {there}, and this is {here}. Run make up in {there};" in said
    assert f"the installation in {tmp_path}/run " in said
    assert "restarts HAProxy and refuses requests for some seconds: make up FORCE=1 (up --force)" in said


def test_it_is_taken_over_where_that_is_meant(tmp_path: Path, here: Path, runs: Callable[[Path], System]) -> None:
    refuse_other_tree(runs(tree(tmp_path / "op")), is_forced=True)


@pytest.mark.parametrize("python", [".venv/bin/python", "other/bin/python3.12"])
def test_the_same_tree_is_not_refused_whatever_its_interpreter(
    here: Path, runs: Callable[[Path, str], System], python: str
) -> None:
    refuse_other_tree(runs(here, python))


def test_a_tree_that_was_moved_here_is_not_refused(tmp_path: Path, here: Path, runs: Callable[[Path], System]) -> None:
    refuse_other_tree(runs(tmp_path / "gone"))


@pytest.mark.parametrize("name", ["emptied", "link"])
def test_neither_is_one_whose_old_place_holds_no_program_or_leads_here(
    tmp_path: Path, here: Path, runs: Callable[[Path], System], name: str
) -> None:
    (tmp_path / "emptied").mkdir()
    (tmp_path / "link").symlink_to(here)
    refuse_other_tree(runs(tmp_path / name))
    told = f"directory={tmp_path / name}"
    assert other_tree(told, here) == (None if name == "link" else tmp_path / name)


@pytest.mark.parametrize("pretence", [("is_supervised", False), ("is_ending", True)])
def test_nothing_is_refused_where_nothing_runs_on(
    tmp_path: Path,
    here: Path,
    runs: Callable[[Path], System],
    monkeypatch: pytest.MonkeyPatch,
    pretence: tuple[str, bool],
) -> None:
    system = runs(tree(tmp_path / "op"))
    monkeypatch.setattr(supervision, pretence[0], lambda _system: pretence[1])
    refuse_other_tree(system)


def test_what_does_not_say_where_it_runs_from_is_not_refused(here: Path, runs: Callable[[Path], System]) -> None:
    system = runs(here)
    (system.run_path / supervision.CONF).unlink()
    refuse_other_tree(system)
    assert other_tree("[supervisord]\nlogfile=/directory=/x\n", here) is None


def test_up_refuses_before_it_prepares_or_stops_anything(
    tmp_path: Path, here: Path, runs: Callable[[Path], System], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(
        {"system": runs(tree(tmp_path / "op")).model_dump(), "groups": {"web": {"prefix": "web-"}}}
    )
    monkeypatch.setattr(stack, "prepare_directories", lambda _system: pytest.fail("it went on"))
    with pytest.raises(AutoscalerError, match="runs from"):
        stack._start(config, here / "a.toml", "digest", CLOCK, Steps(CLOCK, 7), is_forced=False)
    with pytest.raises(pytest.fail.Exception, match="it went on"):
        stack._start(config, here / "a.toml", "digest", CLOCK, Steps(CLOCK, 7), is_forced=True)


@pytest.mark.parametrize("name", ["op", "gone", "copy"])
def test_a_start_that_takes_over_says_what_ran_before(
    tmp_path: Path, here: Path, runs: Callable[[Path, str], System], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tree(tmp_path / "op")
    config = Config.model_validate(
        {"system": runs(tmp_path / name, "old/python").model_dump(), "groups": {"web": {"prefix": "web-"}}}
    )
    stopped: list[System] = []
    monkeypatch.setattr(supervision, "stop_services", lambda system, *_rest: stopped.append(system))
    monkeypatch.setattr(supervision, "start_supervisord", lambda *_args: None)
    said = supervision.start_services(config, here / "autoscaler.toml", "digest", CLOCK, Steps(CLOCK, 7))
    assert stopped == [config.system]
    told = "" if name == "copy" else f"; before, it ran from {tmp_path / name}"
    assert said == f"started under supervisord{told}"
