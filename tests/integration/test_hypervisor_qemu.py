"""The door to libvirt and the monitor on real QEMU: tiny domains that boot nothing."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus
from common.config import Network
from common.domain import CpuReading, DomainFacts, DomainState
from common.errors import DomainGoneError, HypervisorError
from common.hypervisor import Connection
from common.messages import SUSPENDED, Failure, HostSample
from common.network_xml import network_xml
from common.phases import Phase
from common.virt.addresses import Rule, Source
from services.actuator.cloning import SnapshotOrder
from services.actuator.core.record import Record
from services.actuator.core.seen import Probe
from services.actuator.core.steps import (
    Destroy,
    Resume,
    SetPhase,
    SetQuota,
    Shutdown,
    Start,
    Step,
    Suspend,
    TakeSnapshot,
    Undefine,
)
from services.actuator.perform import Result, attempt
from services.actuator.prober import Target
from services.monitor.processes import SYSTEM_PID_DIR
from tests.faults.proof import Proof
from tests.integration.monitor_stand import CLOCK, is_ours, wait_for
from tests.named import Named
from tests.waiting import Stopwatch

URI = "qemu:///system"
ROOT = Path(__file__).parents[2]
NAMES = ("hvtest-0000", "hvtest-0001")
NETWORK = "hvtest-net"
UUID = "5b1f2f10-1111-4222-8333-123456789046"


def has_qemu() -> bool:
    try:
        Named.open(URI, is_read_only=False, may_touch=is_ours).close()
    except HypervisorError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_qemu(), reason="needs libvirtd with QEMU")


def definition(name: str) -> str:
    """Return a domain whose firmware finds nothing to boot, and waits."""
    return (
        f'<domain type="qemu"><name>{name}</name><memory unit="MiB">16</memory><vcpu>1</vcpu><os>'
        '<type arch="x86_64" machine="pc">hvm</type></os><features><acpi/></features></domain>'
    )


def pid(name: str) -> int:
    return int((SYSTEM_PID_DIR / f"{name}.pid").read_text())


@pytest.fixture
def host() -> Iterator[Connection]:
    connection = Named.open(URI, is_read_only=False, may_touch=is_ours)
    yield connection
    connection.remove_mine()
    connection.remove_network(NETWORK)
    connection.close()


def forget_memory(host: Connection, name: str) -> None:
    """Remove a memory that libvirt wrote while the domain of this name was being undefined: it is not the new one's."""
    with host._lines.use() as line:
        domain = line.raw.lookupByName(name)
        if domain.hasManagedSaveImage(0):
            domain.managedSaveRemove(0)


@pytest.fixture
def running(host: Connection) -> Connection:
    for name in NAMES:
        host.define(definition(name))
        forget_memory(host, name)
        host.start(name)
    return host


def threads(process: int) -> set[str]:
    """Return the states of a process's threads: each stops when it is its turn."""
    stats = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat")]
    return {stat.rpartition(") ")[2][0] for stat in stats}


def mine(host: Connection) -> dict[str, CpuReading]:
    return {reading.name: reading for reading in host.cpu_readings() if is_ours(reading.name)}


def test_a_running_domain_is_metered_and_its_quota_changes_live(running: Connection) -> None:
    before = mine(running)[NAMES[0]]
    assert (before.state, before.allotted_cpus) == (DomainState.RUNNING, 1.0)
    for quota, expected in ((0.25, 0.25), (1.0, 1.0), (None, 1.0)):
        running.set_quota(NAMES[0], quota)
        assert mine(running)[NAMES[0]].allotted_cpus == expected
    wait_for(lambda: (mine(running)[NAMES[0]].cpu_time_s or 0) > (before.cpu_time_s or 0))


def test_a_quota_that_another_connection_set_is_seen_by_its_event(running: Connection) -> None:
    reader = Named.open(URI, is_read_only=True, may_touch=is_ours)
    reader.watch(lambda _event: None, lambda: None)
    assert mine(reader)[NAMES[0]].allotted_cpus == 1.0
    running.set_quota(NAMES[0], 0.5)
    wait_for(lambda: mine(reader)[NAMES[0]].allotted_cpus == 0.5, timeout_s=2)
    reader.close()


def test_a_domain_that_starts_anew_is_measured_against_the_quota_of_its_definition(running: Connection) -> None:
    reader = Named.open(URI, is_read_only=True, may_touch=is_ours)
    reader.watch(lambda _event: None, lambda: None)
    running.set_quota(NAMES[0], 0.5)
    wait_for(lambda: mine(reader)[NAMES[0]].allotted_cpus == 0.5)
    running.destroy(NAMES[0])
    running.start(NAMES[0])
    wait_for(lambda: mine(reader)[NAMES[0]].allotted_cpus == 1.0, timeout_s=2)
    reader.close()


def test_metadata_written_while_running_outlive_qemu(running: Connection) -> None:
    running.set_metadata(NAMES[0], {"group": "web", "phase": "ready"})
    os.kill(pid(NAMES[0]), signal.SIGKILL)
    wait_for(lambda: mine(running)[NAMES[0]].state is DomainState.SHUTOFF)
    facts = {facts.name: facts for facts in running.domains()}
    assert facts[NAMES[0]].metadata == {"group": "web", "phase": "ready"}


def test_a_killed_qemu_is_told_as_failed(running: Connection) -> None:
    told: list[str] = []
    running.watch(lambda event: told.append(event.kind) if event.name == NAMES[0] else None, lambda: None)
    os.kill(pid(NAMES[0]), signal.SIGKILL)
    wait_for(lambda: "failed" in told)


@pytest.mark.fault(40)
def test_a_frozen_qemu_delays_no_reading(running: Connection, row: Proof) -> None:
    process = pid(NAMES[0])
    os.kill(process, signal.SIGSTOP)
    try:
        wait_for(lambda: threads(process) == {"T"})
        start_s = CLOCK.monotonic_s()
        frozen = mine(running)[NAMES[0]].cpu_time_s
        row.measured("the figures of all", CLOCK.monotonic_s() - start_s, at_most=1.0)
        other = mine(running)[NAMES[1]].cpu_time_s
        assert frozen is not None and other is not None
        wait_for(lambda: (mine(running)[NAMES[1]].cpu_time_s or 0) > other + 0.05)
        assert mine(running)[NAMES[0]].cpu_time_s == frozen, "it stands still while the other goes on"
    finally:
        os.kill(pid(NAMES[0]), signal.SIGCONT)
    wait_for(lambda: (mine(running)[NAMES[0]].cpu_time_s or 0) > frozen)


@pytest.mark.fault(40)
def test_a_domain_being_destroyed_delays_no_reading_of_another(running: Connection, row: Proof) -> None:
    uuids = {name: uuid for uuid, name in running.known().items()} or {r.name: r.uuid for r in running.cpu_readings()}
    process = pid(NAMES[0])
    os.kill(process, signal.SIGSTOP)
    killer = threading.Thread(target=running.destroy, args=(NAMES[0],))
    killer.start()
    slowest_s = 0.0
    try:
        listing = threading.Thread(target=running.refresh)
        listing.start()
        for _ in range(10):
            start_s = CLOCK.monotonic_s()
            reading = running.reading(uuids[NAMES[1]])
            assert reading is not None and reading.state is DomainState.RUNNING
            slowest_s = max(slowest_s, CLOCK.monotonic_s() - start_s)
        assert killer.is_alive()
        row.measured("the figures of another, while it is being ended", slowest_s, at_most=0.5)
    finally:
        os.kill(process, signal.SIGCONT)
    killer.join()
    listing.join()


class Vanishing(Connection):
    """A host where somebody removes a domain after each look at it."""

    def facts(self, name: str) -> DomainFacts | None:
        found = super().facts(name)
        if found is not None:
            remove(self, found.uuid)
        return found


def remove(host: Connection, uuid: str) -> None:
    """Destroy and undefine a domain as its host's operator does."""
    with host._lines.use() as line:
        domain = line.raw.lookupByUUIDString(uuid)
        if domain.isActive():
            domain.destroy()
        domain.undefine()


ABOUT = {"group": "hv", "host": "local", "domain": NAMES[0], "reason": ""}
RECORD = Record(
    group="hv", uuid="", host="local", phase=Phase.READY, since_mono_s=1.0, since_s=1.0, boot_id="b", slot=0
)  # fmt: skip


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    ("kind", "result"),
    [
        *((kind, Result.DONE) for kind in (Shutdown, Destroy, Undefine)),
        *((kind, Result.FAILED) for kind in (Start, Suspend, Resume, SetQuota, SetPhase)),
    ],
)
def test_a_domain_that_vanishes_between_the_look_and_the_call(
    host: Connection, kind: type[Step], result: Result, row: Proof
) -> None:
    host.define(definition(NAMES[0]))
    host.set_metadata(NAMES[0], {"group": "hv"})
    if kind not in (Start, Undefine):
        host.start(NAMES[0])
    (facts,) = [facts for facts in host.domains() if facts.name == NAMES[0]]
    more: dict[str, object] = {"record": RECORD} if kind in (Shutdown, SetQuota, SetPhase) else {}
    more |= {"cpu_quota": 0.1} if kind is SetQuota else {"was": Phase.READY} if kind is SetPhase else {}
    vanishing = Vanishing.open(URI, is_read_only=False, may_touch=is_ours)
    try:
        assert attempt(vanishing, kind(**ABOUT, uuid=facts.uuid, **more), None)[0] is result  # type: ignore[arg-type]
    finally:
        vanishing.close()
    assert host.facts(NAMES[0]) is None
    row.held(f"{kind.__name__}: {'it is gone, as it was to be' if result is Result.DONE else 'not taken for done'}")


@pytest.mark.fault(46)
def test_a_snapshot_of_a_domain_that_vanishes_is_not_taken_for_made(
    host: Connection, tmp_path: Path, row: Proof
) -> None:
    def vanish(_target: Target) -> Probe:
        remove(host, UUID)
        return Probe(True)

    xml = definition(NAMES[0]).replace("<memory", f"<uuid>{UUID}</uuid><memory", 1)
    snapshot = tmp_path / "snapshots" / "one.save"
    target = Target(NAMES[0], "127.0.0.1", 1)
    order = SnapshotOrder(
        xml=xml, snapshot=snapshot, target=target, network=Network(), console_dir=str(tmp_path), boot_s=5.0, ask=vanish
    )  # fmt: skip
    step = TakeSnapshot(**ABOUT, uuid=UUID, record=RECORD, accel="qemu", snapshot="one")
    result, error = attempt(host, step, order)
    assert (result, error) == (Result.FAILED, "the domain is gone")
    assert host.facts(NAMES[0]) is None and not any(snapshot.parent.iterdir())
    row.held("a snapshot of one that vanishes is not taken for made, and leaves nothing")


def test_an_address_not_there_yet_is_no_error(running: Connection) -> None:
    assert [running.addresses(NAMES[0], Rule(source)) for source in Source] == [()] * 3


def test_undefining_a_saved_domain_leaves_nothing(host: Connection) -> None:
    host.define(definition(NAMES[0]))
    host.undefine(NAMES[0])
    with pytest.raises(DomainGoneError):
        host.undefine(NAMES[0])


def test_our_network_grows_while_it_runs_and_goes_without_trace(host: Connection) -> None:
    for slots in (2, 2, 4, 3):
        network = Network(name=NETWORK, bridge="hvtest0", subnet="192.168.249.0/24", slots=slots)
        host.ensure_network(network_xml(network), NETWORK)
        leases = Path("/var/lib/libvirt/dnsmasq") / f"{NETWORK}.hostsfile"
        assert len(leases.read_text().splitlines()) == slots
    assert Path("/sys/class/net/hvtest0/bridge/stp_state").read_text().strip() == "0"
    host.remove_network(NETWORK)
    assert not Path("/sys/class/net/hvtest0").exists()


def test_a_network_in_use_is_not_made_anew(host: Connection) -> None:
    network = Network(name=NETWORK, bridge="hvtest0", subnet="192.168.249.0/24", slots=2)
    host.ensure_network(network_xml(network), NETWORK)
    nic = (
        f'<devices><interface type="network"><source network="{NETWORK}"/><model type="virtio"/></interface></devices>'
    )
    host.define(definition(NAMES[0]).replace("</domain>", f"{nic}</domain>"))
    host.start(NAMES[0])
    changed = network.model_copy(update={"subnet": "192.168.248.0/24"})
    with pytest.raises(HypervisorError, match="differs from the configuration and is used by 1 interfaces"):
        host.ensure_network(network_xml(changed), NETWORK)
    host.destroy(NAMES[0])
    host.ensure_network(network_xml(changed), NETWORK)


# --- the monitor's own process -----------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A monitor process, and a bus that hears it; the fixture ends both."""
    with tempfile.TemporaryDirectory(prefix="hv-", dir="/tmp") as text:  # socket paths are short
        path = Path(text) / "autoscaler.toml"
        system = {"run_dir": f"{text}/run", "state_dir": text}
        lines = [f"{key} = {json.dumps(value)}" for key, value in system.items()]
        path.write_text("[system]\n" + "\n".join(lines) + '\n[groups.hv]\nprefix = "hvtest-"\nkind = "existing"\n')
        command = [sys.executable, "-m", "services.monitor", "--config", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        config, _digest = config_file.load(path)
        bus = Bus.open(config, "recorder", CLOCK)
        bus.subscribe("monitor", "sample", "failure")
        yield bus
        bus.close()
        process.terminate()
        assert process.wait(30) == 0


def hear(bus: Bus, kind: type, matches: object = None, timeout_s: float = 30) -> tuple[float, HostSample | Failure]:
    """Return the first message that matches, and when it came."""
    end_s = CLOCK.monotonic_s() + timeout_s
    while CLOCK.monotonic_s() < end_s:
        for received in bus.receive(0.2).messages:
            body = received.body
            if isinstance(body, kind) and (matches is None or matches(body)):  # type: ignore[operator]
                assert isinstance(body, (HostSample, Failure))
                return CLOCK.monotonic_s(), body
    raise AssertionError(f"no {kind.__name__} within {timeout_s} s")


def test_the_death_of_qemu_is_on_the_bus_within_100_ms(host: Connection, bus: Bus) -> None:
    host.define(definition(NAMES[0]))
    late_s = []
    for _ in range(3):
        wait_for(lambda: mine(host)[NAMES[0]].state is DomainState.SHUTOFF)
        host.start(NAMES[0])
        hear(bus, HostSample, lambda sample: "running" in sample.states)
        watch = Stopwatch(*libvirtd(), *monitor())
        os.kill(pid(NAMES[0]), signal.SIGKILL)
        _, failure = hear(bus, Failure)
        late_s.append(watch.s())
        assert isinstance(failure, Failure) and (failure.domain, failure.reason) == (NAMES[0], "crashed")
    assert max(late_s) < 0.1, late_s


def libvirtd() -> list[int]:
    found = subprocess.run(["pgrep", "-x", "libvirtd"], stdout=subprocess.PIPE, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def monitor() -> list[int]:
    """Return the monitor's process: the one that this process has started."""
    words = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(word) for word in words]


@pytest.mark.fault(32, 40)
def test_a_frozen_qemu_becomes_unknown_while_the_others_are_sampled(running: Connection, bus: Bus, row: Proof) -> None:
    hear(bus, HostSample, lambda sample: None not in sample.cpu_ratios and len(sample.names) == 2)
    os.kill(pid(NAMES[0]), signal.SIGSTOP)
    try:
        _at, sample = hear(bus, HostSample, lambda sample: sample.cpu_ratios[0] is None)
        assert isinstance(sample, HostSample) and sample.is_reachable and sample.cpu_ratios[1] is not None
        assert sample.states == ("running", "running")
        row.held("its own figure becomes unknown, not zero, in a sample that has that of the domain beside it")
    finally:
        os.kill(pid(NAMES[0]), signal.SIGCONT)
    hear(bus, HostSample, lambda sample: sample.cpu_ratios[0] is not None)
    row.held("known again once it moves")


@contextmanager
def paused(host: Connection, name: str) -> Iterator[None]:
    host.suspend(name)
    try:
        yield
    finally:
        host.resume(name)


def failures_until(bus: Bus, matches: Callable[[HostSample], bool]) -> list[tuple[str, str]]:
    """Return reason and detail of the failures heard until a sample matches."""
    found: list[tuple[str, str]] = []
    end_s = CLOCK.monotonic_s() + 60
    while CLOCK.monotonic_s() < end_s:
        bodies = [received.body for received in bus.receive(0.2).messages]
        found += [(body.reason, body.detail) for body in bodies if isinstance(body, Failure)]
        if any(isinstance(body, HostSample) and matches(body) for body in bodies):
            return found
    raise AssertionError(f"no such sample within 60 s; failures: {found}")


def runs(sample: HostSample) -> bool:
    return sample.states.count("running") == len(NAMES) and not sample.suspended_uuids


def test_whoever_is_suspended_by_hand_is_told_and_stands_in_every_sample(running: Connection, bus: Bus) -> None:
    failures_until(bus, runs)
    with paused(running, NAMES[0]):
        told = failures_until(bus, lambda sample: len(sample.suspended_uuids) == 1 and "paused" in sample.states)
        assert [reason for reason, _ in told] == [SUSPENDED]
        assert told[0][1].startswith("user: ")
        assert failures_until(bus, lambda sample: len(sample.suspended_uuids) == 1) == []
    assert failures_until(bus, runs) == []


@pytest.mark.parametrize(
    "command", ["dump {} {} --memory-only", "snapshot-create-as {} one --memspec {} --no-metadata"]
)
def test_a_dump_and_a_snapshot_with_memory_end_nothing(
    running: Connection, bus: Bus, tmp_path: Path, command: str
) -> None:
    failures_until(bus, runs)
    words = command.format(NAMES[0], tmp_path / "memory").split()
    subprocess.run(["virsh", "-c", URI, *words], check=True, capture_output=True, timeout=60)
    told = failures_until(bus, runs)
    assert {reason for reason, _ in told} <= {SUSPENDED}


def test_a_domain_whose_memory_is_saved_is_suspended_until_it_is_started(running: Connection, bus: Bus) -> None:
    failures_until(bus, runs)
    running.save(NAMES[0])
    told = failures_until(bus, lambda sample: "shutoff" in sample.states and len(sample.suspended_uuids) == 1)
    assert {reason for reason, _ in told} == {SUSPENDED}
    assert told[-1][1].startswith("saved: ")
    running.start(NAMES[0])
    assert {reason for reason, _ in failures_until(bus, runs)} <= {SUSPENDED}
