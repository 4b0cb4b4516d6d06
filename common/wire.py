"""Messages to bytes and back: bounded, checked, and nothing half understood.

Two frames: the topic, and a MessagePack map ``{"header": …, "body": …}``. The size is checked before anything is
unpacked, the types once after it; what does not fit raises ``ProtocolError`` and reaches no core.
"""

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgpack
from pydantic import ValidationError

from common.errors import ProtocolError
from common.messages import BODIES, PROTOCOL_VERSION, Body, Header
from common.plain import plain

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_MAPS: Final = 20_000  # an empty map is 1 byte on the wire and 64 in memory
MAX_TOPIC: Final = 1000  # a kind and two names
MAX_SHOWN: Final = 200  # of anything in an error
_BY_KIND: Final = {body.kind: body for body in BODIES}


def body_class(topic: str) -> type[Body]:
    """Return the class of a topic's body.

    Raises:
        ProtocolError: no message of the catalogue has this topic.
    """
    for kind, body in _BY_KIND.items():
        if topic.startswith(f"{kind}."):
            return body
    raise ProtocolError(f"unknown topic {plain(topic, 80)!r}; known kinds: {', '.join(_BY_KIND)}")


def encode(header: Header, body: Body) -> list[bytes]:
    """Return the two frames of a message.

    Raises:
        ProtocolError: the message is larger than ``MAX_MESSAGE_BYTES``.
    """
    payload = msgpack.packb({"header": header.model_dump(), "body": body.model_dump()})
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{body.topic}: {len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return [body.topic.encode(), payload]


def unpack(payload: bytes) -> Any:
    """Return the plain values of a MessagePack payload, with its size checked before any work is done.

    Raises:
        ProtocolError: too large, or not MessagePack.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        return msgpack.unpackb(
            payload,
            use_list=False,
            strict_map_key=True,
            max_array_len=100_000,
            max_map_len=1_000,
            object_hook=_bounded_maps(),
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a MessagePack message: {str(error) or type(error).__name__}") from error


def _bounded_maps() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what is called with each map of one message, and refuses those beyond ``MAX_MAPS``."""
    numbers = itertools.count(1)

    def count(found: dict[str, Any]) -> dict[str, Any]:
        if next(numbers) > MAX_MAPS:
            raise ValueError(f"more than {MAX_MAPS} maps")
        return found

    return count


def decode(frames: list[bytes]) -> tuple[str, Header, Body]:
    """Return topic, header and body of a message, checked.

    Raises:
        ProtocolError: not two frames, too large, malformed, a field of the wrong type, NaN, a topic that is unknown
            or does not match its body, or a version that this program does not speak.
    """
    if len(frames) != 2:
        raise ProtocolError(f"a message has 2 frames; got {len(frames)}")
    try:
        topic = frames[0].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("the topic is not UTF-8") from error
    if len(topic) > MAX_TOPIC:
        raise ProtocolError(f"a topic has at most {MAX_TOPIC} characters; got {len(topic)}")
    body_type = body_class(topic)
    shown, values = plain(topic, MAX_SHOWN), unpack(frames[1])
    if not isinstance(values, dict) or not {"header", "body"} <= values.keys():
        raise ProtocolError(f"{shown}: a message is a map with header and body")
    try:
        header = Header.model_validate(values["header"])
        if header.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"{shown} from {header.source}: version {header.version}; only {PROTOCOL_VERSION} is spoken here"
            )
        body = body_type.model_validate(values["body"])
    except ValidationError as error:
        first = error.errors()[0]
        where = plain(".".join(str(part) for part in first["loc"]), MAX_SHOWN)
        raise ProtocolError(f"{shown}: {where}: {plain(first['msg'], MAX_SHOWN)}") from error
    if body.topic != topic:
        raise ProtocolError(f"{shown}: the body is about {plain(body.topic, MAX_SHOWN)!r}")
    return topic, header, body
