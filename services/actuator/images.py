"""What template groups boot: our own copies of kernel and initramfs, or a disk image and what goes into its seed.

libvirt changes the owner of the files it boots from, so it gets copies of its own, checked against their manifest, one
directory for each image by its digest. A new image is a new directory: domains that run keep the files they were
started from. Disk images are not copied, see ``keeper``; user-data and XML are read here, and again when they change.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from common import files
from common.config import Image, Network
from common.errors import AutoscalerError
from common.name_servers import name_servers
from common.volume import digest
from services.actuator.core import extra_xml
from services.actuator.core.disks import GIB, Disk
from services.actuator.core.domain_xml import OWN_DISKS
from services.actuator.core.extra_xml import Extra
from services.actuator.core.seed import MAX_USER_DATA_BYTES, why_no_user_data
from services.actuator.core.seen import Template

COPIES: Final = "actuator/boot"
MANIFEST: Final = "manifest.json"
CONSOLES: Final = "actuator/console"
DIGEST_LENGTH: Final = 16


class ImageError(AutoscalerError):
    """The guest image is missing or does not match its manifest."""


@dataclass(frozen=True, slots=True)
class _Part:
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Described:
    """What a manifest says: kernel and initramfs, in this order, and what the kernel is told."""

    parts: tuple[_Part, _Part]
    arguments: str

    @property
    def digest(self) -> str:
        """Return what tells this image from another one."""
        inputs = f"{self.parts[0].sha256} {self.parts[1].sha256} {self.arguments}"
        return hashlib.sha256(inputs.encode()).hexdigest()[:DIGEST_LENGTH]


class Images:
    """The images of all template groups; each is looked at again only when its manifest changes."""

    def __init__(self, state_path: Path) -> None:
        """Keep the copies under ``state_path``."""
        self._state_path = state_path
        self._known: dict[Path, tuple[int, int, Template]] = {}

    def of(self, image: Image, network: Network) -> Template:
        """Return what a group with this image boots now.

        Raises:
            ImageError: a file is missing or cannot be used; a disk image itself is looked at by ``keeper``.
        """
        written = written_for(image, network)
        parts = [written.extra.text] if written.extra is not None else []
        if written.disk is None:
            template = self.template(image.directory)
            name = "-".join([template.digest, *map(digest, parts)])
            return replace(template, digest=name, extra=written.extra)
        consoles = self._state_path / CONSOLES
        self._make_reachable(consoles)
        return replace(written, digest=digest(written.disk.digest, image.machine, *parts), console_dir=str(consoles))

    def template(self, directory: str) -> Template:
        """Return the template for the image in ``directory``, empty for the demo guest's.

        Raises:
            ImageError: it is missing, or a file does not match the manifest.
        """
        source = Path(directory) if directory else self._state_path / "images"
        try:
            state = (source / MANIFEST).stat()
        except OSError as error:
            raise _missing(directory, source, error) from error
        known = self._known.get(source)
        if known is None or known[:2] != (state.st_mtime_ns, state.st_size):
            self._known[source] = known = (state.st_mtime_ns, state.st_size, self._copy(source, directory))
        return known[2]

    def sweep(self, digests_in_use: set[str]) -> None:
        """Remove the copies that no domain and no group uses any more."""
        used = digests_in_use | {template.digest for _, _, template in self._known.values()}
        keep = {digest.partition("-")[0] for digest in used}
        parent = self._state_path / COPIES
        for copy in sorted(parent.iterdir()) if parent.is_dir() else ():
            if copy.name not in keep:
                shutil.rmtree(copy, ignore_errors=True)

    def _make_reachable(self, directory: Path) -> None:
        """Make a directory that QEMU's own user can reach, whatever umask this process was given."""
        files.ensure_dir(directory, 0o755)
        for part in (directory, *directory.parents):
            if part == self._state_path:
                return
            if stat.S_IMODE(part.stat().st_mode) != 0o755:  # one that root made is as it must be
                files.set_mode(part, 0o755)

    def _copy(self, source: Path, directory: str) -> Template:
        described = _described(source, directory)
        target, consoles = self._state_path / COPIES / described.digest, self._state_path / CONSOLES
        with _told(source, directory):
            for made in (target, consoles):
                self._make_reachable(made)
            for part in described.parts:
                _copy_checked(source / part.file, target / part.file, part.sha256)
        kernel, initramfs = (str(target / part.file) for part in described.parts)
        return Template(kernel, initramfs, described.digest, described.arguments, console_dir=str(consoles))


def check_directory(directory: str) -> None:
    """Return if the image in a directory that an operator named is whole; nothing is made.

    Raises:
        ImageError: it is missing, or a file does not match the manifest.
    """
    source = Path(directory)
    described = _described(source, directory)
    with _told(source, directory):
        for part in described.parts:
            _checked(source / part.file, part.sha256)


def _described(source: Path, directory: str) -> _Described:
    with _told(source, directory):
        try:
            text = (source / MANIFEST).read_text(encoding="utf-8")
        except OSError as error:
            raise _missing(directory, source, error) from error
        manifest = json.loads(text)
        parts = _part(manifest, "kernel"), _part(manifest, "initramfs")
        return _Described(parts, str(manifest.get("kernel_arguments", "")))


@contextmanager
def _told(source: Path, directory: str) -> Iterator[None]:
    """Turn what is wrong with an image into one sentence that says what it must be."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{MANIFEST} has no {error}" if isinstance(error, KeyError) else str(error)
        is_it = isinstance(error, FileNotFoundError) or not isinstance(error, OSError)  # and not a disk that is full
        mend = f"; {_mend(directory)}" if is_it else ""
        raise ImageError(f"the guest image in {source} is not usable: {why}{mend}") from error


def _missing(directory: str, source: Path, error: OSError) -> ImageError:
    return ImageError(f"no guest image in {source}: {error.strerror}; {_mend(directory)}")


def _mend(directory: str) -> str:
    """Return what makes an image be there: ``make image`` builds the demo guest's in its own place alone."""
    if not directory:
        return "build it with: make image"
    return f"image.directory must hold {MANIFEST}, and kernel and initramfs as it describes them"


def written_for(image: Image, network: Network) -> Template:
    """Return what the user has written for an image: its disk with user-data and keys, its XML.

    Nothing is made: kernel and initramfs, where it has them, are places that do not exist.

    Raises:
        ImageError: a file cannot be read or used.
    """
    extra = _extra(image, network)
    if not image.disk:
        return Template("/nowhere/kernel", "/nowhere/initramfs", "", extra=extra)
    disk = Disk(
        image.disk,
        round((image.disk_gib or 0) * GIB),
        _user_data(image.user_data),
        image.ssh_keys,
        name_servers(network),
    )
    return Template("", "", "", disk=disk, extra=extra)


def _extra(image: Image, network: Network) -> Extra | None:
    if not image.xml:
        return None
    text = _text(image.xml, "xml", _read_trusted)
    try:
        return extra_xml.check(text, image.xml, network, OWN_DISKS if image.disk else ())
    except extra_xml.ExtraXmlError as error:
        raise ImageError(f"the extra domain XML cannot be used: {error}") from error


def _user_data(file: str) -> str:
    text = _text(file, "user_data") if file else ""
    why = why_no_user_data(text)
    if why:
        raise ImageError(f"user_data: {file} {why}")
    return text


def _read(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(MAX_USER_DATA_BYTES + 1)


def _read_trusted(path: Path) -> bytes:
    """Return what is in a file that is as good as root's password: it may hand any file of the host to a guest."""
    return files.read_trusted(path, MAX_USER_DATA_BYTES + 1)


def _text(file: str, key: str, read: Callable[[Path], bytes] = _read) -> str:
    try:
        return read(Path(file)).decode()
    except PermissionError as error:
        raise ImageError(f"{key}: {file} cannot be used: {error.strerror}") from error
    except OSError as error:
        raise ImageError(f"{key}: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ImageError(f"{key}: {file} is not UTF-8 at byte {error.start}") from error


def _part(manifest: dict[str, Any], name: str) -> _Part:
    file, sha256 = str(manifest[name]["file"]), str(manifest[name]["sha256"])
    if Path(file).name != file:
        raise ValueError(f"{name} must be a plain file name; got {file!r}")
    return _Part(file, sha256)


def _copy_checked(source: Path, target: Path, sha256: str) -> None:
    """Put a checked copy in place in one step; one that is there and whole stays."""
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
        return
    files.replace_file(target, _checked(source, sha256), mode=files.PUBLIC, is_durable=True)


def _checked(source: Path, sha256: str) -> bytes:
    """Return what is in a file that is as its manifest says."""
    content = source.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{source.name} does not match its manifest: sha256 {found[:12]}…, expected {sha256[:12]}…")
    return content
