"""The life of one domain: from what its record says and what libvirt shows, the one next step, or none.

``ADVANCE`` is total over the phases (a test walks the enum). A domain is never resumed: what paused it may have hurt
it. Only one that we paused ourselves, to stand by, is (``standby``). An *existing* domain belongs to the user: it is
asked to shut down, and its power is cut only where it has failed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.context import NEVER_SERVED, Context, about, enter
from services.actuator.core.members import SERVING, WAKE_TIMEOUT_S, Member, boot_limit_s, is_overdue, why_no_address
from services.actuator.core.placement import COMING
from services.actuator.core.record import CLONED
from services.actuator.core.standby import TO_STAND_BY, stand_by
from services.actuator.core.steps import Destroy, PlugIn, SetQuota, Shutdown, Start, Step, Suspend, Undefine

HALT_RATIO: Final = 0.45
ABSENT_GRACE_S: Final = 5.0
UNHEALTHY: Final = "its health checks fail"
QUOTA_GRAIN: Final = 0.005
STARTING_UP: Final = "starting-up"
SILENT: Final = "it runs and does not answer; it was running before us, so it is left as it is"


def advance(context: Context, member: Member) -> Step | None:
    """Return the next step of the member's own life; None where it waits or cannot be touched now."""
    if not member.is_free or member.domain.power is DomainState.UNKNOWN:
        return None
    if member.record.boot_id != context.seen.boot_id or member.record.since_mono_s > context.now_s:
        return enter(
            context, member, member.phase, "the machine has rebooted since; its clock starts again", decided_mono_s=None
        )
    return ADVANCE[member.phase](context, member)


def unhealthy(context: Context, member: Member) -> bool:
    """Return whether HAProxy's checks have failed for longer than the group tolerates."""
    backend = member.backend
    return (
        member.phase in SERVING
        and member.domain.power is DomainState.RUNNING
        and backend is not None
        and backend.is_healthy is False
        and backend.unhealthy_s >= context.wanted.group.unhealthy_grace_s
    )


def is_halted(context: Context, members: tuple[Member, ...]) -> bool:
    """Return whether so many running domains are unhealthy that the checks themselves are in doubt.

    One sick domain is always replaced; from the second on, not more than ``HALT_RATIO`` of those that should serve.
    """
    doubted = [m for m in members if m.phase is Phase.FAILED and not m.is_off and m.record.note == UNHEALTHY]
    sick = [m for m in members if unhealthy(context, m)]
    serving = [m for m in members if m.phase in SERVING]
    bad, total = len(sick) + len(doubted), len(serving) + len(doubted)
    return bad >= 2 and bad > HALT_RATIO * total


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
    breaker = _breaker(context, member)
    if breakers.is_open(breaker, context.now_s):
        return _give_up(context, member, "starts fail here: nothing half-made is kept")
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
        return enter(context, member, Phase.FAILED, f"{_why_down(member)} while it booted")
    if member.probe is not None and member.probe.is_right:
        phase = Phase.STANDBY if member.is_reserve else Phase.WARMING
        return enter(context, member, phase, "it answers as itself", probed_mono_s=context.now_s)
    if is_overdue(context.wanted, member, context.now_s):
        if member.record.is_woken:
            return enter(context, member, Phase.FAILED, f"woken from {member.record.tier}, it does not answer")
        if not context.is_template and member.record.started_mono_s is None:
            return enter(context, member, Phase.STANDBY, _with_detail(SILENT, why_no_address(context.wanted, member)))
        detail = why_no_address(context.wanted, member) or (member.probe.detail if member.probe is not None else "")
        limit_s = boot_limit_s(context.wanted, member)
        return enter(context, member, Phase.FAILED, _with_detail(f"no right answer within {limit_s:g} s", detail))
    if not member.domain.has_link:
        reason = "its cloning was cut short before it had its link"
        return PlugIn(**about(member), reason=reason, cause=member.record.cause)
    return None


def _with_detail(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text


def _serving(context: Context, member: Member) -> Step | None:
    if member.domain.power is not DomainState.RUNNING:
        return enter(context, member, Phase.FAILED, _why_down(member))
    if unhealthy(context, member) and not context.is_halted:
        return enter(context, member, Phase.FAILED, UNHEALTHY)
    if member.record.is_boosted:
        quota = context.wanted.group.image.cpu_quota
        record = replace(member.record, is_boosted=False)
        return SetQuota(
            **about(member), reason="it has booted", cause=member.record.cause, record=record, cpu_quota=quota
        )
    if member.phase is Phase.WARMING and member.backend is not None and member.backend.state == "ready":
        return _ready(context, member)
    return _burst(context, member) if member.phase is Phase.READY else None


def _ready(context: Context, member: Member) -> Step:
    """Its lead time ends here: whatever takes it out of rotation and back again is no start."""
    decided_s = member.record.decided_mono_s
    step = enter(context, member, Phase.READY, "it is in rotation", decided_mono_s=None)
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


def _draining(context: Context, member: Member) -> Step | None:
    if member.is_off:
        return _remove(context, member)
    if member.domain.power is not DomainState.RUNNING:
        return enter(context, member, Phase.STOPPING, _why_down(member))
    if context.seen.backends is None:
        return None  # the balancer is silent: nobody confirms that traffic is off
    if not context.seen.is_proxy_alive:
        return enter(context, member, Phase.STOPPING, "no traffic: the proxy is not running")
    backend = member.backend
    if backend is None:
        if member.age_s(context.now_s) < ABSENT_GRACE_S:
            return None
        return _drained(context, member, "not in rotation")
    if backend.state == "left" or (backend.state == "draining" and backend.in_flight == 0):
        return _drained(context, member, "drained: nothing in flight")
    if is_overdue(context.wanted, member, context.now_s):
        reason = f"drain deadline of {context.wanted.group.drain_timeout_s:g} s, {backend.in_flight} in flight"
        return enter(context, member, Phase.STOPPING, reason)
    return None


def _drained(context: Context, member: Member, reason: str) -> Step:
    if member.record.note == TO_STAND_BY and context.wanted.standby.paused:
        return enter(context, member, Phase.STANDBY, reason, tier="paused", is_woken=False, note="")
    return enter(context, member, Phase.STOPPING, reason)


def _stopping(context: Context, member: Member) -> Step | None:
    if member.is_off:
        return _remove(context, member)
    if not context.is_template and member.domain.power is DomainState.PAUSED:
        return None  # a user's paused domain cannot shut down, and is not ours to power off
    if context.is_template and (is_overdue(context.wanted, member, context.now_s) or _never_served(member)):
        unserved = "it stood by" if member.record.tier in WAKE_TIMEOUT_S else "it had not booted yet"
        reason = unserved if _never_served(member) else "it did not shut down in time"
        return Destroy(**about(member), reason=reason, cause=member.record.cause)
    return _ask_to_shut_down(context, member)


def _failed(context: Context, member: Member) -> Step | None:
    keep = context.wanted.group.keep_failed
    if not context.is_template:
        return _failed_existing(context, member, keep)
    if keep:
        if member.domain.power is DomainState.RUNNING:
            reason = "failed domains are kept for a look"
            return Suspend(**about(member), reason=reason, cause=member.record.cause, is_standby=False)
        return None
    if member.is_off:
        return _remove(context, member)
    return Destroy(**about(member), reason=member.record.note or "it has failed", cause=member.record.cause)


def _failed_existing(context: Context, member: Member, keep: bool) -> Step | None:
    """A user's domain that failed: off means it may be started again; paused, it waits for its owner."""
    if member.is_off:
        return _remove(context, member)
    if keep or member.domain.power is DomainState.PAUSED:
        return None
    if member.age_s(context.now_s) >= context.wanted.group.stop_timeout_s:
        return Destroy(**about(member), reason="failed, and did not shut down", cause=member.record.cause)
    return _ask_to_shut_down(context, member)


def _suspended(context: Context, member: Member) -> Step | None:
    if member.is_off:
        return enter(context, member, Phase.FAILED, _why_down(member))
    return (
        enter(context, member, Phase.WARMING, "it runs again") if member.domain.power is DomainState.RUNNING else None
    )


def _gone(context: Context, member: Member) -> Step | None:
    """A template domain never carries this phase; one that does is removed as soon as it is off."""
    return _remove(context, member) if member.is_off else None


def _standby(context: Context, member: Member) -> Step | None:
    """A user's domain that ran before us and does not answer: it is no capacity, and not ours to power off."""
    if member.is_standing_by:
        return stand_by(context, member)
    if context.is_template:
        return None
    if member.is_off:
        return _remove(context, member)
    if member.probe is not None and member.probe.is_right:
        return enter(context, member, Phase.WARMING, "it answers as itself")
    return None


ADVANCE: Final[Mapping[Phase, Callable[[Context, Member], Step | None]]] = {
    Phase.CREATING: _creating,
    Phase.BOOTING: _booting,
    Phase.WARMING: _serving,
    Phase.READY: _serving,
    Phase.DRAINING: _draining,
    Phase.STOPPING: _stopping,
    Phase.SUSPENDED: _suspended,
    Phase.STANDBY: _standby,
    Phase.FAILED: _failed,
    Phase.GONE: _gone,
}


def _ask_to_shut_down(context: Context, member: Member) -> Step | None:
    """Ask at once, and again half-way to the deadline: a guest that was still booting misses the first request."""
    due_s = context.wanted.group.stop_timeout_s / 2 * member.record.stop_calls
    if member.age_s(context.now_s) < due_s:
        return None
    record = replace(member.record, stop_calls=member.record.stop_calls + 1)
    return Shutdown(
        **about(member), reason=f"shutdown request {record.stop_calls}", cause=member.record.cause, record=record
    )


def _remove(context: Context, member: Member) -> Step:
    """What is left to do about a domain that is off: its definition goes, or the user's domain returns to the pool."""
    if context.is_template:
        reason = f"off after {member.phase}"
        return Undefine(**about(member), reason=reason, cause=member.record.cause, slot=member.record.slot)
    return enter(context, member, Phase.GONE, f"off after {member.phase}", order="")


def _give_up(context: Context, member: Member, reason: str) -> Step:
    if context.is_template:
        return Undefine(**about(member), reason=reason, cause=member.record.cause, slot=member.record.slot)
    return enter(context, member, Phase.GONE, reason)


def _never_served(member: Member) -> bool:
    return member.record.note == NEVER_SERVED


def _is_the_trial(context: Context, member: Member) -> bool:
    coming = [m for m in context.view.members if m.domain.host == member.domain.host and m.phase in COMING]
    return bool(coming) and coming[0].key == member.key


def _breaker(context: Context, member: Member) -> breakers.Breaker:
    tier = member.record.tier if member.is_reserve else ""
    return context.seen.breakers.get(breakers.key(context.wanted.name, member.domain.host, tier), breakers.CLOSED)


def _why_down(member: Member) -> str:
    reason = f" ({member.domain.power_reason})" if member.domain.power_reason else ""
    return f"libvirt shows it {member.domain.power}{reason}"
