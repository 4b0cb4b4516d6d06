"""Every veto ends: whatever has happened to a group, an idle one comes to its min, an overloaded one to its max.

The properties hold for every kind of policy, alone and in pairs. That they can fail is tested too: each limit, made
endless on purpose, breaks one of them.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import Phase, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.messages import DecisionRecord, Failure
from services.decider.core import decide, lack, limits
from services.decider.core.decide import restarted
from services.decider.core.events import FailureSeen
from services.decider.core.evolve import evolve
from services.decider.core.limits import Case, Limit, Rule
from services.decider.core.metrics import GroupMetrics
from services.decider.core.state import GroupState
from tests.sim.decider_model import settings
from tests.sim.life_world import Life
from tests.sim.test_policies_sim import BY_QUEUE, BY_REQUESTS, BY_RESPONSE, STEP, STEP_ON_REQUESTS, THRESHOLD, TRACKING

HOUR_S = 3600
STAYS_S = 40  # so long it is looked at whether it stays where it came to
MAX = 5
NOT_OURS = ("blocked", "host-full", "mode", "paused")  # what keeps a group from its max and is not the decider's doing
DEMO = {"type": "threshold", "high_ratio": 0.8, "low_ratio": 0.35, "out_window_s": 5.0, "in_window_s": 30.0}
CALENDAR = {"type": "schedule", "cron": "13 22 14 11 *", "duration_s": 300.0, "capacity": 3}  # until t = 280 s
FORECAST = {"type": "predictive", "mode": "on", "step_s": 10.0}

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a counterexample of an hour is not made smaller in minutes

KINDS: dict[str, dict[str, Any]] = {
    "threshold": THRESHOLD,
    "cpu": TRACKING,
    "requests": BY_REQUESTS,
    "response": BY_RESPONSE | {"target_response_time_s": 0.2},
    "queue": BY_QUEUE,
    "step": STEP,
    "step-requests": STEP_ON_REQUESTS,
    "schedule": CALENDAR,
    "predictive": FORECAST,
}
ALONE = [(name,) for name in KINDS]
SETS = [*ALONE, *combinations(KINDS, 2)]
SHRINKING = [names for names in SETS if names != ("predictive",)]  # a forecast alone never scales in, by its contract
GROWING = [names for names in SETS if set(names) != {"schedule"}]


def life(names: tuple[str, ...], *, ready: int = 2, **changes: Any) -> Life:
    own = settings(policies=[KINDS[name] for name in names], max=MAX, hosts=["local", "far"], **changes)
    return Life(lambda t: 0.5, settings=own, ready=ready)


def last(world: Life) -> DecisionRecord:
    return world.state.history[-1]


# --- what may have happened -------------------------------------------------------------------------------------------

Act = tuple[str, int, float]
"""What happens, for how many seconds, and how much of it, in [0, 1]."""


def load(world: Life, much: float) -> None:
    world.load = lambda t: 8.0 * much


def errors(world: Life, much: float) -> None:
    world.error_ratio = much


def crash(world: Life, much: float) -> None:
    for domain in world.serving()[: 1 + int(much * 3)]:
        domain.is_dead = True
        failure = Failure(host=world.host(domain), domain=domain.name, uuid=domain.uuid, reason="crashed")
        world.pass_on(FailureSeen(failure, world.now_s, "monitor/1/failure/1"))


def loop(world: Life, much: float) -> None:
    world.loop()


def lose_a_host(world: Life, much: float) -> None:
    world.lose("far")


def suspend(world: Life, much: float) -> None:
    world.suspended = {domain.name for domain in world.serving()[:1]}


def sicken(world: Life, much: float) -> None:
    world.unhealthy = {domain.name for domain in world.domains[: int(much * 5)]}


def miss(world: Life, much: float) -> None:
    world.missing = lambda t, name: int(name[-4:]) % 3 < int(much * 3)


def deafen(world: Life, much: float) -> None:
    world.is_deaf = True


def restart(world: Life, much: float) -> None:
    world.restart()


def sleep(world: Life, much: float) -> None:
    world.now_s += 20 * much


def restart_proxy(world: Life, much: float) -> None:
    world.is_restarted = True


def block(world: Life, much: float) -> None:
    world.blocked = "local: 3 starts in a row failed"


def scale(world: Life, much: float) -> None:
    world.ask("scale", desired=1 + int(much * (MAX - 1)))


def bound(world: Life, much: float) -> None:
    world.ask("bounds", min=1 + int(much * (MAX - 1)))


def pause(world: Life, much: float) -> None:
    world.ask("pause")


def only_watch(world: Life, much: float) -> None:
    world.ask("mode", mode="observe")


def swing(world: Life, much: float) -> None:
    """Teach patience: a calm of just a window, and an overload after it, again and again."""
    world.load = lambda t: 0.1 if int(t) % 90 < 45 else 1.0 + 4.0 * much


ACTS: dict[str, Callable[[Life, float], None]] = {
    act.__name__: act
    for act in (
        load, errors, crash, loop, lose_a_host, suspend, sicken, miss, deafen, restart, sleep, restart_proxy, block,
        scale, bound, pause, only_watch, swing,
    )
}  # fmt: skip

pasts = st.lists(
    st.tuples(st.sampled_from(list(ACTS)), st.integers(1, 90), st.floats(0.0, 1.0, allow_nan=False)), max_size=8
)


def end_all(world: Life) -> None:
    """End everything that happens to a world but its load: the host is back, orders are taken back."""
    world.error_ratio, world.blocked = 0.0, ""
    world.loops_from, world.is_deaf, world.is_restarted = None, False, False
    world.lost, world.suspended, world.unhealthy = set(), set(), set()
    world.missing = lambda t, name: False
    world.ask("bounds", reset=True)
    world.ask("resume")
    world.ask("mode", mode="on")


def live(world: Life, past: list[Act]) -> Life:
    """Let a past happen: each act on top of those before, until all end."""
    world.run(3)
    for name, seconds, much in past:
        ACTS[name](world, much)
        world.run(seconds)
    end_all(world)
    return world


# --- two hours that follow --------------------------------------------------------------------------------------------


def nobody(world: Life) -> None:
    world.load, world.request_rate = lambda t: 0.02, lambda t: 0.0


def trickle(world: Life) -> None:
    world.load, world.request_rate = lambda t: 0.02, lambda t: 2.0


def slow_client(world: Life) -> None:
    """One request of ten seconds after the other."""
    world.load, world.request_rate, world.in_flight = lambda t: 0.02, lambda t: float(int(t) % 10 == 0), lambda t: 1.0


IDLE = {call.__name__: call for call in (nobody, trickle, slow_client)}


def is_at_min_after_an_hour_of_idleness(world: Life) -> bool:
    """Return whether it is at its min after an hour, or once the lesson in force has ended; one may be new by then."""
    if _comes_to(world, world.state.minimum, max(HOUR_S, _patience_s(world))):
        return True
    is_new = world.state.standing.patience_until_s > world.now_s
    return is_new and _comes_to(world, world.state.minimum, _patience_s(world))


def _patience_s(world: Life) -> float:
    """Return how long a group at its max may take to shrink by the patience in force."""
    left_s = max(world.state.standing.patience_until_s - world.now_s, 0.0)
    return left_s + world.settings.in_window_s + MAX * (world.settings.group.cooldown_in_s + 1.0)


def is_at_max_after_an_hour_of_overload(world: Life) -> bool:
    world.load = lambda t: 3.0 * MAX
    world.request_rate = world.in_flight = None
    return _comes_to(world, world.state.maximum, HOUR_S) or last(world).limiter in NOT_OURS


def _comes_to(world: Life, desired: int, within_s: float) -> bool:
    """Return whether the group comes to a desired capacity in time, and stays there."""
    until_s, kept_s = world.now_s + within_s, 0
    while kept_s < STAYS_S and world.now_s - kept_s < until_s:
        world.step()
        kept_s = kept_s + 1 if world.state.standing.desired == desired else 0
    return kept_s >= STAYS_S


GOES_ON = ("nothing", "loop", "lose_a_host", "suspend", "crash")
LIVES = {"past": pasts, "goes_on": st.sampled_from(GOES_ON)}


def go_on(world: Life, act: str) -> None:
    """Let something happen that nothing ends; a domain may crash again and again if it is not the only one."""
    if act != "nothing" and (act != "loop" or len(world.capacity()) > 1):
        ACTS[act](world, 0.0)


@pytest.mark.long
@given(names=st.sampled_from(SHRINKING), idle=st.sampled_from(list(IDLE)), **LIVES)
@example(names=("threshold",), past=[("load", 20, 1.0)], idle="nobody", goes_on="nothing")
@example(names=("cpu",), past=[("load", 40, 1.0)], idle="nobody", goes_on="nothing")
@example(names=("response",), past=[("load", 90, 1.0)], idle="slow_client", goes_on="nothing")
@hypothesis_settings(max_examples=60, deadline=None, phases=PHASES)
def test_idle_for_an_hour_is_at_min(names: tuple[str, ...], past: list[Act], idle: str, goes_on: str) -> None:
    world = live(life(names), past)
    IDLE[idle](world)
    go_on(world, goes_on)
    assert is_at_min_after_an_hour_of_idleness(world), last(world)


@pytest.mark.long
@given(names=st.sampled_from(GROWING), **LIVES)
@example(names=("threshold",), past=[], goes_on="loop")
@example(names=("step",), past=[], goes_on="loop")
@hypothesis_settings(max_examples=60, deadline=None, phases=PHASES)
def test_overloaded_for_an_hour_is_at_max_or_says_what_stops_it(
    names: tuple[str, ...], past: list[Act], goes_on: str
) -> None:
    world = live(life(names), past)
    go_on(world, goes_on)
    assert is_at_max_after_an_hour_of_overload(world), last(world)


@pytest.mark.parametrize("act", ["errors", "restart_proxy", "block", *GOES_ON])
@pytest.mark.parametrize("names", ALONE[:-2], ids=lambda names: names[0])
def test_an_overloaded_group_comes_to_its_max_whatever_goes_on(names: tuple[str, ...], act: str) -> None:
    world = life(names, ready=3).run(20)
    go_on(world, act)
    assert is_at_max_after_an_hour_of_overload(world), last(world)


@pytest.mark.parametrize("act", GOES_ON)
@pytest.mark.parametrize("idle", list(IDLE))
@pytest.mark.parametrize("names", [("threshold",), ("cpu",)], ids=lambda names: names[0])
def test_an_idle_group_comes_to_its_min_whatever_goes_on(names: tuple[str, ...], act: str, idle: str) -> None:
    world = life(names, ready=4).run(20)
    IDLE[idle](world)
    go_on(world, act)
    assert is_at_min_after_an_hour_of_idleness(world), last(world)


def test_a_group_whose_actuator_is_blocked_says_so_and_asks_for_no_more_than_one_decision_piles_up() -> None:
    world = life(("threshold",), ready=1, max_step_out=2).run(20)
    world.blocked = "local: 3 starts in a row failed"
    assert is_at_max_after_an_hour_of_overload(world)
    assert (last(world).limiter, last(world).desired_after) == ("blocked", 4)
    assert "3 starts in a row failed" in last(world).limiter_text


# --- the properties can fail ------------------------------------------------------------------------------------------

SLOW_AND_FAST = [
    {"type": "threshold", "out_window_s": 40.0, "in_window_s": 20.0},
    {"type": "target-tracking", "out_stabilization_s": 2.0, "in_stabilization_s": 20.0},
    BY_RESPONSE | {"target_response_time_s": 1.0, "in_stabilization_s": 20.0},
]
QUARTER_S = 900  # enough for these


def eventful() -> Life:
    """Return a group in whose past every limit has held that there is."""
    bounds = {"min": 2, "max": 9, "max_step_out": 1, "cooldown_out_s": 60.0, "cooldown_in_s": 60.0}
    own = settings(policies=SLOW_AND_FAST, hosts=["local", "far"], **bounds)
    world = Life(lambda t: 0.6, settings=own, ready=3)  # somebody works on something: else it learns nothing
    past: list[tuple[int, dict[str, Any]]] = [
        (100, {}),  # it watches, it waits for its cooldown, it comes to its min
        (130, {"load": lambda t: 20.0}),  # it learns patience, it grows, it waits for its cooldown
        (60, {"is_full": True}),
        (200, {"is_full": False, "blocked": "local: 3 starts in a row failed"}),
        (400, {"blocked": ""}),  # it comes to its max
        (40, {"load": lambda t: 0.05, "queued": 1}),
        (25, {"queued": 0, "is_proxy_dead": True}),
        (25, {"is_proxy_dead": False, "is_restarted": True}),
        (8, {"is_restarted": False, "unhealthy": {f"web-{number:04d}" for number in range(30)}}),
        (160, {"unhealthy": set(), "is_stuck": True}),  # it is halted, then it shrinks, and nobody leaves
        (5, {"is_stuck": False}),
    ]
    for seconds, changes in past:
        for name, value in changes.items():
            setattr(world, name, value)
        world.run(seconds)
    desired = world.path()[-1]
    for _ in range(QUARTER_S):
        world.step()
        if world.path()[-1] != desired:
            break
    world.run(22)
    crash(world, 0.0)  # another one comes while it waits for its cooldown
    world.run(20)
    world.load = lambda t: 20.0
    world.restart()
    return world.run(35)  # it watches


def is_live(world: Life) -> bool:
    """Return whether the group comes to its min when it is idle, and to its max when it is overloaded."""
    nobody(world)
    is_at_min = _comes_to(world, world.state.minimum, QUARTER_S)
    world.load, world.request_rate = lambda t: 20.0, None
    return is_at_min and _comes_to(world, world.state.maximum, QUARTER_S)


TABLES = ("IN_RULES", "OUT_RULES")
RULES = [(table, rule) for table in TABLES for rule in getattr(limits, table)]


def endless(rule: Rule) -> Rule:
    """Return the rule as it would be without an end: once it has held, it holds for ever."""
    held: list[Limit] = []

    def holds(case: Case) -> Limit | None:
        found = rule(case)
        held.extend([found] if found and not held else [])
        return held[0] if held else None

    return holds


def test_a_group_in_which_every_limit_has_held_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    held: set[tuple[str, str]] = set()

    def noted(table: str, rule: Rule) -> Rule:
        def holds(case: Case) -> Limit | None:
            found = rule(case)
            held.update([(table, rule.__name__)] if found else [])
            return found

        return holds

    for table in TABLES:
        monkeypatch.setattr(limits, table, tuple(noted(table, rule) for rule in getattr(limits, table)))
    assert is_live(eventful())
    assert {(table, rule.__name__) for table, rule in RULES} - held == set()


@pytest.mark.parametrize(("table", "rule"), RULES, ids=[f"{table} {rule.__name__}" for table, rule in RULES])
def test_any_limit_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch, table: str, rule: Rule) -> None:
    rules = tuple(endless(one) if one is rule else one for one in getattr(limits, table))
    monkeypatch.setattr(limits, table, rules)
    assert not is_live(eventful())


def test_domains_that_are_expected_without_an_end_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lack, "is_expected", lambda *_: True)
    world = life(("threshold",), ready=3).run(20)
    world.loop()
    assert not is_at_max_after_an_hour_of_overload(world)


def test_windows_that_begin_anew_with_every_change_of_members_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decide._noted

    def nervous(state: GroupState, metrics: GroupMetrics, now_s: float) -> GroupState:
        if state.history and state.history[-1].evidence.domains_ready != metrics.ready:
            anew = restarted(state.settings, state.policy_states)
            state = evolve(state, policy_states=anew, leaning_in_since_s=None)
        return plain(state, metrics, now_s)

    monkeypatch.setattr(decide, "_noted", nervous)
    world = life(("threshold",), ready=4).run(20)
    world.loop()
    nobody(world)
    assert not is_at_min_after_an_hour_of_idleness(world)
