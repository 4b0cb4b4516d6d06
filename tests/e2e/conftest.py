"""Installations for the tests with real guests, and that they leave nothing behind."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disk_image import build
from tests.e2e.world import World, now_s

WAYS = {"test_compose", "test_disk_image", "test_systemd"}
"""Other ways to run it, and to boot a guest, than ``make up`` and the demo's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this directory."""
    for item in items:
        if Path(__file__).parent in Path(str(item.path)).parents:
            item.add_marker(pytest.mark.e2e)
            if item.path.stem in WAYS:
                item.add_marker(pytest.mark.ways)


@pytest.fixture(scope="module")
def disk(images: Path) -> Path:
    """Return the disk image, built at the first use."""
    begin = now_s()
    image = build(Path(tempfile.gettempdir()) / f"autoscaler-test-disks-{os.getuid()}")
    print(f"\ndisk image: {image} after {now_s() - begin:.0f} s")
    return image


@pytest.fixture(scope="module")
def make_world(images: Path) -> Iterator[Callable[..., World]]:
    """Return a function that makes worlds; each is taken down, whatever happened."""
    worlds: list[World] = []
    homes: list[tempfile.TemporaryDirectory[str]] = []

    def make(name: str, number: int, **changes: str) -> World:
        home = tempfile.TemporaryDirectory(prefix="ase-", dir="/var/tmp")
        Path(home.name).chmod(0o711)
        homes.append(home)
        worlds.append(World(Path(home.name), images, name, number, **changes))
        return worlds[-1]

    yield make
    for world in worlds:
        done = world.autoscaler("down", "--everything", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for home in homes:
        home.cleanup()
