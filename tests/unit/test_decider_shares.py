"""What CPU use means on a full host, how many requests are in flight, and who is still warming up: the parts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Claim, HostSample, Member, Membership, Traffic, Vote
from common.phases import Phase
from services.decider.core import shares, warm_up
from services.decider.core.evolve import evolve
from services.decider.core.seen import Reading, Seen, read_sample, with_membership, with_reading, with_traffic
from services.decider.core.state import GroupState, begin
from services.decider.core.witness import doubted, hushed, in_flight, used_cpus
from tests.sim.decider_model import settings
from tests.unit.policy_ticks import ballots, metrics

NOW_S = 1000.0


def sample(used: list[float], allotted: float = 1.0, host: str = "local", **changes: Any) -> HostSample:
    names = tuple(f"web-{number:04d}" for number in range(len(used)))
    values: dict[str, Any] = {
        "host": host,
        "interval_s": 1.0,
        "is_reachable": True,
        "names": names,
        "uuids": names,
        "states": ("running",) * len(used),
        "cpu_ratios": tuple(cpus / allotted for cpus in used),
        "allotted_cpus": (allotted,) * len(used),
        "host_cpus": 2,
        "host_idle_cpus": 0.0,
    }
    return HostSample.model_validate(values | changes)


def reading(used: list[float], allotted: float = 1.0, at_s: float = NOW_S, **changes: Any) -> Reading:
    return read_sample(sample(used, allotted, **changes), at_s, "id")


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "allotted", "changes", "share"),
    [
        ([0.25] * 8, 1.0, {}, 0.25),  # two CPUs for eight
        ([0.25] * 8, 1.0, {"host_idle_cpus": 0.09}, 2.09 / 8),
        ([0.25] * 8, 1.0, {"host_idle_cpus": 0.1}, None),  # 5 % of two CPUs are idle: who wanted more would have it
        ([0.4] * 4, 0.4, {}, None),  # all that is allotted can be had
        ([0.125] * 8, 1.0, {}, 0.125),  # a stranger has the other CPU
        ([0.02] * 8, 1.0, {}, 0.125),  # … and this group is idle, not starved
        ([0.25] * 8, 1.0, {"host_idle_cpus": None}, None),
        ([0.25] * 8, 1.0, {"host_cpus": None}, None),
        ([], 1.0, {}, None),
    ],
)
def test_the_fair_share_of_a_host(
    used: list[float], allotted: float, changes: dict[str, Any], share: float | None
) -> None:
    assert reading(used, allotted, **changes).fair_share == pytest.approx(share)


def test_use_on_a_full_host_is_a_share_of_what_there_is() -> None:
    found = reading([0.25] * 7 + [0.1])
    assert shares.ratio(found, "web-0000", 0.25) == 1.0  # the mean of what there is, and a little more
    assert shares.ratio(found, "web-0007", 0.1) == pytest.approx(0.1 / (1.85 / 8))
    assert shares.ratio(found, "stranger", 0.3) == 0.3
    assert shares.ratio(reading([0.25] * 8, host_idle_cpus=1.0), "web-0000", 0.25) == 0.25


def test_a_burst_s_ratio_above_one_stays() -> None:
    assert shares.ratio(reading([0.25] * 8), "web-0000", 2.5) == 2.5


@given(
    used=st.lists(st.floats(0, 1), min_size=1, max_size=12),
    idle=st.floats(0, 0.09),
    host_cpus=st.integers(1, 16),
)
def test_no_share_makes_a_domain_look_less_busy_nor_more_than_full(
    used: list[float], idle: float, host_cpus: int
) -> None:
    found = reading(used, host_cpus=host_cpus, host_idle_cpus=idle)
    for name, (cpus, allotted) in found.cpus.items():
        plain = cpus / allotted
        assert plain - 1e-9 <= shares.ratio(found, name, plain) <= max(plain, 1.0) + 1e-9


def test_since_when_a_host_is_busy() -> None:
    seen = with_reading(Seen(), reading([1.0]))
    seen = with_reading(seen, reading([1.0], at_s=NOW_S + 1))
    assert seen.busy_since == {"local": NOW_S}
    seen = with_reading(seen, reading([1.0], at_s=NOW_S + 2, host="far"))
    assert seen.busy_since == {"local": NOW_S, "far": NOW_S + 2}
    seen = with_reading(seen, reading([1.0], at_s=NOW_S + 3, host_idle_cpus=1.0))
    assert seen.busy_since == {"far": NOW_S + 2}
    assert with_reading(seen, reading([1.0], at_s=NOW_S + 4, host_idle_cpus=1.0)).busy_since is seen.busy_since


def state(*readings: Reading, **changes: Any) -> GroupState:
    """Return a group of the domains that the readings name; its out-window is 5 s, one domain has one CPU."""
    table = {"image": {"cpu_quota": 1.0}} | changes
    names = sorted({name for one in readings for name in one.cpus})
    rows = tuple(member(name) for name in names)
    seen = with_membership(Seen(), membership(rows), NOW_S, "m", 3.5)
    for one in readings:
        seen = with_reading(seen, one)
    return evolve(begin(settings(**table)), seen=seen)


def member(name: str, age_s: float = 900.0, phase: Phase = Phase.READY) -> Member:
    return Member(
        name=name, uuid=name, host="local", phase=phase, since_s=0.0, age_s=age_s, address="10.0.0.1", port=80
    )


def membership(rows: tuple[Member, ...]) -> Membership:
    return Membership(group="web", generation_seen=1, desired_seen=2, members=rows, owned_total=len(rows), ceiling=99)


def busy(used: list[float], allotted: float = 1.0, **changes: Any) -> tuple[Reading, ...]:
    """Return 5 s of samples."""
    return tuple(reading(used, allotted, at_s=NOW_S + second, **changes) for second in range(5))


@pytest.mark.parametrize(
    ("readings", "changes", "is_full"),
    [
        (busy([1.0, 1.0]), {}, True),
        (busy([1.0, 1.0])[1:], {}, False),  # not yet for the whole window
        (busy([1.0]), {}, False),  # one more has room
        (busy([1.0, 1.0], host_idle_cpus=0.5), {}, False),
        (busy([1.0, 1.0], host_cpus=None), {}, False),
        ((), {}, False),
        (busy([1.0, 1.0], 0.4), {"image": {"cpu_quota": 0.4}}, False),  # 1.2 of 2
        (busy([1.0, 1.0, 0.2]), {"image": {"cpu_quota": 0.4}}, False),  # they boot without a quota, and will have 0.4
        (busy([0.4] * 5, 0.4), {"image": {"cpu_quota": 0.4}}, True),
        (busy([1.0, 1.0]), {"kind": "existing"}, True),  # as much as the others have
        (busy([]), {"kind": "existing"}, False),
        (busy([1.0, 1.0]), {"hosts": ["local", "far"]}, False),  # nothing is known of the other
    ],
)
def test_a_host_is_full_where_one_more_could_not_have_its_allotment(
    readings: tuple[Reading, ...], changes: dict[str, Any], is_full: bool
) -> None:
    assert shares.full_hosts(state(*readings, **changes), NOW_S + 4) == (("local",) if is_full else ())


def test_figures_that_have_grown_old_make_no_host_full() -> None:
    found = state(*busy([1.0, 1.0]))
    assert shares.full_hosts(found, NOW_S + 4 + 3.5) == ("local",)
    assert shares.full_hosts(found, NOW_S + 4 + 3.6) == ()


def test_a_host_that_is_not_reached_has_no_room_and_does_not_say_that_all_are_full() -> None:
    away = reading([], at_s=NOW_S + 4, host="far", is_reachable=False)
    assert shares.full_hosts(state(*busy([1.0, 1.0]), away, hosts=["local", "far"]), NOW_S + 4) == ("local",)
    assert shares.full_hosts(state(away, hosts=["far"]), NOW_S + 4) == ()


def test_the_bursts_of_others_pass_and_hold_up_nobody() -> None:
    found = state(*busy([1.0, 1.0], 1.0), image={"cpu_quota": 0.4})
    strangers = evolve(found, seen=evolve(found.seen, membership=membership(())))
    assert shares.full_hosts(strangers, NOW_S + 4) == ("local",)
    claim = Claim(group="shop", host="local", wanted_cpus=1.2, excess_cpus=1.2)
    assert shares.full_hosts(evolve(strangers, rivals=(claim,)), NOW_S + 4) == ()


# --- requests in flight -----------------------------------------------------------------------------------------------


def traffic(**changes: Any) -> Traffic:
    values: dict[str, Any] = {"group": "web", "interval_s": 1.0, "is_known": True, "in_flight": 0, "request_rate": 0.0}
    return Traffic.model_validate(values | changes)


def carried(*told: Traffic) -> GroupState:
    """Return a group of two busy domains after these messages, one a second."""
    found = state(reading([1.0, 1.0]))
    seen = found.seen
    for second, one in enumerate(told):
        seen = with_traffic(seen, one, NOW_S + second)
    return evolve(found, seen=seen)


def mean(*told: Traffic) -> float | None:
    seen = metrics(0.99, in_flight=told[-1].in_flight, response_time_s=told[-1].response_time_s)
    return in_flight(seen, carried(*told))


def test_the_mean_in_flight_is_one_over_the_out_window() -> None:
    assert mean(traffic(in_flight=4)) == 4.0
    assert mean(*[traffic()] * 60, *[traffic(in_flight=4)] * 3) == pytest.approx(4 * 3 / 5)
    assert mean(*[traffic(in_flight=4)] * 60, *[traffic()] * 5) == 0.0


def test_short_requests_that_no_instant_shows_count_by_rate_and_response_time() -> None:
    assert mean(traffic(request_rate=40.0, response_time_s=0.05)) == pytest.approx(2.0)
    assert mean(traffic(request_rate=40.0, response_time_s=0.05, in_flight=7)) == 7.0
    assert mean(traffic(response_time_s=9.0)) == 0.0


def test_a_response_time_of_long_ago_counts_for_no_more_than_an_interval() -> None:
    assert mean(traffic(request_rate=0.1, response_time_s=9.0)) == pytest.approx(0.1)


def test_what_is_unknown_explains_nothing_and_hides_nothing() -> None:
    assert mean(traffic(in_flight=None)) is None
    assert in_flight(metrics(0.99, in_flight=0), state(reading([1.0]))) is None


def test_when_the_last_request_was_seen_is_kept() -> None:
    assert carried(traffic()).seen.requested_at_s is None
    assert carried(traffic(request_rate=0.5), traffic(), traffic()).seen.requested_at_s == NOW_S
    assert carried(traffic(), traffic(in_flight=1), traffic()).seen.requested_at_s == NOW_S + 1
    assert carried(traffic(is_known=False, in_flight=1)).seen.requested_at_s is None


def test_only_what_ready_members_use_is_to_be_explained() -> None:
    found = state(reading([0.5, 0.25]))
    assert used_cpus(found) == pytest.approx(0.75)
    rows = (member("web-0000"), member("web-0001", phase=Phase.BOOTING), member("web-0002"))
    assert used_cpus(evolve(found, seen=evolve(found.seen, membership=membership(rows)))) == pytest.approx(0.5)
    assert used_cpus(begin(settings())) == 0.0


# --- votes in doubt --------------------------------------------------------------------------------------------------


def vote(policy: Any, **changes: Any) -> Vote:
    return Vote.model_validate({"policy": policy.type, "capacity": 4, "wanted": 4, "reason": "CPU 99 %"} | changes)


@pytest.mark.parametrize("policy", settings(policies=[{"type": "threshold"}, {"type": "target-tracking"}]).policies[:2])
def test_a_vote_on_cpu_use_in_doubt_holds_and_says_why(policy: Any) -> None:
    seen = metrics(0.99, doubt="so it is")
    found = hushed(policy, vote(policy, wait_s=2.0), seen)
    assert (found.capacity, found.wanted, found.wait_s, found.reason) == (2, 2, 0.0, "CPU 99 %; but so it is")
    assert hushed(policy, vote(policy), metrics(0.99)) == vote(policy)


@pytest.mark.parametrize(
    ("changes", "is_doubted"),
    [
        ({}, True),
        ({"queue": 1}, False),
        ({"is_traffic_known": False}, False),
        ({"in_flight": 128}, False),  # all slots of two
        ({"in_flight": None}, False),
        ({"requested_s_ago": None}, False),
        ({"requested_s_ago": 3600.0}, True),
        ({"requested_s_ago": 3601.0}, False),
        ({"doubt": "another one"}, False),
    ],
)
def test_cpu_use_is_in_doubt_where_requests_are_known_and_nobody_waits(
    changes: dict[str, Any], is_doubted: bool
) -> None:
    found = carried(traffic(request_rate=4.0))
    told = doubted(metrics(0.99, **({"in_flight": 0, "requested_s_ago": 0.0} | changes)), found)
    assert told.doubt.startswith("only 0.1 requests in flight") is is_doubted


def test_a_member_that_warms_up_wants_nobody_more_by_the_figure_for_scale_in() -> None:
    policy = settings(policies=[{"type": "target-tracking", "target_ratio": 0.6}]).policies[0]
    seen = metrics(0.8, ready=3, low=0.55, warming=1)
    (found,) = ballots(policy, [seen])
    assert (found.capacity, found.wanted) == (3, 3)


def test_a_vote_that_asks_for_no_more_and_one_without_data_stay_as_they_are() -> None:
    policy, seen = settings().policies[0], metrics(0.2, doubt="so it is")
    for kept in (vote(policy, capacity=1, wanted=1), vote(policy, capacity=None, wanted=None)):
        assert hushed(policy, kept, seen) == kept


def test_votes_on_other_figures_count_whatever_cpu_shows() -> None:
    table = [
        {"type": "target-tracking", "metric": "queue", "target_queue": 1.0},
        {"type": "schedule", "cron": "* * * * *", "duration_s": 60.0, "capacity": 4},
    ]
    for policy in settings(policies=table).policies:
        assert hushed(policy, vote(policy), metrics(0.99, doubt="so it is")) == vote(policy)


# --- warm-up ---------------------------------------------------------------------------------------------------------


def warmed(*members: tuple[float | None, float], warm_up_s: float = 60.0, now_s: float = NOW_S) -> warm_up.WarmUp:
    """Return the figure of members by (ratio, age)."""
    rows = tuple(member(f"web-{number:04d}", age_s) for number, (_, age_s) in enumerate(members))
    seen = with_membership(Seen(), membership(rows), NOW_S, "m", 3.5)
    return warm_up.low(
        seen, [(row.name, ratio) for row, (ratio, _) in zip(rows, members, strict=True)], now_s, warm_up_s
    )


def test_new_members_are_left_out_of_the_mean_for_scale_out() -> None:
    found = warmed((0.4, 900.0), (0.6, 61.0), (1.0, 10.0), (1.0, 45.0))
    assert (found.low, found.count, found.left_s, found.doubt) == (0.5, 2, 15.0, "")


def test_members_grow_older_between_two_memberships() -> None:
    assert warmed((0.4, 900.0), (1.0, 58.0), now_s=NOW_S + 1.9).count == 1
    assert warmed((0.4, 900.0), (1.0, 58.0), now_s=NOW_S + 2.0).low == 0.7


def test_an_unknown_member_counts_as_idle_and_a_new_unknown_one_not_at_all() -> None:
    assert warmed((0.8, 900.0), (None, 900.0), (None, 5.0)).low == 0.4


def test_where_all_are_new_nothing_is_asked_for_and_it_is_said() -> None:
    found = warmed((1.0, 10.0), (1.0, 20.0))
    assert (found.low, found.count) == (0.0, 2)
    assert found.doubt == "all have served for less than 60 s (warm_up_s)"
    assert warmed((1.0, 10.0)).doubt == "it has served for less than 60 s (warm_up_s)"


def test_without_a_warm_up_nobody_is_new() -> None:
    assert warmed((1.0, 0.0), warm_up_s=0.0) == warm_up.WarmUp(1.0)
    assert warmed() == warm_up.WarmUp(0.0)
