"""``plan(wanted, seen, now_s)``: what to do next for one group. It remembers nothing.

Every step is one small thing to one domain. After each, the world is looked at again, so a plan that is cut short
anywhere goes on from where things stand.
"""

from dataclasses import dataclass, replace
from typing import Final

from common.domain import DomainState
from common.domain_states import shown
from common.phases import Phase
from services.actuator.core import sickness, trials
from services.actuator.core.capacity import rebalance, target
from services.actuator.core.clones import tend_snapshots
from services.actuator.core.context import Context, adopt
from services.actuator.core.doubt import NO_DOUBT, Doubt
from services.actuator.core.life import advance, give_back, is_lent
from services.actuator.core.members import View, after, view, why_no_address
from services.actuator.core.reserve import tend
from services.actuator.core.seen import Seen, Wanted, is_observing
from services.actuator.core.standing import unreadable, waiting
from services.actuator.core.steps import SetPhase, SetQuota, Step

OFF: Final = "off"
NOTED: Final = frozenset({Phase.BOOTING, Phase.WARMING, Phase.READY, Phase.SUSPENDED})


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that may be taken now, at most one for each domain, and what stands in the way of more.

    ``notes`` say what else an operator may want to know: they keep nobody from what is desired. ``doubt`` is for the
    next look.
    """

    steps: tuple[Step, ...]
    blocked: tuple[str, ...]
    view: View
    notes: tuple[str, ...] = ()
    doubt: Doubt = NO_DOUBT


def plan(wanted: Wanted, seen: Seen, now_s: float) -> Plan:
    """Return the steps that bring the group nearer to what is wanted; none where it is there."""
    context = context_of(wanted, seen, now_s)
    found = context.view
    if is_observing(wanted.group, wanted.desired):
        return _passive(context, given_back(context), "mode observe: nothing is changed, and nothing written down")
    moving = [member for member in found.members if not member.is_standing_by]
    steps = [step for member in moving if (step := advance(context, member)) is not None]
    steps += [
        adopt(context, domain, Phase.BOOTING, "it runs under the group's prefix", wanted.cause)
        for domain in found.adoptable
        if domain.power is DomainState.RUNNING
    ]
    if _is_passive(wanted):
        noted = tuple(step for step in steps if _only_notes(step))
        return _passive(context, noted, "mode off: nothing is started, stopped or removed")
    balance = rebalance(context, after(found.members, steps), steps)
    steps += balance.steps
    at_hand = [member for member in after(found.members, steps) if member.is_standing_by]
    steps += [step for member in at_hand if (step := advance(context, member)) is not None]
    tended = tend(context, after(found.members, steps), steps)
    snapshots = tend_snapshots(context, [*steps, *tended.steps])
    steps += snapshots.steps
    notes = tuple(why for why in (wanted.standby.why,) if why) + balance.notes + tended.notes + snapshots.notes
    notes += waiting(context) + sickness.notes(context) + trials.broken(context)
    return _told(context, (*steps, *tended.steps), balance.blocked, notes)


def context_of(wanted: Wanted, seen: Seen, now_s: float) -> Context:
    """Return what every part of the plan looks at."""
    found = view(wanted, seen)
    doubt = sickness.followed(wanted, seen, found.members, now_s)
    context = Context(wanted, seen, found, now_s, is_halted=False, doubt=doubt)
    may_replace = wanted.desired is None or wanted.desired.is_replacement_allowed
    verdict = sickness.judge(context, may_replace)
    is_halted = not may_replace or sickness.is_halted(context)
    beside = frozenset(m.domain.uuid for m in found.members if m.key in verdict.beside)
    doubt = replace(doubt, beside=beside)
    return replace(context, doubt=doubt, is_halted=is_halted, sick=verdict.sick, beside=verdict.beside)


def given_back(context: Context) -> tuple[Step, ...]:
    """Return the steps that end every burst, where nobody will: the group only observes from now on, or we stop."""
    return tuple(give_back(context, member) for member in context.view.members if is_lent(member) and member.is_free)


def _passive(context: Context, steps: tuple[Step, ...], mode: str) -> Plan:
    """Return the plan of a group whose mode keeps it from what is desired, unless it has just that."""
    goal = target(context)
    is_met = goal is not None and _served(context) == goal
    return _told(context, steps, () if is_met else (mode,), (*waiting(context), mode) if is_met else waiting(context))


def _told(context: Context, steps: tuple[Step, ...], blocked: tuple[str, ...], notes: tuple[str, ...]) -> Plan:
    """Return the plan; what else is in the way keeps a group from nothing that has as many as are desired.

    Args:
        blocked: What keeps the group from its desired capacity whatever it has.
        notes: What keeps it from nothing.
    """
    goal = target(context)
    ways = tuple(_notes(context))
    if goal is not None and _served(context) >= goal:
        return Plan(steps, blocked, context.view, (*notes, *ways, *_no_image(context.wanted)), context.doubt)
    return Plan(steps, ways + blocked, context.view, notes, context.doubt)


def _no_image(wanted: Wanted) -> tuple[str, ...]:
    """Return why no domain could be made if one were needed: before it is needed, while there is time to mend it."""
    is_lacking = wanted.group.kind == "template" and wanted.template is None and wanted.template_note
    return (f"no other domain can be made: {wanted.template_note}",) if is_lacking else ()


def _served(context: Context) -> int:
    """Return how many serve that count: not one that is to be replaced."""
    members = context.view.members
    return sum(1 for m in members if m.is_in_rotation and m.is_capacity and m.key not in context.beside)


def _is_passive(wanted: Wanted) -> bool:
    return wanted.desired is not None and wanted.desired.mode == OFF


def _only_notes(step: Step) -> bool:
    """Return whether the step only writes down what is: on the way up, and without touching anybody's power."""
    return isinstance(step, SetQuota) or (isinstance(step, SetPhase) and step.record.phase in NOTED)


def _notes(context: Context) -> list[str]:
    """Return what is in the way besides the balance: it blocks a group that lacks somebody."""
    notes = []
    if sickness.is_halted(context):
        notes.append("too many domains are unhealthy at once: none is taken away, and one at a time is replaced")
    unread = unreadable(context)
    if unread:
        whose = "; ".join(
            f"{domain.name}: {domain.unreadable.why if domain.unreadable else ''}" for domain in unread[:3]
        )
        notes.append(f"records that cannot be true, their domains are left alone: {whose}")
    known = {domain.uuid for domain in unread}
    others = [domain for domain in context.view.strangers if domain.uuid not in known]
    if others:
        strangers = ", ".join(domain.name for domain in others[:3])
        notes.append(f"domains under our prefix that are not ours are left alone: {strangers}")
    silent = [m for m in context.view.members if m.phase is Phase.STANDBY and not m.is_reserve]
    if silent:
        notes.append(f"running and not answering, left as they are: {', '.join(m.name for m in silent)}")
    unknown = [m for m in silent if why_no_address(context.wanted, m)]
    if unknown:
        notes.append(f"{', '.join(m.name for m in unknown)}: {why_no_address(context.wanted, unknown[0])}")
    held = [d for d in context.view.adoptable if d.power is not DomainState.RUNNING]
    if held:
        whose = "; ".join(f"{d.name}: {shown(d.power, d.power_reason, d.has_saved_state).text}" for d in held[:3])
        notes.append(f"not of the group before they run: {whose}")
    lost = sorted(h.name for h in context.seen.hosts if not h.is_reachable and h.name in context.wanted.group.hosts)
    if lost:
        notes.append(f"not reachable: {', '.join(lost)}")
    return notes
