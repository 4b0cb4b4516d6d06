"""What `replay` says of recordings that hold nothing to replay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import replay
from common.errors import RecordingError
from tests.sim.decider_tape import write
from tests.unit.test_replay_core import edited, eventful, is_decision


def test_a_file_that_is_no_recording_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "000001.rec"
    path.write_bytes(b"no recording at all")
    with pytest.raises(RecordingError) as raised:
        replay.run(tmp_path / "absent.toml", tmp_path, None, as_json=False)
    assert str(raised.value).count("000001.rec (not a recording)") == 1
    assert str(raised.value).count("000001.rec") == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda values: values["header"].update(version=99), "version 99; only 1 is spoken here"),
        (lambda values: values["body"].pop("evidence"), "decision.web: evidence: Field required"),
    ],
)
def test_records_that_this_release_cannot_read_say_why(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    write(tmp_path, [edited(frame, change) if is_decision(frame) else frame for frame in eventful()[:60]])
    with pytest.raises(
        RecordingError, match=r"no decision in .*; left out of the recording: \d+ unknown messages"
    ) as raised:
        replay.run(tmp_path / "absent.toml", tmp_path, None, as_json=False)
    assert why in str(raised.value)
