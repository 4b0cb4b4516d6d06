"""What a decision costs: one group under every policy, and a thousand groups on one core.

Run it alone: ``python -m bench.decisions``. No process, no socket: the decider's core on made-up figures.
"""

import gc
import math
import statistics
import sys
import time
from collections.abc import Iterator

from common.config import Group
from common.messages import Member, Membership, Traffic
from common.phases import Phase
from services.decider.core.events import MembershipSeen, SampleSeen, Tick, TrafficSeen
from services.decider.core.group import handle
from services.decider.core.seen import Reading
from services.decider.core.state import GroupState, Settings, begin
from services.decider.shell import COLLECT

EPOCH_S = 1.7e9
GROUPS = 1000
TICKS = 70
WARM_TICKS = 330  # ten forecast steps of 30 s, and some
PREDICTIVE = {"type": "predictive", "mode": "on"}
ALL = (
    {"type": "threshold"},
    {"type": "target-tracking"},
    {"type": "step", "steps": ({"above_ratio": 0.8, "change": 1}, {"below_ratio": 0.2, "change": -1})},
    {"type": "schedule", "cron": "30 7 * * MON-FRI", "zone": "Europe/Berlin", "duration_s": 3600.0, "capacity": 2},
    PREDICTIVE,
)


def group_state(name: str, policies: tuple[dict[str, object], ...]) -> GroupState:
    """Return a group that has just started."""
    group = Group.model_validate({"prefix": f"{name}-", "max": 40, "policies": policies})
    return begin(Settings(name, group, 1.0, 3.5, 2.0, 64))


def events(state: GroupState, now_s: float) -> Iterator[MembershipSeen | SampleSeen | TrafficSeen | Tick]:
    """Yield what one second brings: three ready domains whose load comes and goes."""
    name = state.settings.name
    names = [f"{name}-{number:04d}" for number in range(3)]
    ratio = 0.5 + 0.1 * math.sin(now_s / 50)
    members = tuple(
        Member(name=n, uuid=n, host="local", phase=Phase.READY, since_s=0, age_s=0, address="10.0.0.1", port=80)
        for n in names
    )
    membership = Membership(
        group=name, generation_seen=0, desired_seen=3, members=members, owned_total=3, ceiling=41, boot_p95_s=12.0
    )
    yield MembershipSeen(membership, now_s, "m")
    yield SampleSeen(Reading("local", now_s, "s", True, {n: (n, ratio) for n in names}))
    traffic = Traffic(
        group=name, interval_s=1.0, is_known=True, request_rate=60.0, error_rate=0.0, queue=0, in_flight=1,
        response_time_s=0.02,
    )  # fmt: skip
    yield TrafficSeen(traffic, now_s, "t")
    yield Tick(EPOCH_S + now_s)


def second(state: GroupState, now_s: float) -> tuple[GroupState, float]:
    """Return the state after a second, and the CPU time that the decider's core took for it."""
    given = list(events(state, now_s))
    begin_s = time.process_time()
    for event in given:
        state, _ = handle(state, event, now_s)
    return state, time.process_time() - begin_s


def one_group() -> list[float]:
    """Return the seconds that each tick of one group took under every policy."""
    state, spent = group_state("web", ALL), []
    for tick in range(WARM_TICKS + 3000):
        state, took_s = second(state, 1000.0 + tick)
        spent.append(took_s)
    return spent[WARM_TICKS:]


def many_groups() -> list[float]:
    """Return the seconds that each tick of a thousand groups took, each with a threshold and a forecast."""
    spent: list[float] = []
    states = [group_state(f"group-{number}", ({"type": "threshold"}, PREDICTIVE)) for number in range(GROUPS)]
    for tick in range(TICKS):
        total_s = 0.0
        for number, one in enumerate(states):
            states[number], took_s = second(one, 1000.0 + tick)
            total_s += took_s
        spent.append(total_s)
    return spent[31:]  # from the second step on each of them forecasts


def main() -> int:
    """Print both figures; 1 where one is over its budget."""
    gc.set_threshold(*COLLECT)
    spent = sorted(one_group())
    p99_s = spent[int(len(spent) * 0.99)]
    print(f"one group, every policy: median {1000 * statistics.median(spent):.2f} ms, p99 {1000 * p99_s:.2f} ms (10)")
    many = many_groups()
    print(f"{GROUPS} groups, threshold and forecast: mean {statistics.mean(many):.2f} s, most {max(many):.2f} s (1)")
    return int(p99_s >= 0.010 or max(many) >= 1.0)


if __name__ == "__main__":
    sys.exit(main())
