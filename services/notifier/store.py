"""The notifier's small file: what waits for whom, and until when events were heard. Replaced whole and durably.

What cannot be read is logged and counts as not there. A disk that refuses delays nobody: what waits stays in memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common import files
from common.figures import count_in, time_in
from common.log import logger
from common.plain import plain_name
from common.state_dir import ensure_state_dir
from services.notifier.core.deliver import Item
from services.notifier.core.notice import Notice

NAME: Final = "notifier.json"
MAX_BYTES: Final = 64 * 1024 * 1024

Stored = dict[str, tuple[tuple[Notice, int], ...]]


@dataclass(frozen=True, slots=True)
class Past:
    """What an earlier process left. ``heard_at_s``: when it last kept anything, in epoch seconds; None if never."""

    queues: Stored = field(default_factory=dict)
    heard_at_s: float | None = None
    recent: tuple[str, ...] = ()


class Store:
    """The file, and whether it can be written."""

    def __init__(self, path: Path) -> None:
        """Use the file at ``path``."""
        self._path = path

    def read(self) -> Past:
        """Return what an earlier process left."""
        try:
            raw = files.read_file(self._path, MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return _past(json.loads(raw))
        except FileNotFoundError:
            return Past()
        except (OSError, ValueError, RecursionError) as error:
            logger().warning("stored-state-unreadable", path=str(self._path), reason=str(error))
            return Past()

    def write(self, queues: Mapping[str, tuple[Item, ...]], heard_at_s: float, recent: Sequence[str]) -> str:
        """Keep what waits, and the identifiers that were heard last; return why that failed, empty if it did not."""
        values = {
            "heard_at_s": heard_at_s,
            "recent": list(recent),
            "queues": {
                key: [[item.notice.id, item.notice.type, item.notice.body, item.attempts] for item in items]
                for key, items in queues.items()
            },
        }
        try:
            ensure_state_dir(self._path.parent)
            files.replace_file(self._path, json.dumps(values).encode(), mode=files.PRIVATE, is_durable=True)
        except OSError as error:
            return f"{self._path} cannot be written: {error.strerror or error}"
        return ""


def _past(values: Any) -> Past:
    """Return what the file's values say.

    Raises:
        ValueError: they are not what ``Store.write`` wrote.
    """
    try:
        queues = {str(key): tuple(_kept(entry) for entry in items) for key, items in values["queues"].items()}
        return Past(queues, time_in(values["heard_at_s"], 0.0), tuple(plain_name(str(id)) for id in values["recent"]))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not what a notifier keeps: {type(error).__name__} {error}") from error


def _kept(entry: Any) -> tuple[Notice, int]:
    id, type, body, attempts = entry
    if not isinstance(json.loads(body)["data"], dict):
        raise ValueError("a notice without data")
    return Notice(plain_name(str(id)), plain_name(str(type)), str(body)), count_in(attempts)
