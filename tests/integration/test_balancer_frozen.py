"""A member that cannot even be connected to, as a frozen guest, in the real HAProxy: what is told of it."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from signal import SIGCONT, SIGSTOP

import pytest

from common.messages import FROZEN
from tests.integration import balancer_stand
from tests.integration.balancer_stand import APP, Domain, Load, Stand

QUEUE = 1  # of connections that nobody has accepted


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    """A stand whose domains have so short a queue that one that is stopped refuses nobody, and takes nobody."""
    stand = Stand()
    app = stand.directory / "app.py"
    app.write_text(APP.read_text().replace("backlog=1024", f"backlog={QUEUE}"))
    monkeypatch.setattr(balancer_stand, "APP", app)
    yield stand
    stand.close()


def freeze(domain: Domain, full: ExitStack) -> None:
    """Stop a domain such that connections to it time out."""
    domain.process.send_signal(SIGSTOP)
    for _ in range(QUEUE + 3):
        connection = full.enter_context(socket.socket())
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect((domain.address, domain.port))


def last_check(stand: Stand, domain: Domain) -> str:
    found = stand.backend(domain)
    return found.check if found else ""


def told(stand: Stand, domain: Domain, *names: str) -> list[str]:
    return [event.name for event in stand.events if event.domain == domain.name and event.name in names]


HEALTH = ("backend-unhealthy", "backend-healthy", "backend-restless", "backend-kept")


def test_a_frozen_member_alone_is_told_as_healthy_only_when_a_check_has_succeeded(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    with ExitStack() as full:
        freeze(domain, full)
        stand.fail(domain, FROZEN)
        stand.until(lambda: stand.servers()["vm1"][2] == "DOWN", "its checks take it down")
        stand.until(lambda: told(stand, domain, *HEALTH) != [], "that is told")
        assert told(stand, domain, *HEALTH) == ["backend-unhealthy"]
    domain.process.send_signal(SIGCONT)
    stand.until(lambda: len(told(stand, domain, *HEALTH)) == 2, "it serves again")
    assert told(stand, domain, *HEALTH) == ["backend-unhealthy", "backend-healthy"]


def test_a_freeze_that_is_heard_of_late_is_no_flapping(stand: Stand) -> None:
    stays, domain = stand.domain(0), stand.domain(1)
    stand.join(stays, domain)
    with ExitStack() as full:
        freeze(domain, full)
        stand.until(lambda: (domain.address, "ready", "DOWN") in stand.servers().values(), "its checks take it down")
        stand.run_for(1.2)  # the balancer has seen it
        for _ in range(2):
            stand.fail(domain, FROZEN)  # puts it from down to avoided
            stand.until(lambda: (domain.address, "ready", "DOWN") not in stand.servers().values(), "it is avoided")
            stand.until(lambda: (domain.address, "ready", "DOWN") in stand.servers().values(), "and down again")
            stand.run_for(1.2)
    domain.process.send_signal(SIGCONT)
    stand.until(lambda: "backend-healthy" in told(stand, domain, *HEALTH), "it serves again")
    stand.run_for(1.5)
    assert told(stand, domain, *HEALTH) == ["backend-unhealthy", "backend-healthy"]
    assert stand.state(domain) == "ready"


def successor(stand: Stand, first: Domain, full: ExitStack) -> Domain:
    """Freeze a member until it has failed and left; return a new one, of which the stand has not told yet."""
    freeze(first, full)
    stand.until(lambda: last_check(stand, first) == "L4TOUT", "its checks time out")
    stand.fail(first)
    stand.until(lambda: stand.state(first) == "left", "it is out")
    stand.domains.remove(first)
    second = stand.domain(2)
    second.is_probed = True
    return second


def test_a_new_member_in_the_slot_of_one_that_could_not_be_reached_is_not_judged_by_it(stand: Stand) -> None:
    stays, first = stand.domain(0), stand.domain(1)
    stand.join(stays, first)
    with ExitStack() as full:
        second = successor(stand, first, full)
        stand.tell()
        with Load(stand.port, threads=2):
            stand.until(lambda: last_check(stand, second).startswith("L7OK"), "it was checked")
    assert second.uuid in {backend.uuid for backend in stand.drains["web"].backends if backend.slot == "vm2"}
    assert told(stand, second, *HEALTH) == []


def test_a_new_member_alone_is_not_kept_for_what_its_predecessor_did_not_answer(stand: Stand) -> None:
    first = stand.domain(0)
    stand.join(first)
    with ExitStack() as full:
        second = successor(stand, first, full)
        with Load(stand.port, "/work?ms=300", threads=4):
            stand.tell()
            stand.until(lambda: last_check(stand, second).startswith("L7OK"), "it was checked")
    assert told(stand, second, *HEALTH) == []
