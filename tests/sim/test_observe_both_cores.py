"""The decider's core and the actuator's core together: in ``observe`` the one decides and the other does nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.config import Group
from common.messages import HostSample, Request
from common.phases import Phase
from services.decider.core.events import (
    Asked,
    MembershipSeen,
    PublishDesired,
    PublishRecord,
    SampleSeen,
    Tick,
    TrafficSeen,
)
from services.decider.core.group import handle
from services.decider.core.seen import read_sample
from services.decider.core.state import GroupState, Settings, begin
from tests.sim.actuator_model import World, group
from tests.sim.decider_model import calm

EPOCH_S = 1.7e9


@dataclass
class Both:
    """One group under both cores; ``load`` is the demand in domains."""

    group: Group
    load: Callable[[float], float]
    records: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(self.group)
        settings = Settings("web", self.group, interval_s=0.5, stale_after_s=3.5, republish_s=2.0, slots=64, run_id=1)
        self.state: GroupState = begin(settings)

    def run(self, seconds: float) -> "Both":
        until_s = self.world.now_s + seconds
        while self.world.now_s < until_s:
            self.world.tick()
            self.decide()
        return self

    def decide(self) -> None:
        now_s, seen = self.world.now_s, self.world.message
        assert seen is not None
        ready = [member for member in seen.members if member.phase is Phase.READY]
        ratio = min(self.load(now_s) / len(ready), 1.0) if ready else 0.0
        sample = HostSample(
            host="local",
            interval_s=0.5,
            is_reachable=True,
            names=tuple(member.name for member in ready),
            uuids=tuple(member.uuid for member in ready),
            states=("running",) * len(ready),
            cpu_ratios=(ratio,) * len(ready),
            allotted_cpus=(1.0,) * len(ready),
        )
        for event in (
            MembershipSeen(seen, now_s, "m"),
            SampleSeen(read_sample(sample, now_s, "s")),
            TrafficSeen(calm(self.load(now_s)), now_s, "t"),
            Tick(EPOCH_S + now_s),
        ):
            self.pass_on(event)

    def pass_on(self, event: Any) -> None:
        self.state, actions = handle(self.state, event, self.world.now_s)
        for action in actions:
            if isinstance(action, PublishDesired):
                self.world.desired = action.body
            if isinstance(action, PublishRecord):
                self.records.append(action.body)

    def set_mode(self, mode: str) -> None:
        self.pass_on(Asked(Request(verb="mode", args={"mode": mode}), 1, EPOCH_S))

    def would(self, way: str) -> bool:
        return any(f"it would scale {way}" in record.limiter_text for record in self.records)


POLICIES: list[list[dict[str, Any]]] = [
    [{"type": "threshold", "out_window_s": 3.0, "in_window_s": 10.0}],
    [{"type": "target-tracking", "in_stabilization_s": 10.0}],
    [{"type": "step", "steps": [{"above_ratio": 0.8, "change": 2}, {"below_ratio": 0.3, "change": -1}]}],
    [{"type": "target-tracking", "metric": "requests-per-domain", "target_requests_per_s": 12.0}],
]


@pytest.mark.parametrize("policies", POLICIES, ids=lambda policies: str(policies[0]["type"]))
@pytest.mark.parametrize(("demand", "way"), [(6.0, "out"), (0.1, "in")])
@pytest.mark.parametrize("mode", ["observe", "off"])
@pytest.mark.long
def test_what_it_would_do_is_recorded_and_no_call_is_made(
    policies: list[dict[str, Any]], demand: float, way: str, mode: str
) -> None:
    both = Both(group(policies=policies, min=1, max=6, cooldown_in_s=5.0), lambda t: 1.1)
    both.run(40)
    ready = both.world.ready()
    assert ready >= 2
    both.set_mode(mode)
    both.run(5)
    calls, steps = list(both.world.log), len(both.world.steps)
    both.load = lambda t: demand
    both.records.clear()
    both.run(200)
    assert both.would(way)
    assert {record.limiter for record in both.records if "would scale" in record.limiter_text} == {"mode"}
    assert both.world.log == calls
    assert len(both.world.steps) == steps
    assert both.world.ready() == ready
    both.set_mode("on")
    both.run(60)
    assert len(both.world.log) > len(calls)
    assert (both.world.ready() > ready) == (way == "out")


def test_out_only_adds_and_never_takes_away() -> None:
    both = Both(group(policies=POLICIES[0], min=1, max=6, cooldown_in_s=5.0, mode="out-only"), lambda t: 2.1)
    both.run(80)
    most = both.world.ready()
    assert most >= 3
    both.load = lambda t: 0.1
    both.run(200)
    assert both.world.ready() == most
    assert both.would("in")
