"""Long requests at scale-in: the drain waits for them up to its deadline, and tells what it cuts off then.

The domains are machines without a system, of their owner; what answers for each is a process at an address of this
machine: a WebSocket that lasts, which the demo guest has not.
"""

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.e2e.service import MakeWorld
from tests.e2e.whole import look
from tests.e2e.world import World, now_s, wait_until
from tests.faults.proof import Proof
from tests.integration.balancer_stand import APP
from tests.integration.test_balancer_reload import echoed, upgraded

NAME, NUMBER = "asgl", 81
PORT = 18181
COUNT = 2
GROUPS = {"long": 900.0, "short": 5.0}  # how long a drain may last
SOON_S = 60.0
LATE_S = 3.0
DOMAIN = (
    "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>"
)
CONFIG = """
[system]
run_dir = "{run_dir}"
state_dir = "{state_dir}"
"""
GROUP = """
[groups.{group}]
kind = "existing"
prefix = "{name}-{group}-"
min = 1
max = 2
endpoint = "127.0.0.1:{endpoint}"
address_source = "static"
port = {port}
cooldown_in_s = 1.0
drain_timeout_s = {drain_timeout_s}
stop_timeout_s = 2.0
power_off = "after-stop-timeout"
tunnel_timeout_s = 900.0
[groups.{group}.readiness]
identity = false
[groups.{group}.addresses]
{addresses}
"""


@dataclass(frozen=True)
class Proxied:
    """Two groups of two domains each in service, and where each is asked."""

    world: World
    endpoints: dict[str, int]

    def group(self, name: str) -> dict[str, Any]:
        """Return one group of the status."""
        return next(group for group in look(self.world)["groups"] if group["name"] == name)

    def phases(self, name: str) -> dict[str, str]:
        """Return the phase of each domain that runs."""
        return {d["name"]: d["phase"] for d in self.group(name)["domains"]}


@pytest.fixture(scope="module")
def proxied(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """Return the groups once all of their domains are in rotation."""
    world, logs = make_world(NAME, NUMBER), tmp_path_factory.mktemp("apps")
    endpoints = {group: world.port + index * 1000 for index, group in enumerate(GROUPS)}
    names = {group: [f"{NAME}-{group}-{index:04d}" for index in range(COUNT)] for group in GROUPS}
    flat = [name for group in GROUPS for name in names[group]]
    addresses = {name: f"127.0.81.{index + 1}" for index, name in enumerate(flat)}
    text = CONFIG.format(run_dir=world.run_dir, state_dir=world.state_dir)
    for group, drain_timeout_s in GROUPS.items():
        lines = "\n".join(f'{name} = "{addresses[name]}"' for name in names[group])
        text += GROUP.format(
            name=NAME, group=group, endpoint=endpoints[group], port=PORT, drain_timeout_s=drain_timeout_s,
            addresses=lines,
        )  # fmt: skip
    world.config.write_text(text, encoding="utf-8")
    with ExitStack() as undo:
        for name in flat:
            undo.enter_context(app(addresses[name], name, logs))
        undo.enter_context(machines(flat))
        undo.callback(world.autoscaler, "down")
        world.autoscaler("up")
        found = Proxied(world, endpoints)
        for group in GROUPS:
            world.autoscaler("scale", "2", "--group", group)
        for group in GROUPS:
            all_ready = dict.fromkeys(names[group], "ready")
            wait_until(lambda group=group, all_ready=all_ready: found.phases(group) == all_ready, SOON_S, "all ready")
            world.autoscaler("pause", group)  # no policy shrinks it before the test does
        yield found


@contextmanager
def machines(names: list[str]) -> Iterator[None]:
    """Have domains run that do nothing."""
    with closing(libvirt.open("qemu:///system")) as connection:
        domains = [connection.defineXML(DOMAIN.format(name)) for name in names]
        try:
            for domain in domains:
                domain.create()
            yield
        finally:
            for domain in domains:
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                domain.undefine()


@contextmanager
def app(address: str, name: str, logs: Path) -> Iterator[None]:
    """Have a process answer for a domain."""
    command = [sys.executable, str(APP), address, str(PORT), name, str(logs / name), str(logs / f"{name}.sick")]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


class Request:
    """A POST that takes so long; ``answer`` is how it ended."""

    def __init__(self, port: int, lasts_s: float) -> None:
        self.answer: object = None
        self.served_by = ""
        self._port, self._path = port, f"/work?ms={lasts_s * 1000:.0f}"
        self._thread = threading.Thread(target=self._post, daemon=True)
        self._thread.start()

    def _post(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("POST", self._path, b"x")
            response = connection.getresponse()
            self.answer, self.served_by = response.status, response.headers.get("X-Served-By", "")
        except (OSError, http.client.HTTPException) as error:
            self.answer = error
        connection.close()

    def wait(self) -> None:
        self._thread.join(60)


def in_flight(proxied: Proxied, group: str) -> list[int]:
    return [domain["in_flight"] for domain in proxied.group(group)["domains"]]


def drained(proxied: Proxied, group: str) -> str:
    """Have the group shrink by one; return who drains."""
    proxied.world.autoscaler("resume", group)
    proxied.world.autoscaler("scale", "1", "--group", group)
    leaves = lambda: [name for name, phase in proxied.phases(group).items() if phase == "draining"]  # noqa: E731
    (name,) = wait_until(leaves, SOON_S, "a drain", every_s=0.05)
    return str(name)


@pytest.mark.fault(68)
def test_a_drain_waits_for_a_request_of_2_s_and_for_a_websocket(proxied: Proxied, row: Proof) -> None:
    port, lasts_s = proxied.endpoints["long"], row.lasts_s(600)
    sockets = [upgraded(port) for _ in range(COUNT)]
    begun_s = now_s()
    wait_until(lambda: in_flight(proxied, "long") == [1, 1], 10, "both WebSockets in flight", every_s=0.1)
    requests = [Request(port, 2.0) for _ in range(2 * COUNT)]
    leaves = drained(proxied, "long")
    for request in requests:
        request.wait()
    assert [request.answer for request in requests] == [200] * len(requests)
    row.held(f"{len(requests)} POSTs of 2 s at a scale-in: all answered")
    while now_s() < begun_s + lasts_s:
        assert [echoed(each) for each in sockets] == [b"still there?"] * COUNT
        assert proxied.phases("long")[leaves] == "draining"
        threading.Event().wait(1.0)
    assert all(request.served_by for request in requests)
    for each in sockets:
        each.close()
    ended_s = now_s()
    wait_until(lambda: proxied.phases("long").get(leaves) != "draining", 10, "the end of the drain", every_s=0.05)
    row.held(f"a WebSocket of {lasts_s:g} s: open to its end, and the drain {now_s() - ended_s:.1f} s longer")
    assert "drain-forced" not in proxied.world.autoscaler("events", "--limit", "1000").stdout
    row.held("nothing was cut off")


@pytest.mark.fault(68)
def test_what_lasts_longer_than_a_drain_may_is_cut_counted_and_told(proxied: Proxied, row: Proof) -> None:
    sockets = [upgraded(proxied.endpoints["short"]) for _ in range(2 * COUNT)]
    wait_until(lambda: in_flight(proxied, "short") == [2, 2], 10, "all in flight", every_s=0.1)
    leaves = drained(proxied, "short")
    begun_s = now_s()
    wait_until(lambda: proxied.phases("short").get(leaves) != "draining", 30, "the end of the drain", every_s=0.05)
    row.measured("the drain ends", now_s() - begun_s, at_most=GROUPS["short"] + LATE_S)
    told = wait_until(lambda: _cuts(proxied, leaves), 10, "the word about what was cut off")
    assert len(told) == 1 and "2 requests in flight were cut off" in told[0]
    row.held("what was cut off is told with its number and its domain")
    wait_until(lambda: sorted(len(echoed(each)) > 0 for each in sockets) == [False, False, True, True], 5, "the cut")
    row.held("the two WebSockets on the one that leaves were cut, the two on the other go on")


def _cuts(proxied: Proxied, domain: str) -> list[str]:
    """Return what was told of requests of the domain that were cut off."""
    lines = proxied.world.autoscaler("events", "--limit", "1000").stdout.splitlines()
    return [line for line in lines if "drain-forced" in line and domain in line and "were cut off" in line]
