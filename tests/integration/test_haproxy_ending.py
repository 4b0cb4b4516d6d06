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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.console import Steps
from cli.program import module
from cli.supervision import is_supervised, stop_services
from cli.supervisor_config import haproxy_command, supervisor_config
from common import config_file
from common.clock import SystemClock
from common.config import Config
from common.state_dir import LOG_DIR
from services.balancer.core import ending
from services.balancer.core.haproxy_config import master_socket, state_file, stats_socket
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.files import write_atomically, write_config
from services.balancer.haproxy import Master, RuntimeApi
from tests.integration.balancer_stand import APP, ROOT, end
from tests.ports import free_port
from tests.waiting import Stopwatch, wait_until

CLOCK = SystemClock()
BOUND_S = 3.0
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
AT_ONCE_S = 1.5  # the helper's start, two looks and HAProxy's end, on a machine that does other things too
GROUPS = """
[groups.web]
prefix = "web-"
endpoint = "127.0.0.1:WEB"
drain_timeout_s = 1
[groups.db]
prefix = "db-"
protocol = "tcp"
endpoint = "127.0.0.1:TCP"
drain_timeout_s = BOUND
"""


class Kept:
    """HAProxy under its keeper, with one server in each group; ``go`` lets held requests be answered."""

    def __init__(self, directory: Path, *, is_supervised: bool = False) -> None:
        self.directory, self.port, self.tcp_port, app_port = directory, free_port(), free_port(), free_port()
        path = directory / "autoscaler.toml"
        groups = GROUPS.replace("WEB", str(self.port)).replace("TCP", str(self.tcp_port))
        head = f'[system]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n[haproxy]\nslots = 8\n'
        path.write_text(head + groups.replace("BOUND", f"{BOUND_S:g}"), encoding="utf-8")
        self.config: Config = config_file.load(path)[0]
        self.run = self.config.system.run_path
        write_config(self.config)
        app = [
            sys.executable,
            str(APP),
            "127.0.0.21",
            str(app_port),
            "web-0000",
            f"{directory}/log",
            f"{directory}/sick",
        ]
        self._app = subprocess.Popen(app)
        self._log = (directory / "haproxy.log").open("wb")
        command = haproxy_command(self.config.system, ROOT, Path(sys.executable))
        if is_supervised:
            command = self._supervisord(path)
        self.keeper = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=ROOT)
        self.master = Master(master_socket(self.config.system), CLOCK, deadline_s=2.0)
        self._api = RuntimeApi(stats_socket(self.config.system), CLOCK, deadline_s=2.0)
        wait_until(self._serves(app_port), "both groups serve", 20)

    def _supervisord(self, path: Path) -> list[str]:
        """Return the command that runs HAProxy as ``make up`` does, without the services."""
        (self.config.system.state_path / LOG_DIR).mkdir(parents=True)
        conf = self.run / "supervisord.conf"
        conf.write_text(supervisor_config(self.config.system, (), path, Path(sys.executable), ROOT), encoding="utf-8")
        return [*module("supervisor.supervisord"), "--nodaemon", "-c", str(conf)]

    def _serves(self, app_port: int) -> Callable[[], bool]:
        def is_up() -> bool:
            try:
                for group in ("web", "db"):
                    self._api.order([f"set server {group}/vm1 addr 127.0.0.21 port {app_port}"])
                    self._api.order([f"set server {group}/vm1 state ready"])
                shown = self._api.look(("web", "db")).servers
            except (ProxyError, ProxyLostError):
                return False
            return all(shown[group][0].is_proven for group in ("web", "db"))

        return is_up

    def log(self) -> str:
        return (self.directory / "haproxy.log").read_text(encoding="utf-8")

    def go(self) -> None:
        (self.directory / "go").touch()

    def in_flight(self) -> int:
        """Return what HAProxy's processes have in flight, -1 while one does not say."""
        try:
            return sum(self.master.in_flight(worker.pid) for worker in self.master.workers())
        except (ProxyError, ProxyLostError):
            return -1

    def until_in_flight(self, count: int) -> None:
        wait_until(lambda: self.in_flight() == count, f"{count} in flight", 20)

    def reload(self) -> None:
        """Have HAProxy reload with its servers as they are; return when another process serves, too."""
        write_atomically(state_file(self.config.system), self._api.look(("web", "db")).state_dump)
        self.keeper.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(self._workers()) == 2, "an old worker beside a new one", 20)

    def _workers(self) -> list[int]:
        try:
            return [worker.pid for worker in self.master.workers()]
        except (ProxyError, ProxyLostError):
            return []

    def drain(self) -> Stopwatch:
        self.keeper.send_signal(signal.SIGUSR1)
        return Stopwatch(self.keeper.pid)

    def takes_new(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def close(self) -> None:
        self.go()
        end(self.keeper, signal.SIGTERM)
        end(self._app)
        self._log.close()


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


def post(kept: Kept) -> str:
    """Return how a POST ended that is answered when the stand lets it."""
    connection = http.client.HTTPConnection("127.0.0.1", kept.port, timeout=40)
    try:
        connection.request("POST", "/work?held=1", b"x")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


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
    with tunnel(supervised) as web:
        supervised.until_in_flight(1)
        first = down(supervised)
        wait_until(lambda: ending.read(supervised.run), "it drains", 20)
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=20)
        assert supervised.in_flight() == 1, "an interrupted down cuts nothing"
        assert stop_services(system, CLOCK, steps) == "stopped; 1 request was cut after 3 s"
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
