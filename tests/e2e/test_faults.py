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
from tests.e2e.small_disk import fill
from tests.e2e.steady import Steady
from tests.e2e.whole import BOOT_S, Whole
from tests.e2e.world import World, now_s, wait_until
from tests.faults.proof import Proof

NAME = "ase2"
STATE_BYTES = 128 * 1024 * 1024
FROZEN_S = 20.0
FROZEN_STEP_S = 3.0
RESTART_S = 1.0  # HAProxy's keeper starts it again at once; two cores that are busy with guests take their time
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


def test_a_second_copy_of_a_service_ends_at_once(whole: Whole) -> None:
    with whole.fault("a second copy of every service", boots=0), ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(whole.second_copy, SERVICES))
    assert codes == [75] * len(SERVICES)


@pytest.mark.fault(66)
@pytest.mark.parametrize("order", ["web/{} weight 0", "web/{} state maint", "web/{} state drain"])
def test_a_slot_that_was_changed_by_hand_is_restored(whole: Whole, order: str, row: Proof) -> None:
    slot = whole.servers()[0].name
    with whole.fault(f"set server {order.format(slot)}", boots=0):
        assert whole.api.order([f"set server {order.format(slot)}"]) == []
    assert whole.api.ask([f"get weight web/{slot}"]) == ["1 (initial 1)"]
    row.held(f"a real installation: {order.format('vm1')} is undone, and no GET fails")


def test_a_killed_haproxy_worker_is_back_with_its_slots_in_seconds(whole: Whole) -> None:
    await_age(whole)
    worker = whole.pids("haproxy")[-1]
    with whole.fault("SIGKILL to HAProxy's worker", boots=0, lost_for_s=RESTART_S):
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in whole.pids("haproxy"), 5, "the worker's end")


def test_a_killed_haproxy_master_leaves_one_haproxy(whole: Whole) -> None:
    await_age(whole)
    before = whole.pids("haproxy")
    with whole.fault("SIGKILL to HAProxy's master", boots=0, lost_for_s=RESTART_S):
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: not set(before) & set(whole.pids("haproxy")), 10, "the end of the old HAProxy")


def await_age(whole: Whole) -> None:
    """Return when HAProxy has run for so long that its keeper takes its end for an accident."""

    def age_s() -> int:
        pids = ",".join(map(str, whole.pids("haproxy")))
        done = subprocess.run(["ps", "-o", "etimes=", "-p", pids], capture_output=True, text=True, check=False)
        return min(map(int, done.stdout.split()), default=0)

    wait_until(lambda: age_s() >= KEEPER_PAUSES_S, 30, "HAProxy to have run for a while")


def test_a_domain_that_was_removed_by_hand_is_replaced(whole: Whole) -> None:
    victim = whole.ready()[-1]["name"]
    uuid = whole.owned()[victim]
    with whole.fault(f"virsh undefine and destroy {victim}"):
        domain = whole.domain(victim)
        domain.undefine()
        domain.destroy()
        wait_until(lambda: uuid not in whole.owned().values(), 5, "its end")


def test_a_frozen_qemu_is_taken_out_and_replaced(whole: Whole) -> None:
    victim = whole.ready()[0]
    with whole.fault(f"SIGSTOP to the QEMU of {victim['name']}"):
        os.kill(whole.world.qemu_pid(victim["name"]), signal.SIGSTOP)
        begin = now_s()
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 10, "the frozen guest out of rotation")
        print(f"  out of rotation after {now_s() - begin:.1f} s")
        wait_until(lambda: victim["uuid"] not in {d["uuid"] for d in whole.ready()}, 15, "its phase to change")
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
    with whole.fault(f"every packet to {victim['name']} dropped"):
        chain = f"type filter hook output priority 0; ip daddr {victim['address']} drop;"
        subprocess.run(["nft", f"table ip {NAME} {{ chain out {{ {chain} }}; }}"], check=True)
        try:
            begin = now_s()
            wait_until(lambda: not whole.takes_traffic(victim["address"]), 10, "the silent guest out of rotation")
            print(f"  out of rotation after {now_s() - begin:.1f} s")
            wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its end")
        finally:
            subprocess.run(["nft", f"delete table ip {NAME}"], check=True)


def test_a_frozen_decider_changes_nothing_and_what_fails_is_replaced_meanwhile(whole: Whole) -> None:
    before, victim = whole.group()["desired"], whole.ready()[0]
    with (
        whole.fault(f"SIGSTOP to the decider for {FROZEN_S:.0f} s, a QEMU killed", boots=0),
        whole.stopped(whole.pid("decider")),
    ):
        until = now_s() + FROZEN_S
        whole.kill_qemu(victim["name"])

        def is_replaced() -> bool:
            serving = [server for server in whole.servers() if whole.takes_traffic(server.address)]
            return victim["uuid"] not in whole.owned().values() and len(serving) == before

        wait_until(lambda: is_replaced() and now_s() >= until, FROZEN_S + BOOT_S, "its replacement in rotation")
        assert len(whole.owned()) == before


def test_a_domain_takes_no_traffic_while_the_balancer_is_frozen_and_joins_after(whole: Whole) -> None:
    before = {domain["uuid"] for domain in whole.ready()}
    with whole.fault("SIGSTOP to the balancer while a domain joins"):
        with whole.stopped(whole.pid("balancer")):
            whole.world.autoscaler("replace", whole.ready()[0]["name"])
            joining = lambda: [d for d in whole.group()["domains"] if d["phase"] == "warming"]  # noqa: E731
            new = wait_until(joining, BOOT_S, "a domain that answers and waits for the balancer")[0]
            waited_s = lambda: next(d["age_s"] for d in whole.group()["domains"] if d["uuid"] == new["uuid"])  # noqa: E731
            wait_until(lambda: waited_s() >= FROZEN_STEP_S, BOOT_S, "three seconds in which the actuator saw it wait")
            assert [d["phase"] for d in whole.group()["domains"] if d["uuid"] == new["uuid"]] == ["warming"]
            assert before <= {d["uuid"] for d in whole.ready()}
            assert not whole.takes_traffic(new["address"])
        wait_until(lambda: new["uuid"] in {d["uuid"] for d in whole.ready()}, 30, "the new domain in rotation")
        wait_until(lambda: not before <= set(whole.owned().values()), 60, "the old domain's end")


def test_a_full_disk_stops_no_service_and_no_replacement(whole: Whole) -> None:
    filler = whole.world.state_dir / "filler"
    with whole.fault("no space left in state_dir; decider, actuator, balancer and a QEMU killed"):
        try:
            fill(filler)
            for service in ("decider", "actuator", "balancer", "recorder"):
                os.kill(whole.pid(service), signal.SIGKILL)
            whole.converge("every service back, on a full disk", boots=0)
            whole.kill_qemu(whole.ready()[0]["name"])
            whole.converge("a replacement, on a full disk")
        finally:
            filler.unlink()
    log = whole.world.state_dir / "log" / "recorder.log"
    wait_until(lambda: "recording-resumed" in log.read_text(encoding="utf-8"), 30, "the recorder to write again")
    for store in whole.world.state_dir.glob("*.json"):
        json.loads(store.read_text(encoding="utf-8"))


def test_traffic_goes_on_while_every_service_is_dead_and_a_dead_guest_is_taken_out(whole: Whole) -> None:
    with whole.fault("all services killed for 200 GETs, a QEMU killed"), whole.stopped(whole.pid("supervisord")):
        victim = whole.ready()[0]
        for service in SERVICES:
            os.kill(whole.pid(service), signal.SIGKILL)
        wait_until(lambda: not whole.processes().keys() & set(SERVICES), 30, "the end of all")
        whole.world.kill_qemu(victim["name"])
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 5, "the dead guest out of rotation")
        sent = whole.steady.sent
        wait_until(lambda: whole.steady.sent >= sent + 200, 60, "two hundred GETs without any service")
        assert not whole.processes().keys() & set(SERVICES)


def test_up_starts_what_somebody_stopped(whole: Whole) -> None:
    with whole.fault("a service stopped by supervisord's own means, then up", boots=0):
        supervisor(whole).supervisor.stopProcess("recorder")
        assert "recorder" not in whole.processes()
        assert "started again" in whole.world.autoscaler("up").stdout


def test_a_killed_supervisord_leaves_no_orphan_and_up_starts_all_again(whole: Whole) -> None:
    before, processes = whole.owned(), whole.all_pids()
    with whole.fault("SIGKILL to supervisord, then up", boots=0, lost_for_s=30.0):
        os.kill(whole.pid("supervisord"), signal.SIGKILL)
        whole.world.autoscaler("up")
    assert not processes & whole.all_pids()
    assert whole.owned() == before


def test_nothing_was_scaled_by_all_this(whole: Whole) -> None:
    events = whole.world.autoscaler("events", "--limit", "1000").stdout
    assert "scale-in" not in events
    assert "scale-out" not in events
