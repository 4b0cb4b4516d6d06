"""Long POSTs, which nobody may send twice: a request that is cut shows here, and only here."""

import http.client
import random
import threading
import time
from dataclasses import dataclass

from tests.e2e.world import World

LEAST_MS, MOST_MS = 500, 12_000
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Post:
    """One POST: when it was sent and when it ended, in monotonic seconds; ``fault`` is None if it was answered."""

    sent_s: float
    ended_s: float
    fault: str | None

    def was_in_flight(self, begin_s: float, end_s: float) -> bool:
        """Return whether it was under way at any time from ``begin_s`` to ``end_s``."""
        return self.sent_s <= end_s and begin_s <= self.ended_s


class Posts:
    """POSTs that take up to twelve seconds each, begun at even distances by a few threads; all are kept."""

    def __init__(self, world: World, rate: float, seed: int, threads: int = 12) -> None:
        """Send ``rate`` a second, as far as the threads suffice; ``seed`` decides how long each one takes."""
        self._port = world.port
        self._period_s = threads / rate
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ended: list[Post] = []
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed}/{i}"), i / rate), daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> "Posts":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=TIMEOUT_S + MOST_MS / 1000)

    def ended(self) -> list[Post]:
        """Return all that have ended."""
        with self._lock:
            return list(self._ended)

    def _run(self, rng: random.Random, offset_s: float) -> None:
        due_s = time.monotonic() + offset_s  # noqa: TID251 - tests measure real time
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):  # noqa: TID251
            due_s += self._period_s
            post = self._one(rng.randint(LEAST_MS, MOST_MS))
            with self._lock:
                self._ended.append(post)

    def _one(self, wanted_ms: int) -> Post:
        begin_s = time.monotonic()  # noqa: TID251
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", f"/slow?ms={wanted_ms}", body=b"")
            response = connection.getresponse()
            body = response.read().decode(errors="replace").strip()
            is_right = (response.status, body) == (200, f"slept {wanted_ms} ms")
            fault = None if is_right else f"HTTP {response.status}: {body[:60]!r}"
        except (OSError, http.client.HTTPException) as error:
            fault = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return Post(begin_s, time.monotonic(), fault)  # noqa: TID251
