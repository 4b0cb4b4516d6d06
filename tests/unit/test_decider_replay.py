"""A record holds all that its decision depended on: fed back, the same core gives the same bytes."""

import json
from collections.abc import Callable

from common.messages import DecisionRecord, Request
from services.decider.core.events import Asked, CoreEvent, PublishRecord, Tick
from services.decider.core.group import handle
from services.decider.core.state import GroupState, Standing, begin
from tests.sim.decider_model import World


def recorded(life: Callable[[World], None]) -> tuple[World, dict[str, CoreEvent], list[DecisionRecord]]:
    """Return a life, every message by its name, and the records."""
    found = World(lambda t: 2.4 if 40 < t < 200 else 0.3, loss=0.2, chaos=True, seed=3)
    messages: dict[str, CoreEvent] = {}
    heard = found.heard

    def listening() -> list[CoreEvent]:
        events = heard()
        messages.update({_id(event): event for event in events})
        return events

    found.heard = listening  # type: ignore[method-assign]
    life(found)
    return found, messages, [a.body for a in found.actions if isinstance(a, PublishRecord)]


def _id(event: CoreEvent) -> str:
    return event.reading.id if hasattr(event, "reading") else event.id  # type: ignore[union-attr]


def replayed(state: GroupState, messages: dict[str, CoreEvent], records: list[DecisionRecord]) -> list[str]:
    found = []
    for record in records:
        for taken in record.taken:
            state, _ = handle(state, messages[taken.id], record.now_s)
        for order in record.ordered:
            state, _ = handle(state, Asked(Request(verb=order.verb, args=order.args), 0), order.now_s)
        state, _ = handle(state, Tick(record.at_s), record.now_s)
        found.append(state.history[-1].model_dump_json())
    return found


def test_a_replay_is_byte_identical() -> None:
    def life(found: World) -> None:
        found.run(100)
        found.ask("bounds", max=3)
        found.run(100)
        found.ask("pause")
        found.run(20)
        found.ask("resume")
        found.run(300)

    found, messages, records = recorded(life)
    assert len(found.desired) > 3
    assert replayed(begin(found.settings), messages, records) == [record.model_dump_json() for record in records]


def test_a_replay_from_a_restart_is_byte_identical() -> None:
    def life(found: World) -> None:
        found.run(60)
        found.restart()
        found.actions.clear()
        found.run(300)

    found, messages, records = recorded(life)
    standing = Standing(**json.loads(records[0].resumed_from))
    begun = begin(found.state.settings, standing)
    assert replayed(begun, messages, records) == [record.model_dump_json() for record in records]
