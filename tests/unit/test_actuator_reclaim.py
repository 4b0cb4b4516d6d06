"""Whether the host gives free memory back to the machine below it, by what virtio's devices say."""

from pathlib import Path

import pytest

from services.actuator.reclaim import is_memory_given_back


def device(devices: Path, number: str, features: str) -> None:
    place = devices / f"virtio{len(list(devices.iterdir()))}"
    place.mkdir()
    (place / "device").write_text(f"{number}\n")
    (place / "features").write_text(f"{features}\n")


@pytest.mark.parametrize(
    ("number", "features", "is_given_back"),
    [
        ("0x0005", "011001" + "0" * 58, True),
        ("0x0005", "011000" + "0" * 58, False),
        ("0x0005", "", False),
        ("0x0002", "111111" + "0" * 58, False),
        ("balloon", "111111", False),
    ],
)
def test_only_a_balloon_that_reports_free_pages_gives_memory_back(
    tmp_path: Path, number: str, features: str, is_given_back: bool
) -> None:
    device(tmp_path, "0x0001", "1" * 64)
    device(tmp_path, number, features)
    assert is_memory_given_back(tmp_path) is is_given_back


def test_a_host_without_virtio_and_a_device_that_goes_away_give_nothing_back(tmp_path: Path) -> None:
    assert not is_memory_given_back(tmp_path / "none")
    (tmp_path / "virtio0").mkdir()
    assert not is_memory_given_back(tmp_path)
