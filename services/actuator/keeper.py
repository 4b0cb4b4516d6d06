"""Looks after the storage of one host, in a thread of its own: base images are looked at, what is left over is removed.

A domain's volumes go with its definition. What stays behind is what a process left that was killed in between, or that
belonged to a domain that somebody else removed: a volume of our making that no domain on the host has named for
``GRACE_S``, watched without a break. Storage that hangs holds up nobody but this thread.
"""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol

from common.clock import Clock
from common.errors import HypervisorError
from common.log import logger
from common.volume import ImageFacts, SeenVolume, directory_of
from services.actuator.core.disks import Base, aged, base_of, leaked

LOOK_S: Final = 3.0
SWEEP_S: Final = 30.0
GRACE_S: Final = 120.0

log = logger()


class Storage(Protocol):
    """What the keeper needs of ``common.hypervisor.Connection``."""

    uri: str

    def image(self, path: str) -> ImageFacts | None: ...
    def volumes(self) -> list[SeenVolume]: ...
    def remove_volumes(self, is_to_go: Callable[[str], bool]) -> None: ...
    def owners(self) -> tuple[frozenset[str], frozenset[str]]: ...
    def reader(self) -> tuple[int, int]: ...
    def is_alive(self) -> bool: ...
    def close(self) -> None: ...


class Keeper:
    """The storage of one host."""

    def __init__(
        self,
        host: str,
        open_storage: Callable[[], Storage],
        clock: Clock,
        report: Callable[[dict[str, Base]], None],
        grace_s: float = GRACE_S,
        spared: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Start nothing yet; ``report`` is told all that was looked at, by path, from the keeper's own thread.

        Args:
            host: Its name.
            open_storage: Connects to it.
            clock: The time.
            report: Told what the images are good for.
            grace_s: How long nobody must have named a volume before it goes.
            spared: Returns the names of volumes that stay, whoever names them; called from the keeper's own thread.
        """
        self.host = host
        self._open = open_storage
        self._clock = clock
        self._report = report
        self._grace_s = grace_s
        self._spared = spared
        self._connection: Storage | None = None
        self._paths: frozenset[str] = frozenset()
        self._since_s: dict[str, float] = {}
        self._reader = 0, 0
        self._swept_s = float("-inf")
        self._is_allowed = True
        self._due = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to look, every ``LOOK_S``, and to sweep, every ``SWEEP_S``."""
        threading.Thread(target=self._run, name=f"{self.host}-storage", daemon=True).start()

    def aim(self, paths: Collection[str]) -> None:
        """Look at these base images from now on."""
        if self._paths != frozenset(paths):
            self._paths = frozenset(paths)
            self._due.set()

    def allow(self, is_allowed: bool) -> None:
        """Look and sweep, or leave the storage alone: where every group only observes."""
        self._is_allowed = is_allowed

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stopping.set()
        self._due.set()

    def turn(self) -> None:
        """Look once, and remove what has been left over for long enough."""
        try:
            storage = self._connected()
            self._report(look(storage, self._paths, self._reader))
            if self._clock.monotonic_s() - self._swept_s >= SWEEP_S:
                self._sweep(storage)
        except HypervisorError as error:
            self._note(error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._due.clear()
            if self._is_allowed:
                self.turn()
            self._due.wait(LOOK_S)
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> Storage:
        if self._connection is None:
            self._connection = self._open()
            self._reader = self._connection.reader()
        return self._connection

    def _note(self, error: HypervisorError) -> None:
        log.warning("storage-unknown", host=self.host, error=str(error))
        if self._connection is not None and not self._connection.is_alive():
            self._connection.close()
            self._connection = None

    def _sweep(self, storage: Storage) -> None:
        found = storage.volumes()
        names = leaked(found, *storage.owners(), self._spared()) if found else frozenset()
        now_s = self._clock.monotonic_s()
        self._since_s, self._swept_s = aged(self._since_s, names, now_s), now_s
        old = {name for name, since_s in self._since_s.items() if now_s - since_s >= self._grace_s}
        if old:
            storage.remove_volumes(old.__contains__)
            log.info("volumes-swept", host=self.host, volumes=sorted(old))


def look(storage: Storage, paths: Collection[str], reader: tuple[int, int] | None = None) -> dict[str, Base]:
    """Return what each of the images is good for; one that cannot be looked at is good for nothing.

    Args:
        storage: The host.
        paths: Of the images.
        reader: User and group that QEMU runs as there; asked for where it is not given.
    """
    user, group = reader or storage.reader()
    return {path: _look(storage, path, user, group) for path in sorted(paths)}


def _look(storage: Storage, path: str, user: int, group: int) -> Base:
    try:
        base = base_of(path, storage.image(path), user, group)
    except HypervisorError as error:
        if not storage.is_alive():
            raise
        return Base(path, note=str(error))
    closed = closed_directory(path, user, group) if storage.uri.startswith("qemu:///") else ""
    if base.note or not closed:
        return base
    note = f"disk image {path} must be reachable for QEMU's user {user}:{group}; for instance: chmod o+x {closed}"
    return Base(path, base.identity, base.format, base.capacity_bytes, note)


def closed_directory(path: str, user: int, group: int) -> str:
    """Return the first directory on the way to a local file that the user may not pass, empty if there is none."""
    if user == 0:
        return ""
    for directory in reversed(Path(directory_of(path)).parents):
        if not _may_pass(directory, user, group):
            return str(directory)
    directory = Path(directory_of(path))
    return "" if _may_pass(directory, user, group) else str(directory)


def _may_pass(directory: Path, user: int, group: int) -> bool:
    try:
        status = directory.stat()
    except OSError:
        return True  # not to be seen from here: the host knows better
    wanted = 0o100 if status.st_uid == user else 0o010 if status.st_gid == group else 0o001
    return bool(status.st_mode & wanted)
