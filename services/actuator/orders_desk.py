"""Requests of operators: each is answered once its step is done, or when it cannot be for too long."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from common.bus import PendingRequest
from common.messages import Event, Reply
from services.actuator.core.members import Member
from services.actuator.core.orders import Already, Order, Refusal, fulfil, order_of
from services.actuator.core.plan import Plan, context_of
from services.actuator.core.seen import Seen, Wanted
from services.actuator.core.steps import Step
from services.actuator.perform import Outcome, Result

PATIENCE_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class View:
    """One group in one turn of the loop: what is wanted, what is seen, what follows."""

    wanted: Wanted
    seen: Seen
    planned: Plan


@dataclass(slots=True)
class Asked:
    """An operator's request that has not been answered yet; ``step`` is the one that will fulfil it."""

    pending: PendingRequest
    order: Order
    until_s: float
    step: Step | None = None


def unseen_hosts(views: Iterable[View]) -> tuple[str, ...]:
    """Return the hosts of the groups that have not been looked at since this process started."""
    hosts = (host for view in views for host in view.seen.hosts if host.name in view.wanted.group.hosts)
    return tuple(sorted({host.name for host in hosts if not host.is_ever_seen}))


def _why_late(order: Order, members: Mapping[str, object], unseen: tuple[str, ...]) -> str:
    if order.domain in members or not unseen:
        return f"{order.domain} is busy with another step; try again"
    where = f"{', '.join(unseen)} {'has' if len(unseen) == 1 else 'have'} not been looked at since the actuator started"
    return f"it is not known yet whether {order.domain!r} is ours: {where}; try again"


class OrdersDesk:
    """The requests that wait for an answer; used by the service's own thread only."""

    def __init__(self, submit: Callable[[Wanted, Step, float], None], say: Callable[[Event], None]) -> None:
        """Hand steps to ``submit``, with the group's wishes and the time, and tell events to ``say``."""
        self._submit = submit
        self._say = say
        self._asked: list[Asked] = []

    @property
    def is_asked(self) -> bool:
        """Return whether a request waits for its answer."""
        return bool(self._asked)

    def take(self, pending: PendingRequest, now_s: float) -> None:
        """Take a request in; one that makes no sense is answered at once."""
        order = order_of(pending.request)
        if isinstance(order, str):
            pending.reply(Reply(status="error", reason=order))
            return
        self._asked.append(Asked(pending, order, now_s + PATIENCE_S))

    def serve(self, views: Iterable[View], now_s: float) -> None:
        """Begin what can be begun now, and refuse what has waited for too long."""
        views = list(views)
        members = {m.name: (view, m) for view in views for m in view.planned.view.members}
        unseen = unseen_hosts(views)
        for asked in list(self._asked):
            if asked.step is None:
                self._serve(asked, members, unseen, now_s)
            if asked in self._asked and now_s >= asked.until_s:
                self._answer(asked, "refused", _why_late(asked.order, members, unseen))

    def finished(self, outcome: Outcome) -> None:
        """Answer those whose step this was."""
        step, is_done = outcome.step, outcome.result is Result.DONE
        for asked in [asked for asked in self._asked if asked.step is step]:
            self._answer(asked, "applied" if is_done else "refused", step.reason if is_done else outcome.error)

    def _serve(
        self, asked: Asked, members: dict[str, tuple[View, Member]], unseen: tuple[str, ...], now_s: float
    ) -> None:
        found = members.get(asked.order.domain)
        if found is None and unseen:
            return  # it may be there: the first look at these hosts tells
        if found is None:
            known = ", ".join(sorted(members)) or "none"
            self._answer(asked, "refused", f"no domain {asked.order.domain!r} is ours; ours are: {known}")
            return
        view, member = found
        if not member.is_reachable:
            self._answer(asked, "refused", f"its host {member.domain.host} is not reachable")
            return
        if member.is_busy:
            return
        answer = fulfil(asked.order, context_of(view.wanted, view.seen, now_s), member)
        if isinstance(answer, Refusal):
            self._answer(asked, "refused", answer.reason)
        elif isinstance(answer, Already):
            self._answer(asked, "applied", answer.reason)
        else:
            asked.step = answer
            self._submit(view.wanted, answer, now_s)

    def _answer(self, asked: Asked, status: str, reason: str) -> None:
        self._asked.remove(asked)
        asked.pending.reply(Reply(status=status, reason=reason))
        if status == "applied":
            order = asked.order
            text = f"{order.verb}{' by ' + order.by if order.by else ''}: {reason}"
            self._say(Event(name="operator", domain=order.domain, text=text))
