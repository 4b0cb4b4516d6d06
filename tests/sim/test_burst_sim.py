"""The burst bridge in the life of a group: at once, no further than the host can spare, given back, and repeatable."""

from collections import Counter
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from common.messages import Claim, DesiredCapacity
from services.decider.core.events import PublishDesired
from services.decider.core.evolve import evolve
from services.decider.core.explain import page
from services.decider.core.replay import IDENTICAL, replay
from services.decider.shell import rivals_of
from tests.sim.burst_world import QUOTA, BurstWorld
from tests.sim.decider_model import settings
from tests.sim.decider_tape import Tape


def world(load: Any, ready: int = 1, burst: dict[str, Any] | None = None, **changes: Any) -> BurstWorld:
    group = {"image": {"cpu_quota": QUOTA}, "burst": {"enabled": True} | (burst or {})} | changes.pop("group", {})
    shape = load if callable(load) else lambda t: float(load)
    return BurstWorld(shape, settings=settings(**group), ready=ready, **changes)


def told(found: BurstWorld) -> list[DesiredCapacity]:
    return [action.body for action in found.actions if isinstance(action, PublishDesired)]


def quotas(found: BurstWorld) -> list[float | None]:
    return [body.burst_quota for body in told(found)]


def test_an_overloaded_group_bursts_with_its_first_sample_long_before_it_scales_out() -> None:
    found = world(4.0).run(1)
    assert (found.state.burst.quota, found.last().action) == (1.0, "hold")
    assert quotas(found)[-1] == 1.0
    assert "CPU 100 %, at or above 80 %: 100 % of one CPU for each vCPU" in found.last().burst_text


def test_a_group_that_may_not_burst_never_does() -> None:
    found = world(4.0, burst={"enabled": False}).run(10)
    assert set(quotas(found)) == {None} and found.last().burst_text == ""


def test_a_burst_does_not_keep_a_group_from_scaling_out() -> None:
    with_burst, without = world(2.0).run(6), world(2.0, burst={"enabled": False}).run(6)
    assert with_burst.desired == without.desired == [(1.0, 1), (5.0, 2)]
    assert with_burst.state.history[-1].evidence.cpu_ratio == pytest.approx(2.0)


def test_a_burst_shows_how_many_domains_are_needed() -> None:
    policies = [{"type": "target-tracking", "target_ratio": 0.6}]
    found = world(2.4, group={"policies": policies, "max": 8}).run(2)
    assert [record.votes[0].wanted for record in found.state.history] == [2, 4]


def test_a_burst_is_given_back_step_by_step_when_the_new_members_serve() -> None:
    found = world(1.2, group={"max": 2}).run(30)
    given_back = [quota for quota in quotas(found)[quotas(found).index(1.0) :] if quota != 1.0]
    assert given_back[:4] == [0.85, 0.7, 0.55, None]
    assert found.last().desired_after == 2 and found.state.burst.quota is None


def test_a_burst_is_given_back_when_the_load_is_gone() -> None:
    found = world(lambda t: 4.0 if t < 3 else 0.1)
    assert [found.run(1).state.burst.quota for _ in range(7)] == [1.0, 1.0, 0.85, 0.7, 0.55, None, None]


def test_no_burst_goes_beyond_what_the_host_has_idle_less_the_reserve() -> None:
    found = world(4.0, host_cpus=2, other_cpus=1.2).run(1)
    assert found.state.burst.quota == pytest.approx(0.6)  # 2 - 1.2 - 0.4 idle, 0.2 reserved
    assert "local can spare 0.20 CPUs" in found.last().burst_text


def test_what_others_begin_to_use_is_left_to_them_with_the_next_sample() -> None:
    found = world(4.0).run(2)
    found.other_cpus = 3.2
    assert found.run(2).state.burst.quota == pytest.approx(0.6)
    found.other_cpus = 4.0
    assert found.run(2).state.burst.quota is None
    assert "but local can spare 0.00 CPUs" in found.last().burst_text


def test_a_burst_does_not_end_because_it_works() -> None:
    found = world(4.0, group={"max": 1}, host_cpus=1)
    assert {found.run(1).state.burst.quota for _ in range(20)} == {0.8}  # 1 CPU less the reserve, tick after tick


@pytest.mark.parametrize("what", ["is_blind", "host lost"])
def test_without_knowing_what_the_host_has_idle_nothing_is_raised(what: str) -> None:
    found = world(4.0).run(2)
    found.is_blind = what == "is_blind"
    found.loss = 0.0 if found.is_blind else 1.0
    found.run(6)
    assert found.state.burst.quota is None
    assert found.is_blind is ("it is unknown what local can spare" in found.last().burst_text)


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_a_group_that_is_only_observed_does_not_burst(mode: str) -> None:
    assert set(quotas(world(4.0, group={"mode": mode}).run(5))) == {None}


def test_coming_capacity_bursts_only_members_that_use_what_they_have() -> None:
    idle, busy = world(0.3, group={"min": 3}).run(3), world(0.7, group={"min": 3}).run(3)
    assert (idle.state.burst.quota, busy.state.burst.quota) == (None, 1.0)
    assert busy.last().burst_text.startswith("3 wanted, 1 serve")


def test_rivals_on_the_host_get_their_share() -> None:
    rival = Claim(group="shop", host="local", wanted_cpus=2.0, reserve_cpus=0.2)
    found = world(8.0, ready=2, host_cpus=2, rivals=(rival,)).run(1)
    assert found.state.burst.quota == pytest.approx(0.65)  # half of 2 - 0.8 - 0.2, for two members
    assert found.last().burst_rivals == (rival,)
    assert "among 2 groups" in found.last().burst_text


def test_a_group_hears_only_of_others_on_its_own_hosts() -> None:
    state = world(4.0).state
    claims = [Claim(group=name, host=host, wanted_cpus=1.0) for name, host in (("web", "local"), ("a", "x"))]
    there = Claim(group="a", host="local", wanted_cpus=1.0)
    assert rivals_of(state, [*claims, there]) == (there,)
    assert rivals_of(world(4.0, burst={"enabled": False}).state, [*claims, there]) == (there,)


def test_explain_tells_of_the_burst() -> None:
    record = world(4.0).run(1).last()
    assert f"  burst: {record.burst_text}" in page(record, None, ())


def test_every_tick_with_a_burst_is_repeated_byte_for_byte_over_a_restart() -> None:
    tape = Tape(world(lambda t: 3.0 if 20 < t % 200 < 90 else 0.3, group={"max": 3}, host_cpus=2))
    tape.world.rivals = (Claim(group="shop", host="local", wanted_cpus=0.3, excess_cpus=0.1, reserve_cpus=0.4),)  # type: ignore[attr-defined]
    tape.run(250)
    tape.restart()
    tape.run(150)
    found = list(replay(tape.frames, lambda _group, _run: None))
    assert dict(Counter(one.verdict for one in found)) == {IDENTICAL: 400}
    assert len({one.record.burst_quota for one in found}) > 3


def test_a_replay_that_begins_in_the_middle_of_a_burst_takes_it_up() -> None:
    tape = Tape(world(4.0, group={"max": 1})).run(5)
    records = [frame for frame in tape.frames if frame.topic.startswith("decision.")]
    cut = tape.frames[tape.frames.index(records[2]) :]
    own = replace(tape.world.settings, run_id=127)
    found = list(replay(cut, lambda _group, _run: own))
    assert [one.state.burst.quota for one in found] == [1.0] * len(found)


def test_when_the_desired_capacity_was_decided_is_told_with_it_and_stays() -> None:
    found = world(4.0).run(9)
    changed = {body.desired: body.decided_mono_s for body in told(found)}
    assert changed == {1: 1001.0, 2: 1005.0}
    found.ask("scale", desired=4)
    assert told(found)[-1].decided_mono_s == found.now_s


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    loads=st.lists(st.tuples(st.floats(0, 6), st.floats(0, 6)), min_size=3, max_size=12),
    host_cpus=st.integers(1, 4),
    readies=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_groups_on_one_host_never_raise_more_than_it_can_spare(
    loads: list[tuple[float, float]], host_cpus: int, readies: tuple[int, int]
) -> None:
    now: dict[str, float] = {}
    pair = [
        world(lambda t, name=name: now[name], ready, group={"min": ready, "max": ready}, host_cpus=host_cpus)
        for name, ready in zip(("web", "shop"), readies, strict=True)
    ]
    for found, name in zip(pair, ("web", "shop"), strict=True):
        found.state = evolve(found.state, settings=replace(found.settings, name=name))
    for both in loads:
        now.update(zip(("web", "shop"), both, strict=True))
        for found in pair:
            found.slowdown = 1.0
        slowdown = min(host_cpus / max(sum(map(sum, used_by(pair))), 1e-9), 1.0)  # as a full host does to everybody
        for found in pair:
            found.slowdown = slowdown
        used = used_by(pair)
        for found, others in zip(pair, reversed(used), strict=True):
            found.now_s += 1
            found.other_cpus = sum(others)
            for event in found.heard():
                found.pass_on(event)
        claimed = [claim for found in pair for claim in found.claims()]
        for found in pair:
            found.rivals = rivals_of(found.state, claimed)
            found.pass_on(found.tick())
        raised_cpus = sum((found.quota() - QUOTA) * len(found.serving()) for found in pair)
        in_use_cpus = sum(min(cpus, QUOTA) for group in used for cpus in group)
        assert raised_cpus <= max(host_cpus - in_use_cpus - 0.2, 0.0) + 1e-6


def used_by(pair: list[BurstWorld]) -> list[list[float]]:
    return [[found.used_cpus(domain) for domain in found.serving()] for found in pair]
