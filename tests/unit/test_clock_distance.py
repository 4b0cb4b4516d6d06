"""The age of a message across machines: what each clock may do, in virtual time."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Header
from common.messaging.distance import WINDOW_S
from common.messaging.sequence import Receipt, Tracker

STALE_S = 3.5
JITTER_S = 0.2
HOUR_S = 3600.0


@dataclass(slots=True)
class Machine:
    """Both clocks of a machine, by true time."""

    mono_s: float = 100.0
    wall_s: float = 1_790_000_000.0
    drift: float = 0.0
    true_s: float = 0.0

    def pass_until(self, true_s: float) -> None:
        self.mono_s += (true_s - self.true_s) * (1 + self.drift)
        self.wall_s += (true_s - self.true_s) * (1 + self.drift)
        self.true_s = true_s

    def sleep(self, for_s: float) -> None:
        self.mono_s -= for_s  # of a time that passes anyway


class Line:
    """One sender and one receiver, and what the receiver makes of each message."""

    def __init__(self, sender: Machine, receiver: Machine, seed: int = 1) -> None:
        self.sender, self.receiver = sender, receiver
        self.tracker, self.random = Tracker(patience_s=6.0), Random(seed)
        self.seq, self.true_s = 0, 0.0
        self.jumps: list[float] = []

    def send(self, after_s: float = 1.0) -> Header:
        self.true_s += after_s
        self.sender.pass_until(self.true_s)
        self.seq += 1
        return Header(source="monitor", run_id=1, seq=self.seq, sent_at_s=self.sender.wall_s, mono_s=self.sender.mono_s)

    def receive(self, header: Header, way_s: float) -> float:
        self.true_s = max(self.true_s, self.receiver.true_s)
        self.receiver.pass_until(self.true_s + way_s)
        at = Receipt(self.receiver.mono_s, self.receiver.wall_s)
        judgement = self.tracker.judge("t", header, at, is_clock_shared=False)
        self.jumps += [judgement.jumped_s] if judgement.jumped_s else []
        return judgement.age_s

    def ages(self, count: int, every_s: float = 1.0) -> Iterator[float]:
        for _ in range(count):
            yield self.receive(self.send(every_s), self.random.uniform(0.0, JITTER_S))


def line(drift: float = 0.0) -> Line:
    return Line(Machine(drift=drift), Machine(mono_s=9.0, wall_s=1_790_000_003.0))


@pytest.mark.parametrize("drift", [40e-6, -40e-6, 500e-6, -500e-6])
def test_drift_for_three_days_makes_no_message_stale(drift: float) -> None:
    assert max(line(drift).ages(26_000, every_s=10.0)) < 2 * JITTER_S


@pytest.mark.parametrize("who", ["sender", "receiver"])
@pytest.mark.parametrize("step_s", [-8 * HOUR_S, -5.0, 5.0, 8 * HOUR_S])
def test_a_wall_clock_that_is_set_makes_no_message_stale(who: str, step_s: float) -> None:
    talk = line()
    list(talk.ages(100))
    getattr(talk, who).wall_s += step_s
    assert max(talk.ages(300)) < 2 * JITTER_S


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_a_machine_that_slept_is_fresh_with_its_first_words(who: str) -> None:
    talk = line()
    list(talk.ages(100))
    talk.true_s += 8 * HOUR_S
    getattr(talk, who).sleep(8 * HOUR_S)
    assert max(talk.ages(300)) < 2 * JITTER_S


def test_where_both_clocks_jump_the_distance_is_learnt_anew_within_the_window() -> None:
    talk = line()
    list(talk.ages(100))
    talk.true_s += HOUR_S
    talk.sender.mono_s -= HOUR_S  # paused as a guest: neither clock went on
    talk.sender.wall_s -= HOUR_S
    ages = list(talk.ages(int(WINDOW_S) + 300))
    assert ages[0] > HOUR_S - 1
    assert max(ages[int(WINDOW_S) + 1 :]) < 2 * JITTER_S


def test_a_jump_is_told_once_with_its_size_and_jitter_and_drift_never() -> None:
    talk = line(drift=500e-6)
    list(talk.ages(1000))
    assert talk.jumps == []
    talk.true_s += 8 * HOUR_S
    talk.sender.sleep(8 * HOUR_S)
    list(talk.ages(1000))
    assert [round(jump) for jump in talk.jumps] == [8 * HOUR_S]


@given(
    before=st.integers(1, 400),
    held_s=st.floats(STALE_S + 0.5, 8 * HOUR_S),
    count=st.integers(1, 50),
    drift=st.sampled_from([0.0, 40e-6, -40e-6]),
    seed=st.integers(0, 99),
)
def test_a_burst_that_was_held_up_is_stale_whatever_came_before(
    before: int, held_s: float, count: int, drift: float, seed: int
) -> None:
    talk = line(drift)
    talk.random = Random(seed)
    list(talk.ages(before))
    held = [talk.send(0.01) for _ in range(count)]
    talk.true_s += held_s + JITTER_S
    ages = [talk.receive(header, 0.001) for header in held]
    assert min(ages) > STALE_S - 0.5


@given(seed=st.integers(0, 10_000))
def test_ages_are_never_negative_and_a_fresh_message_is_never_stale_for_longer_than_the_window(seed: int) -> None:
    random = Random(seed)
    talk = line(random.choice([0.0, 40e-6, -500e-6]))
    talk.random = random
    jumped_s = 0.0
    for _ in range(400):
        if random.random() < 0.02:
            who = random.choice([talk.sender, talk.receiver])
            slept_s = random.choice([0.0, random.uniform(0.0, 3 * HOUR_S)])
            talk.true_s += slept_s
            who.sleep(slept_s)
            who.wall_s += random.choice([0.0, random.uniform(-3 * HOUR_S, 3 * HOUR_S)])
            jumped_s = talk.true_s
        every_s = random.choice([0.5, 2.0, 10.0])
        [age_s] = talk.ages(1, every_s)
        assert age_s >= 0
        assert age_s < STALE_S or talk.true_s - jumped_s <= WINDOW_S + 3 * 10.0 + 1.0
