"""Who serves: what *ready* means on every screen, in JSON and in metrics.

The phase ``ready`` says that the actuator let a domain in; whether requests reach it, HAProxy knows, and the balancer
tells it. A domain that is ready by its phase while its check fails serves nobody, and is not counted.
"""

from common.messages import Drain, Member, Membership
from common.phases import Phase

IN_ROTATION, UNKNOWN = "ready", "unknown"  # of ``BackendState.state``


def serving(membership: Membership | None, drain: Drain | None) -> frozenset[str] | None:
    """Return the UUIDs of the members that are in rotation and healthy.

    None where that is unknown: the actuator or the balancer says nothing. A check without a result yet does not count
    against its member.
    """
    if membership is None or drain is None:
        return None
    ready = (member for member in membership.members if member.phase is Phase.READY)
    return frozenset(member.uuid for member in ready if not why_not_serving(member, drain))


def why_not_serving(member: Member, drain: Drain | None) -> str:
    """Return what keeps a member of phase ready from serving, in few words; empty if nothing does, or it is unknown."""
    if member.phase is not Phase.READY or drain is None:
        return ""
    if not drain.is_proxy_alive:
        return "HAProxy does not answer"
    backend = next((backend for backend in drain.backends if backend.uuid == member.uuid), None)
    if backend is None:
        return "not in rotation"
    if backend.state == UNKNOWN:
        return "its address is not known, so whether it serves is not either"
    if backend.state != IN_ROTATION:
        return f"not in rotation: {backend.state}"
    if backend.is_healthy is False:
        return f"its check fails: {backend.check}" if backend.check else "its check fails"
    return ""
