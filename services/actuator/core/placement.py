"""Where a new domain goes: host, index and network slot, each the first that is free."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from common import names
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.disks import Base, changed
from services.actuator.core.host_faults import fault_of
from services.actuator.core.members import View
from services.actuator.core.seen import Seen, SeenHost, Wanted
from services.actuator.core.steps import Define, Step, TakeSnapshot

MIB = 1024 * 1024
OVERHEAD_BYTES = 128 * MIB  # QEMU beside the memory of its guest: 100 MiB in software emulation, and some to spare
COMING = frozenset({Phase.CREATING, Phase.BOOTING})
New = Define | TakeSnapshot
"""What takes a slot and memory before libvirt shows it."""


class Passing(str):
    """A reason that passes by itself: others go first, or something is being found out. It is no obstacle."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where one new domain goes; ``base`` is what its disk stands on there."""

    host: str
    accel: str
    index: int
    slot: int
    base: str = ""


def place(
    wanted: Wanted,
    seen: Seen,
    view: View,
    planned: Iterable[Step],
    now_s: float,
    hosts: Collection[str] | None = None,
) -> Place | str:
    """Return a place for one more domain, or in plain words why there is none.

    Args:
        planned: The steps of this plan so far; what they define counts already.
        hosts: Where it may go; None for all hosts of the group.
    """
    new = [step for step in (*seen.in_flight, *planned) if isinstance(step, Define | TakeSnapshot)]
    refusals: list[str] = []
    fit: list[SeenHost] = []
    for host in sorted(seen.hosts, key=lambda host: host.name):
        if host.name not in (wanted.group.hosts if hosts is None else hosts):
            continue
        refusal = refuse(wanted, seen, host, view, new, now_s)
        if refusal:
            refusals.append(type(refusal)(f"{host.name}: {refusal}"))
        else:
            fit.append(host)
    if not fit:
        return joined(refusals) or "no host is configured for this group"
    host = min(fit, key=lambda host: (_owned_on(host, view, new, wanted), host.name))
    slot = free_slot(wanted, host, new)
    index = free_index(wanted, seen, new)
    if slot is None or index is None:
        return f"{host.name}: no free name under {wanted.group.prefix}"
    base = _base(wanted, host)
    return Place(host.name, host.accel or "", index, slot, base.identity if base is not None else "")


def refuse(wanted: Wanted, seen: Seen, host: SeenHost, view: View, new: list[New], now_s: float) -> str:
    """Return why the host takes no new domain of the group now, empty if it does."""
    if not host.is_reachable:
        return "not reachable"
    fault = fault_of(host, wanted.group.prefix, now_s)
    if fault is not None:
        return fault.text
    if host.accel is None:
        return host.note or Passing("its acceleration is not known yet")
    unusable = _why_no_disk(wanted, host)
    if unusable:
        return unusable
    own = sum(1 for member in view.members if member.domain.host == host.name and member.phase in COMING)
    own += sum(1 for step in new if step.host == host.name and step.group == wanted.name and step not in seen.in_flight)
    breaker = seen.breakers.get(breakers.key(wanted.name, host.name), breakers.CLOSED)
    if breakers.is_open(breaker, now_s):
        left_s = (breaker.open_until_s or now_s) - now_s
        return f"{breaker.failures} starts in a row failed; the next trial is in {left_s:.0f} s"
    if breakers.is_pausing(breaker, now_s):
        return "the last start failed; trying again in a moment"
    if breakers.is_half_open(breaker, now_s) and own > 0:
        return "one trial start is under way after failed ones"
    coming = _coming(host, new)
    if coming >= 2 * max(host.cpus, 1):
        return Passing(f"{coming} domains are starting there already")
    room = _room_bytes(wanted, host, new)
    if room is not None and room < 0:
        return f"not enough free memory for {wanted.group.image.memory_mib} MiB more"
    if free_slot(wanted, host, new) is None:
        return f"all {wanted.network.slots} network slots are taken"
    return ""


def has_space(wanted: Wanted, host: SeenHost) -> bool:
    """Return whether the host has the memory and the network slot for one more domain."""
    room = _room_bytes(wanted, host, [])
    return (room is None or room >= 0) and free_slot(wanted, host, []) is not None


def joined(reasons: Sequence[str]) -> str:
    """Return the reasons as one, which passes by itself if one of them does: there it goes on.

    >>> joined(["a: not reachable", Passing("b: 2 domains are starting there already")])
    'a: not reachable; b: 2 domains are starting there already'
    """
    text = "; ".join(reasons)
    return Passing(text) if any(isinstance(reason, Passing) for reason in reasons) else text


def free_index(wanted: Wanted, seen: Seen, new: Iterable[New]) -> int | None:
    """Return the lowest number whose name no host shows, whoever owns it, and no step is about to use."""
    taken = {domain.name for host in seen.hosts for domain in host.domains} | {step.domain for step in new}
    return next((i for i in range(10**names.DIGITS) if names.domain_name(wanted.group.prefix, i) not in taken), None)


def free_slot(wanted: Wanted, host: SeenHost, new: Iterable[New]) -> int | None:
    """Return the lowest network slot that is free on the host; one just freed is the last resort."""
    held = {domain.record.slot for domain in host.domains if domain.record is not None}
    held |= {domain.unreadable.slot for domain in host.domains if domain.unreadable is not None}
    held |= {step.record.slot for step in new if step.host == host.name}
    free = [slot for slot in range(wanted.network.slots) if slot not in held]
    return next((slot for slot in free if slot not in host.quarantined_slots), free[0] if free else None)


def spare_bytes(wanted: Wanted, seen: Seen, host: str, planned: Iterable[Step]) -> int | None:
    """Return the memory that the host keeps free after two more domains; None where unknown."""
    new = [step for step in (*seen.in_flight, *planned) if isinstance(step, Define | TakeSnapshot)]
    found = next(each for each in seen.hosts if each.name == host)
    room = _room_bytes(wanted, found, new)
    return None if room is None else room - wanted.group.image.memory_mib * MIB - OVERHEAD_BYTES


def _base(wanted: Wanted, host: SeenHost) -> Base | None:
    disk = wanted.template.disk if wanted.template is not None else None
    return None if disk is None else host.bases.get(disk.path, Base(disk.path, note=Passing(f"looking at {disk.path}")))


def _why_no_disk(wanted: Wanted, host: SeenHost) -> str:
    base = _base(wanted, host)
    if base is None:
        return ""
    return base.note or changed(base, {d.name: d.record for d in host.domains if d.record is not None})


def _coming(host: SeenHost, new: list[New]) -> int:
    """Return how many domains of all groups start on the host: those that it shows, and those being defined."""
    shown = {d.name for d in host.domains if d.record is not None and d.record.phase in COMING}
    return len(shown | {step.domain for step in new if step.host == host.name})


def _owned_on(host: SeenHost, view: View, new: list[New], wanted: Wanted) -> int:
    shown = {member.name for member in view.members if member.domain.host == host.name}
    return len(shown | {step.domain for step in new if step.host == host.name and step.group == wanted.name})


def _room_bytes(wanted: Wanted, host: SeenHost, new: list[New]) -> int | None:
    """Return the memory left on the host after one more domain and those being defined; None where unknown."""
    if host.free_memory_bytes is None:
        return None
    wants = [wanted.group.image.memory_mib, *(step.memory_mib for step in new if step.host == host.name)]
    return host.free_memory_bytes - sum(mib * MIB + OVERHEAD_BYTES for mib in wants)
