"""A step from one to four domains' worth of load, answered by paused domains and a burst.

Requests begin at a steady rate whatever becomes of those before (an open loop), so that waiting shows. One domain's
worth is ``WORTH`` of what its quota can carry, measured just before.
"""

import asyncio
import statistics
from dataclasses import dataclass
from typing import Any, Final

from bench.capacity_world import World
from bench.installation import CLOCK, wait_until
from common.errors import AutoscalerError
from services.actuator.core.boot_times import quantile

QUOTA: Final = 0.25
STANDBY: Final = 3
TABLES: Final = """[groups.{group}.warm]
paused = 3
[groups.{group}.burst]
enabled = true
reserve_cpus = 0.1
[[groups.{group}.policies]]
type = "step"
in_window_s = 60.0
steps = [ {{ above_ratio = 0.90, to = 4, window_s = 0.25 }} ]
"""
WORTH: Final = 0.6
BEFORE_S: Final = 6.0
AFTER_S: Final = 14.0
P99_TARGET_S: Final = 0.3
TIMEOUT_S: Final = 20.0
WORK: Final = "/compute?n=1500000"
SAMPLES: Final = 16
LEAST_COST_S: Final = 0.004  # a figure below it is noise, and would ask for hundreds of requests a second
WINDOW_S: Final = 1.0


@dataclass(frozen=True)
class Answer:
    """One request: when it began, how long it took, who answered; ``status`` 0 where nobody did."""

    at_s: float
    took_s: float
    status: int
    served_by: str


def run(world: World, group: str = "step") -> dict[str, Any]:
    """Return p99 over time, failed requests, and when the step was answered and absorbed."""
    world.scale(group, 1)
    wait_until(lambda: world.phases(group).count("ready") == 1, 60, "one domain in rotation", 0.05)
    wait_until(lambda: world.phases(group).count("standby") >= STANDBY, 90, f"{STANDBY} in standby", 0.1)
    where = world.endpoint(group)
    cost_s = asyncio.run(_cost_s(where))
    rate = WORTH * QUOTA / cost_s
    answers, stepped_s = asyncio.run(_drive(where, rate))
    early = {a.served_by for a in answers if a.status == 200 and a.at_s + a.took_s < stepped_s}
    if len(early) > 1:
        raise AutoscalerError(f"{len(early)} domains served before the step: one domain's worth was too much for one")
    return judge(answers, stepped_s) | {"cost_s": cost_s, "rate_per_s": rate, "p99_target_s": P99_TARGET_S}


def judge(answers: list[Answer], stepped_s: float) -> dict[str, Any]:
    """Return what the answers show; times are from the step.

    ``answered_s``: until a second domain answered. ``recovered_s``: from when on every second's p99 is under the
    target; None where that never came.
    """
    first = next((a.served_by for a in answers if a.status == 200 and a.at_s < stepped_s), "")
    others = [a.at_s + a.took_s - stepped_s for a in answers if a.status == 200 and a.served_by not in ("", first)]
    windows = p99_by_window(answers, stepped_s)
    late = [at_s for at_s, p99_s in windows if at_s >= 0 and p99_s > P99_TARGET_S]
    after = [at_s for at_s, _ in windows if at_s >= 0]
    recovered_s = None if not after or (late and late[-1] == after[-1]) else (late[-1] + WINDOW_S if late else 0.0)
    return {
        "requests": len(answers),
        "failed": sum(1 for a in answers if a.status != 200),
        "answered_s": min((s for s in others if s >= 0), default=None),
        "recovered_s": recovered_s,
        "p99_s": windows,
    }


def p99_by_window(answers: list[Answer], stepped_s: float) -> list[tuple[float, float]]:
    """Return the p99 of the requests that began in each window; windows are named by their begin."""
    found: dict[float, list[float]] = {}
    for answer in answers:
        found.setdefault((answer.at_s - stepped_s) // WINDOW_S * WINDOW_S, []).append(answer.took_s)
    return [(at_s, quantile(found[at_s], 0.99) or 0.0) for at_s in sorted(found)]


async def _cost_s(where: tuple[str, int]) -> float:
    """Return the CPU time of one request: what it takes when nothing else is asked, pauses between.

    In an emulated guest the connection costs CPU as well, so nothing is taken off for it.
    """
    work = []
    for _ in range(SAMPLES):
        work.append((await _ask(where, WORK)).took_s)
        await asyncio.sleep(0.15)
    return max(statistics.median(work), LEAST_COST_S)


async def _drive(where: tuple[str, int], rate: float) -> tuple[list[Answer], float]:
    """Return all answers, and when the load rose from one domain's worth to four."""
    begin_s = CLOCK.monotonic_s()
    stepped_s, end_s = begin_s + BEFORE_S, begin_s + BEFORE_S + AFTER_S
    due_s, asked = begin_s, []
    while due_s < end_s:
        await asyncio.sleep(max(due_s - CLOCK.monotonic_s(), 0.0))
        asked.append(asyncio.create_task(_ask(where, WORK)))
        due_s += 1 / (rate if due_s < stepped_s else 4 * rate)
    return sorted(await asyncio.gather(*asked), key=lambda answer: answer.at_s), stepped_s


async def _ask(where: tuple[str, int], path: str) -> Answer:
    at_s = CLOCK.monotonic_s()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*where)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            head = (await reader.read()).decode("latin-1")
            writer.close()
    except (OSError, TimeoutError):
        return Answer(at_s, CLOCK.monotonic_s() - at_s, 0, "")
    status = int(head.split(" ", 2)[1]) if head.startswith("HTTP/") else 0
    served_by = next((line[13:].strip() for line in head.splitlines() if line.lower().startswith("x-served-by:")), "")
    return Answer(at_s, CLOCK.monotonic_s() - at_s, status, served_by)
