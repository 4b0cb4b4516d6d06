"""The exporter as a process on the real bus: an address that is taken, clients that stall, a system that is silent."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config
from common.messages import DecisionRecord, DesiredCapacity, Event, Evidence, ServiceStatus
from tests.ports import free_port
from tests.waiting import wait_until

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
TOML = """
[system]
run_dir = "{dir}/run"
state_dir = "{dir}/state"
interval_s = 0.1
republish_s = 0.2
stale_after_s = 1.0
[metrics]
listen = "{listen}"
[groups.web]
prefix = "web-"
"""


class Others:
    """A decider that repeats what it says, and listens to the exporter."""

    def __init__(self, config: Config) -> None:
        self.status: ServiceStatus | None = None
        self.is_silent = False
        self._stop = threading.Event()
        self._bus = Bus.open(config, "decider", CLOCK)
        self._bus.subscribe("exporter", "service")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def counter(self, name: str) -> int:
        """Return a counter of the exporter as it told it last."""
        return self.status.counters.get(name, 0) if self.status is not None else 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        tick = 0
        while not self._stop.is_set():
            tick += 1
            if not self.is_silent:
                self._speak(tick)
            for message in self._bus.receive(0.05).messages:
                if isinstance(message.body, ServiceStatus):
                    self.status = message.body
        self._bus.close()

    def _speak(self, tick: int) -> None:
        self._bus.publish(DesiredCapacity(group="web", generation=1, desired=2, minimum=1, maximum=4))
        self._bus.publish(Event(name="scale-out", group="web", text="from 1 to 2"))
        self._bus.publish(
            DecisionRecord(
                group="web", tick=tick, decision_id=str(tick), action="hold", desired_before=2, desired_after=2,
                recommended=2, votes=(), limiter="none", limiter_text="", counterfactual="", evidence=Evidence(),
            )
        )  # fmt: skip


class Stand:
    """A configuration, a free port, and exporters that end with the test."""

    def __init__(self, directory: Path) -> None:
        self.holder = socket.socket()
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = free_port()
        self.holder.bind(("127.0.0.1", self.port))
        self.path = directory / "autoscaler.toml"
        self.started: list[subprocess.Popen[bytes]] = []
        self.configure(f"127.0.0.1:{self.port}")

    def configure(self, listen: str) -> None:
        self.path.write_text(TOML.format(dir=self.path.parent, listen=listen), encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.exporter", "--config", str(self.path)]
        self.started.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}))
        return self.started[-1]

    def get(self, path: str = "/metrics") -> str:
        """Return the answer, empty where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            return f"status {error.code}"
        except OSError:
            return ""

    def value(self, series: str) -> float | None:
        """Return the value of one series, None where it is absent."""
        found = [line.rpartition(" ")[2] for line in self.get().splitlines() if line.startswith(f"{series} ")]
        return float(found[0]) if found else None

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        self.holder.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    found = Stand(tmp_path)
    yield found
    found.close()


@pytest.fixture
def others(stand: Stand) -> Iterator[Others]:
    found = Others(config_file.load(stand.path)[0])
    yield found
    found.close()


def test_an_address_that_is_taken_is_tried_again(stand: Stand, others: Others) -> None:
    stand.holder.listen()
    stand.start()
    wait_until(lambda: others.counter("listen_failed") >= 1, "a failed attempt")
    stand.holder.close()
    wait_until(lambda: "autoscaler_group_desired_domains" in stand.get(), "the page")


def test_the_page_shows_what_is_said_and_forgets_what_is_no_longer(stand: Stand, others: Others) -> None:
    stand.holder.close()
    process = stand.start()
    desired = 'autoscaler_group_desired_domains{group="web"}'
    wait_until(lambda: stand.value(desired) == 2, "the desired capacity")
    wait_until(lambda: (stand.value('autoscaler_scale_events_total{direction="out",group="web"}') or 0) >= 2, "events")
    ticks = 'autoscaler_decisions_total{action="hold",group="web",limiter="none"}'
    wait_until(lambda: (stand.value(ticks) or 0) >= 2, "decisions")
    wait_until(lambda: stand.value('autoscaler_service_up{service="exporter"}') == 1, "its own sign of life")
    assert stand.value('autoscaler_service_up{service="monitor"}') == 0
    others.is_silent = True
    wait_until(lambda: stand.value(desired) is None, "the end of what is stale")
    assert (stand.value(ticks) or 0) >= 2  # what was counted stays counted
    process.terminate()
    assert process.wait(20) == 0


def test_clients_that_stall_keep_nobody_else_waiting(stand: Stand) -> None:
    stand.holder.close()
    stand.start()
    wait_until(lambda: "autoscaler_build_info" in stand.get(), "the page")
    stalled = [socket.create_connection(("127.0.0.1", stand.port), timeout=20) for _ in range(10)]
    try:
        assert "autoscaler_build_info" in stand.get()
    finally:
        for client in stalled:
            client.close()
    assert stand.get("/elsewhere") == "status 404"
    assert "/metrics" in stand.get("/")


def test_clients_that_drip_are_ended_and_do_not_shut_out_the_others(stand: Stand) -> None:
    stand.holder.close()
    stand.start()
    wait_until(lambda: "autoscaler_build_info" in stand.get(), "the page")
    slow = [socket.create_connection(("127.0.0.1", stand.port), timeout=20) for _ in range(40)]
    begun_s = CLOCK.monotonic_s()
    try:
        wait_until(lambda: "autoscaler_build_info" in stand.get(), "the page among forty that stall", timeout_s=5)
        dripping = slow[:]
        while dripping:  # each byte comes in time, the end of the request never
            assert CLOCK.monotonic_s() - begun_s < 20, f"{len(dripping)} clients are served for ever"
            dripping = [client for client in dripping if _drip(client)]
            assert "autoscaler_build_info" in stand.get()
    finally:
        for client in slow:
            client.close()


def _drip(client: socket.socket) -> bool:
    """Send one byte more of a request; return whether the other side still listens."""
    try:
        client.sendall(b"G")
        client.settimeout(0.01)
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_switched_off_it_is_idle(stand: Stand, others: Others) -> None:
    stand.configure("")
    process = stand.start()
    wait_until(lambda: others.status is not None, "its sign of life")
    process.terminate()
    assert process.wait(20) == 0
