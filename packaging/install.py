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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.manual import COMPLETIONS, completion, manual  # noqa: E402 - from the tree that is being installed
from cli.shared_dirs import belong_to_units  # noqa: E402 - the same
from common.services import ALL_SERVICES  # noqa: E402 - the same

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
    """Put everything in its place; what an earlier installation left there is replaced, the configuration is kept.

    Program and packages are made aside and renamed: what runs finds a whole release, the old one or the new one. What
    the old release had put elsewhere and the new one has not is stopped and removed.
    """
    lib, old = places.at(places.lib), _installed(places)
    fresh = lib.with_name(f"{lib.name}.new")
    _remove(fresh)
    _environment(fresh)
    for tree in TREES:
        shutil.copytree(ROOT / tree, fresh / tree, ignore=shutil.ignore_patterns("__pycache__"))
    packages = fresh / _site_packages()
    _copy_packages(packages)
    (packages / f"{NAME}.pth").write_text(f"{'/'.join('..' for _ in _site_packages().parts)}\n", encoding="utf-8")
    compileall.compile_dir(fresh, quiet=2, workers=0, stripdir=str(fresh), prependdir=str(places.lib))
    files = list(_files(places))
    new = [str(path) for path, _, _ in files]
    gone = [path for path in old if path not in new]
    manifest = fresh / places.manifest.name
    manifest.write_text("".join(f"{path}\n" for path in (*new, *gone)), encoding="utf-8")
    _open_to_all(fresh)
    _replace(lib, fresh)
    for path, text, mode in files:
        _write(places, path, text, mode)
    _stop_units(places, gone)
    _remove_files(places, gone)
    _write(places, places.manifest, "".join(f"{path}\n" for path in new), 0o644)
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
        sys.stdout.write("stopping; HAProxy first lets requests in flight end\n")
        sys.stdout.flush()
        subprocess.run(["systemctl", "stop", f"{NAME}*"], check=False)  # of the target alone returns before they end
    _remove_files(places, _installed(places))
    shutil.rmtree(places.at(places.lib))
    if _has_systemd(places):
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        if belong_to_units(RUN_DIR):  # what ``make up`` finds there would keep it from making its own
            shutil.rmtree(RUN_DIR)


def _installed(places: Places) -> list[str]:
    """Return the files outside of ``lib`` and ``/etc`` that an installation has there now."""
    manifest = places.at(places.manifest)
    return manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []


def _remove_files(places: Places, names: Sequence[str]) -> None:
    for name in names:
        path = places.at(Path(name))
        path.unlink(missing_ok=True)
        if path.parent.name.endswith(".service.d") and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _replace(directory: Path, fresh: Path) -> None:
    """Have ``fresh`` stand where ``directory`` stood."""
    old = directory.with_name(f"{directory.name}.old")
    _remove(old)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    _remove(old)


def _open_to_all(directory: Path) -> None:
    """Have every user read what is in the directory, whatever the umask and the modes of the source were."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


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


def _environment(lib: Path) -> None:
    """Make what Python takes for a virtual environment: an interpreter and a ``pyvenv.cfg``, without its place."""
    (lib / "bin").mkdir(parents=True)
    (lib / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    version = ".".join(str(part) for part in sys.version_info[:3])
    text = f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\nversion = {version}\n"
    (lib / "pyvenv.cfg").write_text(text, encoding="utf-8")
    (lib / _site_packages()).mkdir(parents=True)


def _site_packages() -> Path:
    return Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


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


def _stop_units(places: Places, gone: Sequence[str]) -> None:
    """Stop and disable the units whose files are to go, and services that this release does not have."""
    if not _has_systemd(places):
        return
    units = {Path(path).name for path in gone if Path(path).parent.name == "system"}
    known = {f"{NAME}@{name}.service" for name in ALL_SERVICES}
    running = {unit for unit in _units("--all") if unit.startswith(f"{NAME}@") and unit not in known}
    for unit in sorted(units | running):
        subprocess.run(["systemctl", "disable", "--now", unit], check=False)


def _units(*options: str) -> list[str]:
    """Return the names of our units that systemd has loaded."""
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--no-pager", *options, f"{NAME}*"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def _tell_systemd(places: Places) -> None:
    """Make accounts and directories and have a running systemd read the units, where this is the real root.

    What runs goes on with the release it was started with: when to restart it is the operator's to say.
    """
    if not _has_systemd(places):
        return
    subprocess.run(["systemd-sysusers"], check=False)
    subprocess.run(["systemd-tmpfiles", "--create", f"{NAME}.conf"], check=False)
    subprocess.run(["systemctl", "daemon-reload"], check=False)
    if running := [unit for unit in _units("--state=active") if unit.endswith(".service")]:
        sys.stdout.write(
            f"{len(running)} units run, with the release they were started with; to have this one run:\n"
            f"  systemctl restart '{NAME}@*' && systemctl reload {NAME}-haproxy\n"
        )


def main() -> int:
    """Install or uninstall as the command line says."""
    os.umask(0o022)  # the directories on the way
    prefix = Path(os.environ.get("PREFIX") or "/usr/local")
    destdir = os.environ.get("DESTDIR", "").rstrip("/")
    if not prefix.is_absolute() or (destdir and not destdir.startswith("/")):
        raise SystemExit(f"PREFIX and DESTDIR must be absolute; got {str(prefix)!r} and {destdir!r}")
    {"install": install, "uninstall": uninstall}[sys.argv[1]](Places(prefix, destdir))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
