"""Keeps as many domains standing by as are wanted, never in the way of real capacity.

One at a time on a host is made, and only while the group has all that is desired, has it for a while, and is calm; and
one at a time is renewed: when the image has changed, or when it has waited for ``max_age_s``.
"""

from dataclasses import dataclass
from typing import Final

from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.capacity import define, target
from services.actuator.core.clones import as_clone
from services.actuator.core.context import Context, leave
from services.actuator.core.members import Member
from services.actuator.core.placement import place, spare_bytes
from services.actuator.core.standby import TIERS, count, is_at_rest
from services.actuator.core.steps import Step

CALM_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Tended:
    """The steps for the reserve, and what is in their way."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def tend(context: Context, members: tuple[Member, ...], planned: list[Step]) -> Tended:
    """Return the steps towards the wanted reserve.

    Args:
        members: As they will be after ``planned``; those are left alone here.
        planned: The steps of this plan so far.
    """
    reserve = [m for m in members if m.is_reserve]
    if not context.is_template or not (reserve or context.wanted.standby.total):
        return Tended()
    if not context.wanted.is_desired_fresh or target(context) is None:
        return Tended()
    surplus = [m for tier in TIERS for m in _surplus(context, members, tier)]
    if surplus:
        return Tended(tuple(leave(context, m, "more stand by than wanted") for m in surplus if m.is_free))
    if not is_calm(context, members):
        return Tended()
    missing = [tier for tier in TIERS if count(members, tier) < context.wanted.standby.of(tier)]
    if missing:
        return _more(context, reserve, planned, missing)
    return Tended(tuple(leave(context, m, why) for m, why in _renewable(context, reserve)[:1]))


def is_calm(context: Context, members: tuple[Member, ...]) -> bool:
    """Return whether the group has all that it needs, for a while, so that the host's CPU may go to the reserve."""
    goal, desired = target(context), context.wanted.desired
    if goal is None or desired is None or not desired.is_replacement_allowed or desired.burst_quota is not None:
        return False
    if context.is_halted or context.seen.backends is None:
        return False
    capacity = [m for m in members if m.is_capacity]
    if len(capacity) < goal or any(m.record.order for m in members):
        return False
    return all(m.phase is Phase.READY and m.is_free and m.age_s(context.now_s) >= CALM_S for m in capacity)


def _surplus(context: Context, members: tuple[Member, ...], tier: str) -> list[Member]:
    """Return who is too many: the outdated first, then the newest."""
    over = count(members, tier) - context.wanted.standby.of(tier)
    found = [m for m in members if m.is_reserve and m.record.tier == tier and not m.record.protected]
    return sorted(found, key=lambda m: (not _why_renew(context, m), -m.record.since_mono_s, m.key))[: max(over, 0)]


def _more(context: Context, reserve: list[Member], planned: list[Step], missing: list[str]) -> Tended:
    wanted, tier = context.wanted, missing[0]
    busy = {m.domain.host for m in reserve if not is_at_rest(m)}
    hosts = tuple(host for host in wanted.group.hosts if host not in busy and not _is_closed(context, host, tier))
    if context.view.owned_total >= wanted.ceiling:
        return Tended(notes=(_note(tier, f"{context.view.owned_total} domains are owned, the ceiling"),))
    if not hosts:
        closed = [host for host in wanted.group.hosts if _is_closed(context, host, tier)]
        return Tended(notes=(_note(tier, f"making one failed on {', '.join(closed)}"),) if closed else ())
    found = place(wanted, context.seen, context.view, planned, context.now_s, hosts)
    if isinstance(found, str):
        return Tended(notes=(_note(tier, found),))
    spare = spare_bytes(wanted, context.seen, found.host, planned)
    if tier == "paused" and spare is not None and spare < 0:
        return Tended(notes=(_note(tier, f"{found.host}: its memory is kept for one more in service"),))
    return Tended((as_clone(context, define(context, found, None, tier), None),))


def _note(tier: str, why: str) -> str:
    return f"fewer {tier} domains stand by than wanted: {why}"


def _is_closed(context: Context, host: str, tier: str) -> bool:
    breaker = context.seen.breakers.get(breakers.key(context.wanted.name, host, tier), breakers.CLOSED)
    return breakers.is_open(breaker, context.now_s) or breakers.is_pausing(breaker, context.now_s)


def _renewable(context: Context, reserve: list[Member]) -> list[tuple[Member, str]]:
    """Return who is to be made anew and why, the longest there first; nobody while one is under way."""
    if any(not is_at_rest(m) for m in reserve):
        return []
    oldest = sorted(reserve, key=lambda m: (m.record.since_mono_s, m.key))
    return [(m, why) for m in oldest if (why := _why_renew(context, m)) and m.is_free and not m.record.protected]


def _why_renew(context: Context, member: Member) -> str:
    template, limit_s = context.wanted.template, context.wanted.group.warm.max_age_s
    if template is not None and member.record.template != template.digest:
        return "the image has changed since"
    if member.phase is Phase.STANDBY and member.age_s(context.now_s) >= limit_s:
        return f"it has stood by for {limit_s:g} s"
    return ""
