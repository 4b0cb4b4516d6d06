"""HAProxy is told to end: real sockets, the real HAProxy under its keeper, as every way of running it has it.

What is in flight ends, for as long as the longest ``drain_timeout_s``; what then is still open is cut and told.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.console import Steps
from cli.supervision import is_supervised, stop_services
from common.clock import SystemClock
from services.balancer.core import ending
from tests.integration.balancer_stand import ROOT, Load
from tests.integration.kept_haproxy import BOUND_S, Kept, post
from tests.waiting import wait_until

CLOCK = SystemClock()
DOWN = """
import sys
from pathlib import Path
from cli.console import Steps
from cli.supervision import stop_services
from common.clock import SystemClock
from common.config import System
steps = Steps(SystemClock(), 1)
with steps.step("services and HAProxy"):
    steps.say(stop_services(System(run_dir=sys.argv[1], state_dir=sys.argv[2]), SystemClock(), steps))
"""
LONG_BOUND_S = 8.0  # in it a command starts, is interrupted and ends, on a machine that does other things too
AT_ONCE_S = 1.5  # the helper's start, two looks and HAProxy's end, on a machine that does other things too


@pytest.fixture
def kept() -> Iterator[Kept]:
    directory = Path(tempfile.mkdtemp(prefix="end-", dir="/tmp"))  # HAProxy's sockets have short names
    stand = Kept(directory)
    yield stand
    stand.close()
    shutil.rmtree(directory)


@pytest.fixture
def supervised() -> Iterator[Kept]:
    directory = Path(tempfile.mkdtemp(prefix="end-", dir="/tmp"))
    stand = Kept(directory, is_supervised=True)
    yield stand
    stand.close()
    shutil.rmtree(directory)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def idle(kept: Kept) -> http.client.HTTPConnection:
    """Return a connection that has been answered once and is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", kept.port, timeout=40)
    connection.request("GET", "/work")
    assert connection.getresponse().read() == b"web-0000\n"
    return connection


def tunnel(kept: Kept) -> socket.socket:
    """Return a WebSocket's connection."""
    connection = socket.create_connection(("127.0.0.1", kept.port), timeout=40)
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    connection.sendall(
        b"GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def test_a_post_in_flight_is_answered_nothing_new_is_taken_and_haproxy_does_not_come_back(
    kept: Kept, pool: ThreadPoolExecutor
) -> None:
    answer: Future[str] = pool.submit(post, kept)
    kept.until_in_flight(1)
    kept.drain()
    wait_until(lambda: (told := ending.read(kept.run)) and told.in_flight == 1, "it is told", 20)
    assert not kept.takes_new()
    told = ending.read(kept.run)
    assert told is not None
    assert told.text == f"HAProxy takes nothing new; 1 request in flight may end within {BOUND_S:g} s"
    kept.go()
    assert answer.result(20) == "200"
    assert kept.keeper.wait(20) == 0
    assert "cut after" not in kept.log()


def test_posts_of_an_old_process_and_of_the_present_one_are_answered(kept: Kept, pool: ThreadPoolExecutor) -> None:
    old = pool.submit(post, kept)
    kept.until_in_flight(1)
    kept.reload()
    new = pool.submit(post, kept)
    kept.until_in_flight(2)
    kept.drain()
    wait_until(lambda: (told := ending.read(kept.run)) and told.in_flight == 2, "both are waited for", 20)
    kept.go()
    assert (old.result(20), new.result(20)) == ("200", "200")
    assert kept.keeper.wait(20) == 0


def test_tunnels_are_cut_at_the_longest_bound_and_told(kept: Kept) -> None:
    with tunnel(kept) as web, socket.create_connection(("127.0.0.1", kept.tcp_port), timeout=40) as tcp:
        kept.until_in_flight(2)
        watch = kept.drain()
        assert web.recv(1) == b"", "cut"
        assert BOUND_S - 0.5 < watch.s() < BOUND_S + 5, "the group that allows most decides"
        assert tcp.recv(1) == b""
        assert kept.keeper.wait(20) == 0
    told = ending.read(kept.run)
    assert told is not None
    assert told.text == "2 requests were cut after 3 s"
    assert "2 requests were cut after 3 s: HAProxy was stopped" in kept.log()


def test_a_bound_that_a_reload_of_the_services_changes_is_the_one_that_counts(kept: Kept) -> None:
    ending.write_bound(kept.run, 0.5)
    with tunnel(kept) as web:
        kept.until_in_flight(1)
        watch = kept.drain()
        assert web.recv(1) == b""
        assert watch.s() < BOUND_S - 0.5


@pytest.mark.parametrize("clients", [0, 3])
def test_idle_clients_hold_nothing_up(kept: Kept, clients: int) -> None:
    connections = [idle(kept) for _ in range(clients)]
    kept.until_in_flight(0)
    watch = kept.drain()
    assert kept.keeper.wait(20) == 0
    took_s = watch.s()
    print(f"{clients} idle: {took_s:.2f} s")
    assert took_s < AT_ONCE_S
    for connection in connections:
        connection.close()


def test_short_gets_that_come_meanwhile_hold_nothing_up_and_nothing_is_told_of_them_that_is_not_known(
    kept: Kept,
) -> None:
    with Load(kept.port, "/work?ms=5", pause_s=0.05, threads=2) as load:
        wait_until(lambda: load.count >= 10, "they are answered", 20)
        watch, told = kept.drain(), set()
        while kept.keeper.poll() is None:
            found = ending.read(kept.run)
            told |= {found.text} if found else set()
            assert watch.s() < AT_ONCE_S
    assert not any("not say" in text or "at least" in text for text in told), told


def down(kept: Kept) -> "subprocess.Popen[str]":
    """Start what ``make down`` begins with, in a process of its own."""
    command = [sys.executable, "-u", "-c", DOWN, kept.config.system.run_dir, kept.config.system.state_dir]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)


def test_down_says_what_it_waits_for_and_ends_when_that_has_ended(supervised: Kept, pool: ThreadPoolExecutor) -> None:
    answer = pool.submit(post, supervised)
    supervised.until_in_flight(1)
    process = down(supervised)
    assert process.stdout is not None
    assert process.stdout.readline() == "[1/1] services and HAProxy\n"
    waiting = "      HAProxy takes nothing new; 1 request in flight may end within 3 s ("
    assert process.stdout.readline().startswith(waiting)
    supervised.go()
    assert answer.result(20) == "200"
    said, _ = process.communicate(timeout=30)
    assert said.splitlines()[-1].startswith("      stopped (")
    assert process.returncode == 0
    assert not is_supervised(supervised.config.system)


def test_a_second_down_completes_one_that_was_interrupted_and_tells_what_was_cut(supervised: Kept) -> None:
    system, steps = supervised.config.system, Steps(CLOCK, 1)
    ending.write_bound(supervised.run, LONG_BOUND_S)
    with tunnel(supervised) as web:
        supervised.until_in_flight(1)
        first = down(supervised)
        wait_until(lambda: ending.read(supervised.run), "it drains", 20)
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=20)
        supervised.until_in_flight(1)  # an interrupted down cuts nothing
        assert stop_services(system, CLOCK, steps) == f"stopped; 1 request was cut after {LONG_BOUND_S:.0f} s"
        assert web.recv(1) == b""
    assert stop_services(system, CLOCK, steps) == "not running"


def test_who_cannot_wait_ends_it_with_sigterm(kept: Kept) -> None:
    with tunnel(kept) as web:
        kept.until_in_flight(1)
        kept.drain()
        wait_until(lambda: ending.read(kept.run), "it drains", 20)
        kept.keeper.terminate()
        assert kept.keeper.wait(20) == 0
        assert web.recv(1) == b""
    assert "cut after" not in kept.log()


def test_a_master_that_hangs_is_killed(kept: Kept) -> None:
    ending.write_bound(kept.run, 0)
    (master,) = Path(f"/proc/{kept.keeper.pid}/task/{kept.keeper.pid}/children").read_text().split()
    workers = [worker.pid for worker in kept.master.workers()]
    os.kill(int(master), signal.SIGSTOP)
    kept.drain()
    assert kept.keeper.wait(30) == 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "its workers are gone", 20)
