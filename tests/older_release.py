"""What release 0.1.0 says and hears: its own recorded bytes, and messages of today as it would have sent them."""

from pathlib import Path
from typing import Any, TypeVar

import msgpack

from common.messages import Body, Header
from common.wire import body_class, decode, encode

RECORDED = Path(__file__).parent / "contract" / "older"
HEADER = Header(source="monitor", run_id=127, seq=1, sent_at_s=2e9, mono_s=100.25)
AnyBody = TypeVar("AnyBody", bound=Body)


def recorded(kind: str) -> list[bytes]:
    """Return the frames of one message as that release sent them."""
    topic, *payload = (RECORDED / f"{kind}.hex").read_text().splitlines()
    return [topic.encode(), bytes.fromhex("".join(payload))]


def recorded_body(kind: str) -> dict[str, Any]:
    return dict(msgpack.unpackb(recorded(kind)[1])["body"])


def as_sent_then(body: AnyBody) -> AnyBody:
    """Return the message as it is heard from a process of that release: without the fields that it did not know."""
    heard = decode(frames_as_sent_then(encode(HEADER, body)))[2]
    assert isinstance(heard, type(body))
    return heard


def frames_as_sent_then(frames: list[bytes]) -> list[bytes]:
    """Return the frames of the message as a process of that release would have sent it."""
    topic, payload = frames
    values = msgpack.unpackb(payload)
    values["body"] = _known(values["body"], recorded_body(body_class(topic.decode()).kind))
    return [topic, msgpack.packb(values)]


def _known(value: Any, pattern: Any) -> Any:
    """Return the value without the keys that are not in the pattern, at any depth."""
    if isinstance(value, dict) and isinstance(pattern, dict):
        return {key: _known(found, pattern[key]) for key, found in value.items() if key in pattern}
    if isinstance(value, list) and isinstance(pattern, list) and pattern:
        return [_known(found, pattern[0]) for found in value]
    return value
