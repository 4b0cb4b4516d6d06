"""The run directory: sockets, locks and run counters, readable by their owner alone.

Containers run the services as several users, who share it as a group: then it is root's, with the sticky bit, so that
nobody removes what another user made. ``cli.shared_dirs`` makes it so; the bit is how it is known here.

The lock comes first: ZeroMQ lets a second process bind the same ``ipc://`` path silently, so only the holder of the
lock binds, and only the holder removes a socket that an earlier process left behind.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import files
from common.errors import BusError, LockHeldError
from common.log import logger
from common.messaging.sequence import MAX_RUN_ID, next_run_id

MAX_STORED_BYTES: Final = 64


def ensure_run_dir(path: Path) -> None:
    """Make the run directory, mode 0700, ours; one that root shares with our group stays as it is.

    Raises:
        BusError: it cannot be made, is not a directory, or belongs to someone else.
    """
    try:
        files.ensure_dir(path, 0o700)
        found = path.lstat()
    except OSError as error:
        raise BusError(f"run_dir {path} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise BusError(f"run_dir {path} must be a directory, and not a link to one")
    if is_shared(found):
        if not os.access(path, os.W_OK | os.X_OK):
            raise BusError(f"run_dir {path} is shared by group {found.st_gid}; user {os.geteuid()} is not in it")
        return
    if found.st_uid != os.geteuid():
        raise BusError(f"run_dir {path} belongs to user {found.st_uid}; it must belong to user {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        files.set_mode(path, 0o700)


def is_shared(found: os.stat_result) -> bool:
    """Return whether a directory is root's, shared with its group and closed to all others."""
    return found.st_uid == 0 and found.st_mode & (stat.S_ISVTX | stat.S_IRWXO) == stat.S_ISVTX


def check_reachable(path: Path) -> None:
    """Make sure that this user may use the sockets in the run directory, if it exists.

    Raises:
        BusError: this user may not.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BusError(f"run_dir {path} cannot be entered: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise BusError(f"run_dir {path} must be a directory")
    if not os.access(path, os.X_OK):
        raise BusError(f"run_dir {path} belongs to user {found.st_uid}; run this as that user, or as root")


@dataclass(frozen=True, slots=True)
class Lock:
    """A held lock: one copy of a service on this machine. It ends with the process, however that ends."""

    path: Path
    fd: int

    @classmethod
    def take(cls, path: Path) -> "Lock":
        """Return the lock, with our process identifier in its file.

        Raises:
            LockHeldError: another process holds it.
            BusError: the file cannot be made.
        """
        try:
            fd = files.open_lock(path)
        except OSError as error:
            raise BusError(f"lock {path} cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise LockHeldError(f"{path.stem} already runs: process {holder} holds {path}") from error
        os.ftruncate(fd, 0)
        with contextlib.suppress(OSError):  # the process identifier is for people; the lock holds without it
            os.write(fd, f"{os.getpid()}\n".encode())
        return cls(path, fd)

    def release(self) -> None:
        """Let the next copy start."""
        os.close(self.fd)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock; one that cannot be looked at counts as held."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def running_pid(run_path: Path, service: str) -> int | None:
    """Return the process that runs as this service here, by its lock's file; None if none does, or it is unknown.

    The lock itself is not tried: for that instant no service could take it.
    """
    try:
        pid = int(files.read_file(run_path / f"{service}.lock", MAX_STORED_BYTES))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"services.{service}".encode() in command.split(b"\0") else None


def remove_stale_socket(path: Path) -> None:
    """Remove the socket that an earlier process left; to be called by the holder of the lock only.

    Raises:
        BusError: what stands there is no socket, or belongs to someone else.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BusError(f"{path} is in the way: it must be a socket, or absent")
    if found.st_uid != os.geteuid():
        raise BusError(f"socket {path} belongs to user {found.st_uid}; remove it, or run as that user")
    path.unlink(missing_ok=True)


# Note [Two places for the counter of runs]
# The run directory is often in memory and empty after a reboot; the state directory may be removed, or not be there
# yet. So the counter stands in both, and the larger one counts: a run that is numbered below an earlier one is taken
# for a replay by every listener.


def new_run_id(paths: Sequence[Path], epoch_s: float) -> int:
    """Return the identifier of this run, stored for the next one; a full disk is told, and keeps nobody from starting.

    Args:
        paths: where the last one stands; a file that is missing or damaged counts as absent.
        epoch_s: wall-clock seconds.
    """
    run_id = next_run_id(max((_stored(path) for path in paths), default=0), epoch_s)
    for path in paths:
        try:
            store_run_id(path, run_id)
        except OSError as error:
            logger().warning("run-id-not-stored", path=str(path), reason=error.strerror)
    return run_id


def store_run_id(path: Path, run_id: int) -> None:
    """Replace the counter's file, durably.

    Raises:
        OSError: it cannot be written.
    """
    files.replace_file(path, f"{run_id}\n".encode(), mode=files.PUBLIC, is_durable=True)


def _stored(path: Path) -> int:
    """Return what stands in the file; one that cannot be a counter counts as none."""
    try:
        run_id = int(files.read_file(path, MAX_STORED_BYTES))
    except (OSError, ValueError):
        return 0
    return run_id if 0 < run_id < MAX_RUN_ID else 0
