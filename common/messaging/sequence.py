"""What a receiver remembers about senders: enough to ignore the past and to notice what was lost.

Every sender counts the messages of each topic from 1, anew in each run; runs are ordered by ``run_id``. So a message is
new, a copy of what was already heard, or from the past; and a jump in the count is a loss. Nothing here reads a clock.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from common.messages import Header


class Verdict(StrEnum):
    """What to do with a message."""

    NEW = "new"
    NEW_RUN = "new-run"  # the first message of a sender that (re)started: what was known about it is void
    DUPLICATE = "duplicate"  # the newest of its topic, heard again
    REPLAYED = "replayed"  # older than what was heard: an older run, or an older count of this run


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, how many messages of the topic were lost just before it, and its estimated age in seconds."""

    verdict: Verdict
    lost: int
    age_s: float


@dataclass(slots=True)
class Tracker:
    """One sender, as this receiver has heard it."""

    run_id: int = -1
    newest: dict[str, int] = field(default_factory=dict)
    fastest_s: float | None = None

    def judge(self, topic: str, header: Header, now_s: float, is_clock_shared: bool) -> Judgement:
        """Return what the message is, and remember it if it is new.

        Args:
            topic: the message's topic.
            header: its header, checked.
            now_s: the receiver's monotonic clock at receipt.
            is_clock_shared: whether sender and receiver read the same monotonic clock (one machine). Then the age is
                exact; otherwise it is the delay relative to the fastest message of the run.
        """
        if header.run_id < self.run_id:
            return Judgement(Verdict.REPLAYED, 0, 0.0)
        is_new_run = header.run_id > self.run_id
        if is_new_run:
            self.run_id, self.fastest_s = header.run_id, None
            self.newest.clear()
        newest = self.newest.get(topic)
        if newest is not None and header.seq <= newest:
            verdict = Verdict.DUPLICATE if header.seq == newest else Verdict.REPLAYED
            return Judgement(verdict, 0, 0.0)
        self.newest[topic] = header.seq
        lost = header.seq - newest - 1 if newest is not None else 0
        age_s = self._age_s(now_s - header.mono_s, is_clock_shared)
        return Judgement(Verdict.NEW_RUN if is_new_run else Verdict.NEW, lost, age_s)

    def _age_s(self, delay_s: float, is_clock_shared: bool) -> float:
        if is_clock_shared:
            return max(delay_s, 0.0)
        self.fastest_s = delay_s if self.fastest_s is None else min(self.fastest_s, delay_s)
        return delay_s - self.fastest_s


def next_run_id(stored: int | None, epoch_s: float) -> int:
    """Return the identifier of a new run: greater than every earlier one, also when the wall clock jumped back.

    >>> next_run_id(None, 1000.9), next_run_id(1000, 400.0), next_run_id(7, 1000.0)
    (1000, 1001, 1000)
    """
    return max((stored or 0) + 1, int(epoch_s))
