"""The forecast learns what is there to be learned, and says clearly what it cannot take."""

import math
import random
from dataclasses import replace

import pytest

from services.decider.core import forecast, forecast_season, forecast_store
from services.decider.core.demand import Elasticity, elasticity


def after(values: list[float], step_s: float = 60.0, lead_steps: int = 1) -> forecast.Forecast:
    state = forecast.initial(step_s, lead_steps)
    for value in values:
        state = forecast.observe(state, value)
    return state


def noisy(level: float, count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [level * chance.uniform(0.95, 1.05) for _ in range(count)]


def test_nothing_is_recommended_before_any_load_was_seen() -> None:
    assert forecast.recommend(forecast.initial(60.0, 1), 100.0) is None
    assert forecast.recommend(after([math.nan, math.nan]), 100.0) is None


def test_a_steady_load_gets_just_what_it_needs() -> None:
    answer = forecast.recommend(after(noisy(950, 60)), 100.0, headroom=1.0)
    assert answer is not None
    assert answer.capacity == 10
    low, middle, high = answer.band
    assert 850 < low < middle < high < 1050


@pytest.mark.parametrize("lead_steps", [1, 2, 5])
def test_a_step_of_ten_times_is_met_in_one_decision(lead_steps: int) -> None:
    state = after([*noisy(100, 300), 1000.0], lead_steps=lead_steps)
    assert forecast.capacities(state, 10.0, [forecast.DEFAULT_HEADROOM])[0] >= 100


def test_a_ramp_is_met_ahead() -> None:
    ramp = [100.0 + 10 * number for number in range(120)]
    state = after(ramp, lead_steps=5)
    assert forecast.capacities(state, 10.0, [1.0])[0] >= (ramp[-1] + 50) / 10


def test_the_morning_of_yesterday_is_expected_today() -> None:
    day = [100.0] * 32 + [1000.0] * 32 + [100.0] * 32
    state = after([*day, *day, *day, *day[:31]], step_s=900.0)
    assert forecast.capacities(state, 100.0, [0.5])[0] == 1
    state = forecast.observe(state, day[31])
    assert forecast.capacities(state, 100.0, [3.0])[0] >= 9


def test_a_job_that_starts_on_the_half_hour_is_expected_then() -> None:
    chance = random.Random(3)
    load = [chance.uniform(950, 990) * (3 if number % 30 == 0 else 1) for number in range(30 * 40)]
    state = after(load)
    assert forecast.capacities(state, 100.0, [2.0])[0] >= 25
    for value in [*load[-30:], 960.0, 970.0]:
        state = forecast.observe(state, value)
    assert forecast.capacities(state, 100.0, [1.0])[0] <= 11


def test_one_spike_is_forgotten() -> None:
    calm = noisy(500, 200)
    state = after([*calm, 50_000.0, *noisy(500, 30, seed=2)])
    assert 5 <= forecast.capacities(state, 100.0, [1.0])[0] <= 7


def test_a_plateau_needs_no_spare_at_low_headroom() -> None:
    assert forecast.capacities(after([590.0] * 100), 100.0, [0.0, 1.0]) == [6, 6]


def test_another_lead_time_keeps_what_was_learned() -> None:
    state = after(noisy(500, 100))
    moved = forecast.with_lead(state, 3)
    assert moved.points is state.points
    assert moved.spread is state.spread
    for value in noisy(500, 20, seed=4):
        moved = forecast.observe(moved, value)
    assert len(moved.pending) == 3
    assert forecast.capacities(moved, 100.0, [1.0])[0] in (5, 6)


@pytest.mark.parametrize("step_s", [0.0, -1.0, math.nan, math.inf])
def test_a_step_must_have_a_length(step_s: float) -> None:
    with pytest.raises(ValueError, match="step_s must be finite and > 0"):
        forecast.initial(step_s, 1)


@pytest.mark.parametrize("lead_steps", [0, -1, forecast.MAX_LEAD_STEPS + 1])
def test_a_lead_must_be_within_its_limits(lead_steps: int) -> None:
    with pytest.raises(ValueError, match=r"lead_steps must be in 1\.\.3600"):
        forecast.initial(60.0, lead_steps)


@pytest.mark.parametrize("headroom", [-0.1, math.nan])
def test_headroom_must_be_within_its_limits(headroom: float) -> None:
    with pytest.raises(ValueError, match="headroom must be >= 0"):
        forecast.recommend(after([1.0]), 10.0, headroom)


@pytest.mark.parametrize("requests_per_domain", [0.0, -1.0, math.nan, math.inf])
def test_a_domain_must_serve_something(requests_per_domain: float) -> None:
    with pytest.raises(ValueError, match=r"requests_per_domain must be in 1e-15\.\.1e\+15"):
        forecast.recommend(after([1.0]), requests_per_domain)


def test_a_season_never_mixes_today_into_the_past() -> None:
    season = forecast_season.initial(86400.0, 900.0)
    assert season is not None
    for number in range(96 + 50):
        season = forecast_season.observe(season, number * 900.0, 10.0 if number < 96 else 99.0, 900.0)
    assert forecast_season.around(season, (96 + 49) * 900.0) == 10.0
    assert forecast_season.around(season, (96 + 50) * 900.0) == 10.0


def test_a_day_counts_once_even_if_the_next_one_is_missing() -> None:
    season = forecast_season.initial(86400.0, 900.0)
    assert season is not None
    for number in [*range(2 * 96), *range(3 * 96, 3 * 96 + 50)]:
        season = forecast_season.observe(season, number * 900.0, 10.0 if number < 96 else 20.0, 900.0)
    assert forecast_season.around(season, (3 * 96 + 50) * 900.0) == pytest.approx(14.0)


def test_a_period_of_few_steps_has_no_season() -> None:
    assert forecast_season.initial(86400.0, 86400.0) is None


def test_steps_shorter_than_a_bucket_share_it() -> None:
    season = forecast_season.initial(86400.0, 1.0)
    assert season is not None
    assert len(season.newest) == forecast_season.MAX_BUCKETS
    for second in range(30):
        season = forecast_season.observe(season, float(second), 8.0, 1.0)
    assert season.newest[0] == 8.0


def test_a_stored_forecast_of_another_version_is_refused() -> None:
    values = forecast_store.to_values(after([1.0, 2.0]))
    with pytest.raises(ValueError, match="must be of version 2; got 3"):
        forecast_store.from_values({**values, "version": 3})


def test_a_stored_forecast_cut_short_is_refused() -> None:
    values = forecast_store.to_values(after([1.0, 2.0]))
    del values["state"]["spread"]
    with pytest.raises(ValueError, match="not of the right form"):
        forecast_store.from_values(values)


def test_a_stored_forecast_with_another_grid_is_refused() -> None:
    state = after([1.0, 2.0])
    spread = replace(state.spread, common=state.spread.common[:, :-1])
    with pytest.raises(ValueError, match=r"not of the right form: spread\.common"):
        forecast_store.from_values(forecast_store.to_values(replace(state, spread=spread)))


def test_elasticity_follows_spec_and_steps_without_demand_count_as_time_only() -> None:
    assert elasticity([2, 4, 0, 1], [2, 2, 3, 2], 1800.0) == Elasticity(
        theta_u=12.5,
        theta_o=25.0,
        tau_u=25.0,
        tau_o=50.0,
        upsilon=pytest.approx(100.0),
        mean_supply=2.25,
        mean_demand=1.75,
        starts=1,
        stops=1,
        direction_changes_per_hour=0.5,
    )
