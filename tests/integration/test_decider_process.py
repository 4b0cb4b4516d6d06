"""The decider as a process, on the real bus: it decides, answers, is killed and goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus, ask
from common.clock import SystemClock
from common.config import Config
from common.errors import BusError
from common.messages import DecisionRecord, DesiredCapacity, HostSample, Member, Membership, Reply, Request, Traffic
from common.phases import Phase
from tests.faults.proof import Proof
from tests.waiting import undisturbed_s, wait_until
from tests.wall_clock import WallClock

CLOCK = SystemClock()
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]
INTERVAL_S, OUT_WINDOW_S = 0.1, 1.0
TOML = """
[system]
run_dir = "{dir}/run"
state_dir = "{dir}/state"
interval_s = {interval_s}
republish_s = 0.2
stale_after_s = 1.0
[groups.web]
prefix = "web-"
min = 1
max = 4
cooldown_in_s = {cooldown_in_s}
[[groups.web.policies]]
type = "threshold"
out_window_s = {out_window_s}
in_window_s = 1.0
"""


class Surroundings:
    """Monitor, actuator and balancer in one thread: every domain that is wanted is ready at once."""

    def __init__(self, config: Config) -> None:
        self.load = 0.5
        self.desired: list[DesiredCapacity] = []
        self.records: list[DecisionRecord] = []
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        buses = {name: Bus.open(self._config, name, CLOCK) for name in ("monitor", "actuator", "balancer")}
        buses["actuator"].subscribe("decider", "capacity.desired", "decision")
        while not self._stop.is_set():
            self._speak(buses)
            for message in buses["actuator"].receive(0.03).messages:
                if isinstance(message.body, DesiredCapacity):
                    self.desired.append(message.body)
                if isinstance(message.body, DecisionRecord):
                    self.records.append(message.body)
            buses["monitor"].receive(0.01)
            buses["balancer"].receive(0.01)
        for bus in buses.values():
            bus.close()

    def _speak(self, buses: dict[str, Bus]) -> None:
        count = self.desired[-1].desired if self.desired else 1
        names = tuple(f"web-{index:04d}" for index in range(count))
        members = tuple(
            Member(
                name=name, uuid=name, host="local", phase=Phase.READY, since_s=0, age_s=9, address="10.0.0.1", port=80
            )
            for name in names
        )
        seen = self.desired[-1].generation if self.desired else 0
        buses["monitor"].publish(
            HostSample(
                host="local",
                interval_s=0.1,
                is_reachable=True,
                names=names,
                uuids=names,
                states=("running",) * count,
                cpu_ratios=(min(self.load / count, 1.0),) * count,
                allotted_cpus=(1.0,) * count,
            )
        )
        buses["actuator"].publish(
            Membership(
                group="web", generation_seen=seen, desired_seen=None, members=members, owned_total=count, ceiling=5
            )
        )
        buses["balancer"].publish(Traffic(group="web", interval_s=0.1, is_known=True, queue=0, request_rate=1.0))


def start(path: Path, python: str | Path = sys.executable) -> subprocess.Popen[bytes]:
    command = [str(python), "-m", "services.decider", "--config", str(path)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(place: Path, cooldown_in_s: float = 1.0) -> Path:
    path = place / "autoscaler.toml"
    values = {"interval_s": INTERVAL_S, "out_window_s": OUT_WINDOW_S, "cooldown_in_s": cooldown_in_s}
    path.write_text(TOML.format(dir=place, **values), encoding="utf-8")
    return path


@pytest.fixture
def config(toml: Path) -> Config:
    return config_file.load(toml)[0]


@pytest.fixture
def around(config: Config) -> Iterator[Surroundings]:
    found = Surroundings(config)
    yield found
    found.stop()


@pytest.fixture
def decider(toml: Path, around: Surroundings) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield the list of deciders started so far; the last one runs."""
    started = [start(toml)]
    yield started
    for process in started:
        process.kill()
        process.wait(5)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def order(config: Config, verb: str, **args: str | int | float | bool | None) -> Reply:
    return ask(config, "decider", Request(verb=verb, args={"group": "web", **args}), timeout_s=PATIENCE_S)


def test_it_scales_out_explains_and_scales_in(
    config: Config, around: Surroundings, decider: list[subprocess.Popen[bytes]]
) -> None:
    wait_until(lambda: around.desired, "a first desired capacity")
    around.load = 1.5
    wait_until(lambda: around.desired[-1].desired == 2, "a scale-out")
    reply = order(config, "explain")
    assert reply.status == "applied"
    assert "what would change it:" in reply.data["text"]
    around.load = 0.1
    wait_until(lambda: around.desired[-1].desired == 1, "a scale-in")
    assert around.records[-1].evidence.domains_known > 0
    history = order(config, "history", limit=120)
    assert history.status == "applied", history.reason
    assert order(config, "scale", desired=9).status == "refused"


def test_killed_again_and_again_it_goes_on_from_what_it_had_decided(
    toml: Path, config: Config, around: Surroundings, decider: list[subprocess.Popen[bytes]]
) -> None:
    wait_until(lambda: around.desired, "a first desired capacity")
    assert order(config, "scale", desired=3).status == "applied"
    assert order(config, "pause").status == "applied"
    wait_until(lambda: around.desired[-1].desired == 3, "the operator's capacity")
    generation = around.desired[-1].generation
    since = len(around.desired)
    for instant_s in (0.0, 0.03, 0.06):  # it decides every 0.1 s and repeats itself every 0.2 s
        pause(instant_s)
        decider[-1].send_signal(signal.SIGKILL)
        decider[-1].wait(5)
        heard = len(around.desired)
        decider.append(start(toml))
        wait_until(lambda heard=heard: len(around.desired) > heard + 2, "the restarted decider")
    assert {body.desired for body in around.desired[since:]} == {3}
    assert around.desired[-1].generation == generation
    assert around.records[-1].limiter == "paused"


@pytest.mark.fault(65)
def test_it_asks_for_no_more_than_there_are_slots(
    toml: Path, config: Config, around: Surroundings, decider: list[subprocess.Popen[bytes]], row: Proof
) -> None:
    decider[-1].kill()
    decider[-1].wait(5)
    toml.write_text(f"{toml.read_text()}[haproxy]\nslots = 4\n", encoding="utf-8")
    decider.append(start(toml))
    wait_until(lambda: around.desired, "a first desired capacity")
    assert order(config, "scale", desired=4).status == "applied"
    reply = order(config, "bounds", max=5)
    assert (reply.status, reply.reason) == ("refused", "max must be <= haproxy.slots (4); got 5")
    around.load = 64.0
    since = len(around.desired)
    pause(3 * OUT_WINDOW_S)
    assert {body.desired for body in around.desired[since:] if body.desired > 3} == {4}
    row.held("four slots and any load: the decider asks for four, and refuses an order for more")


def test_a_clean_stop_ends_with_0(around: Surroundings, decider: list[subprocess.Popen[bytes]]) -> None:
    wait_until(lambda: around.desired, "a first desired capacity")
    decider[-1].terminate()
    assert decider[-1].wait(PATIENCE_S) == 0


@pytest.mark.fault(13)
def test_a_second_copy_ends_with_75_within_1_s(
    toml: Path, around: Surroundings, decider: list[subprocess.Popen[bytes]], row: Proof
) -> None:
    wait_until(lambda: around.desired, "a first desired capacity")
    begun_s = CLOCK.monotonic_s()
    second = start(toml)
    row.measured("a second decider ends", undisturbed_s(second, begun_s), at_most=1.0)
    assert second.wait() == 75
    assert decider[-1].poll() is None
    around.load = 1.5
    wait_until(lambda: around.desired[-1].desired == 2, "a scale-out")
    row.held("with code 75; the first decider scales out")


@pytest.mark.fault(9)
def test_stopped_for_a_while_it_watches_again_before_it_acts(
    around: Surroundings, decider: list[subprocess.Popen[bytes]], row: Proof
) -> None:
    wait_until(lambda: around.records, "a first record")
    decider[-1].send_signal(signal.SIGSTOP)
    around.load = 3.5
    stopped_s = row.lasts_s(60.0)
    pause(stopped_s)  # the fault is its length: longer than stale_after_s
    assert around.desired[-1].desired == 1
    begin_s = CLOCK.monotonic_s()
    decider[-1].send_signal(signal.SIGCONT)
    wait_until(lambda: around.desired[-1].desired == 2, "a scale-out after a new window")
    assert CLOCK.monotonic_s() - begin_s >= OUT_WINDOW_S - INTERVAL_S  # a sample tells of the interval before it
    row.held(f"stopped for {stopped_s:.0f} s of overload it watches for one window before it acts, and takes one step")


@pytest.mark.fault(9)
def test_what_waited_for_a_stopped_decider_is_dropped(
    around: Surroundings, decider: list[subprocess.Popen[bytes]], row: Proof
) -> None:
    wait_until(lambda: around.records, "a first record")
    generation = around.desired[-1].generation
    decider[-1].send_signal(signal.SIGSTOP)
    around.load = 3.5
    pause(2 * OUT_WINDOW_S)  # a whole window of overload waits for it …
    around.load = 0.5
    pause(2 * INTERVAL_S)  # … and the calm after it
    told = len(around.desired)
    decider[-1].send_signal(signal.SIGCONT)
    wait_until(lambda: len(around.desired) >= told + 12, "its words of two windows")  # it repeats them each 0.2 s
    assert {(body.desired, body.generation) for body in around.desired} == {(1, generation)}
    around.load = 1.5
    wait_until(lambda: around.desired[-1].desired == 2, "a scale-out")
    row.held("a window full of overload that waited for it decides nothing; the next one does")


def killed_and_started(toml: Path, around: Surroundings, decider: list[subprocess.Popen[bytes]]) -> float:
    """Kill the decider and start the next one; return when that was, in monotonic seconds.

    What the killed one had said and nobody had read yet arrives after its death: only the next one's records are kept.
    """
    decider[-1].kill()
    decider[-1].wait(5)
    at_s = CLOCK.monotonic_s()
    decider.append(start(toml))
    wait_until(lambda: around.records and around.records[-1].now_s >= at_s, "a word of the next one")
    del around.records[: next(i for i, record in enumerate(around.records) if record.now_s >= at_s)]
    return at_s


@pytest.mark.fault(2)
def test_killed_during_an_overload_it_watches_one_window_before_it_acts(
    toml: Path, around: Surroundings, decider: list[subprocess.Popen[bytes]], row: Proof
) -> None:
    around.load = 3.5
    wait_until(lambda: around.desired and around.desired[-1].desired == 2, "a scale-out")
    started_s = killed_and_started(toml, around, decider)
    assert around.desired[-1].desired == 2
    row.held("until the next one has watched, the size stays")
    out = wait_until(lambda: next((r for r in around.records if r.action == "out"), None), "a further scale-out")
    first = around.records[0]
    began_s = first.now_s - first.evidence.out_window_filled_s
    assert began_s >= started_s - INTERVAL_S, "its window began before it did"
    assert out.now_s - began_s >= OUT_WINDOW_S - INTERVAL_S  # a sample tells of the interval before it
    row.held(f"it watches for {out.now_s - began_s:.1f} s, a window of {OUT_WINDOW_S:g} s, before it acts")


@pytest.mark.fault(2)
def test_a_cool_down_goes_on_over_the_end_of_its_decider(tmp_path: Path, row: Proof) -> None:
    cooldown_s = 60.0
    toml = write(tmp_path, cooldown_in_s=cooldown_s)
    around = Surroundings(config_file.load(toml)[0])
    around.load = 1.5
    decider = [start(toml)]
    try:
        out = wait_until(lambda: next((r for r in around.records if r.action == "out"), None), "a scale-out")
        around.load = 0.1
        killed_and_started(toml, around, decider)
        at_s, left_s = cooling(around)
        passed_s = at_s - out.now_s
        assert passed_s > 1.0, "a cool-down that began anew would look the same"
        assert abs(passed_s + left_s - cooldown_s) <= 2 * INTERVAL_S + 0.5  # it is told in whole seconds
        row.held(
            f"{passed_s:.1f} s after a scale-out the next one has {left_s:g} s left of a cool-down of {cooldown_s:g} s"
        )
    finally:
        for process in decider:
            process.kill()
            process.wait(5)
        around.stop()


def cooling(around: Surroundings) -> tuple[float, float]:
    """Return when the newest record is from, and what it says is left of the cool-down, both in seconds."""
    record = wait_until(lambda: next((r for r in around.records if r.limiter == "cooldown"), None), "a cool-down")
    return record.now_s, float(record.limiter_text.split(" s left of the cooldown")[0])


@pytest.mark.fault(16)
@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_ends_no_cool_down_and_holds_up_no_decision(
    tmp_path: Path, jump_s: float, row: Proof
) -> None:
    toml, clock = write(tmp_path, cooldown_in_s=60.0), WallClock(tmp_path / "clock")
    around = Surroundings(config_file.load(toml)[0])
    around.load = 1.5
    process = start(toml, clock.python)
    try:
        wait_until(lambda: any(record.action == "out" for record in around.records), "a scale-out")
        around.load = 0.1
        (at_s, left_s), told_s = cooling(around), around.records[-1].at_s
        clock.jump(jump_s)
        wait_until(lambda: abs(around.records[-1].at_s - told_s - jump_s) < 600, "the time that it tells to jump")
        around.records.clear()
        after_s, still_s = cooling(around)
        assert abs((left_s - still_s) - (after_s - at_s)) < 1.0
        row.held(f"jump by {jump_s:+.0f} s: {left_s:g} s of a cool-down are left before, {still_s:g} s after it")
        around.load = 3.5
        wait_until(lambda: around.desired[-1].desired == 3, "a further scale-out")
        row.held("the next scale-out is decided")
    finally:
        process.kill()
        process.wait(5)
        around.stop()


def test_a_decider_that_is_stopped_is_named_with_its_process_and_not_a_word_about_keys(toml: Path) -> None:
    config, _ = config_file.load(toml)
    process = start(toml)
    try:
        wait_until(lambda: (Path(config.system.run_dir) / "control-decider.sock").exists(), "its door", PATIENCE_S)
        wait_until(lambda: asked(config, "explain") is not None, "its first answer", PATIENCE_S)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(BusError) as told:
            ask(config, "decider", Request(verb="explain", args={"group": "web"}), 4.0)
        where = f"ipc://{config.system.run_dir}/control-decider.sock"
        assert str(told.value) == f"decider (pid {process.pid}) runs, but does not answer at {where} within 4 s"
    finally:
        process.kill()
        process.wait()
    with pytest.raises(BusError, match="decider does not answer at ipc"):
        ask(config, "decider", Request(verb="explain", args={"group": "web"}), 0.2)


def asked(config: Config, verb: str) -> Reply | None:
    try:
        return ask(config, "decider", Request(verb=verb, args={"group": "web"}), 1.0)
    except BusError:
        return None


def test_what_a_decider_keeps_is_written_again_where_its_state_directory_was_removed(toml: Path) -> None:
    config, _ = config_file.load(toml)
    surroundings, process = Surroundings(config), start(toml)
    state = config.system.state_path
    try:
        wait_until(lambda: (state / "decider.json").is_file(), "what it keeps", PATIENCE_S)
        kept, run = (state / "decider.json").read_bytes(), (state / "decider.run").read_bytes()
        surroundings.load = 0.5
        shutil.rmtree(state)
        wait_until(lambda: (state / "decider.json").is_file(), "what it keeps, once more", 60.0)
        wait_until(lambda: (state / "decider.run").is_file(), "its counter of runs", PATIENCE_S)
        assert json.loads(kept).keys() == json.loads((state / "decider.json").read_bytes()).keys()
        assert (state / "decider.run").read_bytes() == run
        assert state.stat().st_mode & 0o777 == 0o711
    finally:
        surroundings.stop()
        process.kill()
        process.wait()


def test_runs_go_on_growing_over_a_reboot_though_the_clock_was_set_back(toml: Path) -> None:
    config, _ = config_file.load(toml)
    run, state = Path(config.system.run_dir), config.system.state_path
    state.mkdir(parents=True)
    ahead = int(CLOCK.epoch_s()) + 8 * 86400
    (state / "decider.run").write_text(f"{ahead}\n")  # of a run before the clock was set back; run_dir was in memory
    for expected in (ahead + 1, ahead + 2):
        process = start(toml)
        try:
            wait_until(lambda: asked(config, "explain") is not None, "its first answer", PATIENCE_S)
            assert (int((run / "decider.run").read_text()), int((state / "decider.run").read_text())) == (
                expected,
                expected,
            )
        finally:
            process.kill()
            process.wait()
        shutil.rmtree(run)
