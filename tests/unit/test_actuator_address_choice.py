"""Where a user's domain is asked, and where it serves: a choice that is dropped when it disappoints, and followed."""

import threading
from dataclasses import replace

import pytest

from common.domain import DomainFacts, DomainState
from common.errors import HypervisorError, HypervisorLostError
from common.phases import Phase
from common.virt.addresses import Candidate, Rule, Source
from services.actuator.addresses import AddressBook, Found
from services.actuator.core.addresses import CALM_S, DOUBTED_S, TURN_S, Choice, choose, doubted, is_due
from services.actuator.core.members import view
from services.actuator.core.membership import address, membership
from services.actuator.core.plan import plan
from services.actuator.core.record import parse
from services.actuator.core.seen import Backend, Probe, SeenDomain, Wanted
from services.actuator.core.steps import SetPhase
from services.actuator.orders_desk import View
from services.actuator.shell import targets
from tests.clocks import FakeClock
from tests.unit.test_actuator_plan import NOW_S, ONE, brief, domain, record, seen, steps, wanted

A, B, C = "10.0.0.10", "10.0.0.11", "10.0.0.12"
KEY = (ONE, f"u-{ONE}")
SICK = Backend("ready", False, 0, 5.0)


def choice(*candidates: str, **changes: object) -> Choice:
    return replace(Choice(candidates=candidates), **changes)  # type: ignore[arg-type] # a test's values


def existing(**changes: object) -> Wanted:
    return wanted(1, kind="existing", **changes)


def serving(at: str = A, tried: str | None = A, phase: Phase = Phase.READY, **changes: object) -> SeenDomain:
    return replace(domain(ONE, phase, template="", slot=None, address=at, **changes), address=tried)


# --- the choice ----------------------------------------------------------------------------------------------------


def test_the_first_candidate_is_tried_first_and_the_others_in_turn_until_one_answers() -> None:
    now = choose(choice(A, B), True, (), (), 100.0)
    assert now.address == A
    assert choose(now, True, (), (), 100.0 + TURN_S - 0.1).address == A
    second = choose(now, True, (), (), 100.0 + TURN_S)
    assert second.address == B
    assert choose(second, False, (), (), 200.0).address == B
    assert choose(second, True, (), (), 100.0 + 2 * TURN_S).address == A


def test_the_address_that_answered_is_kept_whatever_the_source_says_until_it_disappoints() -> None:
    for candidates in ((), (B,), (B, A)):
        assert choose(choice(*candidates, answered=A), False, (), (), 100.0).address == A
    assert choose(choice(B, answered=A, address=A, since_s=0.0), True, (), (), 100.0).address == B


def test_without_candidates_the_last_address_is_still_tried() -> None:
    assert choose(choice(answered=A), True, (), (), 100.0).address == A
    assert choose(choice(), True, (), (), 100.0).address == ""


def test_an_address_at_which_another_domain_serves_is_not_tried_and_one_that_others_claim_is_tried_last() -> None:
    assert choose(choice(A, B), True, {A}, (), 100.0).address == B
    assert choose(choice(A, B), True, (), {A}, 100.0).address == B
    assert choose(choice(A), True, (), {A}, 100.0).address == A
    assert choose(choice(B, answered=A), False, {A}, (), 100.0).address == B, "A was given to another one since"


def test_a_source_is_asked_again_soon_in_doubt_and_now_and_then_otherwise() -> None:
    known = choice(A, address=A, asked_s=100.0)
    assert not is_due(known, False, 100.0 + CALM_S - 1) and is_due(known, False, 100.0 + CALM_S)
    assert not is_due(known, True, 100.0 + DOUBTED_S / 2) and is_due(known, True, 100.0 + DOUBTED_S)
    assert is_due(choice(asked_s=100.0), False, 100.0 + DOUBTED_S), "nothing is known yet"
    assert not is_due(replace(known, took_s=5.0), True, 140.0), "an agent that hangs is asked less often"


# --- who is in doubt, and where it is asked and serves ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "backend", "probe", "is_doubted"),
    [
        (Phase.BOOTING, None, None, True),
        (Phase.BOOTING, None, Probe(False, address=A), True),
        (Phase.BOOTING, None, Probe(True, address=A), False),
        (Phase.STANDBY, None, None, True),
        (Phase.READY, Backend("ready", True), None, False),
        (Phase.READY, SICK, None, True),
        (Phase.READY, Backend("ready", False, 0, 0.5), None, False),
        (Phase.READY, None, None, False),
        (Phase.DRAINING, SICK, None, False),
        (Phase.FAILED, SICK, None, True),
    ],
)
def test_an_address_is_in_doubt_where_nobody_answers_or_checks_fail_for_a_while(
    phase: Phase, backend: Backend | None, probe: Probe | None, is_doubted: bool
) -> None:
    see = seen(serving(phase=phase), probes={KEY: probe} if probe else {})
    see = replace(see, backends={KEY: backend} if backend else {})
    members = view(existing(), see).members
    assert bool(doubted(existing(), members)) is is_doubted
    assert not doubted(wanted(1), view(wanted(1), see).members)
    assert not doubted(existing(address_source="static", addresses={ONE: A}), members)


def shown(want: Wanted, found: SeenDomain, probe: Probe | None = None, backend: Backend | None = None) -> str | None:
    see = seen(found, backends={KEY: backend} if backend else None, probes={KEY: probe} if probe else {})
    (member,) = view(want, see).members
    return address(want, member)


def test_a_member_serves_where_it_answered_while_another_address_is_tried() -> None:
    assert shown(existing(), serving(at=A, tried=B)) == A
    assert shown(existing(), serving(at=A, tried=B, phase=Phase.DRAINING)) == A
    assert shown(existing(), serving(at="", tried=B, phase=Phase.BOOTING)) == B
    assert shown(existing(), serving(at=A, tried=B, phase=Phase.BOOTING), Probe(True, address=B)) == B
    assert shown(existing(addresses={ONE: C}), serving(at=A, tried=B)) == C


def test_a_member_whose_lease_has_expired_keeps_its_address_over_a_restart() -> None:
    """T33: the actuator starts anew and no source knows anything."""
    assert shown(existing(), serving(at=A, tried=None)) == A
    assert steps(existing(), seen(serving(at=A, tried=None))) == ()


def aimed(want: Wanted, found: SeenDomain, backend: Backend) -> list[str]:
    see = seen(found, backends={KEY: backend})
    return [target.address for target in targets(View(want, see, plan(want, see, NOW_S))).values()]


def test_a_serving_member_is_probed_where_another_address_than_its_own_is_tried_or_while_its_checks_fail() -> None:
    assert aimed(existing(), serving(at=A, tried=B), SICK) == [B]
    assert aimed(existing(), serving(at=A, tried=A), SICK) == [A]
    assert aimed(existing(), serving(at=A, tried=A), Backend("ready", True)) == []
    assert aimed(existing(), serving(at="", tried=A), SICK) == [], "where it serves is not written down"


# --- what life makes of it ------------------------------------------------------------------------------------------


def one_step(found: SeenDomain, probe: Probe | None, backend: Backend | None = None) -> SetPhase:
    see = seen(found, backends={KEY: backend} if backend else None, probes={KEY: probe} if probe else {})
    (step,) = steps(existing(), see)
    assert isinstance(step, SetPhase)
    return step


def test_the_address_that_answered_is_written_down() -> None:
    for phase in (Phase.BOOTING, Phase.STANDBY):
        step = one_step(serving(at="", tried=A, phase=phase), Probe(True, address=A))
        assert (step.record.phase, step.record.address) == (Phase.WARMING, A)


def test_an_address_that_changed_is_followed_through_warming_and_the_power_stays_on() -> None:
    """T14: it was restarted 9 times in 31 minutes, though it served all the time."""
    found = serving(at=A, tried=B)
    step = one_step(found, Probe(True, address=B), replace(SICK, unhealthy_s=60.0))
    assert (step.record.phase, step.record.address) == (Phase.WARMING, B)
    assert step.reason == f"it answers at {B}, no longer at {A}"


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.READY])
def test_what_the_balancer_still_says_of_the_address_that_was_left_counts_for_nothing(phase: Phase) -> None:
    moved = serving(at=B, tried=B, phase=phase, age_s=1)
    see = seen(moved, backends={KEY: replace(SICK, unhealthy_s=60.0)})
    assert brief(steps(existing(), see)) == [], "neither failed nor ready"
    late = serving(at=B, tried=B, phase=phase, age_s=61)
    (step,) = steps(existing(), replace(see, hosts=(replace(see.hosts[0], domains=(late,)),)))
    assert isinstance(step, SetPhase) and step.record.phase is Phase.FAILED


def test_nobody_moves_while_nobody_answers_elsewhere() -> None:
    see = seen(serving(at=A, tried=B), backends={KEY: SICK}, probes={KEY: Probe(False, address=B)})
    assert brief(steps(existing(), see)) == []


def test_the_record_of_an_older_release_gets_the_address_at_which_its_domain_serves() -> None:
    step = one_step(serving(at="", tried=A), None)
    assert (step.record.phase, step.was, step.record.address) == (Phase.READY, Phase.READY, A)
    assert step.record.since_mono_s == record(ONE).since_mono_s


def test_a_template_domain_keeps_the_address_of_its_slot() -> None:
    see = seen(domain(ONE, Phase.BOOTING), probes={KEY: Probe(True, address="192.168.150.10")})
    (step,) = steps(wanted(1), see)
    assert isinstance(step, SetPhase) and step.record.address == ""


def test_what_an_operator_should_know_stands_in_the_members_note() -> None:
    found = replace(serving(), address_note=f"2 leases for 52:54:00:00:00:01: {A}, {B}")
    see = seen(found)
    told = membership(existing(), see, plan(existing(), see, NOW_S), (), NOW_S)
    assert told.members[0].note == f"2 leases for 52:54:00:00:00:01: {A}, {B}"


def test_a_record_keeps_an_address_and_nothing_that_is_none() -> None:
    kept = parse(record(ONE, address=A).to_metadata())
    assert kept is not None and kept.address == A
    bad = parse(record(ONE).to_metadata() | {"address": "10.0.0.1; shutdown"})
    assert bad is not None and bad.address == ""


# --- the book ------------------------------------------------------------------------------------------------------


class Teller:
    """Tells addresses by domain; ``error`` instead, if there is one."""

    def __init__(self, **told: list[str]) -> None:
        self.told = {f"web-{number[1:]}": addresses for number, addresses in told.items()}
        self.error: HypervisorError | None = None
        self.asked: list[str] = []

    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        return tuple(Candidate(each, f"mac-{name}") for each in self.told[name])


class Stand:
    """A book on one host, and how often it said that something changed."""

    def __init__(self, teller: Teller) -> None:
        self.teller, self.clock, self.news = teller, FakeClock(), 0
        self.book = AddressBook("h", lambda name: Rule(Source.LEASE), self.clock, self._changed)

    def _changed(self) -> None:
        self.news += 1

    def look(self, *names: str, state: DomainState = DomainState.RUNNING, **records: str) -> dict[str, str]:
        answered = {f"web-{number[1:]}": at for number, at in records.items()}
        facts = tuple(
            DomainFacts(n, f"u-{n}", state, "", True, {"uuid": f"u-{n}", "address": answered.get(n, "")}) for n in names
        )
        return {name: found.address for name, found in self.book.see(self.teller, facts).items()}

    def after(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.book.turn()


def test_the_book_asks_those_that_run_tells_the_news_and_forgets_those_that_stopped() -> None:
    stand = Stand(Teller(_0000=[A]))
    assert stand.look("web-0000") == {}
    stand.after(0)
    assert stand.look("web-0000") == {"web-0000": A} and stand.news == 1
    assert stand.look("web-0000", state=DomainState.SHUTOFF) == {}
    stand.after(CALM_S)
    assert stand.teller.asked == ["web-0000"] and stand.news == 1


def test_the_book_says_how_many_leases_there_are() -> None:
    stand = Stand(Teller(_0000=[A, B]))
    stand.look("web-0000")
    stand.after(0)
    facts = (DomainFacts("web-0000", "u-web-0000", DomainState.RUNNING, "", True),)
    assert stand.book.see(stand.teller, facts) == {"web-0000": Found(A, f"2 leases for mac-web-0000: {A}, {B}")}


def test_the_book_tries_the_next_address_of_a_domain_in_doubt_and_only_of_that_one() -> None:
    stand = Stand(Teller(_0000=[A, B], _0001=[C]))
    stand.look("web-0000", "web-0001")
    stand.book.doubt(frozenset({"u-web-0000"}))
    stand.after(0)
    stand.after(TURN_S)
    assert stand.look("web-0000", "web-0001") == {"web-0000": B, "web-0001": C}


def test_an_address_at_which_another_one_serves_is_not_given_to_a_second() -> None:
    stand = Stand(Teller(_0000=[A, B], _0001=[A]))
    stand.look("web-0000", "web-0001", _0001=A)
    stand.book.doubt(frozenset({"u-web-0000"}))
    stand.after(0)
    assert stand.look("web-0000", "web-0001", _0001=A) == {"web-0000": B, "web-0001": A}


@pytest.mark.parametrize("error", [HypervisorError("no agent"), HypervisorLostError("gone")])
def test_what_is_known_stays_while_the_source_cannot_be_asked(error: HypervisorError) -> None:
    stand = Stand(Teller(_0000=[A]))
    stand.look("web-0000")
    stand.after(0)
    stand.teller.error = error
    stand.after(CALM_S)
    assert stand.look("web-0000") == {"web-0000": A} and len(stand.teller.asked) == 2


def test_a_record_that_was_written_for_another_domain_tells_no_address() -> None:
    stand = Stand(Teller(_0000=[]))
    facts = (DomainFacts("web-0000", "u", DomainState.RUNNING, "", True, {"uuid": "other", "address": A}),)
    assert stand.book.see(stand.teller, facts) == {}


def test_a_stopped_book_ends_its_thread() -> None:
    stand = Stand(Teller(_0000=[A]))
    stand.look("web-0000")
    thread = threading.Thread(target=stand.book.run, daemon=True)
    thread.start()
    stand.book.stop()
    thread.join(20)
    assert not thread.is_alive()
