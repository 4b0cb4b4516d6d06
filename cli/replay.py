"""A recording, run through the decider's core again: is every decision repeated, byte for byte?"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.words import local_time
from common.clock import SystemClock
from common.config_file import load
from common.errors import RecordingError
from common.messages import DecisionRecord
from common.recording import Recording, recording_dir, segment_files
from services.decider.core.explain import sentence
from services.decider.core.heard import KINDS
from services.decider.core.replay import DIFFERENT, IDENTICAL, UNKNOWN, Replayed, differences, replay
from services.decider.core.state import Settings
from services.decider.shell import settings_of

SHOWN_FIELDS = 6


@dataclass(slots=True)
class Tally:
    """What a replay of one group has shown so far. ``exact_from`` is the first tick after the last unknown one."""

    group: str
    ticks: int = 0
    runs: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {IDENTICAL: 0, DIFFERENT: 0, UNKNOWN: 0})
    first: Replayed | None = None
    doubts: dict[str, int] = field(default_factory=dict)
    exact_from: DecisionRecord | None = None
    left_out: frozenset[str] = frozenset()
    not_known: frozenset[str] = frozenset()
    last_run: int | None = None

    def add(self, replayed: Replayed) -> None:
        """Count one tick."""
        self.ticks += 1
        self.counts[replayed.verdict] += 1
        self.left_out |= replayed.left_out
        self.not_known |= replayed.not_known
        run_id = replayed.heard.header.run_id
        self.runs += run_id != self.last_run
        self.last_run = run_id
        if replayed.verdict == UNKNOWN:
            self.doubts[replayed.doubt] = self.doubts.get(replayed.doubt, 0) + 1
            self.exact_from = None
        elif self.exact_from is None:
            self.exact_from = replayed.heard.record
        if replayed.verdict == DIFFERENT and self.first is None:
            self.first = replayed


def run(config_path: Path, path: Path, group: str | None, *, as_json: bool) -> int:
    """Replay ``path`` and print what came of it; return 0 if no tick is different, else 1.

    Raises:
        RecordingError: there is no recording, it holds no decision, or its format is not known.
        ConfigError: the recording does not carry its settings, and the configuration file does not tell them.
    """
    clock, recording = SystemClock(), opened(path)
    began_s = clock.monotonic_s()
    tallies: dict[str, Tally] = {}
    for replayed in ticks(recording, config_path, group):
        name = replayed.record.group
        tallies.setdefault(name, Tally(name)).add(replayed)
    if not tallies:
        raise nothing_in(recording, group)
    took_s = clock.monotonic_s() - began_s
    left_out = recording.damage.text()
    if as_json:
        print(json.dumps({"recording": str(path), "seconds": round(took_s, 3), "left_out": left_out,
                          "groups": [_values(tally) for tally in tallies.values()]}, ensure_ascii=False))  # fmt: skip
    else:
        for tally in tallies.values():
            print("\n".join(told(tally)))
        count = sum(tally.ticks for tally in tallies.values())
        print(f"{count} ticks in {took_s:.1f} s ({count / max(took_s, 1e-9):.0f}/s)")
        if left_out:
            print(f"autoscaler: {left_out}", file=sys.stderr)
    return 1 if any(tally.first for tally in tallies.values()) else 0


def opened(path: Path) -> Recording:
    """Return the recording in a directory of segments, in a state directory, or in one segment's file.

    Raises:
        RecordingError: there is none.
    """
    if path.is_dir() and not segment_files(path) and recording_dir(path).is_dir():
        return Recording(recording_dir(path))
    if not path.exists():
        raise RecordingError(f"{path} does not exist; a recording is a directory of segments, or one segment's file")
    return Recording(path)


def ticks(
    recording: Recording,
    config_path: Path,
    group: str | None,
    since_s: float = -math.inf,
    until_s: float = math.inf,
) -> Iterator[Replayed]:
    """Yield each recorded tick between two times (epoch seconds), repeated.

    Raises:
        RecordingError: a record holds what this release cannot read.
    """
    frames = recording.frames(since_s, until_s, KINDS)
    try:
        yield from replay(frames, _Configured(config_path).settings, group)
    except ValueError as error:
        raise RecordingError(f"the recording cannot be replayed: {error}") from error


def nothing_in(recording: Recording, group: str | None) -> RecordingError:
    """Return the error for a recording without a decision that can be replayed."""
    recording = Recording(recording.directory)  # read once more: what is left out counts once
    names = {body.group for _, _, body in recording.messages(kinds=["decision"]) if isinstance(body, DecisionRecord)}
    left_out = f"; {recording.damage.text()}" if recording.damage.text() else ""
    if group is not None and names and group not in names:
        return RecordingError(f"no group {group!r} in the recording; groups: {', '.join(sorted(names))}")
    if names:
        which = ", ".join(sorted(names))
        return RecordingError(f"the recording does not carry the settings of {which}: name them with --config FILE")
    return RecordingError(f"no decision in {recording.directory}{left_out}")


class _Configured:
    """The settings of the configuration file, for recordings that do not carry theirs; read when first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, dict[str, Settings]] = {}

    def settings(self, group: str, run_id: int) -> Settings | None:
        if run_id not in self._known:
            config, _ = load(self._path)
            self._known[run_id] = settings_of(config, run_id)
        return self._known[run_id].get(group)


# --- what is told ----------------------------------------------------------------------------------------------------


def told(tally: Tally) -> list[str]:
    """Return what came of one group, for people."""
    identical, different, unknown = (tally.counts[verdict] for verdict in (IDENTICAL, DIFFERENT, UNKNOWN))
    runs = f"{tally.runs} run{'' if tally.runs == 1 else 's'}"
    head = f"{tally.group}: {tally.ticks} ticks of {runs}: {identical} identical byte for byte, {different} different"
    lines = [head + (f", {unknown} not repeatable" if unknown else "")]
    lines += [f"  {count} not repeatable: {doubt}" for doubt, count in tally.doubts.items()]
    if unknown and tally.exact_from is not None:
        record = tally.exact_from
        lines.append(f"  from {record.decision_id} on all is exact ({local_time(record.at_s)})")
    if unknown and tally.exact_from is None:
        lines.append("  at no time exact up to the end")
    if tally.left_out:
        fields = ", ".join(sorted(tally.left_out))
        lines.append(f"  recorded by an older release, without {fields}; compared without that")
    if tally.not_known:
        fields = ", ".join(sorted(tally.not_known))
        lines.append(f"  recorded by a newer release, with {fields}; compared without that")
    return lines + (_first_lines(tally.first) if tally.first else [])


def _first_lines(first: Replayed) -> list[str]:
    record = first.heard.record
    lines = [
        f"  first difference: {record.decision_id} ({local_time(record.at_s)})",
        f"    recorded: {sentence(record)}",
        f"    replayed: {sentence(first.record)}",
    ]
    fields = differences(first)
    for name, (recorded, ours) in list(fields.items())[:SHOWN_FIELDS]:
        lines.append(f"    {name}: recorded {_short(recorded)}, replayed {_short(ours)}")
    return lines


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _values(tally: Tally) -> dict[str, Any]:
    first = tally.first
    return {
        "group": tally.group,
        "ticks": tally.ticks,
        "runs": tally.runs,
        **tally.counts,
        "not_repeatable": tally.doubts,
        "exact_from": tally.exact_from.decision_id if tally.exact_from else None,
        "fields_left_out": sorted(tally.left_out),
        "fields_not_known": sorted(tally.not_known),
        "first_difference": None if first is None else {
            "decision_id": first.heard.record.decision_id,
            "at_s": first.heard.record.at_s,
            "recorded": sentence(first.heard.record),
            "replayed": sentence(first.record),
            "fields": {name: list(pair) for name, pair in differences(first).items()},
        },
    }  # fmt: skip
