"""Sick, or only overloaded: who of those that fail their checks is given up, and when.

=========== ============================================ ======================= ======================================
situation   what is seen                                 who is given up         after it has failed for
=========== ============================================ ======================= ======================================
unknown     nobody tells what waits, or the figures are  nobody
            missing (the decider says so)
overloaded  requests wait or slots are full, now or      one at a time, that has ``BACKLOG_S``
            within the last ``unhealthy_grace_s``        nothing in flight
unserved    requests come, and nobody passes             one at a time, and not  3 x ``unhealthy_grace_s``
                                                         while another is coming
crowd       several fail together (``doubt``)            one at a time           ``unhealthy_grace_s``
calm        none of this                                 each                    ``unhealthy_grace_s``
=========== ============================================ ======================= ======================================

Who is *replaced beside* keeps its place and its power; another one is started beside it, as far as there is room. That
is done for one at a time, after ``unhealthy_grace_s`` in which requests came, nobody had a right answer, and nobody
serves whose checks succeed: its checks fail, or they time out and HAProxy holds it for up because nobody else is
(``is_kept``). It ends when somebody serves whose checks succeed; of one that was kept not before HAProxy has had the
time to take it down, for until then nobody knows which of the two is the one too many.

So each veto ends, and the end of none takes many at once. *One at a time*: the next only when as many are ready as
desired, none is coming, and no start has just failed. A successor that fails soon after it was ready has to fail for
twice as long after each try (``breaker.not_cured``), and nobody else is tried meanwhile.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from common.domain import DomainState
from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core import trials
from services.actuator.core.capacity import target
from services.actuator.core.context import UNHEALTHY, Context, Key
from services.actuator.core.doubt import Doubt, Signs, follow
from services.actuator.core.members import SERVING, Member
from services.actuator.core.placement import COMING
from services.actuator.core.seen import Load, Seen, Wanted

FULL_RATIO: Final = 0.9  # of the slots of those that serve
BACKLOG_S: Final = 120.0  # a domain out of rotation has worked off by then what nobody waits for any more
UNSERVED_GRACES: Final = 3.0
BESIDE: Final = "its checks time out, and requests that came had no right answer: another one is to serve beside it"


class Situation(StrEnum):
    """What a group is like while checks fail."""

    UNKNOWN = "unknown"
    OVERLOADED = "overloaded"
    UNSERVED = "unserved"
    CROWD = "crowd"
    CALM = "calm"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is given up now, and who is replaced beside: it keeps its place until another is ready."""

    situation: Situation = Situation.UNKNOWN
    sick: frozenset[Key] = frozenset()
    beside: frozenset[Key] = frozenset()


def followed(wanted: Wanted, seen: Seen, members: tuple[Member, ...], now_s: float) -> Doubt:
    """Return the group's doubt after this look."""
    return follow(seen.doubt, _signs(wanted, seen.load, members, now_s), now_s, wanted.group.unhealthy_grace_s)


def judge(context: Context, may_replace: bool) -> Verdict:
    """Return who is given up for failing checks.

    Args:
        context: With the doubt after this look.
        may_replace: False where the figures of most domains are missing, or nothing may be changed.
    """
    failing = [m for m in context.view.members if is_failing(m)]
    situation = situation_of(context, failing) if may_replace else Situation.UNKNOWN
    due = sorted(
        (m for m in failing if _is_due(context, situation, m)),
        key=lambda m: (not is_relapse(context, m), *_order(m, context.now_s)),
    )
    if situation is Situation.UNKNOWN or not due:
        return Verdict(situation, beside=_beside(context, situation, failing))
    if situation is not Situation.CALM:
        due = due[:1] if _is_next(context, failing, due[0]) else []
    return Verdict(situation, frozenset(m.key for m in due), _beside(context, situation, failing))


def is_failing(member: Member) -> bool:
    """Return whether a member that should serve and runs fails HAProxy's checks."""
    is_up = member.phase in SERVING and member.is_reachable and member.domain.power is DomainState.RUNNING
    return is_up and member.backend is not None and member.backend.is_healthy is False


def situation_of(context: Context, failing: list[Member]) -> Situation:
    """Return what the group is like, the most careful row of the table first."""
    load, calm_s = context.seen.load, context.wanted.group.unhealthy_grace_s
    if load is None:
        return Situation.UNKNOWN
    if context.doubt.is_busy(context.now_s, calm_s):
        return Situation.OVERLOADED
    if failing and load.is_asked and not _passing(context):
        return Situation.UNSERVED
    return Situation.CROWD if context.doubt.is_crowd(context.now_s, calm_s) else Situation.CALM


def patience_s(context: Context, situation: Situation, member: Member) -> float:
    """Return for how long the member has to fail until it may be given up."""
    grace_s = context.wanted.group.unhealthy_grace_s
    base_s = {
        Situation.OVERLOADED: max(BACKLOG_S, grace_s),
        Situation.UNSERVED: UNSERVED_GRACES * grace_s,
    }.get(situation, grace_s)
    tries = min(_in_vain(context).relapses, 16) if is_relapse(context, member) else 0
    return max(base_s, min(grace_s * 2.0**tries, breakers.LONGEST_S))


def is_relapse(context: Context, member: Member) -> bool:
    """Return whether the member fails soon after it was ready, as did the one whose place it has."""
    return breakers.is_again(_in_vain(context), member.record.since_mono_s, _served_s(context, member))


def is_halted(context: Context) -> bool:
    """Return whether so many fail their checks that nobody is to be taken away."""
    is_crowd = context.doubt.is_crowd(context.now_s, context.wanted.group.unhealthy_grace_s)
    failing = [m for m in context.view.members if is_failing(m) and m.phase is Phase.READY]
    load = context.seen.load
    return is_crowd or bool(failing and load is not None and load.is_asked and not _passing(context))


def notes(context: Context) -> tuple[str, ...]:
    """Return what an operator should know of those that fail their checks and are not given up yet."""
    failing = [m for m in context.view.members if is_failing(m)]
    situation = situation_of(context, failing)
    tried = [m for m in failing if is_relapse(context, m) and m.key not in context.sick]
    told = [_in_vain_note(context, situation, m) for m in tried]
    others = [m for m in failing if m not in tried and m.key not in context.sick]
    if others and situation in WHY_NOT:
        told.append(f"{', '.join(m.name for m in others)}: {WHY_NOT[situation](context)}")
    told += [f"{m.name}: {BESIDE}" for m in _passing(context) if m.key in context.beside]
    return tuple(told)


def is_cured(members: tuple[Member, ...], doubt: Doubt, now_s: float) -> bool:
    """Return whether nobody has failed for ``breaker.SOON_S``, with all that are ready there for as long."""
    ready = [m for m in members if m.phase is Phase.READY and m.is_reachable]
    youngest_s = min((m.age_s(now_s) for m in ready), default=0.0)
    return min(youngest_s, doubt.well_s(now_s)) >= breakers.SOON_S


def _signs(wanted: Wanted, load: Load | None, members: tuple[Member, ...], now_s: float) -> Signs:
    """Return what one look shows; those given up for their checks that still run fail them too."""
    grace_s = wanted.group.unhealthy_grace_s
    given_up = [m for m in members if m.phase is Phase.FAILED and not m.is_off and m.record.note == UNHEALTHY]
    failing = [m for m in members if is_failing(m) and (m.phase is Phase.READY or _failing_s(m, now_s) >= grace_s)]
    total = sum(1 for m in members if m.phase in SERVING) + len(given_up)
    kept = frozenset(m.domain.uuid for m in members if _passes(m) and m.backend is not None and m.backend.is_kept)
    return Signs(_is_busy(wanted, load, members), len(failing) + len(given_up), total, _is_answering(load), kept)


def _is_busy(wanted: Wanted, load: Load | None, members: tuple[Member, ...]) -> bool | None:
    if load is None:
        return None
    in_flight = [m.backend.in_flight for m in members if _passes(m) and m.backend is not None]
    is_full = bool(in_flight) and sum(in_flight) >= FULL_RATIO * len(in_flight) * wanted.group.max_in_flight
    return load.queue > 0 or is_full


def _is_answering(load: Load | None) -> bool | None:
    if load is None or not load.is_asked:
        return None
    if load.answer_rate is None:
        return None if load.queue or load.in_flight else False
    return load.answer_rate > 0


def _is_due(context: Context, situation: Situation, member: Member) -> bool:
    if situation is Situation.UNKNOWN or not member.is_free:
        return False
    failing_s = min(_failing_s(member, context.now_s), context.doubt.let_go_s(member.domain.uuid, context.now_s))
    if failing_s < patience_s(context, situation, member):
        return False
    has_nothing = member.backend is not None and member.backend.in_flight == 0
    is_dumb = context.doubt.unanswered_s(context.now_s) >= BACKLOG_S
    if situation is Situation.OVERLOADED:
        return is_dumb or (has_nothing and bool(_passing(context)))
    if situation is Situation.UNSERVED:
        return (is_dumb or has_nothing) and not _is_coming(context)
    return True


def _is_next(context: Context, failing: list[Member], member: Member) -> bool:
    """Return whether the member's turn has come: what was made for the one before serves, or nothing came of it."""
    if any(is_relapse(context, m) for m in failing) and not is_relapse(context, member):
        return False
    since_s, grace_s = _since_last_try_s(context), context.wanted.group.unhealthy_grace_s
    if since_s < grace_s or _is_troubled(context):
        return False
    members = [m for m in context.view.members if not m.is_reserve]
    goal = target(context)
    ready = sum(1 for m in members if m.phase is Phase.READY)
    is_whole = goal is not None and ready >= goal and not _is_coming(context)
    return is_whole or (since_s >= BACKLOG_S and all(m.age_s(context.now_s) >= BACKLOG_S for m in members))


def _since_last_try_s(context: Context) -> float:
    in_vain = _in_vain(context)
    return context.now_s - in_vain.relapsed_s if in_vain.relapses else float("inf")


def _is_troubled(context: Context) -> bool:
    hosts = context.wanted.group.hosts
    return any(breakers.is_troubled(trials.of_host(context, host), context.now_s) for host in hosts)


def _is_coming(context: Context) -> bool:
    coming = COMING | {Phase.WARMING}
    return any(m.phase in coming and not m.is_reserve and not is_failing(m) for m in context.view.members)


def _beside(context: Context, situation: Situation, failing: list[Member]) -> frozenset[Key]:
    """Return the one to be replaced beside: nobody else could serve, requests come, and none gets a right answer."""
    load, grace_s = context.seen.load, context.wanted.group.unhealthy_grace_s
    passing = _passing(context)
    kept = [m for m in passing if _is_kept(context, m)]
    begun = [m for m in (*kept, *failing) if m.domain.uuid in context.doubt.beside and _is_kept(context, m)]
    if begun:
        return frozenset(m.key for m in begun[:1])
    if situation is Situation.UNKNOWN or load is None or not load.is_asked or len(kept) < len(passing):
        return frozenset()
    if context.doubt.unanswered_s(context.now_s) < grace_s:
        return frozenset()
    due = [*kept, *(m for m in failing if _is_kept(context, m) or _failing_s(m, context.now_s) >= grace_s)]
    first = sorted(due, key=lambda m: _order(m, context.now_s))[:1]
    return frozenset(m.key for m in first)


def _is_kept(context: Context, member: Member) -> bool:
    return context.doubt.is_kept(member.domain.uuid, context.now_s, context.wanted.group.unhealthy_grace_s)


def _passing(context: Context) -> list[Member]:
    return [m for m in context.view.members if _passes(m)]


def _passes(member: Member) -> bool:
    is_there = member.phase is Phase.READY and member.is_reachable and member.domain.power is DomainState.RUNNING
    return is_there and member.backend is not None and member.backend.is_healthy is not False


def _failing_s(member: Member, now_s: float) -> float:
    """Return for how long it has failed in its phase: what was before may be about an address that it has left."""
    return 0.0 if member.backend is None else min(member.backend.unhealthy_s, member.age_s(now_s))


def _served_s(context: Context, member: Member) -> float:
    return max(member.age_s(context.now_s) - _failing_s(member, context.now_s), 0.0)


def _in_vain(context: Context) -> breakers.Breaker:
    return context.seen.breakers.get(breakers.sick_key(context.wanted.name), breakers.CLOSED)


def _order(member: Member, now_s: float) -> tuple[int, float, Key]:
    """Return the place in the queue: fewest in flight first, then who fails longest."""
    return (0 if member.backend is None else member.backend.in_flight), -_failing_s(member, now_s), member.key


def _in_vain_note(context: Context, situation: Situation, member: Member) -> str:
    tries = _in_vain(context).relapses
    left_s = max(patience_s(context, situation, member) - _failing_s(member, context.now_s), 0.0)
    again = f"{member.name} fails its checks again after {tries} {'try' if tries == 1 else 'tries'} in a row"
    return f"replacing does not help: {again}; the next try in {left_s:.0f} s at the earliest"


def _while_overloaded(context: Context) -> str:
    calm_s = context.wanted.group.unhealthy_grace_s
    return (
        "checks fail while requests wait or all slots are full: overloaded, not sick; not replaced for it before this "
        f"has been over for {calm_s:g} s, or nothing has been in flight there for {BACKLOG_S:g} s"
    )


def _while_unserved(_context: Context) -> str:
    return "checks fail, nobody else could serve, and requests come: it keeps its place until another is ready"


def _while_crowded(_context: Context) -> str:
    return (
        "checks fail at several at once: they are replaced one at a time, the next when the last one's successor serves"
    )


WHY_NOT: Final[Mapping[Situation, Callable[[Context], str]]] = {
    Situation.OVERLOADED: _while_overloaded,
    Situation.UNSERVED: _while_unserved,
    Situation.CROWD: _while_crowded,
}
