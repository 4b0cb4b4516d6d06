"""Another configuration over a recorded load: the model, and the yardsticks that measure both sides."""

from dataclasses import replace
from functools import cache

import pytest

from common.messages import DecisionRecord
from services.decider.core.replay import replay
from services.decider.core.state import Settings
from services.decider.core.what_if import (
    Instant,
    Past,
    Step,
    adjusted,
    first_difference,
    judged,
    modelled,
    needed,
    past,
)
from tests.sim.decider_model import BOOT_S, DRAIN_S, World, settings
from tests.sim.decider_tape import Tape

CALM, BUSY = 0.3, 0.95


def no_settings(group: str, run_id: int) -> Settings | None:
    return None


@cache
def recorded() -> Past:
    """Return a quiet time, a load of 95 % of one domain, and quiet again."""
    tape = Tape(World(lambda t: BUSY if 60 < t < 240 else CALM)).run(600)
    found = past(replay(tape.frames, no_settings))
    assert found is not None
    return found


def other(**changes: object) -> Settings:
    return adjusted(settings(**changes), recorded().settings)


def by_hand(steps: list[tuple[int, int, int, float | None]], demand_cpus: list[float]) -> tuple[Past, tuple[Step, ...]]:
    instants = tuple(Instant(float(n), float(n), demand, None) for n, demand in enumerate(demand_cpus))
    rows = tuple(Step(ready, owned, desired, ratio, "") for ready, owned, desired, ratio in steps)
    return Past(settings(), instants, rows, 0.5, 10.0, None, 0.0, None, 0, 0), rows


def test_the_recording_tells_demand_lead_time_and_drain() -> None:
    known = recorded()
    assert known.lead_s == BOOT_S
    assert known.leave_s == DRAIN_S
    assert known.allotted_cpus == 1.0
    assert known.instants[100].demand_cpus == pytest.approx(BUSY)
    assert known.instants[100].request_rate == pytest.approx(20 * BUSY)
    assert (known.unknown_ticks, known.left_out_ticks) == (0, 0)


def test_the_recorded_policy_in_the_model_does_what_was_recorded() -> None:
    known = recorded()
    control = modelled(known, known.settings, known.lead_s or 0.0)
    assert [step.desired for step in control] == [step.desired for step in known.steps]
    ours, theirs = judged(known, control), judged(known, known.steps)
    assert ours.over_threshold_s == pytest.approx(theirs.over_threshold_s, abs=1)  # the tick in which it is started
    assert ours.domain_hours == pytest.approx(theirs.domain_hours, abs=2 / 3600)
    assert (ours.starts, ours.changes, ours.flaps) == (theirs.starts, theirs.changes, theirs.flaps)
    assert first_difference(known, control, control) is None


def test_members_grow_older_in_the_model_too() -> None:
    known = recorded()
    control = modelled(known, known.settings, known.lead_s or 0.0)
    warmed = modelled(known, other(warm_up_s=400.0), known.lead_s or 0.0)
    assert [step.desired for step in warmed[:100]] == [step.desired for step in control[:100]]
    assert warmed[99].desired == 2


def test_a_shorter_window_scales_out_earlier_and_the_first_difference_says_so() -> None:
    known = recorded()
    quick = modelled(known, other(policies=[{"type": "threshold", "out_window_s": 2.0}]), known.lead_s or 0.0)
    control = modelled(known, known.settings, known.lead_s or 0.0)
    found = first_difference(known, control, quick)
    assert found is not None
    assert found.at_s == pytest.approx(known.instants[61].at_s, abs=2)
    assert "for 2 s of 2 s" in found.other
    assert found.control.startswith("It keeps 1 domain")
    assert judged(known, quick).over_threshold_s < judged(known, known.steps).over_threshold_s


def test_what_only_the_model_does_otherwise_is_no_difference_of_the_policies() -> None:
    known = recorded()
    strayed = modelled(known, other(policies=[{"type": "threshold", "out_window_s": 2.0}]), known.lead_s or 0.0)
    assert [step.desired for step in strayed] != [step.desired for step in known.steps]
    assert first_difference(known, strayed, strayed) is None


def test_a_policy_that_never_acts_costs_less_and_is_over_the_threshold_longer() -> None:
    known = recorded()
    idle, own = judged(known, modelled(known, other(max=1), 12.0)), judged(known, known.steps)
    assert idle.domain_hours < own.domain_hours
    assert idle.over_threshold_s > own.over_threshold_s
    assert (idle.starts, idle.changes) == (0, 0)


def test_an_observing_group_changes_nothing() -> None:
    steps = modelled(recorded(), other(mode="observe"), 12.0)
    assert {step.ready for step in steps} == {1}


def test_the_model_begins_with_the_capacity_that_was_recorded_coming_or_ready() -> None:
    known, _ = by_hand([(1, 3, 3, 0.9)] * 30, [0.45] * 30)
    steps = modelled(known, known.settings, 10.0)
    assert (steps[0].ready, steps[0].desired) == (1, 3)
    assert (steps[9].ready, steps[10].ready) == (1, 3)


def test_a_longer_lead_time_is_longer_over_the_threshold() -> None:
    known = recorded()
    late, soon = (judged(known, modelled(known, known.settings, lead_s)) for lead_s in (60.0, 5.0))
    assert late.over_threshold_s > soon.over_threshold_s


def test_what_is_over_capacity_waits_and_is_worked_off() -> None:
    demand = [0.2] * 20 + [2.0] * 10 + [0.2] * 60
    known, _ = by_hand([(1, 1, 1, 0.4)] * 90, demand)
    ratios = [step.cpu_ratio for step in modelled(known, adjusted(settings(max=1), known.settings), 10.0)]
    assert ratios[19] == pytest.approx(0.4)
    assert ratios[30:45] == [1.0] * 15  # no longer too much, but 30 s of 0.2 CPUs wait
    assert ratios[-1] == pytest.approx(0.4)


def test_the_yardsticks_by_hand() -> None:
    rows = [(1, 1, 1, 0.5), (1, 2, 2, 0.9), (2, 2, 2, 0.8), (2, 3, 3, None), (3, 3, 2, 0.1), (2, 2, 3, 0.1)]
    known, steps = by_hand(rows, [0.3, 0.6, 0.8, 0.3, 0.3, 0.0])
    assert needed(known) == (1, 2, 2, 1, 1, 0)
    side = judged(known, steps)
    assert side.domain_hours == pytest.approx(13 / 3600)
    assert side.over_threshold_s == 2
    assert (side.starts, side.changes, side.flaps) == (2, 4, 2)
    assert side.elasticity.theta_u == pytest.approx(100 / 6 * 0.5)
    assert side.elasticity.theta_o == pytest.approx(100 / 6 * (1 + 2))


def test_ticks_without_any_demand_are_left_out_on_all_sides() -> None:
    tape = Tape(World(lambda t: CALM, missing=lambda t, name: 100 < t <= 140)).run(200)
    known = past(replay(tape.frames, no_settings))
    assert known is not None
    assert known.unknown_ticks + known.left_out_ticks == pytest.approx(40, abs=2)
    assert 28 <= known.left_out_ticks <= 34
    assert len(known.instants) == len(known.steps) == 200 - known.left_out_ticks


def test_a_recording_without_a_ready_domain_says_nothing() -> None:
    tape = Tape(World(lambda t: CALM, ready=0)).run(5)
    assert past(replay(tape.frames, no_settings)) is None


def test_the_record_of_a_tick_tells_of_its_settings() -> None:
    tape = Tape(World(lambda t: CALM)).run(1)
    record = next(body for frame in tape.frames if isinstance(body := frame.decode()[1], DecisionRecord))
    assert '"prefix": "web-"' in record.basis
    assert replace(recorded().settings, run_id=0) == replace(settings(), run_id=0)
