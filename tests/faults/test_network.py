"""Rows about the network of real guests: packets of one of them, or of all, are lost, its tap is gone, all are down."""

import csv
import json
import statistics
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

import pytest

from services.balancer.core.haproxy_config import CONNECT_TIMEOUT_MS, FAST_CHECK_MS
from tests.e2e.packets import rules
from tests.e2e.power import qemu_pids
from tests.e2e.service import MakeWorld, Service, in_service
from tests.e2e.whole import CLOCK
from tests.e2e.world import now_s, wait_until
from tests.faults.proof import Proof

NAME, NUMBER = "asgk", 80
COUNT = 3
PORT = 8080
LONG_GRACE, GRACE = "unhealthy_grace_s = 600.0", "unhealthy_grace_s = 10.0"
HOLD_S = 10.0
ALL_S = 60.0
BACK_S = 60.0
BOOT_S = 120.0  # generous, as elsewhere: guests boot in software emulation beside everything else on two cores
LOOK_S = 0.02
LATE_S = 1.0  # HAProxy, on two cores that are busy with guests
MOST_RETURNS = 1
AT_ONCE_S = 0.1
TURNS = count()


@pytest.fixture(scope="module")
def service(make_world: MakeWorld) -> Iterator[Service]:
    """Return three domains in service, of which none is replaced for failing its checks."""
    world = make_world(NAME, NUMBER, minimum=str(COUNT), maximum=str(COUNT + 1), group_extra=LONG_GRACE)
    with in_service(world, COUNT, rate=40.0) as service:
        yield service


@pytest.fixture
def victim(service: Service) -> dict[str, Any]:
    """Return a member of three that serve, another one each time: who goes down twice a minute stays out for longer."""
    wait_until(lambda: _all_serve(service), 2 * BOOT_S, "three in rotation, and no others")
    service.whole.steady.failures.clear()
    return service.whole.ready()[next(TURNS) % COUNT]


@dataclass
class Rotation:
    """Watches whether a member takes new traffic, whether it is down, and how much it has in flight.

    HAProxy ends what a member has in flight when it is down. One that cannot be reached takes nothing new before that,
    and if it can be reached again it was only a pause.
    """

    service: Service
    address: str
    is_in: bool = True
    is_down: bool = False
    outs_s: list[float] = field(default_factory=list)
    pauses: int = 0
    downs: int = 0
    returns: int = 0
    in_flight: int = 0
    lost_with_it: int = 0

    def __enter__(self) -> "Rotation":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        (server,) = [s for s in self.service.whole.servers() if s.address == self.address]
        is_in = server.admin == "ready" and server.status.startswith("UP")
        if self.is_in and not is_in:
            self.outs_s.append(now_s())
        if server.status.startswith("DOWN") and not self.is_down:
            self.is_down = True
            self.downs += 1
            self.lost_with_it += self.in_flight
        if is_in and not self.is_in:
            self.returns += self.is_down
            self.pauses += not self.is_down
            self.is_down = False
        self.is_in, self.in_flight = is_in, server.in_flight


@contextmanager
def all_dropped(_service: Service, member: dict[str, Any]) -> Iterator[None]:
    with rules(NAME, f"ip daddr {member['address']} drop", f"ip saddr {member['address']} drop"):
        yield


@contextmanager
def some_dropped(_service: Service, member: dict[str, Any]) -> Iterator[None]:
    some = "numgen random mod 100 < 30 drop"
    with rules(NAME, f"ip daddr {member['address']} {some}", f"ip saddr {member['address']} {some}"):
        yield


@contextmanager
def tap_down(service: Service, member: dict[str, Any]) -> Iterator[None]:
    tap = _tap(service, member["name"])
    subprocess.run(["ip", "link", "set", tap, "nomaster", "down"], check=True)
    try:
        yield
    finally:
        bridge = service.whole.config.network.bridge
        subprocess.run(["ip", "link", "set", tap, "master", bridge, "up"], check=True)


def _tap(service: Service, name: str) -> str:
    target = ET.fromstring(service.whole.domain(name).XMLDesc()).find("devices/interface/target")
    assert target is not None
    return target.attrib["dev"]


def _all_serve(service: Service) -> bool:
    """Return whether as many as there were serve, and nobody else is there: one more that a fault has made has gone."""
    return COUNT == len(service.whole.group()["domains"]) == len(_serving(service))


def failed_checks(service: Service, member: dict[str, Any]) -> int:
    """Return how many checks of a member's slot have failed while it was up, as HAProxy counts."""
    (slot,) = [server.name for server in service.whole.servers() if server.address == member["address"]]
    (table,) = service.whole.api.ask(["show stat"])
    rows = csv.DictReader(table.removeprefix("# ").splitlines())
    return next(int(each["chkfail"]) for each in rows if (each["pxname"], each["svname"]) == ("web", slot))


def check_bound_s(service: Service) -> float:
    """Return how long three checks take to fail, and the wait before them, by the configuration of HAProxy."""
    waits_s = service.whole.config.haproxy.check_interval_s + 2 * FAST_CHECK_MS / 1000
    return waits_s + 3 * CONNECT_TIMEOUT_MS / 1000 + LATE_S


@pytest.mark.fault(67)
def test_where_every_member_is_down_gets_are_refused_at_once_and_members_are_replaced(
    service: Service, victim: dict[str, Any], row: Proof
) -> None:
    """The first of this file: whoever has been replaced in vain is replaced more seldom, for a while."""
    whole = service.whole
    members = whole.ready()
    addresses = ", ".join(member["address"] for member in members)
    least = COUNT + 1
    begun_at_s = CLOCK.epoch_s()
    with grace_of_10_s(service), rules(NAME, f"ip daddr {{ {addresses} }} tcp dport {PORT} reject with tcp reset"):
        wait_until(lambda: not any(whole.takes_traffic(m["address"]) for m in members), 10, "all are down")
        answers = [_asked_s(service) for _ in range(20)]
        assert {status for status, _ in answers} == {503}
        row.measured("503: median of 20", statistics.median(took_s for _, took_s in answers), at_most=AT_ONCE_S)
        begun_s = now_s()

        def is_served() -> bool:
            nonlocal least
            least = min(least, whole.group()["desired"] or least)
            return bool(_serving(service) - {member["name"] for member in members})

        wait_until(is_served, 2 * BOOT_S, "another one that serves")
        assert service.world.get("/healthz")[0] == 200
        row.held(f"every member down: another one serves {now_s() - begun_s:.1f} s later")
        assert least >= len(members) and "scale-in" not in _events_since(service, begun_at_s)
        row.held("never scaled in")


@pytest.mark.fault(60)
@pytest.mark.parametrize("fault", [all_dropped, tap_down])
def test_a_member_that_nothing_reaches_is_out_after_three_checks(
    service: Service, victim: dict[str, Any], row: Proof, fault: Callable[..., Any]
) -> None:
    steady, what = service.whole.steady, fault.__name__.replace("_", " ")
    sent, failed = steady.sent, failed_checks(service, victim)
    with Rotation(service, victim["address"]) as rotation:
        with fault(service, victim):
            begun_s = now_s()
            wait_until(lambda: rotation.outs_s, 10, "it is out of rotation", every_s=LOOK_S)
            row.measured(f"{what}: checks that failed", failed_checks(service, victim) - failed, at_most=3, unit="")
            row.measured(f"{what}: out of rotation", rotation.outs_s[0] - begun_s, at_most=check_bound_s(service))
            until_s = now_s() + HOLD_S
            wait_until(lambda: now_s() > until_s, 2 * HOLD_S, "the fault to last")
            assert rotation.is_down
        wait_until(lambda: rotation.is_in, BACK_S, "it is back", every_s=LOOK_S)
    assert (len(rotation.outs_s), rotation.downs, rotation.returns, rotation.pauses) == (1, 1, 1, 0), rotation
    row.held(f"{what}: out once, and back once when it is over")
    _tell_failures(row, what, steady.failures, sent, steady.sent, rotation)


@pytest.mark.fault(60)
def test_a_member_of_which_a_third_of_the_packets_is_lost_does_not_flap(
    service: Service, victim: dict[str, Any], row: Proof
) -> None:
    steady, lasts_s = service.whole.steady, row.lasts_s(60)
    sent = steady.sent
    with Rotation(service, victim["address"]) as rotation, some_dropped(service, victim):
        until_s = now_s() + lasts_s
        wait_until(lambda: now_s() > until_s, 2 * lasts_s, "the fault to last")
    what = f"30 % dropped for {lasts_s:g} s"
    assert rotation.downs
    row.measured(f"{what}: back after it was down", rotation.returns, at_most=MOST_RETURNS, unit="times")
    row.held(f"{what}: before that, {rotation.pauses} pauses in which it took nothing new")
    _tell_failures(row, what, steady.failures, sent, steady.sent, rotation)


def _tell_failures(
    row: Proof, what: str, failures: list[tuple[float, str]], sent: int, total: int, rotation: Rotation
) -> None:
    """Tell how many GETs failed: those in flight on the member when it was taken out, and others."""
    print(f"  {failures[:5]}")
    others = max(len(failures) - rotation.lost_with_it, 0)
    row.measured(f"{what}: GETs that failed of {total - sent}, but those in flight on it", others, at_most=0, unit="")
    row.held(f"{what}: {len(failures)} of {rotation.lost_with_it} in flight on it failed")


@contextmanager
def grace_of_10_s(service: Service) -> Iterator[None]:
    """Have members replaced that fail their checks for so long as by default, for as long as the body takes."""
    _change(service, LONG_GRACE, GRACE)
    try:
        yield
    finally:
        _change(service, GRACE, LONG_GRACE)


def _change(service: Service, before: str, after: str) -> None:
    path = service.world.config
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    service.world.autoscaler("reload")
    service.whole.reread()


def _events_since(service: Service, at_s: float) -> set[str]:
    """Return the names of what was told since an instant."""
    shown = json.loads(service.world.autoscaler("events", "--json", "--limit", "1000").stdout)
    return {event["name"] for event in shown if datetime.fromisoformat(event["at"]).timestamp() >= at_s}


@pytest.mark.fault(61)
def test_packets_to_all_members_are_dropped_and_nobody_is_removed(
    service: Service, victim: dict[str, Any], row: Proof
) -> None:
    before = qemu_pids({member["name"] for member in service.whole.ready()})
    subnet = service.whole.config.network.subnet
    lasts_s = row.lasts_s(ALL_S)
    with grace_of_10_s(service):
        service.power.forget()
        begun_at_s = CLOCK.epoch_s()
        with rules(NAME, f"ip daddr {subnet} drop", f"ip saddr {subnet} drop"):
            until_s = now_s() + lasts_s
            wait_until(lambda: now_s() > until_s or not _has_all(before), 2 * lasts_s, "the fault to last")
            assert _has_all(before) and service.power.ends() == []
            assert "scale-in" not in _events_since(service, begun_at_s)
            row.held(
                f"all packets dropped for {lasts_s:g} s, six times the grace: nobody is removed, nothing scaled in"
            )
        begun_s = now_s()
        wait_until(lambda: set(before) <= _serving(service), BACK_S, "the same domains to serve again")
        row.held(f"the same domains serve again {now_s() - begun_s:.1f} s after its end")
    assert _has_all(before)


def _has_all(pids: dict[str, int]) -> bool:
    """Return whether each of these processes still runs its domain."""
    return qemu_pids(set(pids)) == pids


def _serving(service: Service) -> set[str]:
    whole = service.whole
    return {member["name"] for member in whole.ready() if whole.takes_traffic(member["address"])}


def _asked_s(service: Service) -> tuple[int, float]:
    begun_s = now_s()
    status = service.world.get("/compute?n=10")[0]
    return status, now_s() - begun_s
