"""Who is told what, and when again: the notifier's core, without a clock and without a network."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Event
from services.notifier.core.deliver import (
    LONGEST_WAIT_S,
    MAX_QUEUED,
    Action,
    Attempt,
    Delivered,
    Finished,
    GaveUp,
    Heard,
    Receiver,
    Save,
    State,
    Tick,
    Wait,
    handle,
    is_wanted,
    resumed,
    wait_s,
)
from services.notifier.core.notice import names_of, notice_of
from services.notifier.core.signature import headers, key_of


def receiver(key: str = "a", retries: int = 2, **more: Any) -> Receiver:
    return Receiver(key, **({"events": None, "groups": frozenset(), "retries": retries} | more))


def heard(number: int, name: str = "scale-out", group: str = "web") -> Heard:
    event = Event(name=name, group=group, text="from 1 to 2")
    return Heard(event, notice_of(event, f"decider/1/event.{name}/{number}", "decider", 0.0, None))


def ident(number: int, name: str = "scale-out") -> str:
    return f"decider-1-event-{name}-{number}"


def run(state: State, *events: Any, now_s: float = 0.0, chance: float = 0.0) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for event in events:
        state, some = handle(state, event, now_s, chance)
        actions += some
    return state, actions


def attempts(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.receiver, action.notice.id) for action in actions if isinstance(action, Attempt)]


def test_an_event_is_kept_before_it_is_told() -> None:
    one = heard(1)
    state, actions = run(State((receiver(),)), one)
    assert actions == [Save(), Attempt("a", one.notice)]
    assert state.queues["a"][0].notice is one.notice


def test_what_was_taken_is_forgotten() -> None:
    one = heard(1)
    state, actions = run(State((receiver(),)), one, Finished("a", one.notice.id, ""))
    assert actions[2:] == [Delivered("a", one.notice), Save()]
    assert (state.queues, state.attempted) == ({}, {})


def test_a_failed_attempt_is_repeated_after_a_wait_that_doubles() -> None:
    one = heard(1)
    state, _ = run(State((receiver(retries=9),)), one)
    state, actions = run(state, Finished("a", one.notice.id, "refused"), now_s=10.0)
    assert actions == [Save(), Wait(11.0)]
    assert run(state, Tick(), now_s=10.9)[1] == [Wait(11.0)]
    state, actions = run(state, Tick(), now_s=11.0)
    assert actions == [Attempt("a", one.notice)]
    _, actions = run(state, Finished("a", one.notice.id, "refused"), now_s=20.0)
    assert actions == [Save(), Wait(22.0)]


def test_a_notice_is_given_up_after_the_last_attempt() -> None:
    one, state = heard(1), State((receiver(retries=1),))
    state, _ = run(state, one)
    state, _ = run(state, Finished("a", one.notice.id, "refused"), Tick(), now_s=5.0)
    state, _ = run(state, Tick(), now_s=6.0)
    state, actions = run(state, Finished("a", one.notice.id, "refused again"), now_s=7.0)
    assert actions == [GaveUp("a", one.notice, 2, "refused again"), Save()]
    assert state.queues == {}


def test_a_receiver_has_one_attempt_at_a_time_and_the_oldest_goes_first() -> None:
    state, actions = run(State((receiver(),)), heard(1), heard(2))
    assert attempts(actions) == [("a", ident(1))]
    _, actions = run(state, Finished("a", ident(1), ""))
    assert attempts(actions) == [("a", ident(2))]


def test_a_dead_receiver_delays_no_other() -> None:
    state, actions = run(State((receiver("dead"), receiver("quick"))), heard(1))
    assert attempts(actions) == [("dead", ident(1)), ("quick", ident(1))]
    for number in range(2, 6):
        state, _ = run(state, Finished("quick", ident(number - 1), ""))
        state, actions = run(state, heard(number))
        assert attempts(actions) == [("quick", ident(number))]


def test_a_notice_that_waits_lets_the_next_one_go_ahead() -> None:
    state, _ = run(State((receiver(),)), heard(1), heard(2))
    _, actions = run(state, Finished("a", ident(1), "status 400"), now_s=1.0)
    assert attempts(actions) == [("a", ident(2))]


def test_a_full_queue_loses_its_oldest_and_never_the_one_that_is_being_told() -> None:
    state, _ = run(State((receiver(),)), *(heard(number) for number in range(MAX_QUEUED)))
    state, actions = run(state, heard(MAX_QUEUED))
    lost = [action for action in actions if isinstance(action, GaveUp)]
    assert [(action.notice.id, action.attempts) for action in lost] == [(ident(1), 0)]
    assert len(state.queues["a"]) == MAX_QUEUED
    assert state.queues["a"][0].notice.id == ident(0)


def test_an_event_heard_twice_is_told_once() -> None:
    state, actions = run(State((receiver(),)), heard(1), heard(1))
    assert len(state.queues["a"]) == 1
    assert len(attempts(actions)) == 1


def test_a_new_process_goes_on_where_the_old_one_ended() -> None:
    one = heard(1).notice
    state = resumed((receiver(retries=1),), {"a": ((one, 1),), "gone": ((one, 0),)}, 50.0)
    state, actions = run(state, Tick(), now_s=50.0)
    assert actions == [Attempt("a", one)]
    _, actions = run(state, Finished("a", one.id, "refused"), now_s=51.0)
    assert actions[0] == GaveUp("a", one, 2, "refused")


def test_the_end_of_an_attempt_that_nobody_knows_changes_nothing() -> None:
    state = State((receiver(),))
    assert run(state, Finished("a", "unknown", ""), Finished("b", "unknown", "x")) == (state, [])


@pytest.mark.parametrize(
    ("events", "groups", "event", "expected"),
    [
        (("scale",), (), Event(name="scale-in", group="web"), True),
        (("scale",), (), Event(name="drain-forced", group="web"), False),
        (("drain-forced",), (), Event(name="drain-forced", group="web"), True),
        (("all",), (), Event(name="something-new"), True),
        (("scale",), ("db",), Event(name="scale-in", group="web"), False),
        (("failure",), ("db",), Event(name="host-lost", host="h"), True),
    ],
)
def test_who_wants_to_know(events: tuple[str, ...], groups: tuple[str, ...], event: Event, expected: bool) -> None:
    assert is_wanted(receiver(events=names_of(events), groups=frozenset(groups)), event) is expected


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_positive_and_bounded(number: int, chance: float) -> None:
    assert 0.5 <= wait_s(number, chance) <= LONGEST_WAIT_S


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=60))
def test_whatever_happens_every_notice_ends_taken_or_given_up(steps: list[tuple[int, bool, float]]) -> None:
    state, now_s, ended = State((receiver("a"), receiver("b"))), 0.0, []
    told = {number for number, _, _ in steps}
    for number in told:
        state, _ = run(state, heard(number))
    outcomes = [(is_good, chance) for _, is_good, chance in steps]
    for turn in range(100 * (len(told) + 1)):
        is_good, chance = outcomes[turn % len(outcomes)] if outcomes else (True, 0.0)
        for key, identifier in list(state.attempted.items()):
            finished = Finished(key, identifier, "" if is_good else "no")
            state, actions = run(state, finished, now_s=now_s, chance=chance)
            ended += [(a.receiver, a.notice.id) for a in actions if isinstance(a, GaveUp | Delivered)]
        now_s += 400.0
        state, _ = run(state, Tick(), now_s=now_s)
        if not state.queues:
            break
    assert sorted(ended) == sorted((key, ident(number)) for key in "ab" for number in told)


# --- what is told ------------------------------------------------------------------------------------------------


def test_a_notice_says_what_the_event_says() -> None:
    event = Event(name="domain-failed", group="web", domain="web-0001", host="local", text="no answer", level="warning")
    notice = notice_of(event, "actuator/7f/event.domain-failed/3", "actuator", 1.5, "decider/1/capacity.desired.web/9")
    assert json.loads(notice.body) == {
        "id": "actuator-7f-event-domain-failed-3",
        "type": "domain-failed",
        "timestamp": "1970-01-01T00:00:01.500+00:00",
        "data": {
            "source": "actuator",
            "cause": "decider/1/capacity.desired.web/9",
            "group": "web",
            "domain": "web-0001",
            "host": "local",
            "text": "no answer",
            "level": "warning",
        },
    }
    assert notice.fields["domain"] == "web-0001"


def test_the_signature_is_that_of_the_standard() -> None:
    # the example of the specification's reference implementation
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330, key)
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_plain_secret_is_its_own_key() -> None:
    key = b"correct horse battery"
    found = headers("i", b"{}", 5, key_of("correct horse battery\n"))["webhook-signature"]
    assert found == "v1," + base64.b64encode(hmac.new(key, b"i.5.{}", hashlib.sha256).digest()).decode()


@pytest.mark.parametrize(("secret", "said"), [("short", "at least 16 bytes"), ("whsec_%%", "base64"), ("", "16 bytes")])
def test_a_bad_secret_is_refused(secret: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        key_of(secret)


def test_without_a_secret_nothing_is_signed() -> None:
    assert "webhook-signature" not in headers("i", b"{}", 5, None)
