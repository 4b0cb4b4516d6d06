"""Every policy in whole lives: bounds, flap budget, stale data, tenfold load, restarts, and the two cores together."""

import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.messages import HostSample, Traffic
from services.decider.core.events import PublishDesired, PublishRecord, SampleSeen
from services.decider.core.seen import read_sample
from tests.sim.decider_model import EPOCH_S, START_S, Load, World, calm, settings, square
from tests.sim.policy_world import LearningWorld

STEP = {
    "type": "step",
    "steps": [
        {"above_ratio": 0.75, "change": "+20%"},
        {"above_ratio": 0.95, "change": "+50%"},
        {"below_ratio": 0.3, "change": -1},
    ],
}
STEP_ON_REQUESTS = {
    "type": "step",
    "metric": "requests-per-domain",
    "steps": [{"above": 15.0, "change": "+50%"}, {"above": 30.0, "change": "+400%"}, {"below": 5.0, "change": -1}],
}
BY_REQUESTS = {"type": "target-tracking", "metric": "requests-per-domain", "target_requests_per_s": 12.0}
BY_RESPONSE = {"type": "target-tracking", "metric": "response-time", "target_response_time_s": 0.05}
BY_QUEUE = {"type": "target-tracking", "metric": "queue", "target_queue": 5.0}
CALENDAR = {"type": "schedule", "cron": "*/20 * * * *", "duration_s": 300.0, "capacity": 3, "ramp_s": 60.0}
FORECAST = {"type": "predictive", "mode": "on", "step_s": 10.0}
THRESHOLD = {"type": "threshold"}
TRACKING = {"type": "target-tracking"}

ALONE: dict[str, list[dict[str, Any]]] = {
    "threshold": [THRESHOLD],
    "cpu": [TRACKING],
    "step": [STEP],
    "step-requests": [STEP_ON_REQUESTS],
    "requests": [BY_REQUESTS],
    "response": [BY_RESPONSE],
    "queue": [BY_QUEUE],
    "schedule": [CALENDAR],
    "schedule+threshold": [THRESHOLD, CALENDAR],
    "predictive": [FORECAST],
    "predictive+threshold": [THRESHOLD, FORECAST],
    "all": [THRESHOLD, TRACKING, STEP, BY_REQUESTS, BY_RESPONSE, BY_QUEUE, CALENDAR, FORECAST],
}


def world(policies: list[dict[str, Any]], load: Load, **changes: Any) -> LearningWorld:
    own = {key: changes.pop(key) for key in ("ready", "loss", "chaos", "seed", "has_queue") if key in changes}
    return LearningWorld(load, settings=settings(policies=policies, **changes), **own)


def records(found: World) -> list[Any]:
    return [action.body for action in found.actions if isinstance(action, PublishRecord)]


def step(before: float, after: float, at_s: float) -> Load:
    return lambda t: before if t < at_s else after


# --- bounds, cooldowns, missing data -------------------------------------------------------------------------------

shapes = st.lists(st.tuples(st.integers(5, 60), st.floats(0.0, 8.0, allow_nan=False)), min_size=1, max_size=5)


def pieces(shape: list[tuple[int, float]]) -> Load:
    def load(t: float) -> float:
        for length, level in shape:
            if t < length:
                return level
            t -= length
        return shape[-1][1]

    return load


@given(name=st.sampled_from(list(ALONE)), shape=shapes, loss=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=40, deadline=None)
def test_whatever_the_policy_and_the_load_bounds_and_missing_data_are_respected(
    name: str, shape: list[tuple[int, float]], loss: float, seed: int
) -> None:
    found = world(ALONE[name], pieces(shape), min=1, max=5, loss=loss, chaos=bool(loss), seed=seed).run(180)
    group = found.settings.group
    assert all(group.minimum <= to <= group.maximum for to in found.path())
    for record in records(found):
        assert 1 <= record.desired_after <= 5 or record.action == "hold"
        if record.action == "in":
            assert record.evidence.domains_known == record.evidence.domains_ready > 0
            assert record.evidence.queue == 0
            assert record.desired_before - record.desired_after <= group.max_step_in
        if record.action == "out":
            assert record.desired_after - record.desired_before <= group.max_step_out


@pytest.mark.parametrize("name", [name for name in ALONE if "schedule" not in name and name != "all"])
def test_stale_data_lead_to_no_action(name: str) -> None:
    found = world(ALONE[name], lambda t: 2.2, ready=4, max=9, cooldown_in_s=1.0).run(150)
    before = found.path()
    found.heard = list  # type: ignore[method-assign]  # nothing arrives any more
    found.load = lambda t: 9.0
    found.run(5)  # what was measured lately still counts
    before = found.path()
    found.run(200)
    assert found.path() == before
    assert records(found)[-1].limiter in ("stale-data", "unknown-data")


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf"), None])
@pytest.mark.parametrize("name", ["threshold", "cpu", "step", "predictive+threshold"])
def test_impossible_ratios_are_unknown_and_lead_to_no_scale_in(name: str, bad: float | None) -> None:
    found = world(ALONE[name], lambda t: 0.1, ready=3)
    kept = found.sample

    def damaged() -> SampleSeen:
        """Return the sample as if the wire had let the figure through."""
        sample = found.samples[kept().reading.id]
        ratios = (sample.cpu_ratios[0], bad, *sample.cpu_ratios[2:])
        wrong = HostSample.model_construct(**{**dict(sample), "cpu_ratios": ratios})
        return SampleSeen(read_sample(wrong, found.now_s, f"monitor/1/sample.local/{found.t:.0f}"))

    found.sample = damaged  # type: ignore[method-assign]
    assert found.run(200).path() == [3]
    found.sample = kept  # type: ignore[method-assign]
    assert found.run(400).path()[-1] == 1


@pytest.mark.parametrize("name", list(ALONE))
def test_reordered_and_repeated_messages_change_no_decision(name: str) -> None:
    load = square(0.4, 2.6, 240.0)
    clean = world(ALONE[name], load, ready=2, max=6).run(400)
    assert world(ALONE[name], load, ready=2, max=6, chaos=True, seed=5).run(400).desired == clean.desired


# --- never in on CPU alone -------------------------------------------------------------------------------------------


def worse(**changes: Any) -> Any:
    def traffic(t: float) -> Traffic:
        grown = {key: value(t) if callable(value) else value for key, value in changes.items()}
        return calm(0.3, **grown)

    return traffic


@pytest.mark.parametrize("name", ["threshold", "cpu", "step", "requests", "predictive+threshold"])
@pytest.mark.parametrize(
    "changes",
    [{"queue": 1}, {"response_time_s": lambda t: 0.4 + 0.02 * t}, {"error_rate": lambda t: 0.02 * t}],
    ids=["queue", "response-time", "errors"],
)
def test_nobody_is_taken_away_while_users_wait_longer_or_get_more_errors(name: str, changes: dict[str, Any]) -> None:
    found = world(ALONE[name], lambda t: 0.3, ready=4)
    found.traffic = worse(**changes)
    assert min(found.run(200).path()) == 4
    found.traffic = worse()
    assert min(found.run(400).path()) < 4


# --- the flap budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALONE if "schedule" not in name and name != "all"])
@pytest.mark.parametrize("windows", [0.4, 1.0, 1.5, 2.0])
@pytest.mark.long
def test_a_square_wave_near_any_window_costs_two_changes_of_direction_an_hour(name: str, windows: float) -> None:
    used = settings(policies=ALONE[name], max=8)
    found = world(ALONE[name], square(0.3, 2.3, windows * max(used.in_window_s, 30.0)), max=8)
    found.run(1500)  # a lesson lasts an hour: what follows is the same again
    assert len(found.turns()) <= 2, found.desired


SWINGS = ["threshold", "step", "requests", "predictive+threshold"]


@given(name=st.sampled_from(SWINGS), period_s=st.integers(2, 600), high=st.sampled_from([0.95, 2.3]))
@hypothesis_settings(max_examples=8, deadline=None)
@pytest.mark.long
def test_a_square_wave_of_up_to_ten_minutes_costs_two_changes_of_direction_an_hour(
    name: str, period_s: int, high: float
) -> None:
    found = world(ALONE[name], square(0.1, high, float(period_s)), max=8).run(3600)
    assert len(found.turns()) <= 2, found.desired


@pytest.mark.parametrize("period_s", [180.0, 240.0, 600.0])
def test_a_slow_square_wave_is_followed_once_and_then_known(period_s: float) -> None:
    found = world([THRESHOLD], square(0.1, 0.95, period_s), max=8).run(1500)
    assert len(found.turns()) == 2, found.desired


# --- a tenfold load --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "within_s"), [("requests", 4.0), ("step-requests", 6.0), ("queue", 4.0)], ids=lambda value: str(value)
)
def test_a_tenfold_load_is_met_in_one_decision_where_the_metric_shows_it(name: str, within_s: float) -> None:
    found = world(ALONE[name], step(1.0, 10.0, 120.0), ready=2, min=2, max=40, max_step_out=40)
    found.run(120 + within_s)
    assert len(found.path()) == 2, found.desired
    assert found.path()[1] >= (17 if name == "requests" else 10)


def test_cpu_saturates_so_a_tenfold_load_takes_several_decisions_of_which_each_is_the_most_it_can_know() -> None:
    found = world([TRACKING], step(1.0, 10.0, 120.0), ready=2, min=2, max=40, max_step_out=40, has_queue=False)
    found.run(400)
    path = found.path()
    assert path[:2] == [2, 4]  # 100 % of 2 ready at a target of 60 %: it cannot know more
    assert path[-1] >= 17
    assert len(path) <= 7
    assert all(after >= 1.5 * before for before, after in pairwise(path[:-1]))


# --- the calendar ----------------------------------------------------------------------------------------------------


def test_a_schedule_alone_brings_the_capacity_and_takes_it_away_again() -> None:
    begins_s = 1200 - EPOCH_S % 1200  # t of the first window
    found = world([CALENDAR | {"ramp_s": 0.0}], lambda t: 0.2, ready=1).run(2000)
    outs = [t for (_, before), (t, to) in zip(found.desired, found.desired[1:], strict=False) if to > before]
    ins = [t for (_, before), (t, to) in zip(found.desired, found.desired[1:], strict=False) if to < before]
    assert outs[0] == math.ceil(begins_s)
    assert found.path()[:4] == [1, 3, 2, 1]
    assert all(begins_s + 300 <= t for t in ins[:2])


def test_a_schedule_holds_against_a_policy_that_would_scale_in() -> None:
    found = world([THRESHOLD, CALENDAR | {"cron": "* * * * *"}], lambda t: 0.1, ready=3).run(300)
    assert found.path() == [3]
    assert records(found)[-1].votes[1].capacity == 3


# --- the forecast ----------------------------------------------------------------------------------------------------


def hourly(t: float) -> float:
    """Return a load that climbs for two minutes, falls for two, and is quiet for six, over and over."""
    within_s = t % 600.0
    return 0.5 + 0.05 * max(120.0 - abs(within_s - 300.0), 0.0)


def under(found: World, begin_s: float) -> float:
    """Return the share of seconds after ``begin_s`` in which the domains were too few."""
    late = [record for record in records(found) if record.now_s - START_S >= begin_s]
    short = sum(1 for record in late if (record.evidence.cpu_ratio or 0.0) >= 0.99)
    return short / len(late)


def test_a_forecast_brings_capacity_before_it_is_needed() -> None:
    def slowly(t: float) -> float:
        """Return a load of the same shape whose quiet is too long for the crest before to be kept."""
        return hourly(min(t % 1500.0, 599.0))

    without = world([THRESHOLD], slowly, max=16, has_queue=False).run(6000)
    withit = world([THRESHOLD, FORECAST], slowly, max=16, has_queue=False).run(6000)
    print(f"seconds at the limit: {under(without, 1500):.1%} without, {under(withit, 1500):.1%} with the forecast")
    assert under(withit, 1500) < 0.5 * under(without, 1500)


def test_a_forecast_alone_never_scales_in() -> None:
    found = world([FORECAST], step(2.5, 0.2, 400.0), ready=2, max=8).run(1500)
    assert found.path() == sorted(found.path())


def test_while_a_forecast_learns_nobody_is_taken_away_unless_it_is_only_observed() -> None:
    learning = world([THRESHOLD, FORECAST], lambda t: 0.2, ready=3, has_queue=False).run(95)
    assert learning.path() == [3]
    assert records(learning)[-1].limiter == "unknown-data"
    assert "it learns" in records(learning)[-1].limiter_text
    assert learning.run(200).path() == [3, 2, 1]
    observed = world([THRESHOLD, FORECAST | {"mode": "observe"}], lambda t: 0.2, ready=3, has_queue=False).run(95)
    assert observed.path() == [3, 2, 1]


def test_an_observed_forecast_is_recorded_and_changes_nothing() -> None:
    plain = world([THRESHOLD], hourly, max=8).run(1500)
    watched = world([THRESHOLD, FORECAST | {"mode": "observe"}], hourly, max=8).run(1500)
    assert watched.desired == plain.desired
    votes = [vote for record in records(watched) for vote in record.votes if vote.policy == "predictive"]
    assert {vote.weight for vote in votes} == {"none"}
    assert sum(vote.capacity is not None for vote in votes) > 1000
    assert "80 % band" in votes[-1].reason


@pytest.mark.parametrize("kind", [THRESHOLD, TRACKING, STEP, BY_REQUESTS, CALENDAR | {"cron": "* * * * *"}])
def test_any_policy_can_only_be_observed(kind: dict[str, Any]) -> None:
    found = world([kind | {"mode": "observe"}], step(0.2, 3.0, 100.0), has_queue=False).run(200)
    assert found.path() == [1]
    record = records(found)[-1]
    assert record.votes[0].weight == "none"
    assert (record.votes[0].wanted or 0) > 1


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_at", [30, 125, 248, 250, 251, 333, 460, 599])
@pytest.mark.parametrize("name", ["step", "requests", "schedule", "predictive", "predictive+threshold"])
@pytest.mark.long
def test_a_restart_at_any_tick_leads_to_the_same_capacity(name: str, killed_at: int) -> None:
    def load(t: float) -> float:
        return 0.4 if t < 240 else 2.6

    whole = world(ALONE[name], load, max=8).run(700)
    cut = world(ALONE[name], load, max=8).run(killed_at)
    cut.restart()
    cut.run(700 - killed_at)
    assert cut.path()[-1] == whole.path()[-1]
    assert all(after >= before for before, after in zip(cut.path(), cut.path()[1:], strict=False)) == all(
        after >= before for before, after in zip(whole.path(), whole.path()[1:], strict=False)
    )


@pytest.mark.parametrize("killed_at", [201, 202, 203, 204, 205, 206, 208, 209, 210])
def test_what_the_forecast_says_after_a_restart_is_what_it_would_have_said(killed_at: int) -> None:
    def advice(found: World) -> str:
        return next(vote.reason for vote in records(found)[-1].votes if vote.policy == "predictive").split("(")[0]

    whole, cut = (world([THRESHOLD, FORECAST], hourly, max=8).run(killed_at) for _ in range(2))
    cut.restart()
    whole.run(1)
    cut.run(1)
    assert advice(cut) == advice(whole)


def test_what_was_learned_is_in_the_first_record_of_a_run_and_in_no_other() -> None:
    found = world([FORECAST], hourly).run(300)
    found.restart()
    found.actions.clear()
    found.run(5)
    learned = [record.learned for record in records(found)]
    assert learned[0] != ""
    assert learned[1:] == [""] * 4
    assert len(learned[0]) < 400_000


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_a_decision_with_every_policy_takes_milliseconds() -> None:
    found = world(ALONE["all"], hourly, max=8).run(300)
    spent = []
    for _ in range(600):
        begin_s = time.process_time()
        found.step()
        spent.append(time.process_time() - begin_s)
    p99_s = sorted(spent)[-6]
    print(
        f"a tick with all policies and the model: median {1000 * sorted(spent)[300]:.2f} ms, p99 {1000 * p99_s:.2f} ms"
    )
    assert p99_s < 0.05  # ten times the budget of a quiet machine; bench/policies measures


def test_the_desired_capacity_is_published_for_every_policy() -> None:
    for name, policies in ALONE.items():
        found = world(policies, lambda t: 0.5).run(5)
        assert any(isinstance(action, PublishDesired) for action in found.actions), name
