"""One running installation looked at from outside, and everything that must hold of it once a fault is over.

Reading goes through the command's own parts in this process: a new process for every look would take the CPU time that
the guests need.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

from cli.observe import observe_once
from cli.program import ISOLATED
from cli.status import status_values
from common.clock import SystemClock
from common.config_file import load
from services.balancer.core.answers import Admin, Server
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, stats_socket
from services.balancer.errors import ProxyLostError
from services.balancer.haproxy import RuntimeApi
from tests.e2e.steady import Steady
from tests.e2e.world import QEMU_PIDS, ROOT, World, now_s, wait_until

CLOCK = SystemClock()
BOOT_S = 60.0  # generous: guests boot in software emulation beside everything else on two cores
CONVERGE_S = 30.0


def look(world: World) -> dict[str, Any]:
    """Return what ``status --json`` prints."""
    config = load(world.config)[0]
    return status_values(config, observe_once(config, CLOCK))


def _connected() -> libvirt.virConnect | None:
    try:
        return libvirt.open("qemu:///system")
    except libvirt.libvirtError:
        return None


class Whole:
    """A world that runs, the stream of GETs through it, and the strangers' domains beside it."""

    def __init__(self, world: World, steady: Steady) -> None:
        self.world = world
        self.steady = steady
        self.reread()
        self.api = RuntimeApi(stats_socket(self.config.system), CLOCK)
        self.strangers: dict[str, str] = {}
        self.cut_ms: list[float] = []
        self._libvirt = libvirt.open("qemu:///system")
        self._listing = threading.Lock()
        self._most_owned = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._count_owned, daemon=True)
        self._watch.start()

    def reread(self) -> None:
        """Judge by what the configuration file says now."""
        self.config = load(self.world.config)[0]
        self.group_config = self.config.groups["web"]

    def close(self) -> None:
        """End what looks."""
        self._stop.set()
        self._watch.join(timeout=60)
        self._libvirt.close()

    # --- looking ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` prints."""
        return look(self.world)

    def group(self) -> dict[str, Any]:
        """Return the group's part of it."""
        found: dict[str, Any] = self.status()["groups"][0]
        return found

    def ready(self) -> list[dict[str, Any]]:
        """Return the group's domains in rotation."""
        return [domain for domain in self.group()["domains"] if domain["phase"] == "ready"]

    def servers(self) -> list[Server]:
        """Return HAProxy's slots that are in use."""
        return [server for server in self.api.look(["web"]).servers["web"] if server.address != EMPTY_ADDRESS]

    def owned(self) -> dict[str, str]:
        """Return name and UUID of every domain that libvirt shows under the prefix, without the strangers'."""
        shown = {d.name(): d.UUIDString() for d in self._listed()}
        return {n: u for n, u in shown.items() if n.startswith(f"{self.world.name}-") and n not in self.strangers}

    def domain(self, name: str) -> libvirt.virDomain:
        """Return a domain as another program of its host would reach it."""
        return {domain.name(): domain for domain in self._listed()}[name]

    def processes(self) -> Counter[str]:
        """Return how many processes of each kind this installation has."""
        return Counter(kind for kind, _ in self._processes())

    def pid(self, kind: str) -> int:
        """Return the oldest process of a kind."""
        return min(pid for found, pid in self._processes() if found == kind)

    def pids(self, kind: str) -> list[int]:
        """Return all processes of a kind, oldest first."""
        return sorted(pid for found, pid in self._processes() if found == kind)

    def all_pids(self) -> set[int]:
        """Return every process of the installation."""
        return {pid for _, pid in self._processes()}

    def problems(self) -> list[str]:
        """Return what keeps the installation from being whole; empty when every invariant holds."""
        status = self.status()
        group = status["groups"][0]
        members = {domain["name"]: domain for domain in group["domains"]}
        return [
            *self._service_problems(status["services"]),
            *self._capacity_problems(group, members),
            *self._leak_problems(members),
            *self._slot_problems(members),
            *self._stranger_problems(),
        ]

    # --- judging ---------------------------------------------------------------------------------------------------

    def converge(self, what: str, boots: int = 1) -> None:
        """Return when the installation is whole again, within the allowed time; say how long it took."""
        begin, timeout_s = now_s(), CONVERGE_S + boots * BOOT_S
        last = ["not looked"]

        def is_whole() -> bool:
            last[:] = self.problems()
            return not last

        try:
            wait_until(is_whole, timeout_s, what, every_s=0.3)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{last}\n{json.dumps(self.group(), indent=1)}\n{self.world.logs()}"
            ) from None
        print(f"  whole again {now_s() - begin:.1f} s after the fault's end")

    @contextmanager
    def fault(self, what: str, boots: int = 1, lost_for_s: float = 0.0) -> Iterator[None]:
        """Run the body as a fault; then all must converge, and no GET may have failed.

        Args:
            what: names it in the output.
            boots: how many domains must boot one after the other until all is well.
            lost_for_s: GETs may fail for this long in all, from the first to the last of them.
        """
        before, self.steady.slowest_s = len(self.steady.failures), 0.0
        self._most_owned = 0
        begin, sent = now_s(), self.steady.sent
        print(f"\n{what}:")
        yield
        self.converge(what, boots)
        lost = self.steady.failures[before:]
        span_s = max(at for at, _ in lost) - min(at for at, _ in lost) if lost else 0.0
        print(
            f"  {now_s() - begin:.1f} s in all; {len(lost)} of {self.steady.sent - sent} GETs failed"
            f" within {span_s:.2f} s; slowest {self.steady.slowest_s:.2f} s"
        )
        assert lost_for_s or not lost, lost[:5]
        assert span_s <= lost_for_s, lost[:: max(1, len(lost) // 5)]
        assert self._most_owned <= self.group_config.maximum + self.group_config.surge

    # --- faults ----------------------------------------------------------------------------------------------------

    def kill_qemu(self, name: str, within_s: float = 5.0) -> None:
        """End a domain's QEMU with SIGKILL, and return when its slot takes no traffic."""
        address = next(d["address"] for d in self.group()["domains"] if d["name"] == name)
        self.world.kill_qemu(name)
        begin = now_s()
        wait_until(lambda: not self.takes_traffic(address), within_s, f"{name} out of rotation", every_s=0.001)
        self.cut_ms.append((now_s() - begin) * 1000)
        print(f"  {name} out of rotation {self.cut_ms[-1]:.0f} ms after SIGKILL")

    def takes_traffic(self, address: str) -> bool:
        """Return whether HAProxy sends requests to this address."""
        return any(
            s.address == address and s.admin is Admin.READY and s.status.startswith("UP") for s in self.servers()
        )

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Stop a process with SIGSTOP for as long as the body takes."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def second_copy(self, service: str) -> int:
        """Start a service once more; return its exit code."""
        command = [sys.executable, "-m", f"services.{service}", "--config", str(self.world.config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode

    def median_cut_ms(self) -> float:
        """Return the median time from a QEMU's end to its slot's, over all kills so far."""
        return statistics.median(self.cut_ms)

    # --- what must hold --------------------------------------------------------------------------------------------

    def _service_problems(self, services: list[dict[str, Any]]) -> list[str]:
        expected = Counter(dict.fromkeys(self.config.services, 1)) + Counter({"supervisord": 1, "haproxy": 2})
        found = self.processes()
        silent = [f"{entry['name']} is silent" for entry in services if not entry["alive"]]
        return silent + ([f"processes: {dict(found)}"] if found != expected else [])

    def _capacity_problems(self, group: dict[str, Any], members: dict[str, dict[str, Any]]) -> list[str]:
        phases = Counter(domain["phase"] for domain in group["domains"])
        wanted = group["desired"]
        is_full = wanted is not None and phases == Counter({"ready": wanted})
        bounds = self.group_config.minimum, self.group_config.maximum
        return [
            *([] if is_full else [f"desired {wanted}, there are {dict(phases)}; blocked: {group['blocked']}"]),
            *([] if bounds[0] <= len(members) <= bounds[1] else [f"{len(members)} domains; bounds are {bounds}"]),
            *([] if len(members) == len(group["domains"]) else ["a name stands twice in the membership"]),
        ]

    def _leak_problems(self, members: dict[str, dict[str, Any]]) -> list[str]:
        owned = self.owned()
        running = {path.stem for path in QEMU_PIDS.glob(f"{self.world.name}-*.pid")}
        recorded = {name: domain["uuid"] for name, domain in members.items()}
        return [
            *([] if owned == recorded else [f"libvirt shows {owned}, the membership {recorded}"]),
            *([] if running == members.keys() else [f"QEMU runs for {sorted(running)}"]),
            *([] if self.world.networks() == [self.world.name] else ["the network is missing"]),
        ]

    def _slot_problems(self, members: dict[str, dict[str, Any]]) -> list[str]:
        try:
            servers = self.servers()
        except ProxyLostError as error:
            return [str(error)]
        wanted = sorted(domain["address"] or "" for domain in members.values())
        lame = [s.name for s in servers if s.admin is not Admin.READY or s.status != "UP" or not s.is_weight_right]
        return [
            *([] if sorted(s.address for s in servers) == wanted else [f"slots hold {[s.address for s in servers]}"]),
            *([f"slots {lame} are not in rotation"] if lame else []),
        ]

    def _stranger_problems(self) -> list[str]:
        return [
            f"the stranger {name} was touched"
            for name, xml in self.strangers.items()
            if self.domain(name).XMLDesc() != xml or self.domain(name).isActive()
        ]

    def _listed(self) -> list[libvirt.virDomain]:
        """Return every domain, over a new connection if libvirtd has restarted."""
        with self._listing:
            try:
                return self._libvirt.listAllDomains()
            except libvirt.libvirtError:
                if self._libvirt.isAlive():
                    raise
            self._libvirt = wait_until(_connected, CONVERGE_S, "libvirtd to be reached")
            return self._libvirt.listAllDomains()

    def _count_owned(self) -> None:
        """Note the most domains that were owned at once."""
        while not self._stop.wait(0.3):
            self._most_owned = max(self._most_owned, len(self.owned()))

    def _processes(self) -> Iterator[tuple[str, int]]:
        config, run = str(self.world.config), str(self.world.run_dir)
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has just ended
            pid = int(entry.parent.name)
            if words[1:3] == [ISOLATED, "-m"] and words[3].startswith("services.") and config in words:
                yield words[3].removeprefix("services."), pid
            elif words[0].endswith("haproxy") and any(word.startswith(run) for word in words):
                yield "haproxy", pid
            elif words[3:4] == ["supervisor.supervisord"] and any(word.startswith(run) for word in words):
                yield "supervisord", pid
