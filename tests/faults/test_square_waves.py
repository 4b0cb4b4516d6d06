"""Row 35: the decider as a process on the real bus, fed with square waves of several periods, a group for each.

Everything runs ten times as fast as by default, the interval of a tick as the windows, the cool-downs and the memory of
a lesson: an hour of the row is six minutes here. The waves repeat themselves, and so does what is decided on them while
the lesson of the first mistake lasts: so a part of the hour shows the whole, as far as the lesson lasts to its end.
"""

import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config
from common.messages import DecisionRecord, HostSample, Member, Membership, Traffic
from common.phases import Phase
from tests.faults.proof import Proof
from tests.integration.test_decider_process import start
from tests.waiting import wait_until

CLOCK = SystemClock()
FASTER = 10
INTERVAL_S, IN_WINDOW_TICKS = 1.0 / FASTER, 30
HOUR_S = 3600.0 / FASTER
LOW, HIGH = 0.2, 1.5  # CPUs asked for: one domain is too many by far, then too few
PERIODS = {  # in ticks
    "w2": 2,
    "w5": 5,
    "w15": IN_WINDOW_TICKS // 2,
    "w21": 21,
    "w30": IN_WINDOW_TICKS,
    "w45": 45,
    "w60": 2 * IN_WINDOW_TICKS,
}
SYSTEM = """
[system]
run_dir = "{dir}/run"
state_dir = "{dir}/state"
interval_s = {interval_s}
republish_s = 0.2
stale_after_s = 1.0
"""
GROUP = """
[groups.{name}]
prefix = "{name}-"
endpoint = "127.0.0.1:{port}"
min = 1
max = 4
cooldown_out_s = {cooldown_out_s}
cooldown_in_s = {cooldown_in_s}
patience_s = {hour_s}
patience_memory_s = {hour_s}
[[groups.{name}.policies]]
type = "threshold"
out_window_s = {out_window_s}
in_window_s = {in_window_s}
"""


class Waves:
    """Monitor, actuator and balancer in one thread: what is wanted is ready at once, and each group has its wave."""

    def __init__(self, config: Config) -> None:
        self.ticks = 0
        self.records: defaultdict[str, list[DecisionRecord]] = defaultdict(list)
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Waves":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def count(self, group: str) -> int:
        """Return how many domains the group has now."""
        return self.records[group][-1].desired_after if self.records[group] else 1

    def _run(self) -> None:
        buses = {name: Bus.open(self._config, name, CLOCK) for name in ("monitor", "actuator", "balancer")}
        buses["actuator"].subscribe("decider", "decision")
        due_s = CLOCK.monotonic_s()
        while not self._stop.is_set():
            self._speak(buses)
            self.ticks += 1
            due_s += INTERVAL_S
            while (left_s := due_s - CLOCK.monotonic_s()) > 0:
                for message in buses["actuator"].receive(left_s).messages:
                    if isinstance(message.body, DecisionRecord):
                        self.records[message.body.group].append(message.body)
            buses["monitor"].receive(0)
            buses["balancer"].receive(0)
        for bus in buses.values():
            bus.close()

    def _speak(self, buses: dict[str, Bus]) -> None:
        names, ratios = [], []
        for group, period in PERIODS.items():
            cpus = HIGH if self.ticks % period >= period / 2 else LOW
            own = tuple(f"{group}-{index:04d}" for index in range(self.count(group)))
            names += own
            ratios += [min(cpus / len(own), 1.0)] * len(own)
            buses["actuator"].publish(membership(group, own))
            buses["balancer"].publish(
                Traffic(group=group, interval_s=INTERVAL_S, is_known=True, queue=0, request_rate=1.0)
            )
        buses["monitor"].publish(
            HostSample(
                host="local",
                interval_s=INTERVAL_S,
                is_reachable=True,
                names=tuple(names),
                uuids=tuple(names),
                states=("running",) * len(names),
                cpu_ratios=tuple(ratios),
                allotted_cpus=(1.0,) * len(names),
            )
        )


def membership(group: str, names: tuple[str, ...]) -> Membership:
    """Return the membership of a group whose domains have all been ready for a while."""
    members = tuple(
        Member(name=name, uuid=name, host="local", phase=Phase.READY, since_s=0, age_s=9, address="10.0.0.1", port=80)
        for name in names
    )
    return Membership(
        group=group, generation_seen=0, desired_seen=None, members=members, owned_total=len(names), ceiling=5
    )


@pytest.fixture
def waves(tmp_path: Path) -> Iterator[Waves]:
    """Return the waves that a decider is fed with."""
    path = tmp_path / "autoscaler.toml"
    text = SYSTEM.format(dir=tmp_path, interval_s=INTERVAL_S)
    for number, name in enumerate(PERIODS):
        text += GROUP.format(
            name=name,
            port=18700 + number,
            hour_s=HOUR_S,
            cooldown_out_s=5.0 / FASTER,
            cooldown_in_s=30.0 / FASTER,
            out_window_s=5.0 / FASTER,
            in_window_s=IN_WINDOW_TICKS * INTERVAL_S,
        )
    path.write_text(text, encoding="utf-8")
    with Waves(config_file.load(path)[0]) as waves:
        process: subprocess.Popen[bytes] = start(path)
        try:
            yield waves
        finally:
            process.kill()
            process.wait(5)


@pytest.mark.fault(35)
def test_square_waves_turn_a_group_at_most_twice_an_hour(waves: Waves, row: Proof) -> None:
    lasts_s = row.lasts_s(HOUR_S)
    wait_until(lambda: len(waves.records) == len(PERIODS), "a decision for every group")
    begun_s = CLOCK.monotonic_s()
    wait_until(lambda: CLOCK.monotonic_s() - begun_s >= lasts_s, "the waves to last", 2 * lasts_s, every_s=1.0)
    turns = dict.fromkeys(PERIODS, 0)
    for name, period in PERIODS.items():
        records = waves.records[name]
        changes = [r for r in records if r.action != "hold"]
        turns[name] = sum(before.action != after.action for before, after in pairwise(changes))
        print(f"  {name}: {[(round(r.now_s - records[0].now_s, 1), r.desired_after) for r in changes]}")
        if any(r.action == "in" for r in changes):
            last = records[-1]
            assert last.patience_s > period / 2 * INTERVAL_S, "a calm of the wave is too short for the next scale-in"
            assert last.patience_left_s >= HOUR_S - (last.now_s - changes[0].now_s) - INTERVAL_S
    assert any(r.action == "in" for records in waves.records.values() for r in records), "a wave that misleads"
    row.measured(
        f"most changes of direction of {len(PERIODS)} waves, {lasts_s / HOUR_S:.2f} of an hour, {FASTER} times as fast",
        max(turns.values()),
        at_most=2,
        unit="",
    )
    row.held("what a wave taught lasts to the end of the hour, and is longer than each of its calms")
