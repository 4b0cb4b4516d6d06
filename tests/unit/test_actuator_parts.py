"""The small parts of the actuator's core: breaker, record, orders, desired capacity, events, boot times, starts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Group, Network
from common.domain import DomainState
from common.messages import DesiredCapacity, Event, Request
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.boot_times import KEPT, added, quantile
from services.actuator.core.breaker import CLOSED, Breaker
from services.actuator.core.context import Context
from services.actuator.core.desired import refuse
from services.actuator.core.events import boot_time_s, event_of
from services.actuator.core.members import Member, View
from services.actuator.core.orders import VERBS, Already, Order, Refusal, fulfil, order_of
from services.actuator.core.record import Record, parse
from services.actuator.core.seen import Seen, SeenDomain, Wanted
from services.actuator.core.steps import Define, SetPhase, Start, Step, Undefine
from services.actuator.core.uuids import domain_uuid
from services.actuator.perform import Outcome, Result
from services.actuator.starts import changes, events
from tests.starts import count_start

RECORD = Record(
    group="web", uuid="u", host="local", phase=Phase.READY, since_mono_s=90.0, since_s=1e9, boot_id="b", slot=2,
    started_mono_s=80.0, template="d1",
)  # fmt: skip


# --- breaker -------------------------------------------------------------------------------------------------------


def test_breaker_opens_at_the_third_failure_and_doubles_to_half_an_hour() -> None:
    breaker, now_s, waits = CLOSED, 0.0, []
    for _ in range(2):
        breaker = breakers.failed(breaker, now_s)
        assert not breakers.is_open(breaker, now_s)
    for _ in range(8):
        breaker = breakers.failed(breaker, now_s)
        assert breaker.open_until_s is not None
        waits.append(breaker.open_until_s - now_s)
        now_s = breaker.open_until_s
        assert breakers.is_half_open(breaker, now_s) and not breakers.is_open(breaker, now_s)
    assert waits == [60, 120, 240, 480, 960, 1800, 1800, 1800]


def test_success_closes_the_breaker_and_forgets() -> None:
    assert breakers.succeeded(Breaker(5, 3, 99.0, 1.0)) == CLOSED


def test_success_keeps_in_mind_that_what_served_died_soon() -> None:
    assert breakers.succeeded(Breaker(5, 3, 99.0, 1.0, ("u",), 4, 7.0, 2)) == Breaker(
        relapses=4, relapsed_s=7.0, held=2
    )
    assert breakers.cured(Breaker(2, relapses=4, relapsed_s=7.0, held=2)) == Breaker(2)


def test_places_of_those_that_die_again_stay_free_from_10_s_to_half_an_hour() -> None:
    breaker, now_s, waits = CLOSED, 100.0, []
    for _ in range(12):
        breaker = breakers.relapsed(breaker, now_s, started_s=now_s)
        waits.append(breakers.relapse_left_s(breaker, now_s))
        assert breakers.held(breaker, now_s) == (waits[-1] > 0)
        now_s += waits[-1]
        assert breakers.held(breaker, now_s) == 0
    assert waits == [0, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]


def test_those_that_die_together_are_one_relapse_of_several_places() -> None:
    breaker = breakers.relapsed(breakers.relapsed(CLOSED, 100.0, 50.0), 110.0, 105.0)
    for started_s in (50.0, 60.0):
        breaker = breakers.relapsed(breaker, 111.0, started_s)
    assert (breaker.relapses, breaker.relapsed_s, breakers.held(breaker, 112.0)) == (2, 110.0, 3)


def test_a_replacement_that_does_not_cure_counts_and_one_for_another_does_not() -> None:
    once = breakers.not_cured(CLOSED, 100.0, ready_s=10.0, served_s=90.0)
    assert once.relapses == 1
    assert breakers.not_cured(once, 150.0, ready_s=105.0, served_s=5.0).relapses == 2
    assert breakers.not_cured(once, 150.0, ready_s=10.0, served_s=140.0).relapses == 1


def test_one_domain_that_fails_again_and_again_counts_once_until_the_breaker_is_half_open() -> None:
    breaker = CLOSED
    for now_s in range(5):
        breaker = breakers.failed(breaker, float(now_s), "u-0")
    assert breaker.failures == 1 and not breakers.is_open(breaker, 5.0)
    for uuid in ("u-1", "u-2"):
        breaker = breakers.failed(breaker, 6.0, uuid)
    assert breakers.is_open(breaker, 7.0)
    assert breakers.is_open(breakers.failed(breaker, 66.0, "u-2"), 66.0), "a trial counts, whoever it was"


@pytest.mark.parametrize(
    ("breaker", "text"),
    [
        (CLOSED, ""),
        (Breaker(3, 1, 160.0, 100.0), "3 starts in a row failed; the next trial is in 60 s"),
        (Breaker(1, 0, None, 99.5), "the last start failed; trying again in a moment"),
        (
            Breaker(relapses=3, relapsed_s=90.0, held=1),
            "replacing does not help: 3 in a row died within 60 s of being ready; the next try in 10 s",
        ),
    ],
)
def test_breaker_says_why_it_holds_and_for_how_long(breaker: Breaker, text: str) -> None:
    assert breakers.why_held(breaker, 100.0) == text


def test_reboot_forgets_relapses() -> None:
    known = Breaker(relapses=3, relapsed_s=90.0, held=1)
    assert breakers.restored(known, 10.0, is_same_boot=False) == CLOSED
    assert breakers.restored(known, 100.0, is_same_boot=True) == known


def test_late_failure_does_not_lengthen_an_open_breaker() -> None:
    opened = Breaker(3, 1, 60.0, 0.0)
    assert breakers.failed(opened, 30.0) == opened


def test_reboot_makes_an_open_breaker_wait_its_last_wait_again() -> None:
    opened = Breaker(4, 2, 50_000.0, 49_000.0)
    assert breakers.restored(opened, 10.0, is_same_boot=False).open_until_s == 10.0 + 120.0
    assert breakers.restored(opened, 49_500.0, is_same_boot=True).open_until_s == 50_000.0


@pytest.mark.parametrize(("now_s", "word"), [(10.0, "open"), (60.0, "half-open")])
def test_breaker_says_what_it_is(now_s: float, word: str) -> None:
    assert breakers.describe(Breaker(3, 1, 60.0, 0.0), now_s) == word
    assert breakers.describe(CLOSED, now_s) == "closed"


def outcome(step: Step, result: Result = Result.DONE) -> Outcome:
    return Outcome(step, result, "" if result is Result.DONE else "no", 100.0)


ABOUT = {"group": "web", "host": "local", "domain": "web-0000", "uuid": "u", "reason": "because"}


def phase_step(was: Phase | None, phase: Phase, **changes: object) -> SetPhase:
    return SetPhase(**(ABOUT | {"record": replace(RECORD, phase=phase), "was": was} | changes))  # type: ignore[arg-type] # a test's values


@pytest.mark.parametrize(
    ("step", "result", "failures"),
    [
        (Start(**ABOUT), Result.FAILED, 1),
        (Start(**ABOUT), Result.UNKNOWN, None),
        (Start(**ABOUT), Result.DONE, None),
        (Define(**ABOUT, record=RECORD, accel="qemu"), Result.FAILED, 1),
        (phase_step(Phase.BOOTING, Phase.FAILED), Result.DONE, 1),
        (phase_step(Phase.READY, Phase.FAILED), Result.DONE, None),
        (phase_step(Phase.BOOTING, Phase.FAILED), Result.FAILED, None),
        (Undefine(**ABOUT), Result.FAILED, None),
    ],
)
def test_only_starts_that_lead_nowhere_are_counted(step: Step, result: Result, failures: int | None) -> None:
    found = count_start({}, outcome(step, result), 100.0)
    assert ({key: b.failures for key, b in found.items()}) == ({} if failures is None else {"web@local": failures})


def test_right_answer_closes_the_breaker_of_its_group_and_host() -> None:
    known = {"web@local": Breaker(2, 0, None, 1.0), "api@local": Breaker(2, 0, None, 1.0)}
    assert count_start(known, outcome(phase_step(Phase.BOOTING, Phase.WARMING)), 100.0) == {"web@local": CLOSED}


@pytest.mark.parametrize("was", [Phase.SUSPENDED, Phase.FAILED, Phase.DRAINING])
def test_who_comes_back_has_not_been_started(was: Phase) -> None:
    known = {"web@local": Breaker(2, 0, None, 1.0)}
    assert count_start(known, outcome(phase_step(was, Phase.WARMING)), 100.0) == {}


@pytest.mark.parametrize(
    ("served_s", "is_sick", "key", "relapses"),
    [(3.0, False, "web@local", 1), (60.0, False, None, 0), (3.0, True, "web@/sick", 1), (999.0, True, "web@/sick", 1)],
)
def test_what_served_too_briefly_is_told_to_the_breaker(
    served_s: float, is_sick: bool, key: str | None, relapses: int
) -> None:
    step = phase_step(Phase.READY, Phase.FAILED, served_s=served_s, is_sick=is_sick)
    found = count_start({}, outcome(step), 100.0)
    assert {name: b.relapses for name, b in found.items()} == ({} if key is None else {key: relapses})


def test_each_domain_of_the_user_has_a_breaker_of_its_own() -> None:
    known: dict[str, Breaker] = {}
    for _ in range(3):
        known |= count_start(known, outcome(Start(**ABOUT), Result.FAILED), 100.0, is_existing=True)
    assert {key: b.failures for key, b in known.items()} == {"web@local": 1, "web@local#web-0000": 3}
    step = phase_step(Phase.READY, Phase.FAILED, served_s=3.0)
    assert list(count_start({}, outcome(step), 100.0, is_existing=True)) == ["web@local#web-0000"]
    right = phase_step(Phase.BOOTING, Phase.WARMING)
    assert set(count_start(known, outcome(right), 100.0, is_existing=True).values()) == {CLOSED}


def told(known: dict[str, Breaker], step: Step, result: Result = Result.DONE, is_existing: bool = False) -> list[Event]:
    found = changes(known, outcome(step, result), 100.0, is_existing)
    return [event for change in found for event in events(change, step, "no" if result is Result.FAILED else "", 100.0)]


def test_replacements_that_do_not_help_are_told_from_the_second_on() -> None:
    died = phase_step(Phase.READY, Phase.FAILED, served_s=3.0)
    assert told({}, died) == []
    (event,) = told({"web@local": Breaker(relapses=1, relapsed_s=1.0)}, died)
    assert (event.name, event.level, event.group) == ("replacing-in-vain", "warning", "web")
    assert event.text.endswith(
        "replacing does not help: 2 in a row died within 60 s of being ready; the next try in 10 s"
    )
    sick = phase_step(Phase.READY, Phase.FAILED, served_s=3.0, ready_s=90.0, is_sick=True)
    (event,) = told({"web@/sick": Breaker(relapses=1, relapsed_s=85.0)}, sick)
    assert event.name == "replacing-in-vain" and "at try 2" in event.text


def test_a_broken_domain_is_a_warning_and_a_broken_host_an_error() -> None:
    known = {"web@local": Breaker(2, culprits=("a", "b")), "web@local#web-0000": Breaker(2)}
    found = told(known, Start(**ABOUT), Result.FAILED, is_existing=True)
    assert [(e.name, e.level, e.domain) for e in found] == [
        ("breaker-opened", "error", ""),
        ("breaker-opened", "warning", "web-0000"),
    ]


# --- record --------------------------------------------------------------------------------------------------------


def test_record_survives_the_way_through_metadata() -> None:
    full = replace(RECORD, protected=True, order="drain", stop_calls=2, is_boosted=True, note="n", generation=7)
    assert parse(full.to_metadata()) == full
    assert parse(replace(RECORD, slot=None, started_mono_s=None).to_metadata()) == replace(
        RECORD, slot=None, started_mono_s=None
    )


@pytest.mark.parametrize(
    "change",
    [{"phase": "sleeping"}, {"phase": ""}, {"since_mono_s": "soon"}, {"slot": "x"}, {"generation": "-"}],
)
def test_record_that_cannot_be_understood_is_no_record(change: dict[str, str]) -> None:
    assert parse(RECORD.to_metadata() | change) is None


@pytest.mark.parametrize("missing", ["group", "uuid", "phase", "since_mono_s", "boot_id"])
def test_record_without_its_essentials_is_no_record(missing: str) -> None:
    metadata = RECORD.to_metadata()
    del metadata[missing]
    assert parse(metadata) is None


# --- desired capacity ----------------------------------------------------------------------------------------------


def desired(generation: int, count: int = 2, minimum: int = 1, maximum: int = 4) -> DesiredCapacity:
    return DesiredCapacity(group="web", generation=generation, desired=count, minimum=minimum, maximum=maximum)


def test_older_generation_is_refused_and_an_equal_one_is_not() -> None:
    assert "older" in refuse(desired(5), desired(4))
    assert refuse(desired(5), desired(5)) == refuse(None, desired(1)) == refuse(desired(5), desired(6)) == ""


@pytest.mark.parametrize("count", [0, 5])
def test_capacity_outside_its_own_bounds_is_refused(count: int) -> None:
    assert "outside its own bounds" in refuse(None, desired(1, count))


# --- boot times, UUIDs ---------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=80), st.floats(0.01, 1))
def test_quantile_is_the_smallest_value_that_covers_the_share(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(1 for value in values if value <= (found or 0)) >= share * len(values) - 1e-9


def test_only_the_newest_boot_times_are_kept() -> None:
    assert len(added([1.0] * KEPT, 2.0)) == KEPT and added([1.0] * KEPT, 2.0)[-1] == 2.0
    assert quantile((), 0.5) is None


def test_uuid_is_the_same_for_the_same_plan_and_new_for_each_life() -> None:
    assert domain_uuid("web", "a", "web-0000", "b", 1.0) == domain_uuid("web", "a", "web-0000", "b", 1.0)
    assert domain_uuid("web", "a", "web-0000", "b", 1.0) != domain_uuid("web", "a", "web-0000", "b", 2.0)


# --- events --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Define(**ABOUT, record=RECORD, accel="qemu"), "domain-created"),
        (Define(**ABOUT, record=RECORD, accel="qemu", replaces="web-0009"), "domain-replaced"),
        (Start(**ABOUT), "domain-started"),
        (phase_step(None, Phase.BOOTING), "domain-adopted"),
        (phase_step(None, Phase.CREATING), None),
        (phase_step(Phase.CREATING, Phase.BOOTING), None),
        (phase_step(Phase.BOOTING, Phase.WARMING), "domain-answering"),
        (phase_step(Phase.WARMING, Phase.READY), "domain-ready"),
        (phase_step(Phase.READY, Phase.READY), None),
        (phase_step(Phase.DRAINING, Phase.READY), "drain-cancelled"),
        (phase_step(Phase.DRAINING, Phase.WARMING), "drain-cancelled"),
        (phase_step(Phase.READY, Phase.DRAINING), "drain-started"),
        (phase_step(Phase.DRAINING, Phase.STOPPING), None),
        (phase_step(Phase.DRAINING, Phase.STOPPING, reason="drain deadline of 30 s, 2 in flight"), "drain-forced"),
        (phase_step(Phase.READY, Phase.FAILED), "domain-failed"),
        (phase_step(Phase.STOPPING, Phase.GONE), "domain-stopped"),
        (Undefine(**ABOUT), "domain-stopped"),
    ],
)
def test_outcomes_worth_knowing_become_events(step: Step, name: str | None) -> None:
    found = event_of(step, "", 100.0)
    assert (found.name if found else None) == name
    assert found is None or (found.group, found.domain, found.host) == ("web", "web-0000", "local")


def test_failed_step_is_an_event_with_its_error() -> None:
    found = event_of(Start(**ABOUT), "no memory", 100.0)
    assert found is not None and (found.name, found.level, found.text) == ("step-failed", "warning", "start: no memory")


def test_boot_time_is_measured_from_the_start_to_readiness() -> None:
    ready = phase_step(Phase.WARMING, Phase.READY)
    found = event_of(ready, "", 100.0)
    assert boot_time_s(ready, 100.0) == 20.0 and found is not None and "20.0 s after its start" in found.text
    assert boot_time_s(phase_step(Phase.DRAINING, Phase.READY), 100.0) is None


# --- orders --------------------------------------------------------------------------------------------------------


def context(wanted: Wanted | None = None, members: tuple[Member, ...] = ()) -> Context:
    seen = Seen(epoch_s=2e9, boot_id="b", hosts=())
    return Context(wanted or Wanted("web", Group(prefix="web-"), Network(), None), seen, View(members), 100.0, False)


def member(phase: Phase = Phase.READY, **changes: object) -> Member:
    record = replace(RECORD, phase=phase, **changes)  # type: ignore[arg-type] # a test's values
    return Member(SeenDomain("local", "web-0000", "u", DomainState.RUNNING, record), record)


def test_unknown_verb_and_missing_domain_are_said_so() -> None:
    assert "known: protect" in str(order_of(Request(verb="explode", args={"domain": "web-0000"})))
    assert "needs the name" in str(order_of(Request(verb="drain")))
    assert order_of(Request(verb="drain", args={"domain": "x", "force": True}, by="me")) == Order(
        "drain", "x", True, "me"
    )


def test_protection_changes_nothing_but_itself() -> None:
    step = fulfil(Order("protect", "web-0000"), context(), member())
    assert isinstance(step, SetPhase) and step.record == replace(RECORD, protected=True)
    assert isinstance(fulfil(Order("protect", "web-0000"), context(), member(protected=True)), Already)
    assert isinstance(fulfil(Order("unprotect", "web-0000"), context(), member()), Already)


@pytest.mark.parametrize("verb", VERBS)
def test_a_group_that_is_only_observed_follows_no_order(verb: str) -> None:
    observed = context(Wanted("web", Group(prefix="web-", mode="observe"), Network(), None))
    found = fulfil(Order(verb, "web-0000", is_forced=True), observed, member())
    assert isinstance(found, Refusal) and "autoscaler mode on" in found.reason


@pytest.mark.parametrize("verb", ["drain", "replace"])
def test_protected_domain_is_taken_away_by_force_only(verb: str) -> None:
    protected = member(protected=True)
    assert isinstance(fulfil(Order(verb, "web-0000"), context(), protected), Refusal)
    assert isinstance(fulfil(Order(verb, "web-0000", True), context(), protected), SetPhase)


@pytest.mark.parametrize(
    ("verb", "phase", "expected"),
    [
        ("drain", Phase.READY, (Phase.DRAINING, "drain")),
        ("drain", Phase.BOOTING, (Phase.STOPPING, "drain")),
        ("replace", Phase.READY, (Phase.READY, "replace")),
        ("replace", Phase.CREATING, (Phase.STOPPING, "replace")),
    ],
)
def test_order_becomes_a_step(verb: str, phase: Phase, expected: tuple[Phase, str]) -> None:
    step = fulfil(Order(verb, "web-0000"), context(), member(phase))
    assert isinstance(step, SetPhase) and (step.record.phase, step.record.order) == expected


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING, Phase.FAILED])
def test_domain_that_leaves_already_needs_no_order(phase: Phase) -> None:
    assert isinstance(fulfil(Order("drain", "web-0000"), context(), member(phase)), Already)


@pytest.mark.parametrize("verb", ["drain", "replace"])
@pytest.mark.parametrize("phase", [Phase.BOOTING, Phase.STANDBY])
def test_domain_of_the_reserve_leaves_at_once(verb: str, phase: Phase) -> None:
    step = fulfil(Order(verb, "web-0000"), context(), member(phase, tier="paused"))
    assert isinstance(step, SetPhase) and step.record.phase is Phase.STOPPING


def test_user_s_domain_that_does_not_answer_is_not_drained() -> None:
    refusal = fulfil(Order("drain", "web-0000"), context(), member(Phase.STANDBY))
    assert isinstance(refusal, Refusal) and "does not answer" in refusal.reason


def test_only_domain_in_rotation_is_drained_by_force_only() -> None:
    alone, spare = member(), member(Phase.WARMING)
    spare = replace(spare, domain=replace(spare.domain, name="web-0001"))
    ready = replace(spare, record=replace(spare.record, phase=Phase.READY))
    refusal = fulfil(Order("drain", "web-0000"), context(members=(alone, spare)), alone)
    assert isinstance(refusal, Refusal) and "ask for replace" in refusal.reason
    for order, others in (
        (Order("drain", "web-0000", is_forced=True), ()),
        (Order("replace", "web-0000"), ()),
        (Order("drain", "web-0000"), (ready,)),
    ):
        assert isinstance(fulfil(order, context(members=(alone, *others)), alone), SetPhase)


def test_undrain_does_not_keep_what_a_scale_in_takes() -> None:
    refusal = fulfil(Order("undrain", "web-0000"), context(), member(Phase.DRAINING))
    assert isinstance(refusal, Refusal) and "fewer domains are desired" in refusal.reason


def test_undrain_brings_back_and_takes_the_order_off() -> None:
    step = fulfil(Order("undrain", "web-0000"), context(), member(Phase.DRAINING, order="drain"))
    assert isinstance(step, SetPhase) and (step.record.phase, step.record.order) == (Phase.WARMING, "")
    waiting = fulfil(Order("undrain", "web-0000"), context(), member(order="replace"))
    assert isinstance(waiting, SetPhase) and (waiting.record.phase, waiting.record.order) == (Phase.READY, "")
    assert isinstance(fulfil(Order("undrain", "web-0000"), context(), member()), Refusal)
