"""What the graph remembers."""

import sys

import pytest

from common.messages import (
    BackendState,
    DesiredCapacity,
    Drain,
    Event,
    Failure,
    HostSample,
    Member,
    Membership,
    ServiceStatus,
)
from common.phases import Phase
from services.plotter.core import series
from services.plotter.core.series import Draw, Mark, State

STALE_S = 3.5


@pytest.fixture
def state() -> State:
    return series.empty({"web": "web-", "api": "api-"}, span_s=600.0, interval_s=1.0, stale_after_s=STALE_S)


def sample(ratios: dict[str, float | None], *, host: str = "local", state: str = "running") -> HostSample:
    return HostSample(
        host=host,
        interval_s=1.0,
        is_reachable=True,
        names=tuple(ratios),
        uuids=tuple("u" for _ in ratios),
        states=tuple(state for _ in ratios),
        cpu_ratios=tuple(ratios.values()),
        allotted_cpus=tuple(1.0 for _ in ratios),
    )


def membership(phases: dict[str, Phase], group: str = "web") -> Membership:
    members = tuple(
        Member(name=name, uuid=name, host="local", phase=phase, since_s=0, age_s=0, address=None, port=80)
        for name, phase in phases.items()
    )
    return Membership(
        group=group, generation_seen=1, desired_seen=1, members=members, owned_total=len(members), ceiling=5
    )


def drain(*healthy: str, down: tuple[str, ...] = ()) -> Drain:
    backends = tuple(
        BackendState(name=name, uuid=name, slot=name, state="ready", is_healthy=name in healthy)
        for name in (*healthy, *down)
    )
    return Drain(group="web", endpoint="e", is_proxy_alive=True, backends=backends)


def desired(count: int) -> DesiredCapacity:
    return DesiredCapacity(group="web", generation=1, desired=count, minimum=1, maximum=9)


def play(state: State, *said: tuple[float, object]) -> State:
    for at_s, body in said:
        state, _ = series.handle(state, body, at_s)  # type: ignore[arg-type]
    return state


def test_a_sample_extends_the_line_of_each_domain_and_asks_to_draw(state: State) -> None:
    state, actions = series.handle(state, sample({"web-0000": 0.5, "api-0000": 0.2}), 10.0)
    assert actions == (Draw(),)
    assert state.groups["web"].ratios == {"web-0000": ((10.0, 0.5),)}
    assert state.groups["api"].ratios == {"api-0000": ((10.0, 0.2),)}


def test_other_messages_do_not_ask_to_draw(state: State) -> None:
    status = ServiceStatus(name="monitor", pid=1, started_at_s=0, release="1")
    for body in (membership({}), desired(1), Event(name="scale-out", group="web"), status):
        assert series.handle(state, body, 1.0)[1] == ()


def test_domains_of_nobody_are_not_shown(state: State) -> None:
    state = play(state, (1.0, sample({"other-0000": 0.5, "web-1": 0.5})))
    assert all(not group.ratios for group in state.groups.values())


def test_an_unknown_ratio_is_none_and_never_zero(state: State) -> None:
    state = play(state, (1.0, sample({"web-0000": 0.5})), (2.0, sample({"web-0000": None})))
    assert state.groups["web"].ratios["web-0000"] == ((1.0, 0.5), (2.0, None))
    assert state.groups["web"].mean == ((1.0, 0.5), (2.0, None))


def test_an_unreachable_host_makes_its_domains_unknown(state: State) -> None:
    lost = sample({"web-0000": 0.5}).model_copy(update={"is_reachable": False})
    assert play(state, (1.0, lost)).groups["web"].ratios["web-0000"] == ((1.0, None),)


def test_a_domain_that_is_shut_off_has_no_line(state: State) -> None:
    assert play(state, (1.0, sample({"web-0000": None}, state="shutoff"))).groups["web"].ratios == {}


def test_silence_becomes_a_gap(state: State) -> None:
    state = play(state, (1.0, sample({"web-0000": 0.5})), (20.0, sample({"web-0000": 0.6})))
    assert state.groups["web"].ratios["web-0000"] == ((1.0, 0.5), (1.5, None), (20.0, 0.6))
    assert state.groups["web"].mean == ((1.0, 0.5), (1.5, None), (20.0, 0.6))


def test_a_late_sample_within_the_patience_is_no_gap(state: State) -> None:
    state = play(state, (1.0, sample({"web-0000": 0.5})), (4.0, sample({"web-0000": 0.6})))
    assert state.groups["web"].ratios["web-0000"] == ((1.0, 0.5), (4.0, 0.6))


def test_the_mean_is_that_of_the_ready_domains(state: State) -> None:
    phases = {"web-0000": Phase.READY, "web-0001": Phase.BOOTING, "web-0002": Phase.READY}
    ratios = {"web-0000": 0.2, "web-0001": 1.0, "web-0002": 0.4}
    state = play(state, (1.0, membership(phases)), (1.1, sample(ratios)))
    assert state.groups["web"].mean == ((1.1, pytest.approx(0.3)),)


def test_the_mean_is_that_of_all_while_nobody_tells_who_is_ready(state: State) -> None:
    state = play(state, (1.0, sample({"web-0000": 0.2, "web-0001": 0.4})))
    assert state.groups["web"].mean == ((1.0, pytest.approx(0.3)),)


def test_the_mean_over_two_hosts_counts_both(state: State) -> None:
    state = play(state, (1.0, sample({"web-0000": 0.2}, host="one")), (1.6, sample({"web-0001": 0.6}, host="two")))
    assert state.groups["web"].mean[-1] == (1.6, pytest.approx(0.4))


def test_desired_ready_and_mode_are_kept(state: State) -> None:
    ready = membership({"web-0000": Phase.READY, "web-0001": Phase.WARMING})
    group = play(state, (1.0, desired(2)), (1.0, drain("web-0000")), (1.0, ready)).groups["web"]
    assert (group.desired, group.ready, group.mode) == (((1.0, 2.0),), ((1.0, 1.0),), "on")


def test_ready_counts_who_serves_and_is_unknown_while_the_balancer_is_silent(state: State) -> None:
    ready = membership({"web-0000": Phase.READY, "web-0001": Phase.READY})
    half = drain("web-0000", down=("web-0001",))
    group = play(state, (1.0, ready), (2.0, half), (3.0, ready), (3.0 + 2 * STALE_S, ready)).groups["web"]
    assert [value for _, value in group.ready if value is not None] == [1.0]
    assert (group.ready[0], group.ready[-1]) == ((1.0, None), (3.0 + 2 * STALE_S, None))


@pytest.mark.parametrize("name", ["recording-paused", "recording-resumed"])
def test_a_gap_in_the_recording_is_marked_for_all_groups(state: State, name: str) -> None:
    marks = play(state, (1.0, Event(name=name, text="a gap of 57 s ends"))).marks
    assert marks == (Mark(1.0, "trouble", "", name.replace("-", " ")),)


def test_scaling_is_marked_with_the_change(state: State) -> None:
    out = Event(name="scale-out", group="web", text="from 2 to 4: the mean is above 80 %")
    into = Event(name="scale-in", group="web", text="no numbers here")
    marks = play(state, (1.0, out), (2.0, into)).marks
    assert marks == (Mark(1.0, "out", "web", "2→4"), Mark(2.0, "in", "web", ""))


def test_one_failure_told_twice_is_marked_once(state: State) -> None:
    told = Failure(host="local", domain="web-0001", uuid="u", reason="crashed")
    again = Event(name="domain-failed", group="web", domain="web-0001")
    marks = play(state, (1.0, told), (1.5, again), (100.0, told)).marks
    assert marks == (Mark(1.0, "failure", "web", "web-0001"), Mark(100.0, "failure", "web", "web-0001"))


@pytest.mark.parametrize(
    ("phase", "reason", "is_marked"),
    [
        (Phase.READY, "stopped", True),
        (Phase.READY, "crashed", True),
        (Phase.DRAINING, "stopped", False),
        (Phase.STOPPING, "stopped", False),
        (Phase.STOPPING, "crashed", True),
        (Phase.STANDBY, "paused", False),
        (Phase.STANDBY, "stopped", False),
    ],
)
def test_an_end_that_was_wanted_is_no_failure(state: State, phase: Phase, reason: str, is_marked: bool) -> None:
    told = Failure(host="local", domain="web-0001", uuid="u", reason=reason)
    assert bool(play(state, (1.0, membership({"web-0001": phase})), (2.0, told)).marks) is is_marked


@pytest.mark.parametrize(
    ("event", "mark"),
    [
        (Event(name="host-lost", host="local"), Mark(1.0, "trouble", "", "host lost")),
        (Event(name="breaker-opened", group="api"), Mark(1.0, "trouble", "api", "breaker opened")),
        (Event(name="operator", domain="web-0000"), Mark(1.0, "operator", "web", "operator")),
    ],
)
def test_trouble_and_orders_are_marked(state: State, event: Event, mark: Mark) -> None:
    assert play(state, (1.0, event)).marks == (mark,)


def test_everyday_events_are_not_marked(state: State) -> None:
    assert play(state, (1.0, Event(name="domain-started", group="web"))).marks == ()


def test_what_is_older_than_the_span_is_forgotten(state: State) -> None:
    state = play(state, (0.0, sample({"web-0000": 0.5, "web-0001": 0.5})), (0.0, Event(name="scale-out", group="web")))
    for second in range(1, 1000):
        state = play(state, (float(second), sample({"web-0000": 0.5})))
    group = state.groups["web"]
    assert set(group.ratios) == {"web-0000"}
    assert state.marks == ()
    times = [at_s for at_s, _ in group.ratios["web-0000"]]
    assert times[0] == 398.0  # one before the left end, from which the line comes in
    assert times[-1] == 999.0


def test_a_domain_that_is_gone_stays_until_it_has_left_the_span(state: State) -> None:
    state = play(state, (0.0, sample({"web-0000": 0.5, "web-0001": 0.5})), (599.0, sample({"web-0000": 0.5})))
    assert set(state.groups["web"].ratios) == {"web-0000", "web-0001"}


def test_memory_is_bounded_however_long_the_span_and_however_fast_the_samples() -> None:
    week = series.empty({"web": "web-"}, span_s=7 * 86400.0, interval_s=1.0, stale_after_s=STALE_S)
    for minute in range(7 * 1440):
        week = play(week, (minute * 60.0, sample({"web-0000": 0.5})), (minute * 60.0, desired(1)))
    assert len(week.groups["web"].ratios["web-0000"]) <= series.MAX_POINTS + 2
    fast = series.empty({"web": "web-"}, span_s=60.0, interval_s=1.0, stale_after_s=STALE_S)
    for tick in range(20_000):
        fast = play(fast, (tick / 100.0, sample({"web-0000": 0.5})))
    assert len(fast.groups["web"].ratios["web-0000"]) <= 122
    assert sys.getsizeof(fast.groups["web"].ratios["web-0000"]) < 2000


def test_marks_are_bounded(state: State) -> None:
    for tick in range(3 * series.MAX_MARKS):
        state = play(state, (tick / 100, Event(name="operator", group="web")))
    assert len(state.marks) == series.MAX_MARKS


def test_time_never_runs_backwards(state: State) -> None:
    state = play(state, (5.0, sample({"web-0000": 0.5})), (4.0, sample({"web-0000": 0.9})))
    assert state.groups["web"].ratios["web-0000"] == ((5.0, 0.5),)
