"""The end of a drain by force, in the real HAProxy: what is told as cut is what its clients lost."""

import http.client
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.phases import Phase
from tests.integration.balancer_stand import Domain, Stand

MS = 3000


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def ask(stand: Stand, method: str, path: str = f"/work?ms={MS}") -> str:
    """Return how a request ended, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", stand.port, timeout=40)
    try:
        connection.request(method, path, b"x" if method == "POST" else None)
        answer = connection.getresponse()
        answer.read()
        return f"{method} {answer.status}"
    except (OSError, http.client.HTTPException):
        return f"{method} cut"
    finally:
        connection.close()


def in_flight(stand: Stand) -> dict[str, int]:
    """Return what the present worker has in flight, by address."""
    return {server.address: server.in_flight for server in stand.api.look(["web"]).servers["web"] if server.in_flight}


def forced(stand: Stand, leaves: Domain, *asked: tuple[str, str], is_reloaded: bool = False) -> Counter[str]:
    """End a drain while these requests are in flight, half of them on the one that leaves; return their ends."""
    with ThreadPoolExecutor(len(asked)) as pool:
        ends = []
        for number, (method, path) in enumerate(asked, 1):
            ends.append(pool.submit(ask, stand, method, path))
            stand.until(lambda number=number: sum(in_flight(stand).values()) == number, "one after the other")
        assert in_flight(stand)[leaves.address] == len(asked) // 2
        if is_reloaded:
            stand.reload()
        stand.set_phase(leaves, Phase.DRAINING, wait_for="draining")
        stand.set_phase(leaves, Phase.STOPPING)
        stand.until(lambda: told(stand) != [], "its end is told")
        while not all(end.done() for end in ends):
            stand.pump()
        return Counter(end.result() for end in ends)


def told(stand: Stand) -> list[tuple[str, str, str]]:
    return [(event.domain, event.level, event.text) for event in stand.events if event.name == "drain-forced"]


def two(stand: Stand) -> Domain:
    domains = [stand.domain(0), stand.domain(1)]
    stand.join(*domains)
    return domains[0]


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["present", "older-process"])
def test_gets_that_another_domain_answers_are_not_told_as_cut(stand: Stand, is_reloaded: bool) -> None:
    leaves = two(stand)
    get = ("GET", f"/work?ms={MS}")
    assert forced(stand, leaves, *[get] * 4, is_reloaded=is_reloaded) == {"GET 200": 4}
    assert told(stand) == [
        (leaves.name, "info", "none was cut: 2 requests without an answer were sent to another domain")
    ]
    assert stand.drains["web"].cut_sessions_total == 0


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["present", "older-process"])
def test_posts_are_cut_and_told(stand: Stand, is_reloaded: bool) -> None:
    leaves = two(stand)
    ends = forced(stand, leaves, *[("POST", f"/work?ms={MS}")] * 4, is_reloaded=is_reloaded)
    assert ends == {"POST 200": 2, "POST 502": 2}
    assert told(stand) == [(leaves.name, "warning", "2 requests in flight were cut off")]
    stand.until(lambda: stand.drains["web"].cut_sessions_total == 2, "it is counted")


def test_a_get_whose_answer_has_begun_is_cut_and_one_without_is_not(stand: Stand) -> None:
    leaves = two(stand)
    asked = [
        ("GET", "/events?ms=2000"),
        ("GET", "/events?ms=2000"),
        ("GET", f"/work?ms={MS}"),
        ("GET", "/work?ms=3001"),
    ]
    assert forced(stand, leaves, *asked) == {"GET 200": 3, "GET cut": 1}
    (only,) = told(stand)
    assert only[1:] == (
        "warning",
        "1 request in flight was cut off; 1 request without an answer was sent to another domain",
    )
    stand.until(lambda: stand.drains["web"].cut_sessions_total == 1, "it is counted")


def test_gets_that_nobody_else_can_answer_are_cut(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(ask, stand, "GET") for _ in range(2)]
        stand.until(lambda: in_flight(stand) == {domain.address: 2}, "in flight")
        stand.set_phase(domain, Phase.DRAINING, wait_for="draining")
        stand.set_phase(domain, Phase.STOPPING)
        stand.until(lambda: stand.drains["web"].cut_sessions_total == 2, "they are counted")
        assert [end.result() for end in ends] == ["GET 503"] * 2
    stand.until(lambda: told(stand) == [(domain.name, "warning", "2 requests in flight were cut off")], "it is told")
