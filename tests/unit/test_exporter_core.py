"""What Prometheus is shown: nothing stale, nothing without bounds, nothing that is not in the catalogue."""

from dataclasses import replace
from typing import Any

import pytest

from common.messages import (
    BackendState,
    Body,
    DecisionRecord,
    DesiredCapacity,
    Drain,
    Event,
    Evidence,
    Failure,
    Header,
    HostSample,
    LeadTime,
    Member,
    Membership,
    ServiceStatus,
    Traffic,
)
from common.messaging.inbox import Received
from common.phases import Phase
from services.exporter.core.catalogue import METRICS
from services.exporter.core.render import render
from services.exporter.core.state import MAX_SETS, Scope, State, begin, group_of, handle

SCOPE = Scope(
    ceilings={"web": 3, "web-db": 2},
    prefixes={"web": "web-", "web-db": "web-db-"},
    hosts=("local",),
    services=("monitor", "exporter"),
    stale_after_s=3.5,
    silent_after_s=6.0,
)


def received(body: Body, source: str = "x", age_s: float = 0.0) -> Received:
    header = Header(source=source, run_id=1, seq=1, sent_at_s=0, mono_s=0)
    return Received(body.topic, header, body, age_s, "id")


def after(*bodies: Body, now_s: float = 100.0, source: str = "x", state: State | None = None) -> State:
    state = state or begin(SCOPE, 90.0)
    for body in bodies:
        state = handle(state, received(body, source), now_s)
    return state


def shown(state: State, now_s: float = 100.0) -> dict[str, float]:
    """Return the series by their text, as Prometheus writes them."""
    found = {}
    for sample in render(state, now_s):
        pairs = zip(METRICS[sample.name].labels, sample.labels, strict=True)
        text = ",".join(f'{label}="{value}"' for label, value in pairs)
        series = f"{sample.name.removeprefix('autoscaler_')}{{{text}}}"
        assert series not in found
        found[series] = sample.value
    return found


def member(name: str, phase: Phase = Phase.READY, uuid: str = "u", **more: Any) -> Member:
    values: dict[str, Any] = {"host": "local", "since_s": 0, "age_s": 1, "address": None, "port": 80}
    return Member(name=name, uuid=uuid, phase=phase, **(values | more))


def membership(*members: Member, **more: Any) -> Membership:
    values = {"group": "web", "generation_seen": 1, "desired_seen": 2, "owned_total": len(members), "ceiling": 3}
    return Membership(members=members, **(values | more))


def sample(**rows: float | None) -> HostSample:
    count = len(rows)
    return HostSample(
        host="local", interval_s=1, is_reachable=True, names=tuple(rows), uuids=tuple(f"u-{name}" for name in rows),
        states=("running",) * count, cpu_ratios=tuple(rows.values()), allotted_cpus=(0.4,) * count,
    )  # fmt: skip


def decision(limiter: str = "none", action: str = "hold", **more: Any) -> DecisionRecord:
    values: dict[str, Any] = {"votes": (), "limiter_text": "", "counterfactual": "", "evidence": Evidence()}
    return DecisionRecord(
        group="web", tick=1, decision_id="d", action=action, desired_before=1, desired_after=1, recommended=1,
        limiter=limiter, **(values | more),
    )  # fmt: skip


def everything() -> State:
    """Return a state in which every kind of message was heard, with every field that a series is made of."""
    desired = DesiredCapacity(group="web", generation=1, desired=2, minimum=1, maximum=2, burst_quota=0.8)
    lead = LeadTime(tier="", host="local", n=3, p50_s=8.0, p95_s=9.0)
    backend = BackendState(name="web-0000", uuid="u-a", slot="vm1", state="ready", is_healthy=True, in_flight=4)
    traffic = Traffic(
        group="web", interval_s=2.0, is_known=True, request_rate=10.0, error_rate=0.5, queue=3, in_flight=4,
        queue_time_s=0.1, response_time_s=0.2,
    )  # fmt: skip
    host = sample(a=0.5).model_copy(update={"host_cpus": 2, "host_idle_cpus": 1.5})
    return after(
        desired,
        decision(evidence=Evidence(cpu_ratio=0.7)),
        traffic,
        Drain(group="web", endpoint="e", is_proxy_alive=True, backends=(backend,), cut_sessions_total=2),
        membership(member("web-0000", uuid="u-a"), boot_p50_s=3.0, boot_p95_s=4.0, lead_times=(lead,)),
        host,
        Failure(host="local", domain="web-0000", uuid="u-a", reason="crashed"),
        Event(name="scale-out", group="web"),
        ServiceStatus(name="monitor", pid=1, started_at_s=5.0, release="1.0", counters={"gaps": 2}),
    )


def test_every_metric_of_the_catalogue_is_shown_when_all_is_known() -> None:
    names = {sample.name for sample in render(everything(), 100.0)}
    assert names == METRICS.keys() - {"autoscaler_build_info"}  # the shell adds it: it knows the release


def test_every_sample_has_the_labels_of_the_catalogue() -> None:
    for found in render(everything(), 100.0):
        assert len(found.labels) == len(METRICS[found.name].labels), found


def test_no_label_is_an_identifier_that_grows() -> None:
    for metric in METRICS.values():
        assert not {"uuid", "cause", "text", "pid", "address"} & set(metric.labels)


def test_a_figure_that_is_stale_is_absent_and_not_zero() -> None:
    state = everything()
    assert shown(state, 103.0)['group_desired_domains{group="web"}'] == 2
    gauges = {name for name, metric in METRICS.items() if metric.kind == "gauge"}
    later = {found.name for found in render(state, 104.0) if found.labels[0] in ("web", "local")}
    assert later & gauges == {"autoscaler_sample_age_seconds"}


def test_an_old_message_is_as_old_as_it_was_said() -> None:
    state = handle(begin(SCOPE, 90.0), received(sample(a=0.5), age_s=3.0), 100.0)
    assert shown(state, 100.0)['host_reachable{host="local"}'] == 1
    assert 'host_reachable{host="local"}' not in shown(state, 101.0)


def test_unknown_is_absent_and_not_zero() -> None:
    found = shown(after(sample(a=None), membership(member("web-0000", uuid="u-a")), decision()))
    assert not [series for series in found if "cpu_ratio" in series]
    unknown = after(Traffic(group="web", interval_s=1, is_known=False))
    assert not [series for series in shown(unknown) if "queued" in series or "requests_total" in series]


def test_a_series_goes_with_its_domain() -> None:
    state = after(sample(a=0.5, b=0.6), membership(member("web-0000", uuid="u-a"), member("web-0001", uuid="u-b")))
    ratios = {series: value for series, value in shown(state).items() if series.startswith("domain_cpu_ratio")}
    assert ratios == {
        'domain_cpu_ratio{group="web",host="local",domain="web-0000"}': 0.5,
        'domain_cpu_ratio{group="web",host="local",domain="web-0001"}': 0.6,
    }
    state = after(membership(member("web-0000", uuid="u-a")), state=state)
    assert not [series for series in shown(state) if "web-0001" in series]


def test_figures_belong_to_the_uuid_and_not_to_the_name() -> None:
    state = after(sample(a=0.5), membership(member("a", uuid="u-of-its-successor")))
    assert not [series for series in shown(state) if series.startswith("domain_cpu_ratio")]


def test_a_group_shows_no_more_domains_than_it_may_own_and_those_at_rest_last() -> None:
    at_rest = [member(f"web-000{n}", Phase.STANDBY, f"u-{n}") for n in range(5)]
    at_work = [member(f"web-000{n}", Phase.READY, f"u-{n}") for n in range(5, 7)]
    state = after(sample(**{str(n): 0.1 for n in range(7)}), membership(*at_rest, *at_work))
    domains = [series for series in shown(state) if series.startswith("domain_cpu_ratio")]
    assert [series[-6:-2] for series in domains] == ["0005", "0006", "0000"]


def test_phases_are_counted_and_none_is_left_out() -> None:
    found = shown(after(membership(member("a"), member("b", Phase.BOOTING), member("c", Phase.BOOTING))))
    counts = {phase: found[f'group_domains{{group="web",phase="{phase}"}}'] for phase in Phase if phase != "gone"}
    assert sum(counts.values()) == 3
    assert (counts[Phase.BOOTING], counts[Phase.READY], counts[Phase.FAILED]) == (2, 1, 0)


def test_the_breaker_is_in_exactly_one_state() -> None:
    found = shown(after(membership(breaker="open")))
    assert [found[f'group_breaker{{group="web",state="{s}"}}'] for s in ("closed", "open", "half-open")] == [0, 1, 0]


def test_a_domain_that_came_from_nothing_is_cold() -> None:
    found = shown(after(membership(member("a"), member("b", tier="clone"))))
    assert found['group_tier_domains{group="web",tier="cold"}'] == 1
    assert found['group_tier_domains{group="web",tier="clone"}'] == 1


def test_requests_are_counted_from_rates_and_their_intervals() -> None:
    traffic = Traffic(group="web", interval_s=2.0, is_known=True, request_rate=10.0, error_rate=0.5)
    found = shown(after(traffic, traffic))
    assert found['group_requests_total{group="web"}'] == 40
    assert found['group_request_errors_total{group="web"}'] == 2


def test_decisions_are_counted_by_action_and_limiter() -> None:
    found = shown(after(decision("cooldown"), decision("cooldown"), decision("none", "out")))
    assert found['decisions_total{group="web",action="hold",limiter="cooldown"}'] == 2
    assert found['decisions_total{group="web",action="out",limiter="none"}'] == 1


def test_counters_of_events_are_there_before_the_first_event() -> None:
    found = shown(begin(SCOPE, 0.0), 0.0)
    assert found['scale_events_total{group="web",direction="out"}'] == 0
    assert found['drains_forced_total{group="web"}'] == 0


def test_a_forced_drain_that_two_services_tell_counts_once() -> None:
    event = Event(name="drain-forced", group="web", domain="web-0000")
    state = after(event, source="balancer", state=after(event, source="actuator"))
    assert shown(state)['drains_forced_total{group="web"}'] == 1


def test_what_is_not_configured_is_not_taken_in() -> None:
    state = begin(SCOPE, 90.0)
    stranger = DesiredCapacity(group="other", generation=1, desired=2, minimum=1, maximum=2)
    assert after(
        stranger,
        Event(name="scale-out", group="other"),
        Failure(host="elsewhere", domain="d", uuid="u", reason="crashed"),
        ServiceStatus(name="imposter", pid=1, started_at_s=0, release="1"),
        state=state,
    ) is state  # fmt: skip


def test_words_of_others_become_labels_only_while_they_are_plain_and_few() -> None:
    state = after(Failure(host="local", domain="web-1", uuid="u", reason="see /var/log\n"))
    assert shown(state)['domain_ends_total{group="web",reason="other"}'] == 1
    for number in range(MAX_SETS * 4):
        state = after(Event(name=f"event-{number}"), state=state)
    named = [series for series in shown(state) if series.startswith("events_total")]
    assert len(named) <= MAX_SETS * (1 + len(SCOPE.ceilings)) + 1
    assert shown(state)['events_total{name="other"}'] > 0


@pytest.mark.parametrize(
    ("name", "group"), [("web-0001", "web"), ("web-db-0001", "web-db"), ("db-1", "other"), ("", "other")]
)
def test_a_domain_belongs_to_the_group_with_the_longest_prefix(name: str, group: str) -> None:
    assert group_of(SCOPE, name) == group


def test_a_silent_service_is_down_and_shows_nothing_of_the_past() -> None:
    state = after(ServiceStatus(name="monitor", pid=1, started_at_s=5.0, release="1", counters={"gaps": 2}))
    up = shown(state, 105.0)
    assert (up['service_up{service="monitor"}'], up['service_up{service="exporter"}']) == (1, 0)
    assert up['service_activity_total{service="monitor",kind="gaps"}'] == 2
    down = shown(state, 107.0)
    assert down['service_up{service="monitor"}'] == 0
    assert down['service_status_age_seconds{service="monitor"}'] == 7
    assert not [series for series in down if series.startswith(("service_activity", "service_start", "service_info"))]


def test_without_any_sample_its_age_counts_from_the_beginning() -> None:
    assert shown(begin(SCOPE, 90.0), 130.0)['sample_age_seconds{host="local"}'] == 40


def test_a_reload_moves_the_bound_on_domains() -> None:
    members = [member(f"web-000{n}", uuid=f"u-{n}") for n in range(5)]
    state = after(sample(**{str(n): 0.1 for n in range(5)}), membership(*members))
    wider = replace(state, scope=replace(SCOPE, ceilings={"web": 5, "web-db": 2}))
    counts = [sum(series.startswith("domain_cpu_ratio") for series in shown(one)) for one in (state, wider)]
    assert counts == [3, 5]


def test_bounds_that_an_operator_raised_move_the_bound_on_domains_too() -> None:
    members = [member(f"web-000{n}", uuid=f"u-{n}") for n in range(5)]
    state = after(sample(**{str(n): 0.1 for n in range(5)}), membership(*members, ceiling=11))
    assert sum(series.startswith("domain_cpu_ratio") for series in shown(state)) == 5
