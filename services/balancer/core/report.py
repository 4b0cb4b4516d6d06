"""What the balancer tells the others about every member: the actuator's leave to go on with a drain."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.messages import BackendState, Drain, Failure, Membership
from services.balancer.core.answers import Admin, Server, has_failed, has_succeeded
from services.balancer.core.backends import Goal, Placement, Slot, Wanted, is_unexplained, kept, match, waiting
from services.balancer.core.flapping import CALM_S, TIMES, WINDOW_S
from services.balancer.core.older import NOTHING, Held

HELD: Final = "held"
RESTLESS: Final = "restless"
UNASKED: Final = (
    "what older processes of HAProxy still have in flight is not known; a domain that drains waits for its deadline"
)
_WHY_RESTLESS: Final = (
    f"it went down {TIMES} times within {WINDOW_S:g} s; it comes back when its checks have succeeded for {CALM_S:g} s"
)
_BY_CALL: Final = "user"
_HELD_BY_CALL: Final = "it is paused (user): by hand, or while something saves it, dumps it or takes a snapshot"
_NOTHING_HELD: Final[Mapping[tuple[str, str], Held]] = {}

Key = tuple[str, str]
"""Name and UUID of a member."""


@dataclass(frozen=True, slots=True)
class News:
    """A change that people want to see."""

    name: str
    domain: str
    text: str
    level: str = "info"


def backend_states(
    membership: Membership,
    wanted: Wanted,
    slots: Sequence[Slot],
    held: Mapping[tuple[str, str], Held] = _NOTHING_HELD,
    *,
    is_whole: bool = True,
) -> tuple[BackendState, ...]:
    """Return one entry for each member, in the order of the membership.

    Args:
        membership: as the actuator published it.
        wanted: what was made of it.
        slots: every slot of the backend, as just seen.
        held: what older processes of HAProxy have in flight, by name and UUID.
        is_whole: every one of them has been asked.
    """
    matched = match(wanted, slots)
    by_name = {slot.server.name: slot for slot in slots}
    placed = {(p.name, p.uuid): (p, by_name[name]) for name, p in matched.items()}
    outside = {(p.name, p.uuid) for p in waiting(wanted, matched)}
    keepers = kept(slots, matched)
    unseen = wanted.unlocated if any(is_unexplained(slot, wanted) for slot in slots) else frozenset()
    homeless = "joining" if any(slot.is_free for slot in slots) else "unplaced"
    states = []
    for member in membership.members:
        key = (member.name, member.uuid)
        if key in placed:
            placement, slot = placed[key]
            state = _placed(placement, slot, is_kept=slot.server.name in keepers)
        else:
            word = homeless if key in outside else "unknown" if key in unseen else "left"
            state = BackendState(name=member.name, uuid=member.uuid, slot=None, state=word, is_healthy=None)
        states.append(_with_held(state, held.get(key, NOTHING), is_whole=is_whole))
    return tuple(states)


def blind(backends: Sequence[BackendState]) -> tuple[BackendState, ...]:
    """Return the last known states while HAProxy does not answer: nobody's health is known."""
    return tuple(b.model_copy(update={"is_healthy": None, "unhealthy_s": 0.0}) for b in backends)


def substance(drain: Drain) -> tuple[object, ...]:
    """Return what of the message is news at once; the rest can wait for the next repetition."""
    backends = tuple(
        (b.name, b.uuid, b.slot, b.state, b.is_healthy, _in_flight(b) if b.state in {"draining", "left"} else None)
        for b in drain.backends
    )
    return drain.is_proxy_alive, drain.cut_sessions_total, backends


def notes(backends: Sequence[BackendState]) -> tuple[str, ...]:
    """Return in plain words which members are treated otherwise than usual, and why."""
    return tuple(note for backend in backends if (note := _note(backend)))


def _note(backend: BackendState) -> str:
    if backend.state == HELD:
        return f"{backend.name} takes nothing new; {backend.in_flight} requests in flight wait until it runs again"
    if backend.state == RESTLESS:
        return f"{backend.name} takes nothing new: {_WHY_RESTLESS}"
    if backend.is_kept:
        return (
            f"{backend.name} does not answer its health checks in time; it keeps its traffic because nobody else is up"
        )
    return ""


def why_held(failure: Failure) -> str:
    """Return why a member is suspended, in words that are true also if libvirt tells the true reason only later.

    Before it saves, dumps or takes a snapshot libvirt says the same as for a call of a person.
    """
    reason, _, _ = failure.detail.partition(":")
    return _HELD_BY_CALL if reason == _BY_CALL else failure.detail or failure.reason


def sick(before: Collection[Key], after: Sequence[BackendState]) -> frozenset[Key]:
    """Return who fails HAProxy's check, by name and UUID: from a check that failed to one that succeeded.

    Args:
        before: who did at the last look.
        after: the members now. Health that we have ordered ourselves is no check's.
    """
    here = {(b.name, b.uuid): b for b in after if b.state in {"ready", RESTLESS}}
    return frozenset(key for key, b in here.items() if _fails(b) or (key in before and not _succeeds(b)))


def news(
    before: Sequence[BackendState], after: Sequence[BackendState], were_sick: Collection[Key] = ()
) -> Iterator[News]:
    """Return what changed between two looks, for the members that both or the later one show.

    Args:
        before: the earlier look.
        after: the later one.
        were_sick: who failed HAProxy's check at the earlier one (``sick``).
    """
    past, are_sick = {(b.name, b.uuid): b for b in before}, sick(were_sick, after)
    for now in after:
        was = past.get((now.name, now.uuid))
        if now.state == "ready" and (was is None or was.state in {"joining", RESTLESS}):
            yield News("backend-ready", now.name, f"takes traffic in slot {now.slot}")
        if now.state == "unplaced" and (was is None or was.state != "unplaced"):
            yield News("backend-unplaced", now.name, "no slot is free; raise haproxy.slots", "warning")
        key = (now.name, now.uuid)
        if key in are_sick and key not in were_sick and now.state == "ready":
            yield News("backend-unhealthy", now.name, f"HAProxy has it down; its last check: {now.check}", "warning")
        if key in were_sick and key not in are_sick and now.state == "ready":
            yield News("backend-healthy", now.name, "HAProxy's check succeeds again")
        if now.state == RESTLESS and (was is None or was.state != RESTLESS):
            yield News("backend-restless", now.name, f"takes nothing new: {_WHY_RESTLESS}", "warning")
        if now.is_kept and (was is None or not was.is_kept):
            text = f"its checks time out, but nobody else is up: it keeps its {now.in_flight} requests and gets more"
            yield News("backend-kept", now.name, text, "warning")


def _fails(backend: BackendState) -> bool:
    return backend.is_healthy is False and has_failed(backend.check)


def _succeeds(backend: BackendState) -> bool:
    return backend.is_healthy is True and has_succeeded(backend.check)


def _in_flight(backend: BackendState) -> tuple[int, bool]:
    return backend.in_flight, backend.is_in_flight_known


def _with_held(state: BackendState, held: Held, *, is_whole: bool) -> BackendState:
    """Return the state with what older processes have in flight; unknown is not nothing."""
    is_known = is_whole and not held.may_grow
    if is_known and not held.in_flight:
        return state
    total = state.in_flight + held.in_flight
    return state.model_copy(update={"in_flight": total, "is_in_flight_known": is_known})


def _placed(placement: Placement, slot: Slot, *, is_kept: bool) -> BackendState:
    server = slot.server
    if slot.restless_s is not None and server.admin is Admin.DRAIN:
        return BackendState(
            name=placement.name,
            uuid=placement.uuid,
            slot=server.name,
            state=RESTLESS,
            is_healthy=False,
            check=server.check,
            in_flight=server.in_flight + server.queue,
            unhealthy_s=slot.restless_s,
        )
    is_out = server.admin is Admin.MAINT or not server.has_checks
    is_down = not is_out and not server.is_up
    is_raised = not is_out and server.is_fully_up and has_failed(server.check) and not is_kept  # by our own word
    return BackendState(
        name=placement.name,
        uuid=placement.uuid,
        slot=server.name,
        state=_state(placement, server),
        is_kept=is_kept,
        is_healthy=True if server.is_proven else (False if is_down or is_raised else _going_down(server)),
        check="" if is_out else server.check,
        in_flight=server.in_flight + server.queue,
        unhealthy_s=server.changed_s if is_down or is_raised else 0.0,
    )


def _state(placement: Placement, server: Server) -> str:
    """Return what the slot does, not what is wanted of it: a drain begins when HAProxy shows that it has begun."""
    if server.admin is Admin.READY:
        return "ready"
    if placement.goal is Goal.SERVE:
        return "joining"
    if placement.goal is Goal.HOLD and server.admin is Admin.DRAIN:
        return HELD
    return "left" if server.admin is Admin.MAINT and server.is_idle else "draining"


def _going_down(server: Server) -> bool | None:
    """Return health between two words: a server in rotation that missed a check is healthy until the next one."""
    is_told = server.is_up and server.has_checks and not server.is_unchecked
    return True if server.admin is Admin.READY and is_told else None
