"""From samples, membership and traffic to the metrics of a group: unknown stays unknown."""

import math
from typing import Any

import pytest

from common.messages import BackendState, Drain, Failure, HostSample, Member, Membership, Traffic
from common.phases import Phase
from services.decider.core import seen as seen_of
from services.decider.core.metrics import GroupMetrics, aggregate
from services.decider.core.seen import Seen, read_sample
from services.decider.core.trend import rising

NOW_S = 500.0


def member(index: int, phase: Phase = Phase.READY, host: str = "local") -> Member:
    return Member(
        name=f"web-{index:04d}", uuid=f"u{index}", host=host, phase=phase, since_s=0, age_s=0, address=None, port=80
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


def test_domains_of_an_unreachable_host_are_unknown() -> None:
    near, far = sample(0.5), sample(0.5, host="far", first=1, is_reachable=False)
    found = metrics(seen(near, far, members=(member(0), member(1, host="far"))))
    assert found.unknown == ("web-0001",)


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
def test_more_than_45_percent_sick_and_at_least_two_halt(ready: int, sick: tuple[int, ...], is_halted: bool) -> None:
    found = seen(sample(*[0.5] * ready), members=tuple(member(i) for i in range(ready)))
    assert metrics(seen_of.with_drain(found, unhealthy(*sick), NOW_S)).is_halted is is_halted


def test_a_domain_that_is_missing_and_unhealthy_is_sick_once() -> None:
    found = seen(sample(None, 0.5, 0.5), members=(member(0), member(1), member(2)))
    assert metrics(seen_of.with_drain(found, unhealthy(0), NOW_S)).sick == 1


@pytest.mark.parametrize(("age_s", "sick"), [(0.0, 0), (3.0, 0), (4.0, 2)])
def test_a_domain_just_taken_into_rotation_is_not_sick_for_lack_of_a_first_figure(age_s: float, sick: int) -> None:
    fresh = tuple(member(index).model_copy(update={"age_s": age_s}) for index in range(2))
    assert metrics(seen(sample(None, None), members=fresh)).sick == sick


def test_the_cause_is_the_newest_sample_else_the_membership() -> None:
    assert metrics(seen(members=(member(0),))).cause == "actuator/1/membership.web/1"
    assert metrics(seen(sample(0.5), members=(member(0),))).cause == "monitor/1/sample/0"


def after(steady: Traffic, then: Traffic, seconds: int = 5) -> tuple[str, ...]:
    found = Seen()
    for second in range(60):
        found = seen_of.with_traffic(found, steady, NOW_S + second)
    for second in range(seconds):
        found = seen_of.with_traffic(found, then, NOW_S + 60 + second)
    return rising(found.trend)


def test_rising_response_time_and_errors_are_told() -> None:
    assert after(traffic(), traffic(response_time_s=0.2)) == ("response time",)
    assert after(traffic(), traffic(error_rate=2.0)) == ("errors",)


def test_steady_falling_or_unknown_figures_do_not_rise() -> None:
    assert after(traffic(), traffic()) == ()
    assert after(traffic(response_time_s=0.2), traffic()) == ()
    assert after(traffic(), traffic(is_known=False, response_time_s=9.0)) == ()
    assert after(traffic(response_time_s=None), traffic(response_time_s=None)) == ()
    assert rising(None) == ()


def test_a_higher_level_that_lasts_is_no_rise_any_more() -> None:
    assert after(traffic(), traffic(response_time_s=0.2), seconds=240) == ()
