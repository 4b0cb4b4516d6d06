"""Members whose checks time out under load are overloaded, not sick; what is sick holds up nobody else.

Overload is made as hosts make it: members get a tenth of a CPU, and far more is asked of them than that.
"""

import re
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt
import pytest

from bench.decided import decisions
from bench.driving import Load
from tests.e2e.power import qemu_pids
from tests.e2e.service import MakeWorld, Service, in_service, owners_group
from tests.e2e.steady import Steady
from tests.e2e.whole import CLOCK
from tests.e2e.world import World, now_s, wait_until

pytestmark = pytest.mark.slow

COUNT = 3
GRACE_S = 4.0
QUOTA = 0.1
CHECKS = "timeout_s = 0.5\n"
FEW_SLOTS, SLOW_S = 4, 15.0
CLIENTS, COST = 64, 50_000_000
FAIL_S = 60.0
OVERLOAD_S = 30.0
RECOVER_S = 60.0
QUIET_S = 15.0
LOOP_S = 120.0
LIFE_S = 3.0
MOST_STARTS = 8  # in two minutes; without pauses that grow it is about one in 8 s for each that crashes
MOST = 5
SHORT_GRACE_S = 2.0
OUTAGE_S = 60.0
MOST_CURES = 4  # in a minute; without pauses that double it is about one in 8 s
NO_HELP = re.compile("does not help")
ANSWER_S = 30.0


@contextmanager
def overloaded(service: Service) -> Iterator[None]:
    """Ask more of the group than it can do, and run the body once HAProxy holds a member for dead."""
    with Steady(service.world, rate=4 * CLIENTS, n=COST, threads=CLIENTS):
        wait_until(lambda: is_any_down(service), FAIL_S, "a member whose checks time out")
        yield


def is_any_down(service: Service) -> bool:
    """Return whether HAProxy holds any member for dead."""
    return any(not server.is_up for server in service.whole.servers())


def nobody_is_powered_off_by(service: Service) -> None:
    """Pass if an overload that lasts costs no domain its power, and all of them serve again after it."""
    before = qemu_pids({member["name"] for member in service.whole.ready()})
    assert len(before) == COUNT
    service.power.forget()
    with overloaded(service):
        until = now_s() + OVERLOAD_S
        wait_until(lambda: service.power.ends() or now_s() > until, 2 * OVERLOAD_S, "the overload to last")
        assert service.power.ends() == []
    wait_until(lambda: serves_again(service), RECOVER_S, f"all in rotation again; ended: {service.power.ends()}")
    time.sleep(QUIET_S)  # whoever was held for sick may be replaced only now
    assert service.power.ends() == []
    assert qemu_pids(set(before)) == before


def serves_again(service: Service) -> bool:
    """Return whether as many as there were take traffic."""
    ready = service.whole.ready()
    return len(ready) == service.count and all(service.whole.takes_traffic(member["address"]) for member in ready)


def test_an_overloaded_existing_group_keeps_its_power(make_world: MakeWorld, images: Path) -> None:
    extra = f"unhealthy_grace_s = {GRACE_S}\nmax_in_flight = {CLIENTS}"
    made = owners_group(make_world, images, "asev", 26, minimum=COUNT, extra=extra, readiness=CHECKS)
    with made as (world, domains), in_service(world, COUNT, rate=1) as service:
        for domain in domains:
            quota = {"vcpu_quota": round(QUOTA * 100_000)}
            domain.setSchedulerParametersFlags(quota, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        nobody_is_powered_off_by(service)


def test_an_overloaded_template_group_keeps_its_power(make_world: MakeWorld, images: Path) -> None:
    world = make_world(
        "aset",
        25,
        minimum=str(COUNT),
        maximum=str(COUNT),
        image=f'directory = "{images}"\nmemory_mib = 128\ncpu_quota = {QUOTA}',
        group_extra=f"unhealthy_grace_s = {GRACE_S}",
        extra=f"[groups.web.readiness]\n{CHECKS}",
    )
    world.config.write_text(
        world.config.read_text(encoding="utf-8").replace("max_in_flight = 16", f"max_in_flight = {CLIENTS}"),
        encoding="utf-8",
    )
    with in_service(world, COUNT, rate=1) as service:
        nobody_is_powered_off_by(service)


@contextmanager
def full(world: World) -> Iterator[None]:
    """Fill every slot of the group with requests that take long and cost nothing, and the queue behind them."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with suppress(OSError):
                world.get(f"/slow?ms={SLOW_S * 1000:.0f}", timeout_s=4 * SLOW_S)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3 * COUNT * FEW_SLOTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(4 * SLOW_S)


def one_check_that_succeeds_costs_nobody_its_power(service: Service) -> None:
    """Pass if members that fail together, while requests wait, keep their power when one of them passes again."""
    addresses = [member["address"] for member in service.whole.ready()]
    before = qemu_pids({member["name"] for member in service.whole.ready()})
    assert len(before) == COUNT
    service.power.forget()
    with Refusal(service.world.name, which="tcp flags & (syn | ack) == syn") as refusal, full(service.world):
        wait_until(lambda: waiting(service), FAIL_S, "requests that wait")
        refusal.add(addresses[:2])
        wait_until(lambda: down(service) >= set(addresses[:2]), FAIL_S, "two of three whose checks fail")
        time.sleep(2 * GRACE_S)  # each has failed for longer than its grace
        refusal.take_out(addresses[0])
        wait_until(lambda: addresses[0] not in down(service), FAIL_S, "one of the two passes again")
        time.sleep(4 * GRACE_S)  # the other one fails alone now
        assert service.power.ends() == []
        assert addresses[1] in down(service)
        assert waiting(service), "the overload has lasted"
        refusal.end()
    wait_until(lambda: serves_again(service), RECOVER_S, f"all in rotation again; ended: {service.power.ends()}")
    assert qemu_pids(set(before)) == before


def down(service: Service) -> set[str]:
    """Return the addresses that HAProxy holds for dead."""
    return {server.address for server in service.whole.servers() if not server.is_up}


def waiting(service: Service) -> int:
    """Return how many requests wait for a slot."""
    return service.whole.api.look(["web"]).totals["web"].queue


def test_one_check_that_succeeds_costs_nobody_of_an_existing_group_its_power(
    make_world: MakeWorld, images: Path
) -> None:
    extra = f'unhealthy_grace_s = {GRACE_S}\nmax_in_flight = {FEW_SLOTS}\npower_off = "after-stop-timeout"'
    made = owners_group(make_world, images, "aseo", 29, minimum=COUNT, extra=extra)
    with made as (world, _), in_service(world, COUNT, rate=0.2) as service:
        one_check_that_succeeds_costs_nobody_its_power(service)


def test_one_check_that_succeeds_costs_nobody_of_a_template_group_its_power(make_world: MakeWorld) -> None:
    extra = f"unhealthy_grace_s = {GRACE_S}"
    world = make_world("aseq", 30, minimum=str(COUNT), maximum=str(COUNT), group_extra=extra)
    text = world.config.read_text(encoding="utf-8")
    world.config.write_text(text.replace("max_in_flight = 16", f"max_in_flight = {FEW_SLOTS}"), encoding="utf-8")
    with in_service(world, COUNT, rate=0.2) as service:
        one_check_that_succeeds_costs_nobody_its_power(service)


def test_a_member_that_crashes_again_and_again_hides_no_overload_and_is_not_booted_for_ever(
    make_world: MakeWorld,
) -> None:
    world = make_world("asec", 27, minimum=str(COUNT), maximum=str(MOST))
    with in_service(world, COUNT, rate=1) as service:
        spared = {member["uuid"] for member in service.whole.ready()[1:]}
        service.power.forget()
        begun_at_s = CLOCK.epoch_s()
        with Load(world.config, "web"):
            crash_all_but(service, spared)
        records = decisions(service.whole.config, "web", begun_at_s)
        print(f"\n  desired at most {max(r.desired_after for r in records)}; {len(service.power.starts())} starts")
        assert max(record.desired_after for record in records) == MOST, Counter(record.limiter for record in records)
        assert len(service.power.starts()) <= MOST_STARTS


def crash_all_but(service: Service, spared: set[str]) -> None:
    """Kill the QEMU of every other member a moment after it serves, for two minutes."""
    since_s: dict[str, float] = {}
    until = now_s() + LOOP_S
    while now_s() < until:
        for member in service.whole.ready():
            first_s = since_s.setdefault(member["uuid"], now_s())
            if member["uuid"] not in spared and now_s() >= first_s + LIFE_S:
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    service.world.kill_qemu(member["name"])
        time.sleep(0.3)


def test_a_symptom_that_replacing_does_not_cure_is_said_and_tried_ever_more_rarely(make_world: MakeWorld) -> None:
    world = make_world("ases", 31, maximum="1", group_extra=f"unhealthy_grace_s = {SHORT_GRACE_S}")
    with in_service(world, 1, rate=1) as service, Refusal("ases") as refusal:
        service.power.forget()
        until = now_s() + OUTAGE_S
        told: set[str] = set()
        while now_s() < until:
            refusal.add(member["address"] for member in service.whole.ready())
            group = service.whole.group()
            told |= {said for said in (group["blocked"], *group["notes"]) if said and NO_HELP.search(said)}
            time.sleep(0.3)
        print(f"\n  {len(service.power.starts())} starts; told: {sorted(told)[-1:]}")
        assert len(service.power.starts()) <= MOST_CURES
        assert told
        refusal.end()
        wait_until(lambda: serves_again(service), RECOVER_S, "a domain in rotation once it is cured")


class Refusal:
    """Addresses whose connections are refused, as if each guest's application ended soon after it had started.

    ``which``: of those connections, in nftables' words; empty for all of them, those that are made already too.
    """

    def __init__(self, table: str, which: str = "") -> None:
        self._table = f"ip {table}"
        self._which = which

    def __enter__(self) -> "Refusal":
        refused = f"ip daddr @sick tcp dport 8080 {self._which} reject with tcp reset;"
        chain = f"chain out {{ type filter hook output priority 0; {refused} }}"
        nft(f"table {self._table} {{ set sick {{ type ipv4_addr; }}; {chain}; }}")
        return self

    def __exit__(self, *_: object) -> None:
        nft(f"delete table {self._table}")

    def add(self, addresses: Iterable[str]) -> None:
        """Refuse these too."""
        for address in addresses:
            nft(f"add element {self._table} sick {{ {address} }}")

    def take_out(self, address: str) -> None:
        """Refuse this one no longer."""
        nft(f"delete element {self._table} sick {{ {address} }}")

    def end(self) -> None:
        """Refuse nobody any more."""
        nft(f"flush set {self._table} sick")


def nft(order: str) -> None:
    """Have the kernel's filter do something."""
    subprocess.run(["nft", order], check=True)


def test_a_domain_that_cannot_serve_does_not_keep_the_next_one_from_being_started(
    make_world: MakeWorld, images: Path
) -> None:
    extra = f"boot_timeout_s = {ANSWER_S}\nstop_timeout_s = 5.0"
    made = owners_group(make_world, images, "aseb", 28, minimum=1, extra=extra, running=0)
    with made as (world, domains):
        spoil(domains[0], kernel="/nowhere/vmlinuz")  # it does not start
        spoil(domains[1], kernel=None)  # it starts, and never answers
        begin = now_s()
        world.autoscaler("up", check=False)
        try:
            wait_until(lambda: serving(world) == {"aseb-0002"}, max(1.0, begin + 3 * ANSWER_S - now_s()), "the third")
            print(f"\n  the third domain serves {now_s() - begin:.1f} s after make up")
        finally:
            world.autoscaler("down")


def serving(world: World) -> set[str]:
    """Return the names of the domains in rotation."""
    return {member["name"] for member in world.group()["domains"] if member["phase"] == "ready"}


def spoil(domain: libvirt.virDomain, kernel: str | None) -> None:
    """Give the domain another kernel, or none."""
    root = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    boot = root.find("os")
    assert boot is not None
    for tag in ("kernel", "initrd", "cmdline"):
        boot.remove(boot.find(tag))
    if kernel is not None:
        ET.SubElement(boot, "kernel").text = kernel
    domain.connect().defineXML(ET.tostring(root, encoding="unicode"))
