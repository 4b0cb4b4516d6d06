"""Takes the kernel and the modules of the image out of unpacked packages.

# Note [Uncompressed kernel]
A distribution's ``vmlinuz`` unpacks itself at each boot, which an emulated CPU does slowly. The ELF file inside it
carries a PVH entry point (an ELF note of Xen's, type 18) that QEMU jumps to at once, so the image holds that
file where the kernel has the note, and ``vmlinuz`` as it is where not.
"""

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

from guest_image.errors import BuildError

_SETUP_MAGIC = b"HdrS"
_ELF_MAGIC = b"\x7fELF"
_SIGNATURE_MAGIC = b"~Module signature appended~\n"
_PVH_NOTE = struct.pack("<3I4s", 4, 4, 18, b"Xen\0"), struct.pack("<3I4s", 4, 8, 18, b"Xen\0")
_PAYLOADS = {
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\x00": "xz",
}


def find(root: Path) -> tuple[Path, Path]:
    """Return the newest kernel below ``root`` and the directory of its modules."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"), key=lambda path: _version_key(path.name))
    if not kernels:
        raise BuildError("the kernel package holds no /boot/vmlinuz-*")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    for base in ("usr/lib/modules", "lib/modules"):
        if (root / base / version).is_dir():
            return kernels[-1], root / base / version
    raise BuildError(f"the kernel package holds no modules for {version}")


def _version_key(name: str) -> list[tuple[bool, int, str]]:
    pieces = name.replace("-", ".").split(".")
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def bootable(vmlinuz: bytes) -> bytes:
    """Return the form of the kernel that boots fastest; see Note [Uncompressed kernel]."""
    if vmlinuz[0x202:0x206] != _SETUP_MAGIC:
        raise BuildError("the kernel is not an x86 bzImage")
    setup_sectors = vmlinuz[0x1F1] or 4
    offset, length = struct.unpack_from("<II", vmlinuz, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    kernel = _decompress(vmlinuz[start : start + length])
    return kernel if kernel.startswith(_ELF_MAGIC) and has_pvh_entry(kernel) else vmlinuz


def has_pvh_entry(kernel: bytes) -> bool:
    """Return whether the ELF file has the note that tells QEMU where to enter it in 32-bit mode."""
    return any(note in kernel for note in _PVH_NOTE)


def _decompress(payload: bytes) -> bytes:
    method = next((name for magic, name in _PAYLOADS.items() if payload.startswith(magic)), None)
    if method is None:
        return b""  # an unknown method: the kernel stays as it is
    if method == "xz":
        return lzma.LZMADecompressor().decompress(payload)
    if method == "gzip":
        return gzip.decompress(payload[:-4])
    return _decompress_with(method, payload[:-4])  # the build appends the unpacked size


def _decompress_with(tool: str, data: bytes) -> bytes:
    done = subprocess.run([tool, "-d", "-c", "-q"], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{tool} cannot unpack the kernel: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def modules(directory: Path, wanted: tuple[str, ...], loaded: tuple[str, ...] = ()) -> list[tuple[str, bytes]]:
    """Return (file name, content) of the wanted modules and what they need, in the order to load them.

    Args:
        directory: ``/lib/modules/VERSION``.
        wanted: Module names with underscores; one that is built in, or that does not exist, is left out.
        loaded: Names that are loaded already.
    """
    files = {_module_name(path): path for path in directory.rglob("*.ko*")}
    order: dict[str, bytes] = {}
    for name in wanted:
        _add(name, files, frozenset(loaded), order)
    return [(f"{name}.ko", content) for name, content in order.items()]


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _add(name: str, files: dict[str, Path], loaded: frozenset[str], order: dict[str, bytes]) -> None:
    if name in order or name in loaded or name not in files:
        return
    content = _read_module(files[name])
    for dependency in depends(content):
        _add(dependency, files, loaded, order)
    order[name] = unsigned(content)


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return _decompress_with("zstd", data) if path.suffix == ".zst" else data


def depends(module: bytes) -> list[str]:
    """Return the names in the module's own ``depends=`` field (no depmod has run)."""
    field = module.partition(b"\0depends=")[2].partition(b"\0")[0].decode("ascii")
    return [name.replace("-", "_") for name in field.split(",") if name]


def unsigned(module: bytes) -> bytes:
    """Return the module without its appended signature: to check one costs an emulated CPU more than to load it."""
    if not module.endswith(_SIGNATURE_MAGIC):
        return module
    end = len(module) - len(_SIGNATURE_MAGIC)
    (length,) = struct.unpack(">I", module[end - 4 : end])
    return module[: end - 12 - length]
