"""A file that goes wrong while real services run with it: what runs is looked at, obeys orders, and can be stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.in_force import NAME
from tests.integration.test_reload_everywhere import FILE
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
NEEDED = ("recorder", "decider", "actuator")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start the services that the commands need, with variables that set keys; give their file."""
    path = tmp_path_factory.mktemp("wrong") / "autoscaler.toml"
    path.write_text(FILE.format(path.parent, 3))
    running = []
    for name in NEEDED:
        command = [sys.executable, "-m", f"services.{name}", "--config", str(path)]
        with (path.parent / f"{name}.log").open("wb") as log:
            environ = os.environ | {"AUTOSCALER_GROUPS__WEB__MAX": "2"}
            running.append(subprocess.Popen(command, cwd=ROOT, stderr=log, env=environ))
    good = path.read_text()
    wait_until(lambda: len(alive(path)) == len(NEEDED), "the services live", PATIENCE_S, every_s=0.2)
    wait_until(lambda: "record" in autoscaler(path, "explain", "--json").stdout, "a tick", PATIENCE_S, every_s=0.2)
    yield path
    path.unlink(missing_ok=True)
    path.write_text(good)
    for process in running:
        process.terminate()
    for process in running:
        process.wait(PATIENCE_S)


def autoscaler(path: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", "--config", str(path), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=120
    )


def alive(path: Path) -> list[str]:
    values = json.loads(autoscaler(path, "status", "--json").stdout or '{"services": []}')
    return [one["name"] for one in values["services"] if one["alive"]]


def typo(path: Path) -> str:
    path.write_text(FILE.format(path.parent, 3) + "[groups.web.readines]\n")
    return f"autoscaler: warning: {path}:22: groups.web.readines: unknown key"


def moved_run_dir(path: Path) -> str:
    path.write_text('[system]\nrun_dir = "/nonexistent/run"\nx = 1\n')
    return f"autoscaler: warning: {path}:3: system.x: unknown key"


def no_toml(path: Path) -> str:
    path.write_text("[[[")
    return f"autoscaler: warning: {path}: not valid TOML"


def gone(path: Path) -> str:
    path.unlink(missing_ok=True)
    return f"autoscaler: warning: {path}: cannot be read: No such file"


def directory(path: Path) -> str:
    path.unlink(missing_ok=True)
    path.mkdir()
    return f"autoscaler: warning: {path}: cannot be read: Is a directory"


@pytest.mark.parametrize("break_it", [typo, moved_run_dir, no_toml, gone, directory])
def test_every_way_a_file_goes_wrong_is_told_and_what_runs_is_seen(path: Path, break_it: Callable[[Path], str]) -> None:
    warning = break_it(path)
    try:
        done = autoscaler(path, "status", "--json")
    finally:
        if path.is_dir():
            path.rmdir()
    values = json.loads(done.stdout)
    assert done.returncode == 0
    assert warning in done.stderr
    assert f"used instead: {path} as it was last taken over ({path.parent}/run/{NAME})" in done.stderr
    assert values["groups"][0]["max"] == 2  # by the variable that the services have
    assert {one["config_digest"] for one in values["services"] if one["alive"]} == {values["config_digest"]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["events", "--json"], 0),
        (["explain", "--json"], 0),
        (["scale", "1"], 0),
        (["pause"], 0),
        (["resume"], 0),
        (["mode", "on"], 0),
        (["bounds", "--max", "2"], 0),
        (["protect", "test-0000"], 1),  # no such domain: the actuator says so
        (["drain", "test-0000"], 1),
        (["replace", "test-0000"], 1),
        (["plot", "--png", "graph.png", "--minutes", "1"], 0),
    ],
)
def test_looking_and_orders_go_on(path: Path, tmp_path: Path, arguments: list[str], code: int) -> None:
    warning = typo(path)
    done = autoscaler(path, *(str(tmp_path / word) if word.endswith(".png") else word for word in arguments))
    assert (done.returncode, warning in done.stderr, "Traceback" in done.stderr) == (code, True, False), done


def test_the_doctor_examines_what_runs_and_says_what_is_wrong_with_the_file(path: Path) -> None:
    warning = typo(path)
    done = autoscaler(path, "doctor", "--json")
    assert warning in done.stderr
    assert any(finding["check"] == "configuration" for finding in json.loads(done.stdout)["findings"]), done.stdout


def test_wrong_variables_are_told_and_those_in_force_are_used(path: Path) -> None:
    path.write_text(FILE.format(path.parent, 3))
    done = autoscaler(path, "status", "--json", AUTOSCALER_GROUPS__WEB__MAXX="2")
    assert done.returncode == 0
    assert "AUTOSCALER_GROUPS__WEB__MAXX: groups.web.maxx: unknown key" in done.stderr


@pytest.mark.parametrize("arguments", [["up"], ["reload"], ["config", "check"], ["config", "show"], ["image"]])
def test_what_starts_something_or_has_the_file_taken_over_needs_a_valid_one(path: Path, arguments: list[str]) -> None:
    typo(path)
    done = autoscaler(path, *arguments)
    assert done.returncode == 2
    assert "groups.web.readines: unknown key" in done.stderr
    assert "warning" not in done.stderr


def test_the_file_of_another_installation_is_not_taken_for_this_one(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "autoscaler.toml"
    other.write_text(FILE.format(path.parent, 3) + "x = 1\n")
    for arguments in (["down"], ["status"], ["scale", "1"]):
        done = autoscaler(other, *arguments)
        assert (done.returncode, str(other) in done.stderr) == (2, True), done
