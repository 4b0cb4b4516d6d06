"""A steady stream of GETs at the endpoint, each counted: the measure of "no request lost"."""

import threading
import time
from collections import Counter

from tests.e2e.world import World


class Steady:
    """``rate`` GETs a second, open-loop, from a few threads; ``failures`` holds what went wrong and when.

    ``ask`` is another path and the body of its answer, instead of a short computation.
    """

    def __init__(
        self, world: World, rate: float, n: int = 1000, threads: int = 8, ask: tuple[str, str] | None = None
    ) -> None:
        self._world = world
        self._path, self._want = ask or (f"/compute?n={n}", str(pow(2, n, 1021)))
        self._period_s = threads / rate
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i / rate,), daemon=True) for i in range(threads)]
        self.sent = 0
        self.failures: list[tuple[float, str]] = []
        self.slowest_s = 0.0
        self.served_by: Counter[str] = Counter()

    def __enter__(self) -> "Steady":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _run(self, offset_s: float) -> None:
        due = time.monotonic() + offset_s  # noqa: TID251 - tests measure real time
        while not self._stop.wait(max(0.0, due - time.monotonic())):  # noqa: TID251
            due += self._period_s
            self._one()

    def _one(self) -> None:
        begin = time.monotonic()  # noqa: TID251
        try:
            status, body, who = self._world.get(self._path, timeout_s=30)
            fault = None if (status, body) == (200, self._want) else f"HTTP {status}: {body[:60]!r}"
        except OSError as error:
            fault, who = f"{type(error).__name__}: {error}", ""
        took = time.monotonic() - begin  # noqa: TID251
        with self._lock:
            self.sent += 1
            self.slowest_s = max(self.slowest_s, took)
            self.served_by[who] += 1
            if fault:
                self.failures.append((begin, f"{fault} after {took:.2f} s"))
