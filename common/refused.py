"""A service's file that the disk refuses to take: noted for ``status``, logged once each way, and written again soon.

A service writes such a file when something changes. Where that failed, the next change may be hours away: until then a
restart would forget what the note says, and the note would stand long after the disk had room again.
"""

import math
from pathlib import Path
from typing import Final

from common.log import logger

RETRY_S: Final = 2.0


class Refused:
    """Whether the last write of one file failed."""

    def __init__(self, notes: dict[str, str], path: Path, forgets: str) -> None:
        """Begin with a file that was written.

        Args:
            notes: The service's, as ``Context.notes``: the file's name is the key there.
            path: Of the file.
            forgets: What a restart forgets while it is refused, in words.
        """
        self._notes, self._path, self._forgets = notes, path, forgets
        self._trouble = ""
        self._again_s = 0.0  # monotonic

    def note(self, trouble: str) -> None:
        """Take in how the last write ended: ``trouble`` is why it failed, empty if it did not."""
        before, self._trouble = self._trouble, trouble
        if trouble:
            self._notes[self._path.name] = f"{trouble}; a restart forgets {self._forgets}"
        else:
            self._notes.pop(self._path.name, None)
        if trouble and trouble != before:
            logger().error("state-not-written", path=str(self._path), reason=trouble)
        elif before and not trouble:
            logger().info("state-written-again", path=str(self._path))

    def is_due(self, now_s: float) -> bool:
        """Return, once every ``RETRY_S``, whether it is to be written again, though nothing has changed."""
        if self.wait_s(now_s) > 0:
            return False
        self._again_s = now_s + RETRY_S
        return True

    def wait_s(self, now_s: float) -> float:
        """Return how long it is until it is to be written again, ``inf`` where nothing is refused."""
        return max(self._again_s - now_s, 0.0) if self._trouble else math.inf
