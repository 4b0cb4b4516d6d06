"""What guests, HAProxy and hands at the metadata may say: made plain and bounded where it enters, and nobody ends."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import figures
from common.domain import DomainState, metadata_element, parse_metadata
from common.http_answer import HttpAnswer
from common.messages import Membership
from common.phases import Phase
from services.actuator.core.members import view
from services.actuator.core.membership import membership
from services.actuator.core.placement import free_slot
from services.actuator.core.plan import context_of, plan
from services.actuator.core.record import Record, Unreadable, parse, read
from services.actuator.core.seen import SeenDomain
from services.actuator.core.standing import UNREADABLE, standing
from services.actuator.core.steps import Define
from services.actuator.prober import Target, judge, probe
from services.balancer.core.answers import parse_look, split_answers
from services.balancer.core.traffic import Look, traffic
from services.balancer.errors import ProxyError
from tests.unit.test_actuator_plan import NOW_S, domain, record, seen, wanted
from tests.unit.test_balancer_answers import INFO, STAT, STATE

HOSTILE = "\x01\x1b[2J\x9b31m\u202egnp\ud800\r\n"
TARGET = Target("web-0000", "10.0.0.1", 80)
FIGURES = (
    "since_mono_s", "since_s", "started_mono_s", "decided_mono_s", "probed_mono_s", "served_mono_s", "cpu_quota",
    "slot", "generation", "stop_calls", "failures",
)  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"\x01hello", b"\xff\xfe\x00", HOSTILE.encode(errors="surrogatepass"), b"\x1b" * 4096]
)
@pytest.mark.parametrize("header", [None, "\x01\x9bhello"])
def test_what_a_guest_answers_can_be_written_into_its_metadata(body: bytes, header: str | None) -> None:
    for target in (TARGET, replace(TARGET, is_identity_checked=False)):
        answer = judge(target, HttpAnswer(200, header, None, body))
        assert answer.answered.isprintable() and answer.detail.isprintable()
        noted = replace(record("web-0000"), note=answer.detail)
        assert parse(parse_metadata(metadata_element(noted.to_metadata()))) == noted


def test_a_name_is_not_right_because_it_was_made_plain() -> None:
    assert judge(TARGET, HttpAnswer(200, None, None, b"web-0000\n")).is_right
    assert not judge(TARGET, HttpAnswer(200, None, None, b"\x01web-0000")).is_right
    assert not judge(TARGET, HttpAnswer(200, "web-\x000000", None, b"")).is_right


def test_what_an_agent_answers_is_plain() -> None:
    answer = probe(replace(TARGET, protocol="agent"), lambda *_: HOSTILE)
    assert not answer.is_right and (answer.detail + answer.answered).isprintable()


def test_any_text_makes_an_element_that_xml_can_hold() -> None:
    assert parse_metadata(metadata_element({"note": HOSTILE}))["note"].isprintable()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "-1e300", str(10**30), "9" * 5000, "x", "--1"])
def test_a_record_that_cannot_be_true_says_why(name: str, text: str) -> None:
    found = read(record("web-0000").to_metadata() | {name: text})
    assert isinstance(found, Unreadable) and found.why.startswith(f"{name}: ")
    assert len(found.why) < 200 and found.slot == (None if name == "slot" else 0)


@settings(deadline=None)  # a busy machine is no finding
@given(st.dictionaries(st.sampled_from(sorted(record("web-0000").to_metadata())), st.text(max_size=40)))
def test_every_record_is_finite_and_bounded_or_none(changes: dict[str, str]) -> None:
    found = read(record("web-0000").to_metadata() | changes)
    if isinstance(found, Record):
        times = (found.since_mono_s, found.since_s, found.started_mono_s or 0.0, found.cpu_quota or 0.0)
        assert all(math.isfinite(at) for at in times)
        assert 0 <= found.generation <= figures.MAX_GENERATION
        assert all(text.isprintable() for text in found.to_metadata().values())


def edited(name: str, **changes: str) -> SeenDomain:
    """Return a domain whose record was edited by hand, as the actuator sees it."""
    found = read(record(name).to_metadata() | changes)
    assert isinstance(found, Unreadable)
    return replace(domain(name), record=None, unreadable=found)


ABSURD = [{"since_s": "nan"}, {"generation": str(10**30)}, {"since_mono_s": "-inf"}, {"phase": "asleep"}]


@pytest.mark.parametrize("changes", ABSURD, ids=str)
@pytest.mark.parametrize("power", [DomainState.RUNNING, DomainState.SHUTOFF, DomainState.CRASHED])
@pytest.mark.parametrize("kind", ["template", "existing"])
def test_its_domain_is_left_alone_and_told_and_the_others_go_on(
    kind: str, power: DomainState, changes: dict[str, str]
) -> None:
    want = wanted(2, kind=kind) if kind == "template" else wanted(2, kind=kind, image={})
    see = seen(replace(edited("web-0000", **changes), power=power), domain("web-0001"))
    found = plan(want, see, NOW_S)
    assert not [step for step in found.steps if step.domain == "web-0000"]
    assert kind == "existing" or [step.domain for step in found.steps if isinstance(step, Define)] == ["web-0002"]
    assert any("cannot be true" in why and "web-0000" in why for why in found.blocked)
    told = standing(context_of(want, see, NOW_S))
    assert [key for key in told if key[0] == UNREADABLE] == [(UNREADABLE, "local", "web-0000")]
    assert isinstance(membership(want, see, found, (), NOW_S), Membership)


def test_its_network_slot_is_given_to_nobody_else() -> None:
    see = seen(edited("web-0000", since_s="nan", slot="0"))
    assert free_slot(wanted(1), see.hosts[0], []) == 1


def test_a_generation_from_ahead_cannot_run_out_of_its_bounds() -> None:
    ahead = replace(record("web-0000"), generation=2 * figures.MAX_GENERATION)
    assert parse(ahead.to_metadata()) == replace(ahead, generation=figures.MAX_GENERATION)


def test_a_readable_record_beside_it_is_unchanged() -> None:
    want, see = wanted(1), seen(edited("web-0000", since_s="nan"), domain("web-0001", Phase.READY))
    assert [member.name for member in view(want, see).members] == ["web-0001"]


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x85", "\u2028", "\r"])
def test_the_reason_of_a_guests_check_ends_no_line_of_haproxys(mark: str) -> None:
    stat = STAT.replace('"Layer7, ""good"""', f'"half{mark}web,vm9,1"')
    snapshot = parse_look([INFO, stat, STATE], ["web", "db"])
    assert len(snapshot.servers["web"]) == 2 and snapshot.servers["web"][0].check.isprintable()
    assert split_answers(f"a{mark}\n\nb\n\n", 2) == [f"a{mark}", "b"]


@pytest.mark.parametrize("old", ["web,vm1,1,2,70", "web,BACKEND,1,3,75", "web,FRONTEND,,4,9"])
@pytest.mark.parametrize("cell", ["-5", str(10**30), "1e9", "nan", "x"])
def test_an_absurd_figure_of_haproxys_is_no_answer(old: str, cell: str) -> None:
    proxy, server, *cells = old.split(",")
    stat = STAT.replace(old, ",".join([proxy, server, cells[0], cell, *cells[2:]]))
    if server == "FRONTEND":
        stat = STAT.replace(",3,120,,,,,http", f",3,{cell},,,,,http")
    with pytest.raises(ProxyError):
        parse_look([INFO, stat, STATE], ["web"])


def test_a_counter_that_leaps_is_an_unknown_rate() -> None:
    before = parse_look([INFO, STAT, STATE], ["web"])
    after = parse_look([INFO, STAT.replace(",3,120,", f",3,{2**53},"), STATE], ["web"])
    said = traffic("web", Look(before, {}, 0.0), Look(after, {}, 1.0), 1.0)
    assert said.request_rate is None and said.is_known
