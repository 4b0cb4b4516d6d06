"""Who may have a page served now: a few clients in all, fewer of one machine, none for long.

A scrape takes milliseconds. So whoever has been there longest when there is no room is most likely the one who stalls,
and makes room for the one who comes.
"""

from dataclasses import dataclass, field
from typing import Final

MOST: Final = 16
MOST_OF_ONE: Final = 12
GRACE_S: Final = 0.25
"""How long nobody has to make room."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a client is let in, and who goes for it."""

    is_in: bool
    goes: int | None = None


@dataclass(slots=True)
class Room:
    """The clients that are being served: by number, each with its machine and when it came, the oldest first."""

    _clients: dict[int, tuple[str, float]] = field(default_factory=dict)

    def enter(self, client: int, machine: str, now_s: float) -> Answer:
        """Let a client in if there is room, or if somebody has been there for longer than ``GRACE_S``."""
        own = [who for who, (where, _) in self._clients.items() if where == machine]
        among = own if len(own) >= MOST_OF_ONE else list(self._clients) if len(self._clients) >= MOST else []
        oldest = among[0] if among else None
        if oldest is not None and now_s - self._clients[oldest][1] < GRACE_S:
            return Answer(is_in=False)
        if oldest is not None:
            del self._clients[oldest]
        self._clients[client] = machine, now_s
        return Answer(is_in=True, goes=oldest)

    def leave(self, client: int) -> None:
        """Note that a client is gone; twice is no error."""
        self._clients.pop(client, None)

    def late(self, now_s: float, limit_s: float) -> list[int]:
        """Return and forget who has been there for ``limit_s`` and more: it comes to no end."""
        late = [who for who, (_, since_s) in self._clients.items() if now_s - since_s >= limit_s]
        for who in late:
            del self._clients[who]
        return late
