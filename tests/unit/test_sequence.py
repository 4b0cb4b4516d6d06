"""What a receiver remembers about senders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Header
from common.messaging.sequence import Judgement, Receipt, Tracker, Verdict, next_run_id

PATIENCE_S = 6.0


def at(now_s: float) -> Receipt:
    return Receipt(mono_s=now_s, epoch_s=now_s)


def header(seq: int, run_id: int = 1, mono_s: float = 0.0) -> Header:
    return Header(source="monitor", run_id=run_id, seq=seq, sent_at_s=mono_s, mono_s=mono_s)


def verdicts(*said: tuple[int, int]) -> list[Judgement]:
    """Judge (run, seq) pairs of one topic in order, at the moment they were sent."""
    tracker = Tracker(PATIENCE_S)
    return [tracker.judge("t", header(seq, run), at(0.0), is_clock_shared=True) for run, seq in said]


@pytest.mark.parametrize(
    ("said", "verdict", "lost"),
    [
        ([(1, 1)], Verdict.NEW_RUN, 0),
        ([(1, 7)], Verdict.NEW_RUN, 0),  # a late listener has lost nothing
        ([(1, 1), (1, 2)], Verdict.NEW, 0),
        ([(1, 1), (1, 5)], Verdict.NEW, 3),
        ([(1, 2), (1, 2)], Verdict.DUPLICATE, 0),
        ([(1, 2), (1, 1)], Verdict.REPLAYED, 0),
        ([(2, 1), (1, 9)], Verdict.REPLAYED, 0),
        ([(1, 9), (2, 1)], Verdict.NEW_RUN, 0),
        ([(1, 9), (2, 1), (1, 10)], Verdict.REPLAYED, 0),
        ([(1, 1), (1, 3), (1, 2)], Verdict.REPLAYED, 0),  # what was overtaken is from the past
    ],
)
def test_a_message_is_new_a_copy_or_from_the_past(said: list[tuple[int, int]], verdict: Verdict, lost: int) -> None:
    assert verdicts(*said)[-1] == Judgement(verdict, lost, 0.0)


def test_topics_are_counted_apart_and_runs_together() -> None:
    tracker = Tracker(PATIENCE_S)
    tracker.judge("a", header(5), at(0.0), is_clock_shared=True)
    assert tracker.judge("b", header(1), at(0.0), is_clock_shared=True).verdict is Verdict.NEW
    tracker.judge("a", header(1, run_id=2), at(0.0), is_clock_shared=True)
    assert tracker.judge("b", header(2), at(0.0), is_clock_shared=True).verdict is Verdict.REPLAYED


def test_a_shared_clock_gives_the_age_itself_also_of_the_first_message() -> None:
    assert Tracker(PATIENCE_S).judge("t", header(1, mono_s=100.0), at(102.5), is_clock_shared=True).age_s == 2.5


def test_an_age_is_never_negative() -> None:
    assert Tracker(PATIENCE_S).judge("t", header(1, mono_s=100.0), at(99.0), is_clock_shared=True).age_s == 0.0


def test_without_a_shared_clock_the_age_is_the_delay_beyond_the_fastest_message() -> None:
    tracker = Tracker(PATIENCE_S)
    ages = [
        tracker.judge("t", header(seq, mono_s=sent), at(got), is_clock_shared=False).age_s
        for seq, sent, got in ((1, 10.0, 1010.5), (2, 11.0, 1011.25), (3, 12.0, 1015.25))
    ]
    assert ages == [0.0, 0.0, 3.0]


def test_a_new_run_forgets_the_delays_of_the_last() -> None:
    tracker = Tracker(PATIENCE_S)
    tracker.judge("t", header(1, mono_s=1000.0), at(1001.0), is_clock_shared=False)
    assert tracker.judge("t", header(1, run_id=2, mono_s=5.0), at(1005.0), is_clock_shared=False).age_s == 0.0


@given(st.permutations([(run, seq) for run in (1, 2, 3) for seq in (1, 2, 3, 4)]))
def test_whatever_the_order_what_is_accepted_only_grows(said: list[tuple[int, int]]) -> None:
    accepted = [
        pair
        for pair, judgement in zip(said, verdicts(*said), strict=True)
        if judgement.verdict in (Verdict.NEW, Verdict.NEW_RUN)
    ]
    assert accepted == sorted(accepted)
    assert max(said) in accepted


@given(st.lists(st.integers(1, 50), min_size=1))
def test_accepted_and_lost_together_are_what_was_sent(seqs: list[int]) -> None:
    judged = verdicts(*((1, seq) for seq in seqs))
    accepted = [j for j in judged if j.verdict in (Verdict.NEW, Verdict.NEW_RUN)]
    assert len(accepted) + sum(j.lost for j in judged) == max(seqs) - seqs[0] + 1


def tell(tracker: Tracker, run_id: int, seq: int, now_s: float, lag_s: float = 0.0) -> Verdict:
    """Have ``run_id`` say its message ``seq`` at ``now_s``, sent ``lag_s`` earlier; return what it is judged to be."""
    said = header(seq, run_id, mono_s=now_s - lag_s)
    return tracker.judge("t", said, at(now_s), is_clock_shared=True).verdict


def test_a_run_that_fell_is_believed_once_the_old_one_was_silent_and_it_spoke_for_as_long() -> None:
    tracker = Tracker(PATIENCE_S)
    tell(tracker, 9, 1, now_s=0.0)
    heard = [tell(tracker, 4, seq, now_s=10.0 + seq) for seq in range(1, 9)]
    assert heard == [*[Verdict.REPLAYED] * 6, Verdict.NEW_RUN, Verdict.NEW]


def test_a_run_that_was_given_up_is_never_believed_again() -> None:
    tracker = Tracker(PATIENCE_S)
    tell(tracker, 9, 1, now_s=0.0)
    for seq in range(1, 9):
        tell(tracker, 4, seq, now_s=10.0 + seq)
    assert [tell(tracker, 9, seq, now_s=20.0 + seq) for seq in range(2, 20)] == [Verdict.REPLAYED] * 18
    assert tell(tracker, 10, 1, now_s=50.0) is Verdict.NEW_RUN


def test_a_run_that_fell_is_not_believed_while_the_known_one_speaks() -> None:
    tracker = Tracker(PATIENCE_S)
    for turn in range(1, 100):
        assert tell(tracker, 9, turn, now_s=2.0 * turn) is not Verdict.REPLAYED
        assert tell(tracker, 4, turn, now_s=2.0 * turn + 1.0) is Verdict.REPLAYED


@given(
    pace=st.sampled_from([0.0, 0.01, 100.0]),
    starts=st.lists(st.integers(1, 50), min_size=1, max_size=60),
)
def test_what_an_old_run_said_is_not_believed_when_it_is_sent_again_out_of_order_or_at_another_pace(
    pace: float, starts: list[int]
) -> None:
    tracker = Tracker(PATIENCE_S)
    tell(tracker, 9, 1, now_s=0.0)
    for turn, seq in enumerate(starts):
        said = header(seq, 4, mono_s=seq * pace)
        assert tracker.judge("t", said, at(10.0 + turn), is_clock_shared=True).verdict is Verdict.REPLAYED


@given(st.integers(0, 2**40), st.floats(0, 2**40))
def test_a_run_is_greater_than_every_earlier_one_whatever_the_wall_clock(stored: int, epoch_s: float) -> None:
    run_id = next_run_id(stored, epoch_s)
    assert run_id > stored
    assert run_id >= int(epoch_s)
