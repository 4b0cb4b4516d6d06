"""The bus over real sockets on one machine."""

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from common.bus import Bus, Inbox, PendingRequest, Received, ask
from common.clock import SystemClock
from common.config import Config, Group, System
from common.errors import BusError, LockHeldError
from common.messages import DesiredCapacity, Event, Failure, Header, Reply, Request, ServiceStatus
from common.messaging.addresses import control_address, publish_address
from common.messaging.budget import Resends
from common.messaging.requests import encode_request
from common.wire import MAX_MESSAGE_BYTES, encode
from tests.faults.proof import Proof
from tests.waiting import Stopwatch, wait_until

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
TICK_S = 1.0  # an interval of the services, as they are shipped
Open = Callable[..., Bus]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    run = tmp_path / "run"
    return Config(system=System(run_dir=str(run), state_dir=str(tmp_path)), groups={"web": Group(prefix="web-")})


@pytest.fixture
def open_bus(config: Config) -> Iterator[Open]:
    opened: list[Bus] = []

    def open_one(name: str = "decider", *, publishes: bool = True) -> Bus:
        bus = Bus.open(config, name, CLOCK, publishes=publishes)
        opened.append(bus)
        return bus

    yield open_one
    for bus in opened:
        bus.close()


def desired(count: int, group: str = "web") -> DesiredCapacity:
    return DesiredCapacity(group=group, generation=1, desired=count, minimum=0, maximum=99)


def pump(bus: Bus, for_s: float = 0.05) -> Inbox:
    """Let a publisher serve what waits at its door."""
    return bus.receive(for_s)


def hear(sub: Bus, pub: Bus | None, until: Callable[[list[Received]], bool], within_s: float = 15.0) -> list[Received]:
    """Collect messages until ``until`` holds; a failed wait shows what was heard."""
    heard: list[Received] = []
    deadline_s = CLOCK.monotonic_s() + within_s
    while not until(heard):
        assert CLOCK.monotonic_s() < deadline_s, f"heard only {[r.id for r in heard]}; counters {sub.counters}"
        if pub is not None:
            pump(pub, 0.01)
        heard += sub.receive(0.02).messages
    return heard


def raw_publisher(config: Config, service: str) -> tuple[zmq.Context, zmq.Socket]:
    """Return a socket in the place of a service, to say what no Bus would."""
    config.system.run_path.mkdir(mode=0o700, exist_ok=True)
    context = zmq.Context()
    door = context.socket(zmq.XPUB)
    door.linger = 0
    door.bind(f"ipc://{config.system.run_path}/{service}.sock")
    return context, door


def await_subscription(door: zmq.Socket, topic: bytes = b"") -> None:
    while door.poll(3000):
        if door.recv() == b"\x01" + topic:
            return
    raise AssertionError("nobody subscribed")


def frames_of(seq: int, run_id: int = 5, count: int = 1, source: str = "decider") -> list[bytes]:
    header = Header(source=source, run_id=run_id, seq=seq, sent_at_s=0, mono_s=CLOCK.monotonic_s())
    return encode(header, desired(count))


def counts(messages: list[Received]) -> list[int]:
    return [r.body.desired for r in messages if isinstance(r.body, DesiredCapacity)]


@pytest.mark.fault(27)
def test_a_late_subscriber_gets_the_last_value_of_each_standing_topic(open_bus: Open, row: Proof) -> None:
    pub = open_bus()
    for count in (1, 2, 3):
        pub.publish(desired(count))
    pub.publish(desired(7, "db"))
    sub = open_bus("operator", publishes=False)
    begun_s = CLOCK.monotonic_s()
    sub.subscribe("decider", "capacity.desired")
    assert sorted(counts(hear(sub, pub, lambda heard: len(heard) >= 2, within_s=TICK_S))) == [3, 7]
    row.measured("the last value of every topic heard after", CLOCK.monotonic_s() - begun_s, at_most=TICK_S)


def test_a_second_subscriber_gets_it_too_and_the_first_hears_no_copy(open_bus: Open) -> None:
    pub = open_bus()
    pub.publish(desired(3))
    first, second = open_bus("one", publishes=False), open_bus("two", publishes=False)
    first.subscribe("decider", "capacity.desired")
    hear(first, pub, lambda heard: counts(heard) == [3])
    second.subscribe("decider", "capacity.desired")
    hear(second, pub, lambda heard: counts(heard) == [3], within_s=TICK_S)
    again: list[Received] = []

    def has_dropped_one(_: list[Received]) -> bool:
        again.extend(first.receive(0.02).messages)
        return first.counters["duplicates"] == 1

    hear(second, pub, has_dropped_one)
    assert again == []


def test_an_event_is_never_told_twice(open_bus: Open) -> None:
    pub = open_bus()
    pub.publish(Event(name="scale-out", group="web"))
    pub.publish(desired(1))
    sub = open_bus("operator", publishes=False)
    sub.subscribe("decider", "event", "capacity.desired")
    heard = hear(sub, pub, bool) + list(sub.receive(0.1).messages)
    assert [received.topic for received in heard] == ["capacity.desired.web"]


def test_of_standing_topics_the_newest_arrives_and_of_events_all_in_order(open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider", "capacity.desired", "event")
    pub.publish(desired(0))
    hear(sub, pub, lambda heard: bool(heard))
    for count in range(1, 50):
        pub.publish(desired(count))
        pub.publish(Event(name=f"e{count}"))
    names: list[str] = []

    def whole(heard: list[Received]) -> bool:
        names[:] = [r.body.name for r in heard if isinstance(r.body, Event)]
        return len(names) == 49 and counts(heard)[-1] == 49

    hear(sub, None, whole)
    assert names == [f"e{count}" for count in range(1, 50)]
    assert sub.counters["gaps"] == 0


def test_a_subscriber_hears_only_the_kinds_it_asked_for(open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider", "event")
    pub.publish(desired(1))

    def is_told(heard: list[Received]) -> bool:
        pub.publish(Event(name="scale-out"))  # again and again: the first may come before anybody listens
        return bool(heard)

    assert {r.topic for r in hear(sub, pub, is_told)} == {"event.scale-out"}


def test_publish_returns_the_identifier_that_the_receiver_sees_and_carries_the_cause(open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider")
    sent = pub.publish(desired(1), cause="monitor/1/sample.local/9")
    (received,) = hear(sub, pub, bool)
    assert (received.id, received.header.cause) == (sent, "monitor/1/sample.local/9")


def test_a_publisher_that_restarts_starts_a_new_run_and_is_heard_at_once(open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider")
    pub.publish(desired(1))
    pub.publish(desired(2))
    first = hear(sub, pub, lambda heard: counts(heard)[-1:] == [2])[-1]
    pub.close()
    again = open_bus()
    again.publish(desired(9))
    second = hear(sub, again, lambda heard: counts(heard) == [9])[-1]
    assert second.header.run_id > first.header.run_id
    assert second.header.seq == 1


@pytest.mark.fault(22)
def test_a_replayed_message_is_ignored_and_counted(config: Config, open_bus: Open, row: Proof) -> None:
    context, door = raw_publisher(config, "decider")
    sub = open_bus("operator", publishes=False)
    sub.subscribe("decider")
    await_subscription(door)
    for frames in (frames_of(4), frames_of(5), frames_of(3), frames_of(99, run_id=4), frames_of(6, count=6)):
        door.send_multipart(frames)
    heard = hear(sub, None, lambda heard: counts(heard)[-1:] == [6])
    context.destroy(linger=0)
    assert all(r.header.run_id == 5 for r in heard)
    assert counts(heard)[-1] == 6 and 99 not in [r.header.seq for r in heard]
    assert sub.counters["replayed"] == 2
    row.held("ignored and counted: an older message of this run, and one of an older run")


def test_what_is_lost_is_counted(config: Config, open_bus: Open) -> None:
    context, door = raw_publisher(config, "decider")
    sub = open_bus("operator", publishes=False)
    sub.subscribe("decider")
    await_subscription(door)
    door.send_multipart(frames_of(1))
    door.send_multipart(frames_of(5, count=5))
    hear(sub, None, lambda heard: counts(heard)[-1:] == [5])
    context.destroy(linger=0)
    assert sub.counters["gaps"] == 3


@pytest.mark.fault(21)
def test_malformed_messages_are_dropped_counted_and_logged_once_with_their_sender(
    config: Config, open_bus: Open, capsys: pytest.CaptureFixture[str], row: Proof
) -> None:
    context, door = raw_publisher(config, "decider")
    sub = open_bus("operator", publishes=False)
    sub.subscribe("decider")
    await_subscription(door)
    good = frames_of(1, count=4)
    bad = [
        [good[0], b"\xc1"],
        [good[0], good[1][:-5]],
        [good[0]],
        [b"\xff\xfe", b""],
        [*good, b"more"],
        [b"x", good[1]],
    ]
    for frames in bad:
        for _ in range(3):
            door.send_multipart(frames)
    door.send_multipart(frames_of(1, source="actuator"))
    door.send_multipart(good)
    hear(sub, None, lambda heard: counts(heard) == [4])
    context.destroy(linger=0)
    assert sub.counters["dropped"] == len(bad) * 3 + 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "message-dropped" in line]
    assert len(lines) == 2  # one for the kind, one for what is of no kind
    assert all("decider" in line for line in lines)
    row.held(f"{len(bad)} kinds of malformed messages: dropped and counted, the sender named once an hour and kind")


@pytest.mark.fault(21)
def test_a_message_of_20_mb_is_cut_off_and_the_next_one_is_heard(config: Config, open_bus: Open, row: Proof) -> None:
    context, door = raw_publisher(config, "decider")
    sub = open_bus("operator", publishes=False)
    sub.subscribe("decider")
    await_subscription(door)
    before = rss_bytes()
    for _ in range(5):
        door.send_multipart([b"capacity.desired.web", bytes(20_000_000)])

    def repaired(heard: list[Received]) -> bool:
        while door.poll(0):
            door.recv()
        door.send_multipart(frames_of(len(heard) + 1, count=8))
        return counts(heard)[-1:] == [8]

    hear(sub, None, repaired, within_s=8.0)
    context.destroy(linger=0)
    assert sub.counters["reconnects"] >= 1
    row.held("five messages of 20 MB: cut off, and the next one is heard")
    grown_mb = max(rss_bytes() - before, 0) / 1e6
    row.measured("more memory, with the sender's copy of 20 MB", grown_mb, at_most=60.0, unit="MB")


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.fault(20)
def test_a_subscriber_that_does_not_read_costs_the_publisher_a_bounded_amount(open_bus: Open, row: Proof) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider", "event", "capacity.desired")
    pub.publish(desired(1))
    hear(sub, pub, bool)  # from here on it is subscribed
    text = "x" * 10_000
    for _ in range(2_500):  # fills what ZeroMQ and the kernel hold
        pub.publish(Event(name="e", text=text))
    full = rss_bytes()
    for _ in range(10_000):
        pub.publish(Event(name="e", text=text))
    grown_mb = max(rss_bytes() - full, 0) / 1e6
    row.measured("a full queue, and 10,000 messages of 10 kB more: memory grows by", grown_mb, at_most=10.0, unit="MB")
    while sub.receive(0.2).messages:
        pass
    pub.publish(Event(name="last"))
    hear(sub, pub, lambda heard: bool(heard) and heard[-1].topic == "event.last")


@pytest.mark.fault(20)
def test_a_subscriber_that_stood_still_ends_with_the_newest_state_although_it_missed_much(
    open_bus: Open, row: Proof
) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider")
    pub.publish(desired(1))
    hear(sub, pub, bool)  # from here on it is subscribed
    last = 4_000
    for count in range(2, last + 1):
        pub.publish(desired(count))
        pub.publish(Event(name="e", text="x" * 10_000))
        pump(pub, 0.0)

    def is_newest(heard: list[Received]) -> bool:
        pub.publish(desired(last))  # as a service repeats its state
        return counts(heard)[-1:] == [last]

    heard = counts(hear(sub, pub, is_newest))
    assert sub.counters["gaps"] > 0, "the queue held everything: nothing is shown"
    assert heard == sorted(heard)
    row.held(f"{sub.counters['gaps']} of {last:,} messages missed: the newest state counts, and none goes back")


def test_a_second_copy_is_refused_and_the_first_goes_on(open_bus: Open) -> None:
    first, sub = open_bus(), open_bus("operator", publishes=False)
    with pytest.raises(LockHeldError, match=rf"decider already runs: process {os.getpid()} holds"):
        open_bus()
    sub.subscribe("decider")
    first.publish(desired(2))
    hear(sub, first, lambda heard: counts(heard) == [2])


@pytest.mark.fault(26)
def test_a_stale_socket_is_removed_by_the_holder_of_the_lock(config: Config, open_bus: Open, row: Proof) -> None:
    config.system.run_path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(config.system.run_path / "decider.sock"))
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider")
    pub.publish(desired(2))
    hear(sub, pub, lambda heard: counts(heard) == [2])
    door = config.system.run_path / "decider.sock"
    inode = door.stat().st_ino
    with pytest.raises(LockHeldError):
        open_bus()
    assert door.stat().st_ino == inode
    row.held("left over: cleaned away by whoever holds the lock, and by nobody else")


@pytest.mark.fault(26)
def test_a_file_in_the_place_of_a_socket_is_a_clear_error_and_stays(config: Config, open_bus: Open, row: Proof) -> None:
    config.system.run_path.mkdir(mode=0o700)
    path = config.system.run_path / "decider.sock"
    path.write_text("mine")
    with pytest.raises(BusError, match="must be a socket, or absent"):
        open_bus()
    assert path.read_text() == "mine"
    row.held("a file that is no socket: an error that says so; it stays")
    path.unlink()
    open_bus()  # the failed attempt has let go of the lock


@pytest.mark.fault(26)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_someone_else_is_a_clear_error(config: Config, open_bus: Open, row: Proof) -> None:
    run = config.system.run_path
    run.mkdir(mode=0o700)
    os.chown(run, 65534, 65534)
    with pytest.raises(BusError, match="belongs to user 65534; it must belong to user 0"):
        open_bus()
    os.chown(run, 0, 0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(run / "decider.sock"))
    os.chown(run / "decider.sock", 65534, 65534)
    with pytest.raises(BusError, match="belongs to user 65534; remove it"):
        open_bus()
    assert (run / "decider.sock").stat().st_uid == 65534
    row.held("somebody else's socket or directory: an error that names its owner; it stays")


def test_the_run_directory_is_made_and_kept_for_its_owner_alone(config: Config, open_bus: Open) -> None:
    config.system.run_path.mkdir(mode=0o755)
    config.system.run_path.chmod(0o755)
    open_bus()
    assert stat.S_IMODE(config.system.run_path.stat().st_mode) == 0o700


def test_a_run_directory_that_is_a_link_is_refused(config: Config, open_bus: Open, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    config.system.run_path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BusError, match="not a link"):
        open_bus()


def test_runs_only_grow_when_the_wall_clock_jumps_back(config: Config) -> None:
    class Jumping(SystemClock):
        epoch = 2_000_000_000.0

        def epoch_s(self) -> float:
            return self.epoch

    clock = Jumping()
    runs = []
    for epoch in (2_000_000_000.0, 1_999_996_400.0, 1_999_996_401.0):
        clock.epoch = epoch
        bus = Bus.open(config, "decider", clock)
        runs.append(bus.run_id)
        bus.close()
    assert runs == [2_000_000_000, 2_000_000_001, 2_000_000_002]


def answering(bus: Bus, answer: Callable[[Request], Reply]) -> Callable[[], None]:
    """Answer requests in a thread; return what ends it."""
    is_over = threading.Event()

    def loop() -> None:
        while not is_over.is_set():
            for pending in bus.receive(5.0).requests:
                pending.reply(answer(pending.request))

    thread = threading.Thread(target=loop)
    thread.start()

    def end() -> None:
        is_over.set()
        bus.wake()
        thread.join()

    return end


def test_a_request_gets_its_answer(config: Config, open_bus: Open) -> None:
    end = answering(open_bus(), lambda request: Reply(status="applied", data={"verb": request.verb, **request.args}))
    try:
        reply = ask(config, "decider", Request(verb="scale", args={"group": "web", "to": 3}), 3.0)
    finally:
        end()
    assert reply == Reply(status="applied", data={"verb": "scale", "group": "web", "to": 3})


def test_a_client_that_asks_on_and_on_is_refused_and_others_get_their_answers(config: Config, open_bus: Open) -> None:
    bus = open_bus()
    context: zmq.Context = zmq.Context()
    flood = context.socket(zmq.DEALER)
    flood.linger = 0
    flood.connect(control_address(config, "decider"))
    frame = encode_request(Request(verb="explain"))
    for _ in range(500):
        flood.send_multipart([b"", frame])
    taken: list[PendingRequest] = []
    wait_until(lambda: taken.extend(bus.receive(0.01).requests) or bus.counters["refused_requests"] >= 480, "the flood")
    assert 1 <= len(taken) <= 20  # as many of one client wait for an answer, nobody having given one
    end = answering(bus, lambda _request: Reply(status="applied"))
    code = "import sys; from tests.asking import main; main(sys.argv[1])"
    try:  # another process is another client
        asked = subprocess.run(
            [sys.executable, "-c", code, str(config.system.run_path)], cwd=ROOT, capture_output=True, timeout=30
        )
    finally:
        end()
        context.destroy(linger=0)
    assert asked.stdout == b"applied\n", asked.stderr


def test_last_values_are_not_sent_again_for_each_of_many_subscriptions(config: Config, open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    pub.publish(desired(3))
    sub.subscribe("decider", "capacity.desired")
    hear(sub, pub, bool)
    context: zmq.Context = zmq.Context()
    noisy = context.socket(zmq.XSUB)
    noisy.linger = 0
    noisy.connect(publish_address(config, "decider"))
    begun_s = CLOCK.monotonic_s()
    for number in range(2000):
        noisy.send(b"\x01capacity" if number % 2 else b"\x00capacity")
        pump(pub, 0.0)
    deadline_s = CLOCK.monotonic_s() + 1.0
    while CLOCK.monotonic_s() < deadline_s:
        pump(pub, 0.01)
        sub.receive(0.0)
    allowed = Resends.BURST + Resends.RATE * (CLOCK.monotonic_s() - begun_s) + 1
    context.destroy(linger=0)
    assert 1 <= sub.counters["duplicates"] <= allowed
    late = open_bus("late", publishes=False)  # and whoever comes now hears it all the same
    late.subscribe("decider", "capacity.desired")
    assert counts(hear(late, pub, bool)) == [3]


def test_an_answer_that_cannot_be_sent_becomes_an_error(config: Config, open_bus: Open) -> None:
    answers = iter(
        [Reply(status="applied", data={"x": object()}), Reply(status="applied", data={"x": ["x" * 3_000_000] * 2})]
    )
    end = answering(open_bus(), lambda request: next(answers))
    try:
        for _ in range(2):
            reply = ask(config, "decider", Request(verb="explain"), 3.0)
            assert reply.status == "error"
            assert "cannot be sent" in reply.reason
    finally:
        end()


def test_a_service_that_is_dead_is_named_with_what_to_do(config: Config) -> None:
    with pytest.raises(BusError, match=r"actuator does not answer at ipc://.*-actuator.sock within 0.2 s; is it"):
        ask(config, "actuator", Request(verb="drain"), 0.2)


def test_a_request_waits_for_a_service_that_comes_back_in_time(config: Config, open_bus: Open) -> None:
    replies: list[Reply] = []
    asking = threading.Thread(target=lambda: replies.append(ask(config, "decider", Request(verb="pause"), 4.0)))
    asking.start()
    end = answering(open_bus(), lambda request: Reply(status="applied"))
    asking.join()
    end()
    assert [reply.status for reply in replies] == ["applied"]


def test_malformed_requests_are_answered_with_an_error_and_harm_nothing(config: Config, open_bus: Open) -> None:
    bus = open_bus()
    end = answering(bus, lambda request: Reply(status="applied"))
    with zmq.Context() as context, context.socket(zmq.DEALER) as door:
        door.linger = 0
        door.connect(f"ipc://{config.system.run_path}/control-decider.sock")
        for frames in ([b"", b"\xc1"], [b"", b"\x80"], [b"", b"x", b"y"], [b"no empty frame"]):
            door.send_multipart(frames)
        answered = [door.recv_multipart() for _ in range(4) if door.poll(2000)]
        door.send_multipart([b"", bytes(1_000_000)])
    try:
        assert len(answered) == 4
        assert ask(config, "decider", Request(verb="pause"), 3.0).status == "applied"
    finally:
        end()
    assert bus.counters["dropped"] == 4


def test_wake_ends_the_wait_and_does_no_harm_after_close(open_bus: Open) -> None:
    bus = open_bus()
    threading.Timer(0.1, bus.wake).start()
    start_s = CLOCK.monotonic_s()
    assert bus.receive(60.0) == Inbox()
    assert CLOCK.monotonic_s() - start_s < 30.0
    bus.close()
    bus.wake()
    bus.close()


def test_an_idle_wait_costs_no_time_of_the_processor(open_bus: Open) -> None:
    bus = open_bus()
    for service in ("monitor", "actuator", "balancer"):
        bus.subscribe(service)
    before = sum(os.times()[:2])
    bus.receive(2.0)
    assert sum(os.times()[:2]) - before < 0.05


def test_who_only_listens_cannot_publish(open_bus: Open) -> None:
    with pytest.raises(BusError, match="without publishing"):
        open_bus("operator", publishes=False).publish(desired(1))


def test_two_services_may_tell_of_the_same_topic(open_bus: Open) -> None:
    one, two, sub = open_bus("decider"), open_bus("actuator"), open_bus("operator", publishes=False)
    for pub in (one, two):
        sub.subscribe("decider" if pub is one else "actuator", "service")
        pub.publish(ServiceStatus(name="same", pid=1, started_at_s=0, release="1"))

    def have_both_spoken(heard: list[Received]) -> bool:
        pump(two, 0.01)
        return len(heard) >= 2

    assert {r.header.source for r in hear(sub, one, have_both_spoken)} == {"decider", "actuator"}


def test_a_failure_is_heard_within_milliseconds(open_bus: Open) -> None:
    pub, sub = open_bus("monitor"), open_bus("operator", publishes=False)
    sub.subscribe("monitor", "failure", "service")
    pub.publish(ServiceStatus(name="monitor", pid=1, started_at_s=0, release="1"))
    hear(sub, pub, bool)  # from here on it is subscribed
    took_s = []
    for _ in range(20):
        watch = Stopwatch()
        pub.publish(Failure(host="local", domain="web-0000", uuid="u", reason="crashed"))
        assert len(sub.receive(5.0).messages) == 1
        took_s.append(watch.s())
    assert max(took_s) < 0.02, took_s


def test_the_largest_message_arrives(open_bus: Open) -> None:
    pub, sub = open_bus(), open_bus("operator", publishes=False)
    sub.subscribe("decider")
    pub.publish(desired(1))
    hear(sub, pub, bool)
    text = "x" * (MAX_MESSAGE_BYTES - 500)
    pub.publish(Event(name="large").model_copy(update={"text": text}))  # as no sender of ours would make it
    hear(sub, pub, lambda heard: bool(heard) and heard[-1].topic == "event.large")
