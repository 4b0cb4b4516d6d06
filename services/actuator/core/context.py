"""What one plan looks at, and the steps by which a domain enters a phase: each writes its record."""

from dataclasses import dataclass, replace
from typing import Any, Final

from common.config import Group
from common.phases import Phase
from services.actuator.core.doubt import NO_DOUBT, Doubt
from services.actuator.core.members import SERVING, Member, View
from services.actuator.core.record import Record
from services.actuator.core.seen import Seen, SeenDomain, Wanted
from services.actuator.core.steps import SetPhase

NEVER_SERVED: Final = "left before it served"
UNHEALTHY: Final = "its health checks fail"
Key = tuple[str, str]
"""Host and name of a domain."""


@dataclass(frozen=True, slots=True)
class Context:
    """What one advance looks at besides the member.

    ``is_halted``: so many fail their checks that nothing is taken away. ``sick`` are those that are given up for it
    now, ``beside`` those that no longer count as capacity and keep their place (``sickness``).
    """

    wanted: Wanted
    seen: Seen
    view: View
    now_s: float
    is_halted: bool
    doubt: Doubt = NO_DOUBT
    sick: frozenset[Key] = frozenset()
    beside: frozenset[Key] = frozenset()

    @property
    def is_template(self) -> bool:
        """Return whether the group's domains are ours to define and undefine."""
        return self.wanted.group.kind == "template"


def enter(context: Context, member: Member, phase: Phase, reason: str, **changes: object) -> SetPhase:
    """Return the step that takes the member into ``phase`` now, with other fields of its record changed."""
    record = member.record.enter(phase, context.now_s, context.seen.epoch_s, context.seen.boot_id)
    is_lost, is_failed = phase in (Phase.FAILED, Phase.SUSPENDED), phase is Phase.FAILED
    cause = context.seen.failure_causes.get(member.domain.uuid, "") if is_lost else ""
    record = replace(record, cause=cause or record.cause, note=reason if is_failed else record.note)
    record = replace(record, failures=record.failures + (is_failed and member.phase is not phase))
    record = replace(record, stop_terms=stop_terms(context.wanted.group) if phase is Phase.STOPPING else "")
    step = _set(member, replace(record, **changes), reason)  # type: ignore[arg-type] # checked by Record itself
    return _as_end(context, member, step) if is_failed and member.phase in SERVING else step


def _as_end(context: Context, member: Member, step: SetPhase) -> SetPhase:
    """Return the step by which a member stops serving, with how long it had served well."""
    failing_s = member.backend.unhealthy_s if member.backend is not None else 0.0
    served_s = max(member.age_s(context.now_s) - failing_s, 0.0) if member.phase is Phase.READY else 0.0
    is_sick = member.key in context.sick
    return replace(step, served_s=served_s, ready_s=member.record.since_mono_s, is_sick=is_sick)


def adopt(context: Context, domain: SeenDomain, phase: Phase, reason: str, cause: str) -> SetPhase:
    """Return the step that takes a user's domain into an existing group, in ``phase``."""
    old = domain.record
    record = Record(
        group=context.wanted.name,
        uuid=domain.uuid,
        host=domain.host,
        phase=phase,
        since_mono_s=context.now_s,
        since_s=context.seen.epoch_s,
        boot_id=context.seen.boot_id,
        protected=old is not None and old.uuid == domain.uuid and old.protected,
        cause=cause,
        generation=context.wanted.desired.generation if context.wanted.desired else 0,
        is_owners=phase is Phase.BOOTING,
    )
    return SetPhase(
        group=context.wanted.name,
        host=domain.host,
        domain=domain.name,
        uuid=domain.uuid,
        reason=reason,
        cause=cause,
        record=record,
        was=None,
    )


def leave(context: Context, member: Member, reason: str, cause: str = "", order: str = "") -> SetPhase:
    """Return the step by which a member begins to leave: through a drain where it may carry traffic, else at once."""
    changes = {"cause": cause or member.record.cause, "order": order or member.record.order}
    if member.phase in SERVING:
        return enter(context, member, Phase.DRAINING, reason, **changes)
    return enter(context, member, Phase.STOPPING, reason, note=NEVER_SERVED, **changes)


def stop_terms(group: Group) -> str:
    """Return in one word what the group's file says of a domain that is asked to shut down.

    >>> stop_terms(Group(prefix="web-")), stop_terms(Group(prefix="web-", power_off="never"))
    ('10', 'never')
    """
    return f"{group.stop_timeout_s:g}" if group.may_cut_power else group.power_off


def rejoin(member: Member) -> Phase:
    """Return the phase of one whose drain is cancelled: ready where the balancer still has it, else warming.

    From warming the balancer takes it in anew.
    """
    is_known = member.backend is not None and member.backend.state in ("draining", "ready")
    return Phase.READY if is_known else Phase.WARMING


def about(member: Member) -> dict[str, Any]:
    """Return the fields that every step about the member shares."""
    return {
        "group": member.record.group,
        "host": member.domain.host,
        "domain": member.name,
        "uuid": member.domain.uuid,
        "tier": member.record.way,
    }


def _set(member: Member, record: Record, reason: str) -> SetPhase:
    return SetPhase(**about(member), reason=reason, cause=record.cause, record=record, was=member.phase)
