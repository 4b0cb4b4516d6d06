"""The client of the runtime API against sockets that misbehave, and the command that writes haproxy.cfg."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.clock import SystemClock
from services.balancer.core.answers import LOOK
from services.balancer.endpoint import accepts
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.haproxy import DEADLINE_S, RuntimeApi
from tests.faults.proof import Proof

ROOT = Path(__file__).resolve().parents[2]
CLOCK = SystemClock()
Serve = Callable[[Callable[[socket.socket], None]], RuntimeApi]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return what starts a HAProxy that does as the test says with each connection."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def start(act: Callable[[socket.socket], None]) -> RuntimeApi:
        path = tmp_path / "haproxy.sock"
        listener.bind(str(path))
        listener.listen(8)
        threads.append(threading.Thread(target=accept, args=(act,), daemon=True))
        threads[0].start()
        return RuntimeApi(path, CLOCK, deadline_s=0.3)

    def accept(act: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                act(connection)

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(5)


def took_s(api: RuntimeApi, error: type[Exception], match: str) -> float:
    start_s = CLOCK.monotonic_s()
    with pytest.raises(error, match=match):
        api.ask(["show info"])
    return CLOCK.monotonic_s() - start_s


def test_absent_socket_is_a_lost_proxy(tmp_path: Path) -> None:
    api = RuntimeApi(tmp_path / "none.sock", CLOCK)
    assert api.inode() == 0
    assert took_s(api, ProxyLostError, "No such file") < 0.1


@pytest.mark.fault(62)
def test_a_socket_that_may_not_be_used_is_a_lost_proxy(serve: Serve, tmp_path: Path, row: Proof) -> None:
    serve(lambda connection: None)
    path = tmp_path / "haproxy.sock"
    path.chmod(0)
    if os.geteuid() != 0:
        refused_s = took_s(RuntimeApi(path, CLOCK), ProxyLostError, "Permission denied")
    else:
        with as_nobody():
            refused_s = took_s(RuntimeApi(path, CLOCK), ProxyLostError, "Permission denied")
    row.measured("a socket that may not be used: a question ends", refused_s, at_most=0.1)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Let this process reach files as a user does who owns nothing."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_silence_ends_at_the_deadline(serve: Serve) -> None:
    gone = threading.Event()
    api = serve(lambda connection: (gone.wait(20), None)[1])
    assert 0.3 <= took_s(api, ProxyLostError, "no answer within 0.3 s") < 0.6
    gone.set()


@pytest.mark.fault(62)
def test_ten_seconds_of_silence_cost_half_a_second(serve: Serve, tmp_path: Path, row: Proof) -> None:
    gone = threading.Event()
    serve(lambda connection: (gone.wait(20), None)[1])
    assert DEADLINE_S == 0.5
    silent_s = took_s(RuntimeApi(tmp_path / "haproxy.sock", CLOCK), ProxyLostError, "no answer within 0.5 s")
    gone.set()
    assert silent_s >= DEADLINE_S
    row.measured("a socket that hangs: a question ends at its deadline", silent_s, at_most=0.8)


def test_drop_by_drop_ends_at_the_deadline(serve: Serve) -> None:
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not gone.wait(0.05):
            try:
                connection.send(b"x")
            except OSError:
                return

    assert 0.3 <= took_s(serve(drip), ProxyLostError, "no answer") < 0.6
    gone.set()


def test_connection_that_breaks_off_is_no_answer(serve: Serve) -> None:
    def stop(connection: socket.socket) -> None:
        connection.recv(100)
        connection.send(b"Pid: 1\nUpti")

    took_s(serve(stop), ProxyError, "0 answers to 1 commands")


def test_one_connection_carries_a_batch_and_refusals_are_named(serve: Serve) -> None:
    lines: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        lines.append(connection.recv(1000))
        connection.send(b"\nNo such server.\n\n")

    refused = serve(answer).order(["set server web/vm1 state drain", "set server web/vm9 state drain"])
    assert lines == [b"set server web/vm1 state drain;set server web/vm9 state drain\n"]
    assert refused == ["set server web/vm9 state drain: No such server."]


def test_many_commands_go_in_lines_that_fit(serve: Serve) -> None:
    sizes: list[int] = []

    def answer(connection: socket.socket) -> None:
        line = connection.recv(1 << 20)
        sizes.append(len(line))
        connection.send(b"\n" * (line.count(b";") + 1))

    assert serve(answer).order([f"set server web/vm{n} state drain" for n in range(1000)]) == []
    assert len(sizes) == 3
    assert max(sizes) < 16_000


@pytest.mark.parametrize("command", ["show info;quit", "show info\nquit", "set server a\\;b"])
def test_command_that_would_be_two_is_not_sent(tmp_path: Path, command: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        RuntimeApi(tmp_path / "none.sock", CLOCK).ask([command])


def test_no_commands_need_no_connection(tmp_path: Path) -> None:
    assert RuntimeApi(tmp_path / "none.sock", CLOCK).order([]) == []


def test_look_asks_three_things_at_once(serve: Serve) -> None:
    lines: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        lines.append(connection.recv(1000))
        connection.send(b"Pid: 7\n\n# pxname,svname\n\n1\n# be_name srv_name\n\n")

    assert serve(answer).look(["web"]).pid == 7
    assert lines == [";".join(LOOK).encode() + b"\n"]


@pytest.mark.parametrize(("bound", "asked"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "*"), ("::1", "[::1]")])
def test_endpoint_accepts_while_something_listens(bound: str, asked: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((bound, 0))
        endpoint = f"{asked}:{listener.getsockname()[1]}"
        assert not accepts(endpoint)
        listener.listen(1)
        assert accepts(endpoint)
    assert not accepts(endpoint)


def test_endpoint_that_lets_connections_wait_is_not_dead() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5), pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=0.2)
        assert accepts(f"127.0.0.1:{port}")


# --- the command ---------------------------------------------------------------------------------------------------


def write_config(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.balancer", "--config", str(path), "--write-config"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False)


def test_command_writes_the_file_and_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")  # a socket's path must be short
    path = home / "a.toml"
    path.write_text(f'[system]\nrun_dir = "{home}/r"\nstate_dir = "{home}/s"\n[groups.web]\nprefix = "web-"\n')
    assert write_config(path).returncode == 0
    assert (home / "r" / "haproxy.cfg").read_text().startswith("# Written by the balancer")


def test_command_refuses_a_wrong_configuration_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[groups.web]\nprefix = "web-"\nendpoint = "nowhere"\n')
    done = write_config(path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "groups.web.endpoint" in done.stderr
