"""Why a domain is not ready: one fact, told at once and in the same words on every screen."""

from dataclasses import replace

import pytest
from rich.console import Console

from cli.endpoints import what_is_missing
from cli.observe import Snapshot
from cli.status import status_values, status_view
from common.config import Config, Group
from common.config_readiness import Readiness, question
from common.http_answer import HttpAnswer
from common.messages import Membership, Unready
from common.phases import Phase
from common.unready import sentence, sentences
from services.actuator.core.membership import membership
from services.actuator.core.plan import context_of, plan
from services.actuator.core.seen import Backend, Probe, Seen, SeenDomain, Wanted
from services.actuator.core.standing import UNREADY, standing
from services.actuator.core.steps import SetPhase
from services.actuator.orders_desk import View
from services.actuator.prober import AGENT, Target, judge
from services.actuator.shell import still, targets
from tests.unit.test_actuator_plan import NOW_S, ONE, domain, seen, wanted

KEY = (ONE, f"u-{ONE}")
TARGET = Target(ONE, "192.168.150.10", 8080, asked=question("web", Readiness(path="/health")))
NOT_FOUND = judge(TARGET, HttpAnswer(404, ONE, None, b""))
ELSE = judge(TARGET, HttpAnswer(200, "web-0003", None, b""))
NAMELESS = judge(TARGET, HttpAnswer(200, None, None, b""))
SILENT = Probe(False, why=Unready(kind="refused", address="192.168.150.10", port=8080, path="/health"))
SAID = f"{ONE} 192.168.150.10:8080/health answers 404; readiness wants 200"


def booting(probe: Probe, age_s: float = 1.0) -> Seen:
    return seen(domain(ONE, Phase.BOOTING, age_s=age_s), probes={KEY: probe})


def told(see: Seen, want: Wanted | None = None) -> Membership:
    want = want or wanted(1)
    return membership(want, see, plan(want, see, NOW_S), (), NOW_S)


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (NOT_FOUND.why, SAID),
        (ELSE.why, f"{ONE} 192.168.150.10:8080/health answers as web-0003; readiness wants {ONE}"),
        (NAMELESS.why, f"{ONE} 192.168.150.10:8080/health answers without a name; readiness wants {ONE}"),
        (SILENT.why, f"{ONE} 192.168.150.10:8080/health refuses the connection; readiness wants 200"),
        (Unready(kind="no-address", wanted=""), f"{ONE} has no address yet"),
        (Unready(kind="agent", wanted=AGENT), f"{ONE} has no guest agent that answers; readiness wants {AGENT}"),
        (Unready(kind="one of a newer release", came="x", wanted="y"), f"{ONE} is not ready (x); readiness wants y"),
    ],
)  # fmt: skip
def test_what_came_and_what_was_wanted_are_said_in_one_sentence(why: Unready, said: str) -> None:
    assert sentence(ONE, why) == said


def test_a_right_answer_says_nothing_and_what_a_guest_says_is_one_plain_line() -> None:
    assert judge(TARGET, HttpAnswer(200, ONE, None, b"")).why is None
    rude = judge(TARGET, HttpAnswer(200, "x\n\x1b[2J" + "y" * 500, None, b"")).why
    assert rude is not None and rude.came.isprintable() and len(rude.came) == 64


def test_a_domain_that_answers_wrongly_is_told_at_once_everywhere() -> None:
    message = told(booting(NOT_FOUND))
    config = Config(groups={"web": wanted(1).group})
    snapshot = Snapshot(memberships={"web": message})
    shown = status_values(config, snapshot)["groups"][0]["domains"][0]
    assert shown["unready"] == {
        "kind": "status", "address": "192.168.150.10", "port": 8080, "path": "/health", "came": "404", "wanted": "200",
        "text": SAID,
    }  # fmt: skip
    console = Console(width=200, record=True)
    console.print(status_view(config, snapshot))
    assert f"not ready: {SAID}" in console.export_text()
    assert "web-0000 booting for 1 s (192.168.150.10:8080/health answers 404" in what_is_missing(["web"], snapshot)
    (event,) = standing(context_of(wanted(1), booting(NOT_FOUND), NOW_S)).values()
    assert (event.name, event.domain, event.text, event.level) == (UNREADY, ONE, SAID, "warning")


def test_silence_is_an_event_half_way_through_the_boot_and_in_the_status_at_once() -> None:
    assert told(booting(SILENT)).members[0].unready == SILENT.why
    for age_s, is_told in ((44.0, False), (46.0, True)):
        assert bool(standing(context_of(wanted(1), booting(SILENT, age_s), NOW_S))) is is_told


def test_how_a_guest_that_boots_is_silent_is_no_news_and_a_wrong_answer_is() -> None:
    timeout = replace(SILENT, why=Unready(kind="timeout"))
    assert still(told(booting(SILENT))) == still(told(booting(timeout))) == still(told(booting(Probe(False))))
    assert still(told(booting(SILENT))) != still(told(booting(NOT_FOUND))) != still(told(booting(ELSE)))


def test_a_start_that_led_nowhere_names_address_and_path() -> None:
    step = plan(wanted(1), booting(NOT_FOUND, age_s=91.0), NOW_S).steps[0]
    assert isinstance(step, SetPhase) and step.domain == ONE and step.record.phase is Phase.FAILED
    assert step.reason == f"no right answer within 90 s ({SAID.removeprefix(f'{ONE} ')})"


def test_a_users_domain_without_an_address_says_which_source_knows_none() -> None:
    want = wanted(1, kind="existing")
    member = told(seen(domain(ONE, Phase.BOOTING)), want).members[0]
    assert member.unready is not None and member.unready.kind == "no-address"
    assert sentences(told(seen(domain(ONE, Phase.BOOTING)), want)) == [
        f"{ONE} has no address yet (its address is not known by lease; try arp, agent or static)"
    ]


@pytest.mark.parametrize(("is_healthy", "is_asked"), [(True, False), (None, False), (False, True)])
def test_one_in_rotation_is_asked_why_only_while_its_checks_fail_and_once_a_second(
    is_healthy: bool | None, is_asked: bool
) -> None:
    want, see = wanted(1), seen(domain(ONE), backends={KEY: Backend("ready", is_healthy, 0, 1.0)})
    found = targets(View(want, see, plan(want, see, NOW_S)))
    assert [target.is_serving for target in found.values()] == [True] * is_asked
    asked = replace(see, probes={KEY: NOT_FOUND})
    assert told(asked).members[0].unready == NOT_FOUND.why
    assert not [step for step in plan(want, asked, NOW_S).steps if isinstance(step, SetPhase)]


def test_of_many_the_wrong_answers_come_first_and_the_rest_is_counted() -> None:
    names = [f"web-{index:04d}" for index in range(7)]
    domains: list[SeenDomain] = [domain(name, Phase.BOOTING, age_s=1.0) for name in names]
    probes = {(name, f"u-{name}"): SILENT if name != "web-0006" else NOT_FOUND for name in names}
    found = sentences(told(seen(*domains, probes=probes), wanted(7, max=9)))
    assert found[0].startswith("web-0006 ") and found[-1] == "and 2 more are not ready" and len(found) == 6


def test_an_older_actuator_says_nothing_of_it() -> None:
    message = told(booting(NOT_FOUND)).model_dump(mode="json")
    del message["members"][0]["unready"]
    assert Membership.model_validate(message).members[0].unready is None
    assert Group(prefix="web-").readiness.path == "/healthz"
