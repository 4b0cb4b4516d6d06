"""A model group with a recorder beside it: what the decider hears and says becomes frames, in the recorder's format."""

from dataclasses import dataclass, field
from pathlib import Path

from common.messages import Body, Header, HostSample, message_id
from common.recording import Recorded, frame_bytes
from common.wire import encode
from services.decider.core.events import (
    CoreEvent,
    DrainSeen,
    FailureSeen,
    MembershipSeen,
    PublishDesired,
    PublishRecord,
    SampleSeen,
    TrafficSeen,
)
from services.decider.core.learned import from_text, to_text
from services.decider.core.state import begin, learned_of
from services.recorder.segments import SegmentWriter
from tests.sim.decider_model import EPOCH_S, START_S, World

BOOT = "boot"


@dataclass
class Tape:
    """Records the life of a world. What it says is written before what it heard, as a recorder may receive it."""

    world: World
    frames: list[Recorded] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    seq: int = 0

    def run(self, seconds: int) -> "Tape":
        for _ in range(seconds):
            self.world.now_s += 1.0
            self.world.act()
            heard = self.world.heard()
            for event in heard:
                self.world.pass_on(event)
            before = len(self.world.actions)
            self._tick()
            self._say(before)
            for event in heard:
                self.hear(event)
        return self

    def _tick(self) -> None:
        self.world.pass_on(self.world.tick())

    def ask(self, verb: str, **args: str | int | bool | None) -> None:
        before = len(self.world.actions)
        self.world.ask(verb, **args)
        self._say(before)

    def restart(self) -> None:
        """Kill the decider and start it again with what it had saved, and what its policies had learned."""
        learned = from_text(to_text(learned_of(self.world.state)))
        self.world.restart()
        after = self.world.state
        self.world.state = begin(after.settings, after.standing if self.world.saved else None, learned)

    def hear(self, event: CoreEvent) -> None:
        body, id = _body(event, self.world.samples)
        if body is None or id in self.written:
            return
        self.written.add(id)
        source, run_id, topic, seq = id.split("/")
        header = Header(source=source, run_id=int(run_id, 16), seq=int(seq), sent_at_s=0.0, mono_s=self.world.now_s)
        assert message_id(topic, header) == id
        assert topic == body.topic
        self.put(header, body)

    def _say(self, before: int) -> None:
        for action in self.world.actions[before:]:
            if isinstance(action, PublishRecord | PublishDesired):
                self.seq += 1
                run_id, now_s = self.world.state.settings.run_id, self.world.now_s
                header = Header(
                    source="decider", run_id=run_id, seq=self.seq, sent_at_s=0.0, mono_s=now_s, cause=action.cause
                )
                self.put(header, action.body)

    def put(self, header: Header, body: Body) -> None:
        topic, payload = encode(header, body)
        now_s = self.world.now_s
        self.frames.append(Recorded(EPOCH_S + now_s - START_S, now_s, BOOT, topic.decode(), payload))


def write(directory: Path, frames: list[Recorded]) -> Path:
    """Write frames with the recorder's own writer into one more raw segment; return its file."""
    writer = SegmentWriter.open(directory, 0, BOOT, frames[0].at_s, frames[0].mono_s)
    for frame in frames:
        writer.append(frame_bytes(frame.at_s, frame.mono_s, frame.topic, frame.payload))
    writer.close()
    return writer.path


def _body(event: CoreEvent, samples: dict[str, HostSample]) -> tuple[Body | None, str]:
    match event:
        case SampleSeen(reading):
            return samples[reading.id], reading.id
        case MembershipSeen(body, _, id) | TrafficSeen(body, _, id) | DrainSeen(body, _, id) | FailureSeen(body, _, id):
            return body, id
    return None, ""
