"""A service as a real process: its exit codes, its lock, its death."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import config_file, life
from common.bus import Bus, ask
from common.clock import SystemClock, boot_id
from common.config import Config
from common.messages import Event, Request, ServiceStatus
from tests.faults.proof import Proof
from tests.waiting import undisturbed_s

CLOCK = SystemClock()
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]
SERVICE = '''
import os, resource, sys, threading
from common.messages import Event, Reply
from common.process import Context, main

class Probe:
    """A service that does what a request tells it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        if "cannot-build" in sys.argv[0]:
            raise RuntimeError("no room")

    def step(self, inbox, now_s):
        for pending in inbox.requests:
            pending.reply(Reply(status="applied"))
            getattr(self, pending.request.verb.replace("-", "_"))()
        return 30.0

    def ping(self): pass
    def fail(self): raise RuntimeError("on purpose")
    def return_nan(self): self.step = lambda inbox, now_s: float("nan")
    def event(self): self.context.bus.publish(Event(name="probe"))
    def fail_in_thread(self): threading.Thread(target=self.fail, name="worker").start()
    def hang_a_thread(self): threading.Thread(target=threading.Event().wait, name="stuck").start()

    def eat_memory(self):
        resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))
        self.eaten = bytearray(1_000_000_000)

    def eat_descriptors(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        self.eaten = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]

    def leak_descriptors(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        threading.Thread(target=self.take, daemon=True).start()

    def take(self):
        self.eaten = []
        while True:
            try:
                self.eaten.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                threading.Event().wait(0.01)

    def close(self): print("closed", flush=True)

raise SystemExit(main("decider", Probe))
'''
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(
        f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}"\nrepublish_s = 0.2\n'
        '[groups.web]\nprefix = "web-"\n'
    )
    return path


@pytest.fixture
def config(config_path: Path) -> Config:
    return config_file.load(config_path)[0]


@pytest.fixture
def start(tmp_path: Path, config_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def start_one(script: str = "probe.py", **environment: str) -> "subprocess.Popen[str]":
        (tmp_path / script).write_text(SERVICE)
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / script), "--config", str(config_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )
        running.append(process)
        return process

    yield start_one
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]", within_s: float = PATIENCE_S) -> tuple[int, list[dict[str, Any]], str]:
    """Return the exit code, the log's events and what was printed."""
    out, err = process.communicate(timeout=within_s)
    return process.returncode, [json.loads(line) for line in err.splitlines() if line.startswith("{")], out


def do(config: Config, verb: str) -> None:
    assert ask(config, "decider", Request(verb=verb), PATIENCE_S).status == "applied"


def watch(config: Config) -> Bus:
    bus = Bus.open(config, "operator", CLOCK, publishes=False)
    bus.subscribe("decider")
    return bus


def next_status(bus: Bus, pid: int, within_s: float = PATIENCE_S) -> ServiceStatus:
    deadline_s = CLOCK.monotonic_s() + within_s
    while CLOCK.monotonic_s() < deadline_s:
        for received in bus.receive(0.1).messages:
            if isinstance(received.body, ServiceStatus) and received.body.pid == pid:
                return received.body
    raise AssertionError(f"process {pid} tells nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_code_0(config: Config, start: Start, number: signal.Signals) -> None:
    process = start()
    do(config, "ping")
    process.send_signal(number)
    code, events, out = end(process, within_s=4.0)
    assert (code, out) == (0, "closed\n")
    assert [event["event"] for event in events] == ["service-started", "service-stopped"]


def test_its_own_loop_tells_that_it_lives(config: Config, start: Start) -> None:
    process, bus = start(), watch(config)
    first = next_status(bus, process.pid)
    second = next_status(bus, process.pid)
    bus.close()
    assert first.name == "decider"
    assert second.counters["published"] > first.counters.get("published", 0)
    assert first.config_digest


@pytest.mark.fault(13)
def test_a_second_copy_exits_with_75_within_1_s_of_its_start_and_the_first_goes_on(
    config: Config, start: Start, row: Proof
) -> None:
    first = start()
    do(config, "ping")
    begun_s = CLOCK.monotonic_s()
    second = start()
    row.measured("a second copy ends", undisturbed_s(second, begun_s), at_most=1.0)
    code, events, _ = end(second)
    assert code == 75
    assert f"process {first.pid} holds" in events[-1]["reason"]
    do(config, "ping")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[groups.web]\nprefix = 'web-'\nmin = 5\nmax = 4\n", ":1: groups.web: min must be <= max (4); got 5"),
        ("[groups.web\n", "not valid TOML"),
        ("", "groups: is required and missing"),
    ],
)
def test_a_wrong_configuration_exits_with_2_and_says_why(
    config_path: Path, start: Start, text: str, reason: str
) -> None:
    config_path.write_text(text)
    code, events, _ = end(start())
    assert code == 2
    assert reason in events[-1]["reason"]


def test_a_missing_configuration_exits_with_2_and_names_the_file(config_path: Path, start: Start) -> None:
    config_path.unlink()
    code, events, _ = end(start())
    assert code == 2
    assert f"{config_path}: cannot be read: No such file" in events[-1]["reason"]


def test_a_wrong_command_line_exits_with_2(start: Start, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(SERVICE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "probe.py"), "--bogus"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2
    assert "--bogus" in done.stderr


@pytest.mark.parametrize(
    ("verb", "event", "trace"),
    [
        ("fail", "service-failed", "RuntimeError: on purpose"),
        ("fail-in-thread", "thread-failed", "RuntimeError: on purpose"),
        ("eat-memory", "service-failed", "MemoryError"),
        ("eat-descriptors", "service-failed", "Too many open files"),
        ("leak-descriptors", "service-failed", "Too many open files"),
    ],
)
@pytest.mark.fault(15)
def test_what_is_unexpected_is_logged_whole_and_ends_it_with_1(
    config: Config, start: Start, verb: str, event: str, trace: str, row: Proof
) -> None:
    process = start()
    do(config, verb)
    code, events, out = end(process)
    assert code == 1
    (told,) = [e for e in events if e["event"] == event]
    assert trace in told["exception"]
    assert out == "closed\n"
    row.held(f"{verb}: it ends with code 1 and {trace!r}")


def test_a_step_that_returns_no_time_ends_it(config: Config, start: Start) -> None:
    process = start()
    do(config, "return-nan")
    code, events, _ = end(process)
    assert code == 1
    assert "step must return seconds; got nan" in events[-1]["exception"]


def test_a_service_that_cannot_be_built_exits_with_1_and_lets_go_of_the_lock(config: Config, start: Start) -> None:
    code, events, _ = end(start("cannot-build.py"))
    assert code == 1
    assert "RuntimeError: no room" in events[-1]["exception"]
    start()
    do(config, "ping")


def test_a_thread_that_never_ends_does_not_keep_it_half_alive(config: Config, start: Start) -> None:
    process = start()
    do(config, "hang-a-thread")
    process.terminate()
    code, events, _ = end(process, within_s=5.0)
    assert code == 0
    assert events[-1]["threads"] == ["stuck"]


def test_after_kill_9_the_next_run_is_heard_at_once(config: Config, start: Start) -> None:
    first, bus = start(), watch(config)
    next_status(bus, first.pid)
    first.kill()
    first.wait()
    second = start()
    next_status(bus, second.pid)
    bus.close()
    assert bus.counters["replayed"] == 0


@pytest.fixture
def listener(config: Config) -> Iterator[Bus]:
    bus = watch(config)
    yield bus
    bus.close()


def restarts(bus: Bus, config: Config) -> list[Event]:
    """Return what is told of restarts before the service has said something that it was asked to say afterwards."""
    found: list[Event] = []
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    while CLOCK.monotonic_s() < deadline_s:
        do(config, "event")  # again and again: it is lost until the listener has found the new process
        events = [received.body for received in bus.receive(0.2).messages if isinstance(received.body, Event)]
        found += [event for event in events if event.name == "service-restarted"]
        if any(event.name == "probe" for event in events):
            return found
    raise AssertionError("what came afterwards was not heard")


def test_after_kill_9_the_next_run_tells_it_to_those_who_listen_and_to_those_who_come_later(
    config: Config, start: Start, listener: Bus
) -> None:
    first = start()
    next_status(listener, first.pid)
    first.kill()
    first.wait()
    start()
    (told,) = restarts(listener, config)
    said = f"decider runs again. Its last run (process {first.pid}) did not end by itself: it was killed, or crashed; "
    assert told.text.startswith(f"{said}last known to live at ")
    assert told.level == "warning"
    late = watch(config)
    try:
        assert restarts(late, config) == [told]
    finally:
        late.close()


def test_one_that_failed_says_of_what(config: Config, start: Start, listener: Bus) -> None:
    first = start()
    next_status(listener, first.pid)
    do(config, "fail-in-thread")
    assert end(first)[0] == 1
    start()
    (told,) = restarts(listener, config)
    assert "(thread worker: RuntimeError: on purpose)" in told.text


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "another boot"])
def test_after_an_orderly_end_nothing_is_told(config: Config, start: Start, listener: Bus, how: str) -> None:
    first = start()
    next_status(listener, first.pid)
    first.send_signal(signal.SIGKILL if how == "another boot" else getattr(signal, how))
    first.wait()
    if how == "another boot":
        mark = life.place(config.system.run_path, "decider")
        mark.write_text(mark.read_text().replace(boot_id(), "before"))
    start()
    assert restarts(listener, config) == []


def test_a_frozen_service_is_noticed_and_heard_again_when_it_thaws(config: Config, start: Start) -> None:
    process, bus = start(), watch(config)
    next_status(bus, process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    while bus.receive(2.5).messages:  # 2.5 s: longer than the heartbeat's patience of 1.5 s
        pass
    os.kill(process.pid, signal.SIGCONT)
    next_status(bus, process.pid)
    bus.close()
    assert process.poll() is None


@pytest.mark.fault(8)
def test_it_dies_with_its_supervisor(
    config: Config, start: Start, tmp_path: Path, config_path: Path, row: Proof
) -> None:
    (tmp_path / "probe.py").write_text(SERVICE)
    command = [sys.executable, str(tmp_path / "probe.py"), "--config", str(config_path)]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SUPERVISOR_ENABLED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    do(config, "ping")
    child = int((config.system.run_path / "decider.lock").read_text())
    parent.kill()
    try:
        assert (
            parent.communicate(timeout=PATIENCE_S)[0] == "closed\n"
        )  # ends only when the child has closed its end too
        row.held("a service ends cleanly with its supervisor")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_without_a_supervisor_it_outlives_its_parent(
    config: Config, start: Start, tmp_path: Path, config_path: Path
) -> None:
    (tmp_path / "probe.py").write_text(SERVICE)
    command = [sys.executable, str(tmp_path / "probe.py"), "--config", str(config_path)]
    environment = {key: value for key, value in os.environ.items() if key != "SUPERVISOR_ENABLED"}
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess; print(subprocess.Popen({command!r}, stdout=2).pid, flush=True); input()",
        ],
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        do(config, "ping")  # it is up, and would have asked to die with its parent
        parent.kill()
        parent.communicate()
        do(config, "ping")
        do(config, "ping")  # who is told to end answers once at most
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
