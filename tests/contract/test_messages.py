"""Every message of the catalogue, byte for byte, and everything that must not get through.

The golden bytes are what other versions send. After a wanted change of a message, write them anew with
``GOLDEN=write pytest tests/contract/test_messages.py`` and look at the difference: fields may be added, never renamed.
"""

import os
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import messages
from common.errors import ProtocolError
from common.messages import BODIES, PROTOCOL_VERSION, Body, Header
from common.phases import Phase
from common.wire import MAX_MESSAGE_BYTES, decode, encode, unpack

GOLDEN = Path(__file__).parent / "golden"
HEADER = Header(source="monitor", run_id=127, seq=412, sent_at_s=2e9, mono_s=100.25, cause="decider/7e/decision.web/7")
EXAMPLES: dict[type[Body], Body] = {
    type(body): body
    for body in (
        messages.HostSample(
            host="local", interval_s=1.0, is_reachable=True,
            names=("web-0000", "web-0001"), uuids=("u0", "u1"), states=("running", "shutoff"),
            cpu_ratios=(0.5, None), allotted_cpus=(1.0, 0.5),
        ),
        messages.Failure(host="local", domain="web-0000", uuid="u0", reason="crashed", detail="signal 9"),
        messages.Recovery(host="local", domain="web-0000", uuid="u0"),
        messages.DesiredCapacity(group="web", generation=3, desired=2, minimum=1, maximum=4, reason="above-target"),
        messages.DecisionRecord(
            group="web", tick=9, decision_id="web-9", action="out", desired_before=1, desired_after=2, recommended=2,
            votes=(messages.Vote(policy="threshold", capacity=2, reason="high"),),
            limiter="none", limiter_text="", counterfactual="below 0.8 it would hold",
            evidence=messages.Evidence(cpu_ratio=0.9, domains_ready=1),
        ),
        messages.Membership(
            group="web", generation_seen=3, desired_seen=2,
            members=(
                messages.Member(
                    name="web-0000", uuid="u0", host="local", phase=Phase.READY, since_s=1.0, age_s=2.0,
                    address="10.0.0.5", port=8080,
                ),
            ),
            owned_total=1, ceiling=5,
        ),
        messages.Drain(
            group="web", endpoint="127.0.0.1:8000", is_proxy_alive=True,
            backends=(messages.BackendState(name="web-0000", uuid="u0", slot="vm1", state="ready", is_healthy=True),),
        ),
        messages.Traffic(
            group="web", interval_s=1.0, is_known=True, request_rate=20.0,
            names=("web-0000",), request_rates=(20.0,), in_flights=(2,), response_times_s=(None,),
        ),
        messages.Event(name="scale-out", group="web", text="from 1 to 2"),
        messages.ServiceStatus(name="monitor", pid=7, started_at_s=1.5, release="0.1.0", counters={"gaps": 1}),
    )
}  # fmt: skip
SAMPLE = EXAMPLES[messages.HostSample]


def frames(body: Body = SAMPLE, **changes: Any) -> list[bytes]:
    """Return a message's frames with some fields of the body replaced, as a careless sender would send them."""
    return [body.topic.encode(), msgpack.packb({"header": HEADER.model_dump(), "body": body.model_dump() | changes})]


def frames_with_header(**changes: Any) -> list[bytes]:
    return [
        SAMPLE.topic.encode(),
        msgpack.packb({"header": HEADER.model_dump() | changes, "body": SAMPLE.model_dump()}),
    ]


def test_every_message_of_the_catalogue_has_an_example() -> None:
    assert set(EXAMPLES) == set(BODIES)


def test_no_kind_hides_another() -> None:
    kinds = [body.kind for body in BODIES]
    assert len(set(kinds)) == len(kinds)
    assert not [(a, b) for a in kinds for b in kinds if a != b and b.startswith(f"{a}.")]


@pytest.mark.parametrize("body", EXAMPLES.values(), ids=lambda body: body.kind)
def test_the_bytes_of_every_message_are_the_golden_ones(body: Body) -> None:
    topic, payload = encode(HEADER, body)
    path = GOLDEN / f"{body.kind}.hex"
    text = f"{topic.decode()}\n" + "".join(f"{payload[i : i + 50].hex()}\n" for i in range(0, len(payload), 50))
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("body", EXAMPLES.values(), ids=lambda body: body.kind)
def test_the_golden_bytes_are_understood(body: Body) -> None:
    topic, *payload = (GOLDEN / f"{body.kind}.hex").read_text().splitlines()
    assert decode([topic.encode(), bytes.fromhex("".join(payload))]) == (body.topic, HEADER, body)


@pytest.mark.parametrize("body", EXAMPLES.values(), ids=lambda body: body.kind)
def test_unknown_fields_are_ignored(body: Body) -> None:
    packed = {
        "header": HEADER.model_dump() | {"novel": 1},
        "body": body.model_dump() | {"novel": {"a": [1]}},
        "novel": None,
    }
    assert decode([body.topic.encode(), msgpack.packb(packed)]) == (body.topic, HEADER, body)


@pytest.mark.parametrize("version", [PROTOCOL_VERSION + 1, 0, -1])
def test_an_unknown_version_is_refused_and_named(version: int) -> None:
    with pytest.raises(ProtocolError, match=f"version {version}; only {PROTOCOL_VERSION} is spoken here"):
        decode(frames_with_header(version=version))


@pytest.mark.parametrize("body", EXAMPLES.values(), ids=lambda body: body.kind)
def test_a_message_cut_anywhere_is_refused(body: Body) -> None:
    topic, payload = encode(HEADER, body)
    for length in range(len(payload)):
        with pytest.raises(ProtocolError):
            decode([topic, payload[:length]])


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_anything_else(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode([b"sample.local", payload])


@given(st.integers(0, 288), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_makes_a_valid_message(at: int, byte: int) -> None:
    topic, payload = encode(HEADER, SAMPLE)
    try:
        _, _, body = decode([topic, payload[:at] + bytes([byte]) + payload[at + 1 :]])
    except ProtocolError:
        return
    assert isinstance(body, messages.HostSample)
    assert all(ratio is None or 0 <= ratio < float("inf") for ratio in body.cpu_ratios)


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [b"sample.local"],
        [*frames(), b"more"],
        [b"\xff\xfe", frames()[1]],
        [b"nonsense.local", frames()[1]],
        [b"sample", frames()[1]],
        [b"sample.other", frames()[1]],
        [b"sample.local", msgpack.packb([1, 2])],
        [b"sample.local", msgpack.packb({"header": None, "body": None})],
        [b"sample.local", msgpack.packb({1: 2})],
        [b"sample.local", msgpack.packb({"header": HEADER.model_dump()})],
        [b"sample.local", frames()[1] + b"\x00"],
    ],
    ids=lambda bad: repr(bad)[:40],
)
def test_what_is_no_message_is_refused(bad: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(bad)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_ratios", (float("nan"), 0.5)),
        ("cpu_ratios", (float("inf"), 0.5)),
        ("cpu_ratios", (-0.1, 0.5)),
        ("cpu_ratios", (0.5,)),
        ("cpu_ratios", ("much", 0.5)),
        ("cpu_ratios", None),
        ("allotted_cpus", (-1.0, 1.0)),
        ("interval_s", 0.0),
        ("interval_s", -1.0),
        ("interval_s", float("nan")),
        ("interval_s", float("inf")),
        ("host", 7),
        ("names", "web-0000"),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(frames(**{field: value}))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (messages.DesiredCapacity, "desired", -1),
        (messages.DesiredCapacity, "generation", 0),
        (messages.Membership, "owned_total", -1),
        (messages.Traffic, "request_rate", float("nan")),
        (messages.Traffic, "request_rates", (float("inf"),)),
        (messages.ServiceStatus, "started_at_s", float("nan")),
        (messages.DecisionRecord, "evidence", {"cpu_ratio": float("nan")}),
    ],
)
def test_an_impossible_figure_of_any_message_is_refused(kind: type[Body], field: str, value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(frames(EXAMPLES[kind], **{field: value}))


@pytest.mark.parametrize(
    "changes", [{"seq": 0}, {"run_id": -1}, {"mono_s": float("nan")}, {"sent_at_s": float("inf")}, {"source": None}]
)
def test_an_impossible_header_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(frames_with_header(**changes))


# --- bombs -----------------------------------------------------------------------------------------------------


def array_of(item: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


NEARLY_ALL = MAX_MESSAGE_BYTES - 64
BOMBS = {
    "20 MB of empty maps": array_of(b"\x80", 20_000_000),
    "20 MB of zeros": b"\xc6" + (20_000_000).to_bytes(4, "big") + bytes(20_000_000),
    "an array that claims 4 billion entries": b"\xdd\xff\xff\xff\xff\x01",
    "a map that claims 4 billion entries": b"\xdf\xff\xff\xff\xff\x01",
    "a string that claims 4 GB": b"\xdb\xff\xff\xff\xff1",
    "arrays in arrays": b"\x91" * NEARLY_ALL,
    "maps in maps": b"\x81\xa1a" * (NEARLY_ALL // 3),
    "as many empty maps as fit": array_of(array_of(b"\x80", 99_000), NEARLY_ALL // 99_005),
    "as many small maps as fit": array_of(array_of(b"\x81\xa1a\xc0", 99_000), NEARLY_ALL // 396_005),
    "as many small arrays as fit": array_of(array_of(b"\x92\xc0\xc0", 99_000), NEARLY_ALL // 297_005),
    "as many floats as fit": array_of(array_of(b"\xca\x3f\x80\x00\x00", 99_000), NEARLY_ALL // 495_005),
    "an extension": b"\xc9\x00\x10\x00\x00\x05" + bytes(0x100000),
}


def peak_bytes_of(payload: bytes) -> int:
    """Return by how much decoding the payload raises this process's peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    with pytest.raises(ProtocolError):
        decode([b"sample.local", payload])
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_in_bounded_memory(payload: bytes) -> None:
    assert peak_bytes_of(payload) < 100_000_000


def test_a_message_too_large_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError, match=f"at most {MAX_MESSAGE_BYTES} are allowed"):
        encode(HEADER, EXAMPLES[messages.DecisionRecord].model_copy(update={"basis": "x" * MAX_MESSAGE_BYTES}))


def test_a_thousand_domains_fit_easily() -> None:
    count = 1000
    body = messages.HostSample(
        host="local", interval_s=1.0, is_reachable=True,
        names=tuple(f"web-{i:04d}" for i in range(count)), uuids=("0" * 36,) * count, states=("running",) * count,
        cpu_ratios=(0.123456,) * count, allotted_cpus=(1.0,) * count,
    )  # fmt: skip
    assert len(encode(HEADER, body)[1]) < MAX_MESSAGE_BYTES / 20


def test_unpacking_says_what_is_wrong() -> None:
    for payload in (b"", b"\xc1", b"\x91" * 5000):
        with pytest.raises(ProtocolError, match=r"not a MessagePack message: ."):
            unpack(payload)
