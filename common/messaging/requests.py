"""Requests and replies to bytes and back: what an operator asks of one service, and the answer.

One frame: a MessagePack map ``{"version": …, "request": …}`` or ``{"version": …, "reply": …}``. As strict as
``common.wire``: the size is bounded before anything is unpacked, and what does not fit raises ``ProtocolError``.
"""

from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from common.errors import ProtocolError
from common.messages import PROTOCOL_VERSION, Frozen, Reply, Request
from common.wire import MAX_MESSAGE_BYTES, unpack

_Value = TypeVar("_Value", bound=Frozen)


def encode_request(request: Request) -> bytes:
    """Return the frame of a request."""
    return _pack("request", request)


def decode_request(frame: bytes) -> Request:
    """Return the request in a frame, checked.

    Raises:
        ProtocolError: malformed, of the wrong type, or of a version that this program does not speak.
    """
    return _read("request", frame, Request)


def encode_reply(reply: Reply) -> bytes:
    """Return the frame of a reply.

    Raises:
        ProtocolError: the reply is larger than ``MAX_MESSAGE_BYTES``.
    """
    return _pack("reply", reply)


def decode_reply(frame: bytes) -> Reply:
    """Return the reply in a frame, checked.

    Raises:
        ProtocolError: as ``decode_request``.
    """
    return _read("reply", frame, Reply)


def _pack(kind: str, value: Frozen) -> bytes:
    frame: bytes = msgpack.packb({"version": PROTOCOL_VERSION, kind: value.model_dump()})
    if len(frame) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{kind}: {len(frame)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return frame


def _read(kind: str, frame: bytes, shape: type[_Value]) -> _Value:
    values: Any = unpack(frame)
    if not isinstance(values, dict) or kind not in values:
        raise ProtocolError(f"a {kind} is a map with version and {kind}")
    if values.get("version") != PROTOCOL_VERSION:
        raise ProtocolError(f"{kind}: version {values.get('version')!r}; only {PROTOCOL_VERSION} is spoken here")
    try:
        return shape.model_validate(values[kind])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"{kind}: {where}: {first['msg']}") from error
