"""libvirtd and its host in faults, and what others do with domains, on one whole installation of two domains.

It is under 20 GETs a second. Each test ends when everything holds again that must hold (``Whole.problems``).
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt
import pytest

from common.services import SERVICES
from tests.e2e.power import Power, qemu_pids
from tests.e2e.service import BOOT_S, MakeWorld, in_service
from tests.e2e.whole import Whole
from tests.e2e.world import ROOT, libvirtd_pid, now_s, restart_libvirtd, wait_until
from tests.faults.proof import Proof

NAME, NUMBER = "asfg", 75
COUNT = 2
GRACE_S = 4.0
LOOK_S = 4.0  # from the end of a grace to what a look and a plan make of it, on a busy machine
BEAT_S = 2.0  # a look, and its answer, on a busy machine
KEEPALIVE_S = 20.0  # after which whoever hears nothing of libvirtd gives a call up
AWAY_S = 45.0  # longer than any grace of a lost host's, and than a scale-in would take
CONNECTIONS = 512  # as many as the guest's application serves at once
CONNECTION_S = 60.0  # without a request it closes one
STRANGER = (
    "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>"
)
OTHER_BOOT = "00000000-0000-4000-8000-00000000b007"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def strangers() -> Iterator[dict[str, str]]:
    """Define domains of somebody else's whose names look like ours, one of them the next one that we would take."""
    connection = libvirt.open("qemu:///system")
    domains = [connection.defineXML(STRANGER.format(f"{NAME}-{tail}")) for tail in ("foreign", "0002", "0007")]
    yield {domain.name(): domain.XMLDesc() for domain in domains}
    connection.close()
    connection = libvirt.open("qemu:///system")  # libvirtd was restarted
    for tail in ("foreign", "0002", "0007"):
        connection.lookupByName(f"{NAME}-{tail}").undefine()
    connection.close()


@pytest.fixture(scope="module")
def installation(make_world: MakeWorld, strangers: dict[str, str]) -> Iterator[Whole]:
    """Return the installation once two domains serve."""
    extra = f"unhealthy_grace_s = {GRACE_S}"
    world = make_world(NAME, NUMBER, minimum=str(COUNT), maximum="3", group_extra=extra)
    with in_service(world, COUNT) as service:
        service.whole.strangers = strangers
        yield service.whole


@pytest.fixture
def whole(installation: Whole) -> Whole:
    """Return it once it is whole, whatever the test before did."""
    installation.converge(f"{COUNT} domains in rotation")
    installation.steady.failures.clear()
    return installation


def said(whole: Whole, service: str, what: str) -> int:
    """Return how often a service's log has said something."""
    return (whole.world.state_dir / "log" / f"{service}.log").read_text(encoding="utf-8").count(what)


def powered(whole: Whole) -> dict[str, int]:
    """Return the QEMU of each domain of ours that has one."""
    return qemu_pids(set(whole.owned()))


@pytest.mark.fault(38)
def test_a_restart_of_libvirtd_leaves_the_domains_alone_and_is_over_at_once(whole: Whole, row: Proof) -> None:
    before, pids = whole.owned(), powered(whole)
    connected = {service: said(whole, service, "host-connected") for service in ("monitor", "actuator")}
    with whole.fault("libvirtd restarted", boots=0):
        restart_libvirtd()
        begin = now_s()
        for service, count in connected.items():
            wait_until(lambda s=service, c=count: said(whole, s, "host-connected") > c, 10, f"the {service}", 0.02)
            row.measured(f"the {service} is connected again", now_s() - begin, at_most=5.0)
    assert (whole.owned(), powered(whole)) == (before, pids)
    row.held("the same domains run in the same processes, and no GET failed")


@pytest.mark.fault(41)
def test_a_killed_qemu_is_out_of_rotation_at_once_and_replaced(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[0]
    with whole.fault(f"SIGKILL to the QEMU of {victim['name']}"):
        whole.kill_qemu(victim["name"])
        row.measured("out of rotation", whole.cut_ms[-1] / 1000, at_most=0.25)
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its end")
    row.held("replaced, and no GET failed")


@contextmanager
def crowd(address: str) -> Iterator[None]:
    """Hold all connections that a guest's application serves, for as long as the body takes.

    The place of another's connection that has ended is taken, and its own are kept from ending for want of requests.
    """
    connections: list[socket.socket] = []
    over = threading.Event()

    def more() -> None:
        connection = socket.create_connection((address, 8080), timeout=10)
        connection.setblocking(False)
        connections.append(connection)

    def stay() -> None:
        renewed_s = now_s()
        while not over.wait(0.05):
            with suppress(OSError):  # its domain is gone by now
                more()
            if now_s() - renewed_s < CONNECTION_S / 2:
                continue
            renewed_s = now_s()
            for connection in connections:
                with suppress(OSError):
                    connection.send(b"GET /healthz HTTP/1.1\r\nHost: guest\r\n\r\n")

    staying = threading.Thread(target=stay, daemon=True)
    try:
        for _ in range(CONNECTIONS):
            more()
        staying.start()
        yield
    finally:
        over.set()
        if staying.ident is not None:
            staying.join()
        for connection in connections:
            connection.close()


@pytest.mark.fault(42)
def test_a_dead_application_is_told_by_its_check_and_its_domain_replaced(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[0]
    process, well_s = whole.world.qemu_pid(victim["name"]), now_s()
    # what its application answers until its check has failed twice is its own answer: 503
    with (
        whole.fault(f"the application of {victim['name']} has no place for anybody", lost_for_s=20.0),
        crowd(victim["address"]),
    ):
        before = set(whole.owned().values())
        wait_until(lambda: not whole.takes_traffic(victim["address"]), 30, "its check to fail", every_s=0.01)
        begin = now_s()
        assert whole.domain(victim["name"]).isActive() and Path(f"/proc/{process}").exists()
        row.held("its check fails while its domain runs: out of rotation")
        wait_until(lambda: set(whole.owned().values()) - before, 60, "another in its place", every_s=0.05)
        row.measured("given up for another one, with a grace of 4 s", now_s() - begin, at_most=GRACE_S + LOOK_S)
        assert now_s() - well_s > GRACE_S
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its end")
    row.held("replaced")


@pytest.mark.fault(43)
def test_a_guest_that_shuts_itself_down_is_replaced(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[0]
    with whole.fault(f"{victim['name']} shuts itself down"), Power(f"{NAME}-") as power:
        whole.domain(victim["name"]).shutdown()
        wait_until(lambda: (victim["name"], "shutdown") in power.ends(), 30, "its power to be off")
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its end")
    row.held("a guest that shut itself down is replaced, and no GET failed")


def is_renamed(domain: libvirt.virDomain, name: str) -> bool:
    """Rename a domain that is off, if it is still there."""
    try:
        domain.rename(name)
    except libvirt.libvirtError:
        return False
    return True


@pytest.mark.fault(50)
def test_what_somebody_does_to_our_domains_by_hand_ends_well(whole: Whole, row: Proof) -> None:
    victim = whole.ready()[-1]
    with whole.fault(f"virsh destroy {victim['name']}, then virsh start"):
        domain = whole.domain(victim["name"])
        domain.destroy()
        with suppress(libvirt.libvirtError):  # it is gone already
            domain.create()
    row.held("destroyed and started by hand: as many serve as are desired, and no GET failed")
    victim, other = whole.ready()[-1], f"{NAME}-renamed"
    with whole.fault(f"virsh destroy {victim['name']}, then virsh domrename"):
        domain = whole.domain(victim["name"])
        domain.destroy()
        renamed = is_renamed(domain, other)
        if renamed:
            whole.strangers[other] = whole.domain(other).XMLDesc()
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), BOOT_S, "its name to be free")
    if renamed:
        whole.domain(other).undefine()
        del whole.strangers[other]
        row.held("destroyed and renamed by hand: left alone under its new name, and replaced; no GET failed")
    assert {f"{NAME}-{tail}" for tail in ("foreign", "0002", "0007")} == whole.strangers.keys()
    row.held("strangers named like ours, the next number, a higher one and no number at all, are untouched")


@pytest.mark.fault(39, 47, 48)
def test_a_libvirtd_that_hangs_costs_nobody_anything_and_what_is_too_many_leaves_after_it(
    whole: Whole, row: Proof
) -> None:
    world, before, pids = whole.world, whole.owned(), powered(whole)
    lost = said(whole, "actuator", "host-lost")
    with whole.fault("SIGSTOP to libvirtd, one domain too many"):
        with whole.stopped(libvirtd_pid()):
            begin, sent = now_s(), whole.steady.sent
            world.autoscaler("bounds", "--min", "1")
            wait_until(lambda: said(whole, "actuator", "host-lost") > lost, 60, "the actuator's call to end", 0.05)
            row.measured("the actuator's call ends", now_s() - begin, at_most=KEEPALIVE_S + BEAT_S)
            wait_until(lambda: now_s() - begin > AWAY_S / 2, AWAY_S, "half of the fault")
            assert {d["name"]: d["uuid"] for d in whole.ready()} == before
            os.kill(whole.pid("actuator"), signal.SIGKILL)
            wait_until(lambda: now_s() - begin > AWAY_S, AWAY_S, "the end of the fault")
            group = whole.group()
            assert (group["desired"], group["min"]) == (COUNT, 1), group
            assert qemu_pids(set(before)) == pids
            serving = [server for server in whole.servers() if whole.takes_traffic(server.address)]
            assert len(serving) == COUNT
            row.held(f"for {AWAY_S:.0f} s every domain keeps its traffic: {whole.steady.sent - sent} GETs, none failed")
            row.held(
                "nothing is replaced, and nothing scaled in, of one domain too many; the actuator killed meanwhile"
            )
        back = now_s()
        with Power(f"{NAME}-") as power:
            known = lambda: {d["name"]: d["uuid"] for d in whole.ready()} == before  # noqa: E731
            wait_until(known, 30, "both to be known again", every_s=0.05)
            row.held(
                f"known again by their records {now_s() - back:.1f} s after it goes on, to an actuator that is new"
            )
            wait_until(lambda: len(whole.owned()) == 1, 90, "one domain to leave")
            assert [how for _, how in power.ends()] == ["shutdown"]
            row.held(f"what is too many is drained and shut down, {now_s() - back:.1f} s after")
        assert whole.owned().items() <= before.items()
        world.autoscaler("bounds", "--reset")


@pytest.mark.fault(49)
def test_after_a_reboot_nothing_starts_by_itself_and_up_brings_all_back(whole: Whole, row: Proof) -> None:
    world, before = whole.world, whole.owned()
    reboot(whole)
    wait_until(is_libvirt_there, 30, "libvirtd to be there")
    wait_until(lambda: powered(whole) == {}, 30, "libvirtd to have noticed")
    assert whole.owned() == before and not any(whole.domain(name).isActive() for name in before)
    assert not any(whole.domain(name).autostart() for name in before)
    row.held("no domain is marked to start by itself, and none does")
    other = world.config.parent / "boot_id"
    other.write_text(f"{OTHER_BOOT}\n", encoding="ascii")
    inside = f'mount --bind {other} {BOOT_ID} && exec "$@"'
    up = [sys.executable, "-m", "cli", "--config", str(world.config), "up"]
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", *up]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole.converge("two others in rotation")
    assert not set(before.values()) & set(whole.owned().values())
    row.held("the domains from before are removed, and others serve once the services are started")


def reboot(whole: Whole) -> None:
    """Leave of the installation what a host has after a reboot: files, and libvirtd with definitions."""
    for kind in ("supervisord", *SERVICES, "haproxy"):
        for pid in whole.pids(kind):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for pid in powered(whole).values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not whole.all_pids(), 30, "all processes to end")
    restart_libvirtd()


def is_libvirt_there() -> bool:
    try:
        libvirt.open("qemu:///system").close()
    except libvirt.libvirtError:
        return False
    return True
