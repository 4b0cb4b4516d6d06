"""The monitor's threads and beat: with hosts that hang, fall away and come back, and a bus that only notes."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import libvirt
import pytest

from common.bus import Bus, Inbox, PendingRequest
from common.clock import SystemClock
from common.config import Config
from common.domain import CpuReading, DomainState, HostCpu, LifecycleEvent
from common.errors import HypervisorLostError
from common.hypervisor import Connection
from common.messages import Body, Event, Failure, HostSample, Reply, Request
from common.process import Context
from services.actuator.worker import LOOK_GAP_S, Access, HostWorker, Observation, Report
from services.monitor.shell import MonitorService
from services.monitor.sweep import MAX_LANES, Sweep
from services.monitor.watcher import HostConnection
from tests.faults.proof import Proof
from tests.integration.monitor_stand import CLOCK, PrivateLibvirtd, is_ours, test_domain, wait_for
from tests.waiting import Stopwatch

INTERVAL_S = 0.4  # a reading that takes longer than 0.15 of it counts as one that hangs
CALL_TIMEOUT_S = 0.5
ROOT = Path(__file__).parents[2]


class FakeBus:
    """Notes what is published, and when; wakes the loop."""

    def __init__(self) -> None:
        self.published: list[tuple[float, Body]] = []
        self.counters: Counter[str] = Counter()
        self.bell = threading.Event()

    def publish(self, body: Body, cause: str | None = None) -> str:
        self.published.append((CLOCK.monotonic_s(), body))
        return ""

    def wake(self) -> None:
        self.bell.set()

    def of(self, kind: type[Body], host: str = "") -> list[Any]:
        return [b for _, b in self.published if isinstance(b, kind) and (not host or b.host == host)]  # type: ignore[attr-defined]


@dataclass
class FakeHost:
    """A host in memory. ``hang`` blocks readings of that UUID, ``frozen`` all calls, until set."""

    domains: dict[str, str] = field(default_factory=lambda: {"u0": "web-0000", "u1": "web-0001"})
    hangs: dict[str, threading.Event] = field(default_factory=dict)
    frozen: threading.Event | None = None
    listing_hangs: threading.Event | None = None
    is_lost: bool = False
    opened: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    on_event: Callable[[LifecycleEvent], None] = print
    on_lost: Callable[[], None] = print

    def open(self) -> HostConnection:
        self._answer()
        self.opened += 1
        return self

    def watch(self, on_event: Callable[[LifecycleEvent], None], on_lost: Callable[[], None]) -> None:
        self.on_event, self.on_lost = on_event, on_lost

    def refresh(self) -> None:
        self._answer()
        if self.listing_hangs is not None:
            self.listing_hangs.wait()

    def known(self) -> dict[str, str]:
        return dict(self.domains)

    def reading(self, uuid: str) -> CpuReading | None:
        self.asked[uuid] += 1
        self._answer()
        if uuid in self.hangs:
            self.hangs[uuid].wait()
        now_s = CLOCK.monotonic_s()
        return CpuReading(self.domains[uuid], uuid, DomainState.RUNNING, now_s / 2, 1.0, now_s)

    def host_cpu(self) -> HostCpu | None:
        return None

    def ping(self) -> None:
        self._answer()

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.frozen is not None:
            self.frozen.wait()
        if self.is_lost:
            raise HypervisorLostError("cannot connect: refused")


class WallClock(SystemClock):
    """This machine's clock, with a time of day that is ``wrong_s`` ahead."""

    wrong_s = 0.0

    def epoch_s(self) -> float:
        return super().epoch_s() + self.wrong_s


class Running:
    """A monitor whose loop runs in a thread."""

    def __init__(
        self, open_connection: Callable[[str, Any], HostConnection], interval_s: float = INTERVAL_S, **hosts: str
    ) -> None:
        system = {"interval_s": interval_s, "republish_s": 0.5, "stale_after_s": 2.5 * interval_s}
        tables = {name: {"uri": uri, "call_timeout_s": CALL_TIMEOUT_S} for name, uri in hosts.items()}
        groups = {"web": {"prefix": "web-", "hosts": list(hosts)}, "hv": {"prefix": "hvtest-", "hosts": list(hosts)}}
        groups["hv"]["endpoint"] = "127.0.0.1:8001"
        config = Config.model_validate({"system": system, "hosts": tables, "groups": groups})
        self.bus, self.is_stopping = FakeBus(), threading.Event()
        self.max_step_s = 0.0
        self.clock = WallClock()
        context = Context("monitor", config, "", Path(), self.clock, cast(Bus, self.bus), self.is_stopping.is_set)
        self.service = MonitorService(context, open_connection)
        self.thread = threading.Thread(target=self._loop)
        self.thread.start()

    def _loop(self) -> None:
        while not self.is_stopping.is_set():
            watch = Stopwatch()
            self.bus.bell.clear()
            wait_s = self.service.step(Inbox((), ()), CLOCK.monotonic_s())
            self.max_step_s = max(self.max_step_s, watch.s())
            self.bus.bell.wait(wait_s)

    def samples(self, host: str = "") -> list[HostSample]:
        return self.bus.of(HostSample, host)

    def wait_samples(self, count: int, host: str = "") -> list[HostSample]:
        """Return the samples that come from now on, once there are ``count``."""
        have = len(self.samples(host))
        wait_for(lambda: len(self.samples(host)) >= have + count)
        return self.samples(host)[have:]

    def close(self) -> None:
        self.is_stopping.set()
        self.bus.wake()
        self.thread.join()
        self.service.close()


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(hosts: dict[str, FakeHost]) -> Running:
        started.append(
            Running(lambda uri, _rule: hosts[uri.removeprefix("fake:///")].open(), **{n: f"fake:///{n}" for n in hosts})
        )
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_the_beat_is_steady_and_every_host_has_one_sample_an_interval(running: Callable[..., Running]) -> None:
    monitor = running({"a": FakeHost(), "b": FakeHost()})

    def last_ticks(host: str) -> list[int]:
        """Return in which interval each of a host's last samples came, from the first of them on."""
        at_s = [at for at, body in list(monitor.bus.published) if isinstance(body, HostSample) and body.host == host]
        return [round((at - at_s[-8:][0]) / INTERVAL_S) for at in at_s[-8:]]

    for host in ("a", "b"):  # a machine that is busy may delay a sample now and then
        wait_for(lambda host=host: last_ticks(host) == list(range(8)))


def test_ratios_come_with_the_second_sample(running: Callable[..., Running]) -> None:
    monitor = running({"a": FakeHost()})
    monitor.wait_samples(2)
    first, second = monitor.samples()[:2]
    assert first.cpu_ratios == (None, None)
    assert second.cpu_ratios == (pytest.approx(0.5, abs=0.1), pytest.approx(0.5, abs=0.1))


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_wall_clock_changes_no_figure(running: Callable[..., Running], jump_s: float) -> None:
    monitor = running({"a": FakeHost()})
    monitor.wait_samples(2)
    monitor.clock.wrong_s = jump_s
    for sample in monitor.wait_samples(3):
        assert sample.cpu_ratios == (pytest.approx(0.5, abs=0.1), pytest.approx(0.5, abs=0.1))
        assert sample.is_reachable and sample.interval_s == INTERVAL_S
    assert monitor.bus.of(Event) == []


def test_a_host_that_hangs_delays_no_other_and_is_unknown(running: Callable[..., Running]) -> None:
    hung = FakeHost(frozen=threading.Event())
    monitor = running({"a": FakeHost(), "b": hung})
    samples = monitor.wait_samples(5, "b")
    assert not any(sample.is_reachable for sample in samples)
    assert all(sample.is_reachable for sample in monitor.samples("a"))
    assert monitor.max_step_s < INTERVAL_S
    wait_for(lambda: [event.name for event in monitor.bus.of(Event)] == ["host-lost"])
    assert hung.frozen is not None
    hung.frozen.set()
    wait_for(lambda: monitor.samples("b")[-1].is_reachable)
    wait_for(lambda: [event.name for event in monitor.bus.of(Event)] == ["host-lost", "host-back"])


def test_a_domain_that_hangs_delays_no_other_and_is_unknown(running: Callable[..., Running]) -> None:
    host = FakeHost(hangs={"u0": threading.Event()})
    monitor = running({"a": host})
    samples = monitor.wait_samples(5)
    assert {sample.states for sample in samples} == {("unknown", "running")}
    assert all(sample.is_reachable and sample.cpu_ratios[0] is None for sample in samples)
    assert samples[-1].cpu_ratios[1] is not None
    assert host.asked["u0"] == 1
    host.hangs.pop("u0").set()
    wait_for(lambda: monitor.samples()[-1].states == ("running", "running"))


def test_a_listing_that_waits_delays_no_reading(running: Callable[..., Running]) -> None:
    host = FakeHost()
    monitor = running({"a": host})
    monitor.wait_samples(1)
    host.listing_hangs = threading.Event()
    samples = monitor.wait_samples(5)
    host.listing_hangs.set()
    assert all(sample.states == ("running", "running") and sample.is_reachable for sample in samples)


def test_a_host_that_refuses_is_tried_again_with_growing_pauses(running: Callable[..., Running]) -> None:
    host = FakeHost(is_lost=True)
    monitor = running({"a": host})
    samples = monitor.wait_samples(3)
    assert [sample.note for sample in samples] == ["cannot connect: refused"] * 3
    host.is_lost = False
    wait_for(lambda: monitor.samples()[-1].is_reachable)
    assert host.opened == 1


def test_a_lost_connection_is_made_anew_and_watched_at_once(running: Callable[..., Running]) -> None:
    host = FakeHost()
    monitor = running({"a": host})
    monitor.wait_samples(2)
    host.on_lost()
    wait_for(lambda: host.opened == 2)
    host.on_event(LifecycleEvent("web-0000", "u0", "failed", "failed"))
    wait_for(lambda: len(monitor.bus.of(Failure)) == 1)


def test_a_failure_is_published_within_milliseconds(running: Callable[..., Running]) -> None:
    host = FakeHost()
    monitor = running({"a": host})
    monitor.wait_samples(1)
    late_s = []
    for _ in range(20):
        watch = Stopwatch()
        count = len(monitor.bus.of(Failure))
        host.on_event(LifecycleEvent("web-0000", "u0", "failed", "failed"))
        wait_for(lambda have=count: len(monitor.bus.of(Failure)) > have)  # type: ignore[misc]
        late_s.append(watch.s())
        host.on_event(LifecycleEvent("web-0000", "u0", "started", "booted"))
    assert max(late_s) < 0.05, late_s


def test_a_storm_of_events_leaves_the_beat_alone(running: Callable[..., Running]) -> None:
    host = FakeHost()
    monitor = running({"a": host})
    monitor.wait_samples(1)
    storming = threading.Event()

    def storm() -> None:
        pause = threading.Event()
        for _ in range(100):
            for kind in ("stopped", "started") * 5:
                host.on_event(LifecycleEvent("web-0000", "u0", kind, ""))
            pause.wait(0.01)
        storming.set()

    threading.Thread(target=storm).start()
    assert storming.wait(60)
    at_s = [at for at, body in monitor.bus.published if isinstance(body, HostSample)]
    assert max(after - before for before, after in pairwise(at_s)) < 2 * INTERVAL_S
    assert 1 <= len(monitor.bus.of(Failure)) <= 500


def test_foreign_domains_are_neither_sampled_nor_told(running: Callable[..., Running]) -> None:
    host = FakeHost(domains={"u0": "web-0000", "u9": "website"})
    monitor = running({"a": host})
    host.on_event(LifecycleEvent("website", "u9", "failed", "failed"))
    assert {sample.names for sample in monitor.wait_samples(2)} == {("web-0000",)}
    assert monitor.bus.of(Failure) == []


def test_a_request_is_answered_with_an_error(running: Callable[..., Running]) -> None:
    monitor = running({"a": FakeHost()})
    replies: list[Reply] = []

    class Asked:
        request = Request(verb="dance")

        def reply(self, reply: Reply) -> None:
            replies.append(reply)

    monitor.close()
    monitor.service.step(Inbox((), (cast(PendingRequest, Asked()),)), CLOCK.monotonic_s())
    assert replies == [Reply(status="error", reason="the monitor knows no verb 'dance'")]


def test_more_domains_that_hang_than_lanes_leave_the_host_unknown_but_not_stuck() -> None:
    names = {f"u{number}": f"web-{number:04d}" for number in range(MAX_LANES + 2)}
    release = threading.Event()
    host = FakeHost(domains=names, hangs=dict.fromkeys(names, release), listing_hangs=release)
    sweep = Sweep("a", host, CLOCK)
    rounds = []
    for _ in range(MAX_LANES):
        start_s = CLOCK.monotonic_s()
        rounds.append(sweep.readings(0.2))
        assert CLOCK.monotonic_s() - start_s < 0.5
    assert rounds[-1] is None
    release.set()
    wait_for(lambda: len(sweep.readings(0.2) or ()) == len(names))
    sweep.close()


# --- with a real daemon ------------------------------------------------------------------------------------------


@pytest.fixture
def daemon() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest.fixture
def watching(daemon: PrivateLibvirtd) -> Iterator[Running]:
    monitor = Running(lambda _uri, _rule: daemon.connect(is_read_only=True), local=daemon.uri)
    yield monitor
    daemon.thaw()
    monitor.close()


@pytest.mark.fault(38)
def test_after_a_restart_of_libvirtd_events_come_again_and_the_vanished_are_told(
    daemon: PrivateLibvirtd, watching: Running, row: Proof
) -> None:
    names = ("hvtest-0000", "hvtest-0001")
    uuids = ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001")
    watching.wait_samples(1)
    writer = daemon.connect()
    for name, uuid in zip(names, uuids, strict=True):
        writer.define(test_domain(name, uuid_text=uuid))
        writer.start(name)
    wait_for(lambda: watching.samples()[-1].states == ("running", "running"))
    writer.close()
    daemon.stop()
    wait_for(lambda: [event.name for event in watching.bus.of(Event)] == ["host-lost"])
    daemon.start()
    start_s = CLOCK.monotonic_s()
    wait_for(lambda: watching.samples()[-1].is_reachable)
    row.measured("the monitor has listed all again", CLOCK.monotonic_s() - start_s, at_most=5.0)
    vanished = {(name, "stopped") for name in names}
    wait_for(lambda: {(failure.domain, failure.reason) for failure in watching.bus.of(Failure)} == vanished)
    row.held("who is gone since is told by the listing")
    writer = daemon.connect()
    writer.define(test_domain(names[0], uuid_text=uuids[0]))
    for told in range(3, 13):  # a listing may be quicker than the event, once; where no events come it always is
        writer.start(names[0])
        wait_for(lambda: watching.samples()[-1].states == ("running",))
        writer.destroy(names[0])
        wait_for(lambda told=told: len(watching.bus.of(Failure)) == told)
        if watching.bus.of(Failure)[-1].detail == "destroyed":
            break
    assert watching.bus.of(Failure)[-1].detail == "destroyed"
    row.held("callbacks are registered anew: the next end is told by its event")
    writer.close()


@pytest.mark.fault(39)
def test_a_frozen_libvirtd_makes_its_host_unknown_until_it_goes_on(
    daemon: PrivateLibvirtd, watching: Running, row: Proof
) -> None:
    wait_for(lambda: bool(watching.samples()) and watching.samples()[-1].is_reachable)
    daemon.freeze()
    start_s = CLOCK.monotonic_s()
    wait_for(lambda: not watching.samples()[-1].is_reachable)
    row.measured(
        "the monitor, with 0.4 s between samples, knows nothing", CLOCK.monotonic_s() - start_s, 2 * INTERVAL_S
    )
    assert not any(sample.is_reachable for sample in watching.wait_samples(3))
    daemon.thaw()
    wait_for(lambda: watching.samples()[-1].is_reachable)
    assert watching.bus.of(Failure) == []


class Losing(Connection):
    """A connection on which the first word of a domain's end is lost."""

    lost = 0

    def _on_lifecycle(self, conn: Any, domain: Any, event: int, detail: int, opaque: None) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and not self.lost:
            self.lost += 1
        else:
            super()._on_lifecycle(conn, domain, event, detail, opaque)


@pytest.fixture
def losing(daemon: PrivateLibvirtd) -> Iterator[Losing]:
    """A connection of the monitor's or the actuator's that loses one event."""
    connection = Losing.open(daemon.uri, is_read_only=True, may_touch=is_ours)
    assert isinstance(connection, Losing)
    yield connection
    connection.close()


@pytest.fixture
def writer(daemon: PrivateLibvirtd) -> Iterator[Connection]:
    """Somebody who changes domains; ``hvtest-0000`` runs."""
    writer = daemon.connect()
    writer.define(test_domain("hvtest-0000"))
    writer.start("hvtest-0000")
    yield writer
    writer.close()


@pytest.mark.fault(53)
def test_an_end_whose_event_is_lost_is_told_by_the_next_list(
    daemon: PrivateLibvirtd, losing: Losing, writer: Connection, row: Proof
) -> None:
    monitor = Running(lambda _uri, _rule: losing, local=daemon.uri)
    try:
        took_s = []
        for count in (1, 2):
            writer.start("hvtest-0000")
            wait_for(lambda: bool(monitor.samples()) and monitor.samples()[-1].states == ("running",))
            start_s = CLOCK.monotonic_s()
            writer.destroy("hvtest-0000")
            wait_for(lambda count=count: len(monitor.bus.of(Failure)) == count)
            took_s.append(CLOCK.monotonic_s() - start_s)
            assert losing.lost == 1
    finally:
        monitor.close()
    assert [failure.domain for failure in monitor.bus.of(Failure)] == ["hvtest-0000"] * 2
    row.measured("told by the monitor, which lists every 0.4 s", took_s[0], at_most=INTERVAL_S + 0.2)
    print(f"  with its event: {took_s[1]:.3f} s")


def seen_by_worker(connection: Connection, tick_s: float, reports: list[Report]) -> HostWorker:
    """Start the actuator's threads for this host; what they report is appended."""
    changed = lambda host, look: host.watch(lambda _event: look(), look)  # noqa: E731
    access = Access(open=lambda: connection, watch=changed, prepare=lambda _host: "test")  # type: ignore[arg-type, return-value]
    worker = HostWorker("local", access, CLOCK, tick_s, reports.append)
    worker.start()
    return worker


def power(reports: list[Report]) -> DomainState | None:
    """Return the state of the only domain at the last look."""
    looks = [report for report in list(reports) if isinstance(report, Observation)]
    return looks[-1].domains[0].state if looks else None


@pytest.mark.fault(53)
def test_a_change_whose_event_is_lost_is_seen_at_the_actuators_next_look(
    losing: Losing, writer: Connection, row: Proof
) -> None:
    reports: list[Report] = []
    worker = seen_by_worker(losing, INTERVAL_S, reports)
    try:
        wait_for(lambda: power(reports) is DomainState.RUNNING)
        start_s = CLOCK.monotonic_s()
        writer.destroy("hvtest-0000")
        wait_for(lambda: power(reports) is DomainState.SHUTOFF)
        took_s = CLOCK.monotonic_s() - start_s
        wait_for(lambda: losing.lost == 1)
    finally:
        worker.stop()
    row.measured("seen by the actuator, which looks every 0.4 s", took_s, at_most=INTERVAL_S + 0.2)


STORM_S = 5.0
STORM_RATE = 1000.0  # at least so many events a second
BEAT_S = 1.0  # between two samples, as by default
STORMING = "hvtest-0001"


@pytest.fixture
def storm(daemon: PrivateLibvirtd) -> Iterator[Callable[[], float]]:
    """What blows once, from a process of its own, and returns how many events there were a second."""
    writer = daemon.connect()
    writer.define(test_domain(STORMING))
    writer.start(STORMING)
    words = (daemon.uri, STORMING, str(STORM_RATE), str(STORM_S))
    command = [sys.executable, "-m", "tests.integration.storm", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"

    def blow() -> float:
        told, _ = process.communicate("now\n", timeout=60)
        return float(told)

    yield blow
    process.kill()
    process.wait()
    writer.close()


def latest_s(at_s: list[float]) -> float:
    """Return by how much the latest of these beats, which are due every ``BEAT_S``, was late."""
    return max(0.0, max(after - before for before, after in pairwise(at_s)) - BEAT_S)


@pytest.mark.fault(52)
def test_a_thousand_events_a_second_leave_the_monitors_beat_alone(
    daemon: PrivateLibvirtd, storm: Callable[[], float], row: Proof
) -> None:
    open_reader = lambda _uri, _rule: daemon.connect(is_read_only=True)  # noqa: E731
    monitor = Running(open_reader, interval_s=BEAT_S, local=daemon.uri)
    try:
        wait_for(lambda: bool(monitor.samples()) and "running" in monitor.samples()[-1].states)
        rate = storm()
        monitor.wait_samples(1)
    finally:
        monitor.close()
    assert rate >= STORM_RATE and len(monitor.bus.of(Failure)) > STORM_S
    at_s = [at for at, body in monitor.bus.published if isinstance(body, HostSample)]
    row.measured(f"{rate:.0f} events/s: the monitor's latest tick, late by", latest_s(at_s), at_most=BEAT_S)


@pytest.mark.fault(52)
def test_a_thousand_events_a_second_are_merged_by_the_actuator(
    daemon: PrivateLibvirtd, storm: Callable[[], float], row: Proof
) -> None:
    reports: list[Report] = []
    worker = seen_by_worker(daemon.connect(), BEAT_S, reports)
    try:
        wait_for(lambda: power(reports) is DomainState.RUNNING)
        begin_s = CLOCK.monotonic_s()
        rate = storm()
        over_s, count = CLOCK.monotonic_s(), len(reports)
        wait_for(lambda: len(reports) > count)
    finally:
        worker.stop()
    at_s = [report.started_s for report in list(reports) if isinstance(report, Observation)]
    looks = sum(begin_s <= at <= over_s for at in at_s) / (over_s - begin_s)
    assert rate >= STORM_RATE
    row.measured(f"merged: {rate:.0f} events/s, looks of the actuator a second", looks, 1 / LOOK_GAP_S, "")
    row.measured("the actuator's latest look, late by", latest_s(at_s), at_most=BEAT_S)
