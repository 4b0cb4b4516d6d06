"""The file in which libvirt's QEMU driver saves a domain: a header, the definition, a cookie, then QEMU's own stream.

The header is 92 bytes in the machine's byte order: the magic, version, length of what follows before the stream,
whether the domain ran, the compression, where the cookie begins, and 14 words that are not used. The definition and
the cookie each end in a NUL; libvirt pads them so that a longer definition fits. Nothing here reads a file.
"""

import struct
from dataclasses import dataclass
from typing import Final

from common.errors import HypervisorError

MAGIC: Final = b"LibvirtQemudSave"
VERSION: Final = 2
RAW: Final = 0
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024  # libvirt's own limit is of this order
_HEAD: Final = struct.Struct("=16s5I56x")
HEAD_BYTES: Final = _HEAD.size


@dataclass(frozen=True, slots=True)
class SaveHeader:
    """All that stands before QEMU's stream, which begins at ``stream_at``."""

    xml: str
    cookie: bytes
    stream_at: int
    was_running: int = 1


def text_bytes(head: bytes) -> int:
    """Return how many bytes stand between the head of ``HEAD_BYTES`` and QEMU's stream.

    Raises:
        HypervisorError: it is no head of a whole save file that we know.
    """
    return _unpack(head)[0]


def parse(data: bytes) -> SaveHeader:
    """Return the header in the first bytes of a save file.

    Raises:
        HypervisorError: it is not a save file that we know, or it is cut short.
    """
    length, was_running, cookie_at = _unpack(data)
    text = data[HEAD_BYTES : HEAD_BYTES + length]
    if len(text) < length:
        raise HypervisorError(f"a save file must have {HEAD_BYTES + length} bytes before its stream; got {len(data)}")
    if cookie_at > length:
        raise HypervisorError(f"the cookie of a save file must begin within {length} bytes; got {cookie_at}")
    xml, _, _ = text[: cookie_at or length].partition(b"\0")
    cookie, _, _ = text[cookie_at:].partition(b"\0") if cookie_at else (b"", b"", b"")
    try:
        return SaveHeader(xml.decode(), cookie, HEAD_BYTES + length, was_running)
    except UnicodeDecodeError as error:
        raise HypervisorError(f"the definition in a save file is not UTF-8: {error}") from error


def pack(header: SaveHeader) -> bytes:
    """Return the bytes to put before QEMU's stream; ``stream_at`` is not used."""
    xml = header.xml.encode() + b"\0"
    cookie = header.cookie + b"\0" if header.cookie else b""
    cookie_at = len(xml) if cookie else 0
    head = _HEAD.pack(MAGIC, VERSION, len(xml) + len(cookie), header.was_running, RAW, cookie_at)
    return head + xml + cookie


def _unpack(data: bytes) -> tuple[int, int, int]:
    if len(data) < HEAD_BYTES:
        raise HypervisorError(f"a save file has at least {HEAD_BYTES} bytes; got {len(data)}")
    magic, version, length, was_running, compression, cookie_at = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise HypervisorError(f"a save file begins with {MAGIC!r}; got {magic!r}")
    if version != VERSION:
        raise HypervisorError(f"the version of a save file must be {VERSION}; got {version}")
    if compression != RAW:
        raise HypervisorError(f'a save file must not be compressed (save_image_format = "raw"); got {compression}')
    if not 0 < length <= MAX_TEXT_BYTES:
        raise HypervisorError(f"the definition in a save file must have 1..{MAX_TEXT_BYTES} bytes; got {length}")
    return length, was_running, cookie_at
