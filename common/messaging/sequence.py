"""What a receiver remembers about senders: enough to ignore the past and to notice what was lost.

Every sender counts the messages of each topic from 1, anew in each run; runs are ordered by ``run_id``. So a message is
new, a copy of what was already heard, or from the past; and a jump in the count is a loss. Nothing here reads a clock.

# Note [A run that falls]
A sender's counter of runs can be lost: then its new run is numbered below the old one, like a replay. It is believed
once the old run has been silent for ``patience_s`` and the new one spoke for as long, in order, at the pace of our own
clock: by then nothing that the old run said is trusted any more. The run that was given up is never believed again.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from common.messages import Header
from common.messaging.distance import ClockDistance

MAX_RUN_ID: Final = 2**62
GIVEN_UP_KEPT: Final = 16


class Verdict(StrEnum):
    """What to do with a message."""

    NEW = "new"
    NEW_RUN = "new-run"  # the first message of a sender that (re)started: what was known about it is void
    DUPLICATE = "duplicate"  # the newest of its topic, heard again
    REPLAYED = "replayed"  # older than what was heard: an older run, or an older count of this run


@dataclass(frozen=True, slots=True)
class Receipt:
    """When a message was received, on the receiver's clocks: monotonic seconds, and epoch seconds."""

    mono_s: float
    epoch_s: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, how many messages of the topic were lost just before it, and its estimated age in seconds.

    ``jumped_s``: by how much the sender's wall clock moved against its monotonic clock since its last message, 0 if
    that is no jump.
    """

    verdict: Verdict
    lost: int
    age_s: float
    jumped_s: float = 0.0


@dataclass(slots=True)
class Tracker:
    """One sender, as this receiver has heard it. ``patience_s``: see Note [A run that falls]."""

    patience_s: float
    run_id: int = -1
    newest: dict[str, int] = field(default_factory=dict)
    distance: ClockDistance = field(default_factory=ClockDistance)
    heard_s: float = 0.0
    rival: "_Rival | None" = None
    given_up: deque[int] = field(default_factory=lambda: deque(maxlen=GIVEN_UP_KEPT))

    def judge(self, topic: str, header: Header, at: Receipt, *, is_clock_shared: bool) -> Judgement:
        """Return what the message is, and remember it if it is new.

        Args:
            topic: the message's topic.
            header: its header, checked.
            at: when it was received.
            is_clock_shared: whether sender and receiver read the same monotonic clock (one machine). Then the age is
                exact; otherwise it is what ``ClockDistance`` says.
        """
        is_new_run = header.run_id > self.run_id and header.run_id not in self.given_up
        if header.run_id != self.run_id and not is_new_run and not self._is_believed(topic, header, at.mono_s):
            return Judgement(Verdict.REPLAYED, 0, 0.0)
        is_new_run = header.run_id != self.run_id
        if is_new_run:
            self._begin(header.run_id)
        newest = self.newest.get(topic)
        if newest is not None and header.seq <= newest:
            verdict = Verdict.DUPLICATE if header.seq == newest else Verdict.REPLAYED
            return Judgement(verdict, 0, 0.0)
        self.newest[topic], self.heard_s, self.rival = header.seq, at.mono_s, None
        lost = header.seq - newest - 1 if newest is not None else 0
        verdict = Verdict.NEW_RUN if is_new_run else Verdict.NEW
        if is_clock_shared:
            return Judgement(verdict, lost, max(at.mono_s - header.mono_s, 0.0))
        jumped_s = self.distance.jump_s(header.mono_s, header.sent_at_s)
        age_s = self.distance.age_s(at.mono_s - header.mono_s, at.epoch_s - header.sent_at_s, at.mono_s)
        return Judgement(verdict, lost, age_s, jumped_s)

    def _begin(self, run_id: int) -> None:
        """Forget the run before; one that had a greater number is given up for good."""
        if run_id < self.run_id:
            self.given_up.append(self.run_id)
        self.run_id, self.distance = run_id, ClockDistance()
        self.newest.clear()

    def _is_believed(self, topic: str, header: Header, now_s: float) -> bool:
        """Return whether a run that seems older is the sender's present one; see Note [A run that falls]."""
        if header.run_id in self.given_up or now_s - self.heard_s < self.patience_s:
            return False
        if self.rival is None or self.rival.run_id < header.run_id:
            self.rival = _Rival(header.run_id, now_s, header.mono_s)
        return self.rival.has_spoken(topic, header, now_s, self.patience_s)


@dataclass(slots=True)
class _Rival:
    """A run with a lower number that speaks while the known one is silent, since ``since_s`` of our clock."""

    run_id: int
    since_s: float
    since_mono_s: float
    newest: dict[str, int] = field(default_factory=dict)

    def has_spoken(self, topic: str, header: Header, now_s: float, for_s: float) -> bool:
        """Return whether it spoke for that long, in order and at the pace of our clock."""
        if header.run_id != self.run_id or header.seq <= self.newest.get(topic, 0):
            return False
        self.newest[topic] = header.seq
        ours_s, its_s = now_s - self.since_s, header.mono_s - self.since_mono_s
        return ours_s >= for_s and abs(ours_s - its_s) <= for_s / 2


def next_run_id(stored: int, epoch_s: float) -> int:
    """Return the identifier of a new run: greater than every earlier one, also when the wall clock jumped back.

    Args:
        stored: the greatest one that is known, 0 if none.
        epoch_s: wall-clock seconds.

    >>> next_run_id(0, 1000.9), next_run_id(1000, 400.0), next_run_id(7, 1000.0)
    (1000, 1001, 1000)
    """
    return max(stored + 1, int(epoch_s))
