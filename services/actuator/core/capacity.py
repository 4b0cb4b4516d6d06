"""Towards the desired capacity: what is added, what is taken back from a drain, and who leaves."""

import math
from dataclasses import dataclass, replace
from typing import Final

from common import names
from common.phases import Phase
from services.actuator.core import trials, victims
from services.actuator.core.clones import as_clone
from services.actuator.core.context import Context, adopt, enter, leave, rejoin
from services.actuator.core.lead_times import decided_s
from services.actuator.core.members import (
    SERVING,
    WAKE_TIMEOUT_S,
    Member,
    is_fit,
    is_overdue,
    is_saved_elsewhere,
    is_uncounted,
)
from services.actuator.core.placement import COMING, Passing, Place, place
from services.actuator.core.record import Record
from services.actuator.core.seen import SeenDomain
from services.actuator.core.standby import TO_STAND_BY, count, held_back, recyclable, wake, wakeable
from services.actuator.core.steps import Define, SetPhase, Step
from services.actuator.core.uuids import domain_uuid

HOST_GRACE_S: Final = 30.0
LEAVING_RATIO: Final = 0.10
JUST_LOST_S: Final = 30.0
AWAITED_S: Final = 10.0  # how long one that shuts down counts as one that leaves: this paces a group that shrinks far
LEAVING: Final = frozenset({Phase.DRAINING, Phase.STOPPING})


@dataclass(frozen=True, slots=True)
class Balance:
    """The steps towards the desired capacity, in plain words what is in the way, and what took another way."""

    steps: tuple[Step, ...] = ()
    blocked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def target(context: Context) -> int | None:
    """Return how many domains to have: the decider's word within the bounds; None without one that is in force."""
    desired = context.wanted.desired
    if desired is None or desired.generation < context.view.generation:
        return None
    return min(desired.desired + context.wanted.group.warm.running, context.wanted.maximum)


def rebalance(context: Context, members: tuple[Member, ...], planned: list[Step]) -> Balance:
    """Return what brings the group to its target.

    Args:
        members: As they will be after ``planned``; those are left alone here.
        planned: The steps of this plan so far; a domain adopted there counts as capacity.
    """
    goal = target(context)
    if goal is None:
        return Balance(blocked=(_why_no_target(context),))
    adopted = sum(1 for step in planned if isinstance(step, SetPhase) and step.was is None)
    reachable = adopted + sum(1 for m in members if _serves_soon(context, m))
    missing = goal - reachable - _counted_unreachable(context, members) - len(_expected(context, members))
    if missing > 0:
        balance = _grow(context, members, planned, missing)
    elif reachable > goal:
        balance = _without_owners(context, members, reachable, adopted, goal)
    else:
        balance = Balance()
    if balance.blocked and missing > 0:
        balance = replace(balance, blocked=(*balance.blocked, *_held_back_by(members)))
    return replace(balance, steps=(*balance.steps, *_replace_ordered(context, members, goal)))


def _without_owners(context: Context, members: tuple[Member, ...], reachable: int, adopted: int, goal: int) -> Balance:
    """Let go who is too many, but for as many as their owner has started and no decision has counted yet."""
    names = [m.name for m in members if _serves_soon(context, m) and is_uncounted(context.wanted, m)]
    surplus = reachable - goal
    left = surplus - adopted - len(names)
    balance = _shrink(context, members, left, goal) if left > 0 else Balance()
    note = f"{surplus - max(left, 0)} more than desired, started by their owner, and left to run: {', '.join(names)}"
    return replace(balance, notes=(*balance.notes, note)) if names else balance


def _serves_soon(context: Context, member: Member) -> bool:
    is_there = member.is_capacity and member.is_reachable
    return is_there and member.key not in context.beside and not _is_stuck(context, member)


def _is_stuck(context: Context, member: Member) -> bool:
    """Return whether it was to be woken and the call does not end: a frozen QEMU holds it up, so others serve."""
    return member.is_busy and member.record.is_woken and is_overdue(context.wanted, member, context.now_s)


def _expected(context: Context, members: tuple[Member, ...]) -> list[Member]:
    """Return who is suspended and still counts: for ``unhealthy_grace_s``, and only while somebody else serves."""
    if not any(member.is_in_rotation for member in members):
        return []
    return [m for m in members if m.is_suspended and not _is_replaced(context, m)]


def _is_replaced(context: Context, member: Member) -> bool:
    """Return whether somebody else has kept it from running for so long that another one is to be beside it."""
    return member.held_s(context.now_s) >= context.wanted.group.unhealthy_grace_s


def _held_back_by(members: tuple[Member, ...]) -> tuple[str, ...]:
    """Return who keeps a place without serving, and why."""
    return tuple(f"{m.name} keeps its place: {m.state.text}" for m in members if m.is_suspended)


def _why_no_target(context: Context) -> str:
    desired, newest = context.wanted.desired, context.view.generation
    if desired is None:
        return Passing("no desired capacity has been heard yet")
    return f"the desired capacity heard is of generation {desired.generation}; domains were made for {newest}"


def _counted_unreachable(context: Context, members: tuple[Member, ...]) -> int:
    """Return how many domains on lost hosts still count: all of them for a while, then all but ``surge``."""
    lost_s = {host.name: host.unreachable_s for host in context.seen.hosts if not host.is_reachable}
    away = [m for m in members if m.is_capacity and not m.is_reachable]
    long_gone = sum(1 for m in away if lost_s.get(m.domain.host, 0.0) >= HOST_GRACE_S)
    long_gone += context.view.unseen
    return len(away) + context.view.unseen - min(long_gone, context.wanted.group.surge)


def _grow(context: Context, members: tuple[Member, ...], planned: list[Step], missing: int) -> Balance:
    """Take back from drains first: those domains are warm. Then wake who stands by, then add."""
    unseen = sorted(
        host.name
        for host in context.seen.hosts
        if host.name in context.wanted.group.hosts and not host.is_ever_seen and host.unreachable_s < HOST_GRACE_S
    )
    if unseen:
        return Balance(blocked=(Passing(f"waiting for a first look at {', '.join(unseen)}"),))
    steps: list[Step] = [_cancel(context, m) for m in _cancellable(members)[:missing]]
    missing -= len(steps)
    room = max(context.wanted.room - context.view.owned_besides_reserve, 0)
    woken = [wake(context, m, context.wanted.cause) for m in wakeable(context, members)[: min(missing, room)]]
    steps += woken
    missing -= len(woken)
    if missing <= 0:
        return Balance(tuple(steps))
    planned = [*planned, *steps]
    more = (
        _define_more(context, members, planned, missing, len(woken))
        if context.is_template
        else _start_more(context, planned, missing)
    )
    return Balance((*steps, *more.steps), more.blocked, _held_notes(context, members))


def _held_notes(context: Context, members: tuple[Member, ...]) -> tuple[str, ...]:
    held = ", ".join(f"{member.name} ({member.domain.host})" for member in held_back(context, members))
    return (f"stay saved, for their host has no memory for them: {held}",) if held else ()


def _cancellable(members: tuple[Member, ...]) -> list[Member]:
    return [m for m in members if m.phase is Phase.DRAINING and m.is_free and not m.record.order and is_fit(m)]


def _cancel(context: Context, member: Member) -> Step:
    """Back to service, see ``rejoin``; it is no longer to stand by."""
    note = "" if member.record.note == TO_STAND_BY else member.record.note
    return enter(
        context, member, rejoin(member), "wanted again: its drain is cancelled", cause=context.wanted.cause, note=note
    )


def _define_more(
    context: Context, members: tuple[Member, ...], planned: list[Step], missing: int, woken: int
) -> Balance:
    wanted, found = context.wanted, context.view
    if wanted.template is None:
        return Balance(blocked=(wanted.template_note or "the guest image is missing",))
    steps: list[Step] = []
    lost = _just_lost(context, members)
    held = trials.held_places(context, planned)
    open_hosts = tuple(host for host in wanted.group.hosts if host not in held)
    for turn in range(missing):
        is_full = found.owned_besides_reserve + woken + len(steps) >= wanted.room
        if is_full or found.owned_total + len(steps) >= wanted.ceiling:
            return Balance(tuple(steps), (_at_ceiling(context, found.owned_total + len(steps)),))
        is_held = turn >= missing - sum(held.values())
        if is_held and not open_hosts:
            return Balance(tuple(steps), trials.why_places_held(context, held))
        hosts = open_hosts if is_held else None
        where = place(wanted, context.seen, found, [*planned, *steps], context.now_s, hosts)
        if isinstance(where, str):
            return Balance(tuple(steps), (where,))
        replaced = lost[len(steps)] if len(steps) < len(lost) else None
        steps.append(as_clone(context, define(context, where, replaced), replaced))
    return Balance(tuple(steps))


def _just_lost(context: Context, members: tuple[Member, ...]) -> list[Member]:
    """Return whose places new domains take, the first to be replaced first: each is replaced by one."""
    vanished = [m for m in context.view.vanished if m.age_s(context.now_s) < JUST_LOST_S]
    replaced = {m.record.replaces for m in (*members, *context.view.vanished)}
    lost = [m for m in members if _is_just_lost(context, m)] + vanished
    lost = [m for m in lost if m.domain.uuid not in replaced]
    return sorted(lost, key=lambda m: (_is_there(m), m.age_s(context.now_s)))


def _is_just_lost(context: Context, member: Member) -> bool:
    """Return whether a new domain takes this one's place: it is to go, does not serve, or failed a moment ago."""
    is_failed = member.phase is Phase.FAILED and member.age_s(context.now_s) < JUST_LOST_S
    is_useless = member.is_suspended or member.key in context.beside
    return is_failed or is_useless or bool(member.record.order)


def _is_there(member: Member) -> bool:
    """Return whether the member may go on to serve, so that another one only stands in for it."""
    return member.is_suspended or (member.phase in SERVING and not member.record.order)


def _at_ceiling(context: Context, owned: int) -> str:
    what = "max + surge" + (" + standby" if context.wanted.standby.total else "")
    what += " + template" if context.wanted.group.warm.templates else ""
    return f"{owned} domains are owned in all; the ceiling is {context.wanted.ceiling} ({what})"


def define(context: Context, found: Place, lost: Member | None, tier: str = "") -> Define:
    """Return the definition of a new domain.

    Args:
        lost: The one that it replaces, whose cause is then its own.
        tier: How it is to stand by; empty where it is to serve. In reserve it boots within its quota: nobody waits.
    """
    wanted = context.wanted
    name = names.domain_name(wanted.group.prefix, found.index)
    cause = wanted.cause if lost is None else lost.record.cause or wanted.cause
    uuid = domain_uuid(wanted.name, found.host, name, context.seen.boot_id, context.now_s)
    record = Record(
        group=wanted.name,
        uuid=uuid,
        host=found.host,
        phase=Phase.CREATING,
        since_mono_s=context.now_s,
        since_s=context.seen.epoch_s,
        boot_id=context.seen.boot_id,
        slot=found.slot,
        cause=cause,
        is_boosted=wanted.group.image.cpu_quota < 1 and not tier,
        template=wanted.template.digest if wanted.template else "",
        base=found.base,
        generation=wanted.desired.generation if wanted.desired else 0,
        tier=tier,
        decided_mono_s=None if tier in WAKE_TIMEOUT_S else context.now_s if lost else decided_s(context),
        replaces="" if lost is None else lost.domain.uuid,
    )
    reason = f"fewer {tier} domains stand by than wanted" if tier else "fewer domains than desired"
    return Define(
        group=wanted.name,
        host=found.host,
        domain=name,
        uuid=uuid,
        reason=reason if lost is None else f"{'stands in for' if _is_there(lost) else 'replaces'} {lost.name}",
        cause=cause,
        record=record,
        replaces="" if lost is None else lost.name,
        accel=found.accel,
        memory_mib=wanted.group.image.memory_mib,
        tier=tier,
    )


def _start_more(context: Context, planned: list[Step], missing: int) -> Balance:
    """Start domains of the pool: who failed last comes last, of the others the lowest index first."""
    taken = {(step.host, step.domain) for step in planned}
    pool = [domain for domain in context.view.pool if (domain.host, domain.name) not in taken]
    free = [domain for domain in pool if not is_saved_elsewhere(domain)]
    refusals = {host: trials.why_not_host(context, host) for host in {domain.host for domain in free}}
    fit = [d for d in trials.in_order(context, free) if not refusals[d.host] and not trials.why_not_domain(context, d)]
    room = context.wanted.ceiling - context.view.owned_total
    chosen = fit[: max(0, min(missing, room))]
    steps = tuple(_wake(context, domain) for domain in chosen)
    if len(steps) == missing:
        return Balance(steps)
    return Balance(steps, (_why_not_more(context, room, missing - len(steps), free, refusals),))


def _wake(context: Context, domain: SeenDomain) -> Step:
    step = adopt(context, domain, Phase.CREATING, "fewer domains than desired", context.wanted.cause)
    return replace(step, record=replace(step.record, decided_mono_s=decided_s(context)))


def _why_not_more(context: Context, room: int, short: int, free: list[SeenDomain], refusals: dict[str, str]) -> str:
    reasons = sorted(reason for reason in refusals.values() if reason)
    if reasons:
        return "; ".join(reasons)
    if room <= 0:
        return _at_ceiling(context, context.view.owned_total)
    broken = [f"{d.name}: {why}" for d in free if (why := trials.why_not_domain(context, d))]
    if broken:
        return f"{short} more wanted; {'; '.join(broken)}"
    deaf = [m.name for m in context.view.members if m.phase is Phase.STOPPING and not m.is_off]
    if deaf:
        return f"{short} more wanted, but no other domain can start until these have shut down: {', '.join(deaf)}"
    saved = [domain.name for domain in context.view.pool if is_saved_elsewhere(domain)]
    if saved:
        return f"{short} more wanted, but these were saved to files; virsh restore starts them: {', '.join(saved)}"
    return f"{short} more wanted, but no other domain named {context.wanted.group.prefix}0000 and up exists"


def _shrink(context: Context, members: tuple[Member, ...], surplus: int, goal: int) -> Balance:
    """Let the surplus leave, a few at a time, and only while everything needed to judge it is known.

    As many as are wanted stay in rotation: who comes back from a pause counts, but does not serve yet.
    """
    forbidden = _why_no_scale_in(context)
    if forbidden:
        return Balance(blocked=(f"{surplus} more than desired, but {forbidden}",))
    leaving = sum(1 for m in members if _is_leaving(m, context.now_s) and not m.record.order)
    capacity = sum(1 for m in members if m.is_capacity)
    allowed = max(context.wanted.group.max_step_in, math.ceil(LEAVING_RATIO * capacity)) - leaving
    spare = sum(1 for m in members if m.is_in_rotation) - goal
    chosen = victims.pick(members, min(surplus, allowed), spare)
    steps = tuple(_let_go(context, members, m, turn) for turn, m in enumerate(chosen))
    if allowed > 0 and not steps and all(m.record.protected for m in members if m.is_capacity and not m.is_busy):
        return Balance(blocked=(f"{surplus} more than desired, but all are protected",))
    return Balance(steps)


def _is_leaving(member: Member, now_s: float) -> bool:
    """Return whether others wait for it to leave: a guest that shuts down carries nothing, and may take for ever."""
    return member.phase in LEAVING and not (member.phase is Phase.STOPPING and member.age_s(now_s) >= AWAITED_S)


def _let_go(context: Context, members: tuple[Member, ...], member: Member, turn: int) -> SetPhase:
    """Return the step by which the victim leaves; where fewer than wanted stand by, it will, instead of shutting down.

    ``turn`` counts the victims of this plan.
    """
    step = leave(context, member, "more domains than desired", context.wanted.cause)
    if count(members, "paused") + turn < context.wanted.standby.paused and recyclable(context, member):
        return replace(step, record=replace(step.record, note=TO_STAND_BY))
    return step


def _why_no_scale_in(context: Context) -> str:
    desired = context.wanted.desired
    if desired is None or not context.wanted.is_desired_fresh:
        return "the decider is silent"
    if not desired.is_scale_in_allowed:
        return "scale-in is not allowed now"
    if context.is_halted:
        return "too many domains are unhealthy"
    if context.seen.backends is None:
        return "the balancer is silent"
    return ""


def _replace_ordered(context: Context, members: tuple[Member, ...], goal: int) -> tuple[Step, ...]:
    """Let one domain leave that an operator wants replaced: when the others suffice, or when nothing can be added."""
    waiting = [m for m in members if m.record.order == "replace" and m.phase in SERVING and m.is_free]
    if not waiting:
        return ()
    ready = sum(1 for m in members if m.phase is Phase.READY)
    served = [m for m in members if not m.is_reserve]
    is_moving = any(m.phase in COMING | LEAVING or (m.phase is Phase.WARMING and not m.record.order) for m in served)
    is_full = context.view.owned_besides_reserve >= context.wanted.room
    has_room = not is_full and (context.is_template or bool(context.view.pool))
    if ready > goal or (not has_room and not is_moving):
        return (leave(context, waiting[0], "replaced on an operator's order"),)
    return ()
