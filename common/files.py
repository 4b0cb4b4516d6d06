"""The one door to writing files: replaced whole, made new, locked, their directories made.

The run and the state directory may be shared by a group, with the sticky bit. Whoever is in it cannot remove what
another user made, but can plant a link, a pipe or a file under a name that is not taken yet; and the actuator may be
root. So nothing is written to a file that was not made here, with a mode that is stated and not the umask's, and no
link is followed that another user may have planted (see the note). Standard library only: the guest image's builder
uses it too.
"""

# Note [Planted links]
# Every part of a path is opened by itself, below the descriptor of the one before: what was checked is what is used.
# A link is followed if it is ours, root's, or of the owner of the directory in which it stands. So a link must never
# change hands (``give_below``). Where a file is made or replaced, no link at the end is followed, whoever made it.

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
MAX_LINKS: Final = 40
TRIES: Final = 8

_PART: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def replace_file(path: Path, data: bytes, *, mode: int, is_durable: bool) -> None:
    """Have the file hold ``data``: a reader sees the old file or the new one, also after a crash.

    Args:
        path: Where; a file that stands there is replaced, a link too, nothing else. Its directory must exist.
        data: All of it.
        mode: The new file's, whatever the umask.
        is_durable: Whether it must survive a power cut, which otherwise may leave the old file or an empty one.

    Raises:
        OSError: it is not written; the old one still stands.
    """
    with opened_dir(path.parent) as directory:
        _refuse_special(directory, path)
        aside, fd = _new_aside(directory, path.name)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(fd)
                os.replace(aside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=directory)
            raise _about(error, path) from error
        if is_durable:
            _sync(directory)


def make_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not be there yet, durably.

    Raises:
        FileExistsError: something stands there already.
        OSError: it cannot be written; nothing is left of it.
    """
    with opened_dir(path.parent) as directory:
        try:
            fd = os.open(path.name, _NEW, 0o600, dir_fd=directory)
        except OSError as error:
            raise _about(error, path) from error
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            os.unlink(path.name, dir_fd=directory)
            raise _about(error, path) from error
        _sync(directory)


def open_lock(path: Path, *, is_shared: bool = False) -> int:
    """Return a descriptor of the file, made with mode 0600 if need be, for ``flock``; nothing is held or changed yet.

    Args:
        path: Where; its directory must exist.
        is_shared: Other accounts take the same lock: the file is made with mode 0644, and may be any user's.

    Raises:
        OSError: it cannot be made, or is not a file of ours or root's with this one name; ``strerror`` says which.
    """
    with opened_dir(path.parent) as directory:
        access, mode = (os.O_RDONLY, PUBLIC) if is_shared else (os.O_RDWR, PRIVATE)
        flags = access | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path.name, flags, mode, dir_fd=directory)
        except OSError as error:
            raise _about(error, path) from error
    found = os.fstat(fd)
    why = ""
    if is_shared and found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode):
        os.fchmod(fd, PUBLIC)
    if not stat.S_ISREG(found.st_mode):
        why = "it is in the way: it must be a regular file, or absent"
    elif found.st_uid not in (0, os.geteuid()) and not is_shared:
        why = f"it belongs to user {found.st_uid}; remove it"
    elif found.st_nlink > 1:
        why = "it has a second name; remove it"
    if why:
        os.close(fd)
        raise PermissionError(errno.EPERM, why, str(path))
    return fd


def ensure_dir(path: Path, mode: int) -> None:
    """Have a directory stand there; one that is made now has this mode, those above it 0755, whatever the umask.

    One that stands there already stays as it is. Where a link points to nothing, nothing is made: it may be a disk that
    is not mounted.

    Raises:
        OSError: it cannot be made, or something else stands there.
    """
    with opened_dir(path, mode):
        return


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return what a regular file holds, at most so many bytes: a planted pipe holds nobody up, a link leads nowhere.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with opened_dir(path.parent) as directory:
        try:
            with os.fdopen(os.open(path.name, _OLD, dir_fd=directory), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "it must be a regular file")
                return file.read(max_bytes)
        except OSError as error:
            raise _about(error, path) from error


def read_trusted(path: Path, max_bytes: int) -> bytes:
    """Return what a file holds that nobody but root and we may have changed, at most so many bytes of it.

    Raises:
        PermissionError: somebody else may; ``strerror`` says who, and what to do.
        OSError: it cannot be read.
    """
    with _opened(path, is_strict=True) as fd:
        try:
            with os.fdopen(os.open(_inode(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                return file.read(max_bytes)
        except OSError as error:
            raise _about(error, path) from error


def why_open(path: Path) -> str:
    """Return who but root and we may change what stands there, and what to do; empty if nobody, or nothing is there.

    As sshd has it: the file and each directory above it is root's or ours, and neither its group nor others may write
    it; with the sticky bit they may write a directory, for what is ours stays in it.
    """
    try:
        with _opened(path, is_strict=True):
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)


def set_mode(path: Path, mode: int) -> None:
    """Give a file or directory its mode.

    Raises:
        OSError: it cannot be changed.
    """
    with _opened(path) as fd:
        try:
            os.chmod(_inode(fd), mode)  # noqa: PTH101 - by descriptor
        except OSError as error:
            raise _about(error, path) from error


def give(path: Path, uid: int, gid: int, mode: int) -> None:
    """Give a file or directory to another owner, and its mode; -1 keeps user or group.

    Raises:
        OSError: it cannot be given.
    """
    with _opened(path) as fd:
        try:
            os.chown(_inode(fd), uid, gid)
            os.chmod(_inode(fd), mode)  # noqa: PTH101 - by descriptor
        except OSError as error:
            raise _about(error, path) from error


def give_below(path: Path, uid: int, gid: int, is_kept: Callable[[str], bool]) -> None:
    """Give away all that is in a directory, whatever its users do there meanwhile, but what is kept by its name.

    Links keep their owner (see the note), and so does a file with a second name: it may stand elsewhere, too.

    Raises:
        OSError: something cannot be given.
    """
    with opened_dir(path) as directory:
        for name in _names(directory):
            if not is_kept(name):
                _give(directory, name, path / name, uid, gid)


@contextmanager
def opened_dir(path: Path, mode: int | None = None) -> Iterator[int]:
    """Give a descriptor of the directory, for ``dir_fd``; with ``mode`` it is made where it is missing.

    Raises:
        OSError: it is not there, or a link on the way may have been planted.
    """
    fd = _walk(path, mode)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        yield fd
    finally:
        os.close(fd)


# --- below: how ------------------------------------------------------------------------------------------------------


def _refuse_special(directory: int, path: Path) -> None:
    """Refuse to put a file where a device, a pipe, a socket or a directory stands: root would replace /dev/null."""
    try:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise FileExistsError(errno.EEXIST, "it is in the way: it must be a regular file, or absent", str(path))


def _give(directory: int, name: str, path: Path, uid: int, gid: int) -> None:
    try:
        fd = os.open(name, _PART, dir_fd=directory)
    except FileNotFoundError:
        return  # it went since it was listed
    try:
        found = os.fstat(fd)
        if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
            return
        os.chown(_inode(fd), uid, gid)
        for inner in _names(fd) if stat.S_ISDIR(found.st_mode) else ():
            _give(fd, inner, path / inner, uid, gid)
    except OSError as error:
        raise _about(error, path) from error
    finally:
        os.close(fd)


def _names(directory: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return sorted(os.listdir(fd))  # noqa: PTH208 - by descriptor
    finally:
        os.close(fd)


def _inode(fd: int) -> str:
    """Return a path that means what the descriptor has open, also one that was opened with O_PATH."""
    return f"/proc/self/fd/{fd}"


@contextmanager
def _opened(path: Path, *, is_strict: bool = False) -> Iterator[int]:
    fd = _walk(path, None, is_strict=is_strict)
    try:
        yield fd
    finally:
        os.close(fd)


def _walk(path: Path, mode: int | None, *, is_strict: bool = False) -> int:
    parts = [part for part in reversed(path.parts) if part != "/"]
    here = os.open("/" if path.is_absolute() else ".", _PART | os.O_DIRECTORY)
    links, of_link = 0, len(parts)  # with so many parts left, or more, the part is one that a link named
    try:
        while parts:
            name = parts.pop()
            of_link = of_link if len(parts) >= of_link else len(path.parts)
            is_made = mode is not None and len(parts) < of_link
            found = _part(here, name, None if not is_made else 0o755 if parts else mode)
            target = _target(here, found, path) if stat.S_ISLNK(os.fstat(found).st_mode) else None
            if target is None:
                os.close(here)
                here = found
                if is_strict:
                    _refuse_open(here, path)
                continue
            os.close(found)
            links, of_link = links + 1, min(of_link, len(parts))
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, "too many links", str(path))
            if target.startswith("/"):
                os.close(here)
                here = os.open("/", _PART | os.O_DIRECTORY)
            parts.extend(part for part in reversed(Path(target).parts) if part != "/")
    except OSError as error:
        os.close(here)
        raise _about(error, path) from error
    return here


def _part(here: int, name: str, mode: int | None) -> int:
    """Open one part of a path; with ``mode`` a missing one is made as a directory."""
    try:
        return os.open(name, _PART, dir_fd=here)
    except FileNotFoundError:
        if mode is None:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=here)
        made = os.open(name, _OLD | os.O_DIRECTORY, dir_fd=here)
        try:
            os.fchmod(made, mode)
        finally:
            os.close(made)
    return os.open(name, _PART, dir_fd=here)


def _refuse_open(fd: int, path: Path) -> None:
    """Refuse what somebody but root and we may change; see ``why_open``."""
    found, at = os.fstat(fd), os.readlink(_inode(fd))  # noqa: PTH115 - by descriptor
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    why = ""
    if found.st_uid not in (0, os.geteuid()):
        us = "root" if os.geteuid() == 0 else f"user {os.geteuid()} or root"
        why = f"user {found.st_uid} may change {at}; it must belong to {us}: chown {os.geteuid()} {at}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        why = f"others may change {at} (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w {at}"
    if why:
        raise PermissionError(errno.EPERM, why, str(path))


def _target(here: int, link: int, path: Path) -> str:
    """Return where a link points to; see Note [Planted links]."""
    owner = os.fstat(link).st_uid
    if owner not in (0, os.geteuid(), os.fstat(here).st_uid):
        why = f"a link on the way belongs to user {owner}; remove it"
        raise PermissionError(errno.EPERM, why, str(path))
    return os.readlink("", dir_fd=link)


# Note [The file aside]
# It has one name, so that what a killed process left is found and removed by the next one. While it is written it is
# locked: another writer of the same file then takes a name of chance, and never removes what is being written. A name
# that somebody else planted, and that we may not remove, is left alone in the same way.


def _new_aside(directory: int, name: str) -> tuple[str, int]:
    of_chance = (f"{name}.{secrets.token_hex(4)}.new" for _ in range(TRIES))
    for aside in (f"{name}.new", f"{name}.new", *of_chance):
        try:
            fd = os.open(aside, _NEW, PRIVATE, dir_fd=directory)
        except FileExistsError:
            _remove_left(directory, aside)
            continue
        if _is_held(fd, directory, aside):
            return aside, fd
        os.close(fd)
    raise FileExistsError(errno.EEXIST, "others write it all the time", name)


def _is_held(fd: int, directory: int, name: str) -> bool:
    """Lock an open file; return whether it still has its name: another process may just have removed it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=directory, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_left(directory: int, name: str) -> None:
    """Remove what stands under the name if we may, unless somebody writes it."""
    with suppress(OSError):  # it is gone, or stays where it is
        try:
            fd = os.open(name, _OLD, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError:  # a link, or not for us to read: no file that one of us writes
            os.unlink(name, dir_fd=directory)
            return
        try:
            if _is_held(fd, directory, name):
                os.unlink(name, dir_fd=directory)
        finally:
            os.close(fd)


def _sync(directory: int) -> None:
    """Have the names in the directory survive a power cut, where we may read it."""
    with contextlib.suppress(PermissionError):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _about(error: OSError, path: Path) -> OSError:
    """Return the error with the whole path in it: what was opened was a part."""
    return type(error)(error.errno, error.strerror, str(path))
