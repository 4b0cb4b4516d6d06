"""The threads of a host, with fake hosts that hang, fail and come back; the prober against real sockets."""

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from common.clock import SystemClock
from common.domain import DiskTrouble, DomainFacts, DomainState
from common.errors import HypervisorError, HypervisorLostError
from common.phases import Phase
from common.virt.addresses import Candidate, Rule, Source
from services.actuator.addresses import Found
from services.actuator.core.record import Record
from services.actuator.core.steps import Destroy, SetPhase, SetQuota, Start, Step, Suspend, Wake
from services.actuator.perform import Outcome, Result
from services.actuator.prober import Prober, Target
from services.actuator.worker import LOOK_GAP_S, Access, HostWorker, Lost, Observation, Prepared, Report
from tests.faults.proof import Proof

CLOCK = SystemClock()
METADATA = {"group": "web"}
SOURCES: Mapping[str, Rule] = {"web-0000": Rule(Source.ARP)}
RECORD = Record(group="web", uuid="u", host="a", phase=Phase.READY, since_mono_s=0.0, since_s=0.0, boot_id="b")


def step(kind: type[Step], name: str, **values: object) -> Step:
    return kind(group="web", host="a", domain=name, uuid=f"u-{name}", reason="", **values)  # type: ignore[arg-type] # a test's values


class FakeHost:
    """Shows domains; each call may be made to wait for an event or to fail."""

    def __init__(self, names: tuple[str, ...] = ("web-0000", "web-0001")) -> None:
        self.names = names
        self.looks = 0
        self.peeks: list[str] = []
        self.peeked = METADATA
        self.is_lost = False
        self.hang: dict[str, threading.Event] = {}
        self.lookup_error: HypervisorError | None = None
        self.hurt: dict[str, str] = {}
        self.disks_asked: list[str] = []
        self.bug: Exception | None = None

    def _wait(self, call: str) -> None:
        if call in self.hang:
            self.hang[call].wait(30)
        if self.is_lost:
            raise HypervisorLostError("gone")
        if call == "start" and self.bug is not None:
            raise self.bug

    def domains(self) -> list[DomainFacts]:
        self.looks += 1
        self._wait("domains")
        states = {name: (DomainState.PAUSED if name in self.hurt else DomainState.RUNNING) for name in self.names}
        return [DomainFacts(n, f"u-{n}", s, self.hurt.get(n, ""), True, METADATA) for n, s in states.items()]

    def disk_troubles(self, name: str) -> tuple[DiskTrouble, ...]:
        self.disks_asked.append(name)
        self._wait(f"disks of {name}")
        if self.lookup_error is not None:
            raise self.lookup_error
        return (DiskTrouble("vda", f"/pool/{name}", True),)

    def facts(self, name: str) -> DomainFacts | None:
        self.peeks.append(name)
        return DomainFacts(name, f"u-{name}", DomainState.RUNNING, "", True, self.peeked)

    def start(self, name: str, uuid: str) -> None:
        self._wait("start")

    def destroy(self, name: str, uuid: str) -> None:
        self._wait("destroy")

    def suspend(self, name: str, uuid: str) -> None:
        pass

    def resume(self, name: str, uuid: str) -> None:
        pass

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool:
        return False

    def set_quota(self, name: str, uuid: str, cpu_quota: float | None) -> None:
        pass

    def set_metadata(self, name: str, uuid: str, metadata: Mapping[str, str]) -> None:
        pass

    def addresses(self, name: str, rule: Rule) -> tuple[Candidate, ...]:
        if "addresses" in self.hang:
            self.hang["addresses"].wait(30)
        if self.lookup_error is not None:
            raise self.lookup_error
        return (Candidate("10.0.0.1", "52:54:00:00:00:01"), Candidate("10.0.0.2", "52:54:00:00:00:01"))

    def free_memory_bytes(self) -> int:
        return 1 << 30

    def host_cpus(self) -> int:
        return 2

    def is_alive(self) -> bool:
        return not self.is_lost

    def close(self) -> None:
        pass


class Reports:
    """What workers reported, with a way to wait for one."""

    def __init__(self) -> None:
        self.all: list[Report] = []
        self._news = threading.Condition()

    def __call__(self, report: Report) -> None:
        with self._news:
            self.all.append(report)
            self._news.notify_all()

    def wait_for(self, is_it: Callable[[Report], bool], limit_s: float = 20.0) -> Report:
        with self._news:
            found = self._news.wait_for(lambda: next((r for r in self.all if is_it(r)), None), limit_s)
        assert found is not None, self.all
        return found


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def workers(reports: Reports) -> Iterator[Callable[[str, FakeHost], HostWorker]]:
    started: list[HostWorker] = []

    def start(name: str, host: FakeHost, tick_s: float = 0.2, **changes: object) -> HostWorker:
        values: dict[str, object] = {
            "open": lambda: host,
            "watch": lambda _host, _look: None,
            "prepare": lambda _host: "qemu",
        }
        worker = HostWorker(name, Access(**(values | changes)), CLOCK, tick_s, reports)  # type: ignore[arg-type] # a fake host
        worker.start()
        started.append(worker)
        return worker

    yield start  # type: ignore[misc] # the keywords are for tests
    for worker in started:
        worker.stop()


def is_outcome(name: str) -> Callable[[Report], bool]:
    return lambda report: isinstance(report, Outcome) and report.step.domain == name


def test_hung_host_delays_no_other(workers: Callable[..., HostWorker], reports: Reports) -> None:
    hung, well = FakeHost(), FakeHost()
    hung.hang["domains"] = threading.Event()
    workers("hung", hung)
    workers("well", well)
    reports.wait_for(lambda r: isinstance(r, Observation) and r.host == "well")
    assert not any(isinstance(r, Observation) and r.host == "hung" for r in reports.all)
    hung.hang["domains"].set()
    reports.wait_for(lambda r: isinstance(r, Observation) and r.host == "hung")


def told_disks(report: Report) -> bool:
    return isinstance(report, Observation) and bool(report.troubles)


def test_disk_errors_are_asked_of_those_that_one_has_paused_and_told_with_the_next_look(
    workers: Callable[..., HostWorker], reports: Reports
) -> None:
    host = FakeHost()
    host.hurt = {"web-0001": "ioerror", "web-0000": "user"}
    workers("a", host)
    report = reports.wait_for(told_disks)
    assert isinstance(report, Observation)
    assert report.troubles == {"web-0001": (DiskTrouble("vda", "/pool/web-0001", True),)}
    assert host.disks_asked == ["web-0001"]


def test_disks_that_cannot_be_asked_about_keep_nobody_from_looking(
    workers: Callable[..., HostWorker], reports: Reports
) -> None:
    host = FakeHost()
    host.hurt, host.hang = {"web-0000": "ioerror"}, {"disks of web-0000": threading.Event()}
    workers("a", host)
    reports.wait_for(lambda report: isinstance(report, Observation) and host.looks > 3)
    host.lookup_error = HypervisorError("no answer from QEMU")
    host.hang["disks of web-0000"].set()
    looks = host.looks
    reports.wait_for(lambda report: isinstance(report, Observation) and host.looks > looks + 2)
    assert not any(told_disks(report) for report in reports.all) and host.disks_asked == ["web-0000"]


def test_slow_destroys_delay_no_other_step(workers: Callable[..., HostWorker], reports: Reports) -> None:
    host = FakeHost()
    host.hang["destroy"] = threading.Event()
    worker = workers("a", host)
    reports.wait_for(lambda r: isinstance(r, Observation))
    for name in ("web-0000", "web-0000", "web-0000"):
        worker.submit(step(Destroy, name))
    worker.submit(step(Start, "web-0001"))
    assert reports.wait_for(is_outcome("web-0001")) is not None
    assert not any(is_outcome("web-0000")(report) for report in reports.all)
    host.hang["destroy"].set()
    reports.wait_for(is_outcome("web-0000"))


@pytest.mark.parametrize(
    "quick",
    [
        step(SetQuota, "web-0001", record=RECORD, cpu_quota=1.0, is_raised=True),
        step(SetPhase, "web-0001", record=RECORD, was=Phase.WARMING),
        step(Suspend, "web-0001", is_standby=True),
        step(Wake, "web-0001", tier="paused", record=RECORD, otherwise=RECORD),
    ],
    ids=lambda quick: type(quick).__name__,
)
def test_slow_starts_delay_nothing_that_takes_milliseconds(
    workers: Callable[..., HostWorker], reports: Reports, quick: Step
) -> None:
    host = FakeHost()
    host.hang["start"] = threading.Event()
    worker = workers("a", host)
    reports.wait_for(lambda r: isinstance(r, Observation))
    for _ in range(10):
        worker.submit(step(Start, "web-0000"))
    worker.submit(quick)
    reports.wait_for(is_outcome("web-0001"))
    assert not any(is_outcome("web-0000")(report) for report in reports.all)
    host.hang["start"].set()


def test_an_error_that_nobody_expects_fails_its_step_and_no_other(
    workers: Callable[..., HostWorker], reports: Reports
) -> None:
    host = FakeHost()
    host.bug = OSError(28, "No space left on device")
    worker = workers("a", host)
    reports.wait_for(lambda r: isinstance(r, Observation))
    for number in range(10):
        worker.submit(step(Start, f"web-{number:04d}"))
    last = reports.wait_for(is_outcome("web-0009"))
    assert isinstance(last, Outcome)
    assert (last.result, last.error) == (Result.FAILED, "OSError: [Errno 28] No space left on device")
    host.bug = None
    worker.submit(step(Start, "web-0010"))
    after = reports.wait_for(is_outcome("web-0010"))
    assert isinstance(after, Outcome) and after.result is Result.DONE


def test_no_listing_is_begun_while_a_destroy_is_under_way(workers: Callable[..., HostWorker], reports: Reports) -> None:
    host = FakeHost()
    host.hang["destroy"] = threading.Event()
    worker = workers("a", host, tick_s=0.1)
    reports.wait_for(lambda r: isinstance(r, Observation))
    worker.submit(step(Destroy, "web-0000"))
    reports.wait_for(lambda r: "web-0001" in host.peeks)
    looks, mark = host.looks, len(reports.all)
    late = reports.wait_for(lambda r: isinstance(r, Observation) and r in reports.all[mark + 2 :])
    assert host.looks == looks and isinstance(late, Observation)
    assert [facts.name for facts in late.domains] == ["web-0000", "web-0001"]
    host.hang["destroy"].set()
    reports.wait_for(lambda r: host.looks > looks)


def test_a_dying_domain_is_shown_as_it_was_when_its_end_began(
    workers: Callable[..., HostWorker], reports: Reports
) -> None:
    host = FakeHost()
    host.hang["destroy"] = threading.Event()
    worker = workers("a", host, tick_s=0.1)
    reports.wait_for(lambda r: isinstance(r, Observation))
    host.peeked = {"group": "web", "phase": "failed"}  # since the last listing
    worker.submit(step(Destroy, "web-0000"))
    reports.wait_for(lambda r: isinstance(r, Observation) and r.domains[0].metadata == host.peeked)
    host.hang["destroy"].set()


def test_lost_host_is_told_and_connected_again(workers: Callable[..., HostWorker], reports: Reports) -> None:
    first, second = FakeHost(), FakeHost()
    hosts = iter([first, second])
    workers("a", first, open=lambda: next(hosts))
    reports.wait_for(lambda r: isinstance(r, Observation))
    first.is_lost = True
    reports.wait_for(lambda r: isinstance(r, Lost))
    mark = len(reports.all)
    reports.wait_for(lambda r: isinstance(r, Observation) and r in reports.all[mark:])
    assert second.looks > 0


def test_host_that_cannot_be_reached_is_tried_again(workers: Callable[..., HostWorker], reports: Reports) -> None:
    answers: list[HypervisorError | None] = [HypervisorLostError("refused"), HypervisorLostError("refused"), None]

    def connect() -> FakeHost:
        error = answers.pop(0)
        if error is not None:
            raise error
        return FakeHost()

    workers("a", FakeHost(), open=connect)
    reports.wait_for(lambda r: isinstance(r, Observation))
    assert sum(1 for r in reports.all if isinstance(r, Lost)) == 2


def test_step_without_a_connection_ends_unknown(workers: Callable[..., HostWorker], reports: Reports) -> None:
    def refuse() -> FakeHost:
        raise HypervisorLostError("refused")

    worker = workers("a", FakeHost(), open=refuse)
    worker.submit(step(Start, "web-0000"))
    outcome = reports.wait_for(is_outcome("web-0000"))
    assert isinstance(outcome, Outcome) and outcome.result is Result.UNKNOWN


def test_preparation_that_fails_is_told_with_its_reason(workers: Callable[..., HostWorker], reports: Reports) -> None:
    def prepare(_host: object) -> str:
        raise HypervisorError("the bridge is taken")

    workers("a", FakeHost(), prepare=prepare)
    assert reports.wait_for(lambda r: isinstance(r, Prepared)) == Prepared("a", None, "the bridge is taken")


def test_storm_of_events_is_coalesced(workers: Callable[..., HostWorker], reports: Reports) -> None:
    host = FakeHost()
    worker = workers("a", host, tick_s=60.0)
    reports.wait_for(lambda r: isinstance(r, Observation))
    before = host.looks
    for _ in range(1000):
        worker.look()
    reports.wait_for(lambda r: isinstance(r, Observation) and host.looks > before)
    asked_s = CLOCK.monotonic_s()
    for _ in range(3):  # each is answered after those of the storm
        looks = host.looks
        worker.look()
        reports.wait_for(lambda r, looks=looks: isinstance(r, Observation) and host.looks > looks)
    assert host.looks - before <= 3 + 3
    assert CLOCK.monotonic_s() - asked_s < 997 * LOOK_GAP_S


def test_addresses_of_user_domains_are_found_and_kept(workers: Callable[..., HostWorker], reports: Reports) -> None:
    host = FakeHost()
    host.lookup_error = HypervisorError("no agent")
    worker = workers("a", host, sources=SOURCES.get)
    reports.wait_for(lambda r: isinstance(r, Observation) and r.addresses == {})
    host.lookup_error = None
    reports.wait_for(lambda r: isinstance(r, Observation) and r.addresses == {"web-0000": Found("10.0.0.1")})
    worker.doubt(frozenset({"u-web-0000"}))
    reports.wait_for(lambda r: isinstance(r, Observation) and r.addresses == {"web-0000": Found("10.0.0.2")})


def test_an_agent_that_hangs_holds_up_no_look(workers: Callable[..., HostWorker], reports: Reports) -> None:
    host = FakeHost()
    host.hang["addresses"] = threading.Event()
    workers("a", host, sources=SOURCES.get)
    reports.wait_for(lambda r: isinstance(r, Observation) and host.looks > 5)
    host.hang["addresses"].set()


class Guest(BaseHTTPRequestHandler):
    """Answers as ``name`` of its server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Served-By", self.server.guest_name)  # type: ignore[attr-defined] # set below
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.fault(58, 59)
def test_prober_finds_who_answers_and_tells_at_once(row: Proof) -> None:
    server = HTTPServer(("127.0.0.1", 0), Guest)
    server.guest_name = "web-0001"  # type: ignore[attr-defined] # for the handler
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    told = threading.Event()
    prober = Prober(told.set, threads=2)
    try:
        port = server.server_address[1]
        right, wrong = ("web-0001", "u1"), ("web-0002", "u2")
        prober.aim({right: Target("web-0001", "127.0.0.1", port), wrong: Target("web-0002", "127.0.0.1", port)})
        until_s = CLOCK.monotonic_s() + 20
        while len(prober.results()) < 2 and CLOCK.monotonic_s() < until_s:
            told.wait(0.5)
            told.clear()
        results = prober.results()
        assert results[right].is_right
        assert (results[wrong].is_right, results[wrong].answered) == (False, "web-0001")
        row.held("whoever answers at an address is asked who it is: another one's answer is none, and is named")
        prober.aim({})
        assert prober.results() == {}
    finally:
        prober.stop()
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_closed_port_is_no_answer(protocol: str) -> None:
    told = threading.Event()
    prober = Prober(told.set, threads=1)
    try:
        prober.aim({("x", "u"): Target("x", "127.0.0.1", 1, protocol=protocol)})
        assert told.wait(20)
        assert not prober.results()[("x", "u")].is_right
    finally:
        prober.stop()
