"""A stand for the balancer: the real HAProxy, the real bus, the balancer's own process, and domains that are processes.

HAProxy is kept running as a supervisor keeps it: started again whenever it ends. The stand speaks as actuator and as
monitor. Everything that it starts ends with it, by process identifier.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common import config_file
from common.bus import Bus
from common.clock import SystemClock
from common.messages import (
    SUSPENDED,
    BackendState,
    Body,
    Drain,
    Event,
    Failure,
    HostSample,
    Member,
    Membership,
    Traffic,
)
from common.phases import Phase
from services.balancer.core.haproxy_config import state_file, stats_socket
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.files import write_config
from services.balancer.haproxy import RuntimeApi
from tests.ports import free_port
from tests.waiting import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0
APP = Path(__file__).with_name("balancer_app.py")


def end(process: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
    process.wait(10)


@dataclass
class Domain:
    """One member: its process, and what the actuator would say of it."""

    name: str
    uuid: str
    address: str
    port: int
    log: Path
    sick: Path
    process: subprocess.Popen[bytes]
    phase: Phase = Phase.WARMING
    since_s: float = 1000.0
    is_probed: bool = False
    is_found: bool = True  # discovery knows its address

    def member(self) -> Member:
        return Member(
            name=self.name,
            uuid=self.uuid,
            host="local",
            phase=self.phase,
            since_s=self.since_s,
            age_s=1.0,
            address=self.address if self.is_found else None,
            port=self.port,
            is_probed=self.is_probed,
        )

    def posts(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


class Proxy:
    """HAProxy, started again whenever it ends, until told to stop."""

    def __init__(self, run: Path) -> None:
        self._command = ["haproxy", "-W", "-S", str(run / "haproxy-master.sock"), "-f", str(run / "haproxy.cfg")]
        self._log = (run / "haproxy.log").open("ab")
        self._go_on = threading.Event()
        self._go_on.set()
        self._is_over = False
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def _keep(self) -> None:
        while True:
            self.process.wait()
            self._go_on.wait()
            if self._is_over:
                return
            self.process = self._start()

    def hold_down(self) -> None:
        """End HAProxy; it stays away until ``let_start``."""
        self._go_on.clear()
        self.process.terminate()
        self.process.wait(10)

    def let_start(self) -> None:
        self._go_on.set()

    def close(self) -> None:
        self._is_over = True
        self._go_on.set()
        self.process.terminate()
        self._thread.join(10)
        self._log.close()


class Stand:
    def __init__(
        self, groups: str = "", slots: int = 8, check_interval_s: float = 0.5, request_timeout_s: float = 30.0
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bal-", dir="/tmp"))
        self.port, self.tcp_port, self.app_port = free_port(), free_port(), free_port()
        self.path = self.directory / "autoscaler.toml"
        self.path.write_text(
            f'[system]\nrun_dir = "{self.directory}/run"\nstate_dir = "{self.directory}/state"\n'
            f"[haproxy]\nslots = {slots}\ncheck_interval_s = {check_interval_s}\n"
            f"request_timeout_s = {request_timeout_s}\n"
            f'[groups.web]\nprefix = "web-"\nendpoint = "127.0.0.1:{self.port}"\n'
            + groups.replace("TCP_PORT", str(self.tcp_port))
        )
        self.config, _ = config_file.load(self.path)
        self.clock = SystemClock()
        write_config(self.config)
        self.api = RuntimeApi(stats_socket(self.config.system), self.clock, deadline_s=2.0)
        self.domains: list[Domain] = []
        self.drains: dict[str, Drain] = {}
        self.traffics: dict[str, Traffic] = {}
        self.events: list[Event] = []
        self.suspended: set[str] = set()
        self._sampled_at_s = 0.0
        self._apps: list[subprocess.Popen[bytes]] = []
        self.proxy = Proxy(self.config.system.run_path)
        self.until(lambda: self._answers(), "HAProxy answers")
        self.actuator = Bus.open(self.config, "actuator", self.clock)
        self.monitor = Bus.open(self.config, "monitor", self.clock)
        self.actuator.subscribe("balancer", "drain", "traffic", "event")
        self.balancer = self.start_balancer()
        self.tell()
        self.until(lambda: "web" in self.drains, "the balancer speaks")

    def _answers(self) -> bool:
        return bool(self.api.inode()) and self.config.system.run_path.joinpath("haproxy.sock").is_socket()

    def start_balancer(self, *program: str) -> subprocess.Popen[bytes]:
        """Start the balancer, or a program that is one otherwise."""
        log = (self.directory / "balancer.log").open("ab")
        command = [*(program or (sys.executable, "-m", "services.balancer")), "--config", str(self.path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.balancer = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
        return self.balancer

    def domain(self, number: int, phase: Phase = Phase.WARMING, prefix: str = "web-") -> Domain:
        """Start a domain's process and return when it listens."""
        name, address = f"{prefix}{number:04d}", f"127.0.0.{number + 20}"
        uuid = f"uuid-{name}-{len(self._apps)}"
        log, sick = self.directory / f"{uuid}.log", self.directory / f"{uuid}.sick"
        process = self.start_app(address, name, log, sick)
        domain = Domain(name, uuid, address, self.app_port, log, sick, process, phase)
        self.domains.append(domain)
        return domain

    def start_app(self, address: str, name: str, log: Path, sick: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(APP), address, str(self.app_port), name, str(log), str(sick)]
        process = subprocess.Popen(command)
        self._apps.append(process)
        self.until(lambda: _listens(address, self.app_port), f"{name} listens")
        return process

    def tell(self, *domains: Domain, group: str = "web") -> None:
        """Publish the membership as it stands in ``domains`` (by default all)."""
        members = tuple(domain.member() for domain in (domains or self.domains))
        self.actuator.publish(
            Membership(
                group=group, generation_seen=1, desired_seen=1, members=members, owned_total=len(members), ceiling=9
            )
        )

    def fail(self, domain: Domain, reason: str = "crashed") -> None:
        """Say what the monitor would: the domain has failed."""
        self.monitor.publish(Failure(host="local", domain=domain.name, uuid=domain.uuid, reason=reason))

    def suspend(self, domain: Domain) -> None:
        """Pause a domain, and say what the monitor would: at once, and in every sample."""
        domain.process.send_signal(signal.SIGSTOP)
        self.suspended.add(domain.uuid)
        failure = Failure(host="local", domain=domain.name, uuid=domain.uuid, reason=SUSPENDED, detail="user: by hand")
        self.monitor.publish(failure)
        self.sample()

    def resume(self, domain: Domain) -> None:
        """Let a suspended domain run, and say so in the next sample."""
        domain.process.send_signal(signal.SIGCONT)
        self.suspended.discard(domain.uuid)
        self.sample()

    def sample(self) -> None:
        """Say as the monitor does who is suspended."""
        uuids = tuple(sorted(self.suspended))
        self.monitor.publish(HostSample(host="local", interval_s=1.0, is_reachable=True, suspended_uuids=uuids))
        self._sampled_at_s = self.clock.monotonic_s()

    def set_phase(self, domain: Domain, phase: Phase, *, wait_for: str = "", timeout_s: float = PATIENCE_S) -> None:
        """Tell a new phase; with ``wait_for``, return when the balancer reports that state."""
        domain.phase = phase
        domain.since_s += 1
        self.tell()
        if wait_for:
            self.until(lambda: self.state(domain) == wait_for, f"{domain.name} is {wait_for}", timeout_s)

    def join(self, *domains: Domain) -> None:
        self.tell()
        for domain in domains:
            self.until(lambda domain=domain: self.state(domain) == "ready", f"{domain.name} is ready")
            domain.phase = Phase.READY
        self.tell()

    def state(self, domain: Domain, group: str = "web") -> str | None:
        found = self.backend(domain, group)
        return found.state if found else None

    def backend(self, domain: Domain, group: str = "web") -> BackendState | None:
        drain = self.drains.get(group)
        return next((b for b in drain.backends if b.uuid == domain.uuid), None) if drain else None

    def pump(self, timeout_s: float = 0.01) -> None:
        """Take in what the balancer says, and let the buses serve late subscribers."""
        if not hasattr(self, "monitor"):
            time.sleep(timeout_s)
            return
        self.monitor.receive(0.0)
        if self._sampled_at_s and self.clock.monotonic_s() - self._sampled_at_s >= 1.0:
            self.sample()
        for received in self.actuator.receive(timeout_s).messages:
            self._note(received.body)

    def _note(self, body: Body) -> None:
        match body:
            case Drain():
                self.drains[body.group] = body
            case Traffic():
                self.traffics[body.group] = body
            case Event():
                self.events.append(body)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> float:
        """Wait for a condition with a deadline; return how long it took, without what a busy machine adds."""
        start_s = self.clock.monotonic_s()
        watch = Stopwatch(*self.pids())
        while not condition():
            assert self.clock.monotonic_s() - start_s < timeout_s, f"not within {timeout_s} s: {what}; {self.story()}"
            self.pump()
        return watch.s()

    def pids(self) -> list[int]:
        """Return the processes between a word to the balancer and what HAProxy does."""
        masters = [self.proxy.process.pid]
        if hasattr(self, "balancer"):
            masters.append(self.balancer.pid)
        return masters + [child for master in masters for child in _children(master)]

    def run_for(self, duration_s: float) -> None:
        end_s = self.clock.monotonic_s() + duration_s
        while self.clock.monotonic_s() < end_s:
            self.pump()

    def servers(self, group: str = "web") -> dict[str, tuple[str, str, str]]:
        """Return address, admin state and status of every slot that is not empty."""
        servers = self.api.look([group]).servers[group]
        return {s.name: (s.address, s.admin.value, s.status) for s in servers if s.address != "127.0.0.1"}

    def worker(self) -> int:
        return self.api.look(["web"]).pid

    def worker_now(self) -> int:
        """Return HAProxy's worker, 0 while there is none that answers."""
        try:
            return self.worker()
        except (ProxyError, ProxyLostError):
            return 0

    def story(self) -> str:
        log = self.directory / "balancer.log"
        return f"drains: {self.drains}\n{log.read_text()[-3000:] if log.exists() else ''}"

    def let_go(self) -> None:
        """Have every held POST answered."""
        (self.directory / "go").touch()

    def reload(self) -> int:
        """Have HAProxy reload as an operator does; return the old worker when another one serves."""
        old = self.start_reload()
        self.until_replaced(old)
        return old

    def start_reload(self) -> int:
        """Have HAProxy reload as an operator does; return the worker that is to be replaced."""
        worker = self.worker()
        self.proxy.process.send_signal(signal.SIGUSR2)
        return worker

    def until_replaced(self, worker: int) -> None:
        """Wait for another worker; a master that is just reloading may not hear that it is to reload."""
        for _ in range(20):
            if self.worker() != worker:
                return
            self.run_for(0.5)
            if self.worker() == worker:
                self.proxy.process.send_signal(signal.SIGUSR2)
        raise AssertionError(f"HAProxy still has the worker {worker}")

    def forget_state(self) -> None:
        state_file(self.config.system).write_text("1\n")

    def close(self) -> None:
        end(self.balancer, signal.SIGTERM)
        self.proxy.close()
        for process in self._apps:
            end(process)
        self.actuator.close()
        self.monitor.close()
        shutil.rmtree(self.directory)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass
class Load:
    """A bounded stream of requests to one endpoint of this machine, each on a connection of its own or on kept ones."""

    port: int
    path: str = "/work?ms=10"
    pause_s: float = 0.02
    threads: int = 3
    limit_s: float = 60.0
    is_kept: bool = False
    failures: list[str] = field(default_factory=list)
    failed_at_s: list[float] = field(default_factory=list)
    slowest_s: float = 0.0
    count: int = 0

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._workers = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join(60)

    def lost_s(self) -> float:
        """Return how long requests failed, from the first failure to the last."""
        return max(self.failed_at_s) - min(self.failed_at_s) if self.failed_at_s else 0.0

    def _run(self) -> None:
        end_s = time.monotonic() + self.limit_s  # noqa: TID251
        connection = self._connect()
        while not self._stop.wait(self.pause_s) and time.monotonic() < end_s:  # noqa: TID251
            start_s = time.monotonic()  # noqa: TID251
            fault = self._get(connection)
            took_s = time.monotonic() - start_s  # noqa: TID251
            with self._lock:
                self.count += 1
                self.slowest_s = max(self.slowest_s, took_s)
                if fault:
                    self.failures.append(f"{fault} after {took_s:.3f} s")
                    self.failed_at_s.append(start_s + took_s)
            if not self.is_kept or fault:
                connection.close()
                connection = self._connect()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)

    def _get(self, connection: http.client.HTTPConnection) -> str:
        try:
            connection.request("GET", self.path)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        return "" if response.status == 200 else f"status {response.status}"
