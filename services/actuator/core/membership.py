"""The ``Membership`` message: who lives, in which phase, and what keeps the group from its goal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from common.domain import DomainState
from common.figures import MAX_SEEN_GENERATION
from common.messages import LeadTime, Membership
from common.messages import Member as MemberMessage
from common.phases import FATES, Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.addresses import served_at
from services.actuator.core.boot_times import quantile
from services.actuator.core.leaving import why_down
from services.actuator.core.members import Member, View, is_uncounted
from services.actuator.core.placement import COMING, Passing
from services.actuator.core.plan import Plan
from services.actuator.core.record import Record
from services.actuator.core.seen import Seen, Wanted
from services.actuator.core.trials import last_hope
from services.actuator.core.unready import unready

PROBED_S: Final = 1.0


def membership(
    wanted: Wanted,
    seen: Seen,
    planned: Plan,
    boot_times_s: Sequence[float],
    now_s: float,
    lead_times: tuple[LeadTime, ...] = (),
) -> Membership:
    """Return the message for one group; what should serve and does not run is ``suspended`` or ``failed`` at once."""
    group = wanted.group
    worst = _worst_breaker(wanted, seen, planned.view, now_s)
    extra = _beyond_desired(wanted, planned.view.members)
    newest = max(wanted.desired.generation if wanted.desired else 0, planned.view.generation)
    return Membership(
        group=wanted.name,
        generation_seen=min(newest, MAX_SEEN_GENERATION),
        desired_seen=wanted.desired.desired if wanted.desired else None,
        members=tuple(_message(wanted, member, now_s, extra, seen.epoch_s) for member in planned.view.members),
        owned_total=planned.view.owned_total,
        ceiling=wanted.ceiling,
        breaker=breakers.describe(worst, now_s),
        breaker_opens_until_s=_epoch(worst.open_until_s, seen, now_s) if breakers.is_open(worst, now_s) else None,
        blocked="; ".join(planned.blocked),
        is_waiting=any(isinstance(reason, Passing) for reason in planned.blocked),
        unreachable_hosts=tuple(
            sorted(host.name for host in seen.hosts if not host.is_reachable and host.name in group.hosts)
        ),
        boot_p50_s=quantile(boot_times_s, 0.5),
        boot_p95_s=quantile(boot_times_s, 0.95),
        notes=planned.notes,
        lead_times=lead_times,
        adoptable=sum(1 for domain in planned.view.adoptable if domain.power is DomainState.RUNNING),
    )


def shown_phase(member: Member) -> Phase:
    """Return the phase to tell others: what libvirt shows overrules a record that is not written yet.

    One that boots in order to stand by is on standby for everybody else: it is no capacity that comes.
    """
    shown = replace(member, record=shown_record(member))
    phase = shown.phase
    if shown.is_reserve:
        return Phase.STANDBY
    is_lost = member.is_reachable and (member.is_off or member.is_broken)
    if shown.is_suspended and member.is_reachable:
        return Phase.FAILED if is_lost and not shown.is_held else Phase.SUSPENDED
    return Phase.FAILED if is_lost and FATES[phase].takes_traffic else phase


def shown_record(member: Member) -> Record:
    """Return the record that stands in libvirt; the one being written only where there is none yet."""
    written = member.domain.record
    if written is None or written.uuid != member.record.uuid or written.phase is Phase.GONE:
        return member.record
    return written


def address(wanted: Wanted, member: Member) -> str | None:
    """Return where the member serves: at its slot's address, a user's domain where it answered, or is to be asked."""
    if wanted.group.kind == "existing":
        return served_at(wanted, member)
    slot = member.record.slot
    return wanted.network.address(slot) if slot is not None and 0 <= slot < wanted.network.slots else None


def _beyond_desired(wanted: Wanted, members: tuple[Member, ...]) -> frozenset[str]:
    """Return the UUIDs of those in rotation as reserve: the newest ready ones beyond what is desired."""
    ready = [m for m in members if m.is_capacity and m.phase is Phase.READY]
    desired = wanted.desired.desired if wanted.desired else len(ready)
    count = max(min(len(ready) - desired, wanted.group.warm.running), 0)
    newest = sorted(ready, key=lambda m: (m.record.since_mono_s, m.key))[len(ready) - count :]
    return frozenset(m.domain.uuid for m in newest)


def _message(wanted: Wanted, member: Member, now_s: float, extra: frozenset[str], epoch_s: float) -> MemberMessage:
    answering = _is_answering(member)
    is_new = answering and member.phase is Phase.BOOTING
    record = member.record if answering and member.phase is Phase.WARMING else shown_record(member)
    note = record.note if member.is_reachable else "its host is not reachable"
    if member.is_reachable and member.is_held:
        note = member.state.text
    elif shown_phase(member) is Phase.FAILED and record.phase is not Phase.FAILED:
        note = why_down(member)
    note = note or member.domain.address_note
    if not note and record.tier and record.phase in COMING and shown_phase(member) is Phase.STANDBY:
        note = "it boots, to stand by"
    return MemberMessage(
        name=member.name,
        uuid=member.domain.uuid,
        host=member.domain.host,
        phase=Phase.WARMING if answering else shown_phase(member),
        since_s=epoch_s if is_new else record.since_s,
        age_s=0.0 if is_new else max(0.0, now_s - record.since_mono_s),
        address=address(wanted, member),
        port=wanted.group.port,
        is_protected=record.protected,
        cause=record.cause,
        note=note,
        is_probed=answering or _is_probed(record, now_s),
        tier="running" if member.domain.uuid in extra else record.way,
        unready=None if answering else unready(wanted, member),
        is_uncounted=member.is_capacity and is_uncounted(wanted, member),
    )


def _is_answering(member: Member) -> bool:
    """Return whether it has just answered, to serve, and only its record does not say so yet: nobody waits for that."""
    written = shown_record(member).phase
    if written is not Phase.BOOTING or member.is_reserve or member.domain.power is not DomainState.RUNNING:
        return False
    is_right = member.probe is not None and member.probe.is_right
    return member.phase is Phase.WARMING or (member.phase is Phase.BOOTING and is_right)


def _is_probed(record: Record, now_s: float) -> bool:
    at_s = record.probed_mono_s
    return record.phase is Phase.WARMING and at_s is not None and 0 <= now_s - at_s <= PROBED_S


def _worst_breaker(wanted: Wanted, seen: Seen, view: View, now_s: float) -> breakers.Breaker:
    """Return the breaker to tell of: where domains are missing, also that of the one which could be started."""
    found = [seen.breakers.get(breakers.key(wanted.name, host), breakers.CLOSED) for host in wanted.group.hosts]
    has = sum(1 for member in view.members if member.is_capacity)
    if wanted.desired is not None and has < wanted.desired.desired:
        found.append(last_hope(wanted.name, seen, view.pool, now_s))
    return max(found, key=lambda b: (breakers.is_open(b, now_s), b.open_until_s is not None, b.failures))


def _epoch(mono_s: float | None, seen: Seen, now_s: float) -> float | None:
    return None if mono_s is None else seen.epoch_s + mono_s - now_s
