"""The actuator as a process of its own: lock, answers, clean end, clean-up command; on libvirt's test driver."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from common import config_file
from common.bus import Bus, ask
from common.clock import SystemClock
from common.config import Config
from common.messages import PROTOCOL_VERSION, DesiredCapacity, Membership, Reply, Request, ServiceStatus
from tests.faults.proof import Proof
from tests.integration.relay import Fate, Relay, intact
from tests.waiting import undisturbed_s, wait_until

CLOCK = SystemClock()
PATIENCE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
TEXT = """
[system]
run_dir = "{place}/run"
state_dir = "{place}/state"
interval_s = 0.3
republish_s = 0.5
stale_after_s = 3.0
[hosts.local]
uri = "{uri}"
accel = "tcg"
[network]
name = "actest"
bridge = "asbr7"
subnet = "192.168.157.0/24"
slots = 20
[groups.actest]
kind = "{kind}"
prefix = "actest-"
min = 0
endpoint = "127.0.0.1:18998"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, "test:///default")


def write(place: Path, uri: str, kind: str = "template") -> Path:
    path = place / "autoscaler.toml"
    path.write_text(TEXT.format(place=place, uri=uri, kind=kind))
    return path


def start(path: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.actuator", "--config", str(path), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(path)
    yield process
    process.kill()
    process.wait(5)
    assert process.stderr is not None
    process.stderr.close()


@pytest.fixture
def decider(path: Path) -> Iterator[Bus]:
    bus = Bus.open(load(path), "decider", CLOCK)
    yield bus
    bus.close()


def load(path: Path) -> Config:
    return config_file.load(path)[0]


def membership(bus: Bus, limit_s: float = PATIENCE_S) -> Membership:
    """Return the next membership that the process publishes."""
    until_s = CLOCK.monotonic_s() + limit_s
    while CLOCK.monotonic_s() < until_s:
        for message in bus.receive(0.2).messages:
            if isinstance(message.body, Membership):
                return message.body
    raise AssertionError("no membership was published")


def asked(config: Config, request: Request) -> Reply:
    return ask(config, "actuator", request, PATIENCE_S)


def test_process_tells_its_members_and_why_it_cannot_add(
    process: subprocess.Popen[str], decider: Bus, path: Path
) -> None:
    decider.subscribe("actuator", "membership")
    body = membership(decider)
    assert (body.group, body.members, body.desired_seen) == ("actest", (), None)
    decider.publish(DesiredCapacity(group="actest", generation=1, desired=1, minimum=0, maximum=4, decision_id="d1"))
    until_s = CLOCK.monotonic_s() + PATIENCE_S
    while body.desired_seen is None or "make image" not in body.blocked:
        assert CLOCK.monotonic_s() < until_s, body
        body = membership(decider)
    assert body.generation_seen == 1


def test_what_the_disk_refused_is_kept_once_it_takes_it_though_nothing_new_happens(path: Path, decider: Bus) -> None:
    kept = path.parent / "state" / "actuator.json"
    kept.mkdir(parents=True)  # no file can take its place
    decider.subscribe("actuator", "service")
    process = start(path)
    try:
        note = wait_until(lambda: noted(decider), "a note of it", PATIENCE_S)
        assert f"{kept} cannot be written: it is in the way: " in note
        assert note.endswith("; a restart forgets breakers and boot times")
        kept.rmdir()
        wait_until(lambda: noted(decider) == "", "the note to go", PATIENCE_S)
        assert kept.is_file()
    finally:
        process.kill()
        process.communicate(timeout=5)


def noted(bus: Bus) -> str | None:
    """Return the note of the newest of the signs of life that came since, None without one."""
    notes = [message.body.note for message in bus.receive(0.2).messages if isinstance(message.body, ServiceStatus)]
    return notes[-1] if notes else None


@pytest.mark.fault(70)
def test_an_older_desired_capacity_is_not_followed(process: subprocess.Popen[str], decider: Bus, row: Proof) -> None:
    """The newer ones before and after it are: what it says has had its turn when the last one is followed."""
    decider.subscribe("actuator", "membership")
    followed: set[tuple[int, int | None]] = set()
    membership(decider)
    for generation, desired in ((5, 1), (4, 0), (1, 3), (6, 2)):
        decider.publish(DesiredCapacity(group="actest", generation=generation, desired=desired, minimum=0, maximum=4))
        for _ in range(3):  # in each of its turns it tells what it follows
            body = membership(decider)
            followed.add((body.generation_seen, body.desired_seen))
    until_s = CLOCK.monotonic_s() + PATIENCE_S
    while (6, 2) not in followed:
        assert CLOCK.monotonic_s() < until_s, followed
        body = membership(decider)
        followed.add((body.generation_seen, body.desired_seen))
    assert {capacity for capacity in followed if capacity[1] is not None} == {(5, 1), (6, 2)}
    row.held("generations 4 and 1 after 5: never followed; 6 is")


def changed(header: dict[str, int] | None = None, body: dict[str, int] | None = None) -> Fate:
    """Send every message with these values in its header, and with this body instead of its own."""

    def fate(_service: str, frames: list[bytes]) -> list[list[bytes]]:
        values = msgpack.unpackb(frames[1])
        values["header"] |= header or {}
        values["body"] = values["body"] if body is None else body
        return [[frames[0], msgpack.packb(values)]]

    return fate


NOT_FOLLOWED = {
    "without a body": (changed(body={}), 0, 0),
    "for no domain, where one is the fewest": (intact, 0, 1),
    "of an unknown version": (changed({"version": PROTOCOL_VERSION + 1}), 3, 0),
}


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("without a body", marks=pytest.mark.fault(70)),
        pytest.param("for no domain, where one is the fewest", marks=pytest.mark.fault(70)),
        pytest.param("of an unknown version", marks=pytest.mark.fault(72)),
    ],
)
def test_a_plan_that_is_empty_or_not_understood_is_not_followed(tmp_path: Path, what: str, row: Proof) -> None:
    """The good ones before and after it are: what it says has had its turn when the last one is followed."""
    fate, desired, minimum = NOT_FOLLOWED[what]
    near = load(write(tmp_path, "test:///default"))
    (tmp_path / "far").mkdir()
    far = load(write(tmp_path / "far", "test:///default"))
    process = start(tmp_path / "autoscaler.toml")
    decider, listener = Bus.open(far, "decider", CLOCK), Bus.open(near, "operator", CLOCK, publishes=False)
    followed: set[tuple[int, int | None]] = set()

    def say(generation: int, wanted: int, fewest: int = 0) -> None:
        decider.receive(0.0)
        body = DesiredCapacity(group="actest", generation=generation, desired=wanted, minimum=fewest, maximum=4)
        decider.publish(body)

    def look(until: tuple[int, int]) -> None:
        until_s = CLOCK.monotonic_s() + PATIENCE_S
        while until not in followed:
            assert CLOCK.monotonic_s() < until_s, followed
            decider.receive(0.0)
            body = membership(listener)
            followed.add((body.generation_seen, body.desired_seen))

    try:
        with Relay({"decider": (far.system.run_path, near.system.run_path)}) as relay:
            listener.subscribe("actuator", "membership")
            membership(listener)
            say(5, 1)
            look((5, 1))
            relay.fate = fate
            for _ in range(3):  # in each of its turns it tells what it follows
                say(6, desired, minimum)
                body = membership(listener)
                followed.add((body.generation_seen, body.desired_seen))
            assert followed - {(0, None)} == {(5, 1)}
            relay.fate = intact
            say(7, 2)
            look((7, 2))
    finally:
        decider.close()
        listener.close()
        process.kill()
        process.communicate(timeout=5)
    assert {capacity for capacity in followed if capacity[1] is not None} == {(5, 1), (7, 2)}
    row.held(f"a plan {what}: the actuator goes on with the one before")


def test_unknown_domain_and_unknown_verb_are_answered(process: subprocess.Popen[str], decider: Bus, path: Path) -> None:
    decider.subscribe("actuator", "membership")
    membership(decider)
    reply = asked(load(path), Request(verb="drain", args={"domain": "nobody-0000"}))
    assert (reply.status, reply.reason) == ("refused", "no domain 'nobody-0000' is ours; ours are: none")
    assert asked(load(path), Request(verb="explode", args={"domain": "x"})).status == "error"


@pytest.mark.fault(13)
def test_second_copy_and_cleanup_are_refused_while_one_runs(
    process: subprocess.Popen[str], decider: Bus, path: Path, row: Proof
) -> None:
    decider.subscribe("actuator", "membership")
    membership(decider)
    for flags in ((), ("--remove-domains",)):
        begun_s = CLOCK.monotonic_s()
        second = start(path, *flags)
        row.measured(
            f"a second actuator{' that is to clean up' if flags else ''} ends", undisturbed_s(second, begun_s), 1.0
        )
        assert second.wait() == 75
        assert second.stderr is not None and "already runs" in second.stderr.read()
        second.stderr.close()
    assert process.poll() is None
    membership(decider)
    row.held("with code 75; the first actuator goes on telling its members")


def test_sigterm_ends_it_cleanly_and_soon(process: subprocess.Popen[str], decider: Bus) -> None:
    decider.subscribe("actuator", "membership")
    membership(decider)
    begun_s = CLOCK.monotonic_s()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert CLOCK.monotonic_s() - begun_s < 3


def test_host_that_is_not_there_is_waited_for_and_told(tmp_path: Path) -> None:
    path = write(tmp_path, "qemu+unix:///system?socket=/nonexistent")
    process = start(path)
    bus = Bus.open(load(path), "decider", CLOCK)
    try:
        bus.subscribe("actuator", "membership")
        body = membership(bus)
        assert body.unreachable_hosts == ("local",) and "not reachable" in body.blocked
        assert process.poll() is None
    finally:
        bus.close()
        process.kill()
        process.communicate(timeout=5)


def test_cleanup_says_what_is_left_where_a_host_is_not_there(tmp_path: Path) -> None:
    process = start(write(tmp_path, "qemu+unix:///system?socket=/nonexistent"), "--remove-domains")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "cannot connect" in errors


def test_cleanup_with_nothing_to_do_succeeds(tmp_path: Path) -> None:
    process = start(write(tmp_path, "test:///default"), "--remove-everything")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_wrong_configuration_ends_the_cleanup_with_2(tmp_path: Path) -> None:
    path = write(tmp_path, "test:///default", kind="magic")
    process = start(path, "--remove-domains")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "groups.actest.kind" in errors
