"""New settings for a group that runs: what stays, what begins anew, and a replay that meets the same bytes."""

from dataclasses import replace
from typing import Any

import pytest

from common.config import Group
from services.decider.core import basis
from services.decider.core.events import Reconfigured, SaveLearned
from services.decider.core.group import handle
from services.decider.core.replay import IDENTICAL, replay
from services.decider.core.state import GroupState, Settings, begin, learned_of
from tests.sim.decider_model import World, settings
from tests.sim.decider_tape import Tape

THRESHOLD = {"type": "threshold", "high_ratio": 0.8, "out_window_s": 20.0, "in_window_s": 60.0}
PREDICTIVE = {"type": "predictive", "metric": "cpu", "target_ratio": 0.6, "step_s": 5.0}


def busy(**changes: object) -> World:
    """Return a group that has been busy for 10 s of a window of 20 s."""
    found = World(lambda t: 3.0, settings(policies=[THRESHOLD], max=6, **changes))
    found.run(40)
    while found.state.policy_states[0].high_since_s is None:
        found.run(1)
    found.run(5)
    return found


def changed(state: GroupState, **changes: object) -> Settings:
    table = state.settings.group.model_dump(mode="json", by_alias=True, exclude_unset=True) | changes
    group = Group.model_validate(table)
    return Settings("web", group, 1.0, 3.5, 2.0, 64, state.settings.run_id)


def reload(world: World, **changes: object) -> None:
    world.pass_on(Reconfigured(changed(world.state, **changes)))


def test_a_window_goes_on_where_its_policy_did_not_change() -> None:
    world = busy()
    before = world.state
    reload(world, max=9, cooldown_in_s=7.0)
    assert world.state.policy_states[0] == before.policy_states[0]
    assert world.state.policy_states[0].high_since_s is not None
    sooner_s = before.standing.cooldown_in_until_s - (30.0 - 7.0)
    assert world.state.standing == replace(before.standing, cooldown_in_until_s=sooner_s)
    assert (world.state.maximum, world.state.settings.group.cooldown_in_s) == (9, 7.0)


def test_a_mode_that_is_changed_in_the_file_holds_against_an_earlier_order() -> None:
    world = busy()
    world.ask("mode", mode="out-only")
    reload(world, max=9)
    assert world.state.mode == "out-only"
    reload(world, mode="observe")
    assert world.state.mode == "observe"


def test_the_window_of_a_changed_policy_begins_anew() -> None:
    world = busy()
    reload(world, policies=[THRESHOLD | {"high_ratio": 0.7}])
    assert world.state.policy_states[0].high_since_s is None


def test_a_window_follows_its_policy_to_another_place_in_the_list() -> None:
    world = busy()
    before = world.state.policy_states[0]
    queue = world.state.policy_states[-1]
    reload(world, policies=[{"type": "step", "steps": [{"above_ratio": 0.9, "change": 1}]}, THRESHOLD])
    assert world.state.policy_states[1] == before
    assert len(world.state.policy_states) == 3
    assert queue is not None


def test_cooldowns_and_the_operators_orders_stay() -> None:
    world = busy()
    world.ask("bounds", max=5)
    world.ask("pause")
    standing = world.state.standing
    reload(world, max=9, policies=[THRESHOLD | {"step_out": 2}])
    assert world.state.standing == standing
    assert world.state.maximum == 5


def test_bounds_lowered_below_the_capacity_bind_at_the_next_tick() -> None:
    world = World(lambda t: 5.0, settings(max=6, policies=[THRESHOLD | {"out_window_s": 5.0, "step_out": 3}]))
    world.run(120)
    assert world.state.standing.desired == 6
    reload(world, max=2)
    world.run(2)
    record = world.state.history[-1]
    assert (record.desired_after, world.state.standing.desired) == (2, 2)
    assert world.actions


def test_what_was_learned_goes_on_where_it_fits_and_not_where_it_does_not() -> None:
    world = World(lambda t: 1.0 + (t % 60) / 60, settings(policies=[THRESHOLD, PREDICTIVE], max=6))
    world.run(120)
    learned = learned_of(world.state)[1]
    reload(world, policies=[THRESHOLD, PREDICTIVE | {"headroom": 4.0}])
    assert learned_of(world.state)[1] == learned
    reload(world, policies=[THRESHOLD, PREDICTIVE | {"step_s": 6.0}])
    assert 1 not in learned_of(world.state)


def test_what_was_learned_is_stored_under_its_new_number() -> None:
    world = World(lambda t: 1.0 + (t % 60) / 60, settings(policies=[THRESHOLD, PREDICTIVE], max=6))
    world.run(120)
    _, actions = handle(world.state, Reconfigured(changed(world.state, policies=[PREDICTIVE, THRESHOLD])), world.now_s)
    saved: list[Any] = [action for action in actions if isinstance(action, SaveLearned)]
    assert [(one.number, one.is_base_new) for one in saved] == [(0, True)]


def test_a_recording_with_reloads_repeats_byte_for_byte() -> None:
    world = World(lambda t: 2.4 if 40 < t % 400 < 200 else 0.3, settings(max=4), loss=0.2, chaos=True, seed=3)
    tape = Tape(world).run(90)
    reload(world, max=6, policies=[THRESHOLD | {"out_window_s": 4.0}])
    tape.run(30)
    tape.ask("bounds", max=5)
    reload(world, min=2)
    tape.ask("bounds", min=1)
    reload(world, min=1, max=8)
    tape.run(100)
    tape.restart()
    tape.run(5)
    reload(world, policies=[THRESHOLD | {"out_window_s": 6.0}, PREDICTIVE])
    tape.run(300)
    found = list(replay(tape.frames, lambda *_: None))
    assert [one.verdict for one in found] == [IDENTICAL] * 525
    orders = [order.verb for one in found for order in one.record.ordered]
    assert orders == ["reload", "bounds", "reload", "bounds", "reload", "reload"]


def test_the_first_record_after_a_reload_carries_the_new_settings() -> None:
    world = busy()
    reload(world, max=9)
    world.run(2)
    first, second = world.state.history[-2:]
    told = basis.read(first.basis, "web", world.state.settings.run_id)
    assert (told.settings.group.maximum, second.basis) == (9, "")


def test_settings_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="settings in the recording of group web cannot be read"):
        basis.read_settings("{}", "web", 1)
    text = basis.settings_text(begin(settings()).settings)
    assert basis.read_settings(text, "web", 127).group == settings().group
    with pytest.raises(ValueError, match="standing in the recording"):
        basis.read(text, "web", 1)
