"""``make bench-capacity [JSON=FILE]``: from a decision to the first request served, for every tier, in one run.

The tiers take turns, so that the machine's moods fall on all alike. Beside them a raw loop, libvirt alone with the same
definition of the same guest, is the limit of a cold start. A tier that cannot be had is told, with the reason.
Writes docs/capacity.md and docs/capacity.png.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import libvirt

from bench import capacity_price, capacity_raw, capacity_step
from bench.capacity_stages import NAMES, Stages, stages_of
from bench.capacity_world import POLL_S, ROOT, Poller, World, load
from bench.installation import CLOCK, wait_until
from cli.observe import observe_once
from common.errors import AutoscalerError
from services.actuator.core.boot_times import quantile

ROUNDS: Final = 10
BUDGET_S: Final = 600.0  # no round begins after this; the whole run is to take less than 12 minutes
SERVE_TIMEOUT_S: Final = 60.0
MAX_FAILURES: Final = 2
PREPARE_S: Final = 120.0
QUOTA: Final = 0.4
BURST: Final = "[groups.{group}.burst]\nenabled = true\nreserve_cpus = 0.1\n"
POLICY: Final = '[[groups.{group}.policies]]\ntype = "threshold"\n'
POLLS_S: Final = {"cold": 0.01, "clone": 0.005, "saved": 0.005}  # rarer where it takes longer: asking costs CPU, too
STANDBY: Final = {"paused": 1, "saved": 1}
GROUPS: Final = {
    "cold": (1, QUOTA, POLICY),
    "clone": (1, QUOTA, '[groups.{group}.warm]\nstart = "clone"\n' + POLICY),
    "saved": (1, QUOTA, "[groups.{group}.warm]\nsaved = 1\n" + POLICY),
    "paused": (1, QUOTA, "[groups.{group}.warm]\npaused = 1\n" + POLICY),
    "burst": (1, QUOTA, BURST + POLICY),
    "step": (4, capacity_step.QUOTA, capacity_step.TABLES),
}
ORDER: Final = ("raw", "cold", "clone", "saved", "paused", "burst")
WAYS: Final = {"cold": "", "clone": "clone", "saved": "saved", "paused": "paused"}
MEANING: Final = {
    "raw": "libvirt alone: define, create, first HTTP 200",
    "cold": "define, boot, join",
    "clone": "a copy of a booted template's memory",
    "saved": "a domain saved to disk, restored",
    "paused": "a booted domain, resumed",
    "burst": "more quota for those that serve",
}


@dataclass
class Tier:
    """What one tier took, each time, and what it costs while it waits."""

    took_s: list[float] = field(default_factory=list)
    ram_bytes: int = 0
    disk_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    failures: int = 0

    @property
    def is_left_out(self) -> bool:
        """Return whether it cannot be had, or has failed so often that it is not tried again."""
        return not self.took_s and bool(self.notes) and self.failures in (0, MAX_FAILURES)

    def values(self) -> dict[str, Any]:
        """Return the tier for JSON."""
        return {
            "n": len(self.took_s),
            "median_s": statistics.median(self.took_s) if self.took_s else None,
            "p95_s": quantile(self.took_s, 0.95),
            "ram_bytes": self.ram_bytes,
            "disk_bytes": self.disk_bytes,
            **({"notes": sorted(set(self.notes))} if self.notes else {}),
        }


class Bench:
    """The measurements, on one installation."""

    def __init__(self, world: World, connection: Any) -> None:
        """Measure on ``world``, which runs; ``connection`` is libvirt's own."""
        self._world = world
        self._connection = connection
        self._raw_xml = ""
        self.tiers = {name: Tier() for name in ORDER}
        self.stages: dict[str, list[Stages]] = {tier: [] for tier in NAMES}

    def prepare(self) -> None:
        """Have every group stand still, its reserve filled; a tier that does not get there is left out."""
        world = self._world
        for group in world.config.groups:
            if group != "step":
                world.order("decider", "pause", group=group)
        for group in world.config.groups:
            try:
                world.settle(group, STANDBY.get(group, capacity_step.STANDBY if group == "step" else 0), PREPARE_S)
                if group == "clone":
                    wait_until(lambda: bool(world.snapshots()), PREPARE_S, "a snapshot to clone", 0.1)
            except AutoscalerError as error:
                self._leave_out(group, error)
        self._raw_xml = self._definition()
        capacity_price.measure(world, self.tiers)

    def round(self, number: int) -> None:
        """Measure each tier once; they begin with another one each time, for each comes after another's work."""
        first = number % len(ORDER)
        for name in ORDER[first:] + ORDER[:first]:
            tier = self.tiers[name]
            if tier.is_left_out:
                continue
            try:
                tier.took_s.append(self._measure(name))
                say(f"  round {number}: {name} {1000 * tier.took_s[-1]:.0f} ms")
            except (AutoscalerError, LookupError, libvirt.libvirtError) as error:
                tier.notes.append(f"{type(error).__name__}: {error}")
                tier.failures += 1
                say(f"  round {number}: {name} failed: {error}")

    def _measure(self, name: str) -> float:
        if name == "raw":
            address = self._world.config.network.address(self._world.config.network.slots - 1)
            return capacity_raw.boot(self._connection, self._raw_xml, address, 8080)
        return self._burst() if name == "burst" else self._start(name)

    def _start(self, group: str) -> float:
        """Return the seconds from the decision for one more domain to its first answer through the endpoint."""
        world, mark = self._world, self._world.heard.mark()
        world.settle(group, STANDBY.get(group, 0))
        poller = Poller(world.endpoint(group), POLLS_S.get(group, POLL_S))
        try:
            world.scale(group, 1)
            decided_s = world.decided(group, mark, lambda body: body.desired == 1)[1].decided_mono_s or 0.0
            served_s = poller.wait(SERVE_TIMEOUT_S)
            wait_until(lambda: "ready" in world.phases(group), 20, f"{group} to be ready", 0.01)
            self._check_way(group)
            if group in NAMES:
                self.stages[group].append(stages_of(group, world, mark, poller.served_by, decided_s, served_s))
        finally:
            poller.stop()
            self._back_to_none(group)
        return served_s - decided_s

    def _check_way(self, group: str) -> None:
        membership = self._world.heard.membership(group)
        ways = {member.tier for member in membership.members if member.phase == "ready"} if membership else set()
        if ways != {WAYS[group]}:
            why = membership.blocked if membership else ""
            raise AutoscalerError(f"it came another way: {', '.join(sorted(ways)) or 'cold'} {why}".strip())

    def _back_to_none(self, group: str) -> None:
        self._world.scale(group, 0)
        self._world.settle(group, STANDBY.get(group, 0))

    def _burst(self) -> float:
        """Return the seconds from the decision to burst to the quota in force in libvirt."""
        world = self._world
        if "ready" not in world.phases("burst"):
            world.scale("burst", 1)
            wait_until(lambda: world.phases("burst") == ["ready"], 60, "a domain that can burst", 0.05)
        membership = world.heard.membership("burst")
        domain = self._connection.lookupByName(membership.members[0].name if membership else "")
        wait_until(lambda: _quota(domain) == QUOTA, 20, "the configured quota", 0.02)
        mark = world.heard.mark()
        with load(world.endpoint("burst"), "/compute?n=3000000", 3):
            try:
                wait_until(lambda: _quota(domain) > QUOTA, 20, "a raised quota", 0.001)
            except AutoscalerError as error:
                raise AutoscalerError(f"{error}: {self._why_no_burst()}") from error
            raised_s = CLOCK.monotonic_s()
            decided_s, _ = world.decided("burst", mark, lambda body: body.burst_quota is not None)
        return max(raised_s - decided_s, 0.0)

    def _why_no_burst(self) -> str:
        record = observe_once(self._world.config, CLOCK).decisions.get("burst")
        return (record.burst_text or record.limiter_text) if record else "the decider is silent"

    def _definition(self) -> str:
        """Return what the raw loop defines: a cold domain's definition, adapted."""
        world = self._world
        world.scale("cold", 1)
        wait_until(lambda: world.phases("cold") == ["ready"], 90, "a first cold domain", 0.05)
        membership = world.heard.membership("cold")
        assert membership is not None  # noqa: S101 - it has just been looked at
        domain = self._connection.lookupByName(membership.members[0].name)
        xml = capacity_raw.adapted(domain.XMLDesc(2), f"{world.name}raw", world.config.network)
        self._back_to_none("cold")
        return xml

    def _leave_out(self, group: str, error: AutoscalerError) -> None:
        membership = self._world.heard.membership(group)
        why = f"{error}; {membership.blocked}" if membership and membership.blocked else str(error)
        if group in self.tiers:
            self.tiers[group].notes.append(f"not available: {why}")
        say(f"  {group} is not available: {why}")


def _quota(domain: Any) -> float:
    parameters = domain.schedulerParameters()
    quota, period = parameters["vcpu_quota"], parameters["vcpu_period"]
    return float(quota / period) if quota > 0 else 1.0


def say(text: str) -> None:
    """Show progress."""
    print(text, flush=True)


def main(words: list[str] | None = None) -> int:
    """Run it all; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.capacity", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiers", default=",".join(ORDER), help="default: %(default)s")
    parser.add_argument("--no-step", action="store_true", help="leave the step test out")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where capacity.md and .png go")
    args = parser.parse_args(words)
    if os.geteuid() != 0:
        print("bench: this needs root (libvirt's system socket, networks); run it with sudo", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _stop)
    wanted = args.tiers.split(",")
    unknown = set(wanted) - set(ORDER)
    if unknown:
        parser.error(f"unknown tier {sorted(unknown)}; known: {', '.join(ORDER)}")
    try:
        result = measure(args.rounds, wanted, has_step=not args.no_step)
    except AutoscalerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bench: interrupted; everything was removed", file=sys.stderr)
        return 130
    write(result, args.json, args.docs)
    return 0


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt  # unwinds, so that the installation goes


def measure(rounds: int, wanted: list[str], *, has_step: bool) -> dict[str, Any]:
    """Return all figures of one run."""
    begin_s = CLOCK.monotonic_s()
    groups = {
        name: GROUPS[name] for name in GROUPS if name in wanted or name == "cold" or (name == "step" and has_step)
    }
    load_before = os.getloadavg()[0]
    with _images() as images, World(groups, images) as world:
        say(f"started in {CLOCK.monotonic_s() - begin_s:.0f} s; filling the reserves")
        connection = libvirt.open("qemu:///system")
        try:
            bench = Bench(world, connection)
            for name in ORDER:
                if name not in wanted:
                    bench.tiers[name].notes.append("not asked for")
            bench.prepare()
            done = 0
            while done < rounds and CLOCK.monotonic_s() - begin_s < BUDGET_S:
                done += 1
                bench.round(done)
            step = _step(world) if has_step else None
        finally:
            connection.close()
    return {
        "tiers": {name: tier.values() for name, tier in bench.tiers.items()},
        "stages": [one.values() for one in bench.stages["cold"]],
        "clone_stages": [one.values() for one in bench.stages["clone"]],
        "step": step,
        "goals": goals({name: tier.values() for name, tier in bench.tiers.items()}, step),
        "took_s": CLOCK.monotonic_s() - begin_s,
        "cpus": os.cpu_count(),
        "load_before": load_before,
    }


def _step(world: World) -> dict[str, Any]:
    say("  step from 1 to 4 domains' worth of load")
    try:
        return capacity_step.run(world)
    except AutoscalerError as error:
        say(f"  the step test failed: {error}")
        return {"note": str(error)}


@contextmanager
def _images() -> Iterator[Path]:
    """Give a built image, in a directory that goes away."""
    directory = Path(tempfile.mkdtemp(prefix="asbench-image-", dir="/tmp"))
    try:
        directory.chmod(0o711)
        say("building the guest's image")
        command = ["/usr/bin/python3", str(ROOT / "guest_image" / "build.py"), "--output", str(directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise AutoscalerError(f"the guest image was not built: {done.stderr[-500:]}")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


Check = tuple[str, Callable[[dict[str, float]], float | None], float]
CHECKS: Final[tuple[Check, ...]] = (
    ("cold, times the raw loop", lambda m: _ratio(m, "cold", "raw"), 1.1),
    ("clone, of cold", lambda m: _ratio(m, "clone", "cold"), 0.2),
    ("saved, of cold", lambda m: _ratio(m, "saved", "cold"), 1 / 3),
    ("paused, seconds", lambda m: m.get("paused"), 0.150),
    ("burst, seconds", lambda m: m.get("burst"), 0.050),
)


def goals(tiers: dict[str, dict[str, Any]], step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return what is to be reached beside what was measured: medians of at least ``ROUNDS``, else it is not met."""
    medians = {name: tier["median_s"] for name, tier in tiers.items() if tier["median_s"] is not None}
    is_enough = all(tier["n"] >= ROUNDS for tier in tiers.values() if tier["n"])
    found = [(text, value(medians), most) for text, value, most in CHECKS]
    if step and "note" not in step:
        found += [
            ("step: answered after, seconds", step["answered_s"], 1.0),
            ("step: p99 under its target again after, seconds", step["recovered_s"], 3.0),
            ("step: failed requests", step["failed"], 0),
        ]
    return [
        {"goal": text, "at_most": most, "measured": value, "is_met": is_enough and value is not None and value <= most}
        for text, value, most in found
    ]


def _ratio(medians: dict[str, float], one: str, other: str) -> float | None:
    return medians[one] / medians[other] if one in medians and other in medians else None


def write(result: dict[str, Any], json_path: Path | None, docs: Path) -> None:
    """Write the figures, the page and the picture."""
    from bench.capacity_picture import draw, page

    text = page(result, MEANING)
    print(text)
    if json_path:
        json_path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "capacity.md").write_text(text, encoding="utf-8")
    draw(docs / "capacity.png", result)


if __name__ == "__main__":
    raise SystemExit(main())
