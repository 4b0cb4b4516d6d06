"""CPU use from a counter: a share of what the domain is allotted, or unknown; never a guess.

A counter says something only together with the one before it. Where the two do not belong together (the first
reading, a counter that went backwards, another allotment, a gap, a domain that does not run) the ratio is unknown.
A quota that is raised or lowered for a burst is known all the same: what was used is a share of what is allotted now.
"""

from dataclasses import dataclass
from typing import Final

from common.domain import CpuReading, DomainState, HostCpu

EPSILON: Final = 0.05
LEAST_GAP_S: Final = 0.001  # what lies closer together says nothing, and divides by nothing
STUCK_TICKS: Final = 3


@dataclass(frozen=True, slots=True)
class Counter:
    """The last reading of one domain, and for how many readings since it has not moved."""

    cpu_time_s: float
    read_at_s: float
    allotted_cpus: float
    still_ticks: int = 0
    is_limited: bool = False


def counter(previous: Counter | None, reading: CpuReading) -> Counter | None:
    """Return the counter to compare the next reading with; None for a domain that does not run."""
    if reading.state is not DomainState.RUNNING or reading.cpu_time_s is None or not reading.allotted_cpus:
        return None
    is_still = previous is not None and previous.cpu_time_s == reading.cpu_time_s
    still_ticks = previous.still_ticks + 1 if previous is not None and is_still else 0
    return Counter(reading.cpu_time_s, reading.read_at_s, reading.allotted_cpus, still_ticks, reading.is_limited)


def cpu_ratio(previous: Counter | None, current: Counter | None, max_gap_s: float) -> float | None:
    """Return CPU time over (elapsed x allotted CPUs) between two counters.

    Args:
        previous: The counter one reading ago.
        current: The counter now.
        max_gap_s: Readings further apart than this, or less than ``LEAST_GAP_S``, are not compared.

    Returns:
        A ratio in [0, 1 + EPSILON], more only where the allotment was lowered in between; or None where it is unknown:
        no pair, a gap, a counter that went backwards, an allotment that changed otherwise than from one quota to
        another (a booted domain gets its quota, hot-plug), or a counter that has not moved for ``STUCK_TICKS``
        readings: even an idle guest uses some CPU within a second, a frozen QEMU none.
    """
    if previous is None or current is None or not _is_comparable(previous, current):
        return None
    elapsed_s = current.read_at_s - previous.read_at_s
    used_s = current.cpu_time_s - previous.cpu_time_s
    if not LEAST_GAP_S <= elapsed_s <= max_gap_s or used_s < 0 or current.still_ticks >= STUCK_TICKS:
        return None
    most = (1 + EPSILON) * max(previous.allotted_cpus, current.allotted_cpus) / current.allotted_cpus
    return min(used_s / (elapsed_s * current.allotted_cpus), most)


def idle_cpus(previous: HostCpu | None, current: HostCpu | None, max_gap_s: float) -> float | None:
    """Return how many CPUs of the host nobody used between two counters, on average; None where it is unknown."""
    if previous is None or current is None or previous.cpus != current.cpus:
        return None
    elapsed_s = current.read_at_s - previous.read_at_s
    idle_s = current.idle_s - previous.idle_s
    if not LEAST_GAP_S <= elapsed_s <= max_gap_s or idle_s < 0:
        return None
    return min(idle_s / elapsed_s, float(current.cpus))


def _is_comparable(previous: Counter, current: Counter) -> bool:
    return previous.allotted_cpus == current.allotted_cpus or (previous.is_limited and current.is_limited)
