"""All services as real processes, on libvirt's test driver: a reload reaches each, and the recording repeats it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.clock import SystemClock
from common.config import SERVICES
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
CLOCK = SystemClock()
FILE = """
[system]
run_dir = "{0}/run"
state_dir = "{0}/state"
interval_s = 0.2
republish_s = 0.4
stale_after_s = 3.0
[metrics]
listen = ""
[hosts.local]
uri = "test:///default"
[groups.web]
kind = "existing"
prefix = "test-"
min = 1
max = {1}
endpoint = "127.0.0.1:18753"
address_source = "static"
addresses = {{ test-0000 = "127.0.0.2" }}
[groups.web.readiness]
identity = false
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(FILE.format(tmp_path, 3))
    return path


@pytest.fixture
def services(path: Path) -> Iterator[dict[str, int]]:
    """Start all services; give their process identifiers."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("recorder", *(name for name in SERVICES if name != "recorder")):
        command = [sys.executable, "-m", f"services.{name}", "--config", str(path)]
        log = (path.parent / f"{name}.log").open("wb")
        running[name] = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment())
        log.close()
    yield {name: process.pid for name, process in running.items()}
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def autoscaler(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", "--config", str(path), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def until(condition: Callable[[], Any], what: str) -> Any:
    return wait_until(condition, what, PATIENCE_S, every_s=0.2)


def status(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(autoscaler(path, "status", "--json").stdout)
    return values


def pids(path: Path) -> dict[str, int]:
    """Return the process identifier that each service tells."""
    return {one["name"]: one["pid"] for one in status(path)["services"]}


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return the decider's newest records."""
    found = json.loads(autoscaler(path, "explain", "--json").stdout or "{}")
    return [found["record"]] if "record" in found else []


def test_a_reload_reaches_all_services_and_the_recording_repeats_it(path: Path, services: dict[str, int]) -> None:
    until(lambda: all(one["alive"] for one in status(path)["services"]), "every service lives")
    until(lambda: recorded(path), "the decider ticks")

    path.write_text(FILE.format(path.parent, 3) + "[[groups.web.policies]]\ntype = 'threshold'\nhigh_ratio = 0.7\n")
    digest = status(path)["config_digest"]
    done = autoscaler(path, "reload", "--json")
    answers = json.loads(done.stdout)
    assert (done.returncode, answers["status"], answers["digest"]) == (0, "applied", digest), done
    assert {one["reason"] for one in answers["services"].values()} == {"groups.web.policies changed"}
    assert set(answers["services"]) == set(SERVICES)
    same = until(lambda: all(one["config_digest"] == digest for one in status(path)["services"]), "all tell the digest")
    assert same
    until(lambda: pids(path) == services, "all tell who they were before")

    path.write_text(FILE.format(path.parent, 0))
    wrong = autoscaler(path, "reload")
    assert (wrong.returncode, "groups.web.max" in wrong.stderr) == (2, True)
    path.write_text(FILE.format(path.parent, 3).replace('"test-', '"other-').replace(" test-0000", " other-0000"))
    refused = autoscaler(path, "reload")
    assert refused.returncode == 1
    assert refused.stdout.count("groups.web.prefix test- → other-") == len(SERVICES)
    path.write_text(FILE.format(path.parent, 6))
    assert autoscaler(path, "reload").returncode == 0

    before = until(lambda: recorded(path), "the decider's record")[0]["tick"]
    until(lambda: any(record["tick"] > before + 5 for record in recorded(path)), "some ticks later")
    until(lambda: reloads(path) == 2, "both reloads are in the recording")
    replayed = autoscaler(path, "replay", str(path.parent / "state"), "--json")
    values = json.loads(replayed.stdout)
    assert replayed.returncode == 0, values
    until(lambda: pids(path) == services, "all tell who they were before")


def reloads(path: Path) -> int:
    """Return how many of the decider's reloads the recording shows."""
    lines = autoscaler(path, "events", "--json", "--limit", "1000").stdout
    return lines.count("decider: groups.web.")
