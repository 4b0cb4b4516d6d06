"""Domains that stand by: how one comes to rest, and how it is woken.

A *paused* one holds its memory and serves milliseconds after it is resumed; a *saved* one holds disk, and is started
from its saved memory. Both have booted and answered as themselves before; both are asked again before they serve. Only
a pause of our own is ended here; what somebody else has paused waits until it goes on (``holding``).
"""

from dataclasses import replace
from typing import Final

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core.clones import has_snapshot
from services.actuator.core.context import Context, about, enter
from services.actuator.core.lead_times import decided_s
from services.actuator.core.members import PAUSED_BY_US, WAKE_TIMEOUT_S, Member
from services.actuator.core.placement import MIB, OVERHEAD_BYTES
from services.actuator.core.steps import Save, SetPhase, SetQuota, Step, Suspend, Undefine, Wake

TIERS: Final = tuple(WAKE_TIMEOUT_S)
TO_STAND_BY: Final = "it will stand by again"


def stand_by(context: Context, member: Member) -> Step | None:
    """Return what brings a domain in phase standby to rest, or away where it cannot serve any more."""
    domain, is_saved = member.domain, member.record.tier == "saved"
    if member.is_off:
        if is_saved and domain.has_saved_state:
            return None
        return Undefine(**about(member), reason="off while it stood by", slot=member.record.slot, is_own_doing=True)
    if member.is_broken:
        return enter(context, member, Phase.FAILED, f"{member.state.text}, while it stood by")
    if member.record.is_boosted:
        return _with_quota(context, member)
    if is_saved:
        otherwise = enter(context, member, Phase.FAILED, "its memory could not be saved").record
        return Save(**about(member), reason="it answers: its memory is saved", otherwise=otherwise)
    if domain.power is DomainState.RUNNING:
        return Suspend(**about(member), reason="it answers: it is paused", is_standby=True)
    return None


def is_at_rest(member: Member) -> bool:
    """Return whether the member is as its tier says: paused, or off with its memory saved."""
    if not member.is_standing_by or member.is_busy:
        return False
    if member.record.tier == "saved":
        return member.is_off and member.domain.has_saved_state
    return member.domain.power is DomainState.PAUSED and member.domain.power_reason in PAUSED_BY_US


def wakeable(context: Context, members: tuple[Member, ...]) -> list[Member]:
    """Return who may serve instead of a new domain: the fastest first, of these the newest image, the longest there.

    One on its way to stand by comes last: it goes on booting, to serve; where a clone serves sooner, it is left alone.
    """
    able = _able(context, members)
    held = held_back(context, members)
    return [member for member in able if member not in held]


def held_back(context: Context, members: tuple[Member, ...]) -> list[Member]:
    """Return the saved ones that their host has no memory for: a start would fail, and spend the saved state."""
    room = {host.name: host.free_memory_bytes for host in context.seen.hosts}
    each = context.wanted.group.image.memory_mib * MIB + OVERHEAD_BYTES
    held = []
    for member in _able(context, members):
        left = room.get(member.domain.host)
        if not member.is_off or member.phase is not Phase.STANDBY or left is None:
            continue
        if left < each:
            held.append(member)
        else:
            room[member.domain.host] = left - each
    return held


def wake(context: Context, member: Member, cause: str) -> Step:
    """Return the step by which the member serves: it is woken, or where it still boots, it no longer stands by."""
    if member.phase is not Phase.STANDBY:
        return _hurry(context, member, cause)
    awake = {"is_woken": True, "started_mono_s": context.now_s, "cause": cause, "note": ""}
    awake["decided_mono_s"] = decided_s(context)
    how = "resumed" if member.record.tier == "paused" else "started from its saved memory"
    return Wake(
        **about(member),
        reason=f"fewer domains than desired: {how}",
        cause=cause,
        record=enter(context, member, Phase.BOOTING, "", **awake).record,
        otherwise=enter(context, member, Phase.FAILED, "it could not be woken", is_woken=True).record,
    )


def recyclable(context: Context, member: Member) -> bool:
    """Return whether a domain that leaves may stand by: it serves well, from the image that is wanted."""
    template, backend = context.wanted.template, member.backend
    return (
        member.phase is Phase.READY
        and template is not None
        and member.record.template == template.digest
        and backend is not None
        and backend.is_healthy is not False
    )


def count(members: tuple[Member, ...], tier: str) -> int:
    """Return how many are in reserve or will be; who leaves to stand by is paused then."""
    coming = sum(1 for m in members if m.phase is Phase.DRAINING and m.record.note == TO_STAND_BY)
    return sum(1 for m in members if m.is_reserve and m.record.tier == tier) + (coming if tier == "paused" else 0)


def _hurry(context: Context, member: Member, cause: str) -> Step:
    """Let it boot on to serve, without its quota. It enters nothing anew: the time it has booted for counts."""
    reason, is_bound = "wanted before it stood by", context.wanted.group.image.cpu_quota < 1
    record = replace(member.record, cause=cause, tier="", is_boosted=is_bound, decided_mono_s=decided_s(context))
    if not is_bound:
        return SetPhase(**about(member), reason=reason, cause=cause, record=record, was=member.phase)
    return SetQuota(**about(member), reason=reason, cause=cause, record=record, cpu_quota=1.0, is_raised=True)


def _may_serve(context: Context, member: Member) -> bool:
    if member.phase is not Phase.STANDBY:
        return not has_snapshot(context, member.domain.host)
    return member.domain.power is DomainState.RUNNING or is_at_rest(member)


def _able(context: Context, members: tuple[Member, ...]) -> list[Member]:
    able = [m for m in members if m.is_reserve and m.is_free and not m.record.protected and _may_serve(context, m)]
    return sorted(able, key=lambda member: _rank(context, member))


def _rank(context: Context, member: Member) -> tuple[bool, int, bool, float, tuple[str, str]]:
    template = context.wanted.template
    is_old = template is not None and member.record.template != template.digest
    tier = TIERS.index(member.record.tier)
    return member.phase is not Phase.STANDBY, tier, is_old, member.record.since_mono_s, member.key


def _with_quota(context: Context, member: Member) -> SetQuota:
    record = replace(member.record, is_boosted=False)
    quota = context.wanted.group.image.cpu_quota
    return SetQuota(**about(member), reason="it has booted", cause=record.cause, record=record, cpu_quota=quota)
