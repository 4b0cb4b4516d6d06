"""What each group's endpoint carries while the services run: who is to serve, who does, whether it answers itself."""

import http.client
from typing import Final

from cli.doctor.facts import EndpointAnswer, EndpointFacts
from cli.endpoints import answers
from cli.observe import Snapshot
from cli.status import endpoint_url
from common.config import Group
from common.config_readiness import question
from common.endpoint import within_reach
from common.http_answer import ask_http
from common.messages import DesiredCapacity, Drain, Member, Membership
from common.phases import Phase
from common.rotation import serving, why_not_serving
from common.unready import sentences

PATIENCE_S: Final = 3.0
LEAVING: Final = (Phase.DRAINING, Phase.STOPPING, Phase.GONE, Phase.STANDBY)


def endpoint_facts(name: str, group: Group, snapshot: Snapshot, epoch_s: float) -> EndpointFacts:
    """Return what the services say of a group's endpoint, and what it answers; at most one question is asked.

    Args:
        name: of the group.
        group: its table of the configuration.
        snapshot: what the services say.
        epoch_s: now, in epoch seconds.
    """
    membership, drain = snapshot.memberships.get(name), snapshot.drains.get(name)
    wanted = snapshot.wanted.get(name)
    desired = wanted.desired if wanted else membership.desired_seen if membership else None
    served = serving(membership, drain)
    members = membership.members if membership else ()
    missing = [member for member in members if served is not None and member.uuid not in served]
    idle = why_idle(wanted, desired, members)
    return EndpointFacts(
        where=endpoint_url(group),
        desired=desired,
        serving=None if served is None else len(served),
        reasons=_reasons(membership, drain),
        blocked=membership.blocked if membership else "",
        is_waiting=membership.is_waiting if membership else False,
        overdue=tuple(member.name for member in missing if _lacks_s(member, drain, epoch_s) > group.boot_timeout_s),
        idle=idle,
        answer=None if idle else ask_endpoint(name, group),
    )


def why_idle(wanted: DesiredCapacity | None, desired: int | None, members: tuple[Member, ...]) -> str:
    """Return why nobody is to serve, and the endpoint is not asked; empty where somebody is."""
    if desired is None:
        return "nobody says how many domains are desired"
    if desired == 0:
        return "no domain is desired: not asked"
    is_served = any(member.phase is Phase.READY for member in members)
    if wanted is not None and wanted.mode in ("off", "observe") and not is_served:
        return f"has mode {wanted.mode}, and no domain was brought into service: not asked"
    return ""


def ask_endpoint(name: str, group: Group) -> EndpointAnswer:
    """Return what one question through the endpoint brings, the group's own of readiness, within a few seconds."""
    if group.protocol == "tcp" or group.readiness.protocol != "http":
        is_right = answers(name, group)
        if group.protocol == "tcp":
            return EndpointAnswer(is_right, "keeps a connection" if is_right else "keeps no connection")
        return EndpointAnswer(is_right, "answers" if is_right else "does not answer, or with 503")
    asked, (address, port) = question(name, group.readiness), within_reach(group.endpoint)
    patience_s = max(PATIENCE_S, group.readiness.timeout_s)
    try:
        found = ask_http(asked, address, port, connect_timeout_s=PATIENCE_S, timeout_s=patience_s)
    except TimeoutError:
        return EndpointAnswer(False, f"does not answer within {patience_s:g} s", is_late=True)
    except (OSError, http.client.HTTPException) as error:
        return EndpointAnswer(False, f"does not answer ({error or type(error).__name__})")
    if asked.is_right(found.status):
        return EndpointAnswer(True, f"answers {found.status}")
    return EndpointAnswer(False, f"answers {found.status} for {asked.path}; readiness wants {asked.wanted}")


def _reasons(membership: Membership | None, drain: Drain | None) -> tuple[str, ...]:
    """Return why members do not serve, in the words of ``status``."""
    if membership is None:
        return ()
    told = {member.name: why_not_serving(member, drain) for member in membership.members if member.unready is None}
    return (*sentences(membership), *(f"{name} is ready, but {trouble}" for name, trouble in told.items() if trouble))


def _lacks_s(member: Member, drain: Drain | None, epoch_s: float) -> float:
    """Return for how many seconds a member that is to serve does not; 0 for one that leaves or stands by."""
    if member.phase in LEAVING:
        return 0.0
    backends = drain.backends if drain else ()
    unhealthy_s = next((backend.unhealthy_s for backend in backends if backend.uuid == member.uuid), 0.0)
    return unhealthy_s if member.phase is Phase.READY else epoch_s - member.since_s
