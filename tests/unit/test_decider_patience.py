"""What teaches the decider patience, how long that lasts, and what ends it."""

import json
from typing import Any

import pytest

from common.messages import DecisionRecord
from services.decider.core.events import Reconfigured, Save
from services.decider.core.replay import IDENTICAL, replay
from tests.sim.decider_model import World, settings
from tests.sim.decider_tape import Tape


def last(found: World) -> DecisionRecord:
    return found.state.history[-1]


def misled(**changes: Any) -> World:
    """Return a group of two whose first scale-in had to be undone after 19 s, 50 s after its start."""
    return World(lambda t: 1.5 if 45 < t < 70 else 0.2, settings=settings(**changes), ready=2).run(60)


def reload(found: World, **changes: Any) -> None:
    found.pass_on(Reconfigured(settings(**changes)))


@pytest.mark.parametrize("most", [4, 20])
def test_what_an_order_added_is_given_back_without_a_lesson(most: int) -> None:
    """With a max of 4 the bounds take it back, with one of 20 the policies do; then the load that was there grows."""
    found = World(lambda t: 1.0 if t < 420 else 2.9, settings=settings(max=most), ready=2).run(60)
    found.ask("bounds", min=10, max=10)
    found.run(60)
    found.ask("bounds", reset=True)
    found.run(380)
    assert found.path()[:2] == [2, 10] and found.path()[-2:] == [3, 4]
    assert found.state.standing.patience_s == 0.0


def test_below_what_it_had_before_an_order_the_policies_answer_for_it() -> None:
    found = World(lambda t: 0.2 if t < 130 else 1.5, settings=settings(max=20), ready=2).run(10)
    found.ask("scale", desired=4)
    found.run(300)
    assert found.path() == [2, 4, 3, 2, 1, 2]
    assert found.state.standing.patience_s == 1.5 * (30 + 34)  # from the first one below 2 to the one that undid it


@pytest.mark.parametrize("way", ["scale", "bounds", "mode", "reload"])
def test_a_group_made_smaller_by_others_than_its_policies_regrets_nothing(way: str) -> None:
    found = World(lambda t: 1.0 if t < 50 else 2.6, settings=settings(), ready=3).run(40)
    if way == "scale":
        found.ask("scale", desired=1)
    elif way == "bounds":
        found.ask("bounds", max=1)
        found.run(2)
        found.ask("bounds", reset=True)
    elif way == "mode":
        found.ask("mode", mode="observe")
        found.wanted = None
        for domain in found.domains[1:]:
            domain.leaving_s = found.now_s
        found.run(5)
        found.ask("mode", mode="on")
    else:
        reload(found, max=1)
        found.run(2)
        reload(found)
    found.run(80)
    assert 1 in found.path() and found.path()[-1] >= 3
    assert found.state.standing.patience_s == 0.0


@pytest.mark.parametrize("low", [0.0, 0.2])
@pytest.mark.parametrize(("after_s", "is_soon"), [(15, True), (30, True), (50, False), (200, False)])
def test_a_load_that_ended_and_comes_back_after_a_while_teaches_nothing(
    low: float, after_s: int, *, is_soon: bool
) -> None:
    """From the first scale-in, which a calm from the start on brings after 30 s; the scale-out takes 10 s."""
    found = World(lambda t: low if t < 30 + after_s - 10 else 3.5, ready=4)
    found.run(40 + after_s)
    assert found.path()[0] > min(found.path()) < found.path()[-1]
    assert (found.state.standing.patience_s > 0) is (is_soon or low > 0)


def test_ten_loads_one_after_the_other_are_all_given_back_as_fast_as_the_first() -> None:
    """40 s of load for four, then none until one is left and a moment longer, as in ``make bench-demo``."""
    found, took_s = World(lambda _t: 0.0, settings=settings(max=4), ready=1), []
    for _ in range(10):
        found.load = lambda _t: 3.6
        found.run(60)
        assert found.path()[-1] == 4
        found.load = lambda _t: 0.0
        begun_s = found.now_s
        while found.path()[-1] > 1:
            found.run(1)
        took_s.append(found.now_s - begun_s)
        found.run(5)
    assert max(took_s) <= 105 and found.state.standing.patience_s == 0.0


def test_a_patient_group_waits_once_and_not_again_before_each_further_step() -> None:
    found = World(lambda t: 1.5 if 45 < t < 70 else 0.2, settings=settings(max=6), ready=2).run(75)
    learned_s = found.state.standing.patience_s
    assert learned_s > 70
    found.load = lambda _t: 3.6
    found.run(60)
    top = found.path()[-1]
    assert top >= 4
    found.load, begun_s = lambda _t: 0.2, found.now_s
    found.run(learned_s - 5)
    assert found.path()[-1] == top
    while found.path()[-1] > 1:
        assert found.now_s - begun_s < learned_s + (top - 2) * 30 + 15
        found.run(1)


def test_a_calm_that_was_interrupted_asks_for_all_the_patience_again() -> None:
    found = World(lambda t: 1.5 if 45 < t < 70 else 0.2, settings=settings(max=6), ready=2).run(75)
    learned_s = found.state.standing.patience_s
    found.load = lambda _t: 3.6
    found.run(60)
    top = found.path()[-1]
    found.load = lambda _t: 0.2
    while found.path()[-1] == top:
        found.run(1)
    found.load = lambda _t: 0.6 * (top - 1)
    found.run(5)
    found.load, begun_s = lambda _t: 0.2, found.now_s
    while found.path()[-1] == top - 1:
        found.run(1)
    assert found.now_s - begun_s >= learned_s - 2


def test_an_order_in_between_ends_the_run_that_could_be_regretted() -> None:
    found = World(lambda t: 0.2 if t < 45 else 1.5, ready=2).run(40)
    assert found.path() == [2, 1] and found.state.standing.changed_in_at_s is not None
    found.ask("scale", desired=2)
    found.ask("scale", desired=1)
    assert found.run(60).path() == [2, 1, 2, 1, 2]
    assert found.state.standing.patience_s == 0.0


def test_an_order_keeps_what_was_learned_before() -> None:
    found = misled()
    found.ask("scale", desired=3)
    assert found.state.standing.patience_s == pytest.approx(1.5 * (30 + 19))


def test_an_order_ends_the_patience_and_says_what_it_was() -> None:
    found = misled()
    assert found.ask("patience", reset=True).reply.reason == (
        "the patience is over: a calm of 73.5 s was asked for, for 60 min more"
    )
    assert (last(found.run(1)).patience_s, last(found).patience_left_s) == (0.0, 0.0)
    assert found.ask("patience", reset=True).reply.reason == "no patience was in force"
    assert found.ask("patience").reply.status == "error"
    found.restart()
    assert found.state.standing.patience_s == 0.0


def test_without_the_order_the_group_waits_and_with_it_it_does_not() -> None:
    patient, told = misled(), misled()
    told.ask("patience", reset=True)
    assert (patient.run(60).path(), told.run(60).path()) == ([2, 1, 2], [2, 1, 2, 1])


def test_the_record_and_explain_show_the_patience_in_force_with_its_end() -> None:
    found = misled()
    record = last(found)
    assert (record.patience_s, record.patience_left_s) == (pytest.approx(73.5), pytest.approx(3590.0))
    page = found.ask("explain").reply.data["text"]
    assert "a scale-in had to be undone, so the next one waits for a calm of 73.5 s, until 23:14:10 UTC" in page
    assert "autoscaler patience web --reset ends it" in page


def test_the_patience_has_an_end() -> None:
    found = misled().run(50 + 3600 - 60)
    assert not last(found).patience_left_s


@pytest.mark.parametrize(("most_s", "learned_s"), [(0.0, 0.0), (40.0, 40.0), (3600.0, 73.5)])
def test_no_more_patience_is_learned_than_the_file_allows(most_s: float, learned_s: float) -> None:
    found = misled(patience_s=most_s)
    assert found.state.standing.patience_s == pytest.approx(learned_s)
    assert last(found).patience_s == pytest.approx(learned_s)


def test_a_group_that_sees_no_spare_capacity_has_all_the_patience_that_the_file_allows() -> None:
    policies = [{"type": "target-tracking", "metric": "queue", "target_queue": 5.0, "in_stabilization_s": 30.0}]
    for most_s in (3600.0, 600.0):
        found = World(lambda t: 0.2, settings=settings(policies=policies, patience_s=most_s), ready=2).run(40)
        found.ask("scale", desired=2)
        assert found.state.settings.is_blind
        assert found.state.standing.patience_s in (0.0, most_s)


def test_the_memory_is_as_long_as_the_file_says() -> None:
    assert last(misled(patience_memory_s=600.0)).patience_left_s == pytest.approx(590.0)
    assert last(misled(patience_memory_s=0.0)).patience_left_s == 0.0


def test_a_reload_shortens_the_patience_that_is_in_force() -> None:
    found = misled()
    reload(found, patience_s=45.0, patience_memory_s=900.0)
    record = last(found.run(1))
    assert (record.patience_s, record.patience_left_s) == (45.0, pytest.approx(889.0))
    reload(found, patience_s=0.0, patience_memory_s=900.0)
    assert last(found.run(1)).patience_left_s == 0.0
    reload(found, patience_memory_s=3600.0)
    assert last(found.run(1)).patience_left_s == pytest.approx(887.0)


def test_what_a_reload_shortened_is_stored() -> None:
    found = misled()
    reload(found, patience_memory_s=600.0)
    assert isinstance(found.actions[-1], Save)
    assert json.loads(found.saved)["standing"] == found.standing()


def test_other_policies_regret_nothing_that_the_former_ones_did() -> None:
    found = World(lambda t: 0.2 if t < 45 else 1.5, ready=2).run(40)
    reload(found, policies=[{"type": "threshold", "high_ratio": 0.7}])
    assert found.run(60).path()[:3] == [2, 1, 2]
    assert found.state.standing.patience_s == 0.0


def test_a_recording_with_patience_and_its_reset_repeats_byte_for_byte() -> None:
    world = World(lambda t: 1.5 if 45 < t < 70 else 0.2, ready=2)
    tape = Tape(world).run(60)
    tape.ask("patience", reset=True)
    tape.run(60)
    found = list(replay(tape.frames, lambda *_: None))
    assert [one.verdict for one in found] == [IDENTICAL] * 120
    assert any(one.record.patience_left_s for one in found)
