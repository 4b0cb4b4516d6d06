"""Rows 28 to 37: figures that are missing, wrong or in doubt, and what is decided on them.

All but the square wave share one installation of up to three domains under a stream of GETs. Before its fault a test
of scale-in has seen that the paused group would scale in, and after it that it does: what was held back in between was
held back by the fault.
"""

import os
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import libvirt
import pytest

from bench.decided import decisions
from common.messages import DecisionRecord, HostSample
from common.recording import Recording, recording_dir
from load.levels import DEFAULT_N
from services.balancer.core.haproxy_config import stats_socket
from services.monitor.core.rates import EPSILON, STUCK_TICKS
from tests.e2e.packets import rules
from tests.e2e.service import Service, in_service
from tests.e2e.steady import Steady
from tests.e2e.whole import BOOT_S, CLOCK
from tests.e2e.world import DEMO_IMAGE, World, now_s, wait_until
from tests.faults.proof import Proof

NAME, NUMBER, METRICS = "asga", 70, "127.0.0.1:19470"
MOST = 3
INTERVAL_S = 1.0
OUT_WINDOW_S, IN_WINDOW_S, COOLDOWN_S = 3.0, 5.0, 5.0
TICKS = round((IN_WINDOW_S + COOLDOWN_S) / INTERVAL_S) + 4  # after so many a scale-in would have come
ANSWER_S = 4.0
GRACE_S = 6.0
QUOTA = 0.15  # a busy machine has that much for three of them
RATE = 6.0
HIGH_RATIO = 0.7
SLACK_S = 1.0  # a client on a busy machine
SOON_S = 40.0  # for what comes within seconds on an idle machine


@pytest.fixture(scope="module")
def service(make_world: Callable[..., World], images: Path) -> Iterator[Service]:
    """Return an installation with short windows that has one domain in rotation."""
    world = make_world(
        NAME,
        NUMBER,
        maximum=str(MOST),
        metrics=METRICS,
        out_window_s=str(OUT_WINDOW_S),
        in_window_s=str(IN_WINDOW_S),
        cooldown_in_s=str(COOLDOWN_S),
        image=DEMO_IMAGE.format(images).replace("cpu_quota = 0.4", f"cpu_quota = {QUOTA}"),
        group_extra=f"response_timeout_s = {ANSWER_S}\nunhealthy_grace_s = {GRACE_S}",
    )
    text = world.config.read_text(encoding="utf-8").replace("high_ratio = 0.80", f"high_ratio = {HIGH_RATIO}")
    world.config.write_text(text, encoding="utf-8")
    with in_service(world, 1, rate=RATE) as found:
        yield found


@pytest.fixture(autouse=True)
def no_get_fails(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pass if the stream of GETs lost none, whatever the fault; a test may forget those that are its subject."""
    if "service" not in request.fixturenames:
        yield
        return
    steady = request.getfixturevalue("service").whole.steady
    steady.failures.clear()
    yield
    assert steady.failures == [], steady.failures[:5]


# --- what the installation is told, and says ------------------------------------------------------------------------


def sized(service: Service, count: int) -> None:
    """Return with exactly so many domains in rotation, the group paused and its figures known."""
    for order in (["pause"], ["patience", "--reset"], ["scale", str(count)]):
        service.world.autoscaler(*order)
    is_settled = lambda: [d["phase"] for d in service.whole.group()["domains"]] == ["ready"] * count  # noqa: E731
    wait_until(is_settled, 2 * BOOT_S, f"{count} ready domain(s) and no other")
    await_record(service, CLOCK.epoch_s(), lambda r: r.evidence.domains_known == count, "the figures of all")


def calm(service: Service, count: int) -> None:
    """Return with so many domains in rotation that would be fewer if the group were not paused."""
    sized(service, count)
    await_record(
        service, CLOCK.epoch_s(), lambda r: "it would scale in" in r.limiter_text, "a scale-in but for the pause"
    )


def await_record(
    service: Service, since_s: float, matches: Callable[[DecisionRecord], Any], what: str, timeout_s: float = SOON_S
) -> DecisionRecord:
    """Return the first decision since then that matches."""
    last: list[DecisionRecord] = []

    def found() -> DecisionRecord | None:
        last[:] = decisions(service.whole.config, "web", since_s)
        return next((record for record in last if matches(record)), None)

    try:
        record: DecisionRecord = wait_until(found, timeout_s, what, every_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}; {last[-1] if last else 'no decision'}") from None
    return record


def watched(service: Service, ticks: int = TICKS) -> list[DecisionRecord]:
    """Return the decisions of the next ticks."""
    since_s = CLOCK.epoch_s()
    seen = lambda: found if len(found := decisions(service.whole.config, "web", since_s)) >= ticks else None  # noqa: E731
    records: list[DecisionRecord] = wait_until(seen, 3 * ticks * INTERVAL_S, f"{ticks} decisions", every_s=0.5)
    return records


def nothing_changes(service: Service, ticks: int = TICKS) -> list[DecisionRecord]:
    """Let the group decide again, and return its decisions: none of them changed its size."""
    service.world.autoscaler("resume")
    records = watched(service, ticks)
    changed = [record for record in records if record.action != "hold"]
    assert changed == [], changed[0]
    return records


def scales_in(service: Service, since_s: float) -> DecisionRecord:
    """Return the decision that took one away, once it has come; the group is paused again."""
    record = await_record(service, since_s, lambda r: r.action == "in", "a scale-in once the fault is over")
    service.world.autoscaler("pause")
    return record


def samples(service: Service, since_s: float) -> list[HostSample]:
    """Return what the monitor has said since then, oldest first."""
    recording = Recording(recording_dir(service.whole.config.system.state_path))
    messages = recording.messages(since_s=since_s, kinds=["sample"])
    return [body for _, header, body in messages if isinstance(body, HostSample) and header.sent_at_s >= since_s]


def ratios(service: Service, uuid: str, since_s: float) -> list[tuple[str, float | None]]:
    """Return state and CPU ratio of one domain in every sample since then that has it."""
    rows = [
        dict(zip(sample.uuids, zip(sample.states, sample.cpu_ratios, strict=True), strict=True))
        for sample in samples(service, since_s)
    ]
    return [row[uuid] for row in rows if uuid in row]


def figure(series: str) -> float | None:
    """Return one series of the exporter's page."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series), None)


# --- faults and loads -----------------------------------------------------------------------------------------------


class Unmetered:
    """Domains that serve, of whose use nothing is known: their owner sets or lifts their CPU quota in every interval.

    Two counters under different allotments are not compared, so each sample lacks these domains, and no other.
    """

    def __init__(self, service: Service, names: Sequence[str]) -> None:
        self._service = service
        self._names = names
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Unmetered":
        self._connection = libvirt.open("qemu:///system")
        self._domains = [self._connection.lookupByName(name) for name in self._names]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._set(QUOTA)
        self._connection.close()

    def _run(self) -> None:
        recording = Recording(recording_dir(self._service.whole.config.system.state_path))
        newest, _, _ = next(iter(recording.messages(kinds=["sample"], newest_first=True)))
        due_s, quota = newest.mono_s + INTERVAL_S / 2, QUOTA  # as far as can be from either reading
        while not self._stop.wait(max(due_s - now_s(), 0.0)):
            if due_s > now_s() - INTERVAL_S / 4:
                quota = -1.0 if quota > 0 else QUOTA
                self._set(quota)
            due_s += INTERVAL_S

    def _set(self, quota: float) -> None:
        value = {"vcpu_quota": round(quota * 100_000) if quota > 0 else -1}
        for domain in self._domains:
            domain.setSchedulerParametersFlags(value, libvirt.VIR_DOMAIN_AFFECT_LIVE)


@contextmanager
def scaling_out_at(service: Service, ratio: float) -> Iterator[float]:
    """Let the group scale out from this CPU ratio on for as long as the body takes."""
    file = service.world.config
    text = file.read_text(encoding="utf-8")
    changed = text.replace(f"high_ratio = {HIGH_RATIO}", f"high_ratio = {ratio:.3f}")
    file.write_text(changed.replace("low_ratio = 0.35", f"low_ratio = {min(0.35, ratio / 2):.3f}"), encoding="utf-8")
    service.world.autoscaler("reload")
    try:
        yield ratio
    finally:
        file.write_text(text, encoding="utf-8")
        service.world.autoscaler("reload")


def busy(service: Service) -> Steady:
    """Return a load that takes all the CPU of three domains, and waits for answers instead of queueing."""
    return Steady(service.world, rate=30, n=DEFAULT_N, threads=9)


def waiting(service: Service, count: int, milliseconds: int) -> Steady:
    """Return a load of so many requests in flight that need time and no CPU."""
    ask = (f"/slow?ms={milliseconds}", f"slept {milliseconds} ms")
    return Steady(service.world, rate=20 * count, threads=count, ask=ask)


# --- figures that say little ----------------------------------------------------------------------------------------


@pytest.mark.fault(33)
@pytest.mark.parametrize(("what", "milliseconds", "count"), [("response time rises", 3000, 12), ("fail", 9000, 8)])
def test_little_cpu_with_late_answers_or_errors_scales_nothing_in(
    service: Service, row: Proof, what: str, milliseconds: int, count: int
) -> None:
    calm(service, MOST)
    with waiting(service, count, milliseconds):
        await_record(service, CLOCK.epoch_s(), lambda r: what in r.limiter_text, "pressure")
        records = nothing_changes(service)
        since_s = CLOCK.epoch_s()
    assert max(r.evidence.cpu_ratio or 0 for r in records) < 0.35
    row.held(f"{what}: no scale-in in {TICKS} s at most at {max(r.evidence.cpu_ratio or 0 for r in records):.2f} CPU")
    scales_in(service, since_s)


@pytest.mark.fault(37)
def test_without_haproxys_figures_nothing_is_scaled_in(service: Service, row: Proof) -> None:
    calm(service, MOST)
    path = stats_socket(service.whole.config.system)
    away = path.with_name("away.sock")
    path.rename(away)
    try:
        await_record(service, CLOCK.epoch_s(), lambda r: "traffic" in r.limiter_text, "figures that are missing")
        records = nothing_changes(service)
        since_s = CLOCK.epoch_s()
    finally:
        away.rename(path)
    asked = [r for r in records if known(r) == MOST and r.recommended == MOST - 1]
    assert {r.limiter for r in asked} == {"unknown-data"}, {r.limiter_text for r in asked}
    row.held(f"no scale-in in {TICKS} s with the CPU figures of all: no fresh traffic figures")
    record = scales_in(service, since_s)
    row.held(f"scaled in {record.at_s - since_s:.1f} s after they came back")


# --- figures that are missing, and wrong ones -----------------------------------------------------------------------


@pytest.mark.fault(28)
def test_one_member_without_figures_is_busy_against_scale_in_and_idle_against_scale_out(
    service: Service, row: Proof
) -> None:
    calm(service, MOST)
    with ExitStack() as load, ExitStack() as unmetered:
        unmetered.enter_context(Unmetered(service, [service.whole.ready()[0]["name"]]))
        since_s = CLOCK.epoch_s()
        await_record(service, since_s, lambda r: r.evidence.domains_known == MOST - 1, "a member without figures")
        records = nothing_changes(service)
        blind = [r for r in records if r.evidence.domains_known == MOST - 1]
        assert len(blind) > len(records) / 2
        assert all(r.evidence.cpu_ratio_high_guess == pytest.approx(guess(r, 1.0)) for r in blind)
        assert all(r.evidence.cpu_ratio_low_guess == pytest.approx(guess(r, 0.0)) for r in blind)
        assert {r.limiter for r in blind} == {"unknown-data"}
        row.held(f"busy against scale-in: none in {TICKS} s of calm, in which one is due after {IN_WINDOW_S:.0f} s")
        load.enter_context(busy(service))
        watched(service, 4)  # it begins
        others = mean_ratio([r for r in watched(service, 8) if known(r) == MOST - 1])
        with scaling_out_at(service, 0.8 * others) as high:  # between theirs and that of all three
            records = watched(service)
        low = lambda r: r.evidence.cpu_ratio_low_guess or 0.0  # noqa: E731
        between = [r for r in records if low(r) < high <= (r.evidence.cpu_ratio or 0.0)]
        assert len(between) > OUT_WINDOW_S / INTERVAL_S
        assert all(low(r) >= high for r in records if (r.recommended or 0) > MOST)
        row.held(
            f"idle against scale-out at {high:.2f}: none asked for in {len(between)} ticks with the others above it"
        )
        assert {r.action for r in decisions(service.whole.config, "web", since_s)} == {"hold"}
        row.held("no change of size at all")
        unmetered.close()
        is_asked = lambda r: (r.recommended or 0) > MOST  # noqa: E731
        with scaling_out_at(service, 0.6 * mean_ratio(watched(service, 8))):
            await_record(service, CLOCK.epoch_s(), is_asked, "one more asked for with the figures of all", 3 * SOON_S)
    service.world.autoscaler("pause")


def known(record: DecisionRecord) -> int:
    """Return of how many domains the record knew the CPU use."""
    return record.evidence.domains_known


def guess(record: DecisionRecord, unknown: float) -> float:
    """Return the mean ratio if each domain without figures had this one."""
    evidence = record.evidence
    used = (evidence.cpu_ratio or 0.0) * evidence.domains_known
    return (used + unknown * (evidence.domains_ready - evidence.domains_known)) / evidence.domains_ready


@pytest.mark.fault(32)
def test_a_counter_that_stands_still_is_told_as_unknown_and_not_as_idle(service: Service, row: Proof) -> None:
    calm(service, MOST)
    victim = service.whole.ready()[0]
    begun_s = CLOCK.epoch_s()
    os.kill(service.world.qemu_pid(victim["name"]), signal.SIGSTOP)
    try:
        assert service.whole.domain(victim["name"]).state()[0] == libvirt.VIR_DOMAIN_RUNNING

        def told() -> list[tuple[str, float | None]] | None:
            found = ratios(service, victim["uuid"], begun_s)
            return found if ("running", None) in found else None

        seen = wait_until(told, SOON_S, "a sample that has it running, without its rate", every_s=0.3)
        idle = [ratio for _, ratio in seen].count(0.0)
        row.measured("samples that said 0 before it was told as stale", idle, at_most=STUCK_TICKS - 1, unit="")
        is_stale = lambda r: (r.evidence.domains_ready, known(r)) == (MOST, MOST - 1)  # noqa: E731
        record = await_record(service, begun_s, is_stale, "a decision that counts it as unknown")
        assert record.evidence.cpu_ratio_high_guess == pytest.approx(guess(record, 1.0))
        assert "no fresh CPU figure of 1 of 3" in record.limiter_text
        row.held("told as unknown: busy where a scale-in is to be decided")
    finally:
        os.kill(service.world.qemu_pid(victim["name"]), signal.SIGCONT)
    wait_until(lambda: service.whole.problems() == [], 2 * BOOT_S, "all well again")


@pytest.mark.fault(33)
def test_little_cpu_with_a_queue_scales_out(service: Service, row: Proof) -> None:
    calm(service, 2)
    count = 2 * service.whole.group_config.max_in_flight + 8
    with waiting(service, count, 1000) as load:
        begun = await_record(service, CLOCK.epoch_s(), lambda r: r.evidence.queue, "a queue")
        service.world.autoscaler("resume")
        out = await_record(service, begun.at_s, lambda r: r.action != "hold", "a change")
        assert (out.action, out.desired_after) == ("out", 3)
        assert (out.evidence.cpu_ratio or 0) < 0.35, out.evidence
        took_s, cpu = out.at_s - begun.at_s, out.evidence.cpu_ratio or 0
        row.held(f"a queue of {out.evidence.queue} at {cpu:.2f} CPU scales out, {took_s:.1f} s after it was seen")
        wait_until(lambda: len(service.whole.ready()) == 3, BOOT_S, "the third domain")
        assert {r.action for r in watched(service)} == {"hold"}
        row.held("no scale-in while they need the slots")
    assert load.failures == []
    service.world.autoscaler("pause")


@pytest.mark.fault(31)
def test_a_counter_that_begins_anew_is_unknown_for_its_tick_and_never_out_of_range(
    service: Service, row: Proof
) -> None:
    sized(service, 2)
    victim = service.whole.ready()[-1]
    domain = service.whole.domain(victim["name"])
    before_ns, since_s = domain.info()[4], CLOCK.epoch_s()
    with service.whole.stopped(service.whole.pid("actuator")):  # it would remove what its owner starts again
        with service.whole.stopped(service.whole.pid("monitor")):
            domain.destroy()
            domain.create()
            after_ns, took_s = domain.info()[4], CLOCK.epoch_s() - since_s
        assert after_ns < before_ns
        allotted = domain.schedulerParameters()["vcpu_quota"] / 100_000

        def seen() -> list[HostSample] | None:
            found = [s for s in samples(service, since_s + took_s) if victim["uuid"] in s.uuids]
            return found if len(found) > 5 else None

        after = wait_until(seen, SOON_S, "six samples after it", every_s=0.5)
    rows = [(s.cpu_ratios[i], s.allotted_cpus[i]) for s in after for i in [s.uuids.index(victim["uuid"])]]
    print(f"  counter {before_ns / 1e9:.1f} s, then {after_ns / 1e9:.1f} s; samples {rows}; quota {allotted}")
    assert rows[0][0] is None
    row.held(f"destroyed and started within {took_s:.1f} s: the first sample after it has no rate")
    known_ones = [(ratio, cpus) for ratio, cpus in rows if ratio is not None]
    assert known_ones
    assert {cpus for _, cpus in known_ones} == {1.0 if allotted < 0 else allotted}
    figures = [ratio for ratio, _ in known_ones]
    assert 0 <= min(figures) <= max(figures) <= 1 + EPSILON
    row.held(f"the rates after it are between {min(figures):.2f} and {max(figures):.2f} of what it is allotted now")
    wait_until(lambda: service.whole.problems() == [], 2 * BOOT_S, "all well again")


# --- new domains, and much at once ----------------------------------------------------------------------------------


def load_of_one(service: Service) -> float:
    """Return how many GETs a second take all the CPU of the only domain."""
    trial = 4.0
    await_record(service, CLOCK.epoch_s(), lambda r: (r.evidence.cpu_ratio or 1) < 0.35, "a domain that idles")
    idle = mean_ratio(watched(service, 5))
    with Steady(service.world, rate=trial, n=DEFAULT_N, threads=4):
        watched(service, 2)  # the first figures are of an interval that began before
        used = mean_ratio(watched(service, 6))
    rate = trial * (1 - idle) / (used - idle)
    print(f"  {rate:.1f} GETs/s take one domain's CPU; idle it uses {idle:.2f}")
    return rate


def mean_ratio(records: Sequence[DecisionRecord]) -> float:
    """Return the mean CPU ratio over these ticks."""
    found = [r.evidence.cpu_ratio for r in records if r.evidence.cpu_ratio is not None]
    return sum(found) / len(found)


@pytest.mark.fault(34)
def test_the_boot_of_a_new_domain_asks_for_no_other_one(service: Service, row: Proof) -> None:
    sized(service, 1)
    rate = load_of_one(service)
    begun_s = CLOCK.epoch_s()
    with Steady(service.world, rate=0.9 * rate, n=DEFAULT_N, threads=12):
        service.world.autoscaler("resume")
        await_record(service, begun_s, lambda r: r.desired_after == 2, "a scale-out")
        new = wait_until(lambda: service.whole.group()["domains"][1:], SOON_S, "a new domain")[0]["uuid"]
        wait_until(lambda: len(service.whole.ready()) == 2, 2 * BOOT_S, "the new domain in rotation")
        watched(service, 3 * round(OUT_WINDOW_S / INTERVAL_S))
    service.world.autoscaler("pause")
    records = decisions(service.whole.config, "web", begun_s)
    boot = [r for r in records if r.desired_after == 2 and r.evidence.domains_ready == 1]
    during = samples(service, begun_s)
    hot, old = max(cpus_used(sample, new) for sample in during), service.whole.ready()[0]["uuid"]
    usual = sum(cpus_used(sample, old) for sample in during) / len(during)
    assert hot > usual, "it was to use more than the one that serves"
    assert {known(r) for r in boot} <= {0, 1}
    row.held(
        f"its {hot:.2f} CPUs (the one that serves used {usual:.2f}) are in none of the {len(boot)} figures of its boot"
    )
    assert max(r.desired_after for r in records) == 2, [(r.desired_after, r.limiter_text) for r in records][-1]
    row.held(f"desired 1, 2 and no more until {3 * OUT_WINDOW_S:.0f} s after it serves")


def cpus_used(sample: HostSample, uuid: str) -> float:
    """Return how many CPUs a domain used, 0 where that is unknown."""
    rows = zip(sample.uuids, sample.cpu_ratios, sample.allotted_cpus, strict=True)
    return sum((ratio or 0.0) * (cpus or 0.0) for found, ratio, cpus in rows if found == uuid)


class Rush:
    """GETs at a steady rate, whether or not answers come: of each, when it began, how long it took, and what came."""

    def __init__(self, world: World, rate: float, most: int = 400) -> None:
        self._world, self._period_s = world, 1 / rate
        self._pool = ThreadPoolExecutor(most)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: list[tuple[float, float, int]] = []

    def __enter__(self) -> "Rush":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        due_s = now_s()
        while not self._stop.wait(max(due_s - now_s(), 0.0)):
            self._pool.submit(self._one)
            due_s += self._period_s

    def _one(self) -> None:
        begun_s = now_s()
        try:
            status = self._world.get(f"/compute?n={DEFAULT_N}", timeout_s=30)[0]
        except OSError:
            status = 0
        self.answers.append((begun_s, now_s() - begun_s, status))


@pytest.mark.fault(36)
def test_ten_times_the_load_at_once_grows_within_the_bounds_and_is_turned_away_for_a_while_only(
    service: Service, row: Proof
) -> None:
    sized(service, 1)
    rate = load_of_one(service)
    group, most_owned = service.whole.group_config, 1
    service.world.autoscaler("resume")
    with Rush(service.world, 0.2 * rate):
        assert {r.action for r in watched(service, 6)} == {"hold"}
    begun_s = CLOCK.epoch_s()
    with Rush(service.world, 2 * rate) as rush:

        def are_all_there() -> bool:
            nonlocal most_owned
            most_owned = max(most_owned, len(service.whole.owned()))
            return len(service.whole.ready()) == MOST

        wait_until(are_all_there, 4 * BOOT_S, f"{MOST} domains in rotation")
        grown_s = now_s()
        watched(service, round(4 * ANSWER_S / INTERVAL_S))
    service.world.autoscaler("pause")
    out = [r for r in decisions(service.whole.config, "web", begun_s) if r.action == "out"]
    row.measured("domains at once", most_owned, at_most=MOST + group.surge, unit="")
    row.measured("desired at most", max(r.desired_after for r in out), at_most=MOST, unit="")
    steps = [r.desired_after - r.desired_before for r in out]
    row.measured("asked for at once", max(steps), at_most=group.max_step_out, unit="")
    pauses_s = [after.at_s - before.at_s for before, after in pairwise(out)]
    assert all(pause_s >= group.cooldown_out_s for pause_s in pauses_s), pauses_s
    row.held(
        f"{len(out)} scale-outs, at least {min(pauses_s, default=0.0):.1f} s apart; cooldown {group.cooldown_out_s} s"
    )
    away = [(begun_s, took_s) for begun_s, took_s, status in rush.answers if status == 503]
    print(f"  answers: {dict(Counter(status for *_, status in rush.answers))}")
    waits_s = [took_s for _, took_s in away]  # twice in the queue where its domain was marked down meanwhile
    row.measured("longest wait for a 503", max(waits_s, default=0.0), at_most=2 * ANSWER_S + SLACK_S)
    last_s = max((begun_s + took_s - grown_s for begun_s, took_s in away), default=0.0)
    row.measured("last 503 after the last domain serves", max(last_s, 0.0), at_most=2 * ANSWER_S + SLACK_S)
    row.held(f"503s: {len(away)} of {len(rush.answers)} GETs")
    service.whole.steady.failures.clear()


@pytest.mark.fault(29)
def test_with_most_figures_missing_nobody_is_removed_or_replaced_and_all_serve(service: Service, row: Proof) -> None:
    calm(service, MOST)
    names = [domain["name"] for domain in service.whole.ready()]
    service.power.forget()
    with Unmetered(service, names[:2]):
        await_record(service, CLOCK.epoch_s(), lambda r: known(r) == 1, "two of three without figures")
        before = service.whole.steady.served_by.copy()
        nothing_changes(service)
        row.held(f"2 of 3 missing: no scale-in in {TICKS} s of calm")
        alerts("2 of 3 missing", row)
        served = service.whole.steady.served_by - before
        assert set(names) <= served.keys(), served
        assert (service.power.ends(), service.power.starts()) == ([], [])
        row.held(f"nobody was replaced, all three served: {', '.join(str(served[name]) for name in names)} GETs")
        since_s = CLOCK.epoch_s()
    scales_in(service, since_s)


@pytest.mark.fault(29)
def test_with_most_unhealthy_nobody_is_scaled_in_and_at_most_one_at_a_time_replaced(
    service: Service, row: Proof
) -> None:
    calm(service, MOST)
    *victims, well = service.whole.ready()
    fewest = MOST
    addresses = ", ".join(domain["address"] for domain in victims)
    with rules(NAME, f"ip daddr {{ {addresses} }} drop"):
        begun_s = CLOCK.epoch_s()
        await_record(service, begun_s, lambda r: "2 of 3 ready" in r.limiter_text, "two of three unhealthy")
        before = service.whole.steady.served_by[well["name"]]
        service.world.autoscaler("resume")
        until_s = now_s() + GRACE_S + TICKS * INTERVAL_S

        def is_over() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(service.whole.ready()))
            return now_s() >= until_s

        wait_until(is_over, 2 * SOON_S, "the fault to last")
        assert {r.action for r in decisions(service.whole.config, "web", begun_s)} == {"hold"}
        row.held(f"2 of 3 unhealthy: no scale-in in {GRACE_S + TICKS * INTERVAL_S:.0f} s of calm")
        assert fewest >= MOST - 1
        row.held("… and never more than one of them given up before its successor serves")
        alerts("2 of 3 unhealthy", row)
        assert service.whole.steady.served_by[well["name"]] > before
        row.held("… and the third serves on")
    service.world.autoscaler("pause")
    wait_until(lambda: service.whole.problems() == [], 2 * BOOT_S, "all well again")


def alerts(what: str, row: Proof) -> None:
    """Pass if the exporter tells what the alert rule stands on."""
    series = 'autoscaler_group_scale_in_allowed{group="web"}'
    wait_until(lambda: figure(series) == 0.0, SOON_S, "the figure of AutoscalerScaleInBlocked")
    row.held(f"{what}: {series} is 0, of which AutoscalerScaleInBlocked warns")


@pytest.mark.fault(30)
def test_zeros_after_a_gap_scale_nothing_in_before_a_whole_window(service: Service, row: Proof) -> None:
    sized(service, MOST)
    with ExitStack() as gap:
        with busy(service):
            await_record(service, CLOCK.epoch_s(), lambda r: (r.evidence.cpu_ratio or 0) > 0.5, "domains that are busy")
            gap.enter_context(service.whole.stopped(service.whole.pid("monitor")))
            await_record(service, CLOCK.epoch_s(), lambda r: known(r) == 0, "samples that are too old")
        nothing_changes(service, round(IN_WINDOW_S + 3))
        back_s = CLOCK.epoch_s()
    first = await_record(service, back_s, lambda r: known(r) == MOST, "the first figures after the gap")
    assert (first.evidence.cpu_ratio or 0) < 0.35, first
    last = scales_in(service, first.at_s)
    took_s = last.at_s - first.at_s
    assert took_s >= IN_WINDOW_S - INTERVAL_S  # a sample tells of the interval before it
    row.held(
        f"scaled in {took_s:.1f} s after the first figures ({first.evidence.cpu_ratio:.2f}); window {IN_WINDOW_S:.0f} s"
    )
