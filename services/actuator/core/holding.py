"""A domain that somebody else keeps from running: it waits, out of rotation, with its power and its place.

Whose doing a state is stands in ``common.domain_states``. What was in service, or on its way there, enters phase
suspended and comes back by itself; every other phase just waits, and its clock starts anew when the domain runs.
Only what a fault of its host has paused is resumed by us, again and again.
"""

from typing import Final

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core.context import Context, about, enter
from services.actuator.core.members import Member
from services.actuator.core.past import is_resume_due, is_shaky
from services.actuator.core.steps import Resume, Step

BOOTED: Final = "booted"
RUNS_AGAIN: Final = "it runs again"


def hold(context: Context, member: Member) -> Step | None:
    """Return what follows for a held domain: it is suspended, or waits in its phase."""
    if not member.is_suspended or member.phase is Phase.SUSPENDED:
        return None
    text = member.state.text
    return enter(context, member, Phase.SUSPENDED, text, note=text, decided_mono_s=None)


def resume(context: Context, member: Member) -> Step | None:
    """Return the step that lets a domain go on which a fault of its host has paused; None where it is not due."""
    past = member.domain.past
    if past is None or not member.is_held or not is_resume_due(past, context.now_s):
        return None
    reason = f"{member.state.text}: resumed, for the fault may be over"
    return Resume(**about(member), reason=reason, cause=member.record.cause)


def come_back(context: Context, member: Member) -> Step | None:
    """Return the step by which a suspended domain that runs goes on: to service, or to its boot from the beginning."""
    if member.domain.power is not DomainState.RUNNING or is_shaky(member.domain.past, context.now_s):
        return None
    has_answered = member.record.probed_mono_s is not None and member.domain.power_reason != BOOTED
    return enter(context, member, Phase.WARMING if has_answered else Phase.BOOTING, RUNS_AGAIN, note="")
