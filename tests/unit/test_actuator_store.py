"""The actuator's own file, where the disk refuses it."""

from pathlib import Path

from services.actuator.store import Stored, write


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    assert write(Path("/dev/null/x/actuator.json"), Stored(), "boot") == (
        "/dev/null/x/actuator.json cannot be written: Not a directory"
    )
    assert write(tmp_path / "actuator.json", Stored(), "boot") == ""
