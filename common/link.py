"""Whether a connection is alive, retried by the library, or dead for ever: judged from what the library reports.

See Note [Dead sockets] in ``common.bus``.
"""

from dataclasses import dataclass
from typing import Final

REPAIR_AFTER_S: Final = 1.0


@dataclass(slots=True)
class LinkHealth:
    """One connection to one service. ``dead_since_s`` is None while it lives or the library retries by itself."""

    dead_since_s: float | None = None
    why: str = ""

    def connected(self) -> None:
        """Note that a handshake succeeded."""
        self.dead_since_s, self.why = None, ""

    def retried(self) -> None:
        """Note that the library tries again by itself."""
        if not self.why:
            self.dead_since_s = None

    def lost(self, now_s: float) -> None:
        """Note that the connection ended."""
        if self.dead_since_s is None:
            self.dead_since_s = now_s

    def refused(self, why: str, now_s: float) -> None:
        """Note that the handshake failed for good."""
        self.dead_since_s, self.why = now_s, why

    def repair_at_s(self) -> float | None:
        """Return when to make the connection anew unless something changes, None if it is not needed."""
        return None if self.dead_since_s is None else self.dead_since_s + REPAIR_AFTER_S
