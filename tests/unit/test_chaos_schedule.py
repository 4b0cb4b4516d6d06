"""The order of faults is the seed's alone, and a cut POST is excused only by a domain that could have held it."""

from itertools import islice

from tests.chaos.posts import Post
from tests.chaos.schedule import KINDS, MOST_KILLED, Fault, faults
from tests.chaos.test_chaos import Hurt, unexplained

FAULT = Fault(1, "kill a QEMU", chance=0.0, lasts_s=0.0, quiet_s=0.0, is_followed=False)


def test_a_seed_repeats_its_order_and_another_seed_has_another() -> None:
    first, again, other = (list(islice(faults(seed), 40)) for seed in (3, 3, 4))
    assert first == again
    assert [fault.kind for fault in first] != [fault.kind for fault in other]


def test_every_kind_comes_and_lasts_as_long_as_it_may() -> None:
    come = list(islice(faults(1), 400))
    assert {fault.kind for fault in come} == set(KINDS)
    assert all(KINDS[fault.kind][1] <= fault.lasts_s <= KINDS[fault.kind][2] for fault in come)
    assert {fault.is_followed for fault in come} == {True, False}


def test_whom_a_fault_meets_is_chosen_by_its_chance() -> None:
    chosen = {fault.one_of(["a", "b", "c"]) for fault in islice(faults(1), 40)}
    several = [fault.some_of(["a", "b", "c", "d"]) for fault in islice(faults(1), 40)]
    assert chosen == {"a", "b", "c"}
    assert {len(names) for names in several} == set(range(1, MOST_KILLED + 1))
    assert FAULT.some_of(["a", "b", "c", "d"]) == FAULT.some_of(["a", "b", "c", "d"])


def test_a_cut_post_is_excused_by_a_dead_domain_that_could_have_held_it() -> None:
    hurt = Hurt(FAULT, "web-0000", begin_s=10.0, end_s=12.0, in_flight=1)
    held, before, after = Post(5.0, 10.5, "cut"), Post(1.0, 9.0, "cut"), Post(13.0, 14.0, "cut")
    answered = Post(5.0, 15.0, None)
    assert unexplained([held, answered], [hurt]) == []
    assert unexplained([before, after, answered], [hurt]) == [before, after]
    assert unexplained([held], []) == [held]


def test_a_dead_domain_excuses_no_more_posts_than_it_worked_on() -> None:
    hurt = Hurt(FAULT, "web-0000", begin_s=10.0, end_s=12.0, in_flight=1)
    posts = [Post(5.0, 10.5, "cut"), Post(6.0, 10.5, "cut"), Post(11.0, 11.5, "cut")]
    assert unexplained(posts, [hurt]) == posts[2:]
