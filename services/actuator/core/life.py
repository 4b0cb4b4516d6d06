"""The life of one domain: from what its record says and what libvirt shows, the one next step, or none.

``ADVANCE`` is total over the phases (a test walks the enum). What somebody else keeps from running is left alone, and
comes back by itself (``holding``); only a fault of its host is resumed against. How a domain leaves stands in
``leaving``. An *existing* domain belongs to the user: it is asked to shut down, and its power is cut only where the
group's file says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from common.domain import DomainState
from common.phases import Phase
from common.unready import sentence
from services.actuator.core import breaker as breakers
from services.actuator.core import trials
from services.actuator.core.addresses import answered_at, news, unwritten
from services.actuator.core.context import UNHEALTHY, Context, about, enter
from services.actuator.core.holding import come_back, hold, resume
from services.actuator.core.leaving import draining, failed, give_up, remove, stopping, why_down
from services.actuator.core.members import Member, boot_limit_s, is_overdue, is_uncounted, why_no_address
from services.actuator.core.placement import COMING
from services.actuator.core.record import CLONED
from services.actuator.core.standby import stand_by
from services.actuator.core.steps import PlugIn, SetPhase, SetQuota, Start, Step

QUOTA_GRAIN: Final = 0.005
QUOTA_PATIENCE_S: Final = 3.0  # a quota that cannot be set keeps nobody out of service for longer
STARTING_UP: Final = "starting-up"
SILENT: Final = "it runs and does not answer; it was running before us, so it is left as it is"


def advance(context: Context, member: Member) -> Step | None:
    """Return the next step of the member's own life; None where it waits or cannot be touched now."""
    if not member.is_free or member.domain.power is DomainState.UNKNOWN:
        return None
    step = resume(context, member)
    if step is not None:
        return step  # before anything is written: the disk that is full may be the one that holds the records
    if member.record.boot_id != context.seen.boot_id or member.record.since_mono_s > context.now_s:
        return enter(
            context, member, member.phase, "the machine has rebooted since; its clock starts again", decided_mono_s=None
        )
    return hold(context, member) if member.is_held else ADVANCE[member.phase](context, member)


def is_lent(member: Member) -> bool:
    """Return whether the member has a burst that can be given back."""
    is_there = member.is_reachable and member.domain.power is DomainState.RUNNING
    return is_there and member.record.cpu_quota is not None


def give_back(context: Context, member: Member) -> Step:
    """Return the step that gives a member its configured quota again."""
    return _with_quota(context, member, context.wanted.group.image.cpu_quota, "the burst is given back")


def _creating(context: Context, member: Member) -> Step | None:
    if member.domain.power is DomainState.RUNNING:
        return enter(context, member, Phase.BOOTING, "it runs", started_mono_s=context.now_s)
    if member.domain.power_reason == STARTING_UP and not is_overdue(context.wanted, member, context.now_s):
        return None  # libvirt finishes a start whose caller is gone
    if not member.is_off:
        return enter(context, member, Phase.FAILED, f"{member.domain.power} before it ran")
    breaker = trials.of_start(context, member)
    if breakers.is_open(breaker, context.now_s):
        return give_up(context, member, "starts fail here: nothing half-made is kept")
    if is_overdue(context.wanted, member, context.now_s):
        return enter(context, member, Phase.FAILED, f"not started within {context.wanted.group.start_timeout_s:g} s")
    if breakers.is_pausing(breaker, context.now_s):
        return None
    if breakers.is_half_open(breaker, context.now_s) and not _is_the_trial(context, member):
        return None
    if member.record.is_cloned:
        step = enter(context, member, Phase.CREATING, "its cloning was cut short, so it boots", is_cloned=False)
        return replace(step, tier=CLONED)
    return Start(**about(member), reason="defined and not started", cause=member.record.cause)


def _booting(context: Context, member: Member) -> Step | None:
    if member.domain.power is not DomainState.RUNNING:
        return enter(context, member, Phase.FAILED, f"{why_down(member)} while it booted")
    if member.probe is not None and member.probe.is_right:
        phase = Phase.STANDBY if member.is_reserve else Phase.WARMING
        at = answered_at(context.wanted, member)
        return enter(context, member, phase, "it answers as itself", probed_mono_s=context.now_s, **at)
    if is_overdue(context.wanted, member, context.now_s):
        if member.record.is_woken:
            return enter(context, member, Phase.FAILED, f"woken from {member.record.tier}, it does not answer")
        if not context.is_template and member.record.started_mono_s is None:
            return enter(context, member, Phase.STANDBY, _with_detail(SILENT, why_no_address(context.wanted, member)))
        detail = why_no_address(context.wanted, member) or _what_came(member)
        limit_s = boot_limit_s(context.wanted, member)
        return enter(context, member, Phase.FAILED, _with_detail(f"no right answer within {limit_s:g} s", detail))
    if not member.domain.has_link:
        reason = "its cloning was cut short before it had its link"
        return PlugIn(**about(member), reason=reason, cause=member.record.cause)
    return None


def _follow(context: Context, member: Member) -> Step:
    """A serving domain answers at another address than the one it serves at: it goes there, and its power stays on."""
    address = news(context.wanted, member)
    reason = f"it answers at {address}, no longer at {member.record.address}"
    return enter(context, member, Phase.WARMING, reason, address=address, probed_mono_s=context.now_s)


def _what_came(member: Member) -> str:
    if member.probe is None:
        return ""
    return member.probe.detail if member.probe.why is None else sentence("", member.probe.why).strip()


def _with_detail(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text


def _serving(context: Context, member: Member) -> Step | None:
    if member.domain.power is not DomainState.RUNNING:
        return enter(context, member, Phase.FAILED, why_down(member))
    if news(context.wanted, member):
        return _follow(context, member)
    if address := unwritten(context.wanted, member):
        record = replace(member.record, address=address)
        return SetPhase(**about(member), reason=f"it serves at {address}", record=record, was=member.phase)
    if member.key in context.sick:
        return enter(context, member, Phase.FAILED, UNHEALTHY)
    backend = member.backend
    is_admitted = backend is not None and backend.state == "ready" and backend.is_healthy is not False
    is_ready = member.phase is Phase.WARMING and is_admitted
    if is_ready and (not member.record.is_boosted or member.age_s(context.now_s) > QUOTA_PATIENCE_S):
        return _ready(context, member)
    if member.record.is_boosted:
        quota = context.wanted.group.image.cpu_quota
        record = replace(member.record, is_boosted=False)
        return SetQuota(
            **about(member), reason="it has booted", cause=member.record.cause, record=record, cpu_quota=quota
        )
    if member.record.is_owners and not is_uncounted(context.wanted, member):
        record = replace(member.record, is_owners=False)
        return SetPhase(**about(member), reason="the decider has counted it", record=record, was=member.phase)
    return _burst(context, member) if member.phase is Phase.READY else None


def _ready(context: Context, member: Member) -> Step:
    """Its lead time ends here: whatever takes it out of rotation and back again is no start."""
    decided_s = member.record.decided_mono_s
    first_s = member.record.served_mono_s
    served_s = context.now_s if first_s is None else first_s
    step = enter(
        context, member, Phase.READY, "it is in rotation", decided_mono_s=None, served_mono_s=served_s, failures=0
    )
    return step if decided_s is None else replace(step, lead_s=max(context.now_s - decided_s, 0.0))


def _burst(context: Context, member: Member) -> Step | None:
    """Give a member in rotation the quota that is in force; None where it has it."""
    configured = context.wanted.group.image.cpu_quota
    quota, has = context.wanted.quota, member.record.cpu_quota or configured
    if not context.is_template or abs(quota - has) < QUOTA_GRAIN:
        return None
    reason = "the group is overloaded and its host has idle CPU" if quota > has else "the burst is given back"
    return replace(_with_quota(context, member, quota, reason), is_raised=quota > has)


def _with_quota(context: Context, member: Member, quota: float, reason: str) -> SetQuota:
    is_burst = quota > context.wanted.group.image.cpu_quota
    record = replace(member.record, cpu_quota=quota if is_burst else None)
    return SetQuota(**about(member), reason=reason, cause=context.wanted.cause, record=record, cpu_quota=quota)


def _suspended(context: Context, member: Member) -> Step | None:
    if member.is_off or member.is_broken:
        return enter(context, member, Phase.FAILED, why_down(member))
    return come_back(context, member)


def _gone(context: Context, member: Member) -> Step | None:
    """A template domain never carries this phase; one that does is removed as soon as it is off."""
    return remove(context, member) if member.is_off else None


def _standby(context: Context, member: Member) -> Step | None:
    """A user's domain that ran before us and does not answer: it is no capacity, and not ours to power off."""
    if member.is_standing_by:
        return stand_by(context, member)
    if context.is_template:
        return None
    if member.is_off:
        return remove(context, member)
    if member.probe is not None and member.probe.is_right:
        return enter(context, member, Phase.WARMING, "it answers as itself", **answered_at(context.wanted, member))
    return None


ADVANCE: Final[Mapping[Phase, Callable[[Context, Member], Step | None]]] = {
    Phase.CREATING: _creating,
    Phase.BOOTING: _booting,
    Phase.WARMING: _serving,
    Phase.READY: _serving,
    Phase.DRAINING: draining,
    Phase.STOPPING: stopping,
    Phase.SUSPENDED: _suspended,
    Phase.STANDBY: _standby,
    Phase.FAILED: failed,
    Phase.GONE: _gone,
}


def _is_the_trial(context: Context, member: Member) -> bool:
    coming = [m for m in context.view.members if m.domain.host == member.domain.host and m.phase in COMING]
    return bool(coming) and coming[0].key == member.key
