"""What the master says of its workers, and what follows for a drain."""

import pytest

from services.balancer.core.answers import Snapshot
from services.balancer.core.older import (
    Old,
    Older,
    hard_stopped,
    merged,
    old_ones,
)
from services.balancer.core.workers import Worker, parse_workers, sessions_at
from services.balancer.errors import ProxyError

ANSWER = (
    "#<PID>          <type>          <reloads>       <uptime>        <version>\n"
    "10              master          2 [failed: 0]   1d02h00m07s     2.6.12-1+deb12u4\n"
    "# workers\n"
    "30              worker          0               0d00h00m05s     2.6.12-1+deb12u4\n"
    "# old workers\n"
    "20              worker          1               0d00h01m05s     2.6.12-1+deb12u4\n"
    "15              worker          2               1d02h00m06s     2.6.12-1+deb12u4\n"
    "# programs"
)


def test_workers_are_read_by_their_kind() -> None:
    assert parse_workers(ANSWER) == (
        Worker(30, 0, 5.0, is_old=False),
        Worker(20, 1, 65.0, is_old=True),
        Worker(15, 2, 93606.0, is_old=True),
    )


@pytest.mark.parametrize(
    "answer", ["", "# workers", "Permission denied", "x worker 0 0d00h00m05s", "5 worker 0 5x", "5 worker 0 d"]
)
def test_what_names_no_worker_is_no_answer(answer: str) -> None:
    with pytest.raises(ProxyError, match="HAProxy's master names"):
        parse_workers(answer)


def test_a_worker_is_old_for_as_long_as_the_first_of_its_successors_runs() -> None:
    assert old_ones(parse_workers(ANSWER), 30) == {20: 5.0, 15: 65.0}


def test_a_reload_between_two_questions_leaves_the_old_workers_unknown() -> None:
    assert old_ones(parse_workers(ANSWER), 20) is None
    assert old_ones(parse_workers(ANSWER), 40) is None


def test_after_a_reload_that_failed_the_newest_old_worker_is_the_present_one() -> None:
    workers = tuple(worker for worker in parse_workers(ANSWER) if worker.is_old)
    assert old_ones(workers, 20) == {15: 65.0}


SESSIONS = (
    "0x55ed46dda680: proto=tcpv4 src=127.0.0.1:51902 fe=web be=web srv=vm1 ts=00 age=3s calls=3\n"
    "0x55ed46efc000: proto=tcpv4 src=127.0.0.1:51892 fe=web be=web srv=vm11 ts=00 age=3s calls=3\n"
    "0x7f120c041da0: proto=tcpv4 src=127.0.0.1:51894 fe=db be=db srv=vm1 ts=00 age=3s calls=3\n"
    "0x7f120c0470b0: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00 age=0s"
)


def test_sessions_are_told_apart_by_backend_and_server() -> None:
    assert sessions_at(SESSIONS, "web", "vm1") == ("0x55ed46dda680",)
    assert sessions_at(SESSIONS, "db", "vm1") == ("0x7f120c041da0",)
    assert sessions_at(SESSIONS, "web", "vm2") == sessions_at("", "web", "vm1") == ()


def old(pid: int, since_s: float) -> Old:
    return Old(Snapshot(pid, {}, {}, ""), since_s)


def test_what_does_not_answer_is_as_it_was_and_grows_older() -> None:
    before = Older((old(1, 10.0), old(2, 5.0)))
    assert merged(before, Older((old(2, 6.0),), is_whole=False), 1.0) == Older(
        (old(2, 6.0), old(1, 11.0)), is_whole=False
    )
    assert merged(before, Older(), 1.0) == Older()


@pytest.mark.parametrize(("since_s", "pids"), [(500.0, []), (596.9, []), (598.0, [1]), (700.0, [1])])
def test_only_one_whose_time_was_up_was_stopped(since_s: float, pids: list[int]) -> None:
    before = Older((old(1, since_s), old(2, 700.0)))
    assert [s.pid for s in hard_stopped(before, Older((old(2, 701.0),)), 1.0, 600.0)] == pids
