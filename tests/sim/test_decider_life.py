"""The decider's core against a model group: whole hours in virtual time."""

import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.messages import DesiredCapacity
from common.phases import Phase
from services.decider.core.events import CoreEvent, PublishDesired, PublishRecord, Tick
from tests.faults.proof import Proof
from tests.sim.decider_model import DRAIN_S, Load, World, calm, settings, square

TRACKING = {"policies": [{"type": "target-tracking"}]}
BOTH = {"policies": [{"type": "threshold"}, {"type": "target-tracking"}]}
KINDS: list[dict[str, Any]] = [{}, TRACKING, BOTH]


def told(world: World) -> list[DesiredCapacity]:
    return [action.body for action in world.actions if isinstance(action, PublishDesired)]


def step(before: float, after: float, at_s: float) -> Load:
    return lambda t: before if t < at_s else after


@pytest.mark.parametrize("changes", KINDS)
def test_an_hour_of_changing_load_converges_and_does_not_flap(changes: dict[str, Any]) -> None:
    world = World(lambda t: 0.2 if t < 300 else 2.2 if t < 1800 else 0.3, settings=settings(max=8, **changes))
    begin_s = time.process_time()
    world.run(3600)
    print(f"an hour of virtual life took {time.process_time() - begin_s:.2f} s")
    assert len(world.turns()) == 1
    at_peak = [to for t, to in world.desired if t < 1800][-1]
    assert at_peak in (3, 4)
    assert world.desired[-1][1] == 1


def test_the_second_domain_is_asked_for_one_window_after_the_overload_began() -> None:
    assert World(step(0.2, 1.5, 100.0)).run(110).desired == [(1.0, 1), (104.0, 2)]


def test_target_tracking_computes_how_many_at_once() -> None:
    world = World(step(1.0, 3.9, 60.0), settings=settings(max=16, max_step_out=8, **TRACKING), ready=2)
    world.run(66)
    assert world.path() == [2, 4]
    assert world.run(60).path()[-1] == 7


@pytest.mark.parametrize(
    ("changes", "low", "high"), [({}, 0.3, 1.5), ({}, 0.1, 0.95), (TRACKING, 0.2, 3.9), (BOTH, 0.3, 1.5)]
)
@pytest.mark.parametrize("windows", [None, 0.7, 1.5, 2.0])
@pytest.mark.long
def test_a_square_wave_costs_at_most_two_changes_of_direction_an_hour(
    changes: dict[str, Any], low: float, high: float, windows: float | None
) -> None:
    used = settings(**changes)
    period_s = 2.0 if windows is None else windows * used.in_window_s
    world = World(square(low, high, period_s), settings=used)
    world.run(1200)  # a lesson lasts an hour: what follows is the same again
    assert len(world.turns()) <= 2, world.desired


def test_the_lesson_of_a_square_wave_lasts_the_hour() -> None:
    world = World(square(0.2, 1.5, 60.0)).run(3600)
    assert len(world.turns()) <= 2
    assert world.state.history[-1].limiter in ("patience", "window", "none", "coming", "pressure")


def test_slow_waves_are_load_and_are_followed() -> None:
    world = World(square(0.2, 1.5, 900.0)).run(1900)
    assert len(world.turns()) == 4


def test_boot_spikes_of_new_domains_do_not_cascade() -> None:
    world = World(step(0.2, 1.1, 60.0)).run(600)
    assert world.path() == [1, 2]


def test_a_dead_domain_is_no_reason_to_change_the_desired_capacity() -> None:
    world = World(lambda t: 1.2, ready=2).run(60)
    world.domains[0].is_dead = True
    world.run(120)
    assert world.path() == [2]


def test_missing_samples_of_one_domain_do_not_flap() -> None:
    world = World(lambda t: 1.2, ready=3)
    world.missing = lambda t, name: name == "web-0001" and int(t) % 7 < 4
    assert world.run(900).path() == [3]


@pytest.mark.fault(30)
def test_data_that_come_back_as_zeros_begin_a_new_window(row: Proof) -> None:
    world = World(lambda t: 0.0 if t > 100 else 1.2, ready=2)
    world.missing = lambda t, name: 80 < t <= 120
    world.run(130)
    assert world.path() == [2]
    assert world.run(30).path() == [2, 1]
    assert world.desired[-1][0] >= 150.0
    row.held("in simulation, zeros to the last digit: scaled in 30 s after the first of them; the window is 30 s")


def test_low_cpu_with_a_queue_now_and_then_is_no_reason_to_scale_in() -> None:
    world = World(lambda t: 0.2, ready=3)
    world.traffic = lambda t: calm(0.2, queue=1 if int(t) % 20 < 2 else 0)
    assert world.run(300).path() == [3]
    world.traffic = lambda t: calm(0.2)
    assert world.run(120).path() == [3, 2, 1]


# --- loss, restarts ---------------------------------------------------------------------------------------------------

LIVES: list[Load] = [step(0.3, 2.2, 100.0), step(2.6, 0.2, 120.0), square(0.2, 2.6, 500.0)]


@pytest.mark.parametrize("load", LIVES, ids=range(len(LIVES)))
@pytest.mark.parametrize("seed", range(3))
def test_duplicated_and_reordered_messages_change_no_decision(load: Load, seed: int) -> None:
    clean = World(load, ready=2).run(500)
    assert World(load, ready=2, chaos=True, seed=seed).run(500).desired == clean.desired


@pytest.mark.parametrize("load", LIVES, ids=range(len(LIVES)))
@pytest.mark.parametrize("seed", range(6))
def test_loss_of_30_percent_delays_no_decision_by_more_than_what_was_lost(load: Load, seed: int) -> None:
    """No message of a kind is lost twice in a row: a sample may be, and then the membership of the next tick."""
    clean = World(load, ready=2).run(500)
    lossy = World(load, ready=2, loss=0.3, lost_in_a_row=1, seed=seed).run(500)
    assert lossy.path() == clean.path()
    late_s = [lossy_at_s - at_s for (at_s, _), (lossy_at_s, _) in zip(clean.desired, lossy.desired, strict=True)]
    assert late_s[0] <= 1
    assert min(late_s) >= -1
    assert all(after - max(before, 0) <= 2 for before, after in pairwise(late_s)), late_s


@pytest.mark.parametrize("load", LIVES[:2], ids=range(2))
@pytest.mark.parametrize("seed", range(6))
def test_a_gap_that_ends_a_window_delays_a_decision_by_one_window_more(load: Load, seed: int) -> None:
    """A gap longer than ``stale_after_s`` begins a window anew; nothing is early."""
    clean, lossy = World(load, ready=2).run(500), World(load, ready=2, loss=0.3, seed=seed).run(500)
    assert lossy.path() == clean.path()
    before, late_before_s = 0, 0.0
    for (at_s, to), (lossy_at_s, _) in zip(clean.desired, lossy.desired, strict=True):
        window_s = clean.settings.out_window_s if to > before else clean.settings.in_window_s
        late_s = lossy_at_s - at_s
        assert -1 <= late_s <= max(late_before_s, 0) + lossy_run(lossy) + window_s, (clean.desired, lossy.desired)
        before, late_before_s = to, late_s


@pytest.mark.parametrize("seed", range(6))
def test_loss_of_30_percent_changes_no_first_decision_by_more_than_the_samples_lost(seed: int) -> None:
    lossy = World(step(0.5, 2.2, 100.0), loss=0.3, seed=seed).run(104)
    lossy.loss = 0.0
    lossy.run(8)
    assert lossy.path() == [1, 2]
    assert 104 <= lossy.desired[1][0] <= 105 + lossy_run(lossy)


def lossy_run(world: World) -> int:
    """Return the longest run of ticks without a new sample."""
    longest = run = 0
    for action in world.actions:
        if isinstance(action, PublishRecord):
            run = 0 if any("sample" in taken.id for taken in action.body.taken) else run + 1
            longest = max(longest, run)
    return longest


@pytest.mark.parametrize("killed_at", [1, 50, 99, 102, 103, 104, 105, 110, 117, 121, 125, 160, 300])
def test_a_restart_at_any_tick_leads_to_the_same_capacity(killed_at: int) -> None:
    load = step(0.3, 2.2, 100.0)
    whole, cut = World(load).run(400), World(load).run(killed_at)
    cut.restart()
    cut.run(400 - killed_at)
    assert cut.path() == whole.path()
    late_s = [cut_at - at for (cut_at, _), (at, _) in zip(cut.desired, whole.desired, strict=True)]
    assert all(0 <= s <= whole.settings.out_window_s for s in late_s), late_s


@pytest.mark.parametrize("killed_at", [20, 29, 31, 45, 61, 75, 90])
def test_a_restart_during_a_scale_in_never_removes_more_or_sooner(killed_at: int) -> None:
    whole, cut = World(lambda t: 0.2, ready=4).run(400), World(lambda t: 0.2, ready=4).run(killed_at)
    cut.restart()
    cut.run(400 - killed_at)
    assert cut.path() == whole.path() == [4, 3, 2, 1]
    assert all(cut_at >= at for (cut_at, _), (at, _) in zip(cut.desired, whole.desired, strict=True))


def test_a_restart_every_ten_seconds_acts_on_nothing_but_full_windows() -> None:
    world = World(lambda t: 0.1, ready=3)
    for _ in range(30):
        world.run(10).restart()
    assert world.path() == [3]


def test_a_lost_store_keeps_the_members() -> None:
    world = World(lambda t: 1.5, ready=3).run(50)
    before = told(world)[-1].generation
    world.saved = ""
    world.restart()
    world.run(20)
    assert world.path() == [3]
    assert told(world)[-1].generation > before


def test_generations_grow_strictly_over_restarts() -> None:
    world = World(square(0.2, 2.6, 400.0))
    for _ in range(12):
        world.run(100).restart()
    generations = [body.generation for body in told(world)]
    assert generations == sorted(generations)
    changes = {(body.generation, body.desired) for body in told(world)}
    assert len({generation for generation, _ in changes}) == len(changes)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_wall_clock_changes_no_decision(jump_s: float) -> None:
    load = step(0.3, 2.2, 100.0)
    steady, jumping = World(load).run(300), World(load)
    pass_on = jumping.pass_on

    def jumped(event: CoreEvent) -> None:
        late = isinstance(event, Tick) and jumping.t > 80
        pass_on(Tick(event.epoch_s + jump_s) if late and isinstance(event, Tick) else event)

    jumping.pass_on = jumped  # type: ignore[method-assign]
    assert jumping.run(300).desired == steady.desired
    assert [body.generation for body in told(jumping)] == [body.generation for body in told(steady)]


# --- properties -------------------------------------------------------------------------------------------------------

loads = st.lists(st.tuples(st.integers(5, 60), st.floats(0.0, 6.0, allow_nan=False)), min_size=1, max_size=6)


def steps(shape: list[tuple[int, float]]) -> Load:
    def load(t: float) -> float:
        for length, level in shape:
            if t < length:
                return level
            t -= length
        return shape[-1][1]

    return load


@given(shape=loads, changes=st.sampled_from(KINDS), loss=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=30, deadline=None)
def test_whatever_the_load_bounds_cooldowns_and_missing_data_are_respected(
    shape: list[tuple[int, float]], changes: dict[str, Any], loss: float, seed: int
) -> None:
    world = World(steps(shape), settings=settings(min=1, max=5, **changes), loss=loss, chaos=bool(loss), seed=seed)
    world.run(200)
    group = world.settings.group
    assert all(group.minimum <= to <= group.maximum for to in world.path())
    last_change_s = last_out_s = -math.inf
    for (_, before), (at_s, after) in pairwise(world.desired):
        if after > before:
            assert at_s - last_out_s >= group.cooldown_out_s
            last_out_s = at_s
        else:
            assert at_s - last_change_s >= group.cooldown_in_s
        last_change_s = at_s
    for record in (action.body for action in world.actions if isinstance(action, PublishRecord)):
        if record.action == "in":
            assert record.evidence.domains_known == record.evidence.domains_ready > 0
            assert record.evidence.queue is not None
            assert record.desired_before - record.desired_after <= group.max_step_in
        if record.action == "out":
            assert record.desired_after - record.desired_before <= group.max_step_out
            assert record.evidence.domains_known > 0


def test_the_model_drains_before_it_stops() -> None:
    """Otherwise no test here would meet a domain on its way out."""
    world = World(lambda t: 0.1, ready=2).run(32)
    assert [member.phase for member in world.membership().membership.members] == [Phase.READY, Phase.DRAINING]
    world.run(DRAIN_S)
    assert [member.phase for member in world.membership().membership.members] == [Phase.READY]
