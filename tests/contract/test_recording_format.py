"""The bytes of a recording, and what a reader makes of damaged ones."""

import lzma
import random
from pathlib import Path

import pytest

from common.errors import RecordingError
from common.messages import Event, Header, HostSample
from common.recording import (
    FORMAT_VERSION,
    MARKER,
    Recording,
    finished_name,
    frame_bytes,
    header_bytes,
    raw_name,
    segment_files,
)
from common.wire import encode

BOOT = "b0071d"


def event(number: int) -> tuple[str, bytes]:
    body = Event(name="scale-out", group="web", text=f"from {number} to {number + 1}")
    topic, payload = encode(Header(source="decider", run_id=7, seq=number + 1, sent_at_s=0, mono_s=0), body)
    return topic.decode(), payload


def sample(number: int) -> tuple[str, bytes]:
    body = HostSample(host="local", interval_s=1.0, is_reachable=True)
    topic, payload = encode(Header(source="monitor", run_id=7, seq=number + 1, sent_at_s=0, mono_s=0), body)
    return topic.decode(), payload


def raw(count: int, start: int = 0) -> bytes:
    frames = [frame_bytes(1000.0 + n, 50.0 + n, *event(n)) for n in range(start, start + count)]
    return header_bytes(BOOT, 1000.0) + b"".join(frames)


def write(directory: Path, number: int, data: bytes) -> Path:
    path = directory / raw_name(number)
    path.write_bytes(data)
    return path


def times(recording: Recording, **which: object) -> list[float]:
    return [recorded.at_s for recorded in recording.frames(**which)]  # type: ignore[arg-type]


def test_the_bytes_of_a_frame_are_golden() -> None:
    assert frame_bytes(1.0, 2.0, "event.x", b"\x80").hex() == (
        "f5726563"
        + "1a000000"
        + "944c4afc"
        + "000000000000f03f"
        + "0000000000000040"
        + "0700"
        + b"event.x".hex()
        + "80"
    )


def test_the_header_of_a_segment_is_golden() -> None:
    assert header_bytes("ab", 1.0).startswith(b"ASRECORD\x01\x00\x21\x00\x82\xa7boot_id\xa2ab\xab")


def test_what_was_sent_comes_back_byte_by_byte(tmp_path: Path) -> None:
    write(tmp_path, 1, raw(3))
    found = list(Recording(tmp_path).frames())
    assert [(f.at_s, f.mono_s, f.boot_id, f.topic, f.payload) for f in found] == [
        (1000.0 + n, 50.0 + n, BOOT, *event(n)) for n in range(3)
    ]


def test_an_unknown_version_is_one_clear_error(tmp_path: Path) -> None:
    data = bytearray(raw(1))
    data[8] = FORMAT_VERSION + 1
    write(tmp_path, 1, bytes(data))
    with pytest.raises(RecordingError, match=r"000001\.rec has format version 2; this program reads version 1"):
        list(Recording(tmp_path).frames())


def test_a_missing_recording_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no recording in"):
        list(Recording(tmp_path / "none").frames())


def test_every_cut_keeps_all_whole_frames_before_it_and_tells_of_the_tail(tmp_path: Path) -> None:
    data, one = raw(3), len(raw(1))
    ends = [one, len(raw(2)), len(data)]
    for cut in range(one - 1, len(data)):
        write(tmp_path, 1, data[:cut])
        recording = Recording(tmp_path)
        assert len(times(recording)) == sum(end <= cut for end in ends)
        assert recording.damage.tails == (cut not in ends and cut != len(header_bytes(BOOT, 1000.0)))


def test_a_segment_cut_within_its_header_is_an_end_that_is_cut_off(tmp_path: Path) -> None:
    for cut in range(len(header_bytes(BOOT, 1000.0))):
        write(tmp_path, 1, raw(1)[:cut])
        recording = Recording(tmp_path)
        assert times(recording) == []
        assert recording.damage.tails == (cut > 0)


def test_a_damaged_frame_is_left_out_counted_and_said(tmp_path: Path) -> None:
    data = bytearray(raw(5))
    data[len(raw(2)) + 30] ^= 0xFF
    write(tmp_path, 1, bytes(data))
    recording = Recording(tmp_path)
    assert times(recording) == [1000.0, 1001.0, 1003.0, 1004.0]
    size = len(raw(3)) - len(raw(2))
    assert recording.damage.text() == f"left out of the recording: 1 damaged place ({size} bytes)"


def test_a_damaged_length_loses_only_its_frame(tmp_path: Path) -> None:
    data = bytearray(raw(5))
    data[len(raw(2)) + 4 : len(raw(2)) + 8] = b"\xff\xff\xff\x7f"
    write(tmp_path, 1, bytes(data))
    assert times(Recording(tmp_path)) == [1000.0, 1001.0, 1003.0, 1004.0]


def test_noise_never_yields_a_frame_that_was_not_written(tmp_path: Path) -> None:
    dice = random.Random(5)
    written = {1000.0 + n: event(n) for n in range(40)}
    for _ in range(50):
        data = bytearray(raw(40))
        for _ in range(20):
            data[dice.randrange(len(header_bytes(BOOT, 1000.0)), len(data))] = dice.randrange(256)
        write(tmp_path, 1, bytes(data))
        for recorded in Recording(tmp_path).frames():
            assert written[recorded.at_s] == (recorded.topic, recorded.payload)


def test_a_marker_within_a_payload_is_no_frame(tmp_path: Path) -> None:
    odd = frame_bytes(1.0, 2.0, "event.x", MARKER * 50)
    write(tmp_path, 1, header_bytes(BOOT, 0.0) + odd[:-1] + b"?" + odd)
    recording = Recording(tmp_path)
    assert [recorded.payload for recorded in recording.frames()] == [MARKER * 50]
    assert recording.damage.places == 1


def test_finished_segments_read_as_raw_ones_do(tmp_path: Path) -> None:
    (tmp_path / finished_name(1, 1000.0, 1002.0)).write_bytes(lzma.compress(raw(3)))
    write(tmp_path, 2, raw(2, start=3))
    recording = Recording(tmp_path)
    assert times(recording) == [1000.0, 1001.0, 1002.0, 1003.0, 1004.0]
    assert times(recording, newest_first=True) == [1004.0, 1003.0, 1002.0, 1001.0, 1000.0]
    assert recording.newest_at_s() == 1004.0


def test_a_damaged_compressed_segment_gives_what_can_be_unpacked(tmp_path: Path) -> None:
    dice = random.Random(1)
    frames = [frame_bytes(1000.0 + n, 0.0, "event.x", dice.randbytes(400)) for n in range(200)]
    packed = bytearray(lzma.compress(header_bytes(BOOT, 1000.0) + b"".join(frames)))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / finished_name(1, 1000.0, 1200.0)).write_bytes(packed)
    recording = Recording(tmp_path)
    found = times(recording)
    assert found == [1000.0 + n for n in range(len(found))]
    assert 60 < len(found) < 110 or recording.damage.places or recording.damage.tails
    assert recording.damage.text()


def test_only_the_time_asked_for_is_given_and_other_segments_are_not_even_opened(tmp_path: Path) -> None:
    (tmp_path / finished_name(1, 1000.0, 1002.0)).write_bytes(b"never opened")
    (tmp_path / finished_name(2, 1003.0, 1007.0)).write_bytes(lzma.compress(raw(5, start=3)))
    recording = Recording(tmp_path)
    assert times(recording, since_s=1004.0, until_s=1006.0) == [1004.0, 1005.0, 1006.0]
    assert recording.damage.text() == ""


def test_kinds_are_chosen_by_the_first_part_of_the_topic(tmp_path: Path) -> None:
    both = b"".join(frame_bytes(1.0, 1.0, *made) for made in (sample(1), event(1), sample(2)))
    write(tmp_path, 1, header_bytes(BOOT, 0.0) + both)
    recording = Recording(tmp_path)
    assert [recorded.topic for recorded in recording.frames(kinds=["event"])] == ["event.scale-out"]
    assert [type(body) for _, _, body in recording.messages(kinds=["sample", "event"])] == [
        HostSample,
        Event,
        HostSample,
    ]


def test_messages_of_another_release_are_left_out_and_counted(tmp_path: Path) -> None:
    strange = frame_bytes(1.0, 1.0, "weather.local", b"\x80")
    write(tmp_path, 1, header_bytes(BOOT, 0.0) + strange + frame_bytes(2.0, 2.0, *event(0)))
    recording = Recording(tmp_path)
    assert [recorded.at_s for recorded, _, _ in recording.messages()] == [2.0]
    assert recording.damage.text().startswith("left out of the recording: 1 unknown message (")
    assert "weather.local" in recording.damage.text()


def test_a_file_that_is_no_segment_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path, 1, b"something else altogether")
    write(tmp_path, 2, raw(1))
    (tmp_path / "notes.txt").write_text("not even listed")
    recording = Recording(tmp_path)
    assert times(recording) == [1000.0]
    assert recording.damage.text() == "left out of the recording: 000001.rec (not a recording)"


def test_of_a_raw_segment_and_its_finished_twin_one_is_read(tmp_path: Path) -> None:
    write(tmp_path, 1, raw(3))
    (tmp_path / finished_name(1, 1000.0, 1002.0)).write_bytes(lzma.compress(raw(3)))
    assert times(Recording(tmp_path)) == [1000.0, 1001.0, 1002.0]


def test_a_segment_that_is_compressed_while_it_is_read_is_found_again(tmp_path: Path) -> None:
    write(tmp_path, 1, raw(1))
    second = write(tmp_path, 2, raw(2, start=1))
    frames = Recording(tmp_path).frames()
    first = next(frames)
    (tmp_path / finished_name(2, 1001.0, 1002.0)).write_bytes(lzma.compress(second.read_bytes()))
    second.unlink()
    assert [first.at_s, *(recorded.at_s for recorded in frames)] == [1000.0, 1001.0, 1002.0]


def test_a_segment_that_is_dropped_while_it_is_read_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, 1, raw(1))
    second = write(tmp_path, 2, raw(2, start=1))
    frames = Recording(tmp_path).frames()
    first = next(frames)
    second.unlink()
    assert [first.at_s, *(recorded.at_s for recorded in frames)] == [1000.0]


def test_segments_are_listed_oldest_first_by_number(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write(tmp_path, number, b"")
    assert [file.number for file in segment_files(tmp_path)] == [1, 2, 10]
