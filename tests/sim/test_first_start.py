"""A first start with domains that their owner runs already: decider and actuator leave them running."""

import pytest

from tests.sim.test_actuator_existing import running, users_world
from tests.sim.test_observe_both_cores import Both

THREE = ["web-0000", "web-0001", "web-0002"]


def started(mode: str = "on") -> Both:
    world = users_world(running=(0, 1, 2), mode=mode, min=1, max=4)
    both = Both(world.group, lambda _now_s: 1.5)
    both.world = world
    return both


def test_running_domains_count_before_they_are_taken_in() -> None:
    both = started().run(120)
    assert {record.desired_after for record in both.records if record.desired_after} == {3}
    assert running(both.world) == THREE
    assert not any(call in ("start", "shutdown") for _, call, _ in both.world.log)


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_running_domains_stay_when_a_group_is_switched_on(mode: str) -> None:
    both = started(mode).run(30)
    both.set_mode("on")
    both.run(120)
    assert running(both.world) == THREE
    assert both.world.ready() == 3
    assert not any(call in ("start", "shutdown") for _, call, _ in both.world.log)
