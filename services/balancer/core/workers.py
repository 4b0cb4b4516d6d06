"""What HAProxy's master says of its workers, and a worker of its sessions, as values.

It needs nothing but the standard library's quick parts: what waits for HAProxy's end must be there at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.balancer.errors import ProxyError

MASTER_SOCKET: Final = "haproxy-master.sock"  # in the run directory
SHOW_WORKERS: Final = "show proc"
_UNITS_S: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of the master's: ``reloads`` counts those since it was started, 0 for the present one."""

    pid: int
    reloads: int
    uptime_s: float
    is_old: bool


def parse_workers(answer: str) -> tuple[Worker, ...]:
    """Return the workers of the master's answer to ``SHOW_WORKERS``.

    Raises:
        ProxyError: there is no worker in it.
    """
    workers: list[Worker] = []
    for line in answer.splitlines():
        words = line.split()
        if len(words) >= 4 and words[1] == "worker":
            workers.append(_worker(words))
    if not workers:
        raise ProxyError(f"HAProxy's master names no worker: {answer[:80]!r}")
    return tuple(workers)


def sessions_at(answer: str, group: str, slot: str) -> tuple[str, ...]:
    """Return the identifiers of the sessions that are at one server, of an answer to ``show sess``."""
    lines = (line.partition(": ") for line in answer.splitlines() if line.startswith("0x"))
    return tuple(name for name, _, rest in lines if {f"be={group}", f"srv={slot}"} <= set(rest.split()))


def _worker(words: Sequence[str]) -> Worker:
    try:
        pid, reloads = int(words[0]), int(words[2])
        return Worker(pid, reloads, _seconds(words[3]), is_old=reloads > 0)
    except (ValueError, KeyError) as error:
        raise ProxyError(f"HAProxy's master names a worker {' '.join(words)[:80]!r}") from error


def _seconds(text: str) -> float:
    """Return a duration of the master's, such as ``0d00h01m05s``."""
    total_s, digits = 0, ""
    for mark in text:
        if mark.isdigit():
            digits += mark
        else:
            total_s += int(digits) * _UNITS_S[mark]
            digits = ""
    return float(total_s)
