"""A guest of 512 bytes that does nothing but write to its disk, and a small file system that such guests can fill.

It needs no memory to speak of, no network and no second to boot, so what a full disk does can be tried with several.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

DISK_MIB: Final = 8
SECTORS_MASK: Final = DISK_MIB * 2048 - 1
BOOT_SECTOR: Final = (
    bytes.fromhex(
        "31c0 8ed8 8ed0 bc007c fb"  # segments and stack; interrupts on
        "be307c b80043 b280 cd13"  # write the 64 sectors that the packet names (INT 13h, extended)
        "668306 387c 40"  # then the next 64 …
        f"668126 387c {SECTORS_MASK.to_bytes(4, 'little').hex()} 7505 c606 387c 40"  # … beginning anew
        "f4 ebdc 909090"  # at the next tick of the clock, eighteen of them a second
        "1000 4000 0080 0000 4000000000000000"  # the packet
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


def write_disk(path: Path) -> Path:
    """Make a sparse disk that boots into writing all over itself."""
    path.write_bytes(BOOT_SECTOR)
    with path.open("r+b") as file:
        file.truncate(DISK_MIB * 1024 * 1024)
    path.chmod(0o666)
    return path


class SmallFileSystem:
    """A mounted file system of 24 MiB that can be filled and freed."""

    def __init__(self, directory: Path) -> None:
        """It is mounted at ``directory``."""
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self, left_bytes: int) -> None:
        """Leave so many bytes free."""
        free = self._free_bytes()
        subprocess.run(["fallocate", "-l", str(free - left_bytes), str(self._ballast)], check=True)

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def _free_bytes(self) -> int:
        done = subprocess.run(
            ["stat", "-f", "-c", "%a %S", str(self.directory)], check=True, capture_output=True, text=True
        )
        blocks, size = done.stdout.split()
        return int(blocks) * int(size)


@contextmanager
def small_file_system(directory: Path, image: Path) -> Iterator[SmallFileSystem]:
    """Mount a file system of 24 MiB without reserved blocks, from ``image``, at ``directory``."""
    with image.open("wb") as file:
        file.truncate(24 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        directory.chmod(0o755)
        yield SmallFileSystem(directory)
    finally:
        subprocess.run(["umount", str(directory)], check=True)
