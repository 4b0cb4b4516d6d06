"""What the keys of the endpoint do with the real HAProxy: retries, timeouts, the question of readiness, slow start."""

import http.client
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from services.actuator.prober import probe, target_of
from tests.integration.balancer_stand import Domain, Stand, end

WRONG = b"HTTP/1.1 400 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
RIGHT = b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n"
READINESS = (
    'readiness = { path = "/up", expect = [204, "3xx"], host = "app.example.org", headers = { X-A = "50% \'x\'" } }\n'
)


def stand_with(keys: str) -> Iterator[Stand]:
    stand = Stand(keys)
    yield stand
    stand.close()


@pytest.fixture
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    yield from stand_with(request.param)


def ask(stand: Stand, path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, bytes, float]:
    """Return status, body (cut off: what came) and seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", stand.port, timeout=30)
    begun_s = time.monotonic()  # noqa: TID251
    connection.request(method, path, headers={"Accept": accept})
    response = connection.getresponse()
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    connection.close()
    return response.status, body, time.monotonic() - begun_s  # noqa: TID251


def counted(domains: list[Domain]) -> list[str]:
    return sorted(key for domain in domains for key in domain.posts())


def joined(stand: Stand, count: int) -> list[Domain]:
    domains = [stand.domain(number) for number in range(count)]
    stand.join(*domains)
    return domains


@pytest.mark.parametrize(
    ("stand", "times"),
    [("response_timeout_s = 1.0\n", 1), ('response_timeout_s = 1.0\nretry = "response-timeout"\n', 4)],
    indirect=["stand"],
)
def test_a_late_get_is_asked_again_only_where_the_file_says_so(stand: Stand, times: int) -> None:
    domains = joined(stand, 3)
    status, _, took_s = ask(stand, "/count?id=late&ms=8000")
    assert (status, counted(domains)) == (504, ["late"] * times)
    assert took_s >= times and (times > 1 or took_s < 3.0)
    stand.until(lambda: all(b.is_healthy for b in stand.drains["web"].backends), "nobody is down for it")


@pytest.fixture
def silence() -> Iterator[None]:
    """Drop every packet to and from the second domain, without a reset, until the test ends."""
    yield
    subprocess.run(["nft", "delete table ip endpoint_keys"], capture_output=True, check=False)


@pytest.mark.parametrize("stand", [""], indirect=True)
def test_a_get_in_flight_behind_a_cut_cable_is_asked_elsewhere_once_checks_tell(stand: Stand, silence: None) -> None:
    domains = joined(stand, 2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, stand, f"/count?id=r{n}&ms=6000") for n in range(2)]
        stand.until(lambda: len(counted(domains)) == 2, "one request at each")
        rule = f"ip daddr {domains[1].address} drop; ip saddr {domains[1].address} drop;"
        chain = f"chain out {{ type filter hook output priority 0; {rule} }}"
        subprocess.run(["nft", f"table ip endpoint_keys {{ {chain}; }}"], check=True)
        assert [one.result()[0] for one in asked] == [200, 200]
    cut_off = domains[1].posts()[0]
    assert counted(domains) == sorted(["r0", "r1", cut_off])


@pytest.mark.parametrize("stand", ["response_timeout_s = 1.0\n"], indirect=True)
def test_a_stream_of_events_may_pause_longer_than_an_answer_may_take(stand: Stand) -> None:
    joined(stand, 1)
    with ThreadPoolExecutor(2) as pool:
        events = pool.submit(ask, stand, "/events?ms=1500", accept="text/event-stream")
        other = pool.submit(ask, stand, "/events?ms=1500")
        assert events.result()[:2] == (200, b"data: x\n\n" * 3)
        assert other.result()[1] == b"data: x\n\n"


@pytest.mark.parametrize("stand", ["response_timeout_s = 8.0\nstream_idle_timeout_s = 1.0\n"], indirect=True)
def test_a_stream_of_events_that_pauses_for_too_long_is_cut(stand: Stand) -> None:
    joined(stand, 1)
    assert ask(stand, "/events?ms=3000", accept="text/event-stream")[1] == b"data: x\n\n"


TCP = """
[groups.db]
prefix = "db-"
protocol = "tcp"
endpoint = "127.0.0.1:TCP_PORT"
"""


@pytest.mark.parametrize(
    ("stand", "is_kept"),
    [(f"{TCP}tunnel_timeout_s = 1.0\n", False), (f"{TCP}[groups.db.readiness]\nprotocol = 'tcp'\n", True)],
    indirect=["stand"],
)
def test_an_idle_connection_lasts_as_long_as_its_tunnel_may_be_idle(stand: Stand, is_kept: bool) -> None:
    domain = stand.domain(0, prefix="db-")
    stand.tell(domain, group="db")
    stand.until(lambda: stand.state(domain, "db") == "ready", "ready")
    with socket.create_connection(("127.0.0.1", stand.tcp_port), timeout=3) as connection:
        try:
            assert (connection.recv(1) == b"") is not is_kept
        except TimeoutError:
            assert is_kept


class Recorder:
    """A server on one address that answers only the right question, and keeps every other head."""

    def __init__(self, address: str, port: int) -> None:
        self.heads: list[list[str]] = []
        self._socket = socket.create_server((address, port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                head = connection.recv(4096).decode().split("\r\n\r\n")[0].split("\r\n")
                self.heads.append(
                    [head[0], *sorted(f"{k.lower()}:{v}" for k, _, v in (h.partition(":") for h in head[1:]))]
                )
                connection.sendall(RIGHT if "host: app.example.org" in self.heads[-1] else WRONG)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("stand", [READINESS], indirect=True)
def test_the_prober_and_haproxy_ask_the_same_question(stand: Stand) -> None:
    domain = stand.domain(0)
    end(domain.process)
    server = Recorder(domain.address, domain.port)
    try:
        stand.tell(domain)
        stand.until(lambda: stand.state(domain) == "ready", "HAProxy takes a 204 from the one Host that it accepts")
        stand.until(lambda: len(server.heads) > 3, "checks")
        group = stand.config.groups["web"]
        target = target_of("web", group, "local", domain.name, domain.address)
        assert probe(replace(target, port=domain.port, is_identity_checked=False)).is_right
        assert {tuple(head) for head in server.heads} == {
            (
                "GET /up HTTP/1.1",
                "connection: close",
                "host: app.example.org",
                "user-agent: autoscaler-check",
                "x-a: 50% 'x'",
            )
        }
    finally:
        server.close()


def throttle(stand: Stand, slot: str) -> str:
    text = stand.api.ask(["show stat"])[0]
    head, *rows = [line.split(",") for line in text.removeprefix("# ").splitlines()]
    return next(row[head.index("throttle")] for row in rows if row[:2] == ["web", slot])


@pytest.mark.parametrize("stand", ["slow_start_s = 6.0\n"], indirect=True)
def test_a_new_member_takes_its_share_slowly(stand: Stand) -> None:
    joined(stand, 1)
    stand.until(lambda: throttle(stand, "vm1") in ("", "100"), "the first has its whole share")
    new = stand.domain(1)
    new.is_probed = True  # ready at once, without a check
    stand.tell()
    stand.until(lambda: stand.state(new) == "ready", "the second is in")
    shares = []
    stand.until(lambda: shares.append(throttle(stand, "vm2")) or shares[-1] in ("", "100"), "it has its whole share")  # type: ignore[func-returns-value] # a list that grows
    assert 0 < int(shares[0]) < 60
    assert [int(share) for share in shares if share] == sorted(int(share) for share in shares if share)


@pytest.mark.parametrize("stand", [f"{TCP}max_session_s = 1.0\n"], indirect=True)
def test_a_connection_ends_when_it_has_lasted_long_enough_though_it_is_used(stand: Stand) -> None:
    domain = stand.domain(0, prefix="db-")
    stand.tell(domain, group="db")
    stand.until(lambda: stand.state(domain, "db") == "ready", "ready")
    kept = http.client.HTTPConnection("127.0.0.1", stand.tcp_port, timeout=5)

    def is_over() -> bool:
        try:
            kept.request("GET", "/work?ms=1")
            kept.getresponse().read()
        except (OSError, http.client.HTTPException):
            return True
        return False

    assert not is_over()
    kept.auto_open = 0
    assert stand.until(is_over, "it is over", 8) > 0.5


@pytest.mark.parametrize("stand", ["max_in_flight = 4\n"], indirect=True)
def test_idle_websockets_hold_the_slots_of_their_domain(stand: Stand) -> None:
    joined(stand, 1)
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"  # RFC 6455's example
    upgrade = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    clients = [socket.create_connection(("127.0.0.1", stand.port)) for _ in range(5)]
    for client in clients:
        client.sendall(upgrade)
    try:
        stand.until(lambda: stand.traffics["web"].in_flights == (4,) and stand.traffics["web"].queue == 1, "full")
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("stand", ["max_in_flight = 1\nresponse_timeout_s = 2.0\n"], indirect=True)
def test_whoever_finds_no_slot_is_refused_when_the_answer_should_have_begun(stand: Stand) -> None:
    domains = joined(stand, 1)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, stand, f"/count?id=r{n}&ms=5000", "POST") for n in range(6)]
        answers = [one.result() for one in asked]
    assert {status for status, _, _ in answers} <= {503, 504}
    assert all(1.0 < took_s < 8.0 for _, _, took_s in answers)  # the one at work and those that waited, none for ever
    assert [status for status, _, _ in answers].count(503) >= 4
    assert len(counted(domains)) == len(set(counted(domains)))


@pytest.mark.parametrize("stand", [""], indirect=True)
def test_all_members_down_is_a_quick_503_until_one_is_up(stand: Stand) -> None:
    domains = joined(stand, 2)
    for domain in domains:
        domain.sick.touch()
    stand.until(lambda: {b.is_healthy for b in stand.drains["web"].backends} == {False}, "both down")
    status, body, took_s = ask(stand, "/work?ms=1")
    assert (status, took_s < 1.0) == (503, True)
    assert b"No domain of this group can serve" in body
    assert [stand.state(domain) for domain in domains] == ["ready", "ready"]
    domains[0].sick.unlink()
    stand.until(lambda: ask(stand, "/work?ms=1")[0] == 200, "one serves again")
