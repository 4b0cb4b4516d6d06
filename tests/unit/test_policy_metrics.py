"""Target tracking on other metrics than CPU use, observing policies, and how votes of different weight are counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import TargetTracking
from common.config_file import parse
from common.config_policies import TARGETS
from common.errors import ConfigError
from common.messages import Vote
from services.decider.core import ballot
from services.decider.core.policies.measure import measure
from tests.unit.policy_ticks import ballots, metrics, votes


def tracking(metric: str, target: float, **changes: Any) -> TargetTracking:
    values = {"metric": metric, TARGETS[metric]: target}
    return TargetTracking.model_validate(values | {"out_stabilization_s": 0.0, "in_stabilization_s": 0.0} | changes)


@pytest.mark.parametrize(
    ("rate", "wanted"), [(400.0, 40), (40.0, 4), (43.0, 4), (45.0, 5), (37.0, 4), (30.0, 3), (0.0, 0)]
)
def test_requests_are_shared_out_a_tenfold_load_is_met_at_once(rate: float, wanted: int) -> None:
    assert votes(tracking("requests-per-domain", 10.0), [metrics(0.9, ready=4, request_rate=rate)]) == [wanted]


@pytest.mark.parametrize(("in_flight", "wanted"), [(0, 0), (30, 3), (40, 4), (70, 7), (400, 40)])
def test_connections_are_shared_out_however_idle_they_are(in_flight: int, wanted: int) -> None:
    assert votes(tracking("in-flight", 10.0), [metrics(0.0, ready=4, in_flight=in_flight)]) == [wanted]
    seen = metrics(0.0, ready=4, in_flight=in_flight, in_flight_mean=40.0)
    assert votes(tracking("in-flight", 10.0), [seen]) == [4]


@pytest.mark.parametrize(("queue", "wanted"), [(0, 3), (10, 3), (19, 4), (20, 4), (40, 8), (200, 40)])
def test_a_queue_asks_for_all_that_it_needs_and_spares_one_at_most(queue: int, wanted: int) -> None:
    assert votes(tracking("queue", 5.0), [metrics(0.9, ready=4, queue=queue)]) == [wanted]


@pytest.mark.parametrize(("response_s", "wanted"), [(0.01, 3), (0.2, 4), (0.3, 6), (0.4, 8), (9.0, 8)])
def test_a_response_time_asks_for_twice_as_many_at_most_and_spares_one(response_s: float, wanted: int) -> None:
    policy = tracking("response-time", 0.2)
    assert votes(policy, [metrics(0.9, ready=4, response_time_s=response_s)]) == [wanted]


def test_the_response_time_of_a_load_that_has_ended_is_history() -> None:
    policy = tracking("response-time", 0.2)
    assert votes(policy, [metrics(0.0, ready=4, response_time_s=3.0, request_rate=0.0)]) == [3]
    assert votes(policy, [metrics(0.0, ready=4, response_time_s=3.0, request_rate=0.0, queue=2)]) == [8]


def test_coming_domains_count_as_idle() -> None:
    seen = metrics(0.9, ready=4, coming=4, desired=8, request_rate=80.0, response_time_s=3.0)
    assert votes(tracking("requests-per-domain", 10.0), [seen]) == [8]
    assert votes(tracking("response-time", 0.2), [seen]) == [8]


@pytest.mark.parametrize("metric", ["requests-per-domain", "in-flight", "response-time", "queue"])
def test_without_traffic_figures_there_is_no_vote(metric: str) -> None:
    blind = {"is_traffic_known": False, "request_rate": None, "response_time_s": None, "queue": None}
    policy = tracking(metric, 5.0)
    assert votes(policy, [metrics(0.1, **blind), metrics(ready=0)]) == [None, None]
    half_blind = blind | {"is_traffic_known": True}
    assert "the balancer does not tell" in ballots(policy, [metrics(0.1, **half_blind)])[0].reason


def test_cpu_that_is_unknown_does_not_matter_to_requests() -> None:
    assert measure("requests-per-domain", metrics(ready=4, unknown=4)).is_complete


def test_the_reason_names_the_metric() -> None:
    vote = ballots(tracking("requests-per-domain", 10.0), [metrics(0.9, ready=4, request_rate=80.0)])[0]
    assert vote.reason == "requests 20.0 requests/s each of 4 ready, target 10.0 requests/s each: 8 would do"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('metric = "queue"\ntarget_ratio = 0.5', "metric 'queue' takes target_queue, not target_ratio"),
        ('metric = "queue"', "metric 'queue' needs target_queue"),
        ("target_queue = 5", "metric 'cpu' takes target_ratio, not target_queue"),
        (
            'metric = "response-time"\ntarget_response_time_s = 0.2\ntarget_queue = 1\ntarget_requests_per_s = 2',
            "metric 'response-time' takes target_response_time_s, not target_queue, target_requests_per_s",
        ),
        ('metric = "memory"', "'cpu', 'requests-per-domain', 'in-flight', 'response-time' or 'queue'; got 'memory'"),
        ('metric = "requests-per-domain"\ntarget_requests_per_s = 0', "greater than 0; got 0"),
        ('mode = "out-only"', "'on' or 'observe'; got 'out-only'"),
    ],
)
def test_a_target_that_does_not_fit_its_metric_is_refused(text: str, error: str) -> None:
    head = '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "target-tracking"\n'
    with pytest.raises(ConfigError) as caught:
        parse((head + text).encode(), "autoscaler.toml")
    assert error in str(caught.value)


def test_the_second_faulty_policy_is_named_by_its_own_line() -> None:
    text = (
        '[groups.web]\nprefix = "web-"\n[[groups.web.policies]]\ntype = "threshold"\nstep_out = 1\n'
        '[[groups.web.policies]]\ntype = "threshold"\nstep_out = 0\n'
    )
    with pytest.raises(ConfigError, match=r"^autoscaler\.toml:8: groups\.web\.policies\.1\.step_out: "):
        parse(text.encode(), "autoscaler.toml")


# --- counting --------------------------------------------------------------------------------------------------------


def vote(capacity: int | None, weight: str = "full", wanted: int | None = None) -> Vote:
    return Vote(policy="p", capacity=capacity, reason="", wanted=capacity if wanted is None else wanted, weight=weight)


@pytest.mark.parametrize(
    ("votes", "recommended"),
    [
        ([vote(2), vote(5)], 5),
        ([vote(None), vote(2)], 2),
        ([vote(None)], None),
        ([vote(None), vote(4, "floor", 3)], None),
        ([vote(None), vote(6, "floor", 6)], 6),
        ([vote(2), vote(4, "floor", 3)], 3),
        ([vote(2), vote(4, "floor", 1)], 2),
        ([vote(4, "floor", 1)], 4),
        ([vote(6, "floor", 6)], 6),
        ([vote(2), vote(9, "none")], 2),
        ([vote(9, "none")], 4),
        ([], 4),
    ],
)
def test_the_largest_vote_wins_a_floor_holds_and_an_observer_does_not_count(
    votes: list[Vote], recommended: int | None
) -> None:
    counted = ballot.counted(tuple(votes))
    assert ballot.recommended(counted, 4) == recommended


def test_a_floor_alone_never_leans_in() -> None:
    assert not ballot.is_leaning_in((vote(4, "floor", 1),), 4)
    assert ballot.is_leaning_in((vote(4, "floor", 1), vote(4, wanted=2)), 4)
    assert not ballot.is_leaning_in((vote(4, "floor", 4), vote(4, wanted=2)), 4)
    assert ballot.is_leaning_in((vote(None, "none"), vote(4, wanted=2)), 4)
    assert ballot.leading(()) is None


# --- properties ------------------------------------------------------------------------------------------------------

figures = st.tuples(st.floats(0.0, 1e5), st.floats(0.0, 1e5))
METRICS = {
    "requests-per-domain": "request_rate",
    "in-flight": "in_flight",
    "response-time": "response_time_s",
    "queue": "queue",
}


@given(
    metric=st.sampled_from(list(METRICS)),
    series=st.lists(figures, min_size=1, max_size=30),
    ready=st.integers(1, 12),
    coming=st.integers(0, 3),
    target=st.floats(0.1, 100.0),
)
def test_more_load_never_asks_for_fewer(
    metric: str, series: list[tuple[float, float]], ready: int, coming: int, target: float
) -> None:
    policy = tracking(metric, target, out_stabilization_s=2.0, in_stabilization_s=3.0)

    def row(pick: Any) -> list[int | None]:
        fixed: dict[str, Any] = {"ready": ready, "coming": coming, "desired": ready + coming}
        values = [pick(pair) for pair in series]
        return votes(policy, [metrics(0.5, **fixed, **{METRICS[metric]: round(value)}) for value in values])

    assert all(
        low is not None and high is not None and low <= high for low, high in zip(row(min), row(max), strict=True)
    )
