"""The notifier as a process on the real bus: killed, restarted, with receivers that are dead, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config
from common.messages import Event, ServiceStatus
from tests.ports import free_port
from tests.waiting import wait_until

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
TOML = """
[system]
run_dir = "{dir}/run"
state_dir = "{dir}/state"
interval_s = 0.1
republish_s = 0.2
stale_after_s = 1.0
[metrics]
listen = ""
[[notifications]]
name = "hook"
url = "http://127.0.0.1:{port}/"
secret_file = "{dir}/secret"
timeout_s = 20.0
[[notifications]]
name = "log"
command = ["/bin/sh", "-c", 'cat >> "$0"', "{dir}/told"]
events = ["all"]
timeout_s = 20.0
[groups.web]
prefix = "web-"
"""


class Hook:
    """A webhook that is there only between ``open`` and ``close``."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        self.port = free_port()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def open(self) -> None:
        ids = self.ids

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ids.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


class Decider:
    """A decider that says what it is told to say, and listens to the notifier."""

    def __init__(self, config: Config) -> None:
        self.status: ServiceStatus | None = None
        self.lost: list[Event] = []
        self._said: list[Event] = []
        self._stop = threading.Event()
        self._bus = Bus.open(config, "decider", CLOCK)
        self._bus.subscribe("notifier")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def say(self, name: str) -> None:
        self._said.append(Event(name=name, group="web", text="from 1 to 2"))
        self._bus.wake()

    def is_heard(self) -> bool:
        """Return whether the notifier is up and has been heard since ``status`` was cleared."""
        return self.status is not None

    def close(self) -> None:
        self._stop.set()
        self._bus.wake()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            while self._said:
                self._bus.publish(self._said.pop(0))
            for message in self._bus.receive(0.05).messages:
                if isinstance(message.body, ServiceStatus):
                    self.status = message.body
                elif isinstance(message.body, Event) and message.body.name == "notification-lost":
                    self.lost.append(message.body)
        self._bus.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


@pytest.fixture
def toml(tmp_path: Path, hook: Hook) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(TOML.format(dir=tmp_path, port=hook.port), encoding="utf-8")
    (tmp_path / "secret").write_text("a secret of enough bytes")
    (tmp_path / "secret").chmod(0o600)
    return path


@pytest.fixture
def decider(toml: Path) -> Iterator[Decider]:
    found = Decider(config_file.load(toml)[0])
    yield found
    found.close()


@pytest.fixture
def start(toml: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Return a function that starts a service; all are ended."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str = "notifier") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"services.{name}", "--config", str(toml)]
        started.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def told(toml: Path) -> list[dict[str, str]]:
    """Return what the command was told."""
    path = toml.parent / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stored(toml: Path) -> dict[str, int]:
    """Return how many notices are kept for each receiver."""
    path = toml.parent / "state" / "notifier.json"
    values = json.loads(path.read_text()) if path.exists() else {"queues": {}}
    return {key: len(items) for key, items in values["queues"].items()}


def say_until(decider: Decider, name: str, condition: Callable[[], bool]) -> None:
    """Say an event again and again, as the first ones may come before anybody listens, until the condition holds."""

    def is_done() -> bool:
        decider.say(name)
        threading.Event().wait(0.3)
        return condition()

    wait_until(is_done, f"an effect of {name}")


def test_a_dead_webhook_delays_no_command_and_gets_its_events_after_kill_and_restart(
    toml: Path, hook: Hook, decider: Decider, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first = start()
    wait_until(decider.is_heard, "the notifier's sign of life")
    say_until(decider, "scale-out", lambda: bool(told(toml)))
    wait_until(lambda: stored(toml).get("hook", 0) >= 1 and "log" not in stored(toml), "a queue for the dead one only")
    first.send_signal(signal.SIGKILL)
    first.wait()
    hook.open()
    decider.status = None
    start()
    wait_until(lambda: bool(hook.ids) and not stored(toml), "all that waited")
    assert set(hook.ids) == {notice["id"] for notice in told(toml)}
    assert decider.lost == []


def test_what_was_said_while_no_notifier_ran_is_found_in_the_recording(
    toml: Path, hook: Hook, decider: Decider, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    hook.open()
    start("recorder")
    first = start()
    wait_until(decider.is_heard, "the notifier's sign of life")
    first.terminate()
    assert first.wait(20) == 0
    recording = toml.parent / "state" / "recording"

    say_until(
        decider,
        "breaker-opened",
        lambda: any(b"event.breaker-opened" in path.read_bytes() for path in recording.glob("*")),
    )
    start()
    wait_until(
        lambda: "breaker-opened" in {notice["type"] for notice in told(toml)} and len(hook.ids) >= 1,
        "the event of the recording",
    )
    assert len(set(hook.ids)) == len(hook.ids)


def test_a_secret_that_others_may_read_stops_no_other_receiver_and_status_says_so(
    toml: Path, decider: Decider, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (toml.parent / "secret").chmod(0o644)
    process = start()
    wait_until(decider.is_heard, "its sign of life")
    decider.say("breaker-opened")
    wait_until(lambda: [notice["type"] for notice in told(toml)] == ["breaker-opened"], "the other receiver's notice")
    wait_until(lambda: decider.status is not None and bool(decider.status.note), "a note of the receiver")
    assert decider.status is not None
    assert "hook cannot be told: secret_file" in decider.status.note
    assert process.poll() is None


def test_what_the_disk_refused_is_kept_once_it_takes_it_though_nothing_new_happens(
    toml: Path, decider: Decider, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    path = toml.parent / "state" / "notifier.json"
    path.mkdir(parents=True)  # no file can take its place
    start()
    wait_until(lambda: decider.status is not None and "notifier.json cannot be written" in decider.status.note, "it")
    path.rmdir()
    wait_until(lambda: decider.status is not None and not decider.status.note, "the note to go")
    assert path.is_file() and stored(toml) == {}


def test_without_receivers_it_is_idle(
    toml: Path, decider: Decider, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    text = toml.read_text()
    toml.write_text(text[: text.index("[[notifications]]")] + text[text.index("[groups.web]") :])
    process = start()
    wait_until(decider.is_heard, "its sign of life")
    process.terminate()
    assert process.wait(20) == 0
    assert not (toml.parent / "state" / "notifier.json").exists()
