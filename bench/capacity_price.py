"""What a tier costs while it waits: memory of its standby domain, room on disk for what it is restored from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.capacity_world import World
from bench.installation import memory_bytes, qemu_pid
from common.errors import AutoscalerError

SAVED = Path("/var/lib/libvirt/qemu/save")
BLOCK = 512


def measure(world: World, tiers: Mapping[str, Any]) -> None:
    """Fill in the price of each tier, as it stands while everything waits."""
    for group in ("paused", "saved"):
        if group not in world.config.groups or not world.phases(group):
            continue
        membership = world.heard.membership(group)
        names = [member.name for member in membership.members] if membership else []
        tiers[group].ram_bytes = sum(_ram_bytes(name) for name in names)
        tiers[group].disk_bytes = sum(allocated_bytes(SAVED / f"{name}.save") for name in names)
    tiers["clone"].disk_bytes = sum(allocated_bytes(path) for path in world.snapshots())


def allocated_bytes(path: Path) -> int:
    """Return what a file takes on disk, holes left out; 0 for one that is not there."""
    try:
        return path.stat().st_blocks * BLOCK
    except OSError:
        return 0


def _ram_bytes(name: str) -> int:
    """Return the memory of a domain's process, shared pages by their share; 0 where there is none."""
    try:
        return memory_bytes(qemu_pid(name))[1]
    except (OSError, ValueError, AutoscalerError):
        return 0
