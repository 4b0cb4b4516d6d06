"""Faults that only the whole, running system can show, each under a steady stream of GETs.

The tests share one installation of two domains. Each injects one fault, and ends when everything holds again that must
hold (``Whole.problems``): as many domains as desired, names once, no slot without its domain, one process of each
service, nothing leaked, no stranger touched.
"""

import json
import os
import signal
import subprocess
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import libvirt
import pytest
from supervisor.xmlrpc import SupervisorTransport

from cli.supervisor_config import control_socket
from common.config import SERVICES
from tests.e2e.packets import rules
from tests.e2e.small_disk import fill
from tests.e2e.steady import Steady
from tests.e2e.whole import BOOT_S, Whole
from tests.e2e.world import World, now_s, wait_until
from tests.faults.proof import Proof
from tests.waiting import queued_s

NAME = "ase2"
STATE_BYTES = 128 * 1024 * 1024
SILENT_S = 3.0
RESTART_S = 1.0  # HAProxy's keeper starts it again at once; two cores that are busy with guests take their time
LOST_S = 0.2  # without the time in which those cores had none for HAProxy
KEEPER_PAUSES_S = 3.0  # where HAProxy ended sooner after its start, its keeper waits before the next one
STRANGER = (
    "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>"
)


@pytest.fixture(scope="module")
def strangers() -> Iterator[dict[str, str]]:
    """Define domains of somebody else's whose names look like ours, one of them the next one that we would take."""
    connection = libvirt.open("qemu:///system")
    domains = [connection.defineXML(STRANGER.format(f"{NAME}-{tail}")) for tail in ("foreign", "0002", "0007")]
    yield {domain.name(): domain.XMLDesc() for domain in domains}
    for domain in domains:
        domain.undefine()
    connection.close()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> Iterator[World]:
    """Return a running installation of two domains, whose state directory is a small file system of its own."""
    world = make_world(NAME, 2, group_extra="unhealthy_grace_s = 4.0")
    text = world.config.read_text(encoding="utf-8").replace("min = 1", "min = 2").replace("max = 4", "max = 3")
    world.config.write_text(text, encoding="utf-8")
    world.state_dir.mkdir(mode=0o711)
    options = f"size={STATE_BYTES},mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, NAME, str(world.state_dir)], check=True)
    try:
        world.autoscaler("up")
        yield world
        world.autoscaler("down", "--everything")
    finally:
        subprocess.run(["umount", "--lazy", str(world.state_dir)], check=True)


@pytest.fixture(scope="module")
def whole(strangers: dict[str, str], world: World) -> Iterator[Whole]:
    """Return the installation under 20 GETs a second, once it is whole."""
    with Steady(world, rate=20) as steady:
        whole = Whole(world, steady)
        whole.strangers = strangers
        try:
            whole.converge("two domains in rotation")
            steady.failures.clear()
            yield whole
        finally:
            whole.close()


def supervisor(whole: Whole) -> xmlrpc.client.ServerProxy:
    """Return supervisord, as supervisorctl reaches it."""
    transport = SupervisorTransport(None, None, f"unix://{control_socket(whole.config.system)}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)


@pytest.mark.fault(13)
def test_a_second_copy_of_a_service_ends_at_once(whole: Whole, row: Proof) -> None:
    with whole.fault("a second copy of every service", boots=0), ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(whole.second_copy, SERVICES))
    assert codes == [75] * len(SERVICES)
    row.held("a second copy of each service ends with code 75; the group is whole, and no GET failed")


@pytest.mark.fault(66)
@pytest.mark.parametrize("order", ["web/{} weight 0", "web/{} state maint", "web/{} state drain"])
def test_a_slot_that_was_changed_by_hand_is_restored(whole: Whole, order: str, row: Proof) -> None:
    slot = whole.servers()[0].name
    with whole.fault(f"set server {order.format(slot)}", boots=0):
        assert whole.api.order([f"set server {order.format(slot)}"]) == []
    assert whole.api.ask([f"get weight web/{slot}"]) == ["1 (initial 1)"]
    row.held(f"a real installation: {order.format('vm1')} is undone, and no GET fails")


@pytest.mark.fault(7)
def test_a_killed_haproxy_worker_is_back_with_its_slots_in_seconds(whole: Whole, row: Proof) -> None:
    await_age(whole)
    worker, before = whole.pids("haproxy")[-1], len(whole.steady.failures)
    with whole.fault("SIGKILL to HAProxy's worker", boots=0, lost_for_s=RESTART_S):
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in whole.pids("haproxy"), 5, "the worker's end")
        wait_until(lambda: len(whole.pids("haproxy")) == 2, 10, "the next one", every_s=0.02)
        delayed_s = sum(queued_s(pid) for pid in whole.pids("haproxy"))
    lost = [at for at, _ in whole.steady.failures[before:]]
    lost_s = max(lost) - min(lost) if lost else 0.0
    row.measured("from the first lost GET to the last", max(lost_s - delayed_s, 0.0), at_most=LOST_S)
    row.held("a worker of a whole installation: its keeper starts it again, and every slot is in rotation")


@pytest.mark.fault(8)
def test_a_killed_haproxy_master_leaves_one_haproxy(whole: Whole, row: Proof) -> None:
    await_age(whole)
    before = whole.pids("haproxy")
    with whole.fault("SIGKILL to HAProxy's master", boots=0, lost_for_s=RESTART_S):
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: not set(before) & set(whole.pids("haproxy")), 10, "the end of the old HAProxy")
    row.held("the worker of a killed master ends with it; one other HAProxy serves, with every slot in rotation")


def await_age(whole: Whole) -> None:
    """Return when HAProxy has run for so long that its keeper takes its end for an accident."""

    def age_s() -> int:
        pids = ",".join(map(str, whole.pids("haproxy")))
        done = subprocess.run(["ps", "-o", "etimes=", "-p", pids], capture_output=True, text=True, check=False)
        return min(map(int, done.stdout.split()), default=0)

    wait_until(lambda: age_s() >= KEEPER_PAUSES_S, 30, "HAProxy to have run for a while")


@pytest.mark.fault(50)
def test_a_domain_that_was_removed_by_hand_is_replaced(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[-1]["name"]
    uuid = whole.owned()[victim]
    with whole.fault(f"virsh undefine and destroy {victim}"):
        domain = whole.domain(victim)
        domain.undefine()
        domain.destroy()
        wait_until(lambda: uuid not in whole.owned().values(), 5, "its end")
    row.held("undefined and destroyed by hand: replaced, and no GET failed")


@pytest.mark.fault(40)
def test_a_frozen_qemu_is_taken_out_and_replaced(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[0]
    with whole.fault(f"SIGSTOP to the QEMU of {victim['name']}"):
        os.kill(whole.world.qemu_pid(victim["name"]), signal.SIGSTOP)
        begin = now_s()
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 10, "the frozen guest out of rotation", 0.01)
        row.measured("out of rotation", now_s() - begin, at_most=1.5)
        wait_until(lambda: victim["uuid"] not in {d["uuid"] for d in whole.ready()}, 15, "its phase to change")
    row.held("replaced, and no GET failed")
    assert "takes nothing new: frozen" in whole.world.autoscaler("events").stdout


def test_a_frozen_qemu_that_goes_on_serves_again_and_is_not_replaced(whole: Whole) -> None:
    victim = whole.ready()[0]
    with whole.fault(f"SIGSTOP, then SIGCONT to the QEMU of {victim['name']}", boots=0):
        with whole.stopped(whole.world.qemu_pid(victim["name"])):
            wait_until(lambda: not whole.takes_traffic(victim["address"]), 10, "the frozen guest out of rotation")
        begin = now_s()
        wait_until(lambda: whole.takes_traffic(victim["address"]), 10, "the guest in rotation again")
        print(f"  in rotation again after {now_s() - begin:.1f} s")
    assert victim["uuid"] in {domain["uuid"] for domain in whole.ready()}


def test_a_guest_that_does_not_answer_is_taken_out_and_replaced(whole: Whole) -> None:
    victim = whole.ready()[0]
    drop = f"ip daddr {victim['address']} drop"
    with whole.fault(f"every packet to {victim['name']} dropped"), rules(NAME, drop):
        begin = now_s()
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 10, "the silent guest out of rotation")
        print(f"  out of rotation after {now_s() - begin:.1f} s")
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its end")


@pytest.mark.fault(9)
def test_a_frozen_decider_changes_nothing_and_what_fails_is_replaced_meanwhile(whole: Whole, row: Proof) -> None:
    before, victim = whole.group()["desired"], whole.ready()[0]
    frozen_s = row.lasts_s(60.0)
    with (
        whole.fault(f"SIGSTOP to the decider for {frozen_s:.0f} s, a QEMU killed", boots=0),
        whole.stopped(whole.pid("decider")),
    ):
        until = now_s() + frozen_s
        whole.kill_qemu(victim["name"])

        def is_replaced() -> bool:
            serving = [server for server in whole.servers() if whole.takes_traffic(server.address)]
            return victim["uuid"] not in whole.owned().values() and len(serving) == before

        wait_until(lambda: is_replaced() and now_s() >= until, frozen_s + BOOT_S, "its replacement in rotation")
        assert len(whole.owned()) == before
    assert whole.group()["desired"] == before
    row.held(f"stopped for {frozen_s:.0f} s: what dies meanwhile is replaced, and the decider decides nothing of it")


@pytest.mark.fault(10)
def test_a_domain_takes_no_traffic_while_the_balancer_is_frozen_and_joins_after(whole: Whole, row: Proof) -> None:
    before = {domain["uuid"] for domain in whole.ready()}
    frozen_s = row.lasts_s(60.0)
    with whole.fault(f"SIGSTOP to the balancer for {frozen_s:.0f} s while a domain joins"):
        with whole.stopped(whole.pid("balancer")):
            until = now_s() + frozen_s
            whole.world.autoscaler("replace", whole.ready()[0]["name"])
            joining = lambda: [d for d in whole.group()["domains"] if d["phase"] == "warming"]  # noqa: E731
            new = wait_until(joining, BOOT_S, "a domain that answers and waits for the balancer")[0]
            waited_s = lambda: next(d["age_s"] for d in whole.group()["domains"] if d["uuid"] == new["uuid"])  # noqa: E731
            wait_until(lambda: waited_s() >= SILENT_S, BOOT_S, "three seconds in which the actuator saw it wait")
            wait_until(lambda: now_s() >= until, frozen_s, "the end of the fault")
            assert [d["phase"] for d in whole.group()["domains"] if d["uuid"] == new["uuid"]] == ["warming"]
            assert before <= {d["uuid"] for d in whole.ready()}
            assert not whole.takes_traffic(new["address"])
            assert whole.world.get("/healthz")[0] == 200
        row.held(f"for {frozen_s:.0f} s the domain that has joined answers and waits, and gets no traffic")
        wait_until(lambda: new["uuid"] in {d["uuid"] for d in whole.ready()}, 30, "the new domain in rotation")
        row.held("it is in rotation once the balancer goes on")
        wait_until(lambda: not before <= set(whole.owned().values()), 60, "the old domain's end")


@pytest.mark.fault(6)
def test_a_full_disk_stops_no_service_and_no_replacement(whole: Whole, row: Proof) -> None:
    plotted = whole.world.state_dir / "log" / "plotter.log"
    filler = whole.world.state_dir / "filler"
    with whole.fault("no space left in state_dir; decider, actuator, balancer and a QEMU killed"):
        try:
            fill(filler)
            for service in ("decider", "actuator", "balancer", "recorder", "plotter"):
                os.kill(whole.pid(service), signal.SIGKILL)
            whole.converge("every service back, on a full disk", boots=0)
            whole.kill_qemu(whole.ready()[0]["name"])
            whole.converge("a replacement, on a full disk")
            wait_until(
                lambda: "graph-not-written" in plotted.read_text(encoding="utf-8"), 30, "a picture without space"
            )
            row.held("without space for its picture the plotter says so and lives; a dead domain is replaced meanwhile")
        finally:
            filler.unlink()
    log = whole.world.state_dir / "log" / "recorder.log"
    wait_until(lambda: "recording-resumed" in log.read_text(encoding="utf-8"), 30, "the recorder to write again")
    for store in whole.world.state_dir.glob("*.json"):
        json.loads(store.read_text(encoding="utf-8"))


@pytest.mark.fault(11)
def test_traffic_goes_on_while_every_service_is_dead_and_a_dead_guest_is_taken_out(whole: Whole, row: Proof) -> None:
    dead_s = row.lasts_s(600.0)
    with (
        whole.fault(f"all services killed for {dead_s:.0f} s, a QEMU killed"),
        whole.stopped(whole.pid("supervisord")),
    ):
        victim = whole.ready()[0]
        for service in SERVICES:
            os.kill(whole.pid(service), signal.SIGKILL)
        wait_until(lambda: not whole.processes().keys() & set(SERVICES), 30, "the end of all")
        until, sent = now_s() + dead_s, whole.steady.sent
        whole.world.kill_qemu(victim["name"])
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 5, "the dead guest out of rotation")
        row.held("HAProxy takes a dead domain out by itself")
        wait_until(lambda: now_s() >= until, dead_s, "the end of the fault")
        assert not whole.processes().keys() & set(SERVICES)
        sent = whole.steady.sent - sent
    row.held(f"{dead_s:.0f} s without any service: none of {sent} GETs failed")


def test_up_starts_what_somebody_stopped(whole: Whole) -> None:
    with whole.fault("a service stopped by supervisord's own means, then up", boots=0):
        supervisor(whole).supervisor.stopProcess("recorder")
        assert "recorder" not in whole.processes()
        assert "started again" in whole.world.autoscaler("up").stdout


@pytest.mark.fault(8)
def test_a_killed_supervisord_is_back_with_all_its_services_and_haproxy_serves_on(whole: Whole, row: Proof) -> None:
    before, processes, haproxy = whole.owned(), whole.all_pids(), set(whole.pids("haproxy"))
    with whole.fault("SIGKILL to supervisord", boots=0):
        os.kill(whole.pid("supervisord"), signal.SIGKILL)
    assert processes & whole.all_pids() == haproxy
    assert whole.owned() == before
    row.held(
        "a killed supervisord is started again; its services end with it, and one of each runs again beside the same "
        "domains; HAProxy is taken over, and no GET fails"
    )


@pytest.mark.fault(8)
def test_a_supervisord_killed_with_its_keeper_leaves_haproxy_alone_until_up(whole: Whole, row: Proof) -> None:
    before, processes, haproxy = whole.owned(), whole.all_pids(), set(whole.pids("haproxy"))
    with whole.fault("SIGKILL to supervisord and its keeper, then up", boots=0):
        os.kill(int((whole.world.run_dir / "supervisord.keeper").read_text()), signal.SIGKILL)
        os.kill(whole.pid("supervisord"), signal.SIGKILL)
        wait_until(lambda: not whole.processes().keys() & set(SERVICES), 10, "the end of all services")
        told = whole.world.autoscaler("status", check=False)
        assert "not running: make up; HAProxy serves on" in told.stdout + told.stderr
        whole.world.autoscaler("up")
    assert processes & whole.all_pids() == haproxy
    assert whole.owned() == before
    row.held("killed with its keeper: HAProxy serves on alone, and `up` takes it over; no GET fails")


def test_nothing_was_scaled_by_all_this(whole: Whole) -> None:
    events = whole.world.autoscaler("events", "--limit", "1000").stdout
    assert "scale-in" not in events
    assert "scale-out" not in events
