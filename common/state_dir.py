"""The state directory: made with the right mode, and made anew where it was lost while the services run.

Somebody may remove it, move it away or unmount it; what is written then goes into files that nobody finds. Each service
has a file there that it alone replaces (its counter of runs): while that stands, the directory is the one it was.
"""

import os
import stat
from pathlib import Path
from typing import Final

from common import files
from common.run_dir import store_run_id

MODE: Final = 0o711  # QEMU's own user reaches the images through it
LOG_DIR: Final = "log"  # supervisord's: without it, it starts no service again

_Identity = tuple[int, int] | None


def ensure_state_dir(path: Path) -> None:
    """Make the state directory where it is missing: ours, with nothing but the way through for others.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    files.ensure_dir(path, MODE)


class StateDir:
    """The state directory of one service, as it was when last looked at."""

    def __init__(self, path: Path, name: str, run_id: int) -> None:
        """Remember what stands at ``path`` for the service ``name`` in its run ``run_id``."""
        self._path, self._counter, self._run_id = path, path / f"{name}.run", run_id
        found = path.stat() if path.is_dir() else None
        self._shared = found if found is not None and found.st_mode & stat.S_ISVTX else None
        self._has_logs = (path / LOG_DIR).is_dir()
        self._seen = self._identities()

    def is_lost(self) -> bool:
        """Return whether it was removed, emptied or replaced since it was last whole."""
        return self._seen != self._identities()

    def make_anew(self) -> None:
        """Have it stand there again, open to whom it was open to before; what the service kept in it is to be written.

        Raises:
            OSError: it cannot be made; it still counts as lost.
        """
        is_missing = not self._path.is_dir()
        ensure_state_dir(self._path)
        if is_missing and self._shared is not None and os.geteuid() == 0:
            shared = self._shared
            files.give(self._path, shared.st_uid, shared.st_gid, stat.S_IMODE(shared.st_mode))
        if self._has_logs:
            files.ensure_dir(self._path / LOG_DIR, 0o700)
        store_run_id(self._counter, self._run_id)
        self._seen = self._identities()

    def _identities(self) -> tuple[_Identity, _Identity]:
        return _identity(self._path), _identity(self._counter)


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
