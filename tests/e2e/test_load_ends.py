"""A load that has grown a group ends, in eight ways: each time the group is back at its fewest domains in time.

The tests share one installation with short windows. Each begins with one domain and a decider that has learned nothing
of the load before (patience has tests of its own), grows to three by the real load generator, and reads in the
recording when the desired capacity had fallen.
"""

import http.client
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from bench.decided import decisions, desired_since_s
from bench.driving import Load
from load.levels import DEFAULT_N
from tests.e2e.steady import Steady
from tests.e2e.whole import CLOCK, Whole
from tests.e2e.world import World, wait_until

NAME, NUMBER = "asel", 21
MOST, LEAST = 3, 1
IN_WINDOW_S, COOLDOWN_S, SLACK_S = 6.0, 5.0, 15.0
BOUND_S = IN_WINDOW_S + (MOST - LEAST - 1) * COOLDOWN_S + SLACK_S
REQUEST_TIMEOUT_S = 6.0
GROW_S = 90.0  # generous: guests boot in software emulation beside everything else on two cores
SETTLE_S = 60.0
CLIENTS = 12
LATE_S = 30.0  # looked for longer than allowed, so that a failure tells how late it was
PAUSE_S = IN_WINDOW_S / 2


@pytest.fixture(scope="module")
def whole(make_world: Callable[..., World]) -> Iterator[Whole]:
    """Return a running installation of one domain."""
    world = make_world(
        NAME,
        NUMBER,
        maximum=str(MOST),
        cooldown_in_s=str(COOLDOWN_S),
        in_window_s=str(IN_WINDOW_S),
        out_window_s="2.0",
        extra=f"step_out = 2\n[haproxy]\nrequest_timeout_s = {REQUEST_TIMEOUT_S}",
    )
    world.autoscaler("up")
    with Steady(world, rate=1) as unused:
        whole = Whole(world, unused)
    yield whole
    whole.close()


@pytest.fixture
def load(whole: Whole) -> Iterator[Load]:
    """Return the running load that has grown the group from one domain to three."""
    if whole.group()["desired"] != LEAST:  # the test before has failed
        begin_anew(whole)
    settle(whole, LEAST)
    begin_anew(whole)
    with Load(whole.world.config, "web") as load:
        yield load


def begin_anew(whole: Whole) -> None:
    """Let a decider take over that has no memory of an earlier load."""
    old = whole.pid("decider")
    os.kill(old, signal.SIGSTOP)  # or it would write its store once more
    (whole.world.state_dir / "decider.json").unlink()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: whole.world.pid("decider") not in (None, old), SETTLE_S, "a new decider")


def settle(whole: Whole, count: int, timeout_s: float = SETTLE_S) -> None:
    """Return when exactly so many domains are there, all in rotation."""
    is_settled = lambda: [d["phase"] for d in whole.group()["domains"]] == ["ready"] * count  # noqa: E731
    wait_until(is_settled, timeout_s, f"{count} ready domain(s) and no other")


def falls_in_time(whole: Whole, ended_at_s: float) -> None:
    """Pass if the recorded decisions fall to the fewest domains within the bound after ``ended_at_s``."""

    def fallen() -> float | None:
        return desired_since_s(decisions(whole.config, "web", ended_at_s), LEAST)

    try:
        took_s = wait_until(fallen, BOUND_S + LATE_S, f"desired {LEAST}", every_s=1.0) - ended_at_s
    except AssertionError as error:
        last = decisions(whole.config, "web", ended_at_s)[-1]
        raise AssertionError(f"{error}; desired {last.desired_after}: {last.limiter}, {last.limiter_text}") from None
    print(f"\n  desired {LEAST} {took_s:.1f} s after the load's end; allowed {BOUND_S:.0f} s")
    assert took_s <= BOUND_S


def grown(whole: Whole, load: Load) -> None:
    """Return when the load has brought three domains into rotation."""
    settle(whole, MOST, GROW_S)
    assert load.is_running


def posts(whole: Whole, pool: ThreadPoolExecutor, count: int, milliseconds: int) -> list["Future[int]"]:
    """Send POSTs that take so long, all at once; return their statuses to come."""
    return [pool.submit(post, whole.world.port, f"/slow?ms={milliseconds}") for _ in range(count)]


def post(port: int, path: str) -> int:
    """Return the status of one POST at the endpoint."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body="x")
        return connection.getresponse().status
    finally:
        connection.close()


def kept_alive(port: int) -> http.client.HTTPConnection:
    """Return a connection that has had an answer, a good one or not, to a request like the load's, and stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/compute?n={DEFAULT_N}")
    connection.getresponse().read()
    return connection


def test_it_shrinks_after_a_load_that_ends_at_once(whole: Whole, load: Load) -> None:
    grown(whole, load)
    falls_in_time(whole, load.ctrl_c())


@pytest.mark.slow
def test_it_shrinks_under_a_trickle_of_short_requests(whole: Whole, load: Load) -> None:
    grown(whole, load)
    ended_at_s = load.ctrl_c()
    with Steady(whole.world, rate=2, threads=2) as trickle:
        falls_in_time(whole, ended_at_s)
    assert trickle.failures == []


@pytest.mark.slow
def test_it_shrinks_under_one_client_that_sends_one_slow_request_after_the_other(whole: Whole, load: Load) -> None:
    grown(whole, load)
    ended_at_s = load.ctrl_c()
    with Steady(whole.world, rate=0.25, threads=1, ask=("/slow?ms=4000", "slept 4000 ms")) as client:
        falls_in_time(whole, ended_at_s)
    assert client.failures == []


@pytest.mark.slow
def test_it_shrinks_after_a_load_whose_last_answers_are_errors(whole: Whole, load: Load) -> None:
    grown(whole, load)
    load.ctrl_c()
    with ThreadPoolExecutor(12) as pool:
        answers = posts(whole, pool, 12, milliseconds=round(1500 * REQUEST_TIMEOUT_S))
        assert {answer.result() for answer in answers} == {504}
    falls_in_time(whole, CLOCK.epoch_s())


@pytest.mark.slow
def test_it_shrinks_while_clients_keep_idle_connections(whole: Whole, load: Load) -> None:
    grown(whole, load)
    with ExitStack() as open_ones:
        for _ in range(CLIENTS):
            open_ones.callback(kept_alive(whole.world.port).close)
        falls_in_time(whole, load.ctrl_c())


@pytest.mark.slow
def test_it_shrinks_after_a_second_short_burst(whole: Whole, load: Load) -> None:
    grown(whole, load)
    ended_at_s = load.ctrl_c()
    wait_until(lambda: CLOCK.epoch_s() > ended_at_s + PAUSE_S, 2 * PAUSE_S, "a pause shorter than the window")
    with Load(whole.world.config, "web") as burst:
        wait_until(lambda: (whole.group()["request_rate"] or 0) > 5, SETTLE_S, "the burst's requests")
        falls_in_time(whole, burst.ctrl_c())


@pytest.mark.slow
def test_it_shrinks_after_posts_that_end_late_and_cuts_none(whole: Whole, load: Load) -> None:
    grown(whole, load)
    with ThreadPoolExecutor(6) as pool:
        late = posts(whole, pool, 6, milliseconds=5000)
        load.ctrl_c()
        assert {answer.result() for answer in late} == {200}
    falls_in_time(whole, CLOCK.epoch_s())


@pytest.mark.slow
def test_it_shrinks_after_a_load_that_ends_while_more_domains_boot(whole: Whole, load: Load) -> None:
    wait_until(lambda: whole.group()["desired"] == MOST, GROW_S, f"desired {MOST}")
    ended_at_s = load.ctrl_c()
    assert len(whole.ready()) < MOST, "the load was to end before what it asked for serves"
    falls_in_time(whole, ended_at_s)
