"""Why the group did, or did not, scale: from the running decider, or at any time from the recording.

What would have happened next is not told but computed: the recording is replayed up to that tick, and the same core is
run forward from there.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.events import duration_s
from cli.replay import ticks
from cli.unreached import look, why
from cli.words import instant_s, local_time
from common.bus import ask
from common.clock import SystemClock
from common.config import Config
from common.errors import AutoscalerError, BusError, ConfigError, NoAnswerError, RecordingError
from common.messages import DecisionRecord, Membership, Request
from common.recording import Recorded, Recording, recording_dir
from common.unready import sentences
from services.decider.core import outlook, policies
from services.decider.core.ballot import counted
from services.decider.core.basis import EVERY_TICKS, LEARNED_EVERY_TICKS
from services.decider.core.explain import page, sentence
from services.decider.core.group import metrics_of
from services.decider.core.heard import LOOK_AHEAD_S
from services.decider.core.replay import IDENTICAL, Replayed, differences

ASK_TIMEOUT_S = 3.0
NEAR_INTERVALS = 3.0  # a tick this near counts as the one that was meant
NOTED_S = 90.0  # memberships are repeated much more often
LED_TO_S = 60.0  # after a decision: its domains have been started by then
WARM_UP_S = 900.0  # more than every window: what a replay needs before the tick that is asked for
LAST_CHANGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Told:
    """A recorded tick, and what is known around it. ``caused_by`` and ``led_to`` are the two ends of its thread."""

    record: DecisionRecord
    last_change: DecisionRecord | None
    caused_by: str
    led_to: tuple[str, ...]
    outlooks: tuple[outlook.Outlook, ...]
    doubt: str
    notes: tuple[str, ...] = ()


def run(
    config: Config,
    config_path: Path,
    group: str,
    by: str,
    *,
    at: str | None,
    since: str | None,
    each_tick: bool,
    as_json: bool,
) -> None:
    """Print why ``group`` did what it did: now, at ``at``, or at each change since ``since``.

    Raises:
        ConfigError: ``at`` or ``since`` is not an instant or a duration, or both are given.
        RecordingError: nothing was recorded then.
    """
    if at is not None and since is not None:
        raise ConfigError("--at and --since cannot be used together")
    if each_tick and since is None:
        raise ConfigError("--ticks goes with --since")
    clock = SystemClock()
    recording = Recording(recording_dir(config.system.state_path))
    if since is not None:
        found = _since(recording, group, clock.epoch_s() - duration_s(since), each_tick=each_tick)
        _print_lines(found, since, as_json=as_json)
    elif at is not None:
        _print_told(_at(recording, config, config_path, group, instant_s(at, clock.epoch_s())), as_json=as_json)
    else:
        _now(recording, config, config_path, group, by, clock.epoch_s(), as_json=as_json)
    if recording.damage.text():
        _warn(recording.damage.text())


# --- now -------------------------------------------------------------------------------------------------------------


def _now(
    recording: Recording, config: Config, config_path: Path, group: str, by: str, now_s: float, *, as_json: bool
) -> None:
    try:
        reply = ask(config, "decider", Request(verb="explain", args={"group": group}, by=by), ASK_TIMEOUT_S)
    except BusError as error:
        if isinstance(error, NoAnswerError):
            _warn(why(look(config, config_path)))
        _warn(f"{error}; this is the last tick of the recording")
        _print_told(_at(recording, config, config_path, group, now_s, is_last=True), as_json=as_json)
        return
    if reply.status == "error":
        raise AutoscalerError(f"decider: {reply.reason}")
    notes = notes_of(recording, group, now_s)
    if as_json:
        _print_json(reply.data | {"notes": list(notes)})
    else:
        told = reply.data.get("lines") or [reply.data.get("text") or reply.reason]
        print("\n".join([*told, *(f"  actuator: {note}" for note in notes)]))


# --- at a time -------------------------------------------------------------------------------------------------------


def _at(
    recording: Recording, config: Config, config_path: Path, group: str, at_s: float, *, is_last: bool = False
) -> Told:
    """Return the last tick at or before ``at_s``."""
    near_s = NEAR_INTERVALS * config.system.interval_s
    found = _newest(recording, group, at_s + LOOK_AHEAD_S, at_s)
    if found is None:
        raise RecordingError(f"no tick of group {group} is recorded at or before {local_time(at_s)}")
    frame, cause, record = found
    if not is_last and at_s - record.at_s > near_s:
        before = local_time(record.at_s)
        raise RecordingError(
            f"no tick of group {group} is recorded at {local_time(at_s)}; the one before is of {before}"
        )
    if is_last:
        _warn(f"it is of {local_time(record.at_s)}, {at_s - record.at_s:.0f} s ago")
    outlooks, doubt = _outlooks(recording, config_path, group, config.system.interval_s, frame, record)
    change = _last_change(recording, group, frame.at_s, record)
    led_to, notes = _led_to(recording, group, frame.at_s, record), notes_of(recording, group, frame.at_s + LED_TO_S)
    return Told(record, change, cause, led_to, outlooks, doubt, notes)


def notes_of(recording: Recording, group: str, until_s: float) -> tuple[str, ...]:
    """Return what the actuator noted last about the group: what was chosen, what fell back, who is not ready."""
    try:
        for _, _, body in recording.messages(until_s - NOTED_S, until_s, ["membership"], newest_first=True):
            if isinstance(body, Membership) and body.group == group:
                return (*body.notes, *sentences(body))
    except RecordingError:
        return ()  # the decider's answer needs no recording
    return ()


def _newest(
    recording: Recording, group: str, until_s: float, at_s: float
) -> tuple[Recorded, str, DecisionRecord] | None:
    for frame, header, body in _decisions(recording, group, until_s=until_s):
        if body.at_s <= at_s:
            return frame, header, body
    return None


def _decisions(recording: Recording, group: str, *, until_s: float) -> Iterable[tuple[Recorded, str, DecisionRecord]]:
    """Yield the group's records received up to ``until_s``, newest first, each with its cause."""
    frames = recording.frames(until_s=until_s, kinds=["decision"], newest_first=True)
    wanted = (frame for frame in frames if frame.topic == f"decision.{group}")
    for frame, header, body in recording.decoded(wanted):
        if isinstance(body, DecisionRecord):
            yield frame, header.cause or "", body


def _last_change(recording: Recording, group: str, until_s: float, record: DecisionRecord) -> DecisionRecord | None:
    for frame, _, body in _decisions(recording, group, until_s=until_s):
        if body.action != "hold" and body.at_s <= record.at_s:
            return body
        if until_s - frame.at_s > LAST_CHANGE_S:
            return None
    return None


def _led_to(recording: Recording, group: str, from_s: float, record: DecisionRecord) -> tuple[str, ...]:
    """Return the domains that exist because of this decision."""
    if record.action == "hold":
        return ()
    found: dict[str, None] = {}
    for _, _, body in recording.messages(from_s - LOOK_AHEAD_S, from_s + LED_TO_S, ["membership"]):
        if isinstance(body, Membership) and body.group == group:
            found |= dict.fromkeys(member.name for member in body.members if record.decision_id in member.cause)
    return tuple(found)


def _outlooks(
    recording: Recording, config_path: Path, group: str, interval_s: float, frame: Recorded, record: DecisionRecord
) -> tuple[tuple[outlook.Outlook, ...], str]:
    """Return what the core would do from this tick on, and why that may not be exact."""
    since_s = frame.at_s - WARM_UP_S - interval_s * _told_every_ticks(record)
    try:
        last = None
        for replayed in ticks(recording, config_path, group, since_s, frame.at_s + LOOK_AHEAD_S):
            if replayed.heard.record.decision_id == record.decision_id:
                last = replayed
                break
    except ConfigError as error:
        return (), f"what would come next is not known: {error}"
    if last is None or last.state.standing.desired is None:
        return (), ""
    doubt = "" if last.verdict == IDENTICAL or _is_alike(last) else _doubt(last)
    metrics = metrics_of(last.state, record.now_s, record.at_s)
    return outlook.scenarios(last.state, metrics, record.now_s), doubt


def _told_every_ticks(record: DecisionRecord) -> int:
    """Return within how many ticks some record tells all that the votes that count depend on."""
    kinds = [policies.KINDS.get(vote.policy) for vote in counted(record.votes)]
    return LEARNED_EVERY_TICKS if any(kind and kind.learned for kind in kinds) else EVERY_TICKS


def _is_alike(replayed: Replayed) -> bool:
    """Return whether nothing differs but votes that do not count: of what those had learned, nothing comes next."""
    recorded, again = (counted(record.votes) for record in (replayed.heard.record, replayed.record))
    return differences(replayed).keys() <= {"votes"} and recorded == again


def _doubt(replayed: Replayed) -> str:
    why = replayed.doubt or "this release would decide otherwise"
    return f"what would come next is not exact: {why}"


# --- since -----------------------------------------------------------------------------------------------------------


def _since(recording: Recording, group: str, since_s: float, *, each_tick: bool) -> list[DecisionRecord]:
    """Return the ticks since then; only those at which the outcome or what bound it changed, unless ``each_tick``."""
    found: list[DecisionRecord] = []
    last: tuple[object, ...] = ()
    names: set[str] = set()
    for _, _, body in recording.messages(since_s, kinds=["decision"]):
        if not isinstance(body, DecisionRecord):
            continue
        names.add(body.group)
        if body.group != group:
            continue
        this = (body.action, body.limiter, body.mode, body.desired_after)
        if each_tick or this != last:
            found.append(body)
        last = this
    if not found:
        there = f"; recorded groups: {', '.join(sorted(names))}" if names else ""
        raise RecordingError(f"no tick of group {group} is recorded since {local_time(since_s)}{there}")
    return found


# --- what is told ----------------------------------------------------------------------------------------------------


def _print_told(told: Told, *, as_json: bool) -> None:
    record = told.record
    if as_json:
        _print_json(
            {
                "text": _text(told),
                "record": record.model_dump(),
                "last_change": told.last_change.model_dump() if told.last_change else None,
                "outlooks": [
                    {"scenario": view.scenario, "after_s": view.after_s, "to": view.to, "limiter": view.limiter}
                    for view in told.outlooks
                ],
                "cause": told.caused_by,
                "led_to": list(told.led_to),
                "notes": list(told.notes),
                "doubt": told.doubt,
            }
        )
        return
    print(_text(told))


def _text(told: Told) -> str:
    record = told.record
    lines = tuple(outlook.tell(view, record.desired_after, record.at_s) for view in told.outlooks)
    text = f"{local_time(record.at_s)}  {page(record, told.last_change, lines)}"
    thread = [part for part in (told.caused_by, record.decision_id, ", ".join(told.led_to)) if part]
    text += f"\n  thread: {' → '.join(thread)}"
    text += "".join(f"\n  actuator: {note}" for note in told.notes)
    return f"{text}\n  {told.doubt}" if told.doubt else text


def _print_lines(found: list[DecisionRecord], since: str, *, as_json: bool) -> None:
    if as_json:
        _print_json({"since": since, "records": [record.model_dump() for record in found]})
        return
    for record in found:
        print(f"{local_time(record.at_s)}  {sentence(record)} What would change it: {record.counterfactual}.")


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def _warn(text: str) -> None:
    print(f"autoscaler: {text}", file=sys.stderr)
