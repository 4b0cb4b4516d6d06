"""What an operator asks for one domain: the step that fulfils it, or in plain words why not."""

from dataclasses import dataclass, replace
from typing import Final

from common.messages import Request
from common.phases import Phase
from services.actuator.core.context import Context, enter, leave, rejoin
from services.actuator.core.members import SERVING, Member, is_fit
from services.actuator.core.placement import COMING
from services.actuator.core.seen import is_observing
from services.actuator.core.steps import SetPhase

LOST: Final = frozenset({Phase.STOPPING, Phase.FAILED, Phase.GONE})
"""Phases that end a domain: protection spares it from being chosen to leave, not from an end that has begun."""
VERBS: Final = ("protect", "unprotect", "drain", "undrain", "replace")


@dataclass(frozen=True, slots=True)
class Order:
    """A checked request: what to do with which domain, and whether protection is to be overruled."""

    verb: str
    domain: str
    is_forced: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order that is understood and not done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Already:
    """An order whose goal is reached: nothing to do."""

    reason: str


def order_of(request: Request) -> Order | str:
    """Return the order in a request, or what is wrong with it."""
    if request.verb not in VERBS:
        return f"unknown request {request.verb!r}; known: {', '.join(VERBS)}"
    domain = request.args.get("domain")
    if not isinstance(domain, str) or not domain:
        return f"{request.verb} needs the name of a domain, args.domain"
    return Order(request.verb, domain, request.args.get("force") is True, request.by)


def fulfil(order: Order, context: Context, member: Member) -> SetPhase | Refusal | Already:
    """Return the step that fulfils the order for a member that is free of other steps."""
    by = f" by {order.by}" if order.by else ""
    if is_observing(context.wanted.group, context.wanted.desired):
        return Refusal("the mode is observe: nothing is changed, nor written down; first: autoscaler mode on")
    match order.verb:
        case "protect" | "unprotect":
            return _protect(order, context, member, by)
        case "undrain":
            return _undrain(context, member, by)
        case _:
            return _take_away(order, context, member, by)


def _protect(order: Order, context: Context, member: Member, by: str) -> SetPhase | Refusal | Already:
    is_wanted = order.verb == "protect"
    if is_wanted and member.phase in LOST:
        return Refusal(f"{member.name} cannot be kept any more: it is {member.phase}")
    if is_wanted and member.phase is Phase.DRAINING:
        return _keep(context, member, by)
    if member.record.protected is is_wanted:
        return Already(f"{member.name} is {'already' if is_wanted else 'not'} protected")
    step = enter(context, member, member.phase, f"{order.verb}ed{by}")
    return replace(step, record=replace(member.record, protected=is_wanted))


def _keep(context: Context, member: Member, by: str) -> SetPhase | Refusal:
    """Cancel a drain for good: another one leaves instead. One that an operator has ordered is his to take back."""
    if member.record.order:
        return Refusal(f"{member.name} leaves on an operator's order ({member.record.order}); first undrain it")
    if not is_fit(member):
        return Refusal(f"{member.name} is draining, and does not serve well enough to be kept")
    return enter(context, member, rejoin(member), f"its drain is cancelled: protected{by}", protected=True, note="")


def _undrain(context: Context, member: Member, by: str) -> SetPhase | Refusal:
    if member.phase is Phase.DRAINING and not member.record.order:
        return Refusal(f"{member.name} leaves, for fewer domains are desired; to keep it: autoscaler scale")
    if member.phase is Phase.DRAINING and member.is_held:
        return Refusal(f"{member.name} does not run: {member.state.text}")
    if member.phase is Phase.DRAINING:
        return enter(context, member, rejoin(member), f"undrained{by}", order="")
    if member.record.order and member.phase in SERVING:
        return replace(enter(context, member, member.phase, f"undrained{by}"), record=replace(member.record, order=""))
    return Refusal(f"{member.name} is {member.phase}, not draining")


def _take_away(order: Order, context: Context, member: Member, by: str) -> SetPhase | Refusal | Already:
    if member.record.protected and not order.is_forced:
        return Refusal(f"{member.name} is protected; to {order.verb} it all the same: --force")
    if member.phase is Phase.STANDBY and not member.is_reserve:
        return Refusal(
            f"{member.name} does not answer, so it serves nobody; it was running before us, and is left alone"
        )
    if member.phase is Phase.SUSPENDED:
        return Refusal(f"{member.name} is suspended ({member.record.note}); ask again when it runs")
    if member.phase not in SERVING | COMING and not member.is_reserve:
        return Already(f"{member.name} is {member.phase} already")
    if order.verb == "drain" and not order.is_forced and _is_last(context, member):
        return Refusal(
            f"{member.name} is the only domain in rotation: until another is there, nobody would serve; "
            f"ask for replace, or to drain it all the same: --force"
        )
    if order.verb == "replace" and member.phase in SERVING:
        step = enter(context, member, member.phase, f"to be replaced{by}")
        return replace(step, record=replace(member.record, order="replace"))
    return leave(context, member, f"{order.verb}{by}", order=order.verb)


def _is_last(context: Context, member: Member) -> bool:
    """Return whether nobody would take new requests without this one."""
    ready = {m.name for m in context.view.members if m.phase is Phase.READY and m.is_reachable}
    return ready == {member.name}
