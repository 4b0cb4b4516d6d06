"""The running installation that a benchmark measures: driven as an operator drives it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.observe import observe_once
from cli.status import status_values
from common.bus import ask
from common.clock import SystemClock
from common.config import Config
from common.config_file import load
from common.errors import AutoscalerError
from common.messages import Request

CLOCK = SystemClock()
QEMU_PIDS = Path("/run/libvirt/qemu")


class Installation:
    """What ``make up`` started, and one of its groups."""

    def __init__(self, config_path: Path, group: str | None = None) -> None:
        self.config: Config = load(config_path)[0]
        self.name = group or next(iter(self.config.groups))

    def status(self) -> dict[str, Any]:
        """Return what ``autoscaler status --json`` prints."""
        return status_values(self.config, observe_once(self.config, CLOCK))

    def group(self) -> dict[str, Any]:
        """Return the group's part of the status."""
        return next(group for group in self.status()["groups"] if group["name"] == self.name)

    def ready(self) -> list[dict[str, Any]]:
        """Return the group's domains in rotation."""
        return [domain for domain in self.group()["domains"] if domain["phase"] == "ready"]

    def order(self, service: str, verb: str, **args: Any) -> None:
        """Ask a service for something, and insist that it is applied."""
        reply = ask(self.config, service, Request(verb=verb, args=args, by="bench"), 5.0)
        if reply.status != "applied":
            raise AutoscalerError(f"{verb}: {reply.status}: {reply.reason}")

    def hold_at(self, count: int, timeout_s: float = 180.0) -> None:
        """Return when exactly ``count`` domains are in rotation, with scaling paused."""
        self.order("decider", "resume", group=self.name)
        self.order("decider", "scale", group=self.name, desired=count)
        self.order("decider", "pause", group=self.name)
        self.settle(count, timeout_s)

    def settle(self, count: int, timeout_s: float = 180.0) -> None:
        """Return when exactly ``count`` domains are owned and all of them are in rotation."""

        def settled() -> bool:
            phases = [domain["phase"] for domain in self.group()["domains"]]
            return phases == ["ready"] * count

        wait_until(settled, timeout_s, f"{count} ready domain(s)")


def qemu_pid(domain: str) -> int:
    """Return the process of a running domain."""
    return int((QEMU_PIDS / f"{domain}.pid").read_text(encoding="ascii"))


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.2) -> None:
    """Return when the condition holds.

    Raises:
        AutoscalerError: it did not within ``timeout_s``.
    """
    deadline_s = CLOCK.monotonic_s() + timeout_s
    while not condition():
        if CLOCK.monotonic_s() > deadline_s:
            raise AutoscalerError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> tuple[int, int]:
    """Return resident and proportional memory of a process (RSS, PSS)."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0]) * 1024
    return values["Rss"], values["Pss"]
