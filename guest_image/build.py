"""Builds the guest image: ``python3 guest_image/build.py --output DIR``.

Leaves ``DIR/vmlinuz``, ``DIR/initramfs.img`` and ``DIR/manifest.json``. The same packages and sources give the same
bytes. A build that is cut short leaves what was there before: files are made aside and renamed, the manifest last;
an image whose files do not match its manifest is built anew. Needs the standard library only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))  # started as a file, before anything is installed

from common import files  # noqa: E402 - after the path is set
from common.clock import SystemClock  # noqa: E402 - the same
from guest_image import arguments, cpio, kernel, packages  # noqa: E402
from guest_image.errors import BuildError  # noqa: E402

KERNEL, INITRAMFS, MANIFEST = "vmlinuz", "initramfs.img", "manifest.json"
# A power button that is pressed before its driver is there is lost, so the guest serves only once it would see one.
EARLY_MODULES = ("virtio_pci", "virtio_net", "button", "evdev")
LATE_MODULES = ("virtio_rng", "virtio_balloon")
TOOLS = {"gcc": "gcc", "mmdebstrap": "mmdebstrap", "apt-config": "apt", "lz4": "lz4", "zstd": "zstd"}
NEEDED_BYTES = 1 << 30
COMPILER = ("gcc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-s", "-pthread", "-Wall", "-Wextra", "-Werror")
LINKER = ("-Wl,--build-id=none",)
_TEMPORARY = ".build-"
_T = TypeVar("_T")


class Progress:
    """Numbered steps with the seconds each took."""

    def __init__(self, total: int) -> None:
        """Count to ``total``."""
        self._total = total
        self._number = 0
        self._clock = SystemClock()

    def step(self, title: str, work: Callable[[], _T]) -> _T:
        """Do ``work`` and print one line about it."""
        self._number += 1
        say(f"[{self._number}/{self._total}] {title} ... ", end="")
        start_s = self._clock.monotonic_s()
        result = work()
        say(f"{self._clock.monotonic_s() - start_s:.1f} s")
        return result


def say(text: str, end: str = "\n") -> None:
    """Print for the person who waits."""
    print(text, end=end, flush=True)


def epoch_s() -> int:
    """Return the time that every file of the image carries."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def inputs_sha256() -> str:
    """Return a hash of all that decides about the image but the packages' versions."""
    digest = hashlib.sha256(f"{epoch_s()} {Path('/etc/os-release').read_text(encoding='utf-8')}".encode())
    code = (path for path in HERE.glob("*.py") if path.name != "measure_boot.py")
    for path in sorted([*code, *(HERE / "app").iterdir()]):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current(output: Path) -> bool:
    """Return whether ``output`` holds a whole image made from the present inputs."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
        described = {manifest[part]["file"]: manifest[part]["sha256"] for part in ("kernel", "initramfs")}
        whole = all(_sha256(output / name) == digest for name, digest in described.items())
        return whole and manifest["inputs_sha256"] == inputs_sha256()
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no image, half an image, or another version's: build


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compile_app(target: Path) -> None:
    """Compile the application to one static file.

    Raises:
        BuildError: The compiler refused; the message is its own.
    """
    sources = sorted(path.name for path in (HERE / "app").glob("*.c"))
    command = [*COMPILER, *sources, *LINKER, "-o", str(target)]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(epoch_s())}
    done = subprocess.run(command, cwd=HERE / "app", env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"gcc failed:\n{done.stderr.strip()}")


def make_initramfs(app: Path, root: Path, modules_directory: Path) -> bytes:
    """Return the archive: the application as /init, modules in load order, busybox for DHCP."""
    early = kernel.modules(modules_directory, EARLY_MODULES)
    loaded = tuple(name.removesuffix(".ko") for name, _ in early)
    late = kernel.modules(modules_directory, LATE_MODULES, loaded)
    members = {
        "init": cpio.file(app.read_bytes(), 0o755),
        "bin/busybox": cpio.file(_busybox(root).read_bytes(), 0o755),
        "bin/sh": cpio.Entry(stat.S_IFLNK | 0o777, b"busybox"),
        "bin/dhcp-bound": cpio.file((HERE / "app/dhcp-bound").read_bytes(), 0o755),
        "dev": cpio.Entry(stat.S_IFDIR | 0o755),
        "proc": cpio.Entry(stat.S_IFDIR | 0o755),
    }
    for stage, modules in (("early", early), ("late", late)):
        for number, (name, content) in enumerate(modules):
            members[f"modules/{stage}/{number:02d}-{name}"] = cpio.file(content)
    return cpio.write(members, epoch_s())


def _busybox(root: Path) -> Path:
    for path in (root / "bin/busybox", root / "usr/bin/busybox"):
        if path.is_file():
            return path
    raise BuildError("the package busybox-static holds no busybox")


def check_machine(output: Path) -> None:
    """Refuse early what would fail late.

    Raises:
        BuildError: A tool, the right to use it, or room on the disk is missing.
    """
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise BuildError(
            f"missing packages: {' '.join(missing)}; install them with: apt-get install {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise BuildError("mmdebstrap unpacks packages as root; run the build as root or with sudo")
    free_bytes = shutil.disk_usage(output).free
    if free_bytes < NEEDED_BYTES:
        raise BuildError(f"{output} has {free_bytes >> 20} MiB free; the build needs {NEEDED_BYTES >> 20} MiB")


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """Give a directory beside the image that is gone afterwards, with no other build at work in ``output``."""
    with os.fdopen(files.open_lock(output / ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in output.glob(f"{_TEMPORARY}*"):  # of a build that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=output) as directory:
            yield Path(directory)


def build(output: Path) -> dict[str, Any]:
    """Build the image into ``output`` and return its manifest."""
    progress = Progress(total=5)
    with workplace(output) as work:
        wanted = packages.distribution(Path("/etc/os-release").read_text(encoding="utf-8"))
        sources = packages.own_sources(packages.read_sources(Path("/etc/apt")), wanted.suite)
        root = work / "root"
        progress.step("compile the application", lambda: compile_app(work / "app"))
        title = f"fetch {' and '.join(wanted.packages)} ({wanted.suite})"
        progress.step(title, lambda: packages.fetch(root, wanted, sources, epoch_s()))
        vmlinuz, modules = kernel.find(root)
        image = progress.step("unpack the kernel", lambda: kernel.bootable(vmlinuz.read_bytes()))
        archive = progress.step("pack the initramfs", lambda: make_initramfs(work / "app", root, modules))
        versions = packages.versions(root, (f"linux-image-{modules.name}", "busybox-static"))
        manifest = describe(image, archive, modules.name, versions)
        progress.step("put the image in place", lambda: publish(output, image, archive, manifest))
    return manifest


def describe(image: bytes, archive: bytes, kernel_version: str, versions: dict[str, str]) -> dict[str, Any]:
    """Return the manifest of an image."""
    parts = {"kernel": (KERNEL, image), "initramfs": (INITRAMFS, archive)}
    files = {
        part: {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for part, (name, data) in parts.items()
    }
    form = "elf" if image.startswith(b"\x7fELF") else "bzimage"
    return {
        "format": 1,
        "inputs_sha256": inputs_sha256(),
        "kernel_version": kernel_version,
        "kernel_form": form,
        "kernel_arguments": arguments.kernel_arguments(),
        **files,
        "packages": versions,
    }


def publish(output: Path, image: bytes, archive: bytes, manifest: dict[str, Any]) -> None:
    """Put the files in place, each in one step, the manifest last."""
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    for name, data in ((KERNEL, image), (INITRAMFS, archive), (MANIFEST, text.encode())):
        files.replace_file(output / name, data, mode=files.PUBLIC, is_durable=True)


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt  # unwinds, so that the temporary directory goes


def main(words: list[str] | None = None) -> int:
    """Build the image unless it is current; return the exit code."""
    parser = argparse.ArgumentParser(description="Build the image that template domains boot.")
    parser.add_argument("--output", type=Path, required=True, help="directory of the image; made if missing")
    parser.add_argument("--force", action="store_true", help="build even if the image is current: newer packages")
    options = parser.parse_args(words)
    signal.signal(signal.SIGTERM, _stop)
    try:
        os.umask(0o022)  # the services' accounts read what is made here
        files.ensure_dir(options.output, 0o755)
        if not options.force and is_current(options.output):
            say(f"image in {options.output} is current")
            return 0
        check_machine(options.output)
        manifest = build(options.output.resolve())
    except (BuildError, OSError, ValueError) as error:
        say("")
        sys.stderr.write(f"image not built: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nimage not built: interrupted\n")
        return 130
    sizes = " + ".join(f"{manifest[part]['bytes'] / 1e6:.1f} MB {part}" for part in ("kernel", "initramfs"))
    say(f"image in {options.output}: {sizes}, Linux {manifest['kernel_version']} ({manifest['kernel_form']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
