"""What one peer may ask for, so that there is room for the others.

# Note [Whom it bounds]
On TCP a peer is a key, or an address where there are none; on IPC a user: more connections are no more peers. Each
process of root's is a peer of its own, for it could stop the service anyway.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MAX_PEERS: Final = 1000


@dataclass(slots=True)
class Bucket:
    """A budget that is spent at once and comes back with time: ``burst`` in all, ``rate`` per second."""

    burst: float
    rate: float
    left: float
    at_s: float

    @classmethod
    def full(cls, burst: float, rate: float, now_s: float) -> "Bucket":
        """Return one of which nothing is spent."""
        return cls(burst, rate, burst, now_s)

    def spend(self, now_s: float) -> bool:
        """Return whether there is one left, and take it."""
        self.left = min(self.burst, self.left + self.rate * max(now_s - self.at_s, 0.0))
        self.at_s = now_s
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True

    def is_full(self, now_s: float) -> bool:
        """Return whether nothing of it is spent at ``now_s``."""
        return self.left + self.rate * max(now_s - self.at_s, 0.0) >= self.burst


@dataclass(slots=True)
class Budget:
    """Requests by peer: how many wait for an answer, and how many come in a second.

    What nobody answers within ``patience_s`` no longer waits.
    """

    most_waiting: int = 16  # of one peer
    most_in_all: int = 256
    burst: float = 50.0
    rate: float = 20.0
    patience_s: float = 30.0
    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _waiting: dict[int, tuple[str, float]] = field(default_factory=dict)
    _by_peer: Counter[str] = field(default_factory=Counter)
    _number: int = 0

    def refusal(self, peer: str, now_s: float) -> str:
        """Return why the peer's next request is not taken, empty if it is; a refused one counts against its rate."""
        if peer not in self._buckets and len(self._buckets) >= MAX_PEERS:
            self._buckets = {who: bucket for who, bucket in self._buckets.items() if not bucket.is_full(now_s)}
            if len(self._buckets) >= MAX_PEERS:
                return "too many ask at once; try again in a moment"
        if not self._buckets.setdefault(peer, Bucket.full(self.burst, self.rate, now_s)).spend(now_s):
            return f"more than {self.rate:g} requests a second; try again in a moment"
        self._give_up(now_s)
        if self._by_peer[peer] >= self.most_waiting:
            return f"{self.most_waiting} of your requests wait for an answer already"
        if len(self._waiting) >= self.most_in_all:
            return f"{self.most_in_all} requests wait for an answer already"
        return ""

    def begin(self, peer: str, now_s: float) -> int:
        """Return the number under which the request waits from now on."""
        self._number += 1
        self._waiting[self._number] = peer, now_s
        self._by_peer[peer] += 1
        return self._number

    def end(self, number: int) -> None:
        """Note that the request waits no more; twice is no error."""
        peer, _ = self._waiting.pop(number, ("", 0.0))
        if self._by_peer[peer] > 1:
            self._by_peer[peer] -= 1
        else:
            del self._by_peer[peer]

    def _give_up(self, now_s: float) -> None:
        while self._waiting:
            number, (_, since_s) = next(iter(self._waiting.items()))
            if now_s - since_s < self.patience_s:
                return
            self.end(number)


class Resends:
    """When the last values are sent again: at once for a few subscriptions, then for all that came meanwhile together.

    XPUB sends to all who subscribed and cannot address one, so each of these reaches everybody; bounded here is how
    often.
    """

    BURST: Final = 20.0
    RATE: Final = 4.0  # per second
    MAX_PREFIXES: Final = 256

    def __init__(self) -> None:
        """Begin with nothing asked for."""
        self._bucket = Bucket.full(self.BURST, self.RATE, 0.0)
        self._wanted: set[bytes] = set()

    def want(self, prefixes: set[bytes]) -> None:
        """Note what new subscriptions begin with; of very many, that all is wanted."""
        self._wanted |= prefixes
        if len(self._wanted) > self.MAX_PREFIXES:
            self._wanted = {b""}

    def due(self, now_s: float) -> set[bytes]:
        """Return what is to be sent again now, empty where nothing is or it is too early."""
        if not self._wanted or not self._bucket.spend(now_s):
            return set()
        wanted, self._wanted = self._wanted, set()
        return wanted

    def at_s(self, now_s: float) -> float:
        """Return when to look again, infinity where nothing waits."""
        return now_s + 1.0 / self.RATE if self._wanted else float("inf")
