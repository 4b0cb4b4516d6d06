"""What the prober makes of real answers, and of none."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from common.config_readiness import Readiness, question
from common.messages import Unready
from services.actuator.prober import Prober, Target, probe
from tests.waiting import wait_until

OK = b"HTTP/1.0 200 OK\r\nX-Served-By: web-0000\r\n\r\n"


@contextmanager
def guest(answer: bytes | None, asked: list[int] | None = None, pause_s: float = 0.0) -> Iterator[int]:
    """Serve this answer to whoever connects, or nothing at all, at the port; ``asked`` gets an entry for each.

    With ``pause_s`` it comes byte by byte, with so much time between them.
    """
    paused = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    kept.append(connection)
                    if asked is not None:
                        asked.append(1)
                    connection.recv(4096)
                    if answer is not None:
                        for part in [answer[i : i + 1] for i in range(len(answer))] if pause_s else [answer]:
                            connection.sendall(part)
                            paused.wait(pause_s)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


def target(port: int, **changes: object) -> Target:
    keys: dict[str, object] = {"asked": question("web", Readiness(path="/health")), "timeout_s": 0.3}
    return Target("web-0000", "127.0.0.1", port, **(keys | changes))  # type: ignore[arg-type] # a test's values


@pytest.mark.parametrize(
    ("answer", "kind", "came", "wanted"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "status", "404", "200"),
        (b"HTTP/1.0 503 Busy\r\nX-Served-By: web-0000\r\n\r\n", "status", "503", "200"),
        (OK.replace(b"0000", b"0003"), "identity", "web-0003", "web-0000"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broken", "BadStatusLine", "200"),
        (b"", "broken", "RemoteDisconnected", "200"),
        (None, "timeout", "TimeoutError", "200"),
    ],
)
def test_a_wrong_answer_is_kept_with_where_it_came_from(
    answer: bytes | None, kind: str, came: str, wanted: str
) -> None:
    with guest(answer) as port:
        why = probe(target(port)).why
    assert why == Unready(kind=kind, address="127.0.0.1", port=port, path="/health", came=came, wanted=wanted)


def test_a_right_answer_needs_no_reason() -> None:
    with guest(OK) as port:
        found = probe(target(port))
    assert found.is_right and found.why is None


def test_one_that_serves_and_fails_its_checks_is_asked_seldom_for_it_may_be_overloaded() -> None:
    serving: list[int] = []
    booting: list[int] = []
    prober = Prober(lambda: None)
    try:
        with guest(b"HTTP/1.0 503 Busy\r\n\r\n", serving) as one, guest(b"HTTP/1.0 503 Busy\r\n\r\n", booting) as two:
            prober.aim({("a", "a"): target(one, is_serving=True), ("b", "b"): target(two)})
            wait_until(lambda: len(booting) >= 40 and serving, "one that boots to be asked forty times", 60)
            assert len(serving) <= len(booting) / 4
    finally:
        prober.stop()


def test_a_closed_port_refuses_also_where_an_open_one_is_all_that_is_wanted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    http, tcp = probe(target(port)).why, probe(target(port, protocol="tcp")).why
    assert http is not None and tcp is not None
    assert (http.kind, http.path, http.wanted) == ("refused", "/health", "200")
    assert (tcp.kind, tcp.path, tcp.wanted) == ("refused", "", "an open port")


def test_a_silent_agent_is_what_readiness_wants() -> None:
    why = probe(target(1, protocol="agent"), lambda _host, _domain, _timeout_s: None).why
    assert why == Unready(kind="agent", wanted="its guest agent")
    named = probe(target(1, protocol="agent"), lambda _host, _domain, _timeout_s: "other").why
    assert named == Unready(kind="agent-identity", came="other", wanted="web-0000")


def test_an_answer_that_comes_byte_by_byte_is_given_up_at_its_deadline() -> None:
    """Each of its pauses is shorter than the time that the whole answer has."""
    with guest(OK, pause_s=0.05) as port:
        found = probe(target(port, timeout_s=0.4))
    assert found.why is not None
    assert (found.is_right, found.why.kind) == (False, "timeout")
