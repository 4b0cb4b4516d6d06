"""What a reload takes away from a group that runs is given back by the actuator, and nobody in service pays for it."""

from collections.abc import Callable
from typing import Any

import pytest

from common.domain import DomainState
from common.phases import Phase
from tests.sim.actuator_model import World, group

BURST = {"enabled": True, "max_quota": 0.9}


def settled(desired: int, **changes: Any) -> World:
    world = World(group(**changes))
    world.want(desired)
    world.run_until(world.is_settled)
    return world


@pytest.mark.parametrize(
    "warm", [{"paused": 2}, {"saved": 2}, {"running": 2}, {"paused": 1, "saved": 1, "running": 1}, {"sizing": "auto"}]
)
def test_a_reserve_that_is_taken_away_goes_and_who_serves_stays(warm: dict[str, Any]) -> None:
    world = settled(1, warm=warm)
    serving = {d.uuid for d in world.everything() if d.metadata["phase"] == "ready" and not d.metadata["tier"]}
    world.group = group()
    world.run_until(lambda: len(world.everything()) == 1)
    assert world.ready() == 1
    assert serving >= {d.uuid for d in world.everything()}


def test_failed_domains_that_were_kept_for_a_look_go_when_nobody_wants_to_look_any_more() -> None:
    world = settled(2, keep_failed=True)
    sick = world.hosts["local"].by_name["web-0000"]
    sick.is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.ready() == 2 and sick.state is DomainState.PAUSED)
    world.group = group()
    world.run_until(lambda: sick.uuid not in {d.uuid for d in world.everything()})
    assert world.ready() == 2


@pytest.mark.parametrize("is_told", [lambda world: None, lambda world: world.want(1, generation=2, burst_quota=0.9)])
def test_a_burst_that_is_switched_off_is_given_back_also_before_the_decider_has_heard_of_it(
    is_told: Callable[[World], None],
) -> None:
    world = settled(1, burst=BURST)
    world.want(1, generation=2, burst_quota=0.9)
    world.run_until(lambda: "0.90" in {d.metadata["cpu_quota"] for d in world.everything()})
    world.group = group()
    is_told(world)
    world.run_until(lambda: {d.metadata["cpu_quota"] for d in world.everything()} == {""})


def test_the_reserve_is_refilled_once_the_burst_is_over() -> None:
    world = settled(1, burst=BURST)
    world.want(1, generation=2, burst_quota=0.9)
    world.group = group(burst=BURST, warm={"paused": 1})
    world.run(60)
    assert len(world.everything()) == 1
    world.group = group(warm={"paused": 1})
    world.want(1, generation=3)
    world.run_until(world.is_settled)
    assert sorted(d.metadata["phase"] for d in world.everything()) == [Phase.READY.value, Phase.STANDBY.value]
