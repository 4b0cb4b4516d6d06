"""The decider's own small file: one standing for each group, replaced whole and durably.

It is written beside the old one, synced, and renamed, so that a crash leaves one or the other. What cannot be read is
logged and counts as not there: the group then derives its desired capacity from its members.

A disk that refuses costs no decision: what is in force stays in memory, whoever gave an order is told, and the file is
tried again until it is written.
"""

import json
from pathlib import Path
from typing import Any, Final

from common import files
from common.log import logger
from common.state_dir import ensure_state_dir
from services.decider.core.state import Standing
from services.decider.core.stored import Instant, from_values, to_values

NAME: Final = "decider.json"
MAX_BYTES: Final = 4 * 1024 * 1024

log = logger()


class Store:
    """Standings by group, in memory as they are on disk."""

    def __init__(self, path: Path) -> None:
        """Read the file at ``path``; an unreadable one counts as empty."""
        self.trouble = ""
        self._path = path
        self._values = _read(path)

    def standing(self, group: str, at: Instant) -> Standing | None:
        """Return what was stored for ``group``, on the clock of ``at``; None where nothing usable was."""
        values = self._values.get(group)
        if values is None:
            return None
        try:
            return from_values(values, at)
        except ValueError as error:
            log.warning("stored-state-ignored", path=str(self._path), group=group, reason=str(error))
            return None

    def save(self, group: str, standing: Standing, at: Instant) -> str:
        """Keep a standing; return why it is not on disk now, empty if it is."""
        self._values[group] = to_values(standing, at)
        return self.write()

    def write(self) -> str:
        """Write what is kept; return why that failed, empty if it did not. ``trouble`` says the same until it works."""
        self.trouble = ""
        try:
            _write(self._path, self._values)
        except OSError as error:
            self.trouble = f"{self._path} cannot be written: {error.strerror or error}"
        return self.trouble


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = files.read_file(path, MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        values = json.loads(raw)
        if not isinstance(values, dict) or not isinstance(values.get("groups"), dict):
            raise ValueError("not a table of groups")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("stored-state-unreadable", path=str(path), reason=str(error))
        return {}
    return {str(group): kept for group, kept in values["groups"].items() if _is_flat(kept)}


def _is_flat(kept: Any) -> bool:
    """Return whether it is tables of plain values, as we write them: whatever else it is, it is not written again."""
    tables = kept.values() if isinstance(kept, dict) else [[]]
    inner = (each for table in tables for each in (table.values() if isinstance(table, dict) else [table]))
    return not any(isinstance(each, dict | list) for each in inner)


def _write(path: Path, values: dict[str, Any]) -> None:
    ensure_state_dir(path.parent)
    text = json.dumps({"groups": values}, sort_keys=True)
    files.replace_file(path, text.encode(), mode=files.PRIVATE, is_durable=True)
