"""The demo application, run as an ordinary process of this machine."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.clock import SystemClock
from guest_image import build
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
NAME = "web-0007"
DEADLINE_S = 30.0


class App:
    """One running copy of the application."""

    def __init__(self, binary: Path, *words: str) -> None:
        """Start it on a free port and wait until it says which."""
        command = [str(binary), f"autoscaler.name={NAME}", "autoscaler.port=0", "autoscaler.linger_ms=0", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[-1])

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of one request on a connection of its own."""
        connection = self.connect()
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are and return all that comes back until the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def stats(self) -> dict[str, int]:
        """Return the counters."""
        found: dict[str, int] = json.loads(self.get("/stats")[1])
        return found

    def stop(self) -> None:
        """End it, however it stands."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail after the deadline."""
    wait_until(condition, "what the application is to do", DEADLINE_S, every_s=0.01)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the compiled application."""
    target = tmp_path_factory.mktemp("app") / "app"
    build.compile_app(target)
    return target


@pytest.fixture
def app(binary: Path) -> Iterator[App]:
    """Give a running application."""
    running = App(binary)
    yield running
    running.stop()


@pytest.mark.parametrize("n", [0, 1, 9, 10, 1020, 1021, 123456, 10_000_000])
def test_compute_answers_two_to_the_n_modulo_1021(app: App, n: int) -> None:
    assert app.get(f"/compute?n={n}") == (200, f"{pow(2, n, 1021)}\n")


@pytest.mark.parametrize(
    "query", ["", "?", "?n", "?n=", "?n=-1", "?n=1.5", "?n=abc", "?n=1000000001", "?n=99999999999999999999999",
              "?n=1&n=2", "?n=%31", "?m=1", "?n=0x10", "?n=+1", "?n= 1", "?nn=1"],
)  # fmt: skip
def test_a_bad_n_is_refused_with_what_is_allowed(app: App, query: str) -> None:
    reply = app.raw(f"GET /compute{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400 ")
    if query != "?n= 1":  # a blank ends the target: the whole line is wrong
        assert b"allowed: 0 to 1000000000" in reply


def test_other_parameters_beside_n_are_ignored(app: App) -> None:
    assert app.get("/compute?id=7&n=10&x=") == (200, "3\n")


def test_healthz_answers_the_domain_name(app: App) -> None:
    assert app.get("/healthz") == (200, f"{NAME}\n")


def test_identity_tells_the_name_the_clock_and_new_random_bytes_each_time(app: App) -> None:
    first, second = (json.loads(app.get("/identity")[1]) for _ in range(2))
    assert first["name"] == NAME and abs(first["epoch_s"] - SystemClock().epoch_s()) < DEADLINE_S
    assert len(first["random"]) == 32 and first["random"] != second["random"]


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/identity", "/compute?n=3", "/compute?n=x", "/nowhere", "/stats", "/slow?ms=0"]
)
def test_every_response_says_who_served_it(app: App, path: str) -> None:
    connection = app.connect()
    connection.request("GET", path)
    assert connection.getresponse().headers["X-Served-By"] == NAME
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/compute/", 404),
        ("GET", "/healthz/../stats", 404),
        ("POST", "/healthz", 405),
        ("PUT", "/compute?n=1", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "/stats", 405),
        ("POST", "/compute?n=10", 200),
        ("HEAD", "/compute?n=10", 200),
    ],
)
def test_method_and_path_decide_the_status(app: App, method: str, path: str, status: int) -> None:
    assert app.get(path, method)[0] == status


def test_a_refused_method_says_which_are_allowed(app: App) -> None:
    connection = app.connect()
    connection.request("PUT", "/compute?n=1")
    assert connection.getresponse().headers["Allow"] == "GET, HEAD, POST"
    connection.close()


def test_head_has_the_length_of_get_and_no_body(app: App) -> None:
    reply = app.raw(b"HEAD /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(NAME) + 1}".encode() in head
    assert body == b""


def test_gets_and_posts_are_counted_apart(app: App) -> None:
    for method in ("GET", "POST", "POST", "HEAD"):
        app.get("/compute?n=5", method)
    app.get("/compute?n=bad", "POST")
    stats = app.stats()
    assert (stats["compute_get"], stats["compute_post"]) == (2, 2)


def test_one_connection_serves_many_requests(app: App) -> None:
    connection = app.connect()
    for n in range(50):
        connection.request("POST" if n % 2 else "GET", f"/compute?n={n}", body=b"x" * n if n % 2 else None)
        response = connection.getresponse()
        assert response.read() == f"{pow(2, n, 1021)}\n".encode()
        assert response.headers["Connection"] == "keep-alive"
    connection.close()


def test_requests_sent_in_one_go_are_answered_in_order(app: App) -> None:
    reply = app.raw(b"".join(b"GET /compute?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in (1, 2, 3)))
    bodies = [part.partition(b"\r\n\r\n")[2] for part in reply.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"2\n", b"4\n", b"8\n"]


@pytest.mark.parametrize(
    ("request_text", "connection"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"keep-alive"),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", b"close"),
        (b"GET / HTTP/1.1\r\n\r\n", b"keep-alive"),
        (b"GET http://any/healthz HTTP/1.1\r\nHost: any\r\n\r\n", b"keep-alive"),
    ],
)
def test_the_version_and_the_connection_header_decide_what_follows(
    app: App, request_text: bytes, connection: bytes
) -> None:
    reply = app.raw(request_text)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: " + connection + b"\r\n" in reply


def test_a_client_that_asks_for_100_continue_gets_it(app: App) -> None:
    with socket.create_connection(("127.0.0.1", app.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"POST /compute?n=10 HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /\0 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: empty\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nName : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"POST /compute?n=1 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /compute?n=1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /compute?n=1 HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /compute?n=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /compute?n=1 HTTP/1.1\r\nExpect: magic\r\n\r\n", 417),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n", 431),
        (bytes(range(1, 256)) * 8 + b"\r\n\r\n", 400),
    ],
)
def test_a_hostile_request_is_refused_and_the_connection_ends(app: App, request_bytes: bytes, status: int) -> None:
    reply = app.raw(request_bytes)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in reply
    assert app.get("/healthz")[0] == 200


def test_half_a_request_gets_no_answer_and_harms_nobody(app: App) -> None:
    assert app.raw(b"GET /healthz HT") == b""
    assert app.raw(b"POST /compute?n=1 HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc") == b""
    wait_for(lambda: app.stats()["in_flight"] == 1)  # the question itself


def test_a_peer_that_resets_does_not_end_the_application(app: App) -> None:
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", app.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(b"GET /slow?ms=5 HTTP/1.1\r\n\r\n")
        connection.close()
    wait_for(lambda: app.stats()["in_flight"] == 1)


def test_a_long_computation_does_not_hold_up_the_health_check(app: App) -> None:
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(app.get, "/compute?n=100000000") for _ in range(4)]
        wait_for(lambda: app.stats()["in_flight"] == 5)
        assert app.get("/healthz")[0] == 200
        assert not all(future.done() for future in slow)
        assert {future.result() for future in slow} == {(200, f"{pow(2, 100000000, 1021)}\n")}


def test_more_than_the_allowed_connections_are_refused_and_room_comes_back(app: App) -> None:
    held = [socket.create_connection(("127.0.0.1", app.port), timeout=DEADLINE_S) for _ in range(513)]
    assert held[-1].recv(1000).startswith(b"HTTP/1.1 503 ")
    for connection in held:
        connection.close()
    wait_for(lambda: app.raw(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 "))


def test_after_sigterm_health_is_503_and_what_is_in_flight_is_finished(app: App) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(app.get, "/slow?ms=3000")
        wait_for(lambda: app.stats()["in_flight"] == 2)
        app.process.send_signal(signal.SIGTERM)
        wait_for(lambda: app.get("/healthz") == (503, f"{NAME}\n"))
        assert b"Connection: close" in app.raw(b"GET /compute?n=1 HTTP/1.1\r\n\r\n")
        assert slow.result() == (200, "slept 3000 ms\n")
    assert app.process.wait(DEADLINE_S) == 0


def test_an_idle_application_ends_at_once_after_sigterm(app: App) -> None:
    idle = socket.create_connection(("127.0.0.1", app.port))
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(DEADLINE_S) == 0
    idle.close()


@pytest.mark.parametrize(("path", "lingers"), [("/compute?n=1", True), ("/healthz", False)])
def test_only_an_application_with_traffic_lingers_for_the_health_checks(binary: Path, path: str, lingers: bool) -> None:
    app, clock = App(binary, "autoscaler.linger_ms=3000"), SystemClock()
    app.get(path)
    start_s = clock.monotonic_s()
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(DEADLINE_S) == 0
    assert (clock.monotonic_s() - start_s >= 2.9) is lingers
    app.stop()


def test_a_second_sigterm_does_not_wait_for_what_is_in_flight(app: App) -> None:
    with socket.create_connection(("127.0.0.1", app.port)) as connection:
        connection.sendall(b"GET /slow?ms=60000 HTTP/1.1\r\n\r\n")
        wait_for(lambda: app.stats()["in_flight"] == 2)
        app.process.send_signal(signal.SIGTERM)
        wait_for(lambda: app.get("/healthz")[0] == 503)
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    "word",
    ["autoscaler.port=70000", "autoscaler.port=x", "autoscaler.port=", "autoscaler.name=a;b", "autoscaler.name=</name>",
     "autoscaler.name=" + "a" * 64, "autoscaler.port"],
)  # fmt: skip
def test_a_bad_setting_is_refused_with_its_text(binary: Path, word: str) -> None:
    done = subprocess.run([str(binary), word], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2
    assert word in done.stderr


def test_a_port_in_use_is_one_clear_line_and_exit_code_1(binary: Path, app: App) -> None:
    command = [str(binary), f"autoscaler.port={app.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert f"port {app.port} cannot be served: Address already in use" in done.stdout


def test_a_computation_that_nobody_waits_for_is_given_up(app: App) -> None:
    def cpu_ticks() -> int:
        fields = Path(f"/proc/{app.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    begin = cpu_ticks()
    app.get("/compute?n=200000000")
    whole = cpu_ticks() - begin
    connection = app.connect()
    connection.request("GET", "/compute?n=1000000000")
    wait_for(lambda: app.stats()["in_flight"] == 2)
    begin = cpu_ticks()
    connection.close()
    wait_for(lambda: app.stats()["in_flight"] == 1)
    assert cpu_ticks() - begin < 2 * max(whole, 1)  # all of it would have cost five times the first
