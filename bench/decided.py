"""What a recording says of a group's decisions: how many domains were desired, and since when."""

from collections.abc import Iterable

from common.config import Config
from common.messages import DecisionRecord
from common.recording import Recording, recording_dir


def decisions(config: Config, group: str, since_s: float) -> list[DecisionRecord]:
    """Return the group's decisions from ``since_s`` (epoch seconds) on, oldest first.

    Raises:
        RecordingError: there is no recording, or it may not be read.
    """
    messages = Recording(recording_dir(config.system.state_path)).messages(since_s=since_s, kinds=["decision"])
    bodies = (body for _, _, body in messages)
    return [body for body in bodies if isinstance(body, DecisionRecord) and body.group == group]


def desired_since_s(records: Iterable[DecisionRecord], desired: int) -> float | None:
    """Return from when on (epoch seconds) every record desires so many; None if the last one does not."""
    since_s = None
    for record in records:
        if record.desired_after != desired:
            since_s = None
        elif since_s is None:
            since_s = record.at_s
    return since_s
