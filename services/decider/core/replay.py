"""A recording, run through the decider's own core again: the same inputs in the same order, the same bytes.

A record names all that its tick took in (see ``DecisionRecord``), so each tick is repeated from the recording alone.

# Note [What a recording cannot tell]
The state is known exactly from the first tick of a run on. Where a recording begins in the middle of a run, or has
lost records or messages, the standing is rebuilt from the next record and the rest begins anew: windows, trends, and,
until a record tells it, what was learned. Until all of that is older than its memory a tick that differs is
``unknown``, not ``different``: the state is set right from its record, and the replay goes on.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from common.messages import (
    Body,
    DecisionRecord,
    Drain,
    Failure,
    HostSample,
    Membership,
    Ordered,
    Request,
    Taken,
    Traffic,
)
from common.recording import Recorded
from common.wire import encode, unpack
from services.decider.core import basis, learned, policies
from services.decider.core.burst import Burst
from services.decider.core.decide import after_gap
from services.decider.core.events import (
    Asked,
    CoreEvent,
    DrainSeen,
    FailureSeen,
    MembershipSeen,
    Reconfigured,
    SampleSeen,
    Tick,
    TrafficSeen,
)
from services.decider.core.evolve import evolve
from services.decider.core.group import handle
from services.decider.core.heard import Heard, records
from services.decider.core.seen import read_sample
from services.decider.core.state import GroupState, Settings, Standing, begin, begun

TREND_S: Final = 300.0  # after this much new traffic, neither trends nor a halt depend on what was before
IDENTICAL: Final = "identical"
DIFFERENT: Final = "different"
UNKNOWN: Final = "unknown"

SettingsOf = Callable[[str, int], Settings | None]
"""The settings of a group in a run, for recordings that do not carry them; None: they are not known."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One tick, recorded and repeated. ``state`` is as the tick left it; ``doubt`` says why it may not be exact.

    ``verdict``: ``identical``, byte for byte; ``different``; ``unknown``: different while the state is in doubt.
    ``left_out`` names fields that the recording does not have, because an older release wrote it, ``not_known`` those
    that a newer one wrote: each by its path, as in ``votes[].wait_s``. What both know is compared.
    """

    heard: Heard
    record: DecisionRecord
    state: GroupState
    verdict: str
    doubt: str
    begins: str
    left_out: frozenset[str]
    not_known: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Run:
    """One group between two of its records."""

    state: GroupState
    run_id: int
    boot_id: str
    doubt: str = ""
    doubt_until_s: float = 0.0

    def doubt_for(self, why: str, until_s: float) -> None:
        self.doubt = why if until_s >= self.doubt_until_s or not self.doubt else self.doubt
        self.doubt_until_s = max(self.doubt_until_s, until_s)


def replay(frames: Iterable[Recorded], settings_of: SettingsOf, group: str | None = None) -> Iterator[Replayed]:
    """Yield every recorded tick, repeated by the core.

    Args:
        frames: Messages of ``heard.KINDS`` in the order in which they were received.
        settings_of: For records that lack their settings.
        group: Only this one.
    """
    runs: dict[str, _Run | None] = {}
    for heard in records(frames, group):
        name = heard.record.group
        run, begins, is_told = _run_of(runs.get(name), heard, settings_of)
        runs[name] = run
        if run is None:
            continue
        yield _told(run, heard, begins) if is_told else _repeated(run, heard, begins)


# --- where a run begins ----------------------------------------------------------------------------------------------


def _run_of(run: _Run | None, heard: Heard, settings_of: SettingsOf) -> tuple[_Run | None, str, bool]:
    """Return the run that a record belongs to, what begins with it, and whether the state was read from the record."""
    record, run_id = heard.record, heard.header.run_id
    if run is not None and run.run_id == run_id and record.tick == run.state.tick + 1:
        return run, "", False
    settings = _settings(run, heard, settings_of)
    if settings is None:
        return None, "", False
    if record.tick == 1:
        return _Run(_begun(settings, record), run_id, heard.frame.boot_id), "the decider starts", False
    lost = _lost(run, heard)
    state = _rebuilt(settings, heard, run.state if run is not None and run.run_id == run_id else None)
    fresh = _Run(state, run_id, heard.frame.boot_id)
    fresh.doubt_for(lost, record.now_s + _forgets_after_s(settings, record, is_standing_known=bool(record.basis)))
    return fresh, lost, True


def _settings(run: _Run | None, heard: Heard, settings_of: SettingsOf) -> Settings | None:
    record, run_id = heard.record, heard.header.run_id
    if record.basis:
        return basis.read(record.basis, record.group, run_id).settings
    if run is not None and run.run_id == run_id:
        return run.state.settings
    return settings_of(record.group, run_id)


def _lost(run: _Run | None, heard: Heard) -> str:
    if run is None or run.run_id != heard.header.run_id:
        return f"the recording begins in the middle of a run, at tick {heard.record.tick}"
    count = heard.record.tick - run.state.tick - 1
    return f"{count} record{'' if count == 1 else 's'} before tick {heard.record.tick} lost"


def _begun(settings: Settings, record: DecisionRecord) -> GroupState:
    standing = basis.standing(json.loads(record.resumed_from)) if record.resumed_from else None
    state = begin(settings, standing, learned.from_text(record.learned))
    return evolve(state, resumed_from=record.resumed_from, resumed_learned=record.learned)


def _rebuilt(settings: Settings, heard: Heard, before: GroupState | None) -> GroupState:
    """Return the state after a record, as far as it tells; see Note [What a recording cannot tell]."""
    record = heard.record
    state = begin(settings) if before is None else before
    for taken in record.taken:
        state = _taken_in(state, heard.inputs, taken, record.now_s)
    ago_s = record.evidence.requested_s_ago
    if ago_s is not None:
        state = evolve(state, seen=evolve(state.seen, requested_at_s=record.now_s - ago_s))
    standing = _standing(state, heard)
    if record.basis:
        standing = basis.read(record.basis, record.group, heard.header.run_id).standing
    watching_since_s = record.now_s if record.limiter == "observing" else record.now_s - 2 * settings.out_window_s
    return evolve(
        state,
        standing=standing,
        policy_states=_with_learned(settings, after_gap(settings, state.policy_states), record),
        tick=record.tick,
        last_tick_s=record.now_s,
        watching_since_s=watching_since_s,
        leaning_in_since_s=None,
        history=(record,),
        taken=(),
        ordered=(),
        resumed_from="",
        burst=Burst(record.burst_quota, record.burst_text),
    )


def _standing(state: GroupState, heard: Heard) -> Standing:
    """Return the standing that a record, and what the actuator was told last, show."""
    record, own, told = heard.record, state.standing, heard.desired
    if not record.votes and record.limiter == "unknown-data" and record.desired_after == 0:
        return own
    out_s, in_s = record.cooldown_out_left_s, record.cooldown_in_left_s
    group = state.settings.group
    if own.desired is None and told is not None:
        own = replace(
            own,
            minimum=None if told.minimum == group.minimum else told.minimum,
            maximum=None if told.maximum == group.maximum else told.maximum,
        )
    if record.patience_left_s > 0:
        own = replace(own, patience_s=record.patience_s, patience_until_s=record.now_s + record.patience_left_s)
    return replace(
        own,
        desired=record.desired_after,
        generation=max(own.generation, told.generation if told else 0),
        cooldown_out_until_s=record.now_s + out_s if out_s else own.cooldown_out_until_s,
        cooldown_in_until_s=record.now_s + in_s if in_s else own.cooldown_in_until_s,
        mode=None if record.mode == group.mode else record.mode,
        is_paused=record.limiter == "paused",
    )


def _with_learned(settings: Settings, states: tuple[Any, ...], record: DecisionRecord) -> tuple[Any, ...]:
    """Return the states of the policies, those that learn as the record tells them."""
    known = learned.from_text(record.learned) if _tells_learned(record) else {}
    pairs = enumerate(zip(settings.policies, states, strict=True))
    return tuple(begun(policy, known[number]) if number in known else own for number, (policy, own) in pairs)


def _forgets_after_s(settings: Settings, record: DecisionRecord, *, is_standing_known: bool = True) -> float:
    """Return how many seconds after a record nothing depends any more on what was before and is not in it."""
    learns = any(policies.of(policy).learned for policy in settings.policies)
    if learns and not _tells_learned(record):
        return math.inf
    boot_s = settings.group.boot_timeout_s  # so long a domain that is missing may be waited for
    windows_s = max(settings.in_window_s, settings.out_window_s, settings.standing_stale_after_s, TREND_S, boot_s)
    return windows_s if is_standing_known else windows_s + settings.group.patience_memory_s


def _tells_learned(record: DecisionRecord) -> bool:
    """Return whether it tells what is learned after its tick; the first of a run tells what was before."""
    return record.tick > 1 and record.learned != ""


# --- one tick --------------------------------------------------------------------------------------------------------


def _told(run: _Run, heard: Heard, begins: str) -> Replayed:
    """Return the tick from which a state was rebuilt: it is not repeated, it is where the replay begins."""
    return Replayed(heard, heard.record, run.state, UNKNOWN, run.doubt, begins, frozenset())


def _repeated(run: _Run, heard: Heard, begins: str) -> Replayed:
    record = heard.record
    lost = [taken.id for taken in record.taken if taken.id not in heard.inputs]
    if lost:
        until_s = record.now_s + _forgets_after_s(run.state.settings, record)
        run.doubt_for(f"message {lost[0]} of tick {record.tick} is not in the recording", until_s)
    state = _ticked(run.state, heard)
    again = state.history[-1]
    is_same, apart = _compared(again, heard)
    is_doubtful = bool(run.doubt) and record.now_s <= run.doubt_until_s
    verdict = IDENTICAL if is_same else UNKNOWN if is_doubtful else DIFFERENT
    doubt = run.doubt if is_doubtful else ""
    run.state = _corrected(state, heard) if verdict == UNKNOWN else state
    if not is_doubtful:
        run.doubt = ""
    elif _tells_learned(record):
        run.doubt_until_s = min(run.doubt_until_s, record.now_s + _forgets_after_s(run.state.settings, record))
    apart_in = frozenset(apart.missing), frozenset(apart.extra)
    return Replayed(heard, again, run.state, verdict, doubt, begins, *apart_in)


def _ticked(state: GroupState, heard: Heard) -> GroupState:
    """Return the state after all that a record took in, and its tick."""
    record = heard.record
    for taken in record.taken:
        state = _taken_in(state, heard.inputs, taken, record.now_s)
    for ordered in record.ordered:
        state = _ordered_in(state, ordered)
    return handle(state, Tick(record.at_s, record.burst_rivals), record.now_s)[0]


def _taken_in(state: GroupState, inputs: dict[str, Body], taken: Taken, now_s: float) -> GroupState:
    body = inputs.get(taken.id)
    event = None if body is None else event_of(body, taken)
    return state if event is None else handle(state, event, now_s)[0]


def _ordered_in(state: GroupState, ordered: Ordered) -> GroupState:
    if ordered.verb == basis.RELOAD:
        settings = basis.read_settings(str(ordered.args.get("settings")), state.settings.name, state.settings.run_id)
        return handle(state, Reconfigured(settings), ordered.now_s)[0]
    return handle(state, Asked(Request(verb=ordered.verb, args=ordered.args), 0), ordered.now_s)[0]


def event_of(body: Body, taken: Taken) -> CoreEvent | None:
    """Return what a recorded message means to the core; None where it means nothing."""
    match body:
        case HostSample():
            return SampleSeen(read_sample(body, taken.at_s, taken.id))
        case Membership():
            return MembershipSeen(body, taken.at_s, taken.id)
        case Traffic():
            return TrafficSeen(body, taken.at_s, taken.id)
        case Drain():
            return DrainSeen(body, taken.at_s, taken.id)
        case Failure():
            return FailureSeen(body, taken.at_s, taken.id)
    return None


def _corrected(state: GroupState, heard: Heard) -> GroupState:
    """Return the state with what the record shows to be so: from here on the same as the recorded decider's."""
    standing = _standing(state, heard)
    if heard.record.basis:
        standing = basis.read(heard.record.basis, heard.record.group, heard.header.run_id).standing
    burst = Burst(heard.record.burst_quota, heard.record.burst_text)
    states = _with_learned(state.settings, state.policy_states, heard.record)
    return evolve(state, standing=standing, burst=burst, policy_states=states)


# --- comparison ------------------------------------------------------------------------------------------------------


def differences(replayed: Replayed) -> dict[str, tuple[str, str]]:
    """Return each field that differs: what the recording says, and what the replay says."""
    again, found = replayed.record.model_dump(), {}
    for name, value in replayed.heard.values.items():
        if name in again:
            ours, theirs = (_as_text(one) for one in _shared(again[name], value, name, _Apart()))
            if ours != theirs:
                found[name] = (theirs, ours)
    return found


@dataclass(slots=True)
class _Apart:
    """The fields that only one of two records has, each by its path."""

    missing: set[str] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)


def _compared(again: DecisionRecord, heard: Heard) -> tuple[bool, _Apart]:
    """Return whether both records are the same as far as both releases know their fields, and what only one has."""
    if encode(heard.header, again)[1] == heard.frame.payload:
        return True, _Apart()
    apart = _Apart()
    _shared(heard.header.model_dump(), unpack(heard.frame.payload)["header"], "header", apart)
    ours, theirs = _shared(again.model_dump(), heard.values, "", apart)
    is_apart = bool(apart.missing or apart.extra)
    return is_apart and _as_text(ours) == _as_text(theirs), apart


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shared(ours: Any, recorded: Any, path: str, apart: _Apart) -> tuple[Any, Any]:
    """Return both values with those fields only that both have; the others go into ``apart``."""
    if isinstance(ours, dict) and isinstance(recorded, dict):
        under = f"{path}." if path else ""
        apart.missing |= {f"{under}{name}" for name in ours.keys() - recorded.keys()}
        apart.extra |= {f"{under}{name}" for name in recorded.keys() - ours.keys()}
        pairs = {
            name: _shared(ours[name], value, f"{under}{name}", apart)
            for name, value in recorded.items()
            if name in ours
        }
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}
    if isinstance(ours, tuple | list) and isinstance(recorded, tuple | list) and len(ours) == len(recorded):
        both = [_shared(one, other, f"{path}[]", apart) for one, other in zip(ours, recorded, strict=True)]
        return [one for one, _ in both], [other for _, other in both]
    return ours, recorded
