"""What ``explain`` takes from the recording about the actuator: which tier failed, and what came instead."""

from typing import Any

import pytest

from cli.explain import notes_of
from common.errors import RecordingError
from common.messages import Membership


class FakeRecording:
    """Memberships of several groups, newest first."""

    def __init__(self, *bodies: Membership, error: RecordingError | None = None) -> None:
        self.bodies, self.error, self.asked = bodies, error, ()

    def messages(self, since_s: float, until_s: float, kinds: list[str], *, newest_first: bool) -> Any:
        self.asked = (since_s, until_s, kinds, newest_first)
        if self.error is not None:
            raise self.error
        return iter([(None, None, body) for body in self.bodies])


def told(group: str, *notes: str) -> Membership:
    return Membership(
        group=group, generation_seen=1, desired_seen=1, members=(), owned_total=0, ceiling=5, notes=notes
    )  # fmt: skip


def test_the_newest_notes_of_the_group_are_told() -> None:
    recording = FakeRecording(told("other", "no"), told("web", "web-0001 (saved): cannot start"), told("web", "old"))
    assert notes_of(recording, "web", 500.0) == ("web-0001 (saved): cannot start",)  # type: ignore[arg-type] # a fake
    assert recording.asked[1:] == (500.0, ["membership"], True)


@pytest.mark.parametrize("recording", [FakeRecording(), FakeRecording(error=RecordingError("there is none"))])
def test_without_a_recording_there_are_no_notes(recording: FakeRecording) -> None:
    assert notes_of(recording, "web", 500.0) == ()  # type: ignore[arg-type] # a fake
