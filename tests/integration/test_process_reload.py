"""A service as a real process reads its configuration again: by SIGHUP and by request; and tells systemd so."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import config_file
from common.bus import Bus, ask
from common.clock import SystemClock
from common.config import Config
from common.errors import BusError
from common.messages import Event, Reply, Request, ServiceStatus
from tests.faults.proof import Proof

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
SERVICE = """
from common.messages import Reply
from common.process import main

class Probe:
    def __init__(self, context):
        self.maximum, self.notes = context.config.groups["web"].maximum, context.notes

    def step(self, inbox, now_s):
        for pending in inbox.requests:
            self.notes["probe"] = pending.request.verb
            pending.reply(Reply(status="applied", data={"max": self.maximum}))
        return 30.0

    def reload(self, config, now_s):
        self.maximum = config.groups["web"].maximum

    def close(self): pass

raise SystemExit(main("decider", Probe))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    write(path, maximum=4)
    return path


def write(path: Path, maximum: int, more: str = "") -> None:
    path.write_text(
        f'[system]\nrun_dir = "{path.parent}/run"\nstate_dir = "{path.parent}"\nrepublish_s = 0.2\n{more}'
        f'[groups.web]\nprefix = "web-"\nmax = {maximum}\n'
    )


@pytest.fixture
def start(tmp_path: Path, path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    running: list[subprocess.Popen[str]] = []

    def start_one(**environment: str) -> "subprocess.Popen[str]":
        (tmp_path / "probe.py").write_text(SERVICE)
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "probe.py"), "--config", str(path)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )
        running.append(process)
        request(config_file.load(path)[0], "ping")
        return process

    yield start_one
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def request(config: Config, verb: str, **args: bool) -> Reply:
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    while True:
        with contextlib.suppress(BusError):
            return ask(config, "decider", Request(verb=verb, args=dict(args)), 2.0)
        assert CLOCK.monotonic_s() < deadline_s, f"no answer to {verb}"


def heard(config: Config, is_wanted: Callable[[Any], bool]) -> Any:
    """Return the first body that is wanted, from those that arrive from now on or stand."""
    bus = Bus.open(config, "operator", CLOCK, publishes=False)
    bus.subscribe("decider")
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    try:
        while CLOCK.monotonic_s() < deadline_s:
            for received in bus.receive(0.5).messages:
                if is_wanted(received.body):
                    return received.body
    finally:
        bus.close()
    raise AssertionError("not told")


def status(config: Config, digest: str) -> ServiceStatus:
    found = heard(config, lambda body: isinstance(body, ServiceStatus) and body.config_digest == digest)
    assert isinstance(found, ServiceStatus)
    return found


def test_a_hangup_takes_the_changed_file_over_without_a_restart(start: Any, path: Path) -> None:
    process = start()
    write(path, maximum=7)
    config, digest = config_file.load(path)
    process.send_signal(signal.SIGHUP)
    assert status(config, digest).pid == process.pid
    assert request(config, "ping").data == {"max": 7}


@pytest.mark.fault(69)
@pytest.mark.parametrize(
    ("what", "wrong", "told"),
    [
        ("no TOML", "max = = 3", "not valid TOML: Invalid value (at line 7, column 7)"),
        ("min > max", "max = 3\nmin = 5", ":5: groups.web: min must be <= max (3); got 5"),
        ("an unknown key", "maxi = 3", ":7: groups.web.maxi: unknown key; did you mean 'max'?"),
        ("max = 0", "max = 0", ":7: groups.web.max: input should be greater than or equal to 1; got 0"),
    ],
)
def test_a_hangup_with_a_wrong_file_keeps_the_old_one_and_says_why(
    start: Any, path: Path, what: str, wrong: str, told: str, row: Proof
) -> None:
    process = start()
    config, digest = config_file.load(path)
    bus = Bus.open(config, "operator", CLOCK, publishes=False)
    bus.subscribe("decider")
    while not bus.receive(PATIENCE_S).messages:
        pass
    path.write_text(path.read_text().replace("max = 4", wrong))
    process.send_signal(signal.SIGHUP)
    events: list[Event] = []
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    while not events and CLOCK.monotonic_s() < deadline_s:
        events = [received.body for received in bus.receive(0.5).messages if isinstance(received.body, Event)]
    bus.close()
    assert (events[0].name, events[0].level) == ("config-refused", "warning")
    assert told in events[0].text
    answer = request(config, "reload")
    assert answer.status != "applied"
    assert told in answer.reason
    assert status(config, digest).pid == process.pid
    assert request(config, "ping").data == {"max": 4}
    row.held(f"{what}: refused by signal and by request, with its line; the old file is in force")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    logged = [json.loads(line)["event"] for line in err.splitlines()]
    assert logged == ["service-started", "config-refused", "config-refused", "service-stopped"]


def test_a_request_is_answered_with_what_changed_and_a_trial_changes_nothing(start: Any, path: Path) -> None:
    start()
    write(path, maximum=6)
    config, digest = config_file.load(path)
    trial = request(config, "reload", check=True)
    told = "groups.web.max 4 → 6; ping"  # with what the service notes
    assert (trial.status, trial.reason, trial.data["digest"]) == ("applied", told, digest)
    assert request(config, "ping").data == {"max": 4}
    assert request(config, "reload").reason == told
    assert request(config, "ping").data == {"max": 6}
    assert request(config, "reload").reason == "nothing changed; ping"
    write(path, maximum=6, more="interval_s = 2.0\n")
    refused = request(config, "reload")
    assert refused.status == "refused"
    assert "system.interval_s 1.0 → 2.0; restart the services" in refused.reason


def test_what_a_service_notes_stands_in_its_status(start: Any, path: Path) -> None:
    start()
    config, _ = config_file.load(path)
    assert heard(config, lambda body: isinstance(body, ServiceStatus) and body.note == "ping")


def test_systemd_hears_readiness_the_watchdog_a_reload_and_the_end(start: Any, path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(tmp_path / "notify"))
        door.settimeout(PATIENCE_S)
        process = start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        assert door.recv(100) == b"READY=1"
        assert door.recv(100) == b"WATCHDOG=1"
        assert door.recv(100) == b"WATCHDOG=1"
        process.send_signal(signal.SIGHUP)
        told = []
        while not told or told[-1] != b"READY=1":
            told.append(door.recv(100))
        assert any(text.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for text in told)
        process.send_signal(signal.SIGTERM)
        while door.recv(100) != b"STOPPING=1":
            pass
        assert process.wait(PATIENCE_S) == 0
