"""The flight recorder's format: every message of the bus, as it was sent, in files that survive a cut at any byte.

A recording is a directory of numbered segments. One is being written, raw (``000042.rec``); finished ones are
compressed and carry the seconds that they span in their name (``000041-1795374000-1795375080.rec.xz``). A segment is a
header (magic, version, boot identifier) and frames; a frame is a marker, a length, a checksum, and what it holds: when
the message was received, its topic and its payload.

# Note [Damage]
A frame that is cut off or whose checksum fails is never guessed at. The reader looks for the next marker at which
a whole frame stands, goes on there, and counts what it left out. At the end of a segment that is normal: its writer
was killed, or is just writing.
"""

import lzma
import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from common.errors import ProtocolError, RecordingError
from common.messages import Body, Header
from common.wire import MAX_MESSAGE_BYTES, decode

DIRECTORY: Final = "recording"
FORMAT_VERSION: Final = 1
MAGIC: Final = b"ASRECORD"
MARKER: Final = b"\xf5rec"
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024  # of one segment; those we write are smaller by far
MAX_CONTENT_BYTES: Final = MAX_MESSAGE_BYTES + 4096
_HEADER: Final = struct.Struct("<8sHH")  # magic, version, length of the map that follows
_FRAME: Final = struct.Struct("<4sII")  # marker, length of the content, its CRC-32
_CONTENT: Final = struct.Struct("<ddH")  # received at (epoch s), received at (monotonic s), length of the topic
_NAME: Final = re.compile(r"(\d{6,})(?:-(\d+)-(\d+))?\.rec(\.xz)?")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message as the recorder heard it.

    ``at_s``: epoch seconds at receipt; ``mono_s``: the monotonic clock then, comparable within one ``boot_id``.
    """

    at_s: float
    mono_s: float
    boot_id: str
    topic: str
    payload: bytes

    def decode(self) -> tuple[Header, Body]:
        """Return header and body, checked.

        Raises:
            ProtocolError: a message that this program does not know, or no longer.
        """
        _, header, body = decode([self.topic.encode(), self.payload])
        return header, body


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of a recording. ``span`` holds the epoch seconds of its first and last frame, None while it is raw."""

    number: int
    path: Path
    size_bytes: int
    span: tuple[float, float] | None

    @property
    def is_finished(self) -> bool:
        """Return whether it is compressed, and will never change again."""
        return self.span is not None

    def touches(self, since_s: float, until_s: float) -> bool:
        """Return whether it may hold frames of that time; of a raw one nothing is known."""
        return self.span is None or (self.span[0] <= until_s and self.span[1] >= since_s)


@dataclass(slots=True)
class Damage:
    """What a reader had to leave out."""

    places: int = 0
    place_bytes: int = 0
    tails: int = 0
    tail_bytes: int = 0
    unreadable_files: list[str] = field(default_factory=list)
    unknown_messages: int = 0
    first_unknown: str = ""  # why the first of them is

    def text(self) -> str:
        """Return it as one sentence for people; empty when nothing was left out.

        >>> Damage(places=1, place_bytes=40).text()
        'left out of the recording: 1 damaged place (40 bytes)'
        """
        parts = [
            f"{_count(self.places, 'damaged place')} ({self.place_bytes} bytes)" if self.places else "",
            f"{_count(self.tails, 'cut-off end')} ({self.tail_bytes} bytes)" if self.tails else "",
            f"{_count(self.unknown_messages, 'unknown message')} ({self.first_unknown})"
            if self.unknown_messages
            else "",
            f"{', '.join(self.unreadable_files)} (not a recording)" if self.unreadable_files else "",
        ]
        left_out = ", ".join(part for part in parts if part)
        return f"left out of the recording: {left_out}" if left_out else ""


class Recording:
    """Reads a recording, also while it is being written. ``damage`` tells what it had to leave out so far."""

    def __init__(self, directory: Path) -> None:
        """Read from ``directory``: ``recording_dir(config.system.state_path)``, or from one segment's file."""
        self.directory = directory
        self.damage = Damage()

    def frames(
        self,
        since_s: float = -math.inf,
        until_s: float = math.inf,
        kinds: Iterable[str] = (),
        *,
        newest_first: bool = False,
    ) -> Iterator[Recorded]:
        """Yield the messages received in that time (epoch seconds, both ends included), in the order of receipt.

        Args:
            since_s: from then on.
            until_s: up to then.
            kinds: only messages of these kinds, such as ``event``; all of them if empty.
            newest_first: in the opposite order; only what is consumed is read.

        Raises:
            RecordingError: there is no recording, it may not be read, or its format is unknown.
        """
        files = [file for file in self._files() if file.touches(since_s, until_s)]
        prefixes = tuple(f"{kind}." for kind in kinds)
        for file in reversed(files) if newest_first else files:
            frames = list(self._segment(file, since_s, until_s, prefixes))
            yield from reversed(frames) if newest_first else frames

    def messages(
        self,
        since_s: float = -math.inf,
        until_s: float = math.inf,
        kinds: Iterable[str] = (),
        *,
        newest_first: bool = False,
    ) -> Iterator[tuple[Recorded, Header, Body]]:
        """Yield as ``frames`` does, each with its header and body; see ``decoded``."""
        return self.decoded(self.frames(since_s, until_s, kinds, newest_first=newest_first))

    def decoded(self, frames: Iterable[Recorded]) -> Iterator[tuple[Recorded, Header, Body]]:
        """Yield ``frames`` with header and body; what this program does not know is counted and left out."""
        for recorded in frames:
            try:
                header, body = recorded.decode()
            except ProtocolError as error:
                self.damage.unknown_messages += 1
                self.damage.first_unknown = self.damage.first_unknown or str(error)
                continue
            yield recorded, header, body

    def newest(self) -> Recorded | None:
        """Return the last message that was received; None if there is none.

        Raises:
            RecordingError: as ``frames``.
        """
        return next(self.frames(newest_first=True), None)

    def newest_at_s(self) -> float | None:
        """Return when the last message was received, in epoch seconds; None if there is none."""
        newest = self.newest()
        return None if newest is None else newest.at_s

    def _files(self) -> list[SegmentFile]:
        try:
            if self.directory.is_file():
                return [lone_segment(self.directory)]
            files = segment_files(self.directory)
        except OSError as error:
            raise RecordingError(f"the recording in {self.directory} cannot be read: {error.strerror}") from error
        if not files:
            raise RecordingError(f"there is no recording in {self.directory}: the recorder has not run yet")
        return files

    def _segment(
        self, file: SegmentFile, since_s: float, until_s: float, prefixes: tuple[str, ...]
    ) -> Iterator[Recorded]:
        data = self._content(file)
        if data is None:
            return
        opened = read_header(data, file.path.name)
        if opened is None:
            self._leave_out_whole(file, data)
            return
        boot_id, start = opened
        for offset in _whole_frames(data, start, self.damage):
            at_s, mono_s, topic_length = _CONTENT.unpack_from(data, offset + _FRAME.size)
            if not since_s <= at_s <= until_s:
                continue
            topic_at = offset + _FRAME.size + _CONTENT.size
            topic = data[topic_at : topic_at + topic_length].decode(errors="replace")
            if prefixes and not topic.startswith(prefixes):
                continue
            end = offset + _FRAME.size + _FRAME.unpack_from(data, offset)[1]
            yield Recorded(at_s, mono_s, boot_id, topic, data[topic_at + topic_length : end])

    def _content(self, file: SegmentFile) -> bytes | None:
        """Return the segment's bytes, unpacked; None if it was dropped meanwhile."""
        try:
            data = file.path.read_bytes()
        except FileNotFoundError:
            twins = [] if file.is_finished else [twin for twin in self._files() if twin.number == file.number]
            return self._content(twins[0]) if twins and twins[0].is_finished else None
        except OSError as error:
            raise RecordingError(f"{file.path} cannot be read: {error.strerror}") from error
        return _unpacked(data) if file.is_finished else data

    def _leave_out_whole(self, file: SegmentFile, data: bytes) -> None:
        if MAGIC.startswith(data[: len(MAGIC)]) or data.startswith(MAGIC):
            self.damage.tails += bool(data)
            self.damage.tail_bytes += len(data)
        else:
            self.damage.unreadable_files.append(file.path.name)


def recording_dir(state_path: Path) -> Path:
    """Return the directory of the recording within the state directory."""
    return state_path / DIRECTORY


def segment_files(directory: Path) -> list[SegmentFile]:
    """Return the segments of a recording, oldest first; where a raw one has a finished twin, the twin alone."""
    found: dict[int, SegmentFile] = {}
    if not directory.is_dir():
        return []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is None or (match[2] is None) != (match[4] is None):
            continue
        number, span = int(match[1]), None if match[2] is None else (float(match[2]), float(match[3]))
        if span is None and number in found:
            continue
        try:
            found[number] = SegmentFile(number, path, path.stat().st_size, span)
        except FileNotFoundError:  # dropped or compressed since it was listed
            continue
    return [found[number] for number in sorted(found)]


def lone_segment(path: Path) -> SegmentFile:
    """Return the segment in a file of any name; one that ends in ``.xz`` is compressed."""
    span = (-math.inf, math.inf) if path.suffix == ".xz" else None
    return SegmentFile(0, path, path.stat().st_size, span)


def raw_name(number: int) -> str:
    """Return the name of the segment while it is written.

    >>> raw_name(42)
    '000042.rec'
    """
    return f"{number:06d}.rec"


def finished_name(number: int, first_at_s: float, last_at_s: float) -> str:
    """Return the name of the compressed segment.

    >>> finished_name(41, 1795374000.2, 1795375079.1)
    '000041-1795374000-1795375080.rec.xz'
    """
    return f"{number:06d}-{math.floor(first_at_s)}-{math.ceil(last_at_s)}.rec.xz"


def header_bytes(boot_id: str, opened_at_s: float) -> bytes:
    """Return what a segment begins with."""
    about: bytes = msgpack.packb({"boot_id": boot_id, "opened_at_s": opened_at_s})
    return _HEADER.pack(MAGIC, FORMAT_VERSION, len(about)) + about


def read_header(data: bytes, name: str) -> tuple[str, int] | None:
    """Return the boot identifier and where the frames begin; None where the header is cut off or is not ours.

    Raises:
        RecordingError: the segment has a version that this program does not read.
    """
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        return None
    _, version, length = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise RecordingError(
            f"{name} has format version {version}; this program reads version {FORMAT_VERSION}: "
            "use the release that wrote it, or move the file away"
        )
    try:
        about: Any = msgpack.unpackb(data[_HEADER.size : _HEADER.size + length])
        return str(about["boot_id"]), _HEADER.size + length
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None


def frame_bytes(at_s: float, mono_s: float, topic: str, payload: bytes) -> bytes:
    """Return one message as a frame."""
    name = topic.encode()
    content = _CONTENT.pack(at_s, mono_s, len(name)) + name + payload
    return _FRAME.pack(MARKER, len(content), zlib.crc32(content)) + content


def span_of(data: bytes, name: str) -> tuple[float, float] | None:
    """Return the epoch seconds of a raw segment's earliest and latest frame; None if no frame is whole."""
    opened = read_header(data, name)
    if opened is None:
        return None
    times = [_CONTENT.unpack_from(data, at + _FRAME.size)[0] for at in _whole_frames(data, opened[1], Damage())]
    return (min(times), max(times)) if times else None


def _whole_frames(data: bytes, start: int, damage: Damage) -> Iterator[int]:
    """Yield where each whole frame begins; see Note [Damage]."""
    at, bad_since = start, -1
    while at < len(data):
        end = _end_of_frame(data, at)
        if end is not None:
            if bad_since >= 0:
                damage.places += 1
                damage.place_bytes += at - bad_since
                bad_since = -1
            yield at
            at = end
            continue
        bad_since = at if bad_since < 0 else bad_since
        following = data.find(MARKER, at + 1)
        at = following if following >= 0 else len(data)
    if bad_since >= 0:
        damage.tails += 1
        damage.tail_bytes += len(data) - bad_since


def _end_of_frame(data: bytes, at: int) -> int | None:
    """Return where the frame at ``at`` ends; None if no whole frame stands there."""
    begin = at + _FRAME.size
    if begin > len(data):
        return None
    marker, length, checksum = _FRAME.unpack_from(data, at)
    if marker != MARKER or not _CONTENT.size <= length <= MAX_CONTENT_BYTES or begin + length > len(data):
        return None
    if zlib.crc32(memoryview(data)[begin : begin + length]) != checksum:
        return None
    return int(begin + length)


def _unpacked(data: bytes) -> bytes:
    """Return the bytes of a compressed segment, as far as they can be unpacked, ``MAX_UNPACKED_BYTES`` at most."""
    unpacker, parts, left = lzma.LZMADecompressor(), list[bytes](), MAX_UNPACKED_BYTES
    for at in range(0, len(data), 4096):
        if left <= 0:
            break
        try:
            parts.append(unpacker.decompress(data[at : at + 4096], left))
            left -= len(parts[-1])
        except (lzma.LZMAError, EOFError):
            parts.append(b"?")  # so that the end counts as cut off
            break
    return b"".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
