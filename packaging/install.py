"""``make install`` and ``make uninstall``: put the program where the system keeps such things, and take it away again.

What is installed does not need the source tree afterwards: the packages are those of ``.venv``, pinned by hash, copied
by their own lists of files. Nothing outside of DESTDIR is written; where there is no DESTDIR, systemd makes accounts
and directories and reads the units, or stops them first.

Usage: .venv/bin/python packaging/install.py install|uninstall   (PREFIX, DESTDIR in the environment)
"""

import compileall
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.manual import COMPLETIONS, completion, manual  # noqa: E402 - from the tree that is being installed
from cli.shared_dirs import belong_to_units  # noqa: E402 - the same

NAME: Final = "libvirt-autoscaler"
CONFIG: Final = Path("/etc") / NAME / "autoscaler.toml"
TREES: Final = ("common", "services", "cli", "guest_image", "load", "scripts")
UNITS: Final = ROOT / "packaging" / "systemd"
FOR_SYSTEM: Final = {"sysusers.conf": "sysusers.d", "tmpfiles.conf": "tmpfiles.d"}
RUN_DIR: Final = Path("/run") / NAME
LAUNCHER: Final = '#!/bin/sh\nexec {lib}/bin/python3 -IB -m cli "$@"\n'
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go; all of them as the installed program sees them, without ``destdir``."""

    prefix: Path
    destdir: str

    @property
    def lib(self) -> Path:
        """Return the directory of program and packages."""
        return self.prefix / "lib" / NAME

    @property
    def manifest(self) -> Path:
        """Return the list of all files outside of ``lib`` and ``/etc``."""
        return self.lib / "installed-files"

    def at(self, path: Path) -> Path:
        """Return where ``path`` is written now."""
        return Path(f"{self.destdir}{path}")


def install(places: Places) -> None:
    """Put everything in its place; what an earlier installation left there is replaced, the configuration is kept."""
    lib = places.at(places.lib)
    if lib.exists():
        shutil.rmtree(lib)
    _environment(places)
    for tree in TREES:
        shutil.copytree(ROOT / tree, lib / tree, ignore=shutil.ignore_patterns("__pycache__"))
    packages = _site_packages(places)
    _copy_packages(places.at(packages))
    places.at(packages / f"{NAME}.pth").write_text(f"{places.lib}\n", encoding="utf-8")
    compileall.compile_dir(lib, quiet=2, workers=0, stripdir=places.destdir or None)
    written = [_write(places, path, text, mode) for path, text, mode in _files(places)]
    _write(places, places.manifest, "".join(f"{path}\n" for path in written), 0o644)
    if not places.at(CONFIG).exists():
        _write(places, CONFIG, (ROOT / "autoscaler.toml").read_text(encoding="utf-8"), 0o644)
    _tell_systemd(places)


def uninstall(places: Places) -> None:
    """Stop the services and take away what ``install`` wrote, but the configuration; state and domains are left."""
    manifest = places.at(places.manifest)
    if not manifest.is_file():
        raise SystemExit(f"nothing is installed here: {manifest} is missing")
    if _has_systemd(places):
        subprocess.run(["systemctl", "disable", f"{NAME}.target"], check=False)
        subprocess.run(["systemctl", "stop", f"{NAME}*"], check=False)  # of the target alone returns before they end
    for line in manifest.read_text(encoding="utf-8").splitlines():
        path = places.at(Path(line))
        path.unlink(missing_ok=True)
        if path.parent.name.endswith(".service.d") and not any(path.parent.iterdir()):
            path.parent.rmdir()
    shutil.rmtree(places.at(places.lib))
    if _has_systemd(places):
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        if belong_to_units(RUN_DIR):  # what ``make up`` finds there would keep it from making its own
            shutil.rmtree(RUN_DIR)


def _files(places: Places) -> Iterator[tuple[Path, str, int]]:
    """Yield path, text and mode of every file outside of ``lib``."""
    prefix = places.prefix
    yield prefix / "bin" / "autoscaler", LAUNCHER.format(lib=places.lib), 0o755
    for unit in sorted(path for path in UNITS.rglob("*") if path.is_file() and path.name not in FOR_SYSTEM):
        text = unit.read_text(encoding="utf-8").replace("@LIB@", str(places.lib)).replace("@CONFIG@", str(CONFIG))
        yield prefix / "lib" / "systemd" / "system" / unit.relative_to(UNITS), text, 0o644
    for file, place in FOR_SYSTEM.items():
        yield prefix / "lib" / place / f"{NAME}.conf", (UNITS / file).read_text(encoding="utf-8"), 0o644
    yield prefix / "share" / "man" / "man1" / "autoscaler.1", manual(), 0o644
    for shell, place in COMPLETIONS.items():
        yield prefix / "share" / place, completion(shell), 0o644


def _write(places: Places, path: Path, text: str, mode: int) -> Path:
    target = places.at(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)
    return path


def _environment(places: Places) -> None:
    """Make what Python takes for a virtual environment: an interpreter and a ``pyvenv.cfg``, without DESTDIR in it."""
    lib = places.at(places.lib)
    (lib / "bin").mkdir(parents=True)
    (lib / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    version = ".".join(str(part) for part in sys.version_info[:3])
    text = f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\nversion = {version}\n"
    (lib / "pyvenv.cfg").write_text(text, encoding="utf-8")
    places.at(_site_packages(places)).mkdir(parents=True)


def _site_packages(places: Places) -> Path:
    return places.lib / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _copy_packages(target: Path) -> None:
    """Copy the packages that running needs, each by its own list of files, with their licences."""
    pins = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8").splitlines()
    names = sorted({found[1] for line in pins if (found := _PIN.match(line))})
    for name in names:
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:  # pinned for another platform
            continue
        for file in files:
            if ".." in file.parts or "__pycache__" in file.parts:  # commands of its own; compiled below
                continue
            path = target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), path)


def _has_systemd(places: Places) -> bool:
    """Return whether this is the root of a machine that runs systemd."""
    return not places.destdir and Path("/run/systemd/system").is_dir()


def _tell_systemd(places: Places) -> None:
    """Make accounts and directories and have a running systemd read the units, where this is the real root."""
    if _has_systemd(places):
        subprocess.run(["systemd-sysusers"], check=False)
        subprocess.run(["systemd-tmpfiles", "--create", f"{NAME}.conf"], check=False)
        subprocess.run(["systemctl", "daemon-reload"], check=False)


def main() -> int:
    """Install or uninstall as the command line says."""
    prefix = Path(os.environ.get("PREFIX") or "/usr/local")
    destdir = os.environ.get("DESTDIR", "").rstrip("/")
    if not prefix.is_absolute() or (destdir and not destdir.startswith("/")):
        raise SystemExit(f"PREFIX and DESTDIR must be absolute; got {str(prefix)!r} and {destdir!r}")
    {"install": install, "uninstall": uninstall}[sys.argv[1]](Places(prefix, destdir))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
