"""One group, event by event: limits, publishing, adoption, gaps, and that nothing depends on order or chance."""

import math
import random
import time
from dataclasses import replace
from typing import Any

import pytest

from common.messages import BackendState, DecisionRecord, DesiredCapacity, Drain, Failure, Vote
from services.decider.core.events import (
    DrainSeen,
    Emit,
    FailureSeen,
    PublishDesired,
    PublishRecord,
    Save,
    Tick,
    Wait,
)
from services.decider.core.evolve import evolve
from services.decider.core.group import handle, metrics_of
from services.decider.core.limits import Case, Limit, settle
from services.decider.core.state import Standing, begin
from tests.sim.decider_model import EPOCH_S, START_S, World, calm, settings

BUSY, IDLE, FAIR = 0.95, 0.05, 0.5


def world(load: float | Any, ready: int = 1, **changes: Any) -> World:
    """Return a group of ``ready`` domains, each with that much load where ``load`` is a number."""
    shape = load if callable(load) else lambda t: load * ready
    return World(shape, settings=settings(**changes), ready=ready)


def last(found: World) -> DecisionRecord:
    return found.state.history[-1]


def told(found: World) -> list[DesiredCapacity]:
    return [action.body for action in found.actions if isinstance(action, PublishDesired)]


# --- scale-out -----------------------------------------------------------------------------------------------------


def test_a_busy_window_scales_out_on_its_last_tick() -> None:
    found = world(BUSY).run(5)
    assert found.desired == [(1.0, 1), (5.0, 2)]
    record = last(found)
    assert (record.action, record.desired_before, record.desired_after, record.limiter) == ("out", 1, 2, "none")
    assert record.evidence.cpu_ratio == pytest.approx(BUSY)


def test_every_change_begins_the_windows_anew() -> None:
    out, inwards = world(BUSY).run(5), world(IDLE, ready=2).run(31)
    for found in (out, inwards):
        assert len(found.path()) == 2
        assert found.state.policy_states == begin(found.settings).policy_states
        assert found.state.leaning_in_since_s is None


def test_no_second_scale_out_before_the_first_one_serves_and_a_window_has_passed() -> None:
    found = world(3.0).run(40)
    assert found.desired == [(1.0, 1), (5.0, 2), (22.0, 3), (39.0, 4)]


def test_scale_out_stops_at_max() -> None:
    found = world(9.0, max=2).run(60)
    assert found.path() == [1, 2]
    assert last(found).limiter == "bounds"
    assert "max" in last(found).counterfactual


def test_scale_out_is_limited_to_the_step() -> None:
    policy = {"type": "target-tracking", "target_ratio": 0.1}
    found = world(1.0, max=9, max_step_out=3, policies=[policy]).run(3)
    assert found.path() == [1, 4]
    assert last(found).limiter == "step-limit"


def test_the_cooldown_holds_a_second_scale_out() -> None:
    found = World(lambda t: 9.0, settings=settings(cooldown_out_s=60.0), ready=1).run(60)
    assert found.path() == [1, 2]
    assert last(found).limiter == "cooldown"
    assert found.run(6).path() == [1, 2, 3]


def test_a_scale_out_during_the_scale_in_cooldown_is_allowed() -> None:
    found = world(lambda t: 0.1 if t < 31 else 3.0, ready=2, cooldown_in_s=300.0)
    found.state = begin(found.settings, Standing(desired=2, generation=1, cooldown_in_until_s=START_S + 3000))
    assert found.run(40).path() == [2, 3]


def test_the_largest_recommendation_wins() -> None:
    policies = [{"type": "threshold"}, {"type": "target-tracking", "target_ratio": 0.2}]
    found = world(BUSY, policies=policies, max=9).run(5)
    assert found.path()[:2] == [1, 5]


# --- scale-in ------------------------------------------------------------------------------------------------------


def test_an_idle_window_scales_in_one_at_a_time() -> None:
    found = world(IDLE, ready=3).run(100)
    assert found.desired == [(1.0, 3), (31.0, 2), (61.0, 1)]


def test_scale_in_stops_at_min() -> None:
    found = world(IDLE, ready=3, min=2).run(200)
    assert found.path() == [3, 2]
    assert last(found).limiter == "bounds"


def test_a_scale_in_that_would_scale_out_again_is_not_done() -> None:
    found = world(0.5, ready=2, policies=[{"type": "threshold", "low_ratio": 0.6}]).run(60)
    assert found.path() == [2]
    assert last(found).limiter == "projection"
    assert "38 %" in last(found).counterfactual  # 0.95 * 0.8 / 2
    assert world(0.37, ready=2, policies=[{"type": "threshold", "low_ratio": 0.6}]).run(60).path() == [2, 1]


def test_as_many_leave_as_the_projection_lets() -> None:
    policy = {"type": "threshold", "low_ratio": 0.5, "step_in": 4}
    found = world(0.45, ready=4, max_step_in=4, policies=[policy]).run(31)
    assert found.path() == [4, 3]
    assert last(found).limiter == "projection"


def test_the_last_domain_is_never_taken_by_a_policy() -> None:
    found = world(0.0, ready=1, min=0).run(60)
    assert found.path() == [1]
    assert last(found).limiter == "projection"


def test_one_unknown_domain_forbids_scale_in() -> None:
    found = world(IDLE, ready=3)
    found.missing = lambda t, name: name == "web-0002"
    found.run(120)
    assert found.path() == [3]
    assert last(found).limiter == "unknown-data"
    assert "web-0002" in last(found).limiter_text
    assert not told(found)[-1].is_scale_in_allowed


def test_stale_membership_forbids_scale_in() -> None:
    found = world(IDLE, ready=3).run(20)
    frozen = found.membership()
    found.membership = lambda: frozen  # type: ignore[method-assign]
    assert found.run(40).path() == [3]
    assert last(found).limiter == "stale-data"


def test_at_min_the_bound_is_named_before_any_cooldown() -> None:
    found = world(IDLE, policies=[{"type": "threshold", "in_window_s": 2.0}]).run(5)
    assert last(found).cooldown_in_left_s > 0
    assert last(found).limiter == "bounds"


def test_unknown_traffic_forbids_scale_in() -> None:
    found = world(IDLE, ready=3)
    found.traffic = lambda t: None
    assert found.run(120).path() == [3]
    assert last(found).limiter == "unknown-data"


@pytest.mark.parametrize("change", [{"queue": 3}, {"response_time_s": 1.0}, {"error_rate": 5.0}])
def test_no_scale_in_while_users_wait_longer_or_get_errors(change: dict[str, Any]) -> None:
    found = world(IDLE, ready=3, max=3)
    found.traffic = lambda t: calm(1.0, **(change if t >= 28 else {}))
    assert found.run(40).path() == [3]
    assert last(found).limiter in ("pressure", "bounds")


def test_a_queue_scales_out_though_cpu_is_low() -> None:
    found = world(IDLE, ready=1)
    found.traffic = lambda t: calm(1.0, queue=4)
    assert found.run(5).path() == [1, 2]


def test_too_many_sick_domains_halt_removal_and_replacement() -> None:
    found = world(IDLE, ready=4)
    found.missing = lambda t, name: t > 10 and name in ("web-0000", "web-0001")
    found.run(60)
    assert found.path() == [4]
    body = told(found)[-1]
    assert (body.is_scale_in_allowed, body.is_replacement_allowed) == (False, False)
    assert found.events() == ["scaling-halted"]
    found.missing = lambda t, name: False
    found.run(3)
    assert told(found)[-1].is_replacement_allowed
    assert found.run(25).events() == ["scaling-halted"]
    assert not told(found)[-1].is_scale_in_allowed
    assert "scaling-resumed" in found.run(5).events()
    assert told(found)[-1].is_scale_in_allowed


def sickly(found: World, *indices: int) -> None:
    """Let HAProxy's checks of these domains fail."""
    backends = tuple(
        BackendState(name=f"web-{i:04d}", uuid=f"uuid-{i}", slot="vm1", state="ready", is_healthy=False)
        for i in indices
    )
    body = Drain(group="web", endpoint="", is_proxy_alive=True, backends=backends)
    found.drain = lambda: DrainSeen(body, found.now_s, "balancer/1/drain.web/1")  # type: ignore[method-assign]


def test_domains_that_come_and_go_together_halt_once_and_resume_once() -> None:
    found = world(IDLE, ready=4).run(1)
    for _ in range(6):
        sickly(found, 0, 1, 2)
        found.run(3)
        sickly(found)
        found.run(20)
    assert found.path() == [4]
    found.run(120)
    assert [event for event in found.events() if "scaling" in event] == ["scaling-halted", "scaling-resumed"]
    assert found.path() == [4, 3, 2, 1]


def test_many_unhealthy_domains_are_replaced_as_the_actuator_sees_fit() -> None:
    found = world(IDLE, ready=4).run(1)
    sickly(found, 0, 1, 2, 3)
    body = told(found.run(10))[-1]
    assert (body.is_scale_in_allowed, body.is_replacement_allowed) == (False, True)


def test_a_halt_does_not_keep_a_group_from_growing() -> None:
    found = world(BUSY, ready=2)
    sickly(found, 0, 1)
    assert found.run(10).path() == [2, 3]
    assert found.state.is_halted


@pytest.mark.parametrize(("requests_per_s", "desired"), [(20.0, 4), (3.0, 3), (1.5, 1), (0.0, 1)])
def test_requests_that_nobody_is_there_to_serve_scale_out_to_as_many_as_come_a_second(
    requests_per_s: float, desired: int
) -> None:
    found = world(IDLE, ready=1, boot_timeout_s=10.0).run(1)
    found.traffic = lambda t: calm(0.0, request_rate=requests_per_s, error_rate=requests_per_s)
    found.boot_s = math.inf  # nothing that boots ever serves
    found.domains[0].is_dead = True
    assert found.run(120).path()[-1] == desired


def test_a_group_that_was_scaled_to_nothing_stays_there_whoever_asks() -> None:
    found = world(IDLE, ready=1, min=0).run(3)
    assert found.ask("scale", desired=0).reply.status == "applied"
    found.traffic = lambda t: calm(0.0, request_rate=20.0, error_rate=20.0)
    assert found.run(120).path() == [1, 0]


@pytest.mark.parametrize("sick", [(0, 1), (0, 1, 2)])
def test_no_scale_in_while_checks_of_many_domains_fail(sick: tuple[int, ...]) -> None:
    found = world(IDLE, ready=3)
    sickly(found, *sick)
    assert found.run(60).path() == [3]
    assert last(found).limiter == "unhealthy"


def test_the_only_domain_being_unhealthy_is_no_outage_but_forbids_scale_in() -> None:
    found = world(IDLE, ready=1, min=0)
    sickly(found, 0)
    assert last(found.run(60)).limiter == "unhealthy"
    assert told(found)[-1].is_replacement_allowed


def test_a_policy_without_a_vote_forbids_scale_in_though_the_others_agree() -> None:
    found = world(IDLE, ready=3).run(20)
    metrics = metrics_of(found.state, found.now_s)
    fewer = Vote(policy="threshold", capacity=2, reason="low", wanted=2)
    mute = Vote(policy="predictive", capacity=None, reason="no history yet")
    state = evolve(found.state, standing=replace(found.state.standing, cooldown_in_until_s=0.0))
    case = Case(state, metrics, (fewer, mute), 2, 60.0, found.now_s)
    assert settle(case) == (3, Limit("unknown-data", "predictive: no history yet"))
    assert settle(replace(case, votes=(fewer,)))[0] == 2
    more = Vote(policy="threshold", capacity=4, reason="high", wanted=4)
    assert settle(replace(case, votes=(more, mute), recommended=4))[0] == 4


def test_it_watches_its_longest_window_before_it_scales_in_too() -> None:
    policies = [{"type": "threshold", "out_window_s": 60.0, "in_window_s": 5.0}]
    found = world(IDLE, ready=2, policies=policies, cooldown_in_s=0.0)
    assert found.run(59).path() == [2]
    assert last(found).limiter == "observing"
    assert found.run(1).path() == [2, 1]


def test_it_watches_its_longest_out_window_before_it_scales_out() -> None:
    policies = [{"type": "threshold", "out_window_s": 2.0}, {"type": "target-tracking", "out_stabilization_s": 6.0}]
    found = world(BUSY, policies=policies).run(5)
    assert found.path() == [1]
    assert last(found).limiter == "observing"
    assert len(found.run(1).path()) == 2


def test_at_max_the_bound_is_named_before_any_cooldown() -> None:
    found = world(9.0, max=2, cooldown_out_s=300.0).run(60)
    assert last(found).cooldown_out_left_s > 0
    assert last(found).limiter == "bounds"


def test_after_a_scale_in_that_had_to_be_undone_it_waits_for_a_longer_calm() -> None:
    found = world(lambda t: 1.5 if 45 < t < 70 else 0.2, ready=2).run(60)
    assert found.desired == [(1.0, 2), (31.0, 1), (50.0, 2)]
    assert found.state.standing.patience_s == pytest.approx(1.5 * (30 + 19))
    found.run(110 - 60)
    assert last(found).limiter == "patience"
    assert "the last scale-in had to be undone" in last(found).limiter_text
    assert found.run(60).path() == [2, 1, 2, 1]


def test_a_scale_out_long_after_a_scale_in_teaches_nothing() -> None:
    found = world(lambda t: 1.5 if t > 335 else 0.2, ready=2).run(345)
    assert found.path() == [2, 1, 2]
    assert found.state.standing.patience_s == 0.0


def test_when_all_domains_are_down_nobody_is_removed() -> None:
    found = world(IDLE, ready=2).run(20)
    for domain in list(found.domains):
        failure = Failure(host="local", domain=domain.name, uuid=domain.uuid, reason="crashed")
        domain.is_dead = True
        found.pass_on(FailureSeen(failure, found.now_s, "monitor/1/failure/1"))
    found.run(8)
    assert found.path() == [2]
    assert last(found).limiter == "unknown-data"
    assert not told(found)[-1].is_scale_in_allowed


def test_the_former_scale_in_must_have_left_rotation() -> None:
    found = world(IDLE, ready=3, cooldown_in_s=0.0, policies=[{"type": "threshold", "in_window_s": 2.0}]).run(2)
    stuck = found.wanted = 3
    for _ in range(10):
        found.step()
        found.wanted = stuck
    assert found.path()[:2] == [3, 2]
    assert last(found).limiter == "settling"


# --- start, gap, restart ----------------------------------------------------------------------------------------------


def test_before_the_first_membership_nothing_is_said() -> None:
    state, actions = handle(begin(settings()), Tick(EPOCH_S), START_S)
    assert [type(action) for action in actions] == [PublishRecord, Wait]
    assert state.history[-1].limiter == "unknown-data"


def test_without_a_store_the_members_count() -> None:
    found = world(FAIR, ready=3).run(1)
    assert found.path() == [3]
    assert told(found)[0].generation == int(EPOCH_S) + 1
    assert last(found).cooldown_in_left_s == 30.0


def test_without_a_store_the_count_is_brought_into_the_bounds() -> None:
    assert world(FAIR, ready=6).run(1).path() == [4]
    assert world(FAIR, ready=1, min=2).run(1).path() == [2]


def test_without_a_store_what_the_actuator_was_told_last_counts_too() -> None:
    found = world(FAIR, ready=1)
    event = found.membership()
    body = event.membership.model_copy(update={"desired_seen": 3, "generation_seen": int(EPOCH_S) + 77})
    found.membership = lambda: replace(event, membership=body)  # type: ignore[method-assign]
    found.step()
    assert told(found)[0].desired == 3
    assert told(found)[0].generation == int(EPOCH_S) + 78


def test_without_a_store_a_host_that_is_not_reached_yet_is_waited_for() -> None:
    found = world(FAIR, ready=1)
    body = found.membership

    def half() -> Any:
        event = body()
        return replace(event, membership=event.membership.model_copy(update={"unreachable_hosts": ("far",)}))

    found.membership = half  # type: ignore[method-assign]
    assert found.run(28).path() == []
    assert found.run(2).path() == [1]
    found = world(FAIR, ready=1)
    found.membership = half  # type: ignore[method-assign]
    found.run(5).membership = body  # type: ignore[method-assign]
    assert found.run(1).path() == [1]


def test_the_generation_overtakes_what_the_actuator_has_seen() -> None:
    found = world(FAIR)
    found.state = begin(found.settings, Standing(desired=1, generation=5))
    found.generation = 9
    assert told(found.run(1))[0].generation == 10


def test_after_a_start_it_watches_a_whole_window_before_it_acts() -> None:
    policy = {"type": "target-tracking", "out_stabilization_s": 5.0}
    found = world(BUSY, policies=[policy])
    found.state = begin(found.settings, Standing(desired=1, generation=1))
    assert found.run(4).path() == [1]
    assert found.run(1).path() == [1, 2]


def test_after_a_gap_in_its_own_ticks_the_windows_begin_anew() -> None:
    found = world(BUSY).run(4)
    found.now_s += 60
    assert found.run(4).path() == [1]
    assert found.run(1).path() == [1, 2]


def test_a_short_delay_of_a_tick_is_no_gap() -> None:
    found = world(BUSY).run(3)
    found.now_s += 1.5
    assert found.run(1).path() == [1, 2]


def test_the_mean_of_an_old_sample_decides_nothing() -> None:
    found = world(BUSY).run(2)
    state = found.state
    for second in range(3, 60):
        state, _ = handle(state, Tick(EPOCH_S + second), START_S + second)
    assert state.standing.desired == 1
    assert state.history[-1].limiter == "stale-data"


# --- bounds, modes ----------------------------------------------------------------------------------------------------


def test_a_raised_min_is_met_at_once() -> None:
    found = world(FAIR, ready=1).run(3)
    found.state = evolve(found.state, standing=replace(found.state.standing, minimum=3))
    found.step()
    assert found.path() == [1, 3]
    assert last(found).limiter == "bounds"


def test_observe_decides_and_changes_nothing() -> None:
    found = world(3.0, ready=1, mode="observe").run(60)
    assert found.path() == [1]
    assert last(found).limiter == "mode"
    assert "would scale out to 2" in last(found).limiter_text
    body = told(found)[-1]
    assert (body.mode, body.is_scale_in_allowed, body.is_replacement_allowed) == ("observe", False, False)
    group = found.state.settings.group
    assert body.bounds_in_force == (group.minimum, group.maximum)
    assert found.started == 1


def test_observe_follows_the_members_that_there_are() -> None:
    found = world(FAIR, ready=1, mode="observe").run(3)
    found.add(found.now_s - 60)
    found.wanted = 2
    assert found.run(2).state.standing.desired == 2


def test_out_only_never_scales_in() -> None:
    found = world(lambda t: BUSY if t < 6 else IDLE, ready=1, mode="out-only").run(120)
    assert found.path() == [1, 2]
    assert last(found).limiter == "mode"


def test_off_and_paused_freeze() -> None:
    assert world(3.0, mode="off").run(60).path() == [1]
    found = world(3.0)
    found.ask("pause")
    assert found.run(60).path() == [1]
    assert last(found).limiter == "paused"
    assert told(found)[-1].is_replacement_allowed
    found.ask("resume")
    assert found.run(1).path() == [1]
    assert found.run(4).path() == [1, 2]


def test_a_capacity_frozen_outside_the_bounds_is_told_with_bounds_that_hold_it() -> None:
    found = world(FAIR, ready=4).run(2)
    found.ask("pause")
    found.ask("bounds", max=2)
    body = told(found.run(3))[-1]
    assert (body.minimum, body.desired, body.maximum) == (1, 4, 4)
    found = world(FAIR, ready=1).run(2)
    found.ask("pause")
    found.ask("bounds", min=3)
    body = told(found.run(3))[-1]
    assert (body.minimum, body.desired, body.maximum) == (1, 1, 4)


# --- what is said -------------------------------------------------------------------------------------------------


def test_desired_is_told_on_change_and_every_republish_s() -> None:
    found = world(FAIR)
    times = []
    for _ in range(7):
        before = len(told(found))
        found.step()
        times += [found.t] * (len(told(found)) - before)
    assert times == [1.0, 3.0, 5.0, 7.0]
    assert len({body.generation for body in told(found)}) == 1


def test_a_change_is_saved_before_it_is_told() -> None:
    found = world(BUSY).run(4)
    before = len(found.actions)
    found.step()
    kinds = [type(action) for action in found.actions[before:]]
    assert kinds == [Save, PublishDesired, PublishRecord, Emit, Wait]


def test_every_tick_leaves_a_record_with_a_stable_unique_name() -> None:
    found = world(FAIR).run(5)
    names = [record["decision_id"] for record in found.records()]
    assert names == [f"decider/7f/web/{tick}" for tick in range(1, 6)]


def test_a_decision_names_the_sample_that_led_to_it() -> None:
    found = world(BUSY).run(5)
    cause = [action.cause for action in found.actions if isinstance(action, PublishDesired)][-1]
    assert cause == "monitor/1/sample.local/5"
    assert told(found)[-1].decision_id == last(found).decision_id


def test_a_record_lists_what_it_took_in() -> None:
    found = world(FAIR).run(2)
    assert [taken.id for taken in last(found).taken] == [
        "actuator/1/membership.web/2",
        "monitor/1/sample.local/2",
        "balancer/1/drain.web/2",
        "balancer/1/traffic.web/2",
    ]
    found.ask("pause")
    found.step()
    assert [order.verb for order in last(found).ordered] == ["pause"]
    assert found.run(1).state.history[-1].ordered == ()


def test_the_first_record_after_a_restart_says_what_it_began_with() -> None:
    found = world(FAIR).run(2)
    assert last(found).resumed_from == ""
    found.restart()
    assert '"desired": 1' in found.run(1).state.history[-1].resumed_from
    assert found.run(1).state.history[-1].resumed_from == ""


def test_the_same_events_give_the_same_bytes() -> None:
    def life() -> list[str]:
        found = World(lambda t: 2.0 if 40 < t < 300 else 0.2, loss=0.2, chaos=True, seed=7).run(600)
        return [action.body.model_dump_json() for action in found.actions if isinstance(action, PublishRecord)]

    assert life() == life()


def test_the_order_of_observation_does_not_matter() -> None:
    def life(seed: int) -> list[tuple[float, int]]:
        found = World(lambda t: 2.0 if 40 < t < 300 else 0.2)
        heard, dice = found.heard, random.Random(seed)

        def shuffled() -> list[Any]:
            events = heard()
            dice.shuffle(events)
            return events

        found.heard = shuffled  # type: ignore[method-assign]
        return found.run(400).desired

    assert life(1) == life(2) == life(3)


def test_a_field_that_does_not_exist_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="no field \\['typo'\\]"):
        evolve(begin(settings()), typo=1)


def test_a_thousand_groups_are_decided_within_a_second() -> None:
    found = world(FAIR, ready=4).run(60)
    costs_s = []
    for _ in range(1000):
        begin_s = time.process_time()
        handle(found.state, Tick(EPOCH_S), found.now_s + 1.0)
        costs_s.append(time.process_time() - begin_s)
    assert sum(costs_s) < 1.0
    assert sorted(costs_s)[990] < 0.010
