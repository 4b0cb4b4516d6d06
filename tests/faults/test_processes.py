"""Processes that are killed, stopped, missing or starved, in an installation of two domains under a stream of GETs."""

import http.client
import json
import os
import random
import re
import resource
import select
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from common.bus import Bus
from common.messages import HostSample, ServiceStatus
from common.messaging.inbox import Received
from common.process import LINGER_S
from tests.e2e.service import Service, in_service
from tests.e2e.test_faults import supervisor
from tests.e2e.whole import CLOCK, Whole
from tests.e2e.world import World, now_s, wait_until
from tests.faults.proof import Proof
from tests.waiting import queued_s

METRICS = "127.0.0.1:19560"
IN_WINDOW_S = 10.0
FULL_RATIO = 1.05  # of what is allotted: a little more, by how exactly QEMU's time is counted
STOP_S = 5.0  # so long after it has asked a service to end, supervisord kills it
SLOW_S = 25
TRIES = 4
RESTART_S = 10.0
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service(make_world: Callable[..., World]) -> Iterator[Service]:
    """Return a running installation of two domains."""
    bounds = {"minimum": "2", "maximum": "3", "cooldown_in_s": "1.0", "in_window_s": str(IN_WINDOW_S)}
    with in_service(make_world("asfp", 60, metrics=METRICS, **bounds), 2) as service:
        yield service


@pytest.fixture
def whole(service: Service) -> Whole:
    """Return it once it is whole, whatever the test before has left."""
    if not whole_services(service.whole):
        service.world.autoscaler("up")
    service.whole.converge("two domains in rotation")
    service.whole.steady.failures.clear()
    return service.whole


def whole_services(whole: Whole) -> bool:
    return whole.processes().keys() >= set(whole.config.services)


class Heard:
    """What services say on the bus while a test looks."""

    def __init__(self, whole: Whole, service: str, *kinds: str) -> None:
        self.messages: list[tuple[float, Received]] = []
        self._bus = Bus.open(whole.config, "operator", CLOCK, publishes=False)
        self._bus.subscribe(service, *kinds)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Heard":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._bus.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            self.messages += [(now_s(), message) for message in self._bus.receive(0.05).messages]

    def next_one(self, but: int) -> tuple[float, Received, ServiceStatus] | None:
        """Return the first status of a process that is not ``but``, and when it came."""
        for at_s, message in tuple(self.messages):
            if isinstance(message.body, ServiceStatus) and message.body.pid != but:
                return at_s, message, message.body
        return None

    def samples(self, run: int) -> list[HostSample]:
        """Return the samples of one run of the monitor."""
        found = [message.body for _, message in tuple(self.messages) if message.header.run_id == run]
        return [body for body in found if isinstance(body, HostSample)]


def others(whole: Whole, *names: str) -> dict[str, list[int]]:
    """Return all processes but those of ``names``."""
    return {kind: whole.pids(kind) for kind in whole.processes() if kind not in names}


class End:
    """How long a process takes to end from now on, without the time in which a busy machine had no processor for it."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self._pid, self._door = name, pid, os.pidfd_open(pid)
        self._begin_s, self._before_s = now_s(), queued_s(pid)
        self._waited_s, self.took_s = 0.0, -1.0

    def has_come(self) -> bool:
        """Return whether it has; to be asked often, for what a process waited is told only until it is gone."""
        if self.took_s < 0:
            with suppress(OSError, IndexError):
                self._waited_s = queued_s(self._pid) - self._before_s
            if select.select([self._door], [], [], 0)[0]:
                self.took_s = now_s() - self._begin_s - self._waited_s
                os.close(self._door)
        return self.took_s >= 0


def ratio_of(sample: HostSample, uuid: str) -> float | None:
    return sample.cpu_ratios[sample.uuids.index(uuid)] if uuid in sample.uuids else None


@pytest.mark.fault(1)
def test_a_killed_monitor_is_back_and_takes_no_counter_that_begins_anew_for_a_spike(whole: Whole, row: Proof) -> None:
    pid = whole.pid("monitor")
    with Heard(whole, "monitor", "sample", "service") as heard, whole.fault("SIGKILL to the monitor", boots=2):
        supervisord = whole.pid("supervisord")
        begin_s, waited_s = CLOCK.monotonic_s(), queued_s(supervisord)
        os.kill(pid, signal.SIGKILL)
        _, message, status = wait_until(lambda: heard.next_one(pid), PATIENCE_S, "the next monitor", every_s=0.02)
        waited_s = queued_s(supervisord) - waited_s + queued_s(status.pid)
        row.measured("it runs again and says so", message.header.mono_s - begin_s - waited_s, at_most=2.0)
        run = message.header.run_id
        wait_until(lambda: len(heard.samples(run)) >= 3, PATIENCE_S, "samples")
        first, second, *_ = heard.samples(run)
        assert set(first.cpu_ratios) == {None}
        assert len(second.cpu_ratios) == 2 and None not in second.cpu_ratios
        row.held("a rate is known with the second sample, of every domain")
        victim = whole.ready()[0]
        with whole.stopped(whole.pid("actuator")):
            domain = whole.domain(victim["name"])
            domain.destroy()
            domain.create()
            told = len(heard.samples(run))
            anew = lambda: [ratio_of(sample, victim["uuid"]) for sample in heard.samples(run)[told:]]  # noqa: E731
            wait_until(lambda: len([ratio for ratio in anew() if ratio is not None]) >= 3, PATIENCE_S, "rates again")
        assert None in anew()
        seen = [ratio for sample in heard.samples(run) for ratio in sample.cpu_ratios if ratio is not None]
        assert max(seen) <= FULL_RATIO, seen
        row.held(
            f"a counter that began anew is unknown at first, and no rate was above {max(seen):.0%} of the allotment"
        )


@pytest.mark.fault(2)
def test_without_its_decider_the_group_keeps_its_size(whole: Whole, row: Proof) -> None:
    owned, group, sent = whole.owned(), whole.group(), whole.steady.sent
    with whole.fault("SIGKILL to the decider", boots=0):
        os.kill(whole.pid("decider"), signal.SIGKILL)
        wait_until(lambda: "decider" not in whole.processes(), PATIENCE_S, "its end", every_s=0.01)
    assert (whole.owned(), whole.group()["desired"]) == (owned, group["desired"])
    row.held(f"the same {len(owned)} domains; none of {whole.steady.sent - sent} GETs failed")


@pytest.mark.fault(6)
def test_a_killed_plotter_is_noticed_by_nobody(whole: Whole, row: Proof) -> None:
    before, owned, pid = others(whole, "plotter"), whole.owned(), whole.pid("plotter")
    with whole.fault("SIGKILL to the plotter", boots=0):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in whole.pids("plotter"), PATIENCE_S, "its end")
    assert (others(whole, "plotter"), whole.owned()) == (before, owned)
    row.held("the plotter is killed: every other process and each domain is the same, and no GET failed")


WAITS = {  # for whom somebody waits even while the group is as large as it is to be, and who says it how
    "monitor": ("why", "no fresh CPU figure of 2 of 2 ready domains"),
    "decider": ("blocked", "no desired capacity has been heard yet"),
    "actuator": ("why", "no fresh membership from the actuator"),
}


@pytest.mark.fault(12)
def test_started_in_any_order_and_without_any_one_services_wait_and_say_for_what(whole: Whole, row: Proof) -> None:
    """Those that nobody waits for are missing in one go with one that somebody does."""
    programs, dice = supervisor(whole).supervisor, random.Random(12)
    names = list(whole.config.services)
    states = lambda: {p["name"]: p["statename"] for p in programs.getAllProcessInfo() if p["name"] in names}  # noqa: E731
    for missing in (["monitor", "plotter"], ["decider", "recorder"], ["actuator", "exporter"], ["balancer"], []):
        order = dice.sample([name for name in names if name not in missing], len(names) - len(missing))
        with whole.fault(f"started in the order {', '.join(order)}", boots=0):
            for name in names:
                programs.stopProcess(name, False)
            wait_until(lambda: set(states().values()) == {"STOPPED"}, PATIENCE_S, "the end of all")
            for name in order:
                programs.startProcess(name, False)
            begun = wait_until(lambda wanted=set(order): all_heard(whole, wanted), PATIENCE_S, "all that were started")
            waits_s = now_s() + 3 * LINGER_S / 2  # who ends at its start does so and is back, within that
            for field, words in [WAITS[name] for name in missing if name in WAITS]:
                wait_until(lambda at=field, say=words: say in (whole.group()[at] or ""), PATIENCE_S, words)
            wait_until(lambda until=waits_s: now_s() >= until, PATIENCE_S, "time to end again")
            again = wait_until(lambda wanted=set(order): all_heard(whole, wanted), PATIENCE_S, "all of them still")
            assert again == begun, "one has ended meanwhile"
            for name in missing:
                programs.startProcess(name, False)
        print(f"  without {missing}: {len(order)} services wait as the processes that they began as")
    row.held(f"in 5 orders all of {len(names)} services come up, without ending")
    row.held(
        "without the monitor, the decider or the actuator, `status` says who is silent and what is missing for that"
    )
    row.held("without the balancer, plotter, recorder or exporter the others go on; no GET failed")


def all_heard(whole: Whole, names: set[str]) -> dict[str, int]:
    """Return the process of each service if those of these names speak, and no other; else nothing."""
    found = {entry["name"]: entry["pid"] for entry in whole.status()["services"] if entry["alive"]}
    return found if found.keys() == names else {}


def metric(name: str) -> float:
    """Return what the exporter says."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


@pytest.mark.fault(14)
def test_a_service_that_ends_at_each_start_is_tried_again_without_end_and_the_others_work(
    whole: Whole, row: Proof
) -> None:
    """The recorder finds a directory where its lock is to be."""
    lock, log = whole.config.system.run_path / "recorder.lock", whole.world.state_dir / "log" / "recorder.log"
    before, victim = others(whole, "recorder"), whole.ready()[0]

    def tries_s() -> list[float]:
        said = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        return [datetime.fromisoformat(e["timestamp"]).timestamp() for e in said if e["event"] == "cannot-run"]

    with whole.fault("the recorder ends at each start, a QEMU killed"):
        lock.unlink()
        lock.mkdir()
        os.kill(whole.pid("recorder"), signal.SIGKILL)
        whole.kill_qemu(victim["name"])
        is_replaced = lambda: victim["uuid"] not in whole.owned().values() and len(whole.ready()) == 2  # noqa: E731
        wait_until(is_replaced, 2 * PATIENCE_S, "a replacement")
        wait_until(lambda: len(tries_s()) >= TRIES, TRIES * RESTART_S, "some tries")
        wait_until(lambda: metric('autoscaler_service_up{service="recorder"}') == 0, PATIENCE_S, "its metric")
        begin = now_s()
        lock.rmdir()
        wait_until(lambda: any(s["name"] == "recorder" and s["alive"] for s in whole.status()["services"]), 30, "it")
        row.measured("it runs, after what ends it is mended", now_s() - begin, at_most=RESTART_S)
    pauses_s = [later - earlier for earlier, later in pairwise(tries_s())]
    assert min(pauses_s) >= LINGER_S
    row.held(f"tried again after {min(pauses_s):.1f} s at the least")
    row.measured("… and at the most", max(pauses_s), at_most=RESTART_S)
    assert others(whole, "recorder") == before
    row.held("the others are the same processes; they replace a dead domain meanwhile, and no GET failed")
    rules = (ROOT / "packaging" / "prometheus" / "autoscaler.rules.yml").read_text(encoding="utf-8")
    assert "expr: autoscaler_service_up == 0" in rules
    row.held("autoscaler_service_up is 0, for which AutoscalerServiceDown is there")


@pytest.mark.fault(15)
def test_services_that_can_open_no_file_more_end_and_are_started_again(whole: Whole, row: Proof) -> None:
    pids = {name: whole.pid(name) for name in whole.config.services}
    log = whole.world.state_dir / "log" / "supervisord.log"
    said = len(log.read_text(encoding="utf-8"))
    with whole.fault("no service may open a file more", boots=0):
        begin = now_s()
        for pid in pids.values():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))  # no number below is free
        lives = lambda: [name for name, pid in pids.items() if pid in whole.pids(name)]  # noqa: E731
        wait_until(lambda: not lives(), PATIENCE_S, "the end of each")
        ended_s = now_s() - begin
    unexpected = log.read_text(encoding="utf-8")[said:]
    for name in pids:
        assert re.search(rf"exited: {name} \(.*; not expected\)", unexpected), name
    row.held(
        f"each of {len(pids)} services ends within {ended_s:.0f} s with an error, and is started again; no GET failed"
    )


def post(world: World, answers: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=4 * SLOW_S)
    try:
        connection.request("POST", f"/slow?ms={SLOW_S * 1000}", b"x")
        answers.append(str(connection.getresponse().status))
    except (OSError, http.client.HTTPException) as error:
        answers.append(type(error).__name__)
    connection.close()


@pytest.mark.fault(17)
def test_sigterm_to_all_during_a_drain_ends_them_in_time_and_the_drain_goes_on(whole: Whole, row: Proof) -> None:
    world, victim, answers = whole.world, whole.ready()[0], list[str]()
    phase = lambda: {domain["uuid"]: domain["phase"] for domain in whole.group()["domains"]}.get(victim["uuid"])  # noqa: E731
    threads = [threading.Thread(target=post, args=(world, answers), daemon=True) for _ in range(6)]
    with whole.fault("SIGTERM to all services during a drain"):
        for thread in threads:
            thread.start()
        held = lambda: next(d["in_flight"] or 0 for d in whole.group()["domains"] if d["uuid"] == victim["uuid"])  # noqa: E731
        wait_until(lambda: held() >= 3, PATIENCE_S, "requests in flight on it")
        world.autoscaler("drain", victim["name"])
        wait_until(lambda: phase() == "draining", PATIENCE_S, "its drain")
        pids = {name: whole.pid(name) for name in whole.config.services}
        ends = [End(name, pid) for name, pid in pids.items()]
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not [end for end in ends if not end.has_come()], PATIENCE_S, "their end", every_s=0.02)
        last = max(ends, key=lambda end: end.took_s)
        row.measured(f"the last of {len(ends)} services, the {last.name}, ends", last.took_s, at_most=STOP_S)
        wait_until(lambda: phase() == "draining", PATIENCE_S, "it drains again")
        assert not answers, "the requests were over before it went on"
        for thread in threads:
            thread.join(4 * SLOW_S)
        assert answers == ["200"] * len(threads)
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), PATIENCE_S, "its end")
    row.held("the next start goes on with the drain: the domain leaves after its last request, and none was cut")


@pytest.mark.fault(1)
def test_without_samples_nothing_is_scaled_in_before_they_have_come_for_a_window(whole: Whole, row: Proof) -> None:
    """The last test of this file: it lowers the group's bound."""
    world, missing_s = whole.world, IN_WINDOW_S + 5.0
    text = world.config.read_text(encoding="utf-8")
    with whole.stopped(whole.pid("supervisord")):
        os.kill(whole.pid("monitor"), signal.SIGKILL)
        wait_until(lambda: whole.group()["limiter"] == "stale-data", PATIENCE_S, "the decider to miss the samples")
        world.config.write_text(text.replace("min = 2", "min = 1"), encoding="utf-8")
        os.kill(whole.pid("decider"), signal.SIGHUP)  # `reload` takes nothing over while the monitor cannot be asked
        whole.reread()
        wait_until(lambda: whole.group()["min"] == 1, PATIENCE_S, "the new bound")
        until_s = now_s() + missing_s
        wait_until(lambda: now_s() >= until_s, 2 * missing_s, "more than a window without samples")
        group = whole.group()
        assert (group["desired"], group["limiter"]) == (2, "stale-data")
    row.held(f"without samples for {missing_s:.0f} s nothing is scaled in: stale data, though the group is idle")
    begin = now_s()
    wait_until(lambda: whole.group()["desired"] == 1, PATIENCE_S, "the scale-in")
    took_s = now_s() - begin
    assert took_s >= IN_WINDOW_S - 1.0
    row.held(f"with samples again it is, after {took_s:.0f} s; the window is {IN_WINDOW_S:g} s long")
    whole.converge("one domain", boots=0)
    assert whole.steady.failures == []
