"""Sick, overloaded, or dying again and again: stories in virtual time, with their figures."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.domain import DomainState
from common.errors import HypervisorError
from services.actuator.core.doubt import at_start
from services.actuator.core.seen import Load
from services.actuator.core.sickness import BACKLOG_S
from tests.sim.actuator_model import FakeDomain, World, group
from tests.sim.test_actuator_existing import users_world

IDLE = Load(queue=0, in_flight=0, request_rate=0.0, answer_rate=0.0)
WAITING = Load(queue=600, in_flight=192, request_rate=20.0, answer_rate=20.0)
REFUSED = Load(queue=0, in_flight=0, request_rate=20.0, answer_rate=0.0)
TEN_MINUTES_S = 600.0


def settled(desired: int, **changes: object) -> World:
    world = World(group(**changes))
    world.want(desired)
    world.run_until(world.is_settled)
    return world


def go_on(world: World, seconds: float, each_tick: Callable[[], None]) -> None:
    """Run for so long, with something done to the world before each tick."""
    until_s = world.now_s + seconds
    while world.now_s < until_s:
        each_tick()
        world.tick()


def calls(world: World, *names: str, since: int = 0) -> list[str]:
    return [name for _, call, name in world.log[since:] if call in names]


def members(world: World, phase: str) -> list[FakeDomain]:
    return [d for d in world.everything() if d.metadata.get("phase") == phase and d.state is DomainState.RUNNING]


def sicken(world: World) -> None:
    """Have all that are ready fail their checks, as when what they all need is away; each start begins anew."""
    for domain in world.everything():
        if domain not in members(world, "ready"):
            domain.is_unhealthy_since_s = None
        elif domain.is_unhealthy_since_s is None:
            domain.is_unhealthy_since_s = world.now_s


def heal(world: World) -> None:
    for domain in world.everything():
        domain.is_unhealthy_since_s = None


# --- T4: overloaded, not sick --------------------------------------------------------------------------------------


def test_slow_members_of_an_overloaded_group_keep_their_power_when_one_check_succeeds() -> None:
    world = users_world(count=3)
    world.want(3)
    world.run_until(lambda: world.ready() == 3)
    first, second, _ = world.everything()
    mark = len(world.log)
    world.load = WAITING
    first.is_unhealthy_since_s = second.is_unhealthy_since_s = world.now_s
    world.run(20)
    second.is_unhealthy_since_s = None  # one check succeeds
    world.run(10)
    world.load = IDLE
    world.run(3)
    first.is_unhealthy_since_s = None  # what waited has been worked off
    world.run(120)
    assert calls(world, "shutdown", "destroy", "start", since=mark) == []
    assert world.ready() == 3


def test_an_actuator_that_begins_anew_in_an_overload_judges_nobody_at_first_sight() -> None:
    world = settled(3)
    world.everything()[0].is_unhealthy_since_s = world.now_s - 60
    world.doubt = at_start(world.now_s)
    mark = len(world.log)
    world.run(world.group.unhealthy_grace_s - 1)
    assert calls(world, "destroy", "define", since=mark) == []
    world.run(3)
    assert calls(world, "define", since=mark) != []


# --- T34: the last one standing ------------------------------------------------------------------------------------


def test_the_only_member_keeps_its_place_in_an_overload_and_recovers_when_another_serves() -> None:
    world = settled(1)
    old = world.everything()[0]
    world.load = WAITING
    old.is_unhealthy_since_s = world.now_s
    world.run(30)
    assert world.phases() == {"web-0000": "ready"}
    world.want(2, generation=2)
    world.run_until(lambda: world.ready() == 2)
    world.load, old.is_unhealthy_since_s = IDLE, None
    world.run(120)
    assert world.phases() == {"web-0000": "ready", "web-0001": "ready"} and calls(world, "destroy") == []


def test_a_dead_application_is_replaced_beside_while_clients_are_refused() -> None:
    world = settled(1)
    old, fewest = world.everything()[0], 1
    world.load, old.is_unhealthy_since_s = REFUSED, world.now_s
    until_s = world.now_s + 60
    while "web-0000" in world.phases() and world.now_s < until_s:
        world.tick()
        fewest = min(fewest, sum(1 for phase in world.phases().values() if phase == "ready"))
    assert "web-0000" not in world.phases() and fewest == 1, "its replacement was ready before it went"


def test_a_hanging_application_without_room_for_another_is_restarted_in_the_end() -> None:
    world = users_world(count=1)
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    mark = len(world.log)
    hanging = world.everything()[0]
    world.load = Load(queue=600, in_flight=64, request_rate=20.0, answer_rate=0.0)
    hanging.is_unhealthy_since_s, hanging.in_flight = world.now_s, 64
    world.run(BACKLOG_S - 5)
    assert calls(world, "shutdown", since=mark) == []
    world.run_until(lambda: calls(world, "shutdown", since=mark) != [], limit_s=90)


HANGING = Load(queue=0, in_flight=6, request_rate=2.0, answer_rate=0.0)


def hang(world: World) -> FakeDomain:
    """Freeze the only member while clients ask: it answers nobody, and HAProxy holds it for up all the same."""
    (frozen,) = world.everything()
    frozen.hangs_since_s, frozen.in_flight, world.load = world.now_s, 6, HANGING
    return frozen


def answer_where_one_is_ready(world: World) -> None:
    is_served = any(d.hangs_since_s is None for d in members(world, "ready"))
    world.load = Load(queue=0, in_flight=6, request_rate=20.0, answer_rate=20.0) if is_served else HANGING


@pytest.mark.parametrize("asked", [3, 1], ids=["asked all the time", "asked at every third look"])
def test_one_that_hangs_alone_gets_another_beside_it_a_grace_after_its_last_answer(asked: int) -> None:
    world = settled(1, max=1)
    frozen, mark, turn = hang(world), len(world.log), 0
    begun_s = world.now_s

    def each_tick() -> None:
        nonlocal turn
        frozen.in_flight, turn = 0 if turn % 3 >= asked else 6, turn + 1
        answer_where_one_is_ready(world)

    go_on(world, 60, each_tick)
    at_s = {call: at_s - begun_s for at_s, call, _ in reversed(world.log[mark:])}  # the first of each
    grace_s = world.group.unhealthy_grace_s
    assert grace_s <= at_s["define"] <= grace_s + 3
    ready_s = at_s["start"] + world.boot_s
    assert at_s["destroy"] > ready_s, "nothing is taken away before the other one serves"
    assert calls(world, "define", since=mark) == ["web-0001"] and world.phases() == {"web-0001": "ready"}
    named = [event.text for event in world.events if event.name in ("domain-replaced", "domain-created")]
    assert named[1:] == ["stands in for web-0000"]


def test_one_that_goes_on_once_another_serves_beside_it_is_one_too_many_and_drains() -> None:
    world = settled(1, max=1)
    frozen, mark = hang(world), len(world.log)
    world.run_until(lambda: world.ready() == 2)
    frozen.hangs_since_s = frozen.let_go_s = None
    frozen.in_flight, world.load = 0, Load(queue=0, in_flight=6, request_rate=20.0, answer_rate=20.0)
    world.run_until(world.is_settled)
    assert calls(world, "define", since=mark) == ["web-0001"] and len(calls(world, "shutdown", since=mark)) == 1


@pytest.mark.parametrize("is_hanging", [True, False], ids=["an answer now and then", "no answer, and its checks pass"])
def test_one_that_is_only_slow_gets_nobody_beside_it(is_hanging: bool) -> None:
    world = settled(1, max=1)
    slow, mark, turn = hang(world), len(world.log), 0

    def answer_now_and_then() -> None:
        nonlocal turn
        turn += 1
        has_answered = is_hanging and turn % 16 == 0  # every 8 s
        world.load = Load(queue=600, in_flight=64, request_rate=20.0, answer_rate=1.0 if has_answered else 0.0)
        slow.hangs_since_s = world.now_s if is_hanging else None

    go_on(world, TEN_MINUTES_S, answer_now_and_then)
    assert calls(world, "define", "shutdown", "destroy", since=mark) == []


def test_one_that_hangs_without_room_for_another_is_told_as_blocked() -> None:
    world = settled(1, max=1, surge=0)
    hang(world)
    world.run(world.group.unhealthy_grace_s + 2)
    assert world.message is not None and "the ceiling is 1" in world.message.blocked
    assert any(note.startswith("web-0000: its checks time out") for note in world.message.notes)
    assert calls(world, "define") == ["web-0000"]


def test_what_all_need_and_hang_without_is_no_reason_for_a_loop_of_restarts() -> None:
    world = settled(1, max=1)
    hang(world)
    mark, begun_s = len(world.log), world.now_s

    def strike() -> None:
        for domain in members(world, "ready"):
            domain.hangs_since_s, domain.in_flight = domain.hangs_since_s or world.now_s, 6

    go_on(world, TEN_MINUTES_S, strike)
    at_s = [at_s - begun_s for at_s, call, _ in world.log[mark:] if call == "start"]
    assert sum(1 for each in at_s if each <= 60) <= 2 and len(at_s) <= 10, at_s
    assert at_s[-1] - at_s[0] < TEN_MINUTES_S - 90, "the waits grow"


# --- sick together -------------------------------------------------------------------------------------------------


def test_most_of_the_group_sick_and_idle_is_replaced_one_at_a_time() -> None:
    world = settled(4)
    for domain in world.everything()[:3]:
        domain.is_unhealthy_since_s = world.now_s
    fewest = 4
    until_s = world.now_s + 120
    while any(d.is_unhealthy_since_s for d in world.everything()) and world.now_s < until_s:
        world.tick()
        fewest = min(fewest, len(members(world, "ready")))
    assert fewest == 3
    world.run_until(world.is_settled)


def test_packet_loss_to_all_takes_nobody_away_en_masse() -> None:
    world = settled(4)
    world.hosts["local"].never_boots = True  # a new one cannot be reached either
    world.load = REFUSED
    go_on(world, TEN_MINUTES_S, lambda: sicken(world))
    assert len(members(world, "ready")) >= 3
    world.hosts["local"].never_boots = False
    world.load = IDLE
    go_on(world, 0.5, lambda: heal(world))
    for domain in world.everything():
        domain.never_boots = False
    world.run_until(world.is_settled, limit_s=2000)


# --- T15: what replacing does not cure -----------------------------------------------------------------------------


def restarts(world: World, seconds: float) -> list[float]:
    """Return when new ones were started while whatever is ready fails, in seconds from the first failure."""
    begun_s, mark = world.now_s, len(world.log)
    go_on(world, seconds, lambda: sicken(world))
    return [at_s - begun_s for at_s, call, _ in world.log[mark:] if call == "start"]


@pytest.mark.parametrize("kind", ["template", "existing"])
def test_a_group_of_one_whose_database_is_away_is_not_power_cycled_in_a_loop(kind: str) -> None:
    world = settled(1) if kind == "template" else users_world(count=1)
    world.want(1)
    world.run_until(lambda: world.ready() == 1)
    at_s = restarts(world, TEN_MINUTES_S)
    assert sum(1 for each in at_s if each <= 60) <= 2
    assert len(at_s) <= 6
    waits_s = [later - sooner for sooner, later in pairwise(at_s)]
    assert waits_s == sorted(waits_s), "each wait is longer than the one before"
    assert world.last_plan is not None
    assert any(note.startswith("replacing does not help: ") for note in world.last_plan.notes)


def test_once_cured_the_next_sick_one_is_replaced_after_the_grace_again() -> None:
    world = settled(1)
    restarts(world, 120)
    heal(world)
    world.run(90)
    assert not any(b.relapses for b in world.breakers.values())
    assert restarts(world, 30)[0] <= world.group.unhealthy_grace_s + 3


def test_one_replacement_that_fails_too_keeps_the_others_of_the_group_running() -> None:
    world = settled(4)
    old = {d.uuid for d in world.everything()}
    go_on(world, 60, lambda: sicken(world))
    assert len(old & {d.uuid for d in world.everything()}) >= 3


# --- T8: a crash soon after ready ----------------------------------------------------------------------------------


def crash_soon(world: World, after_s: float = 3.0) -> Callable[[], None]:
    """Return what has one domain die now, and whatever takes its place so long after it was ready."""
    first, rest = members(world, "ready")[0], {d.uuid for d in members(world, "ready")[1:]}
    first.state = DomainState.CRASHED
    ready_s: dict[tuple[str, float | None], float] = {}

    def strike() -> None:
        for domain in [d for d in members(world, "ready") if d.uuid not in rest]:
            since_s = ready_s.setdefault((domain.uuid, domain.started_s), world.now_s)
            if world.now_s - since_s >= after_s:
                domain.state = DomainState.CRASHED

    return strike


@pytest.mark.parametrize("kind", ["template", "existing"])
def test_a_member_that_dies_soon_after_each_ready_boots_few_times(kind: str) -> None:
    world = settled(8, max=8) if kind == "template" else users_world(count=8, max=8)
    world.want(8)
    world.run_until(lambda: world.ready() == 8)
    mark = len(world.log)
    go_on(world, TEN_MINUTES_S, crash_soon(world))
    begun_s = [at_s for at_s, call, name in world.log[mark:] if call == "start"]
    assert len(begun_s) <= 8
    assert len(members(world, "ready")) >= 7
    assert world.message is not None and "replacing does not help: " in world.message.blocked


def test_the_first_death_is_replaced_at_once() -> None:
    world = settled(2)
    victim = world.everything()[1]
    victim.state, died_s = DomainState.SHUTOFF, world.now_s
    world.run_until(lambda: world.ready() == 2 and len(world.everything()) == 2)
    assert min(at_s for at_s, call, _ in world.log if call == "define" and at_s > died_s) - died_s <= 1.0


@pytest.mark.parametrize("kind", ["template", "existing"])
def test_several_killed_together_soon_after_ready_are_replaced_at_once(kind: str) -> None:
    world = settled(3) if kind == "template" else users_world(count=3)
    world.want(3)
    world.run_until(lambda: world.ready() == 3)
    for domain in world.everything():
        domain.state = DomainState.SHUTOFF
    died_s = world.now_s
    world.run_until(lambda: len(calls(world, "start")) == 6)
    assert world.now_s - died_s <= 4


def test_only_the_place_of_the_dying_one_is_held_free() -> None:
    world = settled(3, max=8)
    strike = crash_soon(world)
    go_on(world, 120, strike)
    assert world.message is not None and "replacing does not help: " in world.message.blocked
    world.want(5, generation=2)
    mark = len(world.log)
    go_on(world, 5, strike)
    assert len(calls(world, "define", since=mark)) == 2, "a scale-out goes on"
    members(world, "ready")[0].state, mark = DomainState.CRASHED, len(world.log)
    go_on(world, 3, strike)
    assert calls(world, "define", since=mark) != [], "and so does the replacement of another"


def test_what_has_served_for_a_minute_is_forgotten() -> None:
    world = settled(2)
    go_on(world, 120, crash_soon(world))
    assert max(b.relapses for b in world.breakers.values()) >= 3
    world.run(300)
    assert max(b.relapses for b in world.breakers.values()) == 0


# --- T13: a broken domain of the user's own ------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "limit_s"), [("does not start", 15.0), ("does not boot", 100.0)])
def test_a_broken_domain_does_not_keep_the_next_one_from_serving(fault: str, limit_s: float) -> None:
    world = users_world(count=2)
    broken = world.hosts["local"].by_name["web-0000"]
    if fault == "does not boot":
        broken.never_boots = True
    else:
        world.hosts["local"].fail = lambda call, name: (
            HypervisorError("no such disk") if call == "start" and name == "web-0000" else None
        )
    world.want(1)
    assert world.run_until(lambda: world.ready() == 1) <= limit_s
    assert world.phases()["web-0001"] == "ready"
    assert world.message is not None and world.message.breaker == "closed"


def test_a_broken_domain_is_tried_again_with_growing_pauses_and_named() -> None:
    world = users_world(count=2)
    world.hosts["local"].fail = lambda call, name: (
        HypervisorError("no such disk") if call == "start" and name == "web-0000" else None
    )
    world.want(2)
    world.run(TEN_MINUTES_S)
    tries = calls(world, "start").count("web-0000")
    assert 4 <= tries <= 16
    assert world.ready() == 1 and world.last_plan is not None
    assert any(note.startswith("web-0000 is tried after the others: ") for note in world.last_plan.notes)
    assert "web-0000" in world.message.blocked if world.message else False
    world.hosts["local"].fail = lambda _call, _name: None
    world.run_until(lambda: world.ready() == 2, limit_s=1900)


def test_different_domains_that_do_not_start_close_the_host() -> None:
    world = users_world(count=4)
    world.hosts["local"].fail = lambda call, _name: HypervisorError("no space") if call == "start" else None
    world.want(4)
    world.run(20)
    assert world.message is not None and world.message.breaker == "open"


# --- properties ----------------------------------------------------------------------------------------------------

faults = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(faults)
@example([(0, 0), (1, 0), (2, 40)])
def test_all_that_fail_are_replaced_in_the_end_where_it_is_idle_and_there_is_room(
    script: list[tuple[int, int]],
) -> None:
    world = settled(4)
    for index, ticks in script:
        if index < len(world.everything()):
            world.everything()[index].is_unhealthy_since_s = world.now_s
        go_on(world, ticks * world.tick_s, lambda: None)
    world.run_until(lambda: not any(d.is_unhealthy_since_s for d in world.everything()), limit_s=1800)
    world.run_until(world.is_settled)


@settings(max_examples=25, deadline=None)
@given(faults)
def test_nobody_is_killed_where_all_that_fail_are_overloaded(script: list[tuple[int, int]]) -> None:
    world = settled(4)
    world.load, mark = WAITING, len(world.log)
    for index, ticks in script:
        domain = world.everything()[index]
        domain.is_unhealthy_since_s = None if domain.is_unhealthy_since_s else world.now_s
        go_on(world, min(ticks * world.tick_s, BACKLOG_S / 8), lambda: None)
    assert calls(world, "shutdown", "destroy", "undefine", since=mark) == []
