"""From samples, membership and traffic to the metrics of a group: unknown stays unknown."""

import math
from typing import Any

import pytest

from common.messages import BackendState, Drain, Failure, HostSample, Member, Membership, Traffic
from common.phases import Phase
from services.decider.core import seen as seen_of
from services.decider.core.evolve import evolve
from services.decider.core.lack import Lack
from services.decider.core.metrics import GroupMetrics, aggregate, capacity, evidence
from services.decider.core.policies.measure import CPU, QUEUE, measure
from services.decider.core.pressure import pressure
from services.decider.core.seen import Seen, read_sample
from services.decider.core.trend import FAST_S, SLOW_S, Trend, follow

NOW_S = 500.0


def member(index: int, phase: Phase = Phase.READY, host: str = "local") -> Member:
    return Member(
        name=f"web-{index:04d}", uuid=f"u{index}", host=host, phase=phase, since_s=0, age_s=60, address=None, port=80
    )


def sample(*ratios: float | None, host: str = "local", first: int = 0, **changes: Any) -> HostSample:
    names = tuple(f"web-{first + number:04d}" for number in range(len(ratios)))
    values: dict[str, Any] = {
        "host": host,
        "interval_s": 1.0,
        "is_reachable": True,
        "names": names,
        "uuids": tuple(f"u{first + number}" for number in range(len(ratios))),
        "states": ("running",) * len(ratios),
        "cpu_ratios": ratios,
        "allotted_cpus": (1.0,) * len(ratios),
    }
    return HostSample.model_construct(**(values | changes))


def membership(*members: Member, **changes: Any) -> Membership:
    values: dict[str, Any] = {"generation_seen": 0, "desired_seen": None, "owned_total": 0, "ceiling": 9}
    return Membership(group="web", members=members, **(values | changes))


def traffic(**changes: Any) -> Traffic:
    values: dict[str, Any] = {"is_known": True, "queue": 0, "response_time_s": 0.02, "error_rate": 0.0}
    return Traffic(group="web", interval_s=1.0, **(values | changes))


def seen(*samples: HostSample, members: tuple[Member, ...], age_s: float = 0.0, with_traffic: bool = True) -> Seen:
    found = seen_of.with_membership(Seen(), membership(*members), NOW_S, "actuator/1/membership.web/1", 3.5)
    for number, body in enumerate(samples):
        found = seen_of.with_reading(found, read_sample(body, NOW_S - age_s, f"monitor/1/sample/{number}"))
    return seen_of.with_traffic(found, traffic(), NOW_S) if with_traffic else found


def metrics(found: Seen, desired: int = 2, now_s: float = NOW_S) -> GroupMetrics:
    return aggregate(found, desired, now_s, interval_s=1.0, stale_after_s=3.5, standing_stale_after_s=7.5)


def test_the_mean_is_over_ready_domains() -> None:
    found = metrics(seen(sample(0.2, 0.6, 1.0), members=(member(0), member(1), member(2, Phase.BOOTING))))
    assert (found.mean, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    assert (found.ready, found.coming, found.known, found.unknown) == (2, 1, 2, ())
    assert found.is_complete


def test_a_missing_domain_counts_as_busy_for_in_and_idle_for_out() -> None:
    found = metrics(seen(sample(0.4), members=(member(0), member(1))))
    assert (found.low, found.mean, found.high) == pytest.approx((0.2, 0.4, 0.7))
    assert found.unknown == ("web-0001",)
    assert "1 of 2 ready domains (web-0001)" in found.ignorance


@pytest.mark.parametrize("ratio", [None, math.nan, math.inf, -0.1])
def test_an_impossible_ratio_is_unknown(ratio: float | None) -> None:
    found = metrics(seen(sample(ratio), members=(member(0),)))
    assert found.known == 0
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_ratio_above_one_counts_as_one() -> None:
    assert metrics(seen(sample(1.07), members=(member(0),))).mean == 1.0


def test_a_domain_that_does_not_run_is_unknown() -> None:
    found = metrics(seen(sample(0.1, states=("paused",)), members=(member(0),)))
    assert found.unknown == ("web-0000",)


def test_a_stale_sample_is_unknown() -> None:
    assert metrics(seen(sample(0.1), members=(member(0),), age_s=3.4)).known == 1
    assert metrics(seen(sample(0.1), members=(member(0),), age_s=3.6)).known == 0


def test_a_sample_of_another_domain_of_the_same_name_is_unknown() -> None:
    assert metrics(seen(sample(0.1, uuids=("other",)), members=(member(0),))).known == 0


@pytest.mark.parametrize("told_by", ["monitor", "actuator", "both"])
def test_domains_of_a_lost_host_neither_vote_nor_count(told_by: str) -> None:
    far = [] if told_by == "actuator" else [sample(0.5, host="far", first=1, is_reachable=False)]
    found = seen(sample(0.5), *far, members=(member(0), member(1, host="far"), member(2, Phase.BOOTING, "far")))
    if told_by != "monitor":
        body = found.membership
        assert body is not None
        found = evolve(found, membership=body.model_copy(update={"unreachable_hosts": ("far",)}))
    shown = metrics(found, desired=3)
    assert (shown.ready, shown.known, shown.unknown, shown.held, shown.coming, shown.sick) == (1, 1, (), 2, 0, 0)
    assert (shown.low, shown.high) == (0.5, 0.5)
    assert shown.is_complete


def test_domains_of_a_host_that_only_the_actuator_has_lost_count_while_their_figures_are_known() -> None:
    found = seen(sample(0.2), sample(0.6, host="far", first=1), members=(member(0), member(1, host="far")))
    body = found.membership
    assert body is not None
    found = evolve(found, membership=body.model_copy(update={"unreachable_hosts": ("far",)}))
    assert (metrics(found).ready, metrics(found).held, metrics(found).mean) == (2, 0, pytest.approx(0.4))


def test_a_host_of_which_nothing_is_said_any_more_is_not_lost_but_unknown() -> None:
    found = seen(sample(0.5), members=(member(0), member(1, host="far")))
    assert (metrics(found).unknown, metrics(found).held) == (("web-0001",), 0)


def test_what_a_lost_host_lacks_is_coming_once_others_take_its_place() -> None:
    far = sample(0.5, host="far", first=1, is_reachable=False)
    found = seen(sample(0.5), far, members=(member(0), member(1, host="far"), member(2, Phase.BOOTING)))
    assert (metrics(found).coming, metrics(found, desired=4).coming) == (1, 2)


def test_a_suspended_domain_is_neither_ready_nor_coming_and_keeps_its_place() -> None:
    found = seen(sample(0.5), members=(member(0), member(1, Phase.SUSPENDED)))
    assert (metrics(found).ready, metrics(found).coming, metrics(found).held, metrics(found).surplus) == (1, 0, 1, 0)
    assert metrics(found).is_complete
    assert capacity(found) == 2


def test_with_every_host_lost_nothing_is_complete() -> None:
    found = seen(sample(0.5, is_reachable=False), members=(member(0),))
    assert metrics(found).ignorance == "no figures of the 1 ready domain: host local does not answer"


def test_who_is_ready_on_a_host_that_does_not_answer_is_told_as_ready_without_figures() -> None:
    hosts = [sample(is_reachable=False), sample(host="far", is_reachable=False)]
    found = metrics(seen(*hosts, members=(member(0), member(1), member(2, host="far"))))
    assert found.ignorance == "no figures of the 3 ready domains: hosts far, local do not answer"
    assert [measure(metric, found).ignorance for metric in (CPU, QUEUE)] == [found.ignorance] * 2
    told = evidence(found, 0.0, 0.0)
    assert (found.ready, told.domains_ready, told.domains_known, told.cpu_ratio) == (0, 3, 0, None)


def test_of_a_group_that_is_measured_in_part_all_that_are_ready_are_told() -> None:
    hosts = [sample(0.5), sample(host="far", is_reachable=False)]
    found = metrics(seen(*hosts, members=(member(0), member(1, host="far"), member(2, Phase.BOOTING, "far"))))
    assert found.is_complete
    assert found.ready_text == "1 of 2 ready"
    told = evidence(found, 0.0, 0.0)
    assert (told.domains_ready, told.domains_known, told.cpu_ratio) == (2, 1, 0.5)


def test_where_nobody_is_ready_no_host_is_to_blame() -> None:
    suspended, failed = member(0, Phase.SUSPENDED), member(1)
    found = seen(sample(is_reachable=False), members=(suspended, failed))
    found = seen_of.with_failure(found, Failure(host="local", domain=failed.name, uuid=failed.uuid, reason="x"), NOW_S)
    assert metrics(found).ignorance == "no domain is ready"
    assert evidence(metrics(found), 0.0, 0.0).domains_ready == 0


def test_several_hosts_add_up() -> None:
    found = metrics(seen(sample(0.2), sample(0.6, host="far", first=1), members=(member(0), member(1, host="far"))))
    assert found.mean == pytest.approx(0.4)


def test_stale_membership_is_ignorance() -> None:
    found = seen(members=(member(0),))
    found = seen_of.with_reading(found, read_sample(sample(0.5), NOW_S + 7.6, "m"))
    assert metrics(found, now_s=NOW_S + 7.6).ignorance == "no fresh membership from the actuator"


def test_unknown_traffic_is_ignorance() -> None:
    found = seen(sample(0.1), members=(member(0),), with_traffic=False)
    assert metrics(found).ignorance == "no fresh traffic figures from the balancer"
    assert not metrics(seen_of.with_traffic(found, traffic(is_known=False), NOW_S)).is_traffic_known
    dead = Drain(group="web", endpoint="", is_proxy_alive=False, backends=())
    known = seen_of.with_traffic(found, traffic(), NOW_S)
    assert metrics(known).is_traffic_known
    assert not metrics(seen_of.with_drain(known, dead, NOW_S)).is_traffic_known


def test_what_lacks_to_the_desired_capacity_is_coming() -> None:
    assert metrics(seen(sample(0.5), members=(member(0),)), desired=3).coming == 2


@pytest.mark.parametrize(("is_waiting", "expected"), [(False, "no room"), (True, "")])
def test_waiting_for_a_turn_is_no_obstacle(is_waiting: bool, expected: str) -> None:
    found = seen(sample(0.5), members=(member(0),))
    told = membership(member(0), blocked="no room", is_waiting=is_waiting)
    assert metrics(evolve(found, membership=told)).blocked == expected


def test_a_draining_domain_is_neither_ready_nor_capacity() -> None:
    found = metrics(seen(sample(0.5, 0.5), members=(member(0), member(1, Phase.DRAINING))), desired=1)
    assert (found.ready, found.surplus) == (1, 0)


def test_older_messages_change_nothing() -> None:
    found = seen(sample(0.9), members=(member(0),))
    late = seen_of.with_reading(found, read_sample(sample(0.1), NOW_S - 2, "late"))
    late = seen_of.with_membership(late, membership(), NOW_S - 2, "late", 3.5)
    late = seen_of.with_traffic(late, traffic(queue=9), NOW_S - 2)
    late = seen_of.with_drain(seen_of.with_drain(late, unhealthy(), NOW_S), unhealthy(0), NOW_S - 1)
    assert metrics(late) == metrics(found)


def unhealthy(*indices: int) -> Drain:
    backends = tuple(
        BackendState(name=f"web-{i:04d}", uuid=f"u{i}", slot="vm1", state="ready", is_healthy=False) for i in indices
    )
    return Drain(group="web", endpoint="", is_proxy_alive=True, backends=backends)


def test_a_failed_domain_is_not_ready_before_membership_says_so() -> None:
    found = seen(sample(0.2, 0.4), members=(member(0), member(1)))
    failure = Failure(host="local", domain="web-0001", uuid="u1", reason="crashed")
    failed = seen_of.with_failure(found, failure, NOW_S)
    assert metrics(failed).ready == 1
    assert metrics(failed).coming == 1
    shown = membership(member(0), member(1, Phase.FAILED))
    assert seen_of.with_membership(failed, shown, NOW_S + 1, "m", 3.5).failed == {}


def test_a_failure_that_membership_outlives_is_forgotten() -> None:
    found = seen(sample(0.2), members=(member(0),))
    failed = seen_of.with_failure(found, Failure(host="local", domain="web-0000", uuid="u0", reason="paused"), NOW_S)
    soon = seen_of.with_membership(failed, membership(member(0)), NOW_S + 1, "m", 3.5)
    later = seen_of.with_membership(failed, membership(member(0)), NOW_S + 4, "m", 3.5)
    assert (metrics(soon).ready, metrics(later).ready) == (0, 1)


def test_domains_that_stand_by_are_no_capacity_and_do_not_fail_when_they_are_paused() -> None:
    found = seen(sample(0.2, 0.2, None), members=(member(0), member(1), member(2, Phase.STANDBY)))
    assert (metrics(found).ready, metrics(found).coming, metrics(found).sick, metrics(found).unknown) == (2, 0, 0, ())
    failure = Failure(host="local", domain="web-0002", uuid="u2", reason="paused")
    assert seen_of.with_failure(found, failure, NOW_S) is found


def test_running_reserve_is_no_surplus_of_the_last_scale_in() -> None:
    extra = member(2).model_copy(update={"tier": "running"})
    assert metrics(seen(sample(0.2, 0.2, 0.2), members=(member(0), member(1), extra))).surplus == 0
    assert metrics(seen(sample(0.2, 0.2, 0.2), members=(member(0), member(1), member(2)))).surplus == 1


def test_the_failure_of_a_stranger_changes_nothing() -> None:
    found = seen(sample(0.2), members=(member(0),))
    failure = Failure(host="local", domain="web-0009", uuid="u9", reason="crashed")
    assert seen_of.with_failure(found, failure, NOW_S) is found


@pytest.mark.parametrize(
    ("ready", "sick", "is_halted"),
    [(1, (0,), False), (2, (0,), False), (2, (0, 1), True), (5, (0, 1), False), (4, (0, 1), True)],
)
def test_more_than_45_percent_sick_and_at_least_two_are_an_outage(
    ready: int, sick: tuple[int, ...], is_halted: bool
) -> None:
    members = tuple(member(i) for i in range(ready))
    shown = metrics(seen_of.with_drain(seen(sample(*[0.5] * ready), members=members), unhealthy(*sick), NOW_S))
    blind = metrics(seen(sample(*[None if i in sick else 0.5 for i in range(ready)]), members=members))
    assert (shown.is_halting, shown.is_blind) == (is_halted, False)
    is_told = len(sick) < ready  # without a figure of anybody it is the monitor that is missing
    assert (blind.is_halting, blind.is_blind) == (is_halted and is_told, is_halted)


def test_a_domain_that_is_missing_and_unhealthy_is_sick_once() -> None:
    found = seen(sample(None, 0.5, 0.5), members=(member(0), member(1), member(2)))
    assert metrics(seen_of.with_drain(found, unhealthy(0), NOW_S)).sick == 1


def test_without_a_figure_of_anybody_nobody_is_sick() -> None:
    """A monitor that has just started shows who runs, and has no rate of anybody yet."""
    members = tuple(member(index) for index in range(4))
    started = metrics(seen(sample(None, None, None, None), members=members), desired=4)
    assert (started.sick, len(started.unknown), started.is_halting, started.is_blind) == (0, 4, False, True)
    assert started.ignorance and not started.is_complete
    silent = metrics(seen(members=members), desired=4)
    assert (silent.sick, silent.is_halting, silent.is_complete) == (0, False, False)


@pytest.mark.parametrize(("age_s", "sick"), [(0.0, 0), (3.0, 0), (4.0, 2)])
def test_a_domain_just_taken_into_rotation_is_not_sick_for_lack_of_a_first_figure(age_s: float, sick: int) -> None:
    fresh = tuple(member(index).model_copy(update={"age_s": age_s}) for index in range(2))
    assert metrics(seen(sample(None, None, 0.5), members=(*fresh, member(2)))).sick == sick


def test_a_domain_just_taken_into_rotation_is_idle_for_out_and_left_out_for_in_until_it_has_a_figure() -> None:
    fresh = member(1).model_copy(update={"age_s": 1.0})
    found = metrics(seen(sample(0.4), members=(member(0), fresh)))
    assert (found.low, found.high, found.new, found.unknown) == (0.2, 0.4, ("web-0001",), ())
    assert found.is_complete
    alone = metrics(seen(sample(None), members=(member(0).model_copy(update={"age_s": 1.0}),)), desired=1)
    assert (alone.high, alone.ignorance) == (1.0, "no CPU figure yet of the domains that have only just come")


def test_the_cause_is_the_newest_sample_else_the_membership() -> None:
    assert metrics(seen(members=(member(0),))).cause == "actuator/1/membership.web/1"
    assert metrics(seen(sample(0.5), members=(member(0),))).cause == "monitor/1/sample/0"


# --- what is missing --------------------------------------------------------------------------------------------------


def lacking(before: Lack, boot_p95_s: float | None = 10.0) -> tuple[int, int]:
    body = membership(member(0), boot_p95_s=boot_p95_s)
    found = seen_of.with_membership(Seen(), body, NOW_S, "m", 3.5)
    shown = aggregate(
        found, 3, NOW_S, interval_s=1.0, stale_after_s=3.5, standing_stale_after_s=7.5, before=before, boot_timeout_s=90
    )
    return shown.coming, shown.overdue


def test_what_is_missing_is_coming_as_long_as_it_can_be_expected_and_then_overdue() -> None:
    assert lacking(Lack(3, NOW_S - 14.9)) == (2, 0)
    assert lacking(Lack(3, NOW_S - 15.0)) == (0, 2)
    assert lacking(Lack(3, NOW_S - 89.0), boot_p95_s=None) == (2, 0)
    assert lacking(Lack(3, NOW_S - 90.0), boot_p95_s=None) == (0, 2)


def test_what_was_only_just_decided_is_expected_anew() -> None:
    assert lacking(Lack(2, NOW_S - 3600.0)) == (2, 0)


# --- what users feel --------------------------------------------------------------------------------------------------


def busy(response_s: float, rate: float = 50.0, **changes: Any) -> Traffic:
    """Return traffic in which as many requests are in flight as Little's law says."""
    return traffic(request_rate=rate, in_flight=round(rate * response_s), response_time_s=response_s, **changes)


def idle(**changes: Any) -> Traffic:
    """Return what HAProxy tells where nobody asks."""
    return traffic(request_rate=0.0, in_flight=0, response_time_s=None, **changes)


def felt(trend: Trend | None, ready: int = 2) -> tuple[str, ...]:
    assert trend is not None
    return pressure(trend.means(FAST_S), trend.means(SLOW_S), ready)


def after(steady: Traffic, then: Traffic, seconds: int = 5, ready: int = 2) -> tuple[str, ...]:
    trend = None
    for second in range(60):
        trend = follow(trend, steady, NOW_S + second)
    for second in range(seconds):
        trend = follow(trend, then, NOW_S + 60 + second)
    return felt(trend, ready)


def test_rising_response_time_and_errors_are_told_with_the_figures() -> None:
    assert after(busy(0.1), busy(0.4)) == (
        "response time rises: 288 ms now, 123 ms over two minutes, with 14.4 requests in flight",
    )
    assert after(busy(0.1), busy(0.1, error_rate=5.0)) == ("errors rise: 6 % of requests now, 1 % over two minutes",)
    assert after(busy(0.1), busy(0.1, error_rate=25.0), 20) == ("50 % of the requests fail",)


def test_steady_falling_or_unknown_figures_do_not_rise() -> None:
    assert after(busy(0.1), busy(0.1)) == ()
    assert after(busy(0.4), busy(0.1)) == ()
    assert after(busy(0.1), busy(0.4, is_known=False)) == ()
    assert after(idle(), idle()) == ()


def test_a_higher_level_that_lasts_is_no_rise_any_more() -> None:
    assert after(busy(0.1), busy(0.4), seconds=240) == ()


def test_many_failures_that_last_are_pressure_for_as_long_as_they_last() -> None:
    assert after(idle(), traffic(request_rate=20.0, error_rate=20.0, in_flight=0), seconds=600) == (
        "100 % of the requests fail",
    )


@pytest.mark.parametrize(
    "then",
    [
        idle(),
        traffic(request_rate=2.0, in_flight=0, response_time_s=4.0),  # HAProxy's mean is history
        traffic(request_rate=0.1, in_flight=1, response_time_s=4.0),  # one slow client
        traffic(request_rate=0.0, in_flight=40, response_time_s=None),  # connections without requests
    ],
    ids=["none", "trickle", "slow-client", "idle-connections"],
)
@pytest.mark.parametrize("before", [busy(3.0), busy(3.0, error_rate=50.0)], ids=["slow", "errors"])
def test_when_requests_end_all_pressure_ends_within_seconds(before: Traffic, then: Traffic) -> None:
    trend = None
    for second, figures in enumerate([busy(0.1)] * 60 + [before] * 20):
        trend = follow(trend, figures, NOW_S + second)
    assert felt(trend) != ()
    for second in range(int(FAST_S)):
        trend = follow(trend, then, NOW_S + 80 + second)
    assert felt(trend) == ()


def test_a_response_time_does_not_count_while_no_request_waits_for_another() -> None:
    assert after(busy(0.1, rate=10.0), busy(0.4, rate=10.0), seconds=20, ready=4) == ()
    assert after(busy(0.1, rate=10.0), busy(0.4, rate=10.0), seconds=20, ready=2) != ()


def test_pressure_of_figures_that_have_stopped_is_unknown() -> None:
    found = seen(sample(0.1), members=(member(0),), with_traffic=False)
    for second in range(60):
        found = seen_of.with_traffic(found, busy(0.1 if second < 50 else 0.9), NOW_S + second)
    assert metrics(found, now_s=NOW_S + 60).pressure != ()
    for second in range(60, 70):
        found = seen_of.with_traffic(found, traffic(request_rate=None), NOW_S + second)
    assert metrics(found, now_s=NOW_S + 69).is_traffic_known
    assert metrics(found, now_s=NOW_S + 69).pressure == ()


def test_requests_that_nobody_healthy_serves_are_seen_unless_they_are_fewer_than_the_domains() -> None:
    found = seen(sample(0.9), members=(member(0),))
    ill = seen_of.with_drain(found, unhealthy(0), NOW_S)
    for rate, is_deserted in ((20.0, True), (0.5, False), (0.0, False)):
        told = seen_of.with_traffic(evolve(ill, trend=None), traffic(request_rate=rate, in_flight=0), NOW_S)
        assert metrics(told, desired=1).is_deserted is is_deserted
    told = seen_of.with_traffic(found, traffic(request_rate=20.0, in_flight=0), NOW_S)
    assert not metrics(told, desired=1).is_deserted
    assert not metrics(evolve(ill, trend=told.trend), desired=0).is_deserted


def test_requests_are_not_taken_for_unserved_while_the_actuator_says_nothing() -> None:
    started = seen_of.with_traffic(seen(members=()), traffic(request_rate=20.0, in_flight=0), NOW_S)
    assert metrics(evolve(started, membership=None), desired=1).ignorance == "no fresh membership from the actuator"
    assert not metrics(evolve(started, membership=None), desired=1).is_deserted
    assert metrics(started, desired=1).is_deserted


def test_whoever_answers_most_requests_is_somebody_though_nobody_is_seen() -> None:
    for answers, is_deserted in ((19.0, False), (1.0, True), (None, True)):
        found = seen(members=(), with_traffic=False)
        told = traffic(request_rate=20.0, in_flight=0, answer_rate=answers)
        assert metrics(seen_of.with_traffic(found, told, NOW_S), desired=2).is_deserted is is_deserted


def test_a_domain_that_serves_on_a_lost_host_is_somebody() -> None:
    found = seen(sample(0.9, is_reachable=False), members=(member(0),), with_traffic=False)
    found = seen_of.with_traffic(found, traffic(request_rate=20.0, in_flight=0), NOW_S)
    assert metrics(found, desired=1).is_deserted
    well = BackendState(name="web-0000", uuid="u0", slot="vm1", state="ready", is_healthy=True)
    body = Drain(group="web", endpoint="", is_proxy_alive=True, backends=(well,))
    assert not metrics(seen_of.with_drain(found, body, NOW_S), desired=1).is_deserted
