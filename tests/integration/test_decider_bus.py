"""The decider as a process behind a bus that loses, repeats, reorders and spoils messages, or speaks other versions."""

import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config
from common.messages import PROTOCOL_VERSION, DecisionRecord, DesiredCapacity, ServiceStatus
from tests.faults.proof import Proof
from tests.integration.relay import Fate, Frames, Relay, intact, lost
from tests.integration.test_decider_process import Surroundings, order, start
from tests.older_release import frames_as_sent_then
from tests.waiting import wait_until

CLOCK = SystemClock()
OTHERS = ("monitor", "actuator", "balancer")
TICK_S = 0.2
TOML = """
[system]
run_dir = "{dir}/{side}"
state_dir = "{dir}/{side}-state"
interval_s = {tick_s}
republish_s = {tick_s}
stale_after_s = {stale_after_s}
[groups.web]
prefix = "web-"
min = 1
max = 4
cooldown_in_s = {window_s}
cooldown_out_s = {window_s}
[[groups.web.policies]]
type = "threshold"
out_window_s = {window_s}
in_window_s = {window_s}
"""


class Seen:
    """What the decider publishes, read at its own door: every record in order, and its newest status."""

    def __init__(self, config: Config) -> None:
        self.records: list[DecisionRecord] = []
        self.status: ServiceStatus | None = None
        self._bus = Bus.open(config, "operator", CLOCK, publishes=False)
        self._bus.keep_every_message()
        self._bus.subscribe("decider", "decision", "service")

    def look(self) -> list[DecisionRecord]:
        """Return all records so far."""
        for message in self._bus.receive(0.0).messages:
            if isinstance(message.body, DecisionRecord):
                self.records.append(message.body)
            if isinstance(message.body, ServiceStatus):
                self.status = message.body
        return self.records

    def newest(self) -> DecisionRecord | None:
        found = self.look()
        return found[-1] if found else None

    def size(self) -> int:
        """Return the newest desired capacity, 0 before the first one."""
        newest = self.newest()
        return newest.desired_after if newest else 0

    def limiter(self) -> str:
        """Return what kept the newest decision from more."""
        newest = self.newest()
        return newest.limiter if newest else ""

    def count(self, counter: str) -> int:
        self.look()
        return self.status.counters.get(counter, 0) if self.status else 0

    def await_ticks(self, count: int) -> list[DecisionRecord]:
        """Return the records of the next so many ticks."""
        begin = len(self.look())
        wait_until(lambda: len(self.look()) >= begin + count, f"{count} ticks")
        return self.records[begin : begin + count]

    def close(self) -> None:
        self._bus.close()


class Behind:
    """A decider whose messages, both ways, go through a relay; the other services are played by the test."""

    def __init__(self, config: Config, around: Surroundings, relay: Relay, process: "subprocess.Popen[bytes]") -> None:
        self.config, self.around, self.relay, self.process = config, around, relay, process
        self.seen = Seen(config)


@contextmanager
def behind(
    place: Path,
    around: Callable[[Config], Surroundings] = Surroundings,
    fate: Fate = intact,
    tick_s: float = TICK_S,
    window_s: float = 1.0,
    stale_after_s: float | None = None,
) -> Iterator[Behind]:
    """Run a decider, with what it hears and says passed on by a relay."""
    configs = {}
    for side in ("near", "far"):
        path = place / f"{side}.toml"
        values = {"tick_s": tick_s, "window_s": window_s, "stale_after_s": stale_after_s or 3.5 * tick_s}
        place.mkdir(exist_ok=True)
        path.write_text(TOML.format(dir=place, side=side, **values), encoding="utf-8")
        configs[side] = config_file.load(path)[0]
    near, far = (config.system.run_path for config in (configs["near"], configs["far"]))
    homes = dict.fromkeys(OTHERS, (far, near)) | {"decider": (near, far)}
    with ExitStack() as stack:
        relay = stack.enter_context(Relay(homes, fate))
        surroundings = around(configs["far"])
        stack.callback(surroundings.stop)
        process = start(place / "near.toml")
        stack.callback(process.wait, 5)
        stack.callback(process.kill)
        found = Behind(configs["near"], surroundings, relay, process)
        stack.callback(found.seen.close)
        yield found


# --- loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(18)
def test_without_samples_nothing_is_scaled_in_after_3_ticks(tmp_path: Path, row: Proof) -> None:
    with behind(tmp_path, window_s=2 * TICK_S) as it:
        wait_until(lambda: it.seen.size() == 1, "a first decision")
        assert order(it.config, "scale", desired=4).status == "applied"
        it.around.load = 0.1
        wait_until(lambda: it.seen.size() == 4, "the operator's capacity")
        wait_until(lambda: it.seen.size() == 3, "the first of several scale-ins")
        it.relay.fate = lost("monitor")
        records = it.seen.await_ticks(25)
        last = max((n for n, each in enumerate(records) if has_sample(each)), default=-1)
        assert last < 5, "samples came on"
        shrinks = [n for n, each in enumerate(records) if each.action == "in" and n > last]
        row.measured("the last scale-in, in ticks without samples", max(shrinks, default=last) - last, 3, "")
        silent = records[last + 5 :]
        assert {(each.action, each.limiter) for each in silent} == {("hold", "stale-data")}
        assert it.seen.size() > 1
        row.held(f"{len(silent)} ticks without figures, time for {len(silent) // 4} scale-ins: none")
        it.relay.fate = intact
        wait_until(lambda: it.seen.limiter() != "stale-data", "figures, now that samples come again")


def has_sample(record: DecisionRecord) -> bool:
    return any("/sample." in taken.id for taken in record.taken)


# --- 30 % of all messages ---------------------------------------------------------------------------------------------

PACE_S = 0.25
STEPS = ((0, 0.5), (10, 1.3), (20, 2.2), (30, 0.9), (40, 0.3))  # from this beat on, this load


class Lossy:
    """Loses 30 % of all messages, and tells others twice, or after their successors; ``seed`` decides which.

    Of one topic no three in a row are lost or late: that would be a gap, after which a window begins anew.
    """

    def __init__(self, seed: int) -> None:
        self.fates: Counter[str] = Counter()
        self._seed = seed
        self._dice: dict[bytes, random.Random] = {}
        self._late: dict[bytes, Frames] = {}
        self._missed: Counter[bytes] = Counter()

    def __call__(self, _service: str, frames: Frames) -> list[Frames]:
        topic = frames[0]
        dice = self._dice.setdefault(topic, random.Random(f"{self._seed} {topic!r}"))
        fate = dice.choices(("lost", "late", "doubled", "whole"), (0.36, 0.06, 0.15, 0.43))[0]
        if self._missed[topic] == 2 and fate in ("lost", "late"):
            fate = "whole"
        self._missed[topic] = self._missed[topic] + 1 if fate in ("lost", "late") else 0
        self.fates[fate] += 1
        before = self._late.pop(topic, None)
        if fate == "late":
            self._late[topic] = frames
        arriving = [frames] * {"lost": 0, "late": 0, "doubled": 2, "whole": 1}[fate]
        return [*arriving, before] if before else arriving


class Paced(Surroundings):
    """Speaks once a tick, half a tick after the decider's; the load changes at the beats of ``STEPS``."""

    def __init__(self, config: Config) -> None:
        self.beats: list[int] = []
        super().__init__(config)

    def _run(self) -> None:
        buses = {name: Bus.open(self._config, name, CLOCK) for name in OTHERS}
        buses["actuator"].subscribe("decider", "capacity.desired", "decision")
        beat, due_s = -1, CLOCK.monotonic_s()
        while not self._stop.is_set():
            if CLOCK.monotonic_s() >= due_s:
                self.load = [load for at, load in STEPS if at <= max(beat, 0)][-1]
                self._speak(buses)
                self.beats.append(beat)
                beat, due_s = (beat + 1 if beat >= 0 else beat), due_s + PACE_S
            for name, bus in buses.items():
                for message in bus.receive(0.005).messages:
                    if isinstance(message.body, DesiredCapacity):
                        self.desired.append(message.body)
                    if isinstance(message.body, DecisionRecord) and beat < 0 and name == "actuator":
                        beat, due_s = 0, message.body.now_s + 1.5 * PACE_S
        for bus in buses.values():
            bus.close()


def heard_for(it: Behind, record: DecisionRecord) -> list[int]:
    """Return the beats whose samples the decider took in for this decision."""
    assert isinstance(it.around, Paced)
    seqs = [int(taken.id.rsplit("/", 1)[1]) for taken in record.taken if "/sample." in taken.id]
    return [it.around.beats[seq - 1] for seq in seqs]


def changes(it: Behind) -> list[tuple[int, int]]:
    """Return each change of size, and the newest beat that the decider had heard of then."""
    newest, found = -1, []
    for record in it.seen.look():
        newest = max([newest, *heard_for(it, record)])
        if record.action != "hold":
            found.append((record.desired_after, newest))
    return found


@pytest.mark.fault(19)
def test_with_30_percent_lost_the_decisions_are_the_same_and_as_late_as_their_windows(
    tmp_path: Path, row: Proof
) -> None:
    """A window begins with the first sample after the change that is heard, and ends with one that is heard."""
    lossy = {"seed 1": Lossy(1), "seed 2": Lossy(2)}
    fates: dict[str, Fate] = {"whole": intact, **lossy}
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(behind(tmp_path / name[-1], Paced, fate, PACE_S, window_s=4.5 * PACE_S))
            for name, fate in fates.items()
        }
        for name, it in made.items():
            wait_until(
                lambda it=it: len(changes(it)) == 4 or max(it.around.beats, default=0) > 60, f"decisions, {name}"
            )
        whole = changes(made.pop("whole"))
        for name, it in made.items():
            found, counted = changes(it), lossy[name].fates
            heard = sorted(beat for record in it.seen.look() for beat in heard_for(it, record))
            print(f"  {name}: {found} instead of {whole}; {dict(counted)}")
            assert [size for size, _ in found] == [size for size, _ in whole] == [2, 3, 2, 1]
            extra = []
            for (begin, _), (_, beat), (_, other) in zip(STEPS[1:], found, whole, strict=True):
                begun_late = next(at for at in heard if at >= begin) - begin
                extra.append(beat - next(at for at in heard if at >= other + begun_late))
            assert min(extra) >= -1
            shares = {kind: counted[kind] / counted.total() for kind in ("lost", "doubled", "late")}
            assert shares["lost"] >= 0.27
            told = "{lost:.0%} lost, {doubled:.0%} doubled, {late:.0%} out of order".format(**shares)
            late = max(beat - other for (_, beat), (_, other) in zip(found, whole, strict=True))
            row.held(f"{told}: the same {len(found)} decisions, at most {late} ticks late")
            row.measured("ticks beyond the arrival of a window's first and last sample", max(extra), 1, "")
            gaps = wait_until(lambda it=it: it.seen.count("gaps"), "a count of gaps")
            assert gaps >= 30
            row.held(f"the gap counter stands at {gaps}")


# --- what is no message, and other versions ---------------------------------------------------------------------------


def spoiled(frames: Frames, header: dict[str, Any] | None = None, **body: Any) -> Frames:
    """Return the message with some of its values replaced or added."""
    values = msgpack.unpackb(frames[1])
    values["header"] |= header or {}
    values["body"] |= body
    return [frames[0], msgpack.packb(values)]


@pytest.mark.fault(21)
def test_a_decider_lives_on_among_spoiled_messages_in_bounded_memory(
    tmp_path: Path, row: Proof, capfd: pytest.CaptureFixture[str]
) -> None:
    with behind(tmp_path) as it:
        wait_until(lambda: it.seen.size() == 1, "a first decision")
        sample, traffic = it.relay.heard["monitor"][-1], it.relay.heard["balancer"][-1]
        bad = [
            [sample[0], sample[1][:-5]],
            [sample[0], b"\xc1"],
            [b"nonsense", sample[1]],
            spoiled(sample, {"version": PROTOCOL_VERSION + 1}),
            spoiled(sample, cpu_ratios=[float("nan")]),
            spoiled(sample, cpu_ratios=[-0.5]),
            spoiled(sample, {"seq": 0}),
        ]
        worse = [spoiled(traffic, queue=-1), spoiled(traffic, request_rate=1e300), spoiled(traffic, interval_s=0.0)]
        before = peak_bytes(it.process.pid)
        it.relay.say("monitor", *bad * 100)
        it.relay.say("balancer", *worse * 100)
        dropped = len(bad) * 100 - 100 + len(worse) * 100  # nobody has subscribed to nonsense
        wait_until(lambda: it.seen.count("dropped") >= dropped, f"{dropped} messages to be dropped")
        for _ in range(3):
            reconnects = it.seen.count("reconnects")
            it.relay.say("monitor", [sample[0], bytes(20_000_000)])
            wait_until(lambda was=reconnects: it.seen.count("reconnects") > was, "a cut after 20 MB")
        it.around.load = 1.5
        wait_until(lambda: it.seen.size() == 2, "a scale-out after all this")
        assert it.seen.count("dropped") == dropped
        row.held(f"a decider that heard {dropped} spoiled messages and three of 20 MB: dropped, counted, it decides on")
        row.measured("its memory at most, more than before", (peak_bytes(it.process.pid) - before) / 1e6, 30.0, "MB")
    told = [line for line in capfd.readouterr().err.splitlines() if "message-dropped" in line]
    assert {sender for sender in OTHERS for line in told if f'"{sender}"' in line} == {"monitor", "balancer"}
    row.held(f"the senders are named, in {len(told)} lines")


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def later(_service: str, frames: Frames) -> list[Frames]:
    """Speak as a later release may: with more fields, at every depth."""
    values = msgpack.unpackb(frames[1])
    for each in (values, values["header"], values["body"], *values["body"].get("members", ())):
        each["novel"] = {"a": [1, None]}
    return [[frames[0], msgpack.packb(values)]]


def older(_service: str, frames: Frames) -> list[Frames]:
    """Speak as release 0.1.0 did."""
    return [frames_as_sent_then(frames)]


def incompatible(_service: str, frames: Frames) -> list[Frames]:
    """Speak a version that is not spoken here."""
    return [spoiled(frames, {"version": PROTOCOL_VERSION + 1})]


@pytest.mark.fault(72)
def test_a_decider_works_with_older_and_later_services_and_holds_where_it_understands_nothing(
    tmp_path: Path, row: Proof
) -> None:
    with behind(tmp_path, fate=older) as it:
        it.around.load = 1.3
        wait_until(lambda: it.seen.size() == 2, "a scale-out, among services of release 0.1.0")
        wait_until(lambda: it.around.desired[-1].desired == 2, "it to be heard there")
        row.held("services of release 0.1.0 and a decider of today: it scales, and they follow")
        it.relay.fate = later
        it.around.load = 2.2
        wait_until(lambda: it.seen.size() == 3, "a scale-out, among services of a later release")
        wait_until(lambda: it.around.desired[-1].desired == 3, "it to be heard there")
        assert it.seen.count("dropped") == 0
        row.held("services of a later release: what is unknown is passed over, the decider scales, and they follow")
        it.relay.fate = incompatible
        it.around.load = 0.3
        records = it.seen.await_ticks(30)[8:]
        assert {(each.action, each.desired_after, each.limiter) for each in records} == {("hold", 3, "stale-data")}
        assert it.seen.count("dropped") > 30
        row.held(f"an unknown version: dropped and counted; {len(records)} ticks without load, and the size stays")
        it.relay.fate = intact
        wait_until(lambda: it.seen.limiter() != "stale-data", "figures, in its own version again")


# --- a late start ------------------------------------------------------------------------------------------------


class Silent(Surroundings):
    """Says everything once: three domains. Then it serves whoever subscribes, and says nothing more."""

    def _run(self) -> None:
        buses = {name: Bus.open(self._config, name, CLOCK) for name in OTHERS}
        self.desired.append(DesiredCapacity(group="web", generation=1, desired=3, minimum=1, maximum=4))
        self._speak(buses)
        while not self._stop.is_set():
            for bus in buses.values():
                bus.receive(0.005)
        for bus in buses.values():
            bus.close()


@pytest.mark.fault(27)
def test_a_decider_that_starts_after_the_last_event_has_the_whole_state_within_one_tick(
    tmp_path: Path, row: Proof
) -> None:
    with behind(tmp_path, Silent, tick_s=1.0, stale_after_s=30.0) as it:
        first = wait_until(it.seen.newest, "a first record")
        status = wait_until(lambda: it.seen.look() and it.seen.status, "its status")
        whole = wait_until(lambda: next((each for each in it.seen.look() if is_whole(each)), None), "a whole record")
        row.measured("its start to a decision on the whole state", whole.at_s - status.started_at_s, at_most=1.0)
        assert (whole.tick, whole.desired_after) == (first.tick, 3)
        row.held("its first tick knows every domain, its load and the traffic")


def is_whole(record: DecisionRecord) -> bool:
    known = record.evidence
    return (known.domains_ready, known.domains_known, known.queue) == (3, 3, 0)
