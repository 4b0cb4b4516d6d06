"""What an operator asks: applied or refused, always with a reason."""

import pytest

from services.decider.core.events import Emit, PublishDesired, Save
from services.decider.core.orders import ordered_bounds
from tests.sim.decider_model import World, settings


def world(**changes: object) -> World:
    return World(lambda t: 1.0, settings=settings(**changes), ready=2).run(40)


def test_scale_sets_the_desired_capacity_with_both_cooldowns() -> None:
    found = world(cooldown_out_s=20.0)
    before = len(found.actions)
    reply = found.ask("scale", desired=4).reply
    assert (reply.status, reply.reason) == ("applied", "desired is now 4, was 2")
    assert [type(action) for action in found.actions[before:-1]] == [Save, PublishDesired, Emit]
    assert found.path() == [2, 4]
    assert found.run(1).state.history[-1].cooldown_out_left_s == pytest.approx(19.0)
    assert found.state.history[-1].cooldown_in_left_s == pytest.approx(29.0)


@pytest.mark.parametrize("desired", [0, 5])
def test_scale_outside_the_bounds_is_refused(desired: int) -> None:
    reply = world().ask("scale", desired=desired).reply
    assert reply.status == "refused"
    assert reply.reason == f"desired must be in 1..4 (min..max); got {desired}"


@pytest.mark.parametrize("desired", [None, -1, "3", True, 2.5])
def test_scale_to_what_is_no_count_is_an_error(desired: object) -> None:
    reply = world().ask("scale", desired=desired).reply  # type: ignore[arg-type]
    assert reply.status == "error"
    assert repr(desired) in reply.reason


def test_scale_before_the_members_are_known_is_refused() -> None:
    assert World(lambda t: 1.0).ask("scale", desired=2).reply.status == "refused"


def test_scale_is_refused_where_nobody_would_follow() -> None:
    found = world()
    found.ask("mode", mode="observe")
    assert "the mode is observe" in found.ask("scale", desired=3).reply.reason


def test_scale_to_what_there_is_changes_nothing() -> None:
    found = world()
    before = found.standing()
    assert found.ask("scale", desired=2).reply.status == "applied"
    assert found.standing() == before


def test_scale_in_with_unknown_data_says_that_nobody_leaves_yet() -> None:
    found = world()
    found.missing = lambda t, name: True
    found.run(5)
    assert "nobody is removed while this is unknown" in found.ask("scale", desired=1).reply.reason


def test_an_order_to_shrink_teaches_no_patience() -> None:
    found = World(lambda t: 1.0 if t < 45 else 3.0, ready=2).run(40)
    found.ask("scale", desired=1)
    found.run(60)
    assert found.path()[:3] == [2, 1, 2]
    assert found.state.standing.patience_s == 0.0


def test_bounds_are_changed_one_by_one_and_kept() -> None:
    found = world()
    assert found.ask("bounds", max=3).reply.reason == "bounds are now 1..3, were 1..4"
    assert found.ask("bounds", min=2, max=None).reply.reason == "bounds are now 2..3, were 1..3"
    found.restart()
    found.run(2)
    assert (found.state.minimum, found.state.maximum) == (2, 3)


@pytest.mark.parametrize(
    ("args", "status", "reason"),
    [
        ({"min": 5}, "refused", "min must be <= max (4); got 5"),
        ({"max": 65}, "refused", "max must be <= haproxy.slots (64); got 65"),
        ({"max": 0}, "refused", "max must be >= 1; got 0"),
        ({"min": "2"}, "error", "min must be a whole number >= 0; got '2'"),
        ({}, "error", "give min, max or both, or reset"),
    ],
)
def test_impossible_bounds_change_nothing(args: dict[str, int], status: str, reason: str) -> None:
    found = world()
    before = found.standing()
    reply = found.ask("bounds", **args).reply
    assert (reply.status, reply.reason) == (status, reason)
    assert found.standing() == before


def test_ordered_bounds_end_where_they_are_reset() -> None:
    found = world()
    assert found.ask("bounds", reset=True).reply.reason == "bounds are those of the configuration, 1..4, were 1..4"
    assert ordered_bounds(found.state) == ""
    found.ask("bounds", max=6)
    assert ordered_bounds(found.state) == (
        "web keeps the bounds 1..6 that were ordered, not 1..4: bounds --reset ends that"
    )
    found.restart()
    assert found.state.maximum == 6
    found.ask("bounds", reset=True)
    assert (found.state.minimum, found.state.maximum, ordered_bounds(found.state)) == (1, 4, "")


def test_max_lowered_far_below_is_followed_at_the_next_tick() -> None:
    found = World(lambda t: 2.0, settings=settings(max=20), ready=12).run(10)
    found.ask("bounds", max=3)
    found.run(1)
    assert found.path() == [12, 3]
    assert found.state.history[-1].limiter == "bounds"


def test_a_mode_is_kept_over_a_restart() -> None:
    found = world()
    assert found.ask("mode", mode="out-only").reply.reason == "the mode is now out-only, was on"
    assert found.ask("mode", mode="out-only").reply.reason == "the mode is out-only already"
    found.restart()
    assert found.state.mode == "out-only"
    assert found.ask("mode", mode="fast").reply.status == "error"


def test_an_order_for_the_mode_that_the_file_has_leaves_no_order() -> None:
    found = world()
    found.ask("mode", mode="observe")
    assert found.ask("mode", mode="on").reply.reason == "the mode is now on, was observe"
    assert (found.state.mode, found.state.standing.mode) == ("on", None)


def test_pause_and_resume_answer_what_they_did() -> None:
    found = world()
    assert found.ask("resume").reply.reason == "the group is not paused"
    assert found.ask("pause").reply.reason.startswith("paused")
    assert found.ask("pause").reply.reason == "the group is paused already"
    assert found.ask("resume").reply.reason.startswith("resumed")


def test_an_unknown_verb_names_those_that_exist() -> None:
    reply = world().ask("destroy").reply
    assert reply.status == "error"
    assert "scale, bounds, pause, resume, mode, explain, history" in reply.reason


def test_history_returns_the_last_records() -> None:
    found = world()
    records = found.ask("history", limit=3).reply.data["records"]
    assert [record["tick"] for record in records] == [38, 39, 40]
    assert len(found.ask("history").reply.data["records"]) == 20
    assert found.ask("history", limit=0).reply.status == "error"


def test_history_is_bounded() -> None:
    found = world().run(200)
    assert len(found.ask("history", limit=1000).reply.data["records"]) == 120
