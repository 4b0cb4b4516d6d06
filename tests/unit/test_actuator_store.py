"""The actuator's own file, where the disk refuses it."""

from pathlib import Path

from structlog.testing import capture_logs

from services.actuator.store import Stored, write


def test_a_disk_that_refuses_is_told_and_logged(tmp_path: Path) -> None:
    with capture_logs() as lines:
        assert write(Path("/dev/null/x/actuator.json"), Stored(), "boot") == (
            "/dev/null/x/actuator.json cannot be written: Not a directory"
        )
    assert [line["event"] for line in lines] == ["state-not-written"]
    assert write(tmp_path / "actuator.json", Stored(), "boot") == ""
