"""A real installation under faults that a seed orders: no GET fails, and no POST but those that a dead domain held.

``make chaos SEED=n MINUTES=m``. Each fault is told when it comes and when all is whole again (``Whole.problems``); at
the end every POST that was cut is listed with the fault that cost it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.acts import Acts, Hurt
from tests.chaos.posts import Post, Posts
from tests.chaos.schedule import KINDS, Fault, faults
from tests.e2e.small_disk import small_disk
from tests.e2e.steady import Steady
from tests.e2e.whole import Whole
from tests.e2e.world import World, now_s, wait_until

NAME, NUMBER = "asex", 46
STATE_MIB = 128
GETS, POSTS = 20.0, 0.7  # a second
SERVER_TIMEOUT_S = 35.0  # HAProxy gives an answer up after 30 s
BOOTS = 3  # services may be killed while a domain boots, and two faults may come one after the other


@pytest.fixture
def world(make_world: Callable[..., World]) -> Iterator[World]:
    """Return a running installation of two to four domains, whose state directory is a small file system."""
    made = make_world(
        NAME,
        NUMBER,
        minimum="2",
        group_extra="unhealthy_grace_s = 4.0",
        extra="[haproxy]\nmaxconn = 4000\n",
    )
    with ExitStack() as undo:
        undo.enter_context(small_disk(made.state_dir, made.config.parent / "state.img", STATE_MIB))
        undo.callback(made.autoscaler, "down", "--everything")
        done = made.autoscaler("up", check=False)
        assert done.returncode == 0, f"{done.stderr}\n{made.autoscaler('events', check=False).stdout}"
        yield made


def test_no_request_is_lost_that_could_be_saved(world: World, request: pytest.FixtureRequest) -> None:
    seed, minutes = request.config.getoption("--seed"), request.config.getoption("--minutes")
    print(f"\nseed {seed}, {minutes:g} minutes")
    with Steady(world, GETS) as steady, Posts(world, POSTS, seed) as posts:
        whole = Whole(world, steady)
        try:
            whole.converge("two domains in rotation")
            acts = Acts(whole)
            assert acts.kinds() == set(KINDS)
            run(whole, acts, faults(seed), minutes * 60)
        finally:
            whole.close()
    judge(steady, posts.ended(), acts.hurt)


def run(whole: Whole, acts: Acts, order: Iterator[Fault], lasts_s: float) -> None:
    """Inject faults one after the other; after each, but those that are followed at once, all must be whole again."""
    begin_s = now_s()
    while now_s() < begin_s + lasts_s:
        fault = next(order)
        failed = len(whole.steady.failures)
        print(f"{now_s() - begin_s:7.1f} s {fault.number:3} {fault.kind}:", end=" ", flush=True)
        whom = acts.inject(fault)
        print(f"{whom} ({fault.lasts_s:.0f} s, until {now_s() - begin_s:.1f} s)", flush=True)
        if not fault.is_followed:
            whole.converge(fault.kind, boots=BOOTS)
            until_s = now_s() + fault.quiet_s
            wait_until(lambda until_s=until_s: now_s() > until_s, fault.quiet_s + 5, "calm")
        for at_s, what in whole.steady.failures[failed:]:
            print(f"      GET of {at_s - begin_s:.1f} s failed: {what}", flush=True)
    whole.converge("the end", boots=BOOTS)


def judge(steady: Steady, posts: list[Post], hurts: list[Hurt]) -> None:
    """Pass if every GET was answered, and every POST that no dead domain held."""
    left = unexplained(posts, hurts)
    cut = sum(post.fault is not None for post in posts)
    print(f"  {len(steady.failures)} of {steady.sent} GETs failed; slowest {steady.slowest_s:.2f} s")
    print(f"  {cut} of {len(posts)} POSTs cut, {len(left)} of them without a dead domain")
    assert posts, "no POST ended"
    assert steady.failures == []
    assert left == []


def unexplained(posts: list[Post], hurts: list[Hurt]) -> list[Post]:
    """Return the cut POSTs that no dead domain held; each of the others is listed with its fault.

    A domain held at most what it worked on when it was hurt, and what was sent before that could be noticed.
    """
    left = [post for post in posts if post.fault]
    for hurt in hurts:
        most = hurt.in_flight + sum(hurt.begin_s <= post.sent_s <= hurt.end_s for post in posts)
        for post in [post for post in left if could_hold(hurt, post)][:most]:
            left.remove(post)
            print(f"  POST cut: {hurt.fault.number} {hurt.fault.kind} of {hurt.domain}: {post.fault}")
    return left


def could_hold(hurt: Hurt, post: Post) -> bool:
    """Return whether this POST may have been with the domain that was hurt."""
    return post.was_in_flight(hurt.begin_s, hurt.end_s) and post.ended_s <= hurt.end_s + SERVER_TIMEOUT_S
