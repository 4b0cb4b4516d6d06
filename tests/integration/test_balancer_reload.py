"""Reloads of the real HAProxy while members leave: what old workers hold is in flight, and what is cut is counted.

POSTs tell: a GET whose member goes is tried elsewhere, so a drain that cuts it does not show.
"""

import http.client
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from common.messages import BackendState
from common.phases import Phase
from services.balancer.core.haproxy_config import master_socket
from services.balancer.core.report import UNASKED
from services.balancer.core.workers import Worker
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.haproxy import Master
from tests.faults.proof import Proof
from tests.integration.balancer_stand import Domain, Stand, end
from tests.integration.test_balancer_life import TCP_GROUP


class Posts:
    """POSTs that are under way until the stand lets them go; ``answers`` counts how they ended."""

    def __init__(self, stand: Stand, count: int) -> None:
        self.answers: Counter[str] = Counter()
        paths = [f"/count?id=p{number}&held=1" for number in range(count)]
        self._stand = stand
        self._threads = [threading.Thread(target=self._post, args=(stand.port, path), daemon=True) for path in paths]
        for thread in self._threads:
            thread.start()

    def _post(self, port: int, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
        try:
            connection.request("POST", path, b"x")
            answer = str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            answer = type(error).__name__
        self.answers[answer] += 1
        connection.close()

    def wait(self) -> Counter[str]:
        """Let them go; return how all of them ended."""
        self._stand.let_go()
        for thread in self._threads:
            thread.join(40)
        return self.answers


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def two(stand: Stand) -> tuple[Domain, Domain]:
    stays, leaves = stand.domain(0), stand.domain(1)
    stand.join(stays, leaves)
    return stays, leaves


def shown(stand: Stand, domain: Domain, group: str = "web") -> BackendState:
    found = stand.backend(domain, group)
    assert found is not None
    return found


def is_done(stand: Stand, domain: Domain) -> bool:
    """Return whether the actuator would go on with the drain: nothing is in flight, for sure."""
    found = shown(stand, domain)
    return found.state in {"draining", "left"} and found.in_flight == 0 and found.is_in_flight_known


def never_done(stand: Stand, domain: Domain, duration_s: float) -> None:
    """Look at every word of the balancer for a while: no one of them may end the drain."""
    end_s = stand.clock.monotonic_s() + duration_s
    while stand.clock.monotonic_s() < end_s:
        assert not is_done(stand, domain), "it was said to be empty while POSTs were in flight"
        stand.pump()


def until_in_flight(stand: Stand, domain: Domain, count: int, group: str = "web") -> None:
    stand.until(lambda: shown(stand, domain, group).in_flight == count, f"{domain.name} has {count} in flight")


def master(stand: Stand) -> Master:
    return Master(master_socket(stand.config.system), stand.clock, deadline_s=2.0)


@pytest.mark.fault(63)
def test_posts_in_flight_are_waited_for_over_two_reloads(stand: Stand, row: Proof) -> None:
    _, leaves = two(stand)
    posts = Posts(stand, 12)
    until_in_flight(stand, leaves, 6)
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    for _ in range(2):
        stand.reload()
        never_done(stand, leaves, 2.0)
    until_in_flight(stand, leaves, 6)
    assert posts.wait() == {"200": 12}
    stand.until(lambda: is_done(stand, leaves), "nothing is in flight")
    stand.set_phase(leaves, Phase.STOPPING, wait_for="left")
    assert stand.drains["web"].cut_sessions_total == 0
    row.held("two reloads during a drain: none of 12 POSTs in flight is lost")


def test_a_balancer_started_anew_knows_what_old_workers_hold(stand: Stand) -> None:
    _, leaves = two(stand)
    posts = Posts(stand, 4)
    until_in_flight(stand, leaves, 2)
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    stand.reload()
    end(stand.balancer)
    stand.drains.clear()
    stand.start_balancer()
    stand.until(lambda: "web" in stand.drains, "the new balancer speaks")
    never_done(stand, leaves, 1.0)
    until_in_flight(stand, leaves, 2)
    assert posts.wait() == {"200": 4}
    stand.until(lambda: is_done(stand, leaves), "nothing is in flight")


def test_what_an_old_worker_holds_at_the_deadline_is_ended_counted_and_told(stand: Stand) -> None:
    stays, leaves = two(stand)
    posts = Posts(stand, 4)
    until_in_flight(stand, leaves, 2)
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    stand.reload()
    stand.set_phase(leaves, Phase.STOPPING)
    stand.until(lambda: stand.drains["web"].cut_sessions_total > 0, "it is counted")
    until_in_flight(stand, leaves, 0)
    assert stand.drains["web"].cut_sessions_total == 2
    told = [(event.domain, event.text) for event in stand.events if event.name == "drain-forced"]
    assert told == [(leaves.name, "2 requests in flight were cut off")]
    assert shown(stand, stays).in_flight == 2
    assert posts.wait()["200"] == 2
    assert stand.drains["web"].cut_sessions_total == 2


def test_an_idle_client_of_an_old_worker_may_still_ask_and_is_answered(stand: Stand) -> None:
    two(stand)
    leaves = stand.domains[1]
    client = http.client.HTTPConnection("127.0.0.1", stand.port, timeout=10)
    assert post(client) == 200
    stand.reload()
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    stand.until(lambda: not shown(stand, leaves).is_in_flight_known, "nobody knows whom it will ask")
    assert post(client) == 200
    client.close()
    stand.until(lambda: is_done(stand, leaves), "the old worker has ended")


def post(client: http.client.HTTPConnection) -> int:
    client.request("POST", "/count?id=kept&ms=0", b"x")
    response = client.getresponse()
    response.read()
    return response.status


def test_an_old_worker_that_hangs_is_unknown_and_delays_no_failure(stand: Stand) -> None:
    stays, leaves = two(stand)
    posts = Posts(stand, 2)
    until_in_flight(stand, leaves, 1)
    old = stand.reload()
    os.kill(old, signal.SIGSTOP)
    try:
        stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
        stand.until(lambda: not shown(stand, leaves).is_in_flight_known, "it does not say what it has")
        stand.fail(stays)
        is_out = lambda: (stays.address, "maint") in {shown[:2] for shown in stand.servers().values()}  # noqa: E731
        assert stand.until(is_out, "the failed one is out") < 1.0
        stand.fail(stays)
    finally:
        os.kill(old, signal.SIGCONT)
    assert posts.wait()["200"] >= 1
    stand.until(lambda: is_done(stand, leaves), "it has said that nothing is left")


def test_without_the_masters_socket_nobody_is_said_to_be_empty_and_members_come_and_go(stand: Stand) -> None:
    _, leaves = two(stand)
    master_socket(stand.config.system).unlink()
    new = stand.domain(2)
    stand.join(new)
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    stand.until(lambda: stand.drains["web"].notes == (UNASKED,), "it is said")
    assert not is_done(stand, leaves)
    stand.set_phase(leaves, Phase.STOPPING, wait_for="left")
    stand.reload()
    stand.until(lambda: shown(stand, new).is_in_flight_known, "the reloaded master has its socket again")
    assert stand.drains["web"].notes == ()


def test_a_failed_members_requests_end_in_old_workers_too(stand: Stand) -> None:
    stays, fails = two(stand)
    posts = Posts(stand, 4)
    until_in_flight(stand, fails, 2)
    stand.reload()
    until_in_flight(stand, fails, 2)
    fails.process.send_signal(signal.SIGSTOP)  # as a machine whose power is gone: nothing of it answers any more
    stand.fail(fails)
    stand.until(lambda: sum(posts.answers.values()) == 2, "its clients know", 5)
    assert posts.answers["200"] == 0
    assert posts.wait()["200"] == 2
    until_in_flight(stand, stays, 0)
    assert stand.drains["web"].cut_sessions_total == 0


def test_an_old_worker_that_is_ended_before_its_requests_is_told(stand: Stand) -> None:
    two(stand)
    end(stand.balancer)
    short = "import sys, services.balancer.core.haproxy_config as c; c.hard_stop_s = lambda _: 3.0\n"
    path = stand.directory / "short.py"
    path.write_text(f"{short}from services.balancer.__main__ import run; raise SystemExit(run(sys.argv[1:]))\n")
    config = stand.config.system.run_path / "haproxy.cfg"
    config.write_text(config.read_text().replace("hard-stop-after 600s", "hard-stop-after 3s"))
    assert "hard-stop-after 3s" in config.read_text()
    stand.reload()
    stand.start_balancer(sys.executable, str(path))
    posts = Posts(stand, 2)
    stand.until(lambda: stand.drains["web"].backends[0].in_flight == 1, "in flight")
    stand.reload()
    stand.until(lambda: stand.drains["web"].cut_sessions_total == 2, "both are counted")
    assert "200" not in posts.wait()
    assert [event.text[:36] for event in stand.events if event.name == "drain-forced"] == [
        "2 requests in flight were cut off: a"
    ]


def upgraded(port: int) -> socket.socket:
    """Return a connection that has become a tunnel, as a WebSocket does."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
    assert connection.recv(1024).startswith(b"HTTP/1.1 101")
    return connection


def echoed(connection: socket.socket) -> bytes:
    try:
        connection.sendall(b"still there?")
        return connection.recv(1024)
    except OSError:
        return b""


def test_tunnels_last_until_the_end_of_the_drain_and_are_counted(stand: Stand) -> None:
    _, leaves = two(stand)
    before = [upgraded(stand.port) for _ in range(2)]
    stand.reload()
    after = [upgraded(stand.port) for _ in range(2)]
    stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
    until_in_flight(stand, leaves, 2)
    assert [echoed(connection) for connection in before + after] == [b"still there?"] * 4
    stand.set_phase(leaves, Phase.STOPPING, wait_for="left")
    stand.until(lambda: stand.drains["web"].cut_sessions_total == 2, "the old worker's and the new one's")
    assert sorted(len(echoed(connection)) > 0 for connection in before + after) == [False, False, True, True]
    for connection in before + after:
        connection.close()


def test_connections_of_a_tcp_group_last_until_the_end_of_the_drain_and_are_counted() -> None:
    stand = Stand(TCP_GROUP)
    try:
        leaves, stays = stand.domain(0, prefix="db-"), stand.domain(1, prefix="db-")
        for domain in (leaves, stays):
            stand.tell(leaves, stays, group="db")
            stand.until(lambda domain=domain: stand.state(domain, "db") == "ready", "ready")
        before = [upgraded(stand.tcp_port) for _ in range(2)]
        stand.reload()
        after = [upgraded(stand.tcp_port) for _ in range(2)]
        leaves.phase = Phase.DRAINING
        stand.tell(leaves, stays, group="db")
        stand.until(lambda: stand.state(leaves, "db") == "draining", "it drains")
        until_in_flight(stand, leaves, 2, "db")
        assert [echoed(connection) for connection in before + after] == [b"still there?"] * 4
        leaves.phase = Phase.STOPPING
        stand.tell(leaves, stays, group="db")
        stand.until(lambda: stand.drains["db"].cut_sessions_total == 2, "both are counted")
        until_in_flight(stand, leaves, 0, "db")
        assert sorted(len(echoed(connection)) > 0 for connection in before + after) == [False, False, True, True]
        for connection in before + after:
            connection.close()
    finally:
        stand.close()


def test_the_master_names_its_workers_also_after_a_reload_that_failed(stand: Stand) -> None:
    two(stand)
    posts = Posts(stand, 2)
    until_in_flight(stand, stand.domains[0], 1)
    config = stand.config.system.run_path / "haproxy.cfg"
    good, present = config.read_text(), stand.worker()
    config.write_text("global\n    nonsense\n")
    stand.proxy.process.send_signal(signal.SIGUSR2)
    stand.until(lambda: [w.is_old for w in workers(stand)] == [True], "the reload has failed")
    stand.until(lambda: shown(stand, stand.domains[0]).is_in_flight_known, "the present worker is known to be alone")
    assert (stand.worker(), shown(stand, stand.domains[0]).in_flight) == (present, 1)
    config.write_text(good)
    stand.reload()
    stand.until(lambda: sorted(w.is_old for w in workers(stand)) == [False, True], "now it has succeeded")
    until_in_flight(stand, stand.domains[0], 1)
    assert posts.wait() == {"200": 2}


def workers(stand: Stand) -> list[Worker]:
    """Return the workers that the master names; none while it reloads."""
    try:
        return list(master(stand).workers())
    except (ProxyError, ProxyLostError):
        return []
