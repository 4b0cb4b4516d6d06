"""When a new domain is a clone, and when a snapshot to clone from is taken.

A snapshot is taken in the background: only while nothing is missing and nothing is starting. Until there is one, and
wherever cloning has failed, domains boot. What a killed process left of a template is removed by the next plan.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

from common import names
from common.domain import DomainState
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.context import Context
from services.actuator.core.members import Member, is_off, own_record
from services.actuator.core.placement import COMING, place
from services.actuator.core.record import CLONED, Record
from services.actuator.core.seen import SeenDomain, Snapshot
from services.actuator.core.steps import Clone, Define, Destroy, Step, TakeSnapshot, Undefine
from services.actuator.core.uuids import domain_uuid

TIER: Final = CLONED
TEMPLATE: Final = "template"


@dataclass(frozen=True, slots=True)
class Tending:
    """The steps that a group's snapshots need now, and what keeps its domains from being cloned."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def as_clone(context: Context, step: Define, lost: Member | None) -> Define:
    """Return the step that makes the same domain from a snapshot, where there is one; else the step as it is.

    Args:
        lost: The one that it replaces; the place of a clone that never answered is taken by a domain that boots.
    """
    if not has_snapshot(context, step.host):
        return step
    if lost is not None and lost.phase is Phase.FAILED and _is_dumb(lost):
        return step
    values = {each.name: getattr(step, each.name) for each in fields(step)}
    record = replace(step.record, is_cloned=True, is_boosted=context.wanted.group.image.cpu_quota < 1)
    values |= {"tier": TIER, "record": record, "reason": f"{step.reason}: cloned"}
    return Clone(**values, snapshot=context.wanted.snapshots[step.host].key)


def has_snapshot(context: Context, host: str) -> bool:
    """Return whether a new domain on the host would be a clone."""
    snapshot = context.wanted.snapshots.get(host)
    return snapshot is not None and snapshot.is_there and not _is_held(context, host)


def tend_snapshots(context: Context, planned: list[Step]) -> Tending:
    """Return what the group's snapshots need: one is taken at a time, on a host that has none."""
    if context.wanted.group.warm.start != TIER:
        return Tending(_sweep(context))
    steps, notes = [*_sweep(context)], list[str]()
    for host, snapshot in sorted(context.wanted.snapshots.items()):
        if snapshot.is_there:
            continue
        if snapshot.why_not:
            notes.append(f"{host}: new domains boot: {snapshot.why_not}")
            continue
        found = _take(context, host, snapshot, [*planned, *steps])
        if isinstance(found, str):
            notes.append(f"{host}: new domains boot, for there is no snapshot yet: {found}")
        else:
            steps.append(found)
    return Tending(tuple(steps), tuple(notes))


def _take(context: Context, host: str, snapshot: Snapshot, planned: list[Step]) -> Step | str:
    wanted = context.wanted
    if any(isinstance(step, TakeSnapshot) and step.group == wanted.name for step in context.seen.in_flight):
        return "one is being taken"
    if wanted.desired is None or any(isinstance(s, Define) for s in planned) or _is_coming(context):
        return "it is taken when nothing else starts"
    if _is_held(context, host):
        return "taking one failed; it is tried again later"
    if context.view.owned_total >= wanted.ceiling:
        return f"{context.view.owned_total} domains are owned, the ceiling"
    name = names.template_name(wanted.group.prefix)
    if any(each.name == host and any(d.name == name for d in each.domains) for each in context.seen.hosts):
        return f"{name} is there from before"
    where = place(wanted, context.seen, context.view, planned, context.now_s, (host,))
    if isinstance(where, str):
        return where
    uuid = domain_uuid(wanted.name, host, name, context.seen.boot_id, context.now_s)
    record = Record(
        group=wanted.name,
        uuid=uuid,
        host=host,
        phase=Phase.STANDBY,
        since_mono_s=context.now_s,
        since_s=context.seen.epoch_s,
        boot_id=context.seen.boot_id,
        slot=where.slot,
        is_boosted=True,
        template=wanted.template.digest if wanted.template else "",
        base=where.base,
        tier=TEMPLATE,
    )
    return TakeSnapshot(
        group=wanted.name,
        host=host,
        domain=name,
        uuid=uuid,
        reason="new domains are to be cloned",
        tier=TIER,
        record=record,
        accel=where.accel,
        memory_mib=wanted.group.image.memory_mib,
        snapshot=snapshot.key,
    )


def _is_coming(context: Context) -> bool:
    return any(member.phase in COMING and not member.is_reserve for member in context.view.members)


def _is_dumb(lost: Member) -> bool:
    """Return whether it was a clone that has never answered."""
    return lost.record.is_cloned and lost.record.probed_mono_s is None


def _is_held(context: Context, host: str) -> bool:
    """Return whether the breaker of clones on the host lets none through now."""
    breaker = context.seen.breakers.get(breakers.key(context.wanted.name, host, TIER), breakers.CLOSED)
    return breakers.is_open(breaker, context.now_s) or breakers.is_pausing(breaker, context.now_s)


def _sweep(context: Context) -> tuple[Step, ...]:
    """Return the steps that remove templates which no step is about any more."""
    busy = {(step.host, step.domain) for step in context.seen.in_flight}
    left = [d for host in context.seen.hosts if host.is_reachable for d in host.domains if is_template(context, d)]
    return tuple(_remove(context, domain) for domain in left if (domain.host, domain.name) not in busy)


def is_template(context: Context, domain: SeenDomain) -> bool:
    """Return whether the domain is one that we have booted to save it."""
    record = own_record(context.wanted, domain)
    return (
        record is not None
        and record.tier == TEMPLATE
        and domain.name == names.template_name(context.wanted.group.prefix)
        and domain.power is not DomainState.UNKNOWN
    )


def _remove(context: Context, domain: SeenDomain) -> Step:
    kind = Undefine if is_off(domain) else Destroy
    return kind(
        group=context.wanted.name,
        host=domain.host,
        domain=domain.name,
        uuid=domain.uuid,
        reason="a template that nobody saves any more",
        is_own_doing=True,
    )
