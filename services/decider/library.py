"""What the policies have learned, on disk: for each a base, written now and then, and the steps since, written often.

Nothing waits for it: what is lost in a power cut costs some minutes of learning. So it is replaced whole, but not
synced. What cannot be read is logged and counts as not there: the policy begins to learn anew.
"""

from pathlib import Path
from typing import Final

from common import files
from common.log import logger
from common.state_dir import ensure_state_dir
from services.decider.core.learned import Learned, base_bytes, from_bytes, tail_bytes
from services.decider.core.state import Settings, begun

LIBRARY: Final = "learned"
MAX_BYTES: Final = 1024 * 1024  # of one file; a base has about a tenth of that

log = logger()


class Library:
    """The directory of what was learned: two files for each policy that learns."""

    def __init__(self, directory: Path) -> None:
        """Keep the files in ``directory``, which is made when something is to be kept."""
        self._directory = directory

    def learned(self, settings: Settings) -> dict[int, Learned]:
        """Return what the group's policies had learned, by their number, where it can still be used."""
        found = {}
        for number, policy in enumerate(settings.policies):
            try:
                kept = self._read(settings.name, number)
                if kept is not None:
                    begun(policy, kept)
                    found[number] = kept
            except (OSError, ValueError) as error:
                path = str(self._path(settings.name, number, "base"))
                log.warning("learned-state-ignored", path=path, group=settings.name, reason=str(error))
        return found

    def save(self, group: str, number: int, learned: Learned, *, is_base_new: bool) -> None:
        """Keep what was learned; a disk that refuses is logged."""
        try:
            ensure_state_dir(self._directory.parent)
            files.ensure_dir(self._directory, 0o700)
            if is_base_new:
                _write(self._path(group, number, "base"), base_bytes(learned))
            _write(self._path(group, number, "tail"), tail_bytes(learned))
        except OSError as error:
            log.error("learned-state-not-written", path=str(self._directory), group=group, reason=str(error))

    def _path(self, group: str, number: int, part: str) -> Path:
        return self._directory / f"{group}.{number}.{part}"

    def _read(self, group: str, number: int) -> Learned | None:
        try:
            base = _bytes_of(self._path(group, number, "base"))
        except FileNotFoundError:
            return None
        try:
            tail = _bytes_of(self._path(group, number, "tail"))
        except FileNotFoundError:
            tail = b""
        return from_bytes(base, tail)


def _bytes_of(path: Path) -> bytes:
    data = files.read_file(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return data


def _write(path: Path, data: bytes) -> None:
    files.replace_file(path, data, mode=files.PRIVATE, is_durable=False)
