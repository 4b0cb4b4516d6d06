"""Whether a connection is alive, retried by the library, or dead for ever: judged from what the library reports.

See Note [Dead sockets] in ``common.bus``. With keys there is one more way to be dead: the library retries for ever with
a key that does not fit. So after ``PATIENCE_S`` without a handshake such a connection is made anew.
"""

import math
from dataclasses import dataclass
from typing import Final

REPAIR_AFTER_S: Final = 1.0
PATIENCE_S: Final = 3.0
_BROKEN: Final = "it broke the protocol: a message that is too large, or no message at all"


@dataclass(slots=True)
class LinkHealth:
    """One connection to one service.

    ``repair_at_s`` is when to make it anew unless something changes, infinity if that is not needed; ``why`` is what a
    person may have to mend, empty if nothing.
    """

    has_keys: bool
    repair_at_s: float = math.inf
    why: str = ""

    def connected(self) -> None:
        """Note that a handshake succeeded."""
        self.repair_at_s, self.why = math.inf, ""

    def ended(self, now_s: float) -> None:
        """Note that the connection ended; unless the library retries, it is dead."""
        if self.repair_at_s == math.inf:
            self.repair_at_s, self.why = now_s + REPAIR_AFTER_S, _BROKEN

    def retried(self, now_s: float) -> None:
        """Note that the library tries again by itself."""
        if self.why == _BROKEN:
            self.repair_at_s, self.why = now_s + PATIENCE_S if self.has_keys else math.inf, ""

    def broken_off(self, why: str) -> None:
        """Note that the other side hung up during the handshake; the library goes on trying."""
        if self.has_keys and self.repair_at_s < math.inf:
            self.why = why

    def refused(self, why: str, now_s: float) -> None:
        """Note that the handshake failed for good."""
        self.repair_at_s, self.why = now_s + REPAIR_AFTER_S, why
