"""Not at work yet: lives, and says so."""

from common.bus import Inbox
from common.process import Context


class NotifierService:
    """Idle."""

    def __init__(self, context: Context) -> None:
        """Listen to nobody."""
        self._counters = context.bus.counters

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Wait."""
        return 60.0 + 0.0 * now_s * len(inbox.messages)

    def close(self) -> None:
        """Leave nothing."""
