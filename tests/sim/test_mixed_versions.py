"""An upgrade in the middle: the decider and the actuator of today among services of release 0.1.0."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgpack
import pytest

from common.errors import ProtocolError
from common.messages import PROTOCOL_VERSION, Body, Event
from common.wire import decode, encode
from services.decider.core.events import CoreEvent, DrainSeen, MembershipSeen, SampleSeen, TrafficSeen
from services.decider.core.seen import read_sample
from tests.older_release import HEADER, as_sent_then, recorded_body
from tests.sim import actuator_model
from tests.sim.decider_model import Load, World, calm, settings

LOAD: Load = lambda t: 0.3 if t < 60 else 2.2 if t < 200 else 0.2  # noqa: E731


@dataclass
class Mixed(World):
    """A world in which ``upgraded_at_s`` is when those around the decider are of today; before, of 0.1.0."""

    upgraded_at_s: float = 0.0

    def heard(self) -> list[CoreEvent]:
        events = super().heard()
        return events if self.t >= self.upgraded_at_s else [self.older(event) for event in events]

    def older(self, event: CoreEvent) -> CoreEvent:
        match event:
            case SampleSeen(reading):
                told = as_sent_then(self.samples[reading.id])
                return SampleSeen(read_sample(told, reading.at_s, reading.id))
            case MembershipSeen(body, _, _):
                return replace(event, membership=as_sent_then(body))
            case DrainSeen(body, _, _):
                return replace(event, drain=as_sent_then(body))
            case TrafficSeen(body, _, _):
                return replace(event, traffic=as_sent_then(body))
        return event


def test_the_older_services_say_less() -> None:
    world = Mixed(LOAD, upgraded_at_s=1e9).run(5)
    for body in (world.membership().membership, *world.samples.values(), calm(0.3)):
        known = set(recorded_body(body.kind))
        assert as_sent_then(body).model_fields_set == known < set(type(body).model_fields)


@pytest.mark.parametrize("upgraded_at_s", [0.0, 30.0, 100.0, 215.0, 1e9])
def test_a_decider_among_services_of_the_older_release_decides_as_among_those_of_today(upgraded_at_s: float) -> None:
    mixed = Mixed(LOAD, upgraded_at_s=upgraded_at_s).run(400)
    assert mixed.desired == World(LOAD).run(400).desired
    assert mixed.path() == [1, 2, 3, 2, 1]


def test_what_speaks_another_major_version_is_not_heard_and_the_group_is_held() -> None:
    world = World(LOAD, settings=settings(cooldown_in_s=1.0)).run(150)
    before = world.path()
    heard = world.heard
    world.heard = lambda: [event for event in heard() if is_understood(PROTOCOL_VERSION + 1)]  # type: ignore[method-assign]
    world.run(200)
    assert world.path() == before
    assert world.state.history[-1].limiter == "stale-data"
    world.heard = lambda: [event for event in heard() if is_understood(PROTOCOL_VERSION)]  # type: ignore[method-assign]
    assert world.run(200).path()[-1] == 1


def is_understood(version: int) -> bool:
    topic, payload = encode(HEADER, Event(name="hello"))
    values = msgpack.unpackb(payload)
    values["header"]["version"] = version
    try:
        decode([topic, msgpack.packb(values)])
    except ProtocolError:
        return False
    return True


def test_an_actuator_among_services_of_the_older_release_does_as_among_those_of_today() -> None:
    lives = [life(lambda body: body), life(as_sent_then)]
    assert lives[0].log == lives[1].log
    assert lives[1].is_settled() and lives[1].ready() == 1


def life(passed: Callable[[Body], Body]) -> actuator_model.World:
    world = actuator_model.World(actuator_model.group())
    for generation, count in enumerate((3, 1), start=1):
        world.want(count, generation=generation)
        assert world.desired is not None
        world.desired = passed(world.desired)  # type: ignore[assignment] # it stays what it is
        world.run(60)
    return world
