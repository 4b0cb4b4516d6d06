"""Who asks too much is refused, and nobody else is."""

from common.messaging.budget import Budget, Resends
from services.exporter.core.room import GRACE_S, MOST, MOST_OF_ONE, Answer, Room

A, B = b"a", b"b"


def test_one_peer_that_is_never_answered_leaves_room_for_another() -> None:
    budget = Budget()
    for _ in range(budget.most_waiting):
        assert budget.refusal(A, 0.0) == ""
        budget.begin(A, 0.0)
    assert "wait for an answer" in budget.refusal(A, 0.0)
    assert budget.refusal(B, 0.0) == ""


def test_an_answer_makes_room_and_so_does_time() -> None:
    budget = Budget(most_waiting=1)
    number = budget.begin(A, 0.0)
    assert budget.refusal(A, 1.0)
    budget.end(number)
    budget.end(number)
    assert budget.refusal(A, 1.0) == ""
    budget.begin(A, 1.0)
    assert budget.refusal(A, 1.0 + budget.patience_s - 0.1)
    assert budget.refusal(A, 1.0 + budget.patience_s) == ""


def test_a_flood_is_slowed_down_to_its_rate_and_comes_back() -> None:
    budget = Budget()
    taken = sum(not budget.refusal(A, tick / 1000) for tick in range(10_000))
    assert taken <= budget.burst + budget.rate * 10
    assert budget.refusal(B, 10.0) == ""
    assert budget.refusal(A, 60.0) == ""


def test_many_peers_cost_bounded_memory() -> None:
    budget = Budget()
    refused = [bool(budget.refusal(str(number).encode(), 0.0)) for number in range(3000)]
    assert sum(refused) == 2000
    assert budget.refusal(b"later", 60.0) == ""


def test_all_that_wait_are_bounded_whoever_they_are() -> None:
    budget = Budget()
    for number in range(budget.most_in_all):
        budget.begin(str(number).encode(), 0.0)
    assert "wait for an answer" in budget.refusal(B, 0.0)


def test_subscriptions_beyond_a_few_are_served_together() -> None:
    resends, served = Resends(), 0
    for tick in range(10_000):
        resends.want({b"x"})
        served += bool(resends.due(tick / 1000))
    assert served <= Resends.BURST + Resends.RATE * 10
    resends.want({b"last"})
    assert resends.at_s(10.0) <= 10.0 + 1 / Resends.RATE
    assert b"last" in resends.due(11.0)
    assert resends.at_s(11.0) == float("inf")


def test_very_many_prefixes_become_all() -> None:
    resends = Resends()
    for number in range(10_000):
        resends.want({str(number).encode()})
    assert b"" in resends.due(0.0)


def test_a_machine_that_stalls_makes_room_for_the_next() -> None:
    room = Room()
    for number in range(MOST_OF_ONE):
        assert room.enter(number, "a", 0.0) == Answer(is_in=True)
    assert room.enter(99, "a", GRACE_S / 2) == Answer(is_in=False)
    assert room.enter(99, "b", GRACE_S / 2) == Answer(is_in=True)
    assert room.enter(100, "a", GRACE_S) == Answer(is_in=True, goes=0)


def test_many_machines_that_stall_make_room_too_and_none_stays_for_ever() -> None:
    room = Room()
    for number in range(MOST):
        assert room.enter(number, str(number), 0.0).is_in
    assert room.enter(99, "new", 0.2) == Answer(is_in=False)
    assert room.enter(99, "new", 2.0) == Answer(is_in=True, goes=0)
    assert room.late(10.0, 10.0) == list(range(1, MOST))
    room.leave(5)
    assert room.late(12.0, 10.0) == [99]
