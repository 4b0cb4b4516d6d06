"""One door, fed so many times: what came in, how long it took, by how much the process grew, and the first fault."""

import ctypes
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import structlog

MOST_GROWTH_BYTES: Final = 32 * 1024 * 1024
LEAST_SHARE: Final = 1 / 3  # of the inputs that must come in: what is refused at once tests one check and nothing else
MOST_TOLD: Final = 3000
WARM: Final = 300  # inputs after which memory is measured: caches are full then


@dataclass(frozen=True, slots=True)
class Run:
    """What became of it; ``fault`` is empty where nothing was raised."""

    name: str
    count: int
    seed: int
    passed: int
    took_s: float
    grown_bytes: int
    fault: str = ""

    @property
    def share(self) -> float:
        """Return how large a part of the inputs came through the first check."""
        return self.passed / max(self.count, 1)

    def text(self) -> str:
        """Return one line, and the fault."""
        line = (
            f"{self.name:20} {self.count:8} inputs, {self.share:4.0%} came in, {self.took_s:6.1f} s, "
            f"{self.grown_bytes / 2**20:+6.1f} MiB"
        )
        return f"{line}\n{self.fault}" if self.fault else line


def run(name: str, count: int, seed: int, scratch: Path) -> Run:
    """Feed the door ``name`` with ``count`` inputs, or its share of them; the seed and the number repeat each."""
    from tests.fuzz.doors import DOORS

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what is refused is logged
    try:
        door = DOORS[name](scratch)
        count = max(1, int(count * door.share))
        begun_s, passed, before = time.perf_counter(), 0, 0
        for number in range(count):
            if number == min(WARM, count // 2):
                before = rss_bytes()
            try:
                passed += door.feed(Random(f"{seed}/{name}/{number}"))
            except Exception:  # noqa: BLE001 - whatever is raised is the finding
                fault = f"seed {seed}, input {number}:\n{traceback.format_exc()[-MOST_TOLD:]}"
                return Run(name, number + 1, seed, passed, time.perf_counter() - begun_s, 0, fault)
        took_s = time.perf_counter() - begun_s
        return Run(name, count, seed, passed, took_s, rss_bytes() - before)
    finally:
        structlog.reset_defaults()


def rss_bytes() -> int:
    """Return this process's resident memory, without what the C library holds back for later: that is nobody's."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
