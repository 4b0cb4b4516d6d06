"""A recording, run through the core again: the same bytes, or it is said why not."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import msgpack
import pytest

from common.messages import DecisionRecord
from common.recording import Recorded
from services.decider.core import basis
from services.decider.core.basis import EVERY_TICKS, Basis, read, told
from services.decider.core.evolve import evolve
from services.decider.core.heard import LOOK_AHEAD_S
from services.decider.core.replay import DIFFERENT, IDENTICAL, UNKNOWN, Replayed, differences, replay
from services.decider.core.state import Settings, Standing, begin
from tests.sim.decider_model import World, settings
from tests.sim.decider_tape import Tape


def never(group: str, run_id: int) -> Settings | None:
    raise AssertionError("the recording carries its settings")


def configured(group: str, run_id: int) -> Settings | None:
    return replace(settings(), run_id=run_id) if group == "web" else None


def world(**changes: object) -> World:
    return World(lambda t: 2.4 if 40 < t % 400 < 200 else 0.3, loss=0.2, chaos=True, seed=3, **changes)  # type: ignore[arg-type]


@cache
def eventful() -> tuple[Recorded, ...]:
    """Return a life with scale-outs, scale-ins, orders and two restarts, and more than one basis."""
    tape = Tape(world()).run(100)
    tape.ask("bounds", max=3)
    tape.run(100)
    tape.restart()
    tape.run(50)
    tape.ask("pause")
    tape.run(20)
    tape.ask("resume")
    tape.run(30)
    tape.ask("scale", desired=2)
    tape.run(EVERY_TICKS + 200)
    tape.ask("mode", mode="observe")
    tape.run(20)
    tape.restart()
    tape.run(40)
    assert len(tape.world.desired) > 8
    return tuple(tape.frames)


def played(frames: list[Recorded], settings_of: Callable[[str, int], Settings | None] = never) -> list[Replayed]:
    return list(replay(frames, settings_of))


def verdicts(found: list[Replayed]) -> dict[str, int]:
    return dict(Counter(one.verdict for one in found))


def is_decision(frame: Recorded) -> bool:
    return frame.topic.startswith("decision.")


def numbered(frames: list[Recorded], tick: int) -> int:
    """Return where the record of a tick of the first run stands."""
    for place, frame in enumerate(frames):
        body = frame.decode()[1] if is_decision(frame) else None
        if isinstance(body, DecisionRecord) and body.tick == tick:
            return place
    raise AssertionError(tick)


def changed(frame: Recorded, **fields: object) -> Recorded:
    """Return a message with some fields of its body replaced, or left out where they are None."""
    values = msgpack.unpackb(frame.payload)
    for name, value in fields.items():
        if value is None:
            del values["body"][name]
        else:
            values["body"][name] = value
    return replace(frame, payload=msgpack.packb(values))


def test_every_tick_of_an_eventful_life_is_repeated_byte_for_byte() -> None:
    found = played(list(eventful()))
    assert verdicts(found) == {IDENTICAL: sum(map(is_decision, eventful()))}
    assert [one.begins for one in found if one.begins] == ["the decider starts"] * 3


EVERY_KIND = [
    {"type": "threshold"},
    {"type": "target-tracking", "metric": "requests-per-domain", "target_requests_per_s": 12.0},
    {"type": "step", "steps": [{"above_ratio": 0.9, "change": 2}, {"below_ratio": 0.2, "change": -1}]},
    {"type": "schedule", "cron": "20 22 * * *", "duration_s": 120.0, "capacity": 3},
    {"type": "predictive", "mode": "on", "step_s": 5.0, "lead_s": 12.0},
]


@cache
def of_every_policy() -> tuple[Recorded, ...]:
    tape = Tape(world(settings=settings(policies=EVERY_KIND))).run(300)
    tape.restart()
    tape.run(300)
    return tuple(tape.frames)


def test_every_kind_of_policy_is_repeated_byte_for_byte_over_a_restart() -> None:
    found = played(list(of_every_policy()))
    assert {vote.policy for one in found for vote in one.record.votes} >= {kind["type"] for kind in EVERY_KIND}
    assert verdicts(found) == {IDENTICAL: 600}
    assert found[300].record.learned


def test_what_a_forecast_learned_before_the_recording_begins_stays_in_doubt() -> None:
    frames = list(of_every_policy())
    found = played(frames[numbered(frames, 100) :], lambda *_: settings(policies=EVERY_KIND))
    assert DIFFERENT not in verdicts(found)
    assert found[199].doubt
    assert {one.verdict for one in found[201:]} == {IDENTICAL}


def test_from_what_a_record_says_was_learned_a_forecast_is_exact_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "LEARNED_EVERY_TICKS", 200)
    begun = settings(policies=EVERY_KIND)
    frames = Tape(world(settings=begun)).run(800).frames
    tells = int(begun.chance * 200) + 200
    found = played(frames[numbered(frames, tells - 30) :], lambda *_: begun)
    assert found[30].heard.record.learned
    assert DIFFERENT not in verdicts(found)
    assert {one.verdict for one in found[90:]} == {IDENTICAL}  # its windows are full then
    assert found[90].doubt
    assert not found[-1].doubt
    begins_there = played(frames[numbered(frames, tells) :])
    assert {one.verdict for one in begins_there[90:]} == {IDENTICAL}


def test_a_record_that_was_recorded_twice_counts_once() -> None:
    frames = list(eventful())
    twice = [again for frame in frames for again in ([frame, frame] if is_decision(frame) else [frame])]
    assert verdicts(played(twice)) == verdicts(played(frames))


def test_a_recording_that_is_still_being_written_ends_with_the_last_record_that_is_whole() -> None:
    frames = list(eventful())
    last = max(number for number, frame in enumerate(frames) if is_decision(frame))
    found = played(frames[: last + 1])
    assert verdicts(found) == {IDENTICAL: sum(map(is_decision, frames)) - 1}


def test_a_message_may_be_recorded_some_seconds_after_the_record_that_took_it_in() -> None:
    frames = list(eventful())
    late = sorted(frames, key=lambda f: f.mono_s + (0.0 if is_decision(f) else LOOK_AHEAD_S - 1.0))
    assert late != frames
    assert verdicts(played(late)) == verdicts(played(frames))


@pytest.mark.parametrize("tick", [2, 5, 17, 60, 150, EVERY_TICKS + 40])
def test_a_recording_that_begins_in_the_middle_says_so_and_claims_no_difference(tick: int) -> None:
    frames = list(eventful())
    rest = frames[numbered(frames, tick) :]
    found = played(rest, configured)
    assert found[0].verdict == UNKNOWN
    assert found[0].doubt == f"the recording begins in the middle of a run, at tick {tick}"
    assert DIFFERENT not in verdicts(found)
    assert verdicts(found)[UNKNOWN] < 150  # a lesson of before holds for minutes
    assert {one.verdict for one in found[-40:]} == {IDENTICAL}  # those of the next run


def test_from_a_basis_on_all_is_exact_soon_and_without_the_configuration() -> None:
    frames = [frame for frame in eventful() if frame.decode()[0].run_id != 127]
    found = played(frames[numbered(frames, EVERY_TICKS + 1) :], never)
    assert found[0].verdict == UNKNOWN
    assert DIFFERENT not in verdicts(found)
    assert found[-1].doubt == ""


def test_without_settings_anywhere_nothing_is_repeated_before_the_next_basis() -> None:
    frames = list(eventful())
    rest = frames[numbered(frames, 150) :]
    found = played(rest, lambda group, run_id: None)
    assert found[0].heard.record.tick == 1
    assert verdicts(found) == {IDENTICAL: len(found)}


def test_a_lost_message_makes_the_ticks_after_it_doubtful_but_never_different() -> None:
    frames = list(eventful())
    lost = [frame for number, frame in enumerate(frames) if is_decision(frame) or number % 97]
    found = played(lost)
    assert DIFFERENT not in verdicts(found)
    assert verdicts(found)[IDENTICAL] > 0.9 * len(found)
    assert any("is not in the recording" in one.doubt for one in found)


def test_lost_records_are_told_and_the_replay_goes_on_from_the_next() -> None:
    frames = list(eventful())
    begin, end = numbered(frames, 50), numbered(frames, 61)
    found = played(frames[:begin] + [frame for frame in frames[begin:end] if not is_decision(frame)] + frames[end:])
    begins = [one.begins for one in found if one.begins]
    assert begins[1] == "11 records before tick 61 lost"
    assert DIFFERENT not in verdicts(found)
    assert {one.verdict for one in found[-40:]} == {IDENTICAL}  # those of the next run


def test_a_decision_that_the_core_would_not_make_is_different_and_its_fields_are_named() -> None:
    frames = list(eventful())
    place = numbered(frames, 30)
    frames[place] = changed(frames[place], desired_after=7, limiter="whim")
    found = [one for one in played(frames) if one.verdict == DIFFERENT]
    assert [one.heard.record.tick for one in found] == [30]
    assert differences(found[0]).keys() == {"desired_after", "limiter"}
    assert differences(found[0])["desired_after"][0] == "7"


def test_one_bit_of_a_float_is_a_difference() -> None:
    frames = list(eventful())
    place = numbered(frames, 30)
    frames[place] = changed(frames[place], cooldown_in_left_s=5e-324)
    assert verdicts(played(frames))[DIFFERENT] == 1


def test_fields_that_an_older_release_did_not_write_are_left_out_and_named() -> None:
    frames = [changed(frame, basis=None) if is_decision(frame) else frame for frame in eventful()]
    found = played(frames, configured)
    assert verdicts(found) == {IDENTICAL: len(found)}
    assert found[0].left_out == {"basis"}


def edited(frame: Recorded, change: Callable[[dict[str, Any]], None]) -> Recorded:
    values = msgpack.unpackb(frame.payload)
    change(values)
    return replace(frame, payload=msgpack.packb(values))


def of_another_release(change: Callable[[dict[str, Any]], None]) -> list[Replayed]:
    return played([edited(frame, change) if is_decision(frame) else frame for frame in eventful()])


def test_a_nested_field_that_an_older_release_did_not_write_is_left_out_by_its_path() -> None:
    def older(values: dict[str, Any]) -> None:
        del values["body"]["evidence"]["in_flight"]
        for vote in values["body"]["votes"]:
            del vote["wait_s"]

    found = of_another_release(older)
    assert verdicts(found) == {IDENTICAL: len(found)}
    assert set().union(*(one.left_out for one in found)) == {"evidence.in_flight", "votes[].wait_s"}


def test_fields_that_only_a_newer_release_knows_are_left_out_by_their_path() -> None:
    def newer(values: dict[str, Any]) -> None:
        values["header"]["zone"] = "B"
        values["body"]["mood"] = "calm"
        values["body"]["evidence"]["heat"] = 7

    found = of_another_release(newer)
    assert verdicts(found) == {IDENTICAL: len(found)}
    assert found[5].not_known == {"header.zone", "mood", "evidence.heat"}


def test_a_difference_shows_also_beside_a_field_of_another_release() -> None:
    def changed_too(values: dict[str, Any]) -> None:
        values["body"]["mood"] = "calm"
        if values["body"]["tick"] == 50:
            values["body"]["evidence"]["queue"] = 99

    found = [one for one in of_another_release(changed_too) if one.verdict == DIFFERENT]
    assert found
    assert list(differences(found[0])) == ["evidence"]


def test_other_settings_than_recorded_show_as_a_difference() -> None:
    frames = [changed(frame, basis="") if is_decision(frame) else frame for frame in eventful()]
    other = settings(policies=[{"type": "threshold", "out_window_s": 9.0}])
    found = played(frames, lambda group, run_id: replace(other, run_id=run_id))
    assert DIFFERENT in verdicts(found)


def test_a_basis_of_another_release_is_one_clear_error() -> None:
    frames = list(eventful())
    place = numbered(frames, 1)
    frames[place] = changed(frames[place], basis='{"group": {"colour": "red"}}')
    with pytest.raises(ValueError, match="settings in the recording of group web cannot be read"):
        played(frames)


def test_only_the_group_that_is_asked_for_is_repeated() -> None:
    assert not list(replay(list(eventful()), never, "api"))
    assert list(replay(list(eventful())[:50], never, "web"))


@pytest.mark.parametrize(
    "group",
    [
        {},
        {"policies": EVERY_KIND},
        {"protocol": "tcp"},
        {
            "kind": "existing",
            "address_source": "static",
            "addresses": {"web-0001": "10.0.0.5"},
            "min": 0,
            "mode": "off",
        },
        {"readiness": {"path": "/ready", "identity": False}, "image": {"cpu_quota": 0.4}},
    ],
)
def test_the_settings_come_back_from_a_record_as_they_were(group: dict[str, object]) -> None:
    own = settings(**group)
    text = told(evolve(begin(own, Standing(desired=2, minimum=1)), tick=1))
    assert read(text, "web", 127) == Basis(own, Standing(desired=2, minimum=1))


def test_settings_are_told_on_the_first_tick_and_then_now_and_then() -> None:
    state = begin(settings())
    assert [tick for tick in range(1, 2000) if told(evolve(state, tick=tick))] == [1, 601, 1201, 1801]
