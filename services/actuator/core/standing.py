"""What stands: domains that others keep from running or that do not get ready, hosts with a fault, deaf domains.

Told in ``status`` for as long as it is so, and once as an event: ``standing`` returns all of it at this moment, each
under a key that stays the same, so that whoever tells it needs to remember nothing but the keys.
"""

from typing import Final

from common import names
from common.messages import Event
from common.phases import Phase
from common.unready import WRONG, sentence
from services.actuator.core.context import Context
from services.actuator.core.host_faults import HostFault, fault_of
from services.actuator.core.leaving import is_deaf, may_cut_power
from services.actuator.core.members import Member, boot_limit_s
from services.actuator.core.seen import SeenDomain
from services.actuator.core.unready import unready

KNOWN_AFTER_S: Final = 3.0
"""How long libvirt may take to tell which disk it is, before the alarm is given without that."""
FAULT: Final = "host-fault"
STILL_SUSPENDED: Final = "still-suspended"
IGNORED: Final = "shutdown-ignored"
UNREADABLE: Final = "record-unreadable"
UNREADY: Final = "domain-unready"
Key = tuple[str, str, str]
"""What it is, on which host, and there about what."""


def waiting(context: Context) -> tuple[str, ...]:
    """Return in words who waits for others, which hosts have a fault, and who does not shut down."""
    faults = (f"{fault.text}; {_what_follows(context)}" for fault in _faults(context))
    held = (f"{m.name} waits: {m.state.text}" for m in context.view.members if m.is_held and m.is_reachable)
    deaf = (_ignores(m) for m in context.view.members if is_deaf(context, m))
    broken = (
        f"{m.name} has failed and keeps its place until its owner ends it: {m.state.text}; power_off is never"
        for m in context.view.members
        if m.is_broken and m.is_reachable and not may_cut_power(context, m)
    )
    return (*faults, *held, *deaf, *broken)


def standing(context: Context) -> dict[Key, Event]:
    """Return what an operator is to be told once, by a key that is the same for as long as it is so."""
    faults = {_key(f): _of_host(f, context) for f in _faults(context) if _is_told(f, context.now_s)}
    late = [_late(m) for m in context.view.members if _is_late(m, context)]
    deaf = [_about(m, IGNORED, _ignores(m)) for m in context.view.members if is_deaf(context, m)]
    idle = [_about(m, UNREADY, text) for m in context.view.members if (text := _unready(context, m))]
    unread = [_unread(domain, context) for domain in unreadable(context)]
    return faults | {(event.name, event.host, event.domain): event for event in (*late, *deaf, *idle, *unread)}


def unreadable(context: Context) -> list[SeenDomain]:
    """Return the domains under the group's prefix whose record cannot be true; nothing is done to them."""
    group = context.wanted.group
    return [
        domain
        for host in context.seen.hosts
        if host.is_reachable and host.name in group.hosts
        for domain in host.domains
        if domain.unreadable is not None and names.domain_index(group.prefix, domain.name) is not None
    ]


def over(key: Key) -> Event | None:
    """Return what is told once that of this key is so no more; None where nobody needs to know."""
    if key[0] != FAULT:
        return None
    return Event(name="host-fault-over", host=key[1], text="the disks of its domains can be written again")


def _faults(context: Context) -> list[HostFault]:
    hosts = [host for host in context.seen.hosts if host.name in context.wanted.group.hosts]
    found = (fault_of(host, context.wanted.group.prefix, context.now_s) for host in hosts)
    return [fault for fault in found if fault is not None]


def _key(fault: HostFault) -> Key:
    return FAULT, fault.host, fault.cause.value


def _is_told(fault: HostFault, now_s: float) -> bool:
    return fault.is_known or (fault.since_s is not None and now_s - fault.since_s >= KNOWN_AFTER_S)


def _of_host(fault: HostFault, context: Context) -> Event:
    return Event(name=FAULT, host=fault.host, text=f"{fault.text}; {_what_follows(context)}", level="error")


def _what_follows(context: Context) -> str:
    desired, group = context.wanted.desired, context.wanted.group
    is_passive = (group.mode if desired is None else desired.mode) in ("off", "observe")
    return "nothing new goes there" if is_passive else "they are resumed again and again, and nothing new goes there"


def _unread(domain: SeenDomain, context: Context) -> Event:
    text = f"its record cannot be true, so it is left alone: {domain.unreadable.why if domain.unreadable else ''}"
    return Event(
        name=UNREADABLE, group=context.wanted.name, domain=domain.name, host=domain.host, text=text, level="error"
    )


def _is_late(member: Member, context: Context) -> bool:
    limit_s = member.state.limit_s
    is_waiting = member.is_held and member.is_reachable and member.phase is Phase.SUSPENDED
    return is_waiting and bool(limit_s) and member.held_s(context.now_s) >= (limit_s or 0.0)


def _late(member: Member) -> Event:
    limit_s = member.state.limit_s or 0.0
    return _about(member, STILL_SUSPENDED, f"{member.state.text}, for more than {limit_s:g} s; it is left as it is")


def _unready(context: Context, member: Member) -> str:
    """Return what is told of a member that does not serve: wrong answers at once, silence half-way through a boot."""
    why = unready(context.wanted, member)
    if why is None:
        return ""
    is_late = member.age_s(context.now_s) >= boot_limit_s(context.wanted, member) / 2
    return sentence(member.name, why) if why.kind in WRONG or is_late else ""


def _ignores(member: Member) -> str:
    return f"{member.name} does not shut down; asked {member.record.stop_calls} times; power_off is never"


def _about(member: Member, name: str, text: str) -> Event:
    group, host = member.record.group, member.domain.host
    return Event(name=name, group=group, domain=member.name, host=host, text=text, level="warning")
