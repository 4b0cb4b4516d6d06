"""The policies: what they recommend of given metrics, and that more load never asks for fewer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import TargetTracking, Threshold
from services.decider.core import policies
from services.decider.core.metrics import GroupMetrics
from services.decider.core.policies import target_tracking
from services.decider.core.policies.queue import Queue


def metrics(ratio: float = 0.5, *, ready: int = 2, unknown: int = 0, **changes: Any) -> GroupMetrics:
    """Return a group whose known ready domains all have ``ratio``."""
    known = ready - unknown
    values: dict[str, Any] = {
        "interval_s": 1.0,
        "desired": ready,
        "ready": ready,
        "known": known,
        "unknown": tuple(f"web-{number:04d}" for number in range(unknown)),
        "mean": ratio,
        "low": ratio * known / ready if ready else 0.0,
        "high": (ratio * known + unknown) / ready if ready else 1.0,
        "ignorance": "something is unknown" if unknown or not ready else "",
        "is_membership_fresh": True,
        "is_traffic_known": True,
        "queue": 0,
    }
    return GroupMetrics(**(values | changes))


def votes(policy: Any, series: list[GroupMetrics], restart_at: int | None = None) -> list[int | None]:
    """Return the capacity voted for on each tick, one a second."""
    kind, found = policies.of(policy), []
    state = kind.start()
    for tick, seen in enumerate(series):
        if tick == restart_at:
            state = kind.restart(state)
        vote, state = kind.recommend(policy, state, seen, 100.0 + tick)
        found.append(None if vote is None else vote.capacity)
    return found


def test_an_unknown_kind_of_policy_is_named() -> None:
    class Odd:
        type = "odd"

    with pytest.raises(ValueError, match="threshold, target-tracking, step, schedule, predictive, queue; got 'odd'"):
        policies.of(Odd())


# --- threshold -----------------------------------------------------------------------------------------------------


def test_high_for_the_whole_window_asks_for_one_more() -> None:
    assert votes(Threshold(), [metrics(0.80)] * 6) == [2, 2, 2, 2, 3, 3]


def test_one_tick_below_high_begins_the_out_window_anew() -> None:
    series = [metrics(0.9)] * 4 + [metrics(0.79)] + [metrics(0.9)] * 5
    assert votes(Threshold(), series) == [2] * 9 + [3]


def test_low_for_the_whole_window_asks_for_one_fewer() -> None:
    assert votes(Threshold(in_window_s=4), [metrics(0.35)] * 5) == [2, 2, 2, 1, 1]


def test_the_steps_are_those_of_the_configuration() -> None:
    policy = Threshold(out_window_s=1, in_window_s=1, step_out=3, step_in=2)
    assert votes(policy, [metrics(1.0, ready=4)]) == [7]
    assert votes(policy, [metrics(0.0, ready=4)]) == [2]


def test_between_the_thresholds_it_asks_for_what_there_is() -> None:
    assert votes(Threshold(), [metrics(0.5)] * 40) == [2] * 40


def test_a_restart_of_the_windows_forgets_what_was_high() -> None:
    assert votes(Threshold(), [metrics(0.9)] * 8, restart_at=3) == [2] * 7 + [3]


def test_an_unknown_domain_counts_as_idle_for_scale_out() -> None:
    assert votes(Threshold(out_window_s=1), [metrics(1.0, ready=4, unknown=1)]) == [None]
    assert votes(Threshold(out_window_s=1, high_ratio=0.7), [metrics(1.0, ready=4, unknown=1)]) == [5]


def test_an_unknown_domain_forbids_scale_in() -> None:
    assert votes(Threshold(in_window_s=1), [metrics(0.0, ready=10, unknown=1)]) == [None]


def test_an_unknown_tick_begins_the_in_window_anew() -> None:
    low = metrics(0.0, ready=10)
    series = [low] * 3 + [metrics(0.0, ready=10, unknown=1)] + [low] * 4
    assert votes(Threshold(in_window_s=4), series) == [10, 10, 10, None, 10, 10, 10, 9]


@pytest.mark.parametrize("policy", [Threshold(), TargetTracking()])
def test_a_policy_without_any_figure_has_no_vote(policy: Any) -> None:
    assert votes(policy, [metrics(ready=0)]) == [None]
    assert votes(policy, [metrics(ready=3, unknown=3)]) == [None]


def test_while_capacity_is_coming_threshold_asks_for_no_more() -> None:
    coming = metrics(1.0, ready=1, desired=2, coming=1)
    assert votes(Threshold(), [coming] * 30) == [2] * 30


# --- target tracking -----------------------------------------------------------------------------------------------


def tracking(**changes: Any) -> TargetTracking:
    return TargetTracking(**({"out_stabilization_s": 0.0, "in_stabilization_s": 0.0} | changes))


@pytest.mark.parametrize(
    ("ready", "ratio", "wanted"),
    [
        (4, 0.90, 6),  # 4 * 0.9 / 0.6
        (4, 0.30, 2),
        (4, 0.65, 4),  # within 10 % of the target
        (4, 0.55, 4),
        (3, 0.60, 3),
        (2, 1.00, 4),
        (4, 0.0, 0),
    ],
)
def test_target_tracking_asks_for_what_brings_use_back_to_the_target(ready: int, ratio: float, wanted: int) -> None:
    assert votes(tracking(), [metrics(ratio, ready=ready)]) == [wanted]


def test_a_rounding_error_asks_for_no_further_domain() -> None:
    assert 3 * 0.9 / 0.3 > 9
    assert votes(tracking(target_ratio=0.3), [metrics(0.9, ready=3)]) == [9]


def test_at_saturation_a_target_near_one_still_asks_for_more() -> None:
    assert votes(tracking(target_ratio=0.95), [metrics(0.98, ready=3)]) == [4]


def test_coming_domains_count_as_idle_for_scale_out() -> None:
    assert votes(tracking(), [metrics(1.0, ready=2, desired=4, coming=2)]) == [4]
    assert votes(tracking(), [metrics(1.0, ready=4, desired=5, coming=1)]) == [7]


def test_scale_out_takes_the_lowest_recommendation_of_its_window() -> None:
    policy = tracking(out_stabilization_s=3.0)
    series = [metrics(0.6)] * 2 + [metrics(1.0), metrics(0.8), metrics(1.0), metrics(1.0)]
    assert votes(policy, series) == [2, 2, 2, 2, 3, 3]


def test_scale_in_takes_the_highest_recommendation_of_its_window() -> None:
    policy = tracking(in_stabilization_s=3.0)
    series = [metrics(0.6, ready=6), metrics(0.1, ready=6), metrics(0.3, ready=6), metrics(0.1, ready=6)]
    assert votes(policy, [*series, metrics(0.1, ready=6)]) == [6, 6, 6, 3, 3]


def test_target_tracking_watches_a_whole_window_before_it_moves() -> None:
    assert votes(tracking(out_stabilization_s=3.0), [metrics(1.0)] * 4) == [2, 2, 4, 4]


def test_an_unknown_domain_counts_as_busy_in_the_scale_in_stabilization() -> None:
    policy = tracking(in_stabilization_s=3.0)
    series = [metrics(0.1, ready=4)] * 2 + [metrics(0.1, ready=4, unknown=1)] + [metrics(0.1, ready=4)] * 3
    assert votes(policy, series) == [4, 4, None, 3, 3, 1]


# --- queue ---------------------------------------------------------------------------------------------------------


def test_a_queue_that_stays_asks_for_one_more_though_cpu_is_low() -> None:
    assert votes(Queue(out_window_s=3.0), [metrics(0.1, queue=5)] * 4) == [2, 2, 3, 3]


def test_slots_that_are_all_taken_ask_for_one_more_without_a_queue_or_cpu_use() -> None:
    policy = Queue(out_window_s=3.0, slots=64)
    assert votes(policy, [metrics(0.0, ready=1, desired=1, slots_taken=64)] * 4) == [1, 1, 2, 2]
    assert votes(policy, [metrics(0.0, ready=1, desired=1, slots_taken=63)] * 4) == [None] * 4
    assert votes(policy, [metrics(0.0, ready=2, desired=2, unhealthy=1, slots_taken=64)] * 4) == [2, 2, 3, 3]


def test_nobody_is_taken_away_whose_slots_the_others_do_not_have() -> None:
    policy = Queue(out_window_s=3.0, slots=64)
    assert votes(policy, [metrics(0.0, ready=2, desired=2, slots_taken=70)] * 2) == [2, 2]
    assert votes(policy, [metrics(0.0, ready=2, desired=2, slots_taken=57)] * 2) == [None, None]
    assert votes(policy, [metrics(0.0, ready=2, desired=2, slots_taken=None)] * 2) == [None, None]


def test_without_a_queue_the_queue_policy_says_nothing() -> None:
    assert votes(Queue(out_window_s=3.0), [metrics(0.9)] * 2) == [None, None]
    vote, _ = policies.of(Queue(3.0)).recommend(Queue(3.0), policies.of(Queue(3.0)).start(), metrics(0.9), 1.0)
    assert vote is None


def test_unknown_traffic_is_a_vote_without_capacity() -> None:
    kind = policies.of(Queue(3.0))
    vote, _ = kind.recommend(Queue(3.0), kind.start(), metrics(0.9, is_traffic_known=False), 1.0)
    assert vote is not None
    assert vote.capacity is None


def test_a_queue_waits_for_coming_capacity() -> None:
    assert votes(Queue(out_window_s=1.0), [metrics(0.1, queue=5, coming=1, desired=3)] * 3) == [3, 3, 3]


# --- properties ----------------------------------------------------------------------------------------------------

ratios = st.floats(0.0, 1.0, allow_nan=False)


@given(
    series=st.lists(st.tuples(ratios, ratios), min_size=1, max_size=40),
    ready=st.integers(1, 12),
    coming=st.integers(0, 3),
    policy=st.sampled_from(
        [
            Threshold(out_window_s=2, in_window_s=3),
            TargetTracking(out_stabilization_s=2, in_stabilization_s=3),
            TargetTracking(target_ratio=1.0, tolerance=0.0, out_stabilization_s=0, in_stabilization_s=0),
        ]
    ),
)
def test_more_load_never_asks_for_fewer(
    series: list[tuple[float, float]], ready: int, coming: int, policy: Any
) -> None:
    fixed: dict[str, Any] = {"ready": ready, "desired": ready + coming, "coming": coming}
    less = votes(policy, [metrics(min(pair), **fixed) for pair in series])
    more = votes(policy, [metrics(max(pair), **fixed) for pair in series])
    assert all(low is not None and high is not None and low <= high for low, high in zip(less, more, strict=True))


@given(ratio=ratios, ready=st.integers(1, 50), target=st.floats(0.05, 1.0))
def test_the_wanted_capacity_brings_use_to_the_target_or_holds(ratio: float, ready: int, target: float) -> None:
    policy = tracking(target_ratio=target, tolerance=0.0)
    wanted = target_tracking.wanted(policy, metrics(ratio, ready=ready), ratio)
    assert wanted * target >= ready * ratio - 1e-6
    if ratio < target_tracking.SATURATED:
        assert (wanted - 1) * target < ready * ratio + 1e-6
