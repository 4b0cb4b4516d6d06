"""Plain words: why it did, or did not, scale, and what would change it; checked by running the core forward."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.messages import DecisionRecord
from services.decider.core.decide import Decision
from services.decider.core.explain import counterfactual
from services.decider.core.group import metrics_of
from services.decider.core.limits import Limit
from services.decider.core.outlook import Outlook, is_unasked, look_ahead, scenarios, tell
from tests.sim.decider_model import World, calm, settings

SCHEDULE = {"type": "schedule", "cron": "0 0 29 2 MON", "duration_s": 60.0, "capacity": 2}


def world(load: Any, ready: int = 1, **changes: Any) -> World:
    shape = load if callable(load) else lambda t: load * ready
    return World(shape, settings=settings(**changes), ready=ready)


def last(found: World) -> DecisionRecord:
    return found.state.history[-1]


def test_a_filling_window_tells_how_long_it_must_still_last() -> None:
    found = world(0.9).run(2)
    assert last(found).limiter == "window"
    assert last(found).limiter_text == "CPU 90 %, at or above 80 % for 2 s of 5 s"
    assert last(found).counterfactual == "3 s more like this and it scales out to 2"


def test_a_calm_tells_when_it_scales_in() -> None:
    found = world(0.05, ready=2).run(10)
    assert last(found).counterfactual == "scales in to 1 in 21 s (22:13:51 UTC) if nothing changes"
    assert found.run(20).path() == [2]
    assert found.run(1).path() == [2, 1]


def test_between_the_thresholds_it_names_both_ways() -> None:
    assert last(world(0.5, ready=2).run(3)).counterfactual == (
        "at or above 80 % for 5 s it scales out, at or below 35 % for 30 s it scales in"
    )


def test_after_a_change_it_names_the_cooldowns() -> None:
    assert last(world(0.9).run(5)).counterfactual == "no further scale-out for 5 s, no scale-in for 30 s"


def test_a_bound_names_itself() -> None:
    assert last(world(0.95, max=1).run(20)).counterfactual == "a max above 1 would let it scale out"
    assert last(world(0.05, ready=2, min=2).run(40)).counterfactual == "a min below 2 would let it scale in"
    busy = world(0.5, ready=2, min=2, policies=[{"type": "threshold", "low_ratio": 0.6}]).run(40)
    assert last(busy).counterfactual == "with a min below 2 and below 38 % CPU it could spare one"


@pytest.mark.parametrize("policy", [{"type": "threshold"}, SCHEDULE])
@pytest.mark.parametrize("seconds", [5, 40])
def test_nothing_is_said_to_take_away_the_last_domain_but_an_order(policy: dict[str, Any], seconds: int) -> None:
    said = last(world(0.05, policies=[policy]).run(seconds)).counterfactual
    assert "the last domain stays: without it nothing would show new load" in said
    assert last(world(0.05, policies=[policy], min=0).run(seconds)).counterfactual == "an operator may scale it to 0"


@pytest.mark.parametrize("load", [0.05, 0.2, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("ready", [1, 2, 3])
@pytest.mark.parametrize("policy", [{"type": "threshold", "low_ratio": 0.7}, {"type": "target-tracking"}, SCHEDULE])
def test_a_lower_min_is_named_exactly_where_it_would_let_it_scale_in(
    policy: dict[str, Any], ready: int, load: float
) -> None:
    found = world(load, ready=ready, min=ready, policies=[policy]).run(120)
    lower = replace(found.state, standing=replace(found.state.standing, minimum=ready - 1))
    view = look_ahead(lower, metrics_of(found.state, found.now_s), found.now_s, "with a lower min")
    is_said = last(found).counterfactual == f"a min below {ready} would let it scale in"
    assert is_said is (view.to is not None and view.to < ready)


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [("pause", {}, "resume lets it act again"), ("mode", {"mode": "observe"}, "the mode on lets it act")],
)
def test_an_order_names_what_lifts_it(verb: str, args: dict[str, str], words: str) -> None:
    found = world(0.9).run(2)
    found.ask(verb, **args)
    assert last(found.run(1)).counterfactual == words


def test_unknown_data_asks_for_data() -> None:
    found = world(0.05, ready=2)
    found.missing = lambda t, name: True
    assert "fresh figures let it decide again" in last(found.run(3)).counterfactual


LIVES = [
    (world(0.9), 3),
    (world(0.05, ready=2), 10),
    (world(0.05, ready=3), 45),
    (world(0.3, ready=3, policies=[{"type": "target-tracking"}]), 20),
    (world(0.9, ready=2, policies=[{"type": "target-tracking"}, {"type": "threshold"}]), 1),
    (world(2.2), 18),
]


@pytest.mark.parametrize(("found", "seconds"), LIVES, ids=range(len(LIVES)))
def test_the_forecast_of_look_ahead_comes_true(found: World, seconds: int) -> None:
    found.run(seconds)
    view = look_ahead(
        found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s, "if nothing changes"
    )
    assert view.to is not None
    changes = len(found.desired)
    found.run(round(view.after_s))
    assert found.desired[changes:] == [(found.t, view.to)]


@pytest.mark.parametrize(("found", "seconds"), [(world(0.9), 2), (world(0.05, ready=2), 10)])
def test_the_clause_of_every_tick_agrees_with_look_ahead(found: World, seconds: int) -> None:
    found.run(seconds)
    view = look_ahead(found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s, "x")
    assert f"{view.after_s:.0f} s" in last(found).counterfactual
    assert f"to {view.to}" in last(found).counterfactual


SEVERAL: list[list[dict[str, Any]]] = [
    [{"type": "threshold"}],
    [{"type": "threshold", "low_ratio": 0.5}],
    [{"type": "threshold"}, {"type": "target-tracking", "in_stabilization_s": 40.0}],
    [{"type": "threshold"}, {"type": "predictive", "mode": "on", "step_s": 10.0}],
    [{"type": "step", "steps": [{"above_ratio": 0.7, "change": "+50%"}, {"below_ratio": 0.3, "change": -2}]}],
]


@given(
    policies=st.sampled_from(SEVERAL), load=st.floats(0.0, 4.0), ready=st.integers(1, 4), seconds=st.integers(1, 150)
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_time_and_a_target_that_a_clause_names_come_true(
    policies: list[dict[str, Any]], load: float, ready: int, seconds: int
) -> None:
    found = world(lambda t: load, ready=ready, policies=policies).run(seconds)
    clause = last(found).counterfactual
    named = re.search(r"scales in to (\d+) in ([\d.]+) s", clause)
    named_out = re.search(r"([\d.]+) s more like this and it scales out to (\d+)", clause)
    if named is None and named_out is None:
        return
    to, after_s = (named[1], named[2]) if named else (named_out[2], named_out[1])  # type: ignore[index]
    changes, at_t = len(found.desired), found.t + float(after_s)
    found.run(float(after_s) + 10 * (len(policies) > 1 and policies[1]["type"] == "predictive"))
    first_at_t, first_to = found.desired[changes]
    assert first_to == int(to)
    assert first_at_t == pytest.approx(at_t, abs=0.0 if found.settings.counting[-1].type != "predictive" else 10.0)


def test_a_calm_that_would_not_last_names_what_binds_and_promises_nothing() -> None:
    found = world(0.45, ready=2, policies=[{"type": "threshold", "low_ratio": 0.5}]).run(10)
    assert last(found).counterfactual == "below 38 % CPU it could spare one"


def test_of_two_policies_that_would_have_fewer_the_larger_target_is_told() -> None:
    policies = [{"type": "threshold", "step_in": 3}, {"type": "target-tracking", "in_stabilization_s": 30.0}]
    found = world(0.3, ready=4, max_step_in=4, policies=policies).run(10)
    assert last(found).counterfactual.startswith("scales in to 2 in 21 s")


def held_by_a_forecast(in_window_s: float, step_s: float) -> World:
    """Return a group that is nearly idle, and whose forecast asks for all that there is."""
    forecast = {"type": "predictive", "mode": "on", "step_s": step_s, "target_ratio": 0.2}
    return world(0.18, ready=3, policies=[{"type": "threshold", "in_window_s": in_window_s}, forecast])


def test_a_floor_that_holds_the_group_is_its_limiter_and_in_the_clause() -> None:
    found = held_by_a_forecast(30.0, step_s=5.0).run(200)
    assert last(found).limiter == "floor"
    assert re.search(r"with predictive asking for less than \d it scales in", last(found).counterfactual)


def test_looking_far_ahead_a_forecast_still_learns_and_holds_its_floor() -> None:
    found = held_by_a_forecast(3000.0, step_s=30.0).run(400)
    view = look_ahead(found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s, "x")
    assert view.horizon_s > 3000
    assert (view.to, view.limiter) == (None, "floor")


@pytest.mark.parametrize(
    "policy",
    [
        {"type": "threshold"},
        {"type": "target-tracking", "metric": "requests-per-domain", "target_requests_per_s": 1.0},
        {"type": "target-tracking", "metric": "response-time", "target_response_time_s": 0.02},
        {"type": "step", "steps": [{"above_ratio": 0.7, "change": 1}]},
        {"type": "schedule", "cron": "* * * * *", "duration_s": 60.0, "capacity": 4},
    ],
)
def test_what_stops_the_actuator_is_the_limiter_whatever_the_policy_looks_at(policy: dict[str, Any]) -> None:
    found = world(0.65, ready=2, min=1, policies=[policy]).run(2)
    found.state = replace(found.state, standing=replace(found.state.standing, desired=4))
    found.traffic = lambda t: calm(3.0, request_rate=4.0, response_time_s=0.02)
    good = found.membership

    def stopped() -> Any:
        seen = good()
        body = seen.membership.model_copy(update={"blocked": "the breaker is open for 42 s"})
        return replace(seen, membership=body)

    found.membership = stopped  # type: ignore[method-assign]
    found.act = lambda: None  # type: ignore[method-assign]
    found.run(1)
    assert last(found).desired_after == 4
    assert last(found).limiter == "blocked"
    assert "2 domains to come, but the actuator cannot go on: the breaker is open" in last(found).limiter_text
    assert "once the actuator can go on" in last(found).counterfactual


@pytest.mark.parametrize(
    ("blocked", "missing", "expected"),
    [
        ("", 2, "complete fresh figures let it decide again"),
        ("the breaker is open for 42 s", 0, "complete fresh figures let it decide again"),
        ("the breaker is open for 42 s", 2, "the actuator must go on first; then complete fresh figures let it decide"),
    ],
)
def test_figures_that_the_actuator_must_bring_first_are_not_all_that_is_missing(
    blocked: str, missing: int, expected: str
) -> None:
    found = world(0.5, ready=2, min=2).run(3)
    metrics = replace(metrics_of(found.state, found.now_s, found.tick().epoch_s), blocked=blocked, coming=missing)
    held = Decision(2, 2, (), None, Limit("unknown-data", "no figures"), 0.0, 0.0, (0.0, 0.0))
    assert counterfactual(found.state, metrics, held, found.now_s, 0.0).startswith(expected)


def test_look_ahead_finds_no_change_where_none_comes() -> None:
    found = world(0.5).run(50)
    view = look_ahead(found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s, "x")
    assert view.to is None


def test_a_far_horizon_costs_no_more_steps() -> None:
    found = world(0.05, ready=2, policies=[{"type": "threshold", "in_window_s": 86400.0}]).run(10)
    view = look_ahead(found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s, "x")
    assert view.to == 1
    assert view.after_s == pytest.approx(86390, rel=0.02)


def test_scenarios_show_all_busy_and_all_idle() -> None:
    found = world(0.5, ready=2).run(50)
    same, busy, idle = scenarios(found.state, metrics_of(found.state, found.now_s, found.tick().epoch_s), found.now_s)
    assert (same.to, busy.to, busy.after_s, idle.to, idle.after_s) == (None, 3, 5.0, 1, 30.0)


def unasked(load: float, **changes: Any) -> World:
    """Return a group whose CPUs are in use although nobody has asked for anything for a while."""
    found = world(lambda _t: load, **changes)
    idle = calm(0.0, request_rate=0.0, in_flight=0)
    found.traffic = lambda t: calm(load) if t < 5 else idle
    return found.run(40)


def test_without_requests_explain_says_that_cpu_use_alone_is_no_reason() -> None:
    found = unasked(0.05)
    assert last(found).counterfactual.startswith(
        "at or above 80 % for 5 s, and with requests that need it (cpu_without_requests), it scales out"
    )
    lines = found.ask("explain").reply.data["lines"]
    busy = next(line for line in lines if "100 % CPU" in line)
    assert busy.startswith("  with 100 % CPU from now on, and requests that need it: it scales out to 2 in 5 s")


def test_where_cpu_use_counts_without_requests_nothing_is_said_of_them() -> None:
    found = unasked(0.05, cpu_without_requests="count")
    assert last(found).counterfactual.startswith("at or above 80 % for 5 s it scales out")
    assert "requests that need it" not in found.ask("explain").reply.data["text"]


def test_cpu_use_of_domains_that_warm_up_is_not_taken_for_work_without_requests() -> None:
    found = unasked(0.05)
    metrics = metrics_of(found.state, found.now_s, found.tick().epoch_s)
    assert is_unasked(metrics, found.state)
    assert not is_unasked(replace(metrics, doubt="all of them warm up"), found.state)


@pytest.mark.parametrize("limiter", ["none", ""])
def test_an_outlook_that_nothing_limits_names_no_limiter(limiter: str) -> None:
    view = Outlook("if nothing changes", 0.0, None, 53.0, limiter)
    assert tell(view, 1, 0.0) == "if nothing changes: it keeps 1 for the next 53 s"
    assert tell(replace(view, limiter="floor"), 1, 0.0) == "if nothing changes: it keeps 1 for the next 53 s (floor)"


def test_scenarios_are_cheap() -> None:
    found = world(0.5, ready=2).run(50)
    metrics = metrics_of(found.state, found.now_s, found.tick().epoch_s)
    best_s = min(_cost_s(found, metrics) for _ in range(5))
    assert best_s < 0.025  # 5 ms on an idle machine; three scenarios


def _cost_s(found: World, metrics: Any) -> float:
    begin_s = time.process_time()
    scenarios(found.state, metrics, found.now_s)
    return time.process_time() - begin_s


def test_explain_answers_with_the_whole_story() -> None:
    found = world(lambda t: 0.9 if t < 6 else 0.8, ready=1).run(50)
    answer = found.ask("explain").reply
    assert answer.status == "applied"
    text = answer.data["text"]
    assert text.startswith("web: It keeps 2 domains: ")
    for part in ("threshold votes 2", "what would change it:", "if nothing changes:", "Last change, 45 s earlier"):
        assert part in text
    assert answer.data["record"]["tick"] == 50
    assert answer.data["last_change"]["action"] == "out"
    assert answer.data["outlooks"][0]["scenario"] == "if nothing changes"


def test_explain_names_the_policy_without_a_vote() -> None:
    found = world(0.05, ready=2)
    found.traffic = lambda t: None
    assert "queue no vote, so no scale-in" in found.run(40).ask("explain").reply.data["text"]


def test_explain_shows_traffic_figures() -> None:
    found = world(0.5)
    found.traffic = lambda t: calm(1.0, queue=2, error_rate=0.5, response_time_s=0.1)
    text = found.run(3).ask("explain").reply.data["text"]
    told = "response 200 ms now, 200 ms over two minutes, HAProxy's last ones 100 ms"
    assert f"queue 2, 4.0 in flight, {told}, 0.50 errors/s (2 % of requests now, 2 % over two minutes)" in text


def test_explain_leaves_out_means_that_do_not_count() -> None:
    found = world(0.5)
    found.traffic = lambda t: calm(1.0, response_time_s=0.02)
    assert "20.0 requests/s, queue 0, response 20 ms, 0.00 errors/s" in found.run(3).ask("explain").reply.data["text"]


def test_explain_before_the_first_tick_is_refused() -> None:
    assert world(0.5).ask("explain").reply.status == "refused"


def test_explain_before_the_first_membership_says_so() -> None:
    found = world(0.5)
    found.heard = list  # type: ignore[method-assign]
    assert "no membership" in found.run(2).ask("explain").reply.data["text"]


def test_explain_changes_nothing() -> None:
    found = world(0.5).run(5)
    before = found.state
    found.ask("explain")
    assert found.state is before


def test_the_page_reaches_its_reader_line_by_line() -> None:
    """What is one text in a reply loses its ends of lines at the bus's door."""
    found = World(lambda _t: 0.5, ready=2)
    found.run(20)
    lines = found.ask("explain").reply.data["lines"]
    assert len(lines) > 5 and not any("\n" in line for line in lines)
    assert lines[0].startswith("web: ")
