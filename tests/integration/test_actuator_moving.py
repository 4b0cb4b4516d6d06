"""The real service and a user's domain whose address is another one than its source says first, or changes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common.domain import DomainState
from common.messages import BackendState, Drain
from common.phases import Phase
from tests.integration.actuator_fakes import Stand, running
from tests.ports import free_port

NAME = "web-0000"
STALE, FIRST, SECOND = "127.0.7.1", "127.0.7.2", "127.0.7.3"  # nobody listens at the stale one


class Guest(BaseHTTPRequestHandler):
    """Answers every request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def guest(address: str, port: int) -> Iterator[None]:
    server = ThreadingHTTPServer((address, port), Guest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def said(stand: Stand, state: str, is_healthy: bool | None, unhealthy_s: float = 0.0) -> None:
    """Say what the balancer would of the one member."""
    member = BackendState(
        name=NAME, uuid=f"u-{NAME}", slot="vm1", state=state, is_healthy=is_healthy, unhealthy_s=unhealthy_s
    )
    stand.bus.put(Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=(member,)))


def run_with(stand: Stand, phase: Phase, address: str, is_healthy: bool, unhealthy_s: float = 0.0) -> None:
    """Run until the record says so, with a balancer that repeats its word."""

    def is_there() -> bool:
        said(stand, "ready", is_healthy, unhealthy_s)
        return is_in(stand, phase, address)

    stand.run_until(is_there)


def is_in(stand: Stand, phase: Phase, address: str) -> bool:
    record = stand.records().get(NAME)
    return record is not None and (record.phase, record.address) == (phase, address)


def told(stand: Stand) -> tuple[Phase, str | None]:
    (member,) = stand.memberships()[-1].members
    return member.phase, member.address


def test_the_address_that_answers_is_found_and_when_it_changes_it_is_followed_with_the_power_on(tmp_path: Path) -> None:
    port = free_port()
    group = {"kind": "existing", "prefix": "web-", "port": port, "unhealthy_grace_s": 3600.0}
    stand = Stand(tmp_path, {"web": group})
    stand.host.by_name[NAME] = running(NAME)
    stand.host.told_addresses = [STALE, FIRST]
    stand.start()
    try:
        with guest(FIRST, port):
            stand.want("web", 1)
            stand.run_until(lambda: is_in(stand, Phase.WARMING, FIRST))
            run_with(stand, Phase.READY, FIRST, True)
        with guest(SECOND, port):
            stand.host.told_addresses = [STALE, SECOND]
            run_with(stand, Phase.WARMING, SECOND, False, 5.0)
            stand.run_until(lambda: told(stand) == (Phase.WARMING, SECOND))
    finally:
        stand.close()
    assert stand.host.by_name[NAME].state is DomainState.RUNNING


def test_a_member_keeps_its_address_when_its_leases_are_gone_and_the_service_starts_anew(tmp_path: Path) -> None:
    port = free_port()
    stand = Stand(tmp_path, {"web": {"kind": "existing", "prefix": "web-", "port": port}})
    stand.host.by_name[NAME] = running(NAME)
    stand.host.told_addresses = [FIRST]
    stand.start()
    try:
        with guest(FIRST, port):
            stand.want("web", 1)
            stand.run_until(lambda: is_in(stand, Phase.WARMING, FIRST))
            run_with(stand, Phase.READY, FIRST, True)
            stand.close()
            stand.host.told_addresses = []
            before = len(stand.memberships())
            stand.start()
            stand.run_until(lambda: len(stand.memberships()) > before and bool(stand.memberships()[-1].members))
            assert told(stand) == (Phase.READY, FIRST)
            assert {m.address for body in stand.memberships()[before:] for m in body.members} == {FIRST}
    finally:
        stand.close()
