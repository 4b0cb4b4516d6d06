"""What the groups boot, read from outside: is it there, whole, does it look bootable, which machine-id does it carry.

Nothing is mounted. ``debugfs`` reads an ext4 file system inside a raw disk at its partition's offset; a qcow2 disk is
unpacked into a temporary file first, a large one only where that was asked for.
"""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cli.doctor.facts import ImageFacts
from common.config import Config, Group
from services.actuator.core.disks import FORMATS

PATIENCE_S: Final = 120.0
SECTOR: Final = 512
MAX_PARTITIONS: Final = 128
MAX_UNPACKED_BYTES: Final = 16 * 1024**3
SOON_UNPACKED_BYTES: Final = 1024**3  # an image file up to this size is unpacked unasked: seconds
SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_EXT_MAGIC_AT: Final = 1080
_CHUNK_BYTES: Final = 1024 * 1024


def image_facts(config: Config, group: Group, *, is_thorough: bool) -> ImageFacts:
    """Return what a template group boots; ``is_thorough``: unpack also a large qcow2 disk to read its machine-id."""
    if group.image.disk:
        return disk_facts(Path(group.image.disk), is_thorough=is_thorough)
    source = Path(group.image.directory) if group.image.directory else config.system.state_path / "images"
    return _kernel_facts(source, "directory" if group.image.directory else "demo")


def _kernel_facts(source: Path, kind: str) -> ImageFacts:
    """Return whether kernel and initramfs are there, as the manifest describes them."""
    manifest_path = source / "manifest.json"
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        parts = [manifest[part] for part in ("kernel", "initramfs")]
        problems = [_part_problem(source / str(part["file"]), str(part["sha256"])) for part in parts]
    except FileNotFoundError:
        return ImageFacts(str(source), kind, exists=False, problem="no manifest.json")
    except OSError as error:
        return ImageFacts(str(source), kind, exists=True, problem=f"manifest.json: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        return ImageFacts(str(source), kind, exists=True, problem=f"manifest.json cannot be understood: {error!r}")
    bytes_there = sum(_bytes_of(source / str(part["file"])) for part in parts)
    problem = "; ".join(problem for problem in problems if problem)
    return ImageFacts(str(source), kind, exists=True, problem=problem, size_bytes=bytes_there)


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _part_problem(path: Path, sha256: str) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    found = digest.hexdigest()
    return "" if found == sha256 else f"{path.name} has sha256 {found[:12]}…, its manifest says {sha256[:12]}…"


def disk_facts(path: Path, *, is_thorough: bool) -> ImageFacts:
    """Return what a disk image shows from outside."""
    if not path.is_file():
        return ImageFacts(str(path), "disk", exists=False)
    if shutil.which("qemu-img", path=SBIN) is None:
        return ImageFacts(str(path), "disk", exists=True, is_tool_missing=True)
    info = _told("qemu-img", "info", "--output=json", "-U", str(path))
    if info is None:
        return ImageFacts(str(path), "disk", exists=True, problem="qemu-img cannot read it")
    about: dict[str, Any] = json.loads(info)
    problem = _disk_problem(path, about)
    is_thorough = is_thorough or path.stat().st_size <= SOON_UNPACKED_BYTES
    identity = None if problem else machine_id_in(path, str(about["format"]), is_thorough=is_thorough)
    return ImageFacts(
        source=str(path),
        kind="disk",
        exists=True,
        problem=problem,
        size_bytes=path.stat().st_size,
        capacity_bytes=int(about.get("virtual-size", 0)),
        machine_id=identity,
        is_machine_id_read=identity is not None,
        is_bootable=_has_boot_sector(path) if about["format"] == "raw" else None,
    )


def _disk_problem(path: Path, about: dict[str, Any]) -> str:
    """Return what is wrong with a disk image, empty where nothing is: what it stands on, and its metadata."""
    backing = about.get("full-backing-filename")
    if backing:
        return f"it must stand alone, and stands on {backing} (qemu-img convert makes one file)"
    if about.get("dirty-flag"):
        return "it was not closed properly: qemu-img check -r all, on a copy"
    if about["format"] not in FORMATS:
        return f"it must be qcow2 or raw, and is {about['format']}"
    if about["format"] != "qcow2":
        return "" if about.get("virtual-size", 0) >= SECTOR else "it is empty"
    checked = _told("qemu-img", "check", "--output=json", "-U", str(path), accept=(0, 1, 2, 3))
    found = json.loads(checked) if checked else {}
    faults = int(found.get("corruptions", 0)) + int(found.get("check-errors", 0))
    return f"qemu-img check finds {faults} faults" if faults or not found else ""


def _has_boot_sector(path: Path) -> bool:
    with path.open("rb") as file:
        sector = file.read(SECTOR)
    return sector[-2:] == b"\x55\xaa"


def machine_id_in(path: Path, form: str, *, is_thorough: bool) -> str | None:
    """Return the machine-id in a disk's root file system, empty where it has none yet; None if it cannot be read."""
    if form == "raw":
        return _machine_id_in_raw(path)
    if not is_thorough:
        return None
    with tempfile.TemporaryDirectory(prefix="autoscaler-doctor-", dir="/var/tmp") as directory:
        raw = Path(directory) / "disk.raw"
        if shutil.disk_usage(directory).free < min(MAX_UNPACKED_BYTES, 4 * path.stat().st_size):
            return None
        if _told("qemu-img", "convert", "-U", "-O", "raw", str(path), str(raw)) is None:
            return None
        return _machine_id_in_raw(raw)


def _machine_id_in_raw(path: Path) -> str | None:
    with path.open("rb") as file:
        starts = [start for start in _partitions(file.read(SECTOR * 64)) if _is_ext(file, start)]
    for start in starts:
        where = f"{path}?offset={start}" if start else str(path)
        if (text := _told("debugfs", "-R", "cat /etc/machine-id", where)) is not None and text.strip():
            return text.strip() if _MACHINE_ID.fullmatch(text.strip()) else ""
        if _told("debugfs", "-R", "stat /etc", where):
            return ""  # a root file system with an empty machine-id, or with none
    return None


def _is_ext(file: Any, start: int) -> bool:
    file.seek(start + _EXT_MAGIC_AT)
    return bool(file.read(2) == b"\x53\xef")


def _partitions(head: bytes) -> Iterator[int]:
    """Yield where file systems may begin, in bytes: at once, or where the partition table (GPT, MBR) says."""
    yield 0
    if head[SECTOR : SECTOR + 8] == b"EFI PART":
        (table_at,), (count, width) = (
            struct.unpack_from("<Q", head, SECTOR + 72),
            struct.unpack_from("<II", head, SECTOR + 80),
        )
        for index in range(min(count, MAX_PARTITIONS)):
            at = table_at * SECTOR + index * width
            if at + 40 <= len(head) and any(head[at : at + 16]):
                yield struct.unpack_from("<Q", head, at + 32)[0] * SECTOR
    elif head[510:512] == b"\x55\xaa":
        for index in range(4):
            start = struct.unpack_from("<I", head, 446 + 16 * index + 8)[0]
            if start:
                yield start * SECTOR


def _told(program: str, *arguments: str, accept: tuple[int, ...] = (0,)) -> str | None:
    """Return what a program prints; None where it is not there, too slow, or ends in another way than accepted."""
    path = shutil.which(program, path=SBIN)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], check=False, capture_output=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in accept else None
