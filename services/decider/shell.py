"""The decider's loop: what arrives becomes events of the core, what the core asks for is done, on a steady beat.

The beat does not drift: the next tick is one interval after the one before was due. After a pause longer than an
interval (the process was stopped) the ticks that were missed are not made up for.

Note [Full collections]
    Python's collector looks through all that lives whenever a quarter more has come to live: with a thousand groups and
    their history a second, every few ticks. The core's values are frozen and refer to older ones only, so there is
    hardly a cycle to find; full collections are made a thousand times rarer. One tick of a thousand groups then takes
    0.3 s instead of now and then 1.4 s.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Final

from common.bus import Inbox, PendingRequest, Received
from common.clock import boot_id
from common.config import Config
from common.log import logger
from common.messages import QUESTIONS, Claim, Drain, Failure, HostSample, Membership, Reply, Traffic
from common.process import Context
from common.refused import Refused
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
from services.decider.core.group import claims_of, handle
from services.decider.core.orders import ordered_bounds
from services.decider.core.seen import read_sample
from services.decider.core.state import GroupState, Settings, begin, learned_of
from services.decider.core.stored import Instant
from services.decider.library import LIBRARY, Library
from services.decider.store import NAME, Store

COLLECT: Final = (10_000, 10, 1_000)  # see Note [Full collections]
FIRST_TICK_S: Final = 0.2  # after the start: the last values of all topics have arrived by then

log = logger()


class DeciderService:
    """Decides for every group of the configuration."""

    def __init__(self, context: Context) -> None:
        """Subscribe, and take up what was stored."""
        gc.set_threshold(*COLLECT)
        self._bus, self._clock, self._notes = context.bus, context.clock, context.notes
        self._interval_s = context.config.system.interval_s
        self._boot_id = boot_id()
        path = context.config.system.state_path / NAME
        self._store, self._refused = Store(path), Refused(context.notes, path, "the newest orders and decisions")
        self._library = Library(context.config.system.state_path / LIBRARY)
        self._groups = self._begun(context.config, context.bus.run_id)
        self._waiting: dict[int, PendingRequest] = {}
        self._tokens = count(1)
        self._next_tick_s = self._clock.monotonic_s() + FIRST_TICK_S
        self._bus.subscribe("monitor", "sample", "failure")
        self._bus.subscribe("actuator", "membership")
        self._bus.subscribe("balancer", "traffic", "drain")

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Take in what arrived, answer what was asked, tick where it is due; return the seconds to the next tick."""
        for message in inbox.messages:
            for name, event in events_of(message, self._groups, now_s):
                self._pass(name, event, now_s)
        for pending in inbox.requests:
            self._ask(pending, now_s)
        if now_s >= self._next_tick_s:
            if self._refused.is_due(now_s):
                self._store.write()
            self._refused.note(self._store.trouble)
            self._note_bounds()
            epoch_s = self._clock.epoch_s()
            claimed = [claim for state in self._groups.values() for claim in claims_of(state, now_s)]
            for name, state in self._groups.items():
                self._pass(name, Tick(epoch_s, rivals_of(state, claimed)), now_s)
            self._next_tick_s = next_beat_s(self._next_tick_s, now_s, self._interval_s)
        return max(self._next_tick_s - now_s, 0.0)

    def reload(self, config: Config, now_s: float) -> None:
        """Go on under the new settings of every group that has some."""
        for name, settings in settings_of(config, self._bus.run_id).items():
            if settings != self._groups[name].settings:
                self._pass(name, Reconfigured(settings), now_s)
        self._note_bounds()

    def keep_again(self, now_s: float) -> None:
        """Write what is decided, and all that was learned."""
        del now_s
        self._store.write()
        for name, state in self._groups.items():
            for number, learned in learned_of(state).items():
                self._library.save(name, number, learned, is_base_new=True)

    def close(self) -> None:
        """Leave: everything that matters was saved when it changed."""

    def _begun(self, config: Config, run_id: int) -> dict[str, GroupState]:
        at = self._instant()
        return {
            name: begin(settings, self._store.standing(name, at), self._library.learned(settings))
            for name, settings in settings_of(config, run_id).items()
        }

    def _instant(self) -> Instant:
        return Instant(self._boot_id, self._clock.monotonic_s(), self._clock.epoch_s())

    def _note_bounds(self) -> None:
        """Have status, and the answer to a reload, say where an order outlives what the configuration says."""
        for name, state in self._groups.items():
            note = ordered_bounds(state)
            if note:
                self._notes[f"bounds {name}"] = note
            else:
                self._notes.pop(f"bounds {name}", None)

    def _pass(self, name: str, event: CoreEvent, now_s: float) -> None:
        self._groups[name], actions = handle(self._groups[name], event, now_s)
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Save(group, standing):
                self._store.save(group, standing, self._instant())
            case SaveLearned(group, number, learned, is_base_new):
                self._library.save(group, number, learned, is_base_new=is_base_new)
            case PublishDesired(body, cause, _):
                self._bus.publish(body.model_copy(update={"boot_id": self._boot_id}), cause=cause or None)
            case PublishRecord(body, cause):
                self._bus.publish(body, cause=cause or None)
                if body.action != "hold":
                    _log_change(body.group, body.desired_before, body.desired_after, body.limiter_text, cause)
            case Emit(body, cause):
                self._bus.publish(body, cause=cause or None)
                if body.level != "info" or body.name == "operator":
                    level = log.warning if body.level == "warning" else log.info
                    level(body.name, group=body.group, text=body.text)
            case Answer(token, reply):
                pending = self._waiting.pop(token)
                pending.reply(reply if pending.request.verb in QUESTIONS else self._honest(reply))
            case Wait():
                pass  # every group beats with the loop

    def _honest(self, reply: Reply) -> Reply:
        """Return the reply, with what it must not conceal: that an order is in memory only."""
        trouble = self._store.trouble
        if reply.status != "applied" or not trouble:
            return reply
        reason = f"{reply.reason}; but it is not stored, so a restart forgets it: {trouble}"
        return reply.model_copy(update={"reason": reason, "data": {**reply.data, "stored": False}})

    def _ask(self, pending: PendingRequest, now_s: float) -> None:
        request = pending.request
        name = request.args.get("group")
        if name is None and len(self._groups) == 1:
            name = next(iter(self._groups))
        if not isinstance(name, str) or name not in self._groups:
            groups = ", ".join(sorted(self._groups))
            pending.reply(Reply(status="error", reason=f"group must be one of {groups}; got {name!r}"))
            return
        token = next(self._tokens)
        self._waiting[token] = pending
        self._pass(name, Asked(request, token, self._clock.epoch_s()), now_s)


def settings_of(config: Config, run_id: int) -> dict[str, Settings]:
    """Return the core's settings of every group, in the order of their names."""
    system = config.system
    return {
        name: Settings(
            name=name,
            group=group,
            interval_s=system.interval_s,
            stale_after_s=system.stale_after_s,
            republish_s=system.republish_s,
            slots=config.haproxy.slots,
            run_id=run_id,
        )
        for name, group in sorted(config.groups.items())
    }


def events_of(message: Received, groups: Mapping[str, GroupState], now_s: float) -> Iterator[tuple[str, CoreEvent]]:
    """Yield the events that a message means, each with its group; a sample is for every group of its host."""
    at_s = now_s - message.age_s
    match message.body:
        case HostSample() as sample:
            reading = read_sample(sample, at_s, message.id)
            for name, state in groups.items():
                if sample.host in state.settings.group.hosts:
                    yield name, SampleSeen(reading)
        case Failure() as failure:
            for name, state in groups.items():
                if failure.domain.startswith(state.settings.group.prefix):
                    yield name, FailureSeen(failure, at_s, message.id)
        case Membership(group=name) as membership if name in groups:
            yield name, MembershipSeen(membership, at_s, message.id)
        case Traffic(group=name) as traffic if name in groups:
            yield name, TrafficSeen(traffic, at_s, message.id)
        case Drain(group=name) as drain if name in groups:
            yield name, DrainSeen(drain, at_s, message.id)


def rivals_of(state: GroupState, claimed: Sequence[Claim]) -> tuple[Claim, ...]:
    """Return what others claim of the group's hosts: what they use there beyond their allotment passes."""
    settings = state.settings
    return tuple(claim for claim in claimed if claim.group != settings.name and claim.host in settings.group.hosts)


def next_beat_s(due_s: float, now_s: float, interval_s: float) -> float:
    """Return when the next tick is due: on the same beat, after ``now_s``."""
    missed = int((now_s - due_s) / interval_s)
    return due_s + (missed + 1) * interval_s


def _log_change(group: str, before: int, after: int, reason: str, cause: str) -> None:
    log.info("capacity-decided", group=group, **{"from": before, "to": after}, reason=reason, cause=cause)
