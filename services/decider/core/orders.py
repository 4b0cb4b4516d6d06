"""What an operator may ask of a group: each verb answers ``applied``, ``refused`` or ``error``, and says why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

from common.messages import DecisionRecord, Reply, Request
from services.decider.core import outlook
from services.decider.core.decide import moved
from services.decider.core.evolve import evolve
from services.decider.core.explain import page
from services.decider.core.metrics import GroupMetrics
from services.decider.core.patience import after_order, forgotten, in_force
from services.decider.core.state import GroupState, Standing
from services.decider.core.words import seconds

MODES: Final = ("on", "off", "observe", "out-only")
Args = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an order leaves: the standing after it, and the answer."""

    standing: Standing
    reply: Reply


@dataclass(frozen=True, slots=True)
class Order:
    """One request, and the group as it is."""

    state: GroupState
    args: Args
    metrics: GroupMetrics
    now_s: float
    epoch_s: float

    def refused(self, reason: str) -> Outcome:
        """Return: understood, not done."""
        return Outcome(self.state.standing, Reply(status="refused", reason=reason))

    def mistaken(self, reason: str) -> Outcome:
        """Return: not understood."""
        return Outcome(self.state.standing, Reply(status="error", reason=reason))

    def applied(self, reason: str, standing: Standing | None = None, data: dict[str, Any] | None = None) -> Outcome:
        """Return: done."""
        return Outcome(standing or self.state.standing, Reply(status="applied", reason=reason, data=data or {}))


def answer(state: GroupState, request: Request, now_s: float, epoch_s: float, metrics: GroupMetrics) -> Outcome:
    """Return what a request changes, and its answer; nothing is changed unless it says ``applied``."""
    order = Order(state, request.args, metrics, now_s, epoch_s)
    verb = VERBS.get(request.verb)
    if verb is None:
        return order.mistaken(f"unknown verb {request.verb!r}; the decider knows: {', '.join(VERBS)}")
    return verb(order)


# --- orders --------------------------------------------------------------------------------------------------------


def _scale(order: Order) -> Outcome:
    state, standing, desired = order.state, order.state.standing, order.args.get("desired")
    if not _is_count(desired):
        return order.mistaken(f"desired must be a whole number >= 0; got {desired!r}")
    if state.mode in ("off", "observe"):
        return order.refused(f"the mode is {state.mode}, so nobody would follow; allowed in: on, out-only")
    if standing.desired is None:
        return order.refused("the group's members are not known yet; ask again once the actuator has told")
    if not state.minimum <= desired <= state.maximum:
        return order.refused(f"desired must be in {state.minimum}..{state.maximum} (min..max); got {desired}")
    if desired == standing.desired:
        return order.applied(f"desired is {desired} already")
    note = "" if desired > standing.desired or order.metrics.is_complete else _held_back(order)
    after = moved(after_order(standing, desired), state.settings, desired, order.now_s)
    return order.applied(f"desired is now {desired}, was {standing.desired}{note}", after)


def _held_back(order: Order) -> str:
    return f"; nobody is removed while this is unknown: {order.metrics.ignorance}"


def _bounds(order: Order) -> Outcome:
    state, args = order.state, order.args
    if args.get("reset") is True:
        return _reset_bounds(order)
    asked: dict[str, int | None] = {}
    for key in ("min", "max"):
        value = args.get(key)
        if value is not None and not _is_count(value):
            return order.mistaken(f"{key} must be a whole number >= 0; got {value!r}")
        asked[key] = value
    if asked["min"] is None and asked["max"] is None:
        return order.mistaken("give min, max or both, or reset")
    minimum = state.minimum if asked["min"] is None else asked["min"]
    maximum = state.most if asked["max"] is None else asked["max"]
    refusal = _impossible_bounds(minimum, maximum, state.settings.slots)
    if refusal:
        return order.refused(refusal)
    own = state.standing
    after = replace(
        own,
        minimum=own.minimum if asked["min"] is None else asked["min"],
        maximum=own.maximum if asked["max"] is None else asked["max"],
    )
    return order.applied(f"bounds are now {minimum}..{maximum}, were {state.minimum}..{state.most}", after)


def _reset_bounds(order: Order) -> Outcome:
    state = order.state
    after = replace(state.standing, minimum=None, maximum=None)
    own = evolve(state, standing=after)
    was = f"were {state.minimum}..{state.most}"
    return order.applied(f"bounds are those of the configuration, {own.minimum}..{own.most}, {was}", after)


def ordered_bounds(state: GroupState) -> str:
    """Return the note that an operator's bounds are in force and not those of the configuration, empty if they are."""
    group = state.settings.group
    own, configured = f"{state.minimum}..{state.most}", f"{group.minimum}..{group.maximum}"
    if own == configured or state.standing.minimum is state.standing.maximum is None:
        return ""
    return f"{state.settings.name} keeps the bounds {own} that were ordered, not {configured}: bounds --reset ends that"


def _impossible_bounds(minimum: int, maximum: int, slots: int) -> str:
    if maximum < 1:
        return f"max must be >= 1; got {maximum}"
    if maximum > slots:
        return f"max must be <= haproxy.slots ({slots}); got {maximum}"
    return f"min must be <= max ({maximum}); got {minimum}" if minimum > maximum else ""


def _patience(order: Order) -> Outcome:
    state = order.state
    if order.args.get("reset") is not True:
        return order.mistaken("give reset: patience is learned, and an order can only end it")
    lesson = in_force(state.standing, state.settings, order.now_s)
    after = forgotten(state.standing)
    if lesson is None:
        return order.applied("no patience was in force", after)
    was = f"a calm of {seconds(lesson.calm_s)} was asked for, for {seconds(lesson.left_s)} more"
    return order.applied(f"the patience is over: {was}", after)


def _pause(order: Order) -> Outcome:
    if order.state.standing.is_paused:
        return order.applied("the group is paused already")
    after = replace(order.state.standing, is_paused=True)
    return order.applied("paused: the desired capacity stays; failed domains are still replaced", after)


def _resume(order: Order) -> Outcome:
    if not order.state.standing.is_paused:
        return order.applied("the group is not paused")
    return order.applied("resumed: the policies decide again", replace(order.state.standing, is_paused=False))


def _mode(order: Order) -> Outcome:
    mode = order.args.get("mode")
    if mode not in MODES:
        return order.mistaken(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    ordered = None if mode == order.state.settings.group.mode else str(mode)  # the file says so: no order is left
    if (mode, ordered) == (order.state.mode, order.state.standing.mode):
        return order.applied(f"the mode is {mode} already")
    after = replace(order.state.standing, mode=ordered)
    return order.applied(f"the mode is now {mode}, was {order.state.mode}", after)


# --- questions -----------------------------------------------------------------------------------------------------


def _explain(order: Order) -> Outcome:
    history = order.state.history
    if not history:
        return order.refused("no tick yet; ask again in a second")
    record = history[-1]
    change = next((kept for kept in reversed(history) if kept.action != "hold"), None)
    views = _outlooks(order)
    lines = tuple(outlook.tell(view, record.desired_after, record.at_s) for view in views)
    text = page(record, change, lines)
    data = {
        "text": text,
        "lines": text.split("\n"),  # what goes over the bus as one text loses its ends of lines
        "record": _plain(record),
        "last_change": _plain(change) if change else None,
        "outlooks": [
            {"scenario": view.scenario, "after_s": view.after_s, "to": view.to, "limiter": view.limiter}
            for view in views
        ],
    }
    return order.applied(f"tick {record.tick}", data=data)


def _outlooks(order: Order) -> tuple[outlook.Outlook, ...]:
    state = order.state
    if state.standing.desired is None or state.last_tick_s is None:
        return ()
    return outlook.scenarios(state, order.metrics, state.last_tick_s)


def _history(order: Order) -> Outcome:
    asked = order.args.get("limit")
    limit = 20 if asked is None else asked
    if not _is_count(limit) or limit < 1:
        return order.mistaken(f"limit must be a whole number >= 1; got {limit!r}")
    records = [_plain(record) for record in order.state.history[-limit:]]
    span_s = len(order.state.history) * order.state.settings.interval_s
    return order.applied(f"{len(records)} records of the last {seconds(span_s)}", data={"records": records})


def _plain(record: DecisionRecord) -> dict[str, Any]:
    return record.model_dump(exclude={"learned"})


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


"""The verbs that change nothing."""

VERBS: Final[dict[str, Callable[[Order], Outcome]]] = {
    "scale": _scale,
    "bounds": _bounds,
    "pause": _pause,
    "resume": _resume,
    "mode": _mode,
    "explain": _explain,
    "history": _history,
    "patience": _patience,
}
