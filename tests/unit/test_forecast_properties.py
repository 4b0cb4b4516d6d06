"""What holds for any load: capacity is finite and >= 0, more headroom asks for more, a restart changes nothing."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.decider.core import forecast, forecast_store

loads = st.lists(
    st.one_of(
        st.floats(0, 1e6),
        st.floats(0, forecast.MAX_REQUESTS),
        st.just(0.0),
        st.just(math.nan),
        st.sampled_from([1e-300, 1.0, 100.0]),
    ),
    min_size=1,
    max_size=40,
)
headrooms = st.floats(0, forecast.MAX_HEADROOM)
few = settings(max_examples=25, deadline=None)


def after(values: list[float], step_s: float = 60.0, lead_steps: int = 1) -> forecast.Forecast:
    state = forecast.initial(step_s, lead_steps)
    for value in values:
        state = forecast.observe(state, value)
    return state


@few
@given(loads, st.sampled_from([1.0, 60.0, 900.0, 3600.0, 86400.0]), st.sampled_from([1, 2, 5]), headrooms)
def test_capacity_is_finite_and_never_negative(
    values: list[float], step_s: float, lead_steps: int, headroom: float
) -> None:
    state = after(values, step_s, lead_steps)
    for requests_per_domain in (1e-15, 0.5, 100.0, 1e15):
        (capacity,) = forecast.capacities(state, requests_per_domain, [headroom])
        assert 0 <= capacity <= forecast.MAX_CAPACITY
    assert all(math.isfinite(edge) and edge >= 0 for edge in forecast.band(state))


@few
@given(loads, st.lists(headrooms, min_size=2, max_size=8))
def test_more_headroom_never_asks_for_fewer(values: list[float], settings_: list[float]) -> None:
    capacities = forecast.capacities(after(values), 100.0, sorted(settings_))
    assert capacities == sorted(capacities)


@few
@given(
    st.one_of(loads, st.lists(st.floats(50, 150), min_size=20, max_size=40)),
    st.lists(st.one_of(st.floats(0, 1e3), st.floats(0, 1e6), st.just(0.0)), min_size=2, max_size=8),
    st.sampled_from([(60.0, 1), (60.0, 5), (900.0, 2), (21600.0, 1)]),
    headrooms,
)
def test_more_load_in_the_last_step_never_asks_for_fewer(
    values: list[float], last: list[float], timing: tuple[float, int], headroom: float
) -> None:
    before = after(values, *timing)
    for requests_per_domain in (0.5, 10.0, 1000.0):
        capacities = [
            forecast.capacities(forecast.observe(before, value), requests_per_domain, [1.0, 3.0, headroom])
            for value in sorted(last)
        ]
        for asked in zip(*capacities, strict=True):
            assert list(asked) == sorted(asked)


@pytest.mark.parametrize("lead_steps", [1, 5])
def test_after_a_day_of_jobs_and_jumps_more_load_in_the_last_step_never_asks_for_fewer(lead_steps: int) -> None:
    chance = random.Random(7)
    level, state = 1000.0, forecast.initial(900.0, lead_steps)
    for number in range(96 * 3):
        level *= chance.choice([1.0] * 12 + [0.4, 2.5])
        level = min(max(level, 100.0), 1e4)
        state = forecast.observe(state, level * chance.uniform(0.9, 1.1) * (3 if number % 4 == 0 else 1))
        if number % 8 == 7:
            last = [level * share for share in (0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 20)]
            capacities = [
                forecast.capacities(forecast.observe(state, value), 200.0, [0.0, 0.6, 1.0, 2.0, 4.0, 10.0])
                for value in last
            ]
            for asked in zip(*capacities, strict=True):
                assert list(asked) == sorted(asked), number


@few
@given(st.lists(st.floats(1, 1e5), min_size=2, max_size=40), st.sampled_from([2, 4, 16]), st.floats(0, 5))
def test_a_whole_history_of_a_multiple_of_the_load_never_asks_for_fewer(
    values: list[float], times: int, headroom: float
) -> None:
    base = forecast.capacities(after(values), 64.0, [headroom])[0]
    more = forecast.capacities(after([times * value for value in values]), 64.0, [headroom])[0]
    assert more >= base


@few
@given(st.lists(st.floats(1, 1e5), min_size=2, max_size=40), st.floats(0, 5))
def test_load_and_domains_four_times_as_large_need_as_many(values: list[float], headroom: float) -> None:
    base = forecast.capacities(after(values), 64.0, [headroom])
    assert forecast.capacities(after([4 * value for value in values]), 256.0, [headroom]) == base


@few
@given(loads, loads, st.sampled_from([1, 3]))
def test_state_survives_a_restart_at_any_tick_with_the_same_decisions_after(
    before: list[float], then: list[float], lead_steps: int
) -> None:
    kept = after(before, lead_steps=lead_steps)
    restored = forecast_store.from_values(forecast_store.to_values(kept))
    for value in then:
        kept, restored = forecast.observe(kept, value), forecast.observe(restored, value)
        wanted = [forecast.capacities(state, 70.0, [0.0, 1.0, 3.0]) for state in (kept, restored)]
        assert wanted[0] == wanted[1]
    assert forecast_store.to_values(kept) == forecast_store.to_values(restored)


@few
@given(loads)
def test_the_same_load_gives_the_same_state(values: list[float]) -> None:
    assert forecast_store.to_values(after(values)) == forecast_store.to_values(after(values))


@few
@given(loads, st.integers(1, 20))
def test_unknown_steps_change_no_decision(values: list[float], gap: int) -> None:
    state = after([100.0, *values])
    later = state
    for _ in range(gap):
        later = forecast.observe(later, math.nan)
    assert forecast.capacities(later, 50.0, [0.0, 2.0]) == forecast.capacities(state, 50.0, [0.0, 2.0])
    assert later.age_steps == state.age_steps + gap


@pytest.mark.parametrize("bad", [-1.0, -1e-9, math.inf, -math.inf, 1e16])
def test_what_cannot_be_a_count_is_never_accepted(bad: float) -> None:
    with pytest.raises(ValueError, match="requests must be NaN"):
        forecast.observe(forecast.initial(60.0, 1), bad)
