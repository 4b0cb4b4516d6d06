"""What went wrong with others at work: a crash loop, a lost host, requests that fail at once, nobody who is healthy."""

from typing import Any

import pytest

from common.messages import DecisionRecord
from tests.sim.decider_model import settings
from tests.sim.life_world import Life

MINUTES = 60


def life(load: float, ready: int, **changes: Any) -> Life:
    """Return a group that has lived for a minute with so much load."""
    world = Life(lambda t: load, settings=settings(hosts=["local", "far"], **changes), ready=ready)
    world.has_queue = False
    return world.run(60)


def last(world: Life) -> DecisionRecord:
    return world.state.history[-1]


def test_a_domain_that_crashes_again_and_again_does_not_hide_the_overload_of_the_others() -> None:
    world = life(4.0, ready=8, max=12)
    world.loop()
    world.load, world.queued = lambda t: 8.0, 50
    world.run(30 * MINUTES)
    assert world.path() == [8, 9, 10, 11, 12]
    assert world.desired[-1][0] < 10 * MINUTES


def test_what_crashes_again_and_again_is_shown_as_overdue() -> None:
    world = life(4.0, ready=8, max=8)
    world.loop()
    world.run(60)
    while last(world).evidence.domains_ready == 8:
        world.step()
    assert (last(world).evidence.domains_coming, last(world).evidence.domains_overdue) == (1, 1)
    assert "1 coming (1 overdue)" in world.ask("explain").reply.data["text"]


def test_one_crash_is_waited_for_as_long_as_a_boot_may_take() -> None:
    world = life(1.4, ready=2, max=4)
    world.domains[0].is_dead = True
    assert world.run(120).path() == [2]


@pytest.mark.parametrize("policy", ["threshold", "target-tracking"])
def test_the_members_of_a_lost_host_do_not_hide_the_overload_of_the_others(policy: str) -> None:
    world = life(2.0, ready=4, max=12, policies=[{"type": policy}])
    world.lose("far")
    world.request_rate = lambda t: 20.0  # nothing queues: CPU alone shows it
    world.in_flight = lambda t: 4.0
    world.load = lambda t: 2.0
    world.run(60)
    assert world.path()[-1] > 4
    assert world.path() == sorted(world.path())


def test_a_group_without_load_shrinks_though_a_host_is_lost_and_takes_back_who_returns() -> None:
    world = life(0.2, ready=4, max=4, policies=[{"type": "threshold", "in_window_s": 90.0}])
    world.lose("far")
    world.run(5 * MINUTES)
    assert world.path()[-1] == 1
    assert len(world.serving()) == 1
    world.lost.clear()
    world.run(2 * MINUTES)
    assert world.path()[-1] == 1
    assert len(world.serving()) == 1


def test_while_every_host_is_lost_nothing_changes() -> None:
    world = life(0.2, ready=3, policies=[{"type": "threshold", "in_window_s": 90.0}])
    before = world.path()
    world.lose("far")
    world.lose("local")
    assert world.run(10 * MINUTES).path() == before
    assert last(world).limiter in ("unknown-data", "stale-data")


def test_a_suspended_domain_does_not_hide_the_overload_of_the_others() -> None:
    world = life(1.0, ready=2, max=3)
    world.suspended = {"web-0001"}
    world.run(30)
    assert world.path() == [2, 3]


def test_requests_that_all_fail_at_once_take_nobody_away_until_they_end() -> None:
    world = life(3.0, ready=5, max=5)
    world.load, world.error_ratio = lambda t: 0.05, 1.0
    world.request_rate, world.in_flight = lambda t: 20.0, lambda t: 0.0  # 500 in 2 ms
    assert world.run(10 * MINUTES).path() == [5]
    assert (last(world).limiter, last(world).limiter_text) == ("pressure", "100 % of the requests fail")
    assert last(world).evidence.error_fast_ratio == 1.0
    world.request_rate = lambda t: 0.0
    assert world.run(3 * MINUTES).path() == [5, 4, 3, 2, 1]


def test_a_few_failures_keep_no_group_large() -> None:
    world = life(3.0, ready=5, max=5)
    world.load, world.error_ratio, world.request_rate = lambda t: 0.05, 0.05, lambda t: 20.0
    assert world.run(5 * MINUTES).path() == [5, 4, 3, 2, 1]


def test_members_that_fail_their_checks_under_load_are_joined_by_others() -> None:
    world = life(1.5, ready=2, max=4)
    world.load = lambda t: 2.0
    kept = world.ratio
    world.ratio = lambda domain, busy: 1.0 if domain.name in world.unhealthy else kept(domain, busy)  # type: ignore[method-assign]
    world.unhealthy = {"web-0000", "web-0001"}
    world.run(5)
    assert world.path() == [2, 3]
