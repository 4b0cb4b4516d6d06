"""The installed units under a real systemd, with a libvirtd of Debian's and real guests, in a machine of their own."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.services import ALL_SERVICES
from tests.e2e.machine import Machine
from tests.e2e.world import wait_until

ROOT = Path(__file__).parents[2]
NAME = "libvirt-autoscaler"
RUN = sorted(set(ALL_SERVICES) - {"notifier"})  # which runs where there is somebody to notify
UNITS = [*(f"{NAME}@{service}.service" for service in RUN), f"{NAME}-haproxy.service"]
STATE = "/var/lib/libvirt-autoscaler"
BOOT_S = 60.0
REFUSALS = ("Traceback", "Operation not permitted", "Permission denied", "code=killed, status=31/SYS")

pytestmark = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")


@pytest.fixture(scope="module")
def machine(images: Path) -> Iterator[Machine]:
    machine = Machine(ROOT, images)
    try:
        machine.run(ROOT / ".venv/bin/python", ROOT / "packaging/install.py", "install")
        machine.run("cp", "-r", images, f"{STATE}/images")
        machine.run("systemctl", "enable", "--now", f"{NAME}.target")
        yield machine
    finally:
        machine.stop()


def shown(machine: Machine, unit: str, *names: str) -> list[str]:
    """Return properties of a unit, in the order of their names."""
    said = machine.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
    values = dict(line.split("=", 1) for line in said.splitlines())
    return [values[name] for name in names]


def answers(machine: Machine) -> bool:
    done = machine.run("curl", "-sf", "--max-time", "3", "http://127.0.0.1:8000/compute?n=10", check=False)
    return done.stdout.strip() == "3"  # 2^10 mod 1021


def serving(machine: Machine) -> list[str]:
    """Return the names of the domains in rotation."""
    status = json.loads(machine.run("autoscaler", "status", "--json", check=False).stdout)
    (group,) = status["groups"]
    return [domain["name"] for domain in group["domains"] if domain["phase"] == "ready"]


def as_account(machine: Machine, account: str, *words: str) -> int:
    return machine.run("runuser", "-u", account, "--", *words, check=False).returncode


def test_every_unit_becomes_active_and_a_guest_answers(machine: Machine) -> None:
    wait_until(lambda: answers(machine), BOOT_S, "an answer through the endpoint")
    assert {unit: shown(machine, unit, "ActiveState", "NRestarts") for unit in UNITS} == {
        unit: ["active", "0"] for unit in UNITS
    }
    assert machine.run("systemctl", "is-enabled", f"{NAME}.target").stdout.strip() == "enabled"


@pytest.mark.parametrize("unit", UNITS)
def test_the_kernel_holds_what_the_unit_gives_up(machine: Machine, unit: str) -> None:
    pid = shown(machine, unit, "MainPID")[0]
    said = machine.run("cat", f"/proc/{pid}/status").stdout
    found = dict(line.split(":\t", 1) for line in said.splitlines())
    rights = "0000000000000400" if "haproxy" in unit else "0000000000000000"  # CAP_NET_BIND_SERVICE
    assert (found["NoNewPrivs"], found["Seccomp"], found["CapEff"]) == ("1", "2", rights)
    assert "0" not in found["Uid"].split()


def test_only_the_actuators_account_may_write_to_libvirt(machine: Machine) -> None:
    writes = ("virsh", "-c", "qemu:///system", "net-list")
    reads = ("virsh", "-r", "-c", "qemu:///system", "net-list")
    assert as_account(machine, f"{NAME}-actuator", *writes) == 0
    assert as_account(machine, NAME, *writes) != 0
    assert as_account(machine, NAME, *reads) == 0


def test_a_reload_reaches_all_and_ends_none(machine: Machine) -> None:
    before = {unit: shown(machine, unit, "MainPID") for unit in UNITS}
    machine.run("systemctl", "reload", f"{NAME}@*", f"{NAME}-haproxy")
    assert {unit: shown(machine, unit, "MainPID") for unit in UNITS} == before
    wait_until(lambda: answers(machine), BOOT_S, "an answer after the reload")


def test_what_is_killed_comes_back(machine: Machine) -> None:
    before = {unit: shown(machine, unit, "MainPID")[0] for unit in UNITS}
    for pid in before.values():
        machine.run("kill", "-KILL", pid)

    def left() -> list[str]:
        found = {unit: shown(machine, unit, "ActiveState", "MainPID") for unit in UNITS}
        return [unit for unit, (state, pid) in found.items() if state != "active" or pid == before[unit]]

    wait_until(lambda: not left(), BOOT_S, "all units to be active again")
    wait_until(lambda: answers(machine), BOOT_S, "an answer")


def test_a_killed_guest_is_replaced(machine: Machine) -> None:
    before = wait_until(lambda: serving(machine), BOOT_S, "a domain in rotation")
    machine.run("sh", "-c", f"kill -KILL $(cat /run/libvirt/qemu/{before[0]}.pid)")
    wait_until(lambda: serving(machine) not in ([], before), BOOT_S, "another in its place")
    wait_until(lambda: answers(machine), BOOT_S, "an answer")


@contextmanager
def post_in_flight(machine: Machine) -> Iterator[None]:
    """Have a POST of some seconds in flight when the body begins; it must be answered, whatever the body does."""
    options = ("-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", "--max-time", "60")
    with ThreadPoolExecutor(1) as thread:
        url = "http://127.0.0.1:8000/slow?ms=12000"
        answer = thread.submit(machine.run, "curl", *options, url, check=False)
        wait_until(lambda: in_flight(machine) == 1, 10, "the POST in flight")
        yield
        assert answer.result(60).stdout == "200"


def in_flight(machine: Machine) -> int:
    status = json.loads(machine.run("autoscaler", "status", "--json", check=False).stdout)
    (group,) = status["groups"]
    return sum(domain["in_flight"] or 0 for domain in group["domains"])


def test_a_stop_leaves_the_domains_and_a_start_goes_on_with_them(machine: Machine) -> None:
    before = serving(machine)
    with post_in_flight(machine):
        machine.run("systemctl", "stop", f"{NAME}.target")
        wait_until(lambda: not running(machine), BOOT_S, "all units to end")
    assert machine.run("virsh", "-c", "qemu:///system", "list", "--name").stdout.split() == before
    machine.run("systemctl", "start", f"{NAME}.target")
    wait_until(lambda: answers(machine), BOOT_S, "an answer")
    assert wait_until(lambda: serving(machine), BOOT_S, "a domain in rotation") == before


def running(machine: Machine) -> list[str]:
    return [unit for unit in UNITS if shown(machine, unit, "ActiveState")[0] not in ("inactive", "failed")]


def test_nothing_was_refused_that_a_service_needs(machine: Machine) -> None:
    said = machine.run("journalctl", "--no-pager", "-u", f"{NAME}*").stdout
    assert "service-stopped" in said
    assert [line for line in said.splitlines() if any(word in line for word in REFUSALS)] == []


def test_removal_stops_all_and_leaves_no_domain_and_no_wish_for_any(machine: Machine) -> None:
    assert desired(machine) == 1
    with post_in_flight(machine):
        machine.run("systemctl", "start", f"{NAME}-remove-domains")
    assert running(machine) == []
    assert machine.run("virsh", "-c", "qemu:///system", "list", "--all", "--name").stdout.split() == []
    assert machine.run("virsh", "-c", "qemu:///system", "net-list", "--all", "--name").stdout.split() == []
    assert desired(machine) is None


def desired(machine: Machine) -> int | None:
    """Return what the decider has stored."""
    stored = json.loads(machine.run("cat", f"{STATE}/decider.json").stdout)
    wanted: int | None = stored["groups"]["web"]["standing"]["desired"]
    return wanted


def test_uninstalling_leaves_configuration_and_state_alone(machine: Machine) -> None:
    machine.run("systemctl", "start", f"{NAME}.target")
    machine.run(ROOT / ".venv/bin/python", ROOT / "packaging/install.py", "uninstall")
    assert machine.run("systemctl", "list-units", "--no-legend", "--all", f"{NAME}*").stdout.strip() == ""
    machine.run("test", "-e", "/etc/libvirt-autoscaler/autoscaler.toml", "-a", "-e", f"{STATE}/decider.json")
