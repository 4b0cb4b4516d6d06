"""The staircase: which step applies, for how long it must hold, and which staircases are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Step, StepRule
from common.config_file import parse
from common.errors import ConfigError
from services.decider.core import policies
from services.decider.core.policies.step import stepped
from tests.unit.policy_ticks import ballots, metrics, votes

STAIRS = [
    {"above_ratio": 0.7, "change": 1},
    {"above_ratio": 0.9, "change": 3},
    {"below_ratio": 0.4, "change": -1},
    {"below_ratio": 0.1, "change": -2},
]


def step(steps: list[dict[str, Any]] | None = None, **changes: Any) -> Step:
    values = {"out_window_s": 1.0, "in_window_s": 1.0, "steps": steps or STAIRS}
    return Step.model_validate(values | changes)


@pytest.mark.parametrize(
    ("ratio", "wanted"), [(0.95, 7), (0.9, 7), (0.89, 5), (0.7, 5), (0.69, 4), (0.41, 4), (0.4, 3), (0.1, 2), (0.0, 2)]
)
def test_the_largest_step_that_applies_is_taken(ratio: float, wanted: int) -> None:
    assert votes(step(), [metrics(ratio, ready=4)]) == [wanted]


@pytest.mark.parametrize(
    ("rule", "desired", "wanted"),
    [
        ({"above_ratio": 0.8, "change": 2}, 4, 6),
        ({"above_ratio": 0.8, "change": "+50%"}, 4, 6),
        ({"above_ratio": 0.8, "change": "+50%"}, 5, 8),
        ({"above_ratio": 0.8, "change": "+10%"}, 1, 2),
        ({"above_ratio": 0.8, "to": 9}, 4, 9),
        ({"above_ratio": 0.8, "to": 3}, 4, 4),
        ({"below_ratio": 0.2, "change": -2}, 4, 2),
        ({"below_ratio": 0.2, "change": -9}, 4, 0),
        ({"below_ratio": 0.2, "change": "-50%"}, 5, 3),
        ({"below_ratio": 0.2, "change": "-10%"}, 3, 2),
        ({"below_ratio": 0.2, "to": 1}, 4, 1),
        ({"below_ratio": 0.2, "to": 6}, 4, 4),
    ],
)
def test_a_step_is_a_number_a_share_or_a_capacity(rule: dict[str, Any], desired: int, wanted: int) -> None:
    assert stepped(StepRule.model_validate(rule), desired) == wanted


def test_each_step_has_its_own_window() -> None:
    stairs = [{"above_ratio": 0.7, "change": 1, "window_s": 4.0}, {"above_ratio": 0.9, "change": 3, "window_s": 2.0}]
    assert votes(step(stairs), [metrics(0.95, ready=4)] * 3) == [4, 7, 7]
    assert votes(step(stairs), [metrics(0.75, ready=4)] * 5) == [4, 4, 4, 5, 5]


def test_a_tick_below_the_bound_begins_the_window_anew() -> None:
    series = [metrics(0.75, ready=4)] * 2 + [metrics(0.6, ready=4)] + [metrics(0.75, ready=4)] * 3
    assert votes(step(out_window_s=3.0), series) == [4, 4, 4, 4, 4, 5]


def test_until_its_window_is_full_a_smaller_step_applies() -> None:
    stairs = [{"above_ratio": 0.7, "change": 1, "window_s": 1.0}, {"above_ratio": 0.9, "change": 3, "window_s": 3.0}]
    assert votes(step(stairs), [metrics(0.95, ready=4)] * 3) == [5, 5, 7]
    first = ballots(step(stairs), [metrics(0.95, ready=4)])[0]
    assert (first.wanted, first.wait_s) == (7, 0.0)


def test_a_change_of_capacity_begins_all_windows_anew() -> None:
    kind, policy = policies.of(step()), step(out_window_s=3.0)
    _, state = kind.recommend(policy, kind.start(), metrics(0.95), 100.0)
    assert kind.filled_s(policy, state, 100.0) == (1.0, 0.0)
    assert kind.restart(state) == kind.start()


def test_what_is_coming_takes_its_share_off_before_the_bounds_are_looked_at() -> None:
    assert votes(step(), [metrics(1.0, ready=2, coming=2, desired=4)]) == [4]
    assert votes(step(), [metrics(1.0, ready=4, coming=1, desired=5)]) == [6]


def test_a_response_time_waits_for_what_is_coming() -> None:
    policy = step([{"above": 0.5, "change": 2}], metric="response-time")
    assert votes(policy, [metrics(response_time_s=0.9)]) == [4]
    assert votes(policy, [metrics(response_time_s=0.9, coming=1, desired=3)]) == [3]


@pytest.mark.parametrize(
    ("metric", "figures"),
    [("requests-per-domain", {"request_rate": 60.0}), ("queue", {"queue": 60}), ("response-time", {})],
)
def test_steps_look_at_other_metrics_too(metric: str, figures: dict[str, Any]) -> None:
    bound = 0.01 if metric == "response-time" else 20.0
    policy = step([{"above": bound, "change": 2}], metric=metric)
    assert votes(policy, [metrics(0.1, ready=3, **figures)]) == [5]
    assert votes(policy, [metrics(0.1, ready=30, **figures)]) == [32 if metric == "response-time" else 30]


def test_an_unknown_domain_counts_as_idle_outwards_and_forbids_scale_in() -> None:
    assert votes(step(), [metrics(1.0, ready=4, unknown=1)]) == [5]
    assert votes(step(), [metrics(0.0, ready=4, unknown=1)]) == [None]
    assert votes(step(), [metrics(0.0, ready=4, unknown=4)]) == [None]


def test_without_traffic_figures_steps_on_requests_have_no_vote() -> None:
    policy = step([{"above": 5, "change": 2}], metric="requests-per-domain")
    vote = ballots(policy, [metrics(request_rate=None, is_traffic_known=False)])[0]
    assert (vote.capacity, vote.reason) == (None, "no fresh traffic figures from the balancer")


def test_the_reason_names_metric_bound_and_window() -> None:
    vote = ballots(step(out_window_s=5.0), [metrics(0.95)])[0]
    assert vote.reason == "CPU 95 %, at or above 90 % for 1 s of 5 s"
    assert vote.wait_s == 4.0


# --- the configuration ---------------------------------------------------------------------------------------------

HEAD = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "step"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("steps = []", "at least 1 item"),
        ('steps = [{ above_ratio = 0.8, change = 1 }]\nmetric = "queue"', "metric 'queue' have one of above, below"),
        ("steps = [{ above = 8, change = 1 }]", "metric 'cpu' have one of above_ratio, below_ratio"),
        ("steps = [{ above_ratio = 0.8, below_ratio = 0.2, change = 1 }]", "a step needs one of above_ratio"),
        ("steps = [{ change = 1 }]", "got none"),
        ("steps = [{ above_ratio = 0.8 }]", "exactly one of change and to"),
        ("steps = [{ above_ratio = 0.8, change = 1, to = 4 }]", "exactly one of change and to"),
        ("steps = [{ above_ratio = 0.8, change = -1 }]", "needs a positive change"),
        ("steps = [{ below_ratio = 0.2, change = 1 }]", "needs a negative change"),
        ("steps = [{ above_ratio = 0.8, change = 0 }]", "must be in 1..1000 or -1000..-1; got 0"),
        ('steps = [{ above_ratio = 0.8, change = "50" }]', "a share such as '+50%'"),
        ('steps = [{ above_ratio = 0.8, change = "+0%" }]', "got '+0%'"),
        ('steps = [{ above_ratio = 0.8, change = "+²%" }]', "a share such as '+50%'"),
        ("steps = [{ above_ratio = 80, change = 1 }]", "less than or equal to 1"),
        ("steps = [{ above_ratio = nan, change = 1 }]", "finite"),
        (
            "steps = [{ above_ratio = 0.8, change = 1 }, { above_ratio = 0.8, change = 2 }]",
            "steps overlap: bounds above must be ascending; got 0.8, then 0.8",
        ),
        (
            "steps = [{ below_ratio = 0.1, change = -1 }, { below_ratio = 0.2, change = -2 }]",
            "bounds below must be descending; got 0.1, then 0.2",
        ),
        (
            "steps = [{ above_ratio = 0.7, change = 2 }, { above_ratio = 0.9, change = 1 }]",
            "the step above 0.9 must go at least as far as the one above 0.7",
        ),
        (
            "steps = [{ below_ratio = 0.2, to = 1 }, { below_ratio = 0.1, to = 2 }]",
            "the step below 0.1 must go at least as far as the one below 0.2",
        ),
        (
            'steps = [{ above_ratio = 0.7, change = 2 }, { above_ratio = 0.9, change = "+50%" }]',
            "must all be of one kind",
        ),
        (
            "steps = [{ above_ratio = 0.5, change = 2 }, { below_ratio = 0.5, change = -1 }]",
            "every below (0.5) must be less than every above (0.5)",
        ),
    ],
)
def test_an_impossible_staircase_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse((HEAD + text).encode(), "autoscaler.toml")
    assert error in str(caught.value)
    assert "groups.web.policies.0" in str(caught.value)


def test_an_unknown_key_of_a_step_names_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.chnge: unknown key; did you mean 'change'\? Allowed: above, ab"):
        parse((HEAD + "steps = [{ above_ratio = 0.8, chnge = 1 }]").encode(), "autoscaler.toml")


# --- properties ----------------------------------------------------------------------------------------------------

ratios = st.floats(0.0, 1.0, allow_nan=False)


@given(series=st.lists(st.tuples(ratios, ratios), min_size=1, max_size=30), ready=st.integers(1, 12))
def test_more_load_never_asks_for_fewer(series: list[tuple[float, float]], ready: int) -> None:
    policy = step(out_window_s=2.0, in_window_s=3.0)
    less = votes(policy, [metrics(min(pair), ready=ready) for pair in series])
    more = votes(policy, [metrics(max(pair), ready=ready) for pair in series])
    assert all(low is not None and high is not None and low <= high for low, high in zip(less, more, strict=True))
