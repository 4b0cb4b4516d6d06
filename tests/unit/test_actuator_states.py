"""What follows from whatever libvirt may show, in every phase, for both kinds of groups: tables that walk all of it."""

from dataclasses import replace
from itertools import product

import pytest

from common.config_live import LIVE_GROUP
from common.domain import DiskTrouble, DomainFacts, DomainState
from common.domain_states import CHECKS_FAIL, MAY_COME_BACK, MEANINGS, RESUMED, RESUMED_AFTER_S, Meaning, row, shown
from common.errors import DomainGoneError
from common.messages import Event
from common.phases import Phase
from common.volume import SeenVolume
from services.actuator.alarms import Alarms
from services.actuator.core import past as pasts
from services.actuator.core import steps as all_steps
from services.actuator.core.events import boot_time_s, event_of
from services.actuator.core.host_faults import fault_of
from services.actuator.core.members import view
from services.actuator.core.membership import membership
from services.actuator.core.orders import Already, Order, Refusal, fulfil
from services.actuator.core.past import Past
from services.actuator.core.plan import context_of, plan
from services.actuator.core.record import parse
from services.actuator.core.seen import Backend, Probe, Seen, SeenDomain, SeenHost, Wanted
from services.actuator.core.standing import KNOWN_AFTER_S, standing, waiting
from services.actuator.core.steps import (
    Destroy,
    Resume,
    SetPhase,
    Shutdown,
    Step,
    Undefine,
)
from services.actuator.core.victims import pick
from services.actuator.orders_desk import View
from services.actuator.perform import IS_DONE_BY_GOING, Result, attempt
from services.actuator.shell import targets
from tests.unit.test_actuator_plan import NOW_S, brief, domain, record, seen, wanted

RUNNING, PAUSED, SHUTOFF, CRASHED = DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF, DomainState.CRASHED
STOPPING = DomainState.STOPPING
ONE, TWO = "web-0000", "web-0001"
KEY = (ONE, f"u-{ONE}")
STATES = [pair for pair in MEANINGS if pair[0] is not DomainState.UNKNOWN]
HELD = [pair for pair in STATES if MEANINGS[pair].meaning in MAY_COME_BACK]
SERVED = {"served_mono_s": NOW_S - 90.0, "probed_mono_s": NOW_S - 95.0}
LIVES = [{}, SERVED, SERVED | {"stop_calls": 5}]


def shows(
    state: tuple[DomainState, str], phase: Phase = Phase.READY, age_s: float = 100.0, **changes: object
) -> SeenDomain:
    power, reason = state
    has_saved = state == (SHUTOFF, "saved")
    found = domain(ONE, phase, power, age_s, **changes)
    return replace(found, power_reason=reason, has_saved_state=has_saved, past=Past(power, reason))


def beside(*domains: SeenDomain, **changes: object) -> Seen:
    """What is seen beside one that serves well."""
    return seen(*domains, domain(TWO, **SERVED), **changes)


def group_of(kind: str, power_off: str | None = None, count: int | None = 1) -> Wanted:
    address = {} if kind == "template" else {"address_source": "arp"}
    power = {} if power_off is None else {"power_off": power_off}
    return wanted(count, kind=kind, stop_timeout_s=10.0, **address, **power)


def steps_for(want: Wanted, see: Seen, name: str = ONE) -> tuple[Step, ...]:
    return tuple(step for step in plan(want, see, NOW_S).steps if step.domain == name)


# --- whatever libvirt shows -------------------------------------------------------------------------------------------


def asked_to_stop(state: tuple[DomainState, str], phase: Phase, life: dict[str, object]) -> bool:
    """Return whether the domain shuts down because we have asked it to."""
    is_going_down = state[0] is STOPPING or state[1] == "shutting-down"
    return is_going_down and phase is not Phase.CREATING and bool(life.get("stop_calls"))


@pytest.mark.parametrize("kind", ["template", "existing"])
@pytest.mark.parametrize("phase", list(Phase))
def test_nothing_is_ended_that_may_come_back(kind: str, phase: Phase) -> None:
    for state, age_s, life, power_off in product(HELD, (1.0, 1e5), LIVES, (None, "never", "after-stop-timeout")):
        if asked_to_stop(state, phase, life):
            continue
        found = steps_for(group_of(kind, power_off), beside(shows(state, phase, age_s, **life)))
        assert not [step for step in found if isinstance(step, Destroy | Undefine)], (state, age_s, life, power_off)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("power_off", [None, "never"])
def test_existing_domain_is_powered_off_from_no_state_at_all(phase: Phase, power_off: str | None) -> None:
    for state, age_s, life in product(STATES, (1.0, 1e5), LIVES):
        found = steps_for(group_of("existing", power_off), beside(shows(state, phase, age_s, **life)))
        assert not [step for step in found if isinstance(step, Destroy | Undefine)], (state, age_s, life)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("phase", [Phase.BOOTING, Phase.WARMING, Phase.READY])
def test_what_serves_follows_the_meaning_of_its_state(state: tuple[DomainState, str], phase: Phase) -> None:
    expected = {
        Meaning.UP: [],
        Meaning.TRANSIENT: ["SetPhase web-0000 suspended"],
        Meaning.OWNER: ["SetPhase web-0000 suspended"],
        Meaning.HOST_FAULT: ["SetPhase web-0000 suspended"],
        Meaning.GUEST_FAULT: ["SetPhase web-0000 failed"],
        Meaning.OFF: ["SetPhase web-0000 failed"],
    }
    see = beside(shows(state, phase, 1.0), backends={KEY: Backend("joining", None, 0)})
    found = steps_for(group_of("template", count=None), see)
    assert brief(found) == expected[MEANINGS[state].meaning]


@pytest.mark.parametrize("state", HELD)
def test_held_domain_is_told_as_suspended_with_the_reason_before_its_record_says_so(
    state: tuple[DomainState, str],
) -> None:
    want, see = group_of("existing"), beside(shows(state))
    told = next(m for m in membership(want, see, plan(want, see, NOW_S), (), NOW_S).members if m.name == ONE)
    assert (told.phase, told.note) == (Phase.SUSPENDED, MEANINGS[state].text)


@pytest.mark.parametrize(("state", "phase"), [((CRASHED, "panicked"), "failed"), ((SHUTOFF, "crashed"), "failed")])
def test_lost_domain_is_told_as_failed_before_its_record_says_so(state: tuple[DomainState, str], phase: str) -> None:
    want, see = group_of("template"), beside(shows(state))
    told = membership(want, see, plan(want, see, NOW_S), (), NOW_S).members
    assert next(m.phase for m in told if m.name == ONE) == phase


def test_state_of_a_domain_that_is_off_is_told_by_the_file_of_its_memory() -> None:
    assert shown(SHUTOFF, "unknown", True).meaning is Meaning.OWNER
    assert shown(SHUTOFF, "saved", False).meaning is Meaning.OWNER, "to a file that libvirt does not know any more"
    assert shown(SHUTOFF, "shutdown", False).meaning is Meaning.OFF
    assert shown(PAUSED, "ioerror", False) is row(PAUSED, "ioerror")


# --- coming back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "life", "phase"),
    [("unpaused", SERVED, "warming"), ("unpaused", {}, "booting"), ("booted", SERVED, "booting")],
)
def test_suspended_domain_that_runs_goes_back_to_where_it_was(reason: str, life: dict[str, object], phase: str) -> None:
    see = beside(shows((RUNNING, reason), Phase.SUSPENDED, **life))
    (step,) = steps_for(group_of("existing"), see)
    assert isinstance(step, SetPhase) and step.record.phase == phase and step.record.note == ""


def test_its_way_back_is_no_start_and_no_boot() -> None:
    member = shows((RUNNING, "unpaused"), Phase.WARMING, age_s=2.0, **SERVED)
    (step,) = steps_for(group_of("template", count=2), beside(member))
    assert isinstance(step, SetPhase) and step.record.phase is Phase.READY and step.lead_s is None
    assert boot_time_s(step, NOW_S) is None


def test_first_time_in_rotation_is_written_down_and_clears_its_failures() -> None:
    member = shows((RUNNING, "booted"), Phase.WARMING, age_s=2.0, failures=2)
    (step,) = steps_for(group_of("template", count=2), beside(member))
    assert isinstance(step, SetPhase) and (step.record.served_mono_s, step.record.failures) == (NOW_S, 0)
    assert boot_time_s(step, NOW_S) == 2.0


def test_clock_of_a_phase_starts_anew_when_a_paused_domain_runs() -> None:
    late = shows((RUNNING, "unpaused"), Phase.DRAINING, age_s=500.0, **SERVED)
    ran = replace(late, past=Past(RUNNING, "unpaused", NOW_S - 3.0))
    assert brief(steps_for(group_of("template"), beside(late))) == ["SetPhase web-0000 stopping"]
    assert steps_for(group_of("template"), beside(ran)) == ()


def test_who_stood_in_leaves_and_not_the_one_that_came_back() -> None:
    back = domain(ONE, Phase.WARMING, age_s=1.0, started_mono_s=NOW_S - 900, **SERVED)
    stand_in = domain("web-0002", age_s=5.0, served_mono_s=NOW_S - 5)
    old = domain(TWO, age_s=800.0, **SERVED)
    found = view(wanted(2), seen(back, stand_in, old)).members
    assert [member.name for member in pick(found, 3, spare=2)] == ["web-0002", TWO, ONE]
    assert pick(found, 3, spare=0) == [], "nobody leaves before the one that came back is in rotation"


def test_one_that_recovered_has_to_prove_itself_before_others_leave_for_it() -> None:
    recovered = domain(ONE, Phase.WARMING, age_s=1.0, failures=1, **SERVED)
    assert [m.name for m in pick(view(wanted(1), seen(recovered, domain(TWO))).members, 1, spare=0)] == [ONE]


# --- replaced beside ------------------------------------------------------------------------------------------------


def suspended(age_s: float, state: tuple[DomainState, str] = (PAUSED, "snapshot")) -> SeenDomain:
    return shows(state, Phase.SUSPENDED, age_s, note="a snapshot of it is being taken", **SERVED)


@pytest.mark.parametrize(("age_s", "is_replaced"), [(9.0, False), (11.0, True)])
def test_suspended_domain_counts_for_the_grace_while_another_serves(age_s: float, is_replaced: bool) -> None:
    found = plan(wanted(2), beside(suspended(age_s)), NOW_S).steps
    assert brief(found) == (["Define web-0002"] if is_replaced else [])


@pytest.mark.parametrize("other", [None, (PAUSED, "snapshot")])
def test_suspended_domain_does_not_count_where_nobody_else_serves(other: tuple[DomainState, str] | None) -> None:
    others = () if other is None else (replace(domain(TWO, Phase.SUSPENDED, PAUSED), power_reason=other[1]),)
    found = plan(wanted(1), seen(suspended(1.0), *others), NOW_S).steps
    assert brief(found) == ["Define web-0002" if others else "Define web-0001"]


def test_pause_that_cannot_be_written_down_is_counted_from_what_was_seen() -> None:
    paused = replace(shows((PAUSED, "ioerror"), **SERVED), past=Past(PAUSED, "ioerror", NOW_S - 11, NOW_S - 11))
    far = SeenHost("far")
    see = beside(paused)
    found = plan(wanted(2, hosts=("local", "far")), replace(see, hosts=(*see.hosts, far)), NOW_S).steps
    assert [(type(step).__name__, step.host) for step in found] == [("Resume", "local"), ("Define", "far")]


def test_without_room_beside_it_the_group_says_who_keeps_the_place() -> None:
    found = plan(wanted(1, max=1, surge=0), seen(suspended(100.0)), NOW_S)
    assert found.steps == ()
    assert found.blocked[-1] == "web-0000 keeps its place: a snapshot of it is being taken"


# --- a fault of the host --------------------------------------------------------------------------------------------


def hurt(resumes: int = 0, resumed_s: float | None = None, ago_s: float = 6.0, is_full: bool = True) -> Past:
    trouble = DiskTrouble("vda", "/pool/web-0000.qcow2", is_full)
    return Past(PAUSED, "ioerror", NOW_S - ago_s, NOW_S - ago_s, resumes, resumed_s, (trouble,))


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.GONE,)])
def test_domain_that_a_fault_of_its_host_has_paused_is_resumed_in_every_phase(phase: Phase) -> None:
    found = steps_for(group_of("existing"), beside(replace(shows((PAUSED, "ioerror"), phase), past=hurt())))
    assert [type(step) for step in found] == [Resume]


@pytest.mark.parametrize("state", [pair for pair in STATES if pair not in RESUMED])
def test_nothing_else_is_resumed(state: tuple[DomainState, str]) -> None:
    for phase in Phase:
        found = shows(state, phase)
        found = replace(found, past=Past(*state, NOW_S - 99, NOW_S - 99))
        assert not [s for s in steps_for(group_of("existing"), beside(found)) if isinstance(s, Resume)]


def test_resumes_become_rarer_until_it_has_run_for_a_minute() -> None:
    past = pasts.seen(None, PAUSED, "ioerror", 0.0)
    now_s, tries = 0.0, list[float]()
    while now_s < 300:
        now_s += 1.0
        if pasts.is_resume_due(past, now_s):
            tries.append(now_s)
            past = pasts.resumed(past, now_s)
            past = pasts.seen(past, RUNNING, "unpaused", now_s + 0.01)
            past = pasts.seen(past, PAUSED, "ioerror", now_s + 0.02)
    assert tries == [5.0, 15.0, 35.0, 75.0, 135.0, 195.0, 255.0] and RESUMED_AFTER_S[-1] == 60
    past = pasts.seen(past, RUNNING, "unpaused", 300.0)
    assert pasts.seen(past, RUNNING, "unpaused", 359.0).resumes == 7
    assert pasts.seen(past, RUNNING, "unpaused", 361.0) == Past(RUNNING, "unpaused", 300.0)


def test_resumed_domain_is_out_of_the_fault_once_it_runs_steadily() -> None:
    past = pasts.seen(hurt(1, NOW_S), RUNNING, "unpaused", NOW_S)
    found = replace(shows((RUNNING, "unpaused"), Phase.SUSPENDED, **SERVED), past=past)
    assert steps_for(group_of("existing"), beside(found)) == ()
    steady = replace(found, past=replace(past, since_s=NOW_S - 2.1))
    assert brief(steps_for(group_of("existing"), beside(steady))) == ["SetPhase web-0000 warming"]


@pytest.mark.parametrize(("is_full", "text"), [
    (True, "no space on a disk of host local (vda of web-0000: /pool/web-0000.qcow2); paused by it: web-0000"),
    (False, "a disk on host local cannot be read or written (vda of web-0000: /pool/web-0000.qcow2); "
            "paused by it: web-0000"),
])  # fmt: skip
def test_nothing_new_goes_to_a_host_with_a_fault(is_full: bool, text: str) -> None:
    see = beside(replace(shows((PAUSED, "ioerror"), Phase.SUSPENDED, note="x", **SERVED), past=hurt(is_full=is_full)))
    fault = fault_of(see.hosts[0], "web-", NOW_S)
    assert fault is not None and fault.text == text
    found = plan(wanted(4), see, NOW_S)
    assert [type(step) for step in found.steps] == [Resume] and found.blocked[0] == f"local: {text}"
    pool = SeenDomain("local", "web-0007", "u-7", SHUTOFF, None)
    host = SeenHost("local", (*see.hosts[0].domains, pool))
    found = plan(group_of("existing", count=4), replace(see, hosts=(host,)), NOW_S)
    assert [type(step) for step in found.steps] == [Resume] and text in found.blocked[0]


def test_host_that_is_silent_tells_no_fault() -> None:
    host = SeenHost("local", (replace(shows((PAUSED, "ioerror")), past=hurt()),), is_reachable=False)
    assert fault_of(host, "web-", NOW_S) is None


def test_many_paused_domains_are_one_fault_and_few_are_named() -> None:
    names = [f"web-{index:04d}" for index in range(6)]
    domains = tuple(replace(domain(name, power=PAUSED), power_reason="ioerror") for name in names)
    fault = fault_of(SeenHost("local", domains), "web-", NOW_S)
    assert fault is not None and fault.text.endswith("web-0000, web-0001, web-0002, web-0003 and 2 more")


# --- failed ---------------------------------------------------------------------------------------------------------


def sick(age_s: float, failures: int = 1) -> SeenDomain:
    note = "its health checks fail"
    return shows((RUNNING, "booted"), Phase.FAILED, age_s, note=note, failures=failures, **SERVED)


@pytest.mark.parametrize(
    ("want", "age_s", "expected"),
    [
        (wanted(1), 1, ["Destroy web-0000"]),
        (wanted(2), 1, []),
        (wanted(2), 9999, []),
        (wanted(2, max=2, surge=0), 59, []),
        (wanted(2, max=2, surge=0), 61, ["Destroy web-0000"]),
        (wanted(2, power_off="never"), 9999, []),
        (wanted(1, power_off="never"), 1, ["SetPhase web-0000 stopping"]),
        (group_of("existing", count=1), 1, ["SetPhase web-0000 stopping"]),
        (group_of("existing", count=2), 59, []),
        (group_of("existing", count=2), 61, ["SetPhase web-0000 stopping"]),
        (group_of("existing", "after-stop-timeout"), 1, ["SetPhase web-0000 stopping"]),
    ],
)
def test_failed_domain_that_has_served_goes_when_nobody_misses_it_or_after_its_time(
    want: Wanted, age_s: float, expected: list[str]
) -> None:
    assert CHECKS_FAIL.limit_s == 60
    assert brief(steps_for(want, beside(sick(age_s)))) == expected


def test_failed_domain_goes_where_its_host_is_full() -> None:
    see = beside(sick(61.0))
    full = replace(see, hosts=(replace(see.hosts[0], free_memory_bytes=1),))
    assert brief(steps_for(wanted(2), full)) == ["Destroy web-0000"]


def test_one_that_has_another_in_its_place_goes_the_oldest_first() -> None:
    old, new = sick(50.0), replace(sick(10.0), name="web-0002", uuid="u-web-0002")
    new = replace(new, record=record("web-0002", Phase.FAILED, 10.0, **SERVED))
    found = plan(wanted(2), beside(old, new), NOW_S).steps
    assert [step.domain for step in found if isinstance(step, Destroy)] == [ONE]


def test_one_that_cannot_recover_goes_before_one_that_may_and_a_paused_one_takes_nobodys_turn() -> None:
    def failed(name: str, state: tuple[DomainState, str], age_s: float) -> SeenDomain:
        found = domain(name, Phase.FAILED, state[0], age_s, note="x", failures=1, **SERVED)
        return replace(found, power_reason=state[1])

    older = failed(ONE, (RUNNING, "booted"), 50.0)
    panicked = failed("web-0002", (PAUSED, "crashed"), 10.0)
    paused = failed("web-0003", (PAUSED, "user"), 90.0)
    for others, goes in (((older, panicked), "web-0002"), ((older, paused), None), ((older,), None)):
        found = plan(wanted(2), beside(*others), NOW_S).steps
        assert [step.domain for step in found if isinstance(step, Destroy)] == ([goes] if goes else [])


def test_start_that_led_nowhere_goes_at_once() -> None:
    assert brief(steps_for(wanted(2), beside(shows((RUNNING, "booted"), Phase.FAILED, 1.0)))) == ["Destroy web-0000"]


@pytest.mark.parametrize(("failures", "expected"), [(1, ["SetPhase web-0000 warming"]), (2, [])])
def test_failed_domain_that_answers_goes_back_once(failures: int, expected: list[str]) -> None:
    see = beside(sick(5.0, failures), probes={KEY: Probe(True, ONE)})
    assert brief(steps_for(wanted(2), see)) == expected


def test_failed_domain_that_runs_is_asked_whether_it_answers() -> None:
    for power, is_asked in ((RUNNING, True), (PAUSED, False), (SHUTOFF, False)):
        want, see = group_of("template"), beside(domain(ONE, Phase.FAILED, power, **SERVED))
        assert (KEY in targets(View(want, see, plan(want, see, NOW_S)))) is is_asked


@pytest.mark.parametrize("kind", ["template", "existing"])
def test_panicked_domain_that_libvirt_preserves_still_has_its_power(kind: str) -> None:
    found = steps_for(group_of(kind), beside(shows((CRASHED, "panicked"), Phase.FAILED, **SERVED)))
    assert brief(found) == (["Destroy web-0000"] if kind == "template" else [])
    want, see = group_of(kind), beside(shows((CRASHED, "panicked"), Phase.FAILED, **SERVED))
    left = (
        "web-0000 has failed and keeps its place until its owner ends it: its kernel has panicked; power_off is never"
    )
    assert waiting(context_of(want, see, NOW_S)) == ((left,) if kind == "existing" else ())
    cut = steps_for(group_of(kind, "after-stop-timeout"), beside(shows((CRASHED, "panicked"), Phase.FAILED, **SERVED)))
    assert brief(cut) == ["Destroy web-0000"]


# --- power_off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "power_off", "may_cut"),
    [("template", None, True), ("existing", None, False), ("template", "never", False),
     ("existing", "after-stop-timeout", True)],
)  # fmt: skip
def test_power_is_cut_by_default_only_where_we_have_made_the_domain(
    kind: str, power_off: str | None, may_cut: bool
) -> None:
    want = group_of(kind, power_off)
    assert want.group.may_cut_power is may_cut and "power_off" in LIVE_GROUP
    found = steps_for(want, beside(shows((RUNNING, "booted"), Phase.STOPPING, 11.0, stop_calls=2, **SERVED)))
    assert brief(found) == (["Destroy web-0000"] if may_cut else ["Shutdown web-0000"])


@pytest.mark.parametrize(("calls", "age_s", "is_asked"), [
    (0, 0.0, True), (1, 4.0, False), (1, 5.0, True), (2, 10.0, True), (3, 19.0, False), (3, 20.0, True),
    (4, 29.0, False), (4, 30.0, True),
])  # fmt: skip
def test_deaf_domain_is_asked_half_way_at_the_deadline_and_then_each_stop_timeout(
    calls: int, age_s: float, is_asked: bool
) -> None:
    member = shows((RUNNING, "booted"), Phase.STOPPING, age_s, stop_calls=calls, **SERVED)
    assert bool(steps_for(group_of("existing"), beside(member))) is is_asked


def leaves(stop_terms: str, calls: int = 3, age_s: float = 9999.0) -> SeenDomain:
    asked = {"stop_calls": calls, "stop_terms": stop_terms}
    return shows((RUNNING, "booted"), Phase.STOPPING, age_s, **asked, **SERVED)


@pytest.mark.parametrize("terms", ["never", "300", ""])
@pytest.mark.parametrize("kind", ["template", "existing"])
def test_what_was_asked_to_shut_down_under_other_terms_has_the_whole_of_the_new_time(kind: str, terms: str) -> None:
    want = group_of(kind, "after-stop-timeout")
    (anew,) = steps_for(want, beside(leaves(terms)))
    assert isinstance(anew, SetPhase) and (anew.record.since_mono_s, anew.record.stop_calls) == (NOW_S, 0)
    since = replace(leaves(terms), record=anew.record)
    for later_s, expected in ((0.0, "Shutdown"), (9.9, "Shutdown"), (10.1, "Destroy")):
        steps = [step for step in plan(want, beside(since), NOW_S + later_s).steps if step.domain == ONE]
        assert [type(step).__name__ for step in steps] == [expected], later_s


def test_one_whose_power_is_not_cut_goes_on_being_asked_and_the_next_request_notes_the_terms() -> None:
    assert brief(steps_for(group_of("existing"), beside(leaves("10", 3, 19.0)))) == []
    (asked,) = steps_for(group_of("existing"), beside(leaves("10", 3, 20.0)))
    assert isinstance(asked, Shutdown) and (asked.record.stop_terms, asked.record.stop_calls) == ("never", 4)


def test_who_ignores_the_power_button_is_asked_by_its_agent_too() -> None:
    for calls, is_by_agent_too in ((0, False), (1, True), (2, True)):
        (asked,) = steps_for(group_of("existing"), beside(leaves("never", calls)))
        assert isinstance(asked, Shutdown) and asked.is_by_agent_too is is_by_agent_too


@pytest.mark.parametrize("kind", ["template", "existing"])
@pytest.mark.parametrize(("age_s", "goes"), [(9.0, []), (11.0, [TWO])])
def test_one_that_takes_long_to_shut_down_keeps_nobody_else_from_leaving(
    kind: str, age_s: float, goes: list[str]
) -> None:
    found = plan(group_of(kind, "never", 0), beside(leaves("never", 3, age_s)), NOW_S).steps
    assert [step.domain for step in found if isinstance(step, SetPhase)] == goes


def test_a_cut_is_a_warning_that_names_the_domain_and_the_key_to_raise() -> None:
    (cut,) = steps_for(group_of("template"), beside(leaves("10", 2, 11.0)))
    event = event_of(cut, "", NOW_S)
    assert event is not None and (event.name, event.domain, event.level) == ("domain-powered-off", ONE, "warning")
    assert event.text == (
        "it did not shut down in time: asked 2 times in 10 s, then its power was cut; "
        "if it only needs longer, raise groups.web.stop_timeout_s"
    )
    (other,) = steps_for(wanted(1), beside(sick(1.0)))
    assert (told := event_of(other, "", NOW_S)) is not None and told.level == "info"


def test_template_domain_that_never_served_goes_whatever_power_off_says() -> None:
    reserve = domain(ONE, Phase.STOPPING, PAUSED, tier="paused", note="left before it served")
    (step,) = steps_for(group_of("template", "never"), beside(replace(reserve, power_reason="user")))
    assert isinstance(step, Destroy) and step.is_own_doing


# --- what stands ----------------------------------------------------------------------------------------------------


def told(*domains: SeenDomain, kind: str = "existing", now_s: float = NOW_S) -> list[Event]:
    want, see = group_of(kind), beside(*domains)
    return list(standing(context_of(want, see, now_s)).values())


def test_fault_is_told_with_its_disks_or_without_them_where_libvirt_does_not_say() -> None:
    known = replace(shows((PAUSED, "ioerror")), past=hurt(ago_s=0.1))
    (event,) = told(known)
    assert (event.name, event.level, event.host, event.domain) == ("host-fault", "error", "local", "")
    unknown = replace(known, past=replace(hurt(ago_s=0.0), troubles=()))
    assert told(unknown) == []
    assert [event.name for event in told(unknown, now_s=NOW_S + KNOWN_AFTER_S)] == ["host-fault"]


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_passive_mode_tells_the_fault_and_promises_no_resume(mode: str) -> None:
    want = group_of("existing")
    assert want.desired is not None
    off = replace(want, desired=want.desired.model_copy(update={"mode": mode}))
    see = beside(replace(shows((PAUSED, "ioerror")), past=hurt()))
    found = plan(off, see, NOW_S)
    assert not [step for step in found.steps if isinstance(step, Resume)]
    assert "no space" in found.notes[0] and "resumed again" not in " ".join(found.notes)
    assert set(waiting(context_of(off, see, NOW_S))) <= set(found.notes)


@pytest.mark.parametrize("state", HELD)
def test_pause_that_lasts_is_told_after_its_limit(state: tuple[DomainState, str]) -> None:
    limit_s = MEANINGS[state].limit_s or 0.0
    for age_s, is_told in ((limit_s - 1, False), (limit_s + 1, limit_s > 0)):
        late = [e for e in told(shows(state, Phase.SUSPENDED, max(age_s, 0.0))) if e.name == "still-suspended"]
        assert bool(late) is is_told


def test_alarm_is_said_once_and_its_end_where_it_matters() -> None:
    said: list[Event] = []
    alarms = Alarms(said.append)
    fault = {("host-fault", "local", "no-space"): Event(name="host-fault", host="local")}
    deaf = {("shutdown-ignored", "local", ONE): Event(name="shutdown-ignored")}
    for standing_now in (fault, fault | deaf, deaf, {}, fault):
        alarms.tell(standing_now)
    assert [event.name for event in said] == ["host-fault", "shutdown-ignored", "host-fault-over", "host-fault"]
    alarms.tell({}, silent_hosts={"local"})
    alarms.tell(fault)
    assert len(said) == 4, "a host that is silent has not got room"


# --- orders ---------------------------------------------------------------------------------------------------------


def ordered(verb: str, member: SeenDomain, backend: Backend | None = None) -> SetPhase | Refusal | Already:
    see = beside(member)
    backends = dict(see.backends or {}) if backend is None else {**(see.backends or {}), KEY: backend}
    context = context_of(wanted(1), replace(see, backends=backends), NOW_S)
    return fulfil(Order(verb, ONE), context, next(m for m in context.view.members if m.name == ONE))


@pytest.mark.parametrize(("state", "phase"), [("draining", Phase.READY), ("left", Phase.WARMING)])
@pytest.mark.parametrize("verb", ["protect", "undrain"])
def test_cancelled_drain_is_ready_only_where_the_balancer_still_has_it(verb: str, state: str, phase: Phase) -> None:
    order = "drain" if verb == "undrain" else ""
    step = ordered(verb, domain(ONE, Phase.DRAINING, order=order), Backend(state, None if state == "left" else True, 0))
    assert isinstance(step, SetPhase)
    assert (step.record.phase, step.record.protected, step.record.order) == (phase, verb == "protect", "")


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (
            domain(ONE, Phase.DRAINING, order="replace"),
            "web-0000 leaves on an operator's order (replace); first undrain it",
        ),
        (domain(ONE, Phase.DRAINING, PAUSED), "web-0000 is draining, and does not serve well enough to be kept"),
        (domain(ONE, Phase.STOPPING), "web-0000 cannot be kept any more: it is stopping"),
        (domain(ONE, Phase.FAILED), "web-0000 cannot be kept any more: it is failed"),
    ],
)
def test_protection_that_comes_too_late_is_refused(member: SeenDomain, reason: str) -> None:
    assert ordered("protect", member) == Refusal(reason)


def test_suspended_domain_may_be_protected_and_is_neither_drained_nor_replaced() -> None:
    step = ordered("protect", suspended(5.0))
    assert isinstance(step, SetPhase) and step.record.protected and step.record.phase is Phase.SUSPENDED
    for verb in ("drain", "replace"):
        answer = ordered(verb, suspended(5.0))
        assert answer == Refusal("web-0000 is suspended (a snapshot of it is being taken); ask again when it runs")


def test_paused_domain_is_not_undrained() -> None:
    answer = ordered("undrain", replace(domain(ONE, Phase.DRAINING, PAUSED, order="drain"), power_reason="snapshot"))
    assert answer == Refusal("web-0000 does not run: a snapshot of it is being taken")


# --- steps ----------------------------------------------------------------------------------------------------------


def test_every_step_says_whether_it_is_done_once_its_domain_is_gone() -> None:
    kinds = {kind for kind in vars(all_steps).values() if isinstance(kind, type) and issubclass(kind, Step)}
    assert set(IS_DONE_BY_GOING) == kinds - {Step}
    done = {kind for kind, is_done in IS_DONE_BY_GOING.items() if is_done}
    assert done == {all_steps.Destroy, all_steps.Undefine, all_steps.Shutdown}


class Host:
    """One domain in some state; its calls, and the one that finds it gone."""

    def __init__(self, power: DomainState, reason: str, has_saved: bool = False, is_gone: bool = False) -> None:
        facts = record(ONE).to_metadata()
        self.shown = DomainFacts(ONE, f"u-{ONE}", power, reason, True, facts, has_saved)
        self.calls: list[str] = []
        self.is_gone = is_gone

    def facts(self, _name: str) -> DomainFacts:
        return self.shown

    def _call(self, call: str) -> None:
        self.calls.append(call)
        if self.is_gone:
            raise DomainGoneError("gone")

    def destroy(self, _name: str, _uuid: str) -> None:
        self._call("destroy")

    def undefine(self, _name: str, _uuid: str) -> None:
        self._call("undefine")

    def resume(self, _name: str, _uuid: str) -> None:
        self._call("resume")

    def set_metadata(self, _name: str, _uuid: str, _metadata: dict[str, str]) -> None:
        self._call("set_metadata")

    def volumes(self) -> list[SeenVolume]:
        return []

    def remove_volumes(self, _is_to_go: object) -> None:
        pass


ABOUT = {"group": "web", "host": "local", "domain": ONE, "uuid": f"u-{ONE}", "reason": ""}


def tried(host: Host, step: Step) -> tuple[Result, str]:
    return attempt(host, step, None)  # type: ignore[arg-type] # the calls that these steps make


@pytest.mark.parametrize("state", [pair for pair in HELD if pair[0] is not SHUTOFF])
def test_domain_that_was_paused_since_the_plan_is_not_destroyed(state: tuple[DomainState, str]) -> None:
    host = Host(*state)
    result, error = tried(host, Destroy(**ABOUT))
    assert (result, host.calls) == (Result.FAILED, []) and error.endswith(f"({MEANINGS[state].text}); it is left alone")
    assert tried(host, Destroy(**ABOUT, is_own_doing=True)) == (Result.DONE, "")


@pytest.mark.parametrize(("reason", "has_saved", "is_kept"), [
    ("saved", True, True), ("unknown", True, True), ("saved", False, True), ("shutdown", False, False),
])  # fmt: skip
def test_memory_that_was_saved_since_the_plan_is_not_undefined(reason: str, has_saved: bool, is_kept: bool) -> None:
    host = Host(SHUTOFF, reason, has_saved)
    tried(host, Undefine(**ABOUT))
    assert host.calls == ([] if is_kept else ["undefine"])
    tried(host, Undefine(**ABOUT, is_own_doing=True))
    assert host.calls[-1] == "undefine"


@pytest.mark.parametrize(
    ("state", "is_done"),
    [((PAUSED, "ioerror"), True), ((RUNNING, "unpaused"), True), ((PAUSED, "user"), False), ((SHUTOFF, ""), False)],
)
def test_only_what_a_fault_has_paused_is_resumed_whatever_was_planned(
    state: tuple[DomainState, str], is_done: bool
) -> None:
    host = Host(*state)
    assert (tried(host, Resume(**ABOUT))[0] is Result.DONE) is is_done
    assert host.calls == (["resume"] if is_done else [])


def test_record_of_a_domain_that_is_gone_is_not_written() -> None:
    step = SetPhase(**ABOUT, record=record(ONE), was=Phase.WARMING)
    assert tried(Host(RUNNING, "", is_gone=True), step) == (Result.FAILED, "the domain is gone")
    assert tried(Host(RUNNING, "", is_gone=True), Destroy(**ABOUT)) == (Result.DONE, "")


# --- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "has_served"), [("ready", True), ("draining", True), ("booting", False), ("failed", False)]
)
def test_record_of_an_older_release_tells_by_its_phase_whether_it_has_served(phase: str, has_served: bool) -> None:
    older = record(ONE, Phase(phase)).to_metadata()
    del older["served_mono_s"], older["failures"]
    found = parse(older)
    assert found is not None and (found.has_served, found.failures) == (has_served, 0)


@pytest.mark.parametrize("changes", [{}, SERVED | {"failures": 3, "phase": Phase.SUSPENDED}])
def test_record_comes_back_as_it_was_written(changes: dict[str, object]) -> None:
    written = replace(record(ONE), **changes)  # type: ignore[arg-type] # a record's fields
    assert parse(written.to_metadata()) == written


def test_second_look_at_a_failed_domain_is_no_second_failure() -> None:
    old = replace(sick(5.0), record=record(ONE, Phase.FAILED, 5.0, failures=1, boot_id="other", **SERVED))
    (step,) = steps_for(wanted(2), beside(old))
    assert isinstance(step, SetPhase) and step.record.failures == 1


EVENTS = [
    (Phase.READY, Phase.SUSPENDED, "domain-suspended"),
    (Phase.SUSPENDED, Phase.WARMING, "domain-resumed"),
    (Phase.SUSPENDED, Phase.BOOTING, "domain-resumed"),
    (Phase.FAILED, Phase.WARMING, "domain-recovered"),
    (Phase.SUSPENDED, Phase.FAILED, "domain-failed"),
]


@pytest.mark.parametrize(("was", "now", "name"), EVENTS)
def test_ways_out_and_back_have_their_events(was: Phase, now: Phase, name: str) -> None:
    event = event_of(SetPhase(**ABOUT, record=record(ONE, now), was=was), "", NOW_S)
    assert event is not None and event.name == name
