"""How a domain leaves: it drains, is asked to shut down, is perhaps powered off; and what a failed one waits for.

Nothing is ended here that may come back: ``life.advance`` lets that wait. A domain that has served is not ended before
as many serve without it as are desired, or, where there is no room for another beside it, before it has had its time.

# Note [Terms of a shutdown]
A domain's record says under which ``power_off`` and ``stop_timeout_s`` it was asked to shut down. Where its power may
be cut and the file says otherwise by now, by a reload or a restart, it is asked anew and has the whole of the new
``stop_timeout_s`` from that moment on: nobody is cut off by a deadline that began under another rule.
"""

from dataclasses import replace
from typing import Final

from common.domain import DomainState
from common.domain_states import CHECKS_FAIL, MAY_COME_BACK
from common.phases import Phase
from services.actuator.core.addresses import answered_at
from services.actuator.core.capacity import target
from services.actuator.core.context import NEVER_SERVED, Context, about, enter, stop_terms
from services.actuator.core.events import NOT_IN_TIME, more_time
from services.actuator.core.members import WAKE_TIMEOUT_S, Member, is_overdue
from services.actuator.core.placement import has_space
from services.actuator.core.seen import Backend
from services.actuator.core.standby import TO_STAND_BY
from services.actuator.core.steps import Destroy, SetPhase, Shutdown, Step, Suspend, Undefine

PATIENT_CALLS: Final = 3
"""A domain that was asked so often is deaf: twice within ``stop_timeout_s``, and once more at its end."""
OTHER_TERMS: Final = "it was asked to shut down under another power_off or stop_timeout_s"
"""See Note [Terms of a shutdown]."""


def draining(context: Context, member: Member) -> Step | None:
    """Return the next step of a domain that takes nothing new: it stops when nothing is in flight any more."""
    if member.is_off:
        return remove(context, member)
    if member.domain.power is not DomainState.RUNNING:
        return enter(context, member, Phase.STOPPING, why_down(member))
    if context.seen.backends is None:
        return None  # the balancer is silent: nobody confirms that traffic is off
    if not context.seen.is_proxy_alive:
        return enter(context, member, Phase.STOPPING, "no traffic: the proxy is not running")
    backend = member.backend
    if backend is not None and backend.is_done:
        return _drained(context, member, "drained: nothing in flight")
    if is_overdue(context.wanted, member, context.now_s):
        reason = f"drain deadline of {context.wanted.group.drain_timeout_s:g} s, {_in_flight(backend)} in flight"
        return enter(context, member, Phase.STOPPING, reason)
    return None


def _in_flight(backend: Backend | None) -> str:
    """Return how many requests are in flight, as far as that is known."""
    if backend is None or not (backend.in_flight or backend.is_in_flight_known):
        return "an unknown number"
    return f"{backend.in_flight}" if backend.is_in_flight_known else f"at least {backend.in_flight}"


def _drained(context: Context, member: Member, reason: str) -> Step:
    if member.record.note == TO_STAND_BY and context.wanted.standby.paused:
        changes: dict[str, object] = {"tier": "paused", "is_woken": False, "note": "", "served_mono_s": None}
        return enter(context, member, Phase.STANDBY, reason, **changes)
    return enter(context, member, Phase.STOPPING, reason)


def stopping(context: Context, member: Member) -> Step | None:
    """Return the next step of a domain that is to be off: it is asked, again, and in the end perhaps cut off."""
    if member.is_off:
        return remove(context, member)
    if context.is_template and _never_served(member):
        reason = "it stood by" if member.record.tier in WAKE_TIMEOUT_S else "it had not booted yet"
        return _destroy(member, reason)
    if member.is_broken:
        return _destroy(member, member.state.text) if may_cut_power(context, member) else None
    if context.wanted.group.may_cut_power and member.record.stop_terms != stop_terms(context.wanted.group):
        return enter(context, member, Phase.STOPPING, OTHER_TERMS)
    if is_overdue(context.wanted, member, context.now_s) and may_cut_power(context, member):
        return _cut(context, member)
    return _ask_to_shut_down(context, member)


def failed(context: Context, member: Member) -> Step | None:
    """Return the next step of a domain that has failed: it is replaced first where it has served, then it goes.

    Of our own making it is powered off at once, if its group's file lets it; else it is asked to shut down.
    """
    if context.is_template and context.wanted.group.keep_failed:
        return _keep(member)
    if member.is_off:
        return remove(context, member)
    if _answers_again(context, member):
        return enter(context, member, Phase.WARMING, "it answers again", note="", **answered_at(context.wanted, member))
    if context.wanted.group.keep_failed:
        return None
    if member.record.has_served and not may_give_up(context, member):
        return None
    if context.is_template and (member.is_broken or not member.record.has_served):
        return _destroy(member, member.record.note or "it has failed")
    if member.is_broken:
        return _destroy(member, member.state.text) if may_cut_power(context, member) else None
    if context.is_template and context.wanted.group.may_cut_power:
        return _destroy(member, member.record.note or "it has failed")
    return enter(context, member, Phase.STOPPING, "it has failed, and is asked to shut down")


def may_cut_power(context: Context, member: Member) -> bool:
    """Return whether the group's file allows to power the domain off.

    One of our own making that has panicked works on nothing any more, whatever the file says.
    """
    return context.wanted.group.may_cut_power or (context.is_template and member.is_broken)


def is_deaf(context: Context, member: Member) -> bool:
    """Return whether the domain ignores that it is asked to shut down, and is not to be powered off either."""
    is_asked = member.phase is Phase.STOPPING and member.record.stop_calls >= PATIENT_CALLS
    return is_asked and member.domain.power is DomainState.RUNNING and not context.wanted.group.may_cut_power


def may_give_up(context: Context, member: Member) -> bool:
    """Return whether a failed domain that has served may be ended.

    It may once nobody misses it, those first that cannot recover, then the oldest; where there is no room for another
    beside it, once it has had the time to recover.
    """
    goal = target(context)
    if goal is None:
        return False
    missing = max(goal - sum(1 for each in context.view.members if each.is_in_rotation), 0)
    waiting = [m for m in context.view.members if m.phase is Phase.FAILED and m.record.has_served]
    mortal = [m for m in waiting if not m.is_off and not m.is_held]
    first = sorted(mortal, key=lambda each: (not each.is_broken, each.record.since_mono_s, each.key))
    if member in first[: max(len(first) - missing, 0)]:
        return True
    limit_s = (member.state if member.is_broken else CHECKS_FAIL).limit_s or 0.0
    return member.age_s(context.now_s) >= limit_s and not _has_room(context)


def remove(context: Context, member: Member) -> Step | None:
    """Return what is left to do about a domain that is off: its definition goes, or it returns to the user's pool."""
    if context.is_template:
        return undefine(member, f"off after {member.phase}")
    return enter(context, member, Phase.GONE, f"off after {member.phase}", order="")


def give_up(context: Context, member: Member, reason: str) -> Step | None:
    """Return the step that lets go of a domain which never ran."""
    return undefine(member, reason) if context.is_template else enter(context, member, Phase.GONE, reason)


def undefine(member: Member, reason: str) -> Step | None:
    """Return the step that removes a template domain that is off; None where a saved memory would be lost."""
    is_own = member.is_own_doing and member.phase is not Phase.CREATING
    if member.state.meaning in MAY_COME_BACK and not is_own:
        return None
    cause, slot = member.record.cause, member.record.slot
    return Undefine(**about(member), reason=reason, cause=cause, slot=slot, is_own_doing=is_own)


def why_down(member: Member) -> str:
    """Return what libvirt shows of a domain that does not run."""
    reason = f" ({member.domain.power_reason})" if member.domain.power_reason else ""
    return f"libvirt shows it {member.domain.power}{reason}"


def _destroy(member: Member, reason: str) -> Step:
    return Destroy(**about(member), reason=reason, cause=member.record.cause, is_own_doing=member.is_own_doing)


def _cut(context: Context, member: Member) -> Step:
    """Cut its power, and say which key gives the next one more time."""
    group, calls = context.wanted.group, member.record.stop_calls
    asked = f"asked {calls} {'times' if calls > 1 else 'time'} in {group.stop_timeout_s:g} s"
    return _destroy(member, f"{NOT_IN_TIME}: {asked}, then its power was cut; {more_time(context.wanted.name)}")


def _answers_again(context: Context, member: Member) -> bool:
    """Return whether it may go back to service. Once only: probes and HAProxy's checks may disagree for ever.

    One of our own making that never served is not waited for; it is ended at this very moment.
    """
    is_running = member.domain.power is DomainState.RUNNING
    is_known = member.record.has_served or not context.is_template
    has_answered = member.probe is not None and member.probe.is_right
    return is_running and is_known and has_answered and member.record.failures <= 1


def _keep(member: Member) -> Step | None:
    if member.domain.power is not DomainState.RUNNING:
        return None
    reason = "failed domains are kept for a look"
    if not member.record.is_kept:  # before it is paused: it tells our pause from one of somebody else
        record = replace(member.record, is_kept=True)
        return SetPhase(**about(member), reason=reason, cause=record.cause, record=record, was=member.phase)
    return Suspend(**about(member), reason=reason, cause=member.record.cause, is_standby=False)


def _ask_to_shut_down(context: Context, member: Member) -> Step | None:
    """Ask at once, half-way to the deadline (a guest that was booting misses the first request), at it, and on.

    Whom the power button did not move is also asked through the guest's agent.
    """
    calls, each_s = member.record.stop_calls, context.wanted.group.stop_timeout_s
    due_s = each_s / 2 * calls if calls < PATIENT_CALLS else each_s * (calls - 1)
    if member.domain.power is not DomainState.RUNNING or member.age_s(context.now_s) < due_s:
        return None
    record = replace(member.record, stop_calls=calls + 1, stop_terms=stop_terms(context.wanted.group))
    return Shutdown(
        **about(member),
        reason=f"shutdown request {record.stop_calls}",
        cause=member.record.cause,
        record=record,
        is_by_agent_too=calls > 0,
    )


def _never_served(member: Member) -> bool:
    return member.record.note == NEVER_SERVED


def _has_room(context: Context) -> bool:
    """Return whether one more domain may be beside those that there are, whatever else keeps it from coming."""
    view, wanted = context.view, context.wanted
    if view.owned_besides_reserve >= wanted.room or view.owned_total >= wanted.ceiling:
        return False
    if not context.is_template:
        return bool(view.pool)
    hosts = [host for host in context.seen.hosts if host.name in wanted.group.hosts and host.is_reachable]
    return any(has_space(wanted, host) for host in hosts)
