"""Defaults that follow from what is booted: a small guest of our own kind, a whole operating system, or the user's own.

``DEFAULTS`` is the one table of them. ``with_defaults`` fills it into a group's table before that is checked, so that
what is in force stands in the group like what the file says. A key that is not here has one default for all.

# Note [What fits the demo guest only]
The demo guest boots in a second or two and powers itself off in less. An operating system takes a minute and more for
either, restarts what fails in it by itself, and needs more memory. What depends on requests and not on what is booted
(``drain_timeout_s``, ``cooldown_out_s``, ``surge``, step limits) is the same for all; so is ``readiness.path``, since
whoever relies on ``/healthz`` today would leave the rotation with another one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel

SYSTEMD_STOP_S: Final = 90.0
"""How long systemd waits for a service that does not stop, unless it is told otherwise (DefaultTimeoutStopSec)."""


class Booted(StrEnum):
    """What the domains of a group boot; the value is its name in texts, in the plural."""

    KERNEL = "guests of a kernel"
    DISK = "disk images"
    EXISTING = "existing groups"


@dataclass(frozen=True, slots=True)
class ByKind:
    """One key's default for each; ``before`` is what release 0.1.0 had for all. None: the key has no meaning there."""

    kernel: Any
    disk: Any
    existing: Any
    before: Any

    def of(self, booted: Booted) -> Any:
        """Return the default where this is booted."""
        return {Booted.KERNEL: self.kernel, Booted.DISK: self.disk, Booted.EXISTING: self.existing}[booted]


DEFAULTS: Final[Mapping[str, ByKind]] = {
    # an owner's domain may wait for hook scripts, devices that are handed through, and memory that is claimed at once
    "start_timeout_s": ByKind(30.0, 60.0, 120.0, before=30.0),
    # a Debian with cloud-init takes 50 s of one CPU's time in software emulation, and a file system check takes longer
    "boot_timeout_s": ByKind(90.0, 300.0, 300.0, before=90.0),
    # SYSTEMD_STOP_S for a service that does not stop; then it unmounts and powers off
    "stop_timeout_s": ByKind(10.0, 120.0, 120.0, before=10.0),
    # the machines of others are theirs to switch off
    "power_off": ByKind("after-stop-timeout", "after-stop-timeout", "never", before="after-stop-timeout"),
    # systemd has restarted the application by then, or nobody will
    "unhealthy_grace_s": ByKind(10.0, 30.0, 30.0, before=10.0),
    # about two boots: what takes a minute to come back is not taken away half a minute after a change
    "cooldown_in_s": ByKind(30.0, 120.0, 120.0, before=30.0),
    # caches fill and services start after the first right answer
    "warm_up_s": ByKind(0.0, 60.0, 60.0, before=0.0),
    # the demo guest has one small program; for others less than what common servers take at once (PostgreSQL 100,
    # MySQL 151, Tomcat 200): HAProxy queues, not they
    "max_in_flight": ByKind(16, 64, 64, before=64),
    # distributions ask for 512 MiB and more
    "image.memory_mib": ByKind(128, 1024, None, before=128),
}


def booted(kind: object, disk: object) -> Booted:
    """Return what a group of this ``kind`` with this ``image.disk`` boots."""
    if kind == "existing":
        return Booted.EXISTING
    return Booted.DISK if disk else Booted.KERNEL


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's table as it stands in a file, with what it leaves open filled in; None is left open too."""
    found, image = dict(values), _table(values.get("image"))
    kind = booted(values.get("kind"), image.get("disk") if image is not None else None)
    for key, default in DEFAULTS.items():
        table, _, leaf = key.rpartition(".")
        inside = image if table else found
        if inside is not None and inside.get(leaf) is None and default.of(kind) is not None:
            inside[leaf] = default.of(kind)
    return found if image is None else found | {"image": image}


def differing(kind: Booted) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key whose default is another than in release 0.1.0 where this is booted: key, now, before."""
    for key, default in DEFAULTS.items():
        if default.of(kind) not in (None, default.before):
            yield key, default.of(kind), default.before


def _table(image: object) -> dict[str, Any] | None:
    """Return a copy of the image's table with what was said of it; None where it is no table: its check will tell."""
    if isinstance(image, BaseModel):
        return image.model_dump(exclude_unset=True)
    if image is None:
        return {}
    return dict(image) if isinstance(image, Mapping) else None
