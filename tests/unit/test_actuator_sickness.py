"""Sick, or only overloaded: the doubt that remembers signs, and the table of who is given up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Group, Network
from common.domain import DomainState
from common.messages import DesiredCapacity
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.breaker import Breaker
from services.actuator.core.doubt import Doubt, Signs, at_start, follow
from services.actuator.core.plan import Plan, context_of, plan
from services.actuator.core.record import Record
from services.actuator.core.seen import Backend, Load, Seen, SeenDomain, SeenHost, Template, Wanted
from services.actuator.core.sickness import BACKLOG_S, Situation, situation_of
from services.actuator.core.steps import Define, SetPhase

NOW_S = 5000.0
GRACE_S = 10.0
IDLE = Load(queue=0, in_flight=0, request_rate=0.0, answer_rate=0.0)
REFUSED = Load(queue=0, in_flight=0, request_rate=20.0, answer_rate=0.0)
WAITING = Load(queue=5, in_flight=64, request_rate=20.0, answer_rate=20.0)
WELL, OLD = 0.0, 1000.0


# --- doubt: what is remembered of the looks before -----------------------------------------------------------------


def looks(*signs: Signs, step_s: float = 1.0, doubt: Doubt | None = None) -> tuple[Doubt, float]:
    """Follow these looks, one each ``step_s``; return the doubt and the time of the last one."""
    found, now_s = doubt or Doubt(), 0.0
    for each in signs:
        now_s += step_s
        found = follow(found, each, now_s, GRACE_S)
    return found, now_s


CALM = Signs(is_busy=False, failing=0, total=4)


@pytest.mark.parametrize(
    ("failing", "total", "is_crowd"),
    [(1, 1, False), (1, 2, False), (2, 4, True), (2, 5, False), (3, 5, True), (4, 4, True)],
)
def test_several_that_fail_together_are_a_crowd(failing: int, total: int, is_crowd: bool) -> None:
    doubt, now_s = looks(replace(CALM, failing=failing, total=total))
    assert doubt.is_crowd(now_s, GRACE_S) is is_crowd


@pytest.mark.parametrize("sign", [replace(CALM, is_busy=True), replace(CALM, failing=3)])
def test_a_sign_is_in_force_until_it_has_been_absent_for_the_grace(sign: Signs) -> None:
    def is_in_force(calm: int) -> bool:
        doubt, now_s = looks(sign, *[CALM] * calm)
        return doubt.is_busy(now_s, GRACE_S) or doubt.is_crowd(now_s, GRACE_S)

    assert [calm for calm in range(15) if is_in_force(calm)] == list(range(10))


def test_one_good_moment_begins_the_wait_anew() -> None:
    busy = replace(CALM, is_busy=True)
    doubt, now_s = looks(busy, *[CALM] * 9, busy, *[CALM] * 9)
    assert doubt.is_busy(now_s, GRACE_S)


def test_a_crowd_is_over_only_when_at_most_one_fails() -> None:
    doubt, now_s = looks(replace(CALM, failing=3), *[replace(CALM, failing=2, total=9)] * 30)
    assert doubt.is_crowd(now_s, GRACE_S)
    doubt, now_s = looks(replace(CALM, failing=3), *[replace(CALM, failing=1, total=9)] * 30)
    assert not doubt.is_crowd(now_s, GRACE_S)


def test_what_nobody_tells_goes_on_as_it_was() -> None:
    unknown = replace(CALM, is_busy=None)
    doubt, now_s = looks(replace(CALM, is_busy=True), *[unknown] * 30)
    assert doubt.is_busy(now_s, GRACE_S)
    doubt, now_s = looks(CALM, *[unknown] * 30)
    assert not doubt.is_busy(now_s, GRACE_S)


def test_a_process_that_has_just_begun_doubts_for_one_grace() -> None:
    doubt = at_start(0.0)
    assert doubt.is_busy(GRACE_S - 1, GRACE_S) and not doubt.is_busy(GRACE_S, GRACE_S)


def test_time_without_a_right_answer_counts_only_while_somebody_asks() -> None:
    dumb = replace(CALM, is_answering=False)
    doubt, now_s = looks(CALM, *[dumb] * 30)
    assert doubt.unanswered_s(now_s) == 30
    doubt, now_s = looks(CALM, *[dumb] * 30, replace(CALM, is_answering=True))
    assert doubt.unanswered_s(now_s) == 0
    doubt, now_s = looks(CALM, *[CALM] * 30)
    assert doubt.unanswered_s(now_s) == 0


signs = st.builds(Signs, st.sampled_from([True, False, None]), st.integers(0, 5), st.integers(0, 5))


@given(st.lists(signs, max_size=40), st.floats(0.1, 30.0))
def test_every_doubt_ends_when_the_signs_do(script: list[Signs], step_s: float) -> None:
    doubt, begun_s = looks(*script, step_s=step_s)
    later_s = begun_s + 1000.0
    doubt = follow(doubt, CALM, later_s, GRACE_S)
    assert not doubt.is_busy(later_s, GRACE_S) and not doubt.is_crowd(later_s, GRACE_S)


# --- who is given up -----------------------------------------------------------------------------------------------


def domain(index: int, phase: Phase = Phase.READY, age_s: float = OLD, power: DomainState = DomainState.RUNNING,
           **changes: object) -> SeenDomain:  # fmt: skip
    name = f"web-{index:04d}"
    values: dict[str, object] = {
        "group": "web",
        "uuid": f"u-{index}",
        "host": "local",
        "phase": phase,
        "since_mono_s": NOW_S - age_s,
        "since_s": 0.0,
        "boot_id": "b",
        "slot": index,
        "template": "d1",
        "started_mono_s": NOW_S - age_s - 5,
    }
    record = Record(**(values | changes))  # type: ignore[arg-type] # checked by Record itself
    return SeenDomain("local", name, f"u-{index}", power, record)


def planned(
    failing_s: list[float],
    load: Load | None = IDLE,
    doubt: Doubt | None = None,
    in_flight: int = 0,
    ages_s: list[float] | None = None,
    tries: int = 0,
    tried_s: float = NOW_S - 1900,
    more: tuple[SeenDomain, ...] = (),
    desired: int | None = None,
    may_replace: bool = True,
    grace_s: float = GRACE_S,
) -> tuple[Plan, Wanted, Seen]:
    """Plan a group of ready members that have failed their checks for so long, 0 for those that pass."""
    ages_s = ages_s or [OLD] * len(failing_s)
    members = tuple(domain(i, age_s=age_s) for i, age_s in enumerate(ages_s))
    backends = {
        (f"web-{i:04d}", f"u-{i}"): Backend("ready", s == 0, in_flight if s else 1, s) for i, s in enumerate(failing_s)
    }
    group = Group.model_validate({"prefix": "web-", "min": 0, "max": 9, "unhealthy_grace_s": grace_s})
    count = len(failing_s) if desired is None else desired
    body = DesiredCapacity(
        group="web", generation=1, desired=count, minimum=0, maximum=9, is_replacement_allowed=may_replace
    )
    want = Wanted("web", group, Network(slots=20), body, template=Template("k", "i", "d1"))
    tried = {breakers.sick_key("web"): Breaker(relapses=tries, relapsed_s=tried_s)} if tries else {}
    see = Seen(1e9, "b", (SeenHost("local", (*members, *more)),), backends=backends, breakers=tried, load=load)
    see = replace(see, doubt=doubt) if doubt else see
    return plan(want, see, NOW_S), want, see


def given_up(found: Plan) -> list[str]:
    return [s.domain for s in found.steps if isinstance(s, SetPhase) and s.record.phase is Phase.FAILED]


UNANSWERED = Doubt(answered_s=NOW_S - BACKLOG_S - 1)
WAS_BUSY = Doubt(busy_s=NOW_S - 3)

TABLE = [
    # load, doubt before, failing for, in flight on those that fail; situation, who is given up
    (None, None, [60.0, WELL], 0, Situation.UNKNOWN, []),
    (WAITING, None, [60.0, WELL], 0, Situation.OVERLOADED, []),
    (WAITING, None, [BACKLOG_S + 1, WELL], 0, Situation.OVERLOADED, ["web-0000"]),
    (WAITING, None, [BACKLOG_S + 1, WELL], 3, Situation.OVERLOADED, []),
    (WAITING, None, [900.0], 0, Situation.OVERLOADED, []),
    (WAITING, UNANSWERED, [900.0], 3, Situation.OVERLOADED, []),
    (replace(WAITING, answer_rate=0.0), UNANSWERED, [900.0], 3, Situation.OVERLOADED, ["web-0000"]),
    (IDLE, WAS_BUSY, [60.0, WELL], 0, Situation.OVERLOADED, []),
    (REFUSED, None, [20.0], 0, Situation.UNSERVED, []),
    (REFUSED, None, [31.0], 0, Situation.UNSERVED, ["web-0000"]),
    (REFUSED, None, [31.0], 3, Situation.UNSERVED, []),
    (REFUSED, None, [31.0, 40.0], 0, Situation.UNSERVED, ["web-0001"]),
    (IDLE, None, [11.0, 12.0, WELL], 0, Situation.CROWD, ["web-0001"]),
    (IDLE, None, [9.0, 9.0, WELL], 0, Situation.CROWD, []),
    (IDLE, None, [9.0, WELL], 0, Situation.CALM, []),
    (IDLE, None, [11.0, WELL], 0, Situation.CALM, ["web-0000"]),
    (IDLE, None, [11.0], 0, Situation.CALM, ["web-0000"]),
    (REFUSED, None, [11.0, WELL], 0, Situation.CALM, ["web-0000"]),
]


@pytest.mark.parametrize(("load", "doubt", "failing_s", "in_flight", "situation", "expected"), TABLE)
def test_each_situation_has_its_patience(
    load: Load | None,
    doubt: Doubt | None,
    failing_s: list[float],
    in_flight: int,
    situation: Situation,
    expected: list[str],
) -> None:
    found, want, see = planned(failing_s, load, doubt, in_flight)
    context = context_of(want, see, NOW_S)
    ill = [m for m in context.view.members if m.backend is not None and m.backend.is_healthy is False]
    assert (situation_of(context, ill), given_up(found)) == (situation, expected)


def test_every_situation_has_a_line_in_the_table() -> None:
    assert {row[4] for row in TABLE} == set(Situation)


def test_slots_that_are_full_are_an_overload_without_a_queue() -> None:
    full = Load(queue=0, in_flight=58, request_rate=20.0, answer_rate=20.0)
    found, want, see = planned([60.0, WELL], full)
    backends = dict(see.backends or {})
    busy = {("web-0001", "u-1"): Backend("ready", True, 58, 0.0)}
    assert given_up(found) == ["web-0000"]
    assert given_up(plan(want, replace(see, backends=backends | busy), NOW_S)) == []


@pytest.mark.parametrize("mode", [False, True])
def test_nobody_is_given_up_while_the_decider_forbids_it(mode: bool) -> None:
    assert given_up(planned([60.0, WELL], may_replace=mode)[0]) == (["web-0000"] if mode else [])


@pytest.mark.parametrize(
    "more",
    [
        (domain(8, Phase.BOOTING, 1.0),),
        (domain(8, Phase.CREATING, 1.0, DomainState.SHUTOFF),),
        (domain(8, Phase.WARMING, 1.0),),
    ],
)
def test_the_next_of_several_waits_for_the_one_that_comes(more: tuple[SeenDomain, ...]) -> None:
    assert given_up(planned([60.0, 60.0, 60.0], more=more)[0]) == []


def test_the_next_of_several_waits_until_as_many_are_ready_as_desired() -> None:
    assert given_up(planned([60.0, 60.0, 60.0], desired=4, ages_s=[60.0, OLD, OLD])[0]) == []
    assert given_up(planned([60.0, 60.0, 60.0], desired=3)[0]) == ["web-0000"]


def test_the_next_of_several_waits_a_grace_after_the_last_one() -> None:
    for since_s, expected in ((5.0, []), (11.0, ["web-0000"])):
        found, _, _ = planned([60.0, 60.0, 60.0], desired=1, tries=1, tried_s=NOW_S - since_s)
        assert given_up(found) == expected


def test_nobody_of_several_is_given_up_while_starts_fail() -> None:
    _, want, see = planned([60.0, 60.0, 60.0])
    for failed_s, expected in ((NOW_S - 100, []), (NOW_S - 121, ["web-0000"])):
        troubled = {breakers.key("web", "local"): Breaker(1, last_failure_s=failed_s)}
        assert given_up(plan(want, replace(see, breakers=troubled), NOW_S)) == expected


def test_the_only_one_waits_for_another_however_long_that_boots() -> None:
    coming = (domain(8, Phase.BOOTING, 300.0),)
    _, want, see = planned([600.0], REFUSED, UNANSWERED, more=coming)
    slow = replace(want, group=want.group.model_copy(update={"boot_timeout_s": 900.0}))
    assert given_up(plan(slow, see, NOW_S)) == []


def test_what_never_comes_holds_up_nobody_for_ever() -> None:
    found, _, _ = planned([200.0, 200.0, 200.0], desired=9)
    assert given_up(found) == ["web-0000"]


@pytest.mark.parametrize(
    ("tries", "failing_s", "is_up"),
    [(0, 11, False), (1, 19, True), (1, 21, False), (3, 79, True), (3, 81, False), (30, 1799, True)],
)
def test_each_try_that_did_not_help_doubles_the_wait_of_the_next(tries: int, failing_s: float, is_up: bool) -> None:
    found, _, _ = planned([failing_s], tries=tries, ages_s=[failing_s + 2])
    assert (given_up(found) == []) is is_up
    if is_up:
        assert any(note.startswith("replacing does not help: web-0000") for note in found.notes)


def test_who_served_long_enough_is_given_up_after_the_grace_whatever_was_tried_before() -> None:
    assert given_up(planned([11.0], tries=5)[0]) == ["web-0000"]


def test_nobody_else_is_tried_while_the_last_replacement_fails() -> None:
    assert given_up(planned([60.0, 60.0, 12.0], tries=2, ages_s=[OLD, OLD, 14.0])[0]) == []


def test_the_only_one_that_could_serve_keeps_its_place_until_another_is_ready() -> None:
    dumb = Doubt(answered_s=NOW_S - 15)
    found, _, _ = planned([15.0], REFUSED, dumb)
    assert [type(step) for step in found.steps] == [Define], "another is made beside it"
    coming = (domain(8, Phase.BOOTING, 1.0),)
    assert planned([60.0], REFUSED, dumb, more=coming)[0].steps == (), "and waited for"
    found, _, _ = planned([60.0, WELL], REFUSED, dumb, desired=1)
    assert given_up(found) == ["web-0000"], "it is there"


def test_the_only_one_is_not_replaced_beside_while_it_answers() -> None:
    assert planned([15.0], replace(REFUSED, answer_rate=5.0), Doubt(answered_s=NOW_S - 15))[0].steps == ()


def test_one_that_was_held_for_up_a_moment_ago_has_not_failed_for_longer() -> None:
    dumb = Doubt(answered_s=NOW_S - 15, kept=(("u-0", NOW_S - 1),))
    found, _, _ = planned([900.0], REFUSED, dumb)
    assert given_up(found) == [] and [type(step) for step in found.steps] == [Define], "another is made beside it"
    let_go = Doubt(answered_s=NOW_S - 60, kept=(("u-0", NOW_S - 19),))
    assert given_up(planned([900.0, WELL], IDLE, let_go, desired=1)[0]) == ["web-0000"]


@pytest.mark.parametrize(("kept_s", "is_kept"), [(0.0, True), (19.0, True), (20.0, False)])
def test_the_word_that_somebody_is_kept_lasts_two_graces(kept_s: float, is_kept: bool) -> None:
    doubt, now_s = looks(replace(CALM, kept=frozenset({"u-0"})), *[CALM] * int(kept_s))
    assert doubt.is_kept("u-0", now_s, GRACE_S) is is_kept and not doubt.is_kept("u-1", now_s, GRACE_S)


def test_nobody_leaves_while_nobody_serves() -> None:
    found, _, _ = planned([5.0], REFUSED, more=(domain(8, Phase.BOOTING, 1.0),), desired=1)
    assert found.steps == ()
    assert any("too many domains are unhealthy" in text for text in found.blocked)


NOTED = [
    (WAITING, [20.0, WELL], "overloaded, not sick"),
    (REFUSED, [20.0], "nobody else could serve"),
    (IDLE, [5.0, 5.0, WELL], "one at a time"),
]


@pytest.mark.parametrize(("load", "failing_s", "text"), NOTED)
def test_it_is_said_why_those_that_fail_are_not_replaced(load: Load, failing_s: list[float], text: str) -> None:
    found, _, _ = planned(failing_s, load)
    assert [note.startswith("web-0000") and text in note for note in found.notes] == [True]


def test_a_member_that_dies_says_how_long_it_had_served() -> None:
    off = domain(0, age_s=30.0, power=DomainState.SHUTOFF)
    _, want, see = planned([])
    (step, *_) = plan(want, replace(see, hosts=(SeenHost("local", (off,)),), backends={}), NOW_S).steps
    assert isinstance(step, SetPhase) and (step.served_s, step.is_sick) == (30.0, False)
    (step, *_) = planned([12.0], ages_s=[30.0])[0].steps
    assert isinstance(step, SetPhase) and (step.served_s, step.is_sick) == (18.0, True)


# --- properties ----------------------------------------------------------------------------------------------------

times = st.lists(st.one_of(st.just(WELL), st.floats(0.5, 400.0)), min_size=1, max_size=6)


@given(times, st.floats(0.5, 60.0), st.integers(0, 6))
def test_failing_idle_and_long_enough_means_that_somebody_is_given_up(
    failing_s: list[float], grace_s: float, tries: int
) -> None:
    ill = [BACKLOG_S + 3600.0 if s else WELL for s in failing_s]
    found, _, _ = planned(ill, tries=tries, grace_s=grace_s, ages_s=[7200.0] * len(ill))
    assert bool(given_up(found)) is any(ill)


@given(times, st.floats(0.5, 60.0), st.integers(0, 9), st.integers(0, 3))
def test_failing_and_overloaded_means_that_nobody_is_given_up(
    failing_s: list[float], grace_s: float, queue: int, in_flight: int
) -> None:
    load = Load(queue + 1, 10, 50.0, 10.0)
    short = [min(s, BACKLOG_S - 1) for s in failing_s]
    assert given_up(planned(short, load, in_flight=in_flight, grace_s=grace_s)[0]) == []
