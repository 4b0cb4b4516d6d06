"""A small file system of a test's own, and filling it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(directory: Path, image: Path, mib: int) -> Iterator[None]:
    """Let ``directory`` be a file system of so many MiB, held by the file ``image``, for as long as the body takes."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        directory.chmod(0o711)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        image.unlink()


def fill(path: Path) -> None:
    """Write until the file system is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
