"""Services under the supervisord that ``up`` starts, killed and in any order.

Their host is libvirt's test driver, and their HAProxy the real one.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.supervisor_config import supervisor_config
from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.messages import DecisionRecord
from common.state_dir import LOG_DIR
from services.balancer.files import write_config
from tests.ports import free_port
from tests.waiting import Stopwatch, wait_until

CLOCK = SystemClock()
ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("monitor", "decider", "actuator", "balancer")
RESTART_S = 2.1  # supervisord looks once a second: at one look it sees the end, at the next it starts anew
PATIENCE_S = 60.0
TEXT = """
[system]
run_dir = "{place}/run"
state_dir = "{place}/state"
[hosts.local]
uri = "test:///default"
[groups.web]
kind = "existing"
prefix = "hvtest-"
min = 0
endpoint = "127.0.0.1:{port}"
"""


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("s")  # a socket's path must be short
    path = place / "autoscaler.toml"
    path.write_text(TEXT.format(place=place, port=free_port()))
    return path


class Services:
    """What runs: found by the locks that each process holds."""

    def __init__(self, path: Path) -> None:
        self.config = config_file.load(path)[0]

    def pid(self, service: str) -> int:
        """Return the process that holds the service's lock, 0 if there is none."""
        lock = self.config.system.run_path / f"{service}.lock"
        try:
            pid = int(lock.read_text(encoding="ascii"))
            return pid if f"services.{service}" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") else 0
        except (OSError, ValueError):
            return 0

    def pids(self) -> dict[str, int]:
        return {service: self.pid(service) for service in SERVICES}

    def log(self, service: str) -> str:
        return (self.config.system.state_path / LOG_DIR / f"{service}.log").read_text(encoding="utf-8")

    def until_decided(self) -> None:
        """Return when the decider has told of a tick: it hears the others, or says what it lacks."""
        bus = Bus.open(self.config, "operator", CLOCK, publishes=False)
        try:
            bus.subscribe("decider", "decision")
            wait_until(
                lambda: [r for r in bus.receive(0.2).messages if isinstance(r.body, DecisionRecord)],
                "a decision's record",
                PATIENCE_S,
            )
        finally:
            bus.close()


@pytest.fixture
def supervised(path: Path) -> Iterator[tuple[Services, int]]:
    """Run all four under supervisord; yield them, and its process."""
    found = Services(path)
    write_config(found.config)
    text = supervisor_config(found.config.system, SERVICES, path, Path(sys.executable), ROOT)
    (found.config.system.state_path / LOG_DIR).mkdir(parents=True)
    settings = path.with_name("supervisord.conf")
    settings.write_text(text)
    command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(settings)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: all(found.pids().values()), "four services", PATIENCE_S)
        found.until_decided()
        yield found, process.pid
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def started_s(pid: int) -> float:
    """Return when a process was started, in seconds after the machine's boot, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def test_a_killed_service_is_started_again_within_two_looks_of_supervisord_and_the_others_go_on(
    supervised: tuple[Services, int],
) -> None:
    found, supervisor = supervised
    before = found.pids()
    for service in SERVICES:
        victim = found.pid(service)
        watch, killed_s = Stopwatch(supervisor), time.clock_gettime(time.CLOCK_BOOTTIME)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda service=service, victim=victim: found.pid(service) not in (0, victim), f"a new {service}")
        took_s, in_all_s = started_s(found.pid(service)) - killed_s, watch.s(found.pid(service))
        print(f"{service}: started after {took_s:.2f} s, has its lock after {in_all_s:.2f} s")
        assert took_s < RESTART_S + watch.queued_s(), service
    assert not set(before.values()) & set(found.pids().values())
    found.until_decided()


@pytest.mark.parametrize("seed", range(3))
def test_started_in_any_order_each_waits_for_the_others_and_none_ends(path: Path, seed: int) -> None:
    found, running = Services(path), {}
    order = list(SERVICES)
    random.Random(seed).shuffle(order)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        for service in order:
            command = [sys.executable, "-m", f"services.{service}", "--config", str(path)]
            running[service] = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
            wait_until(lambda service=service: found.pid(service), f"{service} in the order {order}", PATIENCE_S)
        found.until_decided()
        assert {service: process.pid for service, process in running.items()} == found.pids()
        assert [service for service, process in running.items() if process.poll() is not None] == []
    finally:
        for process in running.values():
            process.terminate()
        codes = {service: process.wait(PATIENCE_S) for service, process in running.items()}
    assert set(codes.values()) == {0}, codes
