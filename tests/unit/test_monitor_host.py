"""What a host's readings and events become: samples, failures told once, a host lost and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain import CpuReading, DomainState, HostCpu, LifecycleEvent
from common.domain_states import MAY_COME_BACK, MEANINGS, PAUSING_EVENTS, Meaning
from common.messages import FROZEN, SUSPENDED, Body, Event, Failure, HostSample, Recovery
from services.monitor.core.host import Exited, Froze, HostState, Listed, Seen, Silent, coalesce, handle

RUNNING, PAUSED, SHUTOFF, CRASHED = (
    DomainState.RUNNING,
    DomainState.PAUSED,
    DomainState.SHUTOFF,
    DomainState.CRASHED,
)


def reading(number: int, at_s: float = 0.0, state: DomainState = RUNNING, uuid: str = "", cpu: float | None = None):
    used = at_s / 2 if cpu is None else cpu
    is_up = state is RUNNING
    name = f"web-{number:04d}"
    return CpuReading(name, uuid or f"u{number}", state, used if is_up else None, 1.0 if is_up else None, at_s)


def listed(*readings: CpuReading) -> Listed:
    return Listed(readings)


def event(kind: str, detail: str = "", number: int = 0) -> LifecycleEvent:
    return LifecycleEvent(f"web-{number:04d}", f"u{number}", kind, detail)


def exited(signal: int = 9, number: int = 0) -> Exited:
    return Exited(f"web-{number:04d}", f"u{number}", signal)


def feed(*seen: Seen) -> list[tuple[Body, ...]]:
    state, found = HostState("local", 1.0), []
    for one in seen:
        state, messages = handle(state, one)
        found.append(messages)
    return found


def failures(*seen: Seen) -> list[tuple[str, str]]:
    return [(b.domain, b.reason) for bodies in feed(*seen) for b in bodies if isinstance(b, Failure)]


def sample(*seen: Seen) -> HostSample:
    return [body for bodies in feed(*seen) for body in bodies if isinstance(body, HostSample)][-1]


# --- samples -----------------------------------------------------------------------------------------------------


def test_a_listing_becomes_one_sample_in_columns() -> None:
    assert sample(listed(reading(0, 0), reading(1, 0)), listed(reading(0, 1), reading(1, 1, SHUTOFF))) == HostSample(
        host="local",
        interval_s=1.0,
        is_reachable=True,
        names=("web-0000", "web-0001"),
        uuids=("u0", "u1"),
        states=("running", "shutoff"),
        cpu_ratios=(0.5, None),
        allotted_cpus=(1.0, None),
    )


def test_a_new_uuid_under_an_old_name_starts_unknown() -> None:
    assert sample(listed(reading(0, 0)), listed(reading(0, 1, uuid="other"))).cpu_ratios == (None,)


def test_a_host_without_domains_has_an_empty_sample() -> None:
    assert sample(listed()).names == ()


def test_a_silent_host_has_a_sample_that_knows_nothing() -> None:
    silent = sample(listed(reading(0, 0)), Silent("no answer"))
    assert (silent.is_reachable, silent.names, silent.states) == (False, ("web-0000",), ("unknown",))
    assert (silent.cpu_ratios, silent.allotted_cpus, silent.note) == ((None,), (None,), "no answer")


def test_one_missed_tick_is_bridged() -> None:
    assert sample(listed(reading(0, 0)), Silent(""), listed(reading(0, 2))).cpu_ratios == (pytest.approx(0.5),)


def test_a_long_gap_starts_unknown() -> None:
    gap = [Silent("")] * 5
    assert sample(listed(reading(0, 0)), *gap, listed(reading(0, 6))).cpu_ratios == (None,)


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "detail", "reason"),
    [
        ("stopped", "shutdown", "stopped"),
        ("stopped", "destroyed", "stopped"),
        ("shutdown", "guest", "stopped"),
        ("crashed", "crashed", "crashed"),
        ("failed", "failed", "crashed"),
        ("panicked", "panicked", "panicked"),
        ("paused", "watchdog", "crashed"),
    ],
)
def test_an_event_that_ends_service_is_a_failure(kind: str, detail: str, reason: str) -> None:
    assert feed(event(kind, detail)) == [
        (Failure(host="local", domain="web-0000", uuid="u0", reason=reason, detail=detail),)
    ]


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("started", "booted"),
        ("resumed", "unpaused"),
        ("defined", "added"),
        ("undefined", "removed"),
        ("unknown", ""),
        ("paused", "migrated"),
        ("paused", "restored"),
        ("paused", "postcopy"),
    ],
)
def test_other_events_are_no_failures(kind: str, detail: str) -> None:
    assert feed(event(kind, detail)) == [()]


def test_several_witnesses_tell_one_failure() -> None:
    seen = (listed(reading(0)), exited(), event("failed"), listed(reading(0, 1, SHUTOFF)), event("stopped"))
    assert failures(*seen) == [("web-0000", "crashed")]


def test_a_frozen_domain_is_told_each_time_and_its_end_is_still_news() -> None:
    froze = Froze("web-0000", "u0")
    told = ("web-0000", FROZEN)
    assert failures(listed(reading(0)), froze, froze, exited()) == [told, told, ("web-0000", "crashed")]


def test_a_frozen_domain_stays_as_libvirt_lists_it() -> None:
    froze = Froze("web-0000", "u0")
    assert sample(listed(reading(0)), froze, listed(reading(0, 1))).states == ("running",)


def test_a_process_that_ends_by_itself_stopped() -> None:
    assert failures(exited(signal=0)) == [("web-0000", "stopped")]


@pytest.mark.parametrize("up", [event("started", "booted"), event("resumed")])
def test_a_domain_that_is_up_again_can_fail_again(up: LifecycleEvent) -> None:
    assert len(failures(event("failed"), up, event("failed"))) == 2


@pytest.mark.parametrize("lost", range(3))
def test_an_event_that_is_lost_costs_one_listing_and_no_other_event_makes_up_for_it(lost: int) -> None:
    """Three domains end between two listings, and one of the three events gets lost."""
    up = listed(*(reading(number) for number in range(3)))
    down = listed(*(reading(number, 1, SHUTOFF) for number in range(3)))
    ends = [event("stopped", "destroyed", number) for number in range(3) if number != lost]
    told = feed(up, *ends, down, down)
    heard = [[body.domain for body in bodies if isinstance(body, Failure)] for bodies in told]
    assert heard == [[], *[[end.name] for end in ends], [f"web-{lost:04d}"], []]


def test_a_domain_that_vanished_between_listings_failed() -> None:
    assert failures(listed(reading(0), reading(1)), listed(reading(1, 1))) == [("web-0000", "stopped")]


@pytest.mark.parametrize(("state", "reason"), [(SHUTOFF, "stopped"), (CRASHED, "crashed")])
def test_a_listing_tells_what_no_event_told(state: DomainState, reason: str) -> None:
    assert failures(listed(reading(0)), listed(reading(0, 1, state))) == [("web-0000", reason)]


def paused(at_s: float, reason: str = "user") -> Listed:
    return listed(CpuReading("web-0000", "u0", PAUSED, None, None, at_s, state_reason=reason))


def test_a_pause_without_event_is_told_when_it_is_listed_twice() -> None:
    assert failures(listed(reading(0)), paused(1)) == []
    assert failures(listed(reading(0)), paused(1), paused(2), paused(3)) == [("web-0000", SUSPENDED)]


# --- suspended: it may come back ---------------------------------------------------------------------------------

UP = listed(reading(0))
SUSPENDED_0 = ("web-0000", SUSPENDED)
PAUSE = event("paused", "paused")


def test_a_suspension_is_told_at_once_with_libvirts_reason_and_what_it_means() -> None:
    assert feed(UP, event("paused", "ioerror"))[-1] == (
        Failure(
            host="local",
            domain="web-0000",
            uuid="u0",
            reason=SUSPENDED,
            detail="ioerror: a disk of it cannot be read or written",
        ),
    )


@pytest.mark.parametrize("detail", sorted(PAUSING_EVENTS))
def test_every_pause_of_one_that_ran_is_told_as_the_table_says(detail: str) -> None:
    reason = PAUSING_EVENTS[detail]
    expected = {True: [SUSPENDED], False: ["crashed"]}[MEANINGS[PAUSED, reason].meaning in MAY_COME_BACK]
    told = [why for _, why in failures(UP, event("paused", detail))]
    assert told == ([] if reason == "starting-up" else expected)


@pytest.mark.parametrize(("state", "reason"), [key for key in MEANINGS if key[0] in (PAUSED, SHUTOFF, CRASHED)])
def test_every_listed_state_of_one_that_ran_is_told_as_the_table_says(state: DomainState, reason: str) -> None:
    down = [listed(CpuReading("web-0000", "u0", state, None, None, at_s, state_reason=reason)) for at_s in (1.0, 2.0)]
    (told,) = {why for _, why in failures(UP, *down)} or {"nothing"}
    meaning = MEANINGS[state, reason].meaning
    if (state, reason) == (PAUSED, "starting-up"):
        assert told == "nothing"
    elif meaning in MAY_COME_BACK:
        assert told == SUSPENDED
    elif state is SHUTOFF:
        assert told == "stopped"
    else:
        assert (meaning, told) == (
            Meaning.GUEST_FAULT,
            "panicked" if (state, reason) == (PAUSED, "crashed") else "crashed",
        )


def test_each_new_pause_is_told_and_the_same_one_once() -> None:
    again = (event("resumed"), PAUSE)
    assert failures(UP, PAUSE, paused(1), paused(2), *again, paused(3)) == [SUSPENDED_0, SUSPENDED_0]


def test_the_end_of_a_suspended_domain_is_still_news() -> None:
    assert failures(UP, PAUSE, paused(1), exited()) == [SUSPENDED_0, ("web-0000", "crashed")]
    assert failures(UP, PAUSE, event("stopped", "destroyed")) == [SUSPENDED_0, ("web-0000", "stopped")]
    assert failures(UP, PAUSE, listed(reading(0, 1, SHUTOFF))) == [SUSPENDED_0, ("web-0000", "stopped")]


def test_a_domain_that_is_saved_to_disk_has_not_stopped() -> None:
    saved = CpuReading("web-0000", "u0", SHUTOFF, None, None, 1.0, state_reason="saved")
    seen = (UP, PAUSE, exited(signal=0), event("stopped", "saved"), listed(saved))
    assert failures(*seen) == [SUSPENDED_0, SUSPENDED_0]
    assert sample(*seen).suspended_uuids == ("u0",)
    assert sample(*seen, event("started", "restored"), listed(reading(0, 2))).suspended_uuids == ()


def test_a_suspended_domain_whose_save_is_removed_has_stopped() -> None:
    saved = CpuReading("web-0000", "u0", SHUTOFF, None, None, 1.0, state_reason="saved")
    assert failures(UP, listed(saved), listed(reading(0, 2, SHUTOFF))) == [SUSPENDED_0, ("web-0000", "stopped")]


def test_the_failure_of_a_dead_domain_is_not_told_again_as_a_pause() -> None:
    assert failures(UP, event("failed"), PAUSE) == [("web-0000", "crashed")]


def test_a_suspension_stands_in_every_sample_until_the_domain_runs() -> None:
    seen = (UP, PAUSE, paused(1))
    assert (sample(*seen).states, sample(*seen).suspended_uuids) == (("paused",), ("u0",))
    assert sample(*seen, Silent("no answer")).suspended_uuids == ("u0",)
    assert sample(*seen, listed(reading(0, 2))).suspended_uuids == ()
    assert sample(*seen, event("resumed"), listed(reading(0, 2))).suspended_uuids == ()


def test_a_resume_is_told_at_once_if_the_pause_was() -> None:
    back = (Recovery(host="local", domain="web-0000", uuid="u0"),)
    assert feed(UP, PAUSE, event("resumed"))[-1] == back
    assert feed(UP, paused(1), paused(1), event("resumed"))[-1] == back
    assert feed(UP, event("resumed"))[-1] == ()
    assert feed(UP, PAUSE, event("resumed"), event("resumed"))[-1] == ()


def test_a_reading_from_before_the_pause_does_not_end_it() -> None:
    late = sample(UP, listed(reading(0, 1)), PAUSE, listed(reading(0, 1.9)))
    assert (late.states, late.cpu_ratios, late.suspended_uuids) == (("paused",), (None,), ("u0",))


def test_a_resume_that_was_not_heard_is_seen_by_the_counter() -> None:
    seen = (UP, PAUSE, listed(reading(0, 1)), listed(reading(0, 2)))
    assert (sample(*seen).states, sample(*seen).suspended_uuids) == (("running",), ())


def test_a_domain_first_seen_paused_is_suspended_and_has_not_failed() -> None:
    assert failures(paused(0), paused(1)) == []
    assert sample(paused(0)).suspended_uuids == ("u0",)
    assert sample(paused(0), listed(reading(0, 1))).suspended_uuids == ()


def test_a_guest_fault_is_shown_crashed_though_libvirt_lists_it_paused() -> None:
    shown = sample(UP, event("paused", "watchdog"), paused(1, "watchdog"))
    assert (shown.states, shown.suspended_uuids) == (("crashed",), ())


def test_a_listing_tells_a_failure_once() -> None:
    off = [listed(reading(0, float(tick), SHUTOFF)) for tick in range(1, 4)]
    assert failures(listed(reading(0)), *off) == [("web-0000", "stopped")]


def test_a_domain_never_seen_up_does_not_fail_by_listing() -> None:
    assert failures(listed(reading(0, 0, SHUTOFF)), listed(reading(0, 1, SHUTOFF)), listed()) == []


def test_domains_gone_while_the_host_was_away_failed() -> None:
    away = (Silent("closed", is_certain=True), Silent("refused", is_certain=True))
    assert failures(listed(reading(0), reading(1)), *away, listed(reading(1, 9))) == [("web-0000", "stopped")]


def test_an_unreachable_host_fails_no_domain() -> None:
    assert failures(listed(reading(0)), *[Silent("")] * 9, listed(reading(0, 9))) == []


def test_an_unanswered_domain_is_unknown_and_not_failed() -> None:
    unknown = CpuReading("web-0000", "u0", DomainState.UNKNOWN, None, None, 1.0)
    seen = (listed(reading(0)), Listed((unknown,)))
    assert failures(*seen) == []
    assert sample(*seen).states == ("unknown",)


def test_a_dead_process_that_is_still_listed_as_running_is_shown_crashed() -> None:
    dead = sample(listed(reading(0, 0)), listed(reading(0, 1)), exited(), listed(reading(0, 2, cpu=0.5)))
    assert (dead.states, dead.cpu_ratios) == (("crashed",), (None,))


def test_a_told_domain_whose_counter_moves_is_up_again() -> None:
    seen = (exited(), listed(reading(0, 1)), listed(reading(0, 2)))
    assert sample(*seen).states == ("running",)
    assert failures(*seen, event("failed")) == [("web-0000", "crashed"), ("web-0000", "crashed")]


def test_a_told_domain_that_was_listed_down_is_up_when_it_runs() -> None:
    seen = (event("failed"), listed(reading(0, 1, SHUTOFF)), listed(reading(0, 2)))
    assert sample(*seen).states == ("running",)


# --- the host ----------------------------------------------------------------------------------------------------


def events(*seen: Seen) -> list[str]:
    return [body.name for bodies in feed(*seen) for body in bodies if isinstance(body, Event)]


def test_a_host_is_lost_after_three_missed_ticks_and_told_once() -> None:
    assert events(listed(), Silent(""), Silent("")) == []
    assert events(listed(), *[Silent("")] * 9) == ["host-lost"]


def test_a_closed_connection_loses_the_host_at_once() -> None:
    assert events(listed(), Silent("closed", is_certain=True)) == ["host-lost"]


def test_a_host_that_answers_again_is_back_once() -> None:
    assert events(Silent("", is_certain=True), listed(), listed()) == ["host-lost", "host-back"]


# --- bursts ------------------------------------------------------------------------------------------------------


def is_ours(name: str) -> bool:
    return name.startswith("web-")


def test_a_burst_keeps_the_first_failure_and_the_last_word_of_each_domain() -> None:
    storm: list[tuple[str, Seen]] = [("local", event(kind)) for _ in range(500) for kind in ("stopped", "started")]
    other: tuple[str, Seen] = ("local", event("stopped", number=1))
    assert coalesce([*storm, other], is_ours) == [storm[0], storm[-1], other]


def test_a_restart_and_a_new_failure_in_one_burst_are_both_kept() -> None:
    burst: list[tuple[str, Seen]] = [("local", event(kind)) for kind in ("started", "resumed", "failed")]
    assert coalesce(burst, is_ours) == [burst[0], burst[2]]


def test_a_pause_hides_no_end_of_the_same_burst() -> None:
    kinds = ("paused", "resumed", "stopped", "started")
    burst: list[tuple[str, Seen]] = [("local", event(kind)) for kind in kinds]
    assert coalesce(burst, is_ours) == [burst[0], burst[2], burst[3]]


def test_a_freeze_hides_no_failure_of_the_same_burst() -> None:
    burst: list[tuple[str, Seen]] = [
        ("local", Froze("web-0000", "u0")),
        ("local", exited()),
        ("local", event("started")),
    ]
    assert coalesce(burst, is_ours) == burst


def test_foreign_domains_never_get_through() -> None:
    foreign = LifecycleEvent("website", "u9", "stopped", "")
    burst: list[tuple[str, Seen]] = [
        ("local", foreign),
        ("local", Froze("website", "u9")),
        ("local", Exited("website", "u9", 9)),
        ("local", listed(reading(0), CpuReading("website", "u9", RUNNING, 1.0, 1.0))),
    ]
    assert coalesce(burst, is_ours) == [("local", listed(reading(0)))]


def test_readings_and_silence_stay_in_place_between_events() -> None:
    burst: list[tuple[str, Seen]] = [
        ("a", Silent("")),
        ("a", event("stopped")),
        ("b", event("stopped")),
        ("a", event("defined")),
        ("a", listed()),
    ]
    assert coalesce(burst, is_ours) == [burst[0], burst[1], burst[2], burst[4]]


_SEEN = st.one_of(
    st.builds(
        lambda number, at_s, state: listed(reading(number, at_s, state)),
        st.integers(0, 2),
        st.floats(0, 100),
        st.sampled_from(DomainState),
    ),
    st.builds(
        lambda number, kind: event(kind, number=number),
        st.integers(0, 2),
        st.sampled_from(["started", "stopped", "crashed", "paused", "resumed", "shutdown", "defined"]),
    ),
    st.builds(exited, st.sampled_from([0, 9]), st.integers(0, 2)),
    st.just(Silent("")),
)


@given(st.lists(_SEEN, max_size=40))
def test_a_domain_never_fails_twice_without_having_been_up_between(seen: list[Seen]) -> None:
    down: set[str] = set()
    state = HostState("local", 1.0)
    for one in seen:
        state, messages = handle(state, one)
        for body in messages:
            if isinstance(body, Failure) and body.reason != SUSPENDED:
                assert body.uuid not in down
                down.add(body.uuid)
        down = {uuid for uuid in down if uuid in state.tracks and state.tracks[uuid].is_told}


@given(st.lists(_SEEN, max_size=40))
def test_every_listing_and_every_silence_yields_exactly_one_sample(seen: list[Seen]) -> None:
    for one, messages in zip(seen, feed(*seen), strict=True):
        samples = [body for body in messages if isinstance(body, HostSample)]
        assert len(samples) == isinstance(one, (Listed, Silent))


def test_a_sample_tells_what_the_host_has_idle() -> None:
    first, second = Listed((reading(0, 0),), HostCpu(2, 100.0, 0.0)), Listed((reading(0, 1),), HostCpu(2, 101.2, 1.0))
    assert (sample(first).host_cpus, sample(first).host_idle_cpus) == (2, None)
    assert sample(first, second).host_idle_cpus == pytest.approx(1.2)
    assert sample(first, second, listed(reading(0, 2))).host_idle_cpus is None
