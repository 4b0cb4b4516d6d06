"""The parts of the bus that need no socket."""

import json
import math
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
import structlog

from common import log
from common.config import SERVICES, Bus, Config, Group, System
from common.errors import ConfigError
from common.log import MAX_QUIET_KEYS, Quiet
from common.messages import DesiredCapacity, Event, Reply, Request
from common.messaging import zap
from common.messaging.addresses import check_encrypted, control_address, publish_address
from common.messaging.curve import Holder, holders
from common.messaging.doorkeeper import Doorkeeper
from common.messaging.inbox import Desk, Intake, newest
from common.messaging.link import PATIENCE_S, REPAIR_AFTER_S, LinkHealth
from common.messaging.outbox import Outbox
from common.messaging.requests import decode_reply, decode_request, encode_reply, encode_request
from common.messaging.rights import Peer, of_unix
from common.messaging.sequence import Receipt
from common.messaging.sessions import Sessions
from common.run_dir import new_run_id
from tests.clocks import FakeClock

KEY = bytes(range(32))
CURVE = [b"1.0", b"7", b"autoscaler", b"10.0.0.9", b"", b"CURVE", KEY]


def desired(count: int = 1, group: str = "web") -> DesiredCapacity:
    return DesiredCapacity(group=group, generation=1, desired=count, minimum=0, maximum=9)


# --- handshakes ----------------------------------------------------------------------------------------------


def test_an_authorized_key_is_let_in() -> None:
    said = zap.answer(CURVE, lambda key: key == KEY)
    assert said == zap.ZapAnswer((b"1.0", b"7", b"200", b"OK", KEY.hex().encode(), b""), "10.0.0.9", "")


@pytest.mark.parametrize(
    ("frames", "refusal"),
    [
        ([*CURVE[:-1], b"other"], "its key is not authorized"),
        ([*CURVE[:5], b"PLAIN", b"user"], "mechanism PLAIN; only CURVE is let in"),
        ([*CURVE, b"more"], "mechanism CURVE; only CURVE is let in"),
        (CURVE[:6], "no CURVE handshake"),
        ([b"2.0", *CURVE[1:]], "no CURVE handshake"),
        ([], "no CURVE handshake"),
    ],
)
def test_everything_else_is_refused(frames: list[bytes], refusal: str) -> None:
    said = zap.answer(frames, lambda key: key == KEY)
    assert said.frames[2] == b"400"
    assert said.refusal == refusal


def test_files_without_a_key_let_nobody_in(tmp_path: Path) -> None:
    assert holders(tmp_path) == {}
    (tmp_path / "authorized").mkdir()
    (tmp_path / "authorized" / "bad.key").write_bytes(b"no key")
    (tmp_path / "authorized" / "good.key").write_bytes(b"a" * 40 + b"\n")
    (tmp_path / "authorized" / "good.key.bak").write_bytes(b"b" * 40)
    assert set(holders(tmp_path)) == {b"a" * 40}


@pytest.mark.parametrize(("sign", "may_order"), [("", True), ("orders", False), ("services", False)])
def test_without_roles_whoever_is_let_in_may_order(tmp_path: Path, sign: str, may_order: bool) -> None:
    (tmp_path / "authorized").mkdir()
    (tmp_path / "authorized" / "desktop.key").write_bytes(b"a" * 40)
    if sign:
        (tmp_path / sign).mkdir()
    assert holders(tmp_path) == {b"a" * 40: Holder("desktop", may_order)}


def test_a_key_among_those_that_order_may_listen_too(tmp_path: Path) -> None:
    for directory in ("authorized", "orders"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "laptop.key").write_bytes(b"a" * 40)
    assert holders(tmp_path) == {b"a" * 40: Holder("laptop", may_order=True)}


# --- who asks, and whether they may ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "owner_uid", "who", "may_order"),
    [
        ("localhost:0:0:1", 10001, "root", True),
        ("localhost:10001:10001:1", 10001, "user 10001", True),
        ("localhost:10002:10001:1", 10001, "user 10002", False),
        ("localhost:10001:0:1", 0, "user 10001", False),
        ("some-host:0:0:1", 0, "root", True),
        ("10.0.0.9", 0, "an unknown user", False),
        ("", 0, "an unknown user", False),
        ("localhost:0:0:1 and more", 0, "an unknown user", False),
    ],
)
def test_on_unix_sockets_root_and_the_owner_order(address: str, owner_uid: int, who: str, may_order: bool) -> None:
    peer = of_unix(address, owner_uid)
    assert (peer.who, not peer.lacks) == (who, may_order)


def test_who_asks_is_what_the_door_knows_and_what_he_says_stands_beside_it() -> None:
    assert Peer("key desktop").by("root") == "key desktop (root)"
    assert Peer("root").by("al\x1b[31mice\n") == "root (al[31mice)"
    assert Peer("root").by("x" * 999) == f"root ({'x' * 64})"


@pytest.mark.parametrize(("verb", "is_asked"), [("scale", False), ("explain", True), ("history", True)])
def test_whoever_only_listens_may_ask_and_not_order(verb: str, is_asked: bool) -> None:
    counters: Counter[str] = Counter()
    answers: list[bytes] = []
    peer = Peer("user 7", "user 7 may listen, but not order")
    request = [b"", encode_request(Request(verb=verb, by="root"))]
    pending = Desk(counters).accept(request, answers.append, 0.0, peer)
    if is_asked:
        assert pending is not None and pending.request.by == "user 7 (root)"
    else:
        assert pending is None
        reply = decode_reply(answers[0])
        assert (reply.status, reply.reason) == ("refused", "user 7 may listen, but not order")
        assert counters == {"refused_orders": 1}


def test_a_connection_is_cut_once_its_key_is_gone_and_its_descriptor_may_be_anothers_later() -> None:
    sessions = Sessions()
    sessions.saw(7, b"one")
    sessions.saw(8, b"two")
    sessions.saw(9, b"two")
    sessions.ended(9)
    assert sessions.to_cut({b"one"}) == [8]
    assert sessions.to_cut({b"one"}) == []
    sessions.saw(8, b"one")
    assert sessions.to_cut({b"one"}) == []


def test_a_refusal_is_told_with_the_peer_and_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    counters: Counter[str] = Counter()
    keeper = Doorkeeper(counters)
    for now_s in (0.0, 1.0, 61.0):
        keeper.accepted(5, "10.0.0.9")
        keeper.failed("its key is not authorized")
        keeper.hung_up(5, now_s)
    keeper.accepted(6, "10.0.0.8")
    keeper.hung_up(6, 62.0)  # a peer that simply leaves is none
    assert counters == {"refused": 3}
    assert capsys.readouterr().out.count("10.0.0.9") == 2


# --- links ---------------------------------------------------------------------------------------------------


def test_a_link_that_the_library_retries_is_left_alone() -> None:
    health = LinkHealth(has_keys=False)
    health.ended(10.0)
    health.retried(10.0)
    assert health.repair_at_s == math.inf


def test_a_link_that_the_library_gives_up_is_repaired_and_blamed() -> None:
    health = LinkHealth(has_keys=False)
    health.ended(10.0)
    assert health.repair_at_s == 10.0 + REPAIR_AFTER_S
    assert "broke the protocol" in health.why


def test_a_refused_link_is_repaired_and_one_that_recovers_is_not() -> None:
    health = LinkHealth(has_keys=True)
    health.refused("the key is not authorized", 10.0)
    health.ended(10.0)
    assert (health.repair_at_s, health.why) == (10.0 + REPAIR_AFTER_S, "the key is not authorized")
    health.connected()
    assert (health.repair_at_s, health.why) == (math.inf, "")


def test_with_keys_a_link_that_is_retried_in_vain_is_repaired_in_the_end() -> None:
    health = LinkHealth(has_keys=True)
    for now_s in (10.0, 10.1, 10.3):
        health.broken_off("hung up")
        health.ended(now_s)
        health.retried(now_s)
    assert (health.repair_at_s, health.why) == (10.0 + PATIENCE_S, "hung up")


# --- outbox, intake, desk ------------------------------------------------------------------------------------


def test_messages_are_numbered_by_topic_and_last_values_are_those_of_standing_topics() -> None:
    outbox = Outbox("decider", 127, FakeClock())
    ids = [outbox.compose(body, None)[1] for body in (desired(1), desired(2), desired(1, "db"), Event(name="x"))]
    assert ids == [
        "decider/7f/capacity.desired.web/1",
        "decider/7f/capacity.desired.web/2",
        "decider/7f/capacity.desired.db/1",
        "decider/7f/event.x/1",
    ]
    topics = [frames[0] for frames in outbox.last_values({b""})]
    assert topics == [b"capacity.desired.web", b"capacity.desired.db"]
    assert list(outbox.last_values({b"event."})) == []


def test_an_event_that_is_kept_is_given_to_new_subscribers_for_a_while_and_until_the_next_of_its_topic() -> None:
    clock = FakeClock(100.0)
    outbox = Outbox("decider", 1, clock)
    frames, _ = outbox.compose(Event(name="x"), None, keep_s=60.0)
    outbox.compose(Event(name="y"), None)
    assert list(outbox.last_values({b"event."})) == [frames]
    assert list(outbox.last_values({b"service."})) == []
    clock.now_s = 160.0
    assert list(outbox.last_values({b""})) == [frames]
    clock.now_s = 160.1
    assert list(outbox.last_values({b""})) == []
    outbox.compose(Event(name="x"), None, keep_s=60.0)
    outbox.compose(Event(name="x"), None)
    assert list(outbox.last_values({b""})) == [], "what is older than what was heard would count as replayed"


def test_whoever_has_heard_an_event_drops_its_copy() -> None:
    counters: Counter[str] = Counter()
    outbox, intake = Outbox("decider", 1, FakeClock()), Intake("decider", counters, 6.0, is_clock_shared=True)
    frames, _ = outbox.compose(Event(name="x"), None, keep_s=60.0)
    taken = [intake.accept(each, Receipt(100.5, 100.5)) for each in (frames, *outbox.last_values({b""}))]
    assert [t is not None for t in taken] == [True, False]
    assert counters == {"received": 2, "duplicates": 1, "gaps": 0}


def test_only_what_the_service_itself_says_is_taken_in() -> None:
    counters: Counter[str] = Counter()
    frames, _ = Outbox("actuator", 1, FakeClock()).compose(desired(), None)
    assert Intake("decider", counters, 6.0, is_clock_shared=True).accept(frames, Receipt(100.0, 100.0)) is None
    assert counters["dropped"] == 1


def test_a_copy_is_dropped_and_what_is_newer_is_kept() -> None:
    counters: Counter[str] = Counter()
    outbox, intake = Outbox("decider", 1, FakeClock()), Intake("decider", counters, 6.0, is_clock_shared=True)
    first, second = outbox.compose(desired(1), "c")[0], outbox.compose(desired(2), None)[0]
    taken = [intake.accept(frames, Receipt(100.5, 100.5)) for frames in (first, first, second, first, second)]
    assert [t.body.desired if t and isinstance(t.body, DesiredCapacity) else None for t in taken] == [
        1, None, 2, None, None,
    ]  # fmt: skip
    assert counters == {"received": 5, "duplicates": 2, "replayed": 1, "gaps": 0}
    assert taken[0] is not None
    assert (taken[0].age_s, taken[0].header.cause) == (0.5, "c")


def test_newest_keeps_one_message_of_a_standing_topic_and_every_event() -> None:
    outbox, intake = Outbox("decider", 1, FakeClock()), Intake("decider", Counter(), 6.0, is_clock_shared=True)
    bodies = (desired(1), Event(name="x"), Event(name="x"), desired(2), Event(name="y"))
    taken = [intake.accept(outbox.compose(body, None)[0], Receipt(100.0, 100.0)) for body in bodies]
    kept = newest([t for t in taken if t is not None])
    assert [t.id.split("/", 2)[2] for t in kept] == ["event.x/1", "event.x/2", "capacity.desired.web/2", "event.y/1"]


def test_a_malformed_request_is_answered_and_never_handed_on() -> None:
    counters: Counter[str] = Counter()
    answers: list[bytes] = []
    desk = Desk(counters)
    for frames in ([], [b"x"], [b"", b"\xc1"], [b"", encode_reply(Reply(status="applied"))]):
        assert desk.accept(frames, answers.append, 0.0, Peer("root")) is None
    assert [decode_reply(answer).status for answer in answers] == ["error"] * 4
    assert counters == {"dropped": 4}


def test_requests_and_replies_come_out_as_they_went_in() -> None:
    request = Request(verb="scale", args={"group": "web", "to": 3, "why": None}, by="me")
    reply = Reply(status="refused", reason="max is 4", data={"limits": {"max": 4}})
    assert decode_request(encode_request(request)) == request
    assert decode_reply(encode_reply(reply)) == reply


# --- addresses, run identifiers ------------------------------------------------------------------------------


def config_on(transport: str, address: str = "", keys_dir: str = "") -> Config:
    ports = {name: 7001 + 2 * at for at, name in enumerate(SERVICES)} if transport == "tcp" else {}
    endpoints = {name: f"tcp://{address}:{port}" for name, port in ports.items()}
    return Config.model_validate(
        {
            "system": System(run_dir="/run/x"),
            "bus": Bus.model_validate({"transport": transport, "endpoints": endpoints, "keys_dir": keys_dir}),
            "groups": {"web": Group(prefix="web-")},
        }
    )


def test_requests_are_answered_beside_where_messages_are_published() -> None:
    ipc, tcp = config_on("ipc"), config_on("tcp", "[::1]")
    assert (publish_address(ipc, "monitor"), control_address(ipc, "monitor")) == (
        "ipc:///run/x/monitor.sock",
        "ipc:///run/x/control-monitor.sock",
    )
    assert (publish_address(tcp, "monitor"), control_address(tcp, "monitor")) == (
        "tcp://[::1]:7001",
        "tcp://[::1]:7002",
    )


@pytest.mark.parametrize("address", ["10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]"])
def test_other_machines_are_let_near_only_with_keys(address: str) -> None:
    with pytest.raises(ConfigError, match="needs keys"):
        check_encrypted(config_on("tcp", address), "monitor")
    check_encrypted(config_on("tcp", address, "/etc/keys"), "monitor")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "[::1]"])
def test_loopback_needs_no_keys(address: str) -> None:
    check_encrypted(config_on("tcp", address), "monitor")


@pytest.mark.parametrize("stored", [b"", b"garbage", b"\xff\xff", b"-5", b"9" * 30, b"9" * 9000])
def test_a_damaged_run_counter_counts_as_absent(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "decider.run"
    path.write_bytes(stored)
    assert new_run_id([path], 1000.0) == 1000
    assert new_run_id([path], 10.0) == 1001


def test_a_run_counter_that_cannot_be_stored_is_told_and_does_not_keep_a_service_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    assert new_run_id([tmp_path / "absent" / "decider.run"], 1000.0) == 1000
    assert "run-id-not-stored" in capsys.readouterr().out


# --- logs ----------------------------------------------------------------------------------------------------


class Terminal(StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def test_machines_get_json_and_people_get_key_value() -> None:
    for stream in (StringIO(), Terminal()):
        log.configure("decider", "info", stream)
        try:
            log.logger().debug("not-said")
            log.logger().info("capacity-decided", group="web", reason="above target", cpu_ratio=0.91)
        finally:
            structlog.reset_defaults()
        (line,) = stream.getvalue().splitlines()
        if stream.isatty():
            assert line[13:] == "info    decider: capacity-decided group=web reason='above target' cpu_ratio=0.91"
        else:
            said = json.loads(line)
            assert said.pop("timestamp")
            assert said == {
                "event": "capacity-decided", "level": "info", "service": "decider",
                "group": "web", "reason": "above target", "cpu_ratio": 0.91,
            }  # fmt: skip


def test_an_exception_is_one_event_with_its_trace() -> None:
    stream = StringIO()
    log.configure("decider", "info", stream)
    try:
        log.logger().error("service-failed", exc_info=ValueError("on purpose"))
    finally:
        structlog.reset_defaults()
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: on purpose" in json.loads(line)["exception"]


def test_a_lasting_fault_is_said_once_a_period_and_a_flood_of_kinds_is_bounded() -> None:
    quiet = Quiet(period_s=10.0)
    assert [quiet.may_say("a", now_s) for now_s in (0.0, 9.9, 10.0, 15.0)] == [True, False, True, False]
    said = [quiet.may_say(key, 0.0) for key in range(MAX_QUIET_KEYS + 50)]
    assert sum(said) == MAX_QUIET_KEYS - 1
