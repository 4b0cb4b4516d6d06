"""The answer to a handshake: the ZeroMQ Authentication Protocol (RFC 27), as a pure function.

Whoever is let in is known by his public key from then on: every message carries it as its user, in hex.

Only CURVE is let in, and only keys that are authorized. Everything else is refused, with a reason for the log; the
peer learns no more than the code.
"""

from collections.abc import Callable
from dataclasses import dataclass

_VERSION = b"1.0"
_FRAMES_OF_CURVE = 7  # version, request id, domain, address, identity, mechanism, key


@dataclass(frozen=True, slots=True)
class ZapAnswer:
    """The frames to send back, the peer's address, and why it was refused; empty if it was let in."""

    frames: tuple[bytes, ...]
    address: str
    refusal: str


def answer(frames: list[bytes], is_authorized: Callable[[bytes], bool]) -> ZapAnswer:
    """Return the answer to one request of the ZeroMQ library.

    Args:
        frames: as received on the authentication socket.
        is_authorized: whether a public key, 32 bytes, may connect.
    """
    request_id = frames[1] if len(frames) > 1 else b""
    address = frames[3].decode(errors="replace") if len(frames) > 3 else "unknown"
    refusal = _refusal(frames, is_authorized)
    code, text = (b"400", b"refused") if refusal else (b"200", b"OK")
    user = b"" if refusal else frames[6].hex().encode()
    return ZapAnswer((_VERSION, request_id, code, text, user, b""), address, refusal)


def _refusal(frames: list[bytes], is_authorized: Callable[[bytes], bool]) -> str:
    if len(frames) < _FRAMES_OF_CURVE or frames[0] != _VERSION:
        return "no CURVE handshake"
    if frames[5] != b"CURVE" or len(frames) != _FRAMES_OF_CURVE:
        return f"mechanism {frames[5].decode(errors='replace')}; only CURVE is let in"
    return "" if is_authorized(frames[6]) else "its key is not authorized"
