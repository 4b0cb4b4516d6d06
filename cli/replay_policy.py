"""Another configuration over a recorded load, beside what was recorded: figures, first difference, picture.

The model and what it leaves out are told in ``services.decider.core.what_if``, Note [The model], and in the output.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.pictures import check_png
from cli.replay import nothing_in, opened, ticks
from cli.words import local_time
from common.config_file import load
from common.errors import ConfigError
from common.recording import Recording
from services.decider.core.state import Settings
from services.decider.core.what_if import (
    BACKLOG_S,
    Difference,
    Past,
    Side,
    Step,
    adjusted,
    first_difference,
    judged,
    modelled,
    past,
    threshold_ratio,
)
from services.decider.shell import settings_of

MOST_LEAD_S = 86400.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One comparison. ``control`` is the recorded policy in the model: what differs from recorded is the model's."""

    group: str
    past: Past
    lead_s: float
    lead_from: str
    control: tuple[Step, ...]
    other: tuple[Step, ...]
    difference: Difference | None

    @property
    def sides(self) -> dict[str, Side]:
        """Return the figures of each side."""
        return {
            "recorded": judged(self.past, self.past.steps),
            "control": judged(self.past, self.control),
            "other": judged(self.past, self.other),
        }


def run(
    config_path: Path,
    path: Path,
    policy: Path,
    group: str | None,
    lead_time_s: float | None,
    png: Path | None,
    *,
    as_json: bool,
) -> int:
    """Try ``policy`` over the recording, print both sides, draw them into ``png`` if that is wanted; return 0.

    Raises:
        RecordingError: the recording says nothing about the group.
        ConfigError: the other configuration is invalid, or lacks the group; the lead time is not known.
    """
    if png is not None:
        check_png(png)
    recording = opened(path)
    name = _group(recording, group)
    settings = _other(policy, name)
    trial = tried(recording, config_path, name, settings, lead_time_s)
    if png is not None:
        from cli.replay_picture import draw

        draw(png, trial)
    left_out = recording.damage.text()
    if as_json:
        print(json.dumps({"recording": str(path), "policy": str(policy), "left_out": left_out, **values(trial)}))
        return 0
    _print(trial, policy)
    if png is not None:
        print(png)
    if left_out:
        print(f"autoscaler: {left_out}", file=sys.stderr)
    return 0


def tried(recording: Recording, config_path: Path, group: str, other: Settings, lead_time_s: float | None) -> Trial:
    """Return the comparison of ``other`` with what was recorded of ``group``.

    Raises:
        RecordingError, ConfigError: as ``run``.
    """
    known = past(ticks(recording, config_path, group))
    if known is None:
        raise nothing_in(recording, group)
    lead_s, lead_from = _lead_s(known, lead_time_s)
    control = modelled(known, known.settings, lead_s)
    steps = modelled(known, adjusted(other, known.settings), lead_s)
    return Trial(group, known, lead_s, lead_from, control, steps, first_difference(known, control, steps))


def values(trial: Trial) -> dict[str, Any]:
    """Return a comparison as plain values."""
    known = trial.past
    return {
        "group": trial.group,
        "ticks": len(known.steps),
        "seconds": len(known.steps) * known.settings.interval_s,
        "threshold_ratio": threshold_ratio(known),
        "sides": {name: _side_values(side) for name, side in trial.sides.items()},
        "first_difference": None if trial.difference is None else asdict(trial.difference),
        "model": {
            "lead_s": trial.lead_s,
            "lead_from": trial.lead_from,
            "leave_s": known.leave_s,
            "allotted_cpus": known.allotted_cpus,
            "backlog_s": BACKLOG_S,
            "ticks_with_unknown_demand": known.unknown_ticks,
            "ticks_left_out": known.left_out_ticks,
            "assumptions": assumptions(trial),
        },
    }


def assumptions(trial: Trial) -> list[str]:
    """Return what the model takes for granted, for people."""
    known = trial.past
    return [
        f"demand is the CPU that ready domains used, shared evenly by domains of {known.allotted_cpus:g} CPUs each",
        f"what is over capacity waits, up to {BACKLOG_S:g} s of the demand; the rest is dropped",
        f"a new domain serves {trial.lead_s:.1f} s after the decision ({trial.lead_from})",
        f"one that leaves takes no traffic at once, and is gone {known.leave_s:.1f} s later (recorded median)",
        "what a policy learns, it learns anew from the beginning of the recording on",
        "not modelled: failures, the operator's orders, CPU that booting takes, domains of unequal size",
        "where all recorded domains were busy, true demand was higher, and their catching up counts as demand later",
        "so compare the two modelled columns; recorded against the same policy shows the model's error",
    ]


# --- what it needs ---------------------------------------------------------------------------------------------------


def _group(recording: Recording, group: str | None) -> str:
    if group is not None:
        return group
    found = {recorded.topic.removeprefix("decision.") for recorded in recording.frames(kinds=["decision"])}
    if not found:
        raise nothing_in(recording, None)
    if len(found) > 1:
        raise ConfigError(f"several groups in the recording: name one with --group; groups: {', '.join(sorted(found))}")
    return found.pop()


def _other(policy: Path, group: str) -> Settings:
    config, _ = load(policy)
    if group not in config.groups:
        raise ConfigError(f"{policy}: no group {group!r}, as in the recording; groups: {', '.join(config.groups)}")
    return settings_of(config, 0)[group]


def _lead_s(known: Past, given_s: float | None) -> tuple[float, str]:
    if given_s is not None:
        if not 0 <= given_s <= MOST_LEAD_S:
            raise ConfigError(f"--lead-time must be in 0..{MOST_LEAD_S:g} seconds; got {given_s:g}")
        return given_s, "as given"
    if known.lead_s is None and known.boot_s is not None:
        return known.boot_s, "the actuator's median; none was started in the recording"
    if known.lead_s is None:
        raise ConfigError("no start in the recording tells how long one takes: give --lead-time SECONDS")
    return known.lead_s, "recorded median"


# --- what is told ----------------------------------------------------------------------------------------------------

_ROWS = (
    ("domain-hours", "domain_hours", "{:.3f}"),
    ("seconds over threshold", "over_threshold_s", "{:.0f}"),
    ("under-provisioning θU (%)", "theta_u", "{:.2f}"),
    ("over-provisioning θO (%)", "theta_o", "{:.1f}"),
    ("time with too few τU (%)", "tau_u", "{:.1f}"),
    ("time with too many τO (%)", "tau_o", "{:.1f}"),
    ("mean ready domains", "mean_supply", "{:.2f}"),
    ("starts", "starts", "{}"),
    ("changes of capacity", "changes", "{}"),
    ("flaps (turns)", "flaps", "{}"),
)


def _side_values(side: Side) -> dict[str, Any]:
    all_values = {**asdict(side.elasticity), **asdict(side)}
    return {key: all_values[key] for _, key, _ in _ROWS}


def _print(trial: Trial, policy: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    known, sides = trial.past, {name: _side_values(side) for name, side in trial.sides.items()}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{trial.group}, {len(known.steps)} ticks")
    for head in ("recorded", "same policy, modelled", f"{policy.name}, modelled"):
        table.add_column(head, justify="right")
    for label, key, form in _ROWS:
        table.add_row(label, *(form.format(sides[name][key]) for name in ("recorded", "control", "other")))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nToo busy means CPU at or above {100 * threshold_ratio(known):.0f} %. θ and τ are by the SPEC")
    console.print("definitions, against the domains that the demand needs to stay below that.")
    console.print(_difference_text(trial.difference), soft_wrap=True)
    console.print("The model:")
    for line in assumptions(trial):
        console.print(f"  - {line}", soft_wrap=True)
    if known.unknown_ticks or known.left_out_ticks:
        console.print(
            f"  - demand was not fully known in {known.unknown_ticks} ticks: the last known one counts; "
            f"{known.left_out_ticks} ticks without any are left out",
            soft_wrap=True,
        )


def _difference_text(difference: Difference | None) -> str:
    if difference is None:
        return "In the model both want the same capacity at every tick."
    return (
        f"First difference of the two modelled columns, {local_time(difference.at_s)}:\n"
        f"  same policy: {difference.control}\n"
        f"  other:       {difference.other}"
    )
