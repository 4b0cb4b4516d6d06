"""What a reload takes away while it runs is given back: the burst, a forecast's floor, a calendar's, the larger max."""

from typing import Any

import pytest

from common.messages import DecisionRecord, DesiredCapacity
from services.decider.core.events import PublishDesired, Reconfigured
from services.decider.core.replay import IDENTICAL, replay
from tests.sim.burst_world import QUOTA, BurstWorld
from tests.sim.decider_model import World, settings
from tests.sim.decider_tape import Tape

THRESHOLD = {"type": "threshold"}
ALWAYS = {"type": "schedule", "cron": "* * * * *", "duration_s": 120.0, "capacity": 3}
IMAGE = {"cpu_quota": QUOTA}


def bursting(load: float = 4.0, **burst: Any) -> BurstWorld:
    group = {"image": IMAGE, "burst": {"enabled": True} | burst, "max": 1}
    return BurstWorld(lambda t: load, settings=settings(**group)).run(3)


def reload(found: World, **changes: Any) -> None:
    found.pass_on(Reconfigured(settings(**changes)))


def told(found: World) -> DesiredCapacity:
    return next(action.body for action in reversed(found.actions) if isinstance(action, PublishDesired))


def last(found: World) -> DecisionRecord:
    return found.state.history[-1]


def test_a_burst_that_is_switched_off_ends_with_the_next_tick() -> None:
    found = bursting()
    assert told(found).burst_quota == 1.0
    reload(found, image=IMAGE, max=1)
    found.run(1)
    assert (told(found).burst_quota, last(found).burst_quota, last(found).burst_text) == (None, None, "")
    assert found.claims() == ()


@pytest.mark.parametrize("load", [4.0, 0.1])
def test_a_burst_never_stays_above_a_lowered_most(load: float) -> None:
    found = bursting()
    found.load = lambda t: load
    reload(found, image=IMAGE, max=1, burst={"enabled": True, "max_quota": 0.6})
    quotas = [found.run(1).state.burst.quota for _ in range(8)]
    assert all(quota is None or quota <= 0.6 for quota in quotas)
    assert (quotas[-1] is None) is (load < 1)


def test_a_larger_reserve_takes_from_the_burst() -> None:
    found = bursting()
    reload(found, image=IMAGE, max=1, burst={"enabled": True, "reserve_cpus": 3.5})
    assert found.run(1).state.burst.quota == pytest.approx(0.5)


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_a_group_that_is_switched_off_bursts_no_more(mode: str) -> None:
    found = bursting()
    reload(found, image=IMAGE, max=1, burst={"enabled": True}, mode=mode)
    found.run(1)
    assert (told(found).mode, told(found).burst_quota) == (mode, None)


def test_a_recording_in_which_the_burst_is_switched_off_repeats_byte_for_byte() -> None:
    found = bursting()
    tape = Tape(found).run(5)
    reload(found, image=IMAGE, max=1)
    tape.run(20)
    verdicts = [one.verdict for one in replay(tape.frames, lambda _group, _run: found.settings)]
    assert verdicts[-20:] == [IDENTICAL] * 20


def calendar(**changes: Any) -> World:
    return World(lambda t: 0.05, settings=settings(policies=[THRESHOLD, ALWAYS | changes], max=6)).run(60)


@pytest.mark.parametrize(
    "policies", [[THRESHOLD], [THRESHOLD, ALWAYS | {"mode": "observe"}], [THRESHOLD, ALWAYS | {"capacity": 1}]]
)
def test_a_calendar_that_is_taken_away_holds_nobody(policies: list[dict[str, Any]]) -> None:
    found = calendar()
    assert found.state.standing.desired == 3
    reload(found, policies=policies, max=6)
    assert found.run(200).state.standing.desired == 1


def test_a_forecast_that_is_switched_off_holds_nobody() -> None:
    forecast = {"type": "predictive", "mode": "on", "step_s": 5.0, "headroom": 20.0}
    found = World(lambda t: 1.5 + (t // 5) % 2, settings=settings(policies=[THRESHOLD, forecast], max=8)).run(200)
    floor = next(vote.wanted or 0 for vote in last(found).votes if vote.policy == "predictive")
    assert floor > 1
    reload(found, policies=[THRESHOLD, forecast | {"mode": "observe"}], max=8)
    found.load = lambda t: 0.05
    assert found.run(7 * 60).state.standing.desired == 1


def test_a_policy_that_is_taken_away_votes_no_more() -> None:
    tracking = {"type": "target-tracking", "metric": "requests-per-domain", "target_requests_per_s": 1.0}
    found = World(lambda t: 0.3, settings=settings(policies=[THRESHOLD, tracking], max=8), ready=2).run(60)
    assert (found.state.standing.desired or 0) > 2
    reload(found, policies=[THRESHOLD], max=8)
    found.run(8 * 60)
    assert found.state.standing.desired == 1
    assert {vote.policy for vote in last(found).votes} == {"threshold"}


def test_a_lowered_max_and_a_lowered_min_are_followed() -> None:
    found = World(lambda t: 0.05, settings=settings(min=4, max=6)).run(60)
    assert found.state.standing.desired == 4
    reload(found, min=1, max=6)
    assert found.run(200).state.standing.desired == 1
    reload(found, min=5, max=6)
    found.run(30)
    reload(found, min=1, max=2)
    assert found.run(1).state.standing.desired == 2


def test_a_shorter_cooldown_does_not_have_to_wait_for_the_longer_one() -> None:
    found = World(lambda t: 0.05, settings=settings(cooldown_in_s=3600.0), ready=3).run(60)
    assert last(found).limiter == "cooldown"
    reload(found, cooldown_in_s=10.0)
    assert found.run(60).state.standing.desired == 1
    busy = World(lambda t: 9.0, settings=settings(cooldown_out_s=3600.0)).run(60)
    assert busy.state.standing.desired == 2
    reload(busy, cooldown_out_s=5.0)
    assert busy.run(60).state.standing.desired == 4


def test_a_longer_cooldown_does_not_stretch_the_one_that_runs() -> None:
    found = World(lambda t: 9.0).run(7)
    before = found.state.standing
    reload(found, cooldown_in_s=3600.0, cooldown_out_s=600.0)
    assert found.state.standing == before
