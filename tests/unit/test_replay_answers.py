"""What `replay` says of recordings that hold nothing to replay."""

from pathlib import Path

import pytest

from cli import replay
from common.errors import RecordingError


def test_a_file_that_is_no_recording_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "000001.rec"
    path.write_bytes(b"no recording at all")
    with pytest.raises(RecordingError) as raised:
        replay.run(tmp_path / "absent.toml", tmp_path, None, as_json=False)
    assert str(raised.value).count("000001.rec (not a recording)") == 1
    assert str(raised.value).count("000001.rec") == 1
