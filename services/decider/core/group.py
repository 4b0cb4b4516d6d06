"""The decider's door: one group, one event, what to do about it.

Messages only update what is seen; a tick decides. Everything that a tick depends on goes into its record, so that a
recording repeats it exactly.
"""

from typing import Final

from common.messages import Claim, Event, Ordered, Taken
from services.decider.core import orders, seen
from services.decider.core.adopt import adopt, all_counted
from services.decider.core.burst import NO_BURST, bridge, claims
from services.decider.core.decide import Decision, after_gap, decide, restarted
from services.decider.core.events import (
    Action,
    Answer,
    Asked,
    CoreEvent,
    DrainSeen,
    Emit,
    FailureSeen,
    MembershipSeen,
    PublishDesired,
    PublishRecord,
    Reconfigured,
    SampleSeen,
    Save,
    SaveLearned,
    Tick,
    TrafficSeen,
    Wait,
)
from services.decider.core.evolve import evolve
from services.decider.core.explain import sentence
from services.decider.core.learned import Learned
from services.decider.core.metrics import WINDOW_SLACK, GroupMetrics, aggregate, uncounted
from services.decider.core.reconfigure import reconfigured
from services.decider.core.records import desired_capacity, is_same, record, waiting
from services.decider.core.seen import Seen
from services.decider.core.state import HISTORY, GroupState, Standing, learned_of
from services.decider.core.witness import doubted

GAP_INTERVALS: Final = 3.0  # a longer pause between two ticks: we were stopped, and know nothing of what was between


def handle(state: GroupState, event: CoreEvent, now_s: float) -> tuple[GroupState, tuple[Action, ...]]:
    """Return the group's state after an event, and what is to be done, in this order.

    Args:
        state: As the event before left it.
        event: What happened.
        now_s: Monotonic seconds; never less than at the event before.
    """
    if isinstance(event, Tick):
        return _tick(state, event, now_s)
    if isinstance(event, Asked):
        return _asked(state, event, now_s)
    if isinstance(event, Reconfigured):
        after = reconfigured(state, event.settings, now_s)
        return after, (*_save(after, state.standing), *_learn(after, learned_of(state)))
    return _observe(state, event), ()


def metrics_of(state: GroupState, now_s: float, epoch_s: float = 0.0) -> GroupMetrics:
    """Return the group's metrics at ``now_s``, which is ``epoch_s`` for people."""
    settings = state.settings
    metrics = aggregate(
        state.seen,
        state.standing.desired or 0,
        now_s,
        interval_s=settings.interval_s,
        stale_after_s=settings.stale_after_s,
        standing_stale_after_s=settings.standing_stale_after_s,
        epoch_s=epoch_s,
        chance=settings.chance,
        base=settings.base,
        before=state.lack,
        boot_timeout_s=settings.group.boot_timeout_s,
        warm_up_s=settings.group.warm_up_s,
    )
    return doubted(metrics, state)


def claims_of(state: GroupState, now_s: float) -> tuple[Claim, ...]:
    """Return what the group claims of its hosts at a tick at ``now_s``; nothing where it may not burst."""
    if not state.settings.group.burst.enabled:
        return ()
    return claims(state, metrics_of(state, now_s), now_s)


# --- what is seen ----------------------------------------------------------------------------------------------------


def _observe(state: GroupState, event: CoreEvent) -> GroupState:
    if isinstance(event, SampleSeen):
        if event.reading.host not in state.settings.group.hosts:
            return state
        id, at_s = event.reading.id, event.reading.at_s
    elif isinstance(event, MembershipSeen | TrafficSeen | DrainSeen | FailureSeen):
        id, at_s = event.id, event.at_s
    after = _seen_after(state, event)
    if after is state.seen:
        return state
    return evolve(state, seen=after, taken=(*state.taken, Taken(id=id, at_s=at_s)))


def _seen_after(state: GroupState, event: CoreEvent) -> Seen:
    match event:
        case SampleSeen(reading):
            return seen.with_reading(state.seen, reading)
        case MembershipSeen(membership, at_s, id):
            return seen.with_membership(state.seen, membership, at_s, id, state.settings.stale_after_s)
        case TrafficSeen(traffic, at_s, _):
            return seen.with_traffic(state.seen, traffic, at_s)
        case DrainSeen(drain, at_s, _):
            return seen.with_drain(state.seen, drain, at_s)
        case FailureSeen(failure, at_s, _):
            return seen.with_failure(state.seen, failure, at_s)
    return state.seen


# --- the tick --------------------------------------------------------------------------------------------------------


def _tick(state: GroupState, tick: Tick, now_s: float) -> tuple[GroupState, tuple[Action, ...]]:
    epoch_s = tick.epoch_s
    saved, learned, was_halted = state.standing, learned_of(state), state.is_halted
    state = _bridged(state, tick.rivals, now_s)
    state = adopt(_after_gap(state, now_s), now_s, epoch_s)
    metrics = metrics_of(state, now_s, epoch_s)
    followed = _followed(saved, state, metrics.cause)
    if state.standing.desired is None:
        decision = waiting()
    else:
        state, decision = decide(state, metrics, now_s)
    state = evolve(_dated(state, saved, now_s), tick=state.tick + 1, last_tick_s=now_s)
    kept = record(state, metrics, decision, now_s, epoch_s)
    history = (*state.history, kept) if len(state.history) < HISTORY else (*state.history[1:], kept)
    state = evolve(state, history=history, taken=(), ordered=(), resumed_from="", resumed_learned="")
    save = _save(state, saved)
    state, publish = _publish(state, metrics, sentence(kept), now_s)
    events = _tell(state, metrics, decision, kept.limiter_text, was_halted=was_halted)
    actions = (*save, *_learn(state, learned), *publish, PublishRecord(kept, metrics.cause), *events)
    return state, (*actions, *followed, Wait(now_s + state.settings.interval_s))


def _bridged(state: GroupState, rivals: tuple[Claim, ...], now_s: float) -> GroupState:
    """Return the state with the burst for the time until the next tick, without one where it may not burst any more."""
    if not state.settings.group.burst.enabled:
        return evolve(state, burst=NO_BURST, rivals=rivals)
    return evolve(state, burst=bridge(state, metrics_of(state, now_s), rivals, now_s), rivals=rivals)


def _dated(state: GroupState, before: Standing, now_s: float) -> GroupState:
    """Return the state with the time of a new desired capacity."""
    return state if state.standing.desired == before.desired else evolve(state, decided_at_s=now_s)


def _save(state: GroupState, before: Standing) -> tuple[Action, ...]:
    return (Save(state.settings.name, state.standing),) if state.standing != before else ()


def _learn(state: GroupState, before: dict[int, Learned]) -> tuple[Action, ...]:
    """Return what was learned in a tick: worth keeping, though nothing waits for it."""
    name = state.settings.name
    return tuple(
        SaveLearned(name, number, one, is_base_new=number not in before or before[number].base is not one.base)
        for number, one in learned_of(state).items()
        if before.get(number) is not one
    )


def _after_gap(state: GroupState, now_s: float) -> GroupState:
    """Return the state with its windows begun anew where we have just started, or were stopped for a while."""
    last_s, interval_s = state.last_tick_s, state.settings.interval_s
    if last_s is not None and 0 <= now_s - last_s <= GAP_INTERVALS * interval_s:
        return state
    fresh = after_gap(state.settings, state.policy_states)
    return evolve(state, policy_states=fresh, leaning_in_since_s=None, watching_since_s=now_s - interval_s)


def _publish(
    state: GroupState, metrics: GroupMetrics, reason: str, now_s: float
) -> tuple[GroupState, tuple[Action, ...]]:
    """Return what the actuator is told: on change, and again every ``republish_s``."""
    if state.standing.desired is None:
        return state, ()
    last, settings = state.published, state.settings
    is_change = last is None or not is_same(last, state, metrics)
    if not is_change and now_s - state.published_at_s < settings.republish_s - WINDOW_SLACK * settings.interval_s:
        return state, ()
    body = desired_capacity(state, metrics, reason) if last is None or is_change else last
    state = evolve(state, published=body, published_at_s=now_s)
    return state, (PublishDesired(body, metrics.cause, is_change),)


def _tell(
    state: GroupState, metrics: GroupMetrics, decision: Decision, text: str, *, was_halted: bool
) -> tuple[Action, ...]:
    """Return the events of a tick: a change of capacity, the beginning and the end of a halt."""
    name, cause = state.settings.name, metrics.cause
    events: list[Action] = []
    if decision.action != "hold":
        text = f"from {decision.before} to {decision.after}: {text}"
        events.append(Emit(Event(name=f"scale-{decision.action}", group=name, text=text), cause))
    if state.is_halted != was_halted:
        event = "scaling-halted" if state.is_halted else "scaling-resumed"
        text = f"{metrics.sick} of {metrics.ready} ready domains are missing or unhealthy"
        events.append(Emit(Event(name=event, group=name, text=text, level="warning"), cause))
    return tuple(events)


def _followed(before: Standing, state: GroupState, cause: str) -> tuple[Action, ...]:
    """Return the event of a desired capacity that has followed the owner of an existing group's domains."""
    desired = state.standing.desired
    if before.desired is None or desired == before.desired:
        return ()
    names = ", ".join(m.name for m in uncounted(state.seen))
    if not names:
        return ()
    text = f"from {before.desired} to {desired}: started by their owner: {names}"
    return (Emit(Event(name="scale-followed", group=state.settings.name, text=text), cause),)


# --- the operator ----------------------------------------------------------------------------------------------------


def _asked(state: GroupState, event: Asked, now_s: float) -> tuple[GroupState, tuple[Action, ...]]:
    outcome = orders.answer(state, event.request, now_s, event.epoch_s, metrics_of(state, now_s, event.epoch_s))
    answer = Answer(event.token, outcome.reply)
    if outcome.standing == state.standing:
        return state, (answer,)
    ordered = Ordered(verb=event.request.verb, args=event.request.args, now_s=now_s)
    policy_states = restarted(state.settings, state.policy_states)
    before = state.standing
    state = evolve(state, standing=outcome.standing, policy_states=policy_states, ordered=(*state.ordered, ordered))
    if state.standing.desired != before.desired:
        state = all_counted(_dated(state, before, now_s))
    metrics = metrics_of(state, now_s)
    state, publish = _publish(state, metrics, outcome.reply.reason, now_s)
    by = f" by {event.request.by}" if event.request.by else ""
    text = f"{event.request.verb}{by}: {outcome.reply.reason}"
    emit = Emit(Event(name="operator", group=state.settings.name, text=text), metrics.cause)
    return state, (Save(state.settings.name, state.standing), *publish, emit, answer)
