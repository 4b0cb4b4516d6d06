"""Why a member that has its power does not serve: what it answered when it was last asked, or why nobody can ask it."""

from common.domain import DomainState
from common.messages import Unready
from common.phases import Phase
from services.actuator.core.members import Member, why_no_address
from services.actuator.core.seen import Wanted


def unready(wanted: Wanted, member: Member) -> Unready | None:
    """Return what is known to keep a running member from serving; None where nothing is known to."""
    if not member.is_reachable or member.domain.power is not DomainState.RUNNING:
        return None
    if member.probe is not None:
        return member.probe.why
    is_awaited = member.phase is Phase.BOOTING or (member.phase is Phase.STANDBY and not member.is_reserve)
    reason = why_no_address(wanted, member) if is_awaited else ""
    return Unready(kind="no-address", came=reason, wanted="") if reason else None
