"""Where each millisecond of a start goes, from outside: messages, libvirt's process, the guest's own console."""

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.capacity_world import World
from bench.installation import qemu_pid
from common.clock import SystemClock
from common.messages import Event, Membership
from common.phases import Phase

CONSOLES = Path("actuator/console")
SERVING = re.compile(rb"autoscaler (\d+\.\d+) serving")
NAMES = {
    "cold": ("plan and define", "start: libvirt and QEMU", "firmware", "kernel and app", "readiness", "join"),
    "clone": ("plan and define", "restore: libvirt and QEMU, link", "identity and readiness", "join"),
}


@dataclass(frozen=True)
class Stages:
    """Seconds spent in each of ``NAMES`` of a tier; None where it could not be told."""

    tier: str
    spent_s: tuple[float | None, ...]

    def values(self) -> dict[str, float | None]:
        """Return the stages by name."""
        return dict(zip(NAMES[self.tier], self.spent_s, strict=True))


def stages_of(tier: str, world: World, mark: int, domain: str, decided_s: float, served_s: float) -> Stages:
    """Return the stages of the start of ``domain``, which has just served its first request."""
    events = {
        body.name: said_s
        for said_s, body in world.heard.since(mark)
        if isinstance(body, Event) and body.domain == domain
    }
    executed_s, answered_s = _process_began_s(domain), _warming_s(world, mark, domain)
    if tier == "cold":
        kernel_s, app_s = _guest(world.directory / "state" / CONSOLES / f"{domain}.log")
        between = events.get("domain-started"), kernel_s, app_s
    else:
        between = (events.get("domain-created"),)
    pairs = pairwise((decided_s, executed_s, *between, answered_s, served_s))
    return Stages(tier, tuple(None if a is None or b is None else max(b - a, 0.0) for a, b in pairs))


def _process_began_s(domain: str) -> float | None:
    """Return when the domain's process began, to 10 ms."""
    try:
        fields = Path(f"/proc/{qemu_pid(domain)}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _guest(console: Path) -> tuple[float | None, float | None]:
    """Return when the guest's kernel began to keep time, and when its application listened."""
    try:
        found, written_at_s = SERVING.search(console.read_bytes()), console.stat().st_mtime
    except OSError:
        return None, None
    if found is None:
        return None, None
    clock = SystemClock()
    app_s = written_at_s - clock.epoch_s() + clock.monotonic_s()
    return app_s - float(found[1]), app_s


def _warming_s(world: World, mark: int, domain: str) -> float | None:
    """Return when the actuator took in the first right answer."""
    for said_s, body in world.heard.since(mark):
        if isinstance(body, Membership):
            for member in body.members:
                if member.name == domain and member.phase in (Phase.WARMING, Phase.READY):
                    return said_s - member.age_s
    return None
