"""The picture of a comparison: domains needed, recorded and modelled; CPU use of both; the time between them."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import dates

from cli.replay_policy import Trial
from common.errors import AutoscalerError
from services.decider.core.what_if import GAP_INTERVALS, Step, threshold_ratio

INK, RECORDED, OTHER, NEED, LEVEL = "#1f2933", "#0072b2", "#d55e00", "#d5dbe1", "#b0413e"
MOST_POINTS = 4000  # more than a picture has columns


def draw(path: Path, trial: Trial) -> None:
    """Write the picture to ``path`` (PNG or SVG by its ending).

    Raises:
        AutoscalerError: the file cannot be written.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 6.4), sharex=True, layout="constrained")
    every = max(1, len(trial.past.steps) // MOST_POINTS)
    times = [datetime.fromtimestamp(instant.at_s, UTC).astimezone() for instant in trial.past.instants[::every]]
    _domains(above, trial, times, every)
    _cpu(below, trial, times, every)
    labels: Any = dates.ConciseDateFormatter
    below.xaxis.set_major_formatter(labels(below.xaxis.get_major_locator(), tz=times[0].tzinfo))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise AutoscalerError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
    finally:
        plt.close(figure)


def _domains(axes: Any, trial: Trial, times: list[datetime], every: int) -> None:
    full_cpus = trial.past.allotted_cpus * threshold_ratio(trial.past)
    need = [instant.demand_cpus / full_cpus for instant in trial.past.instants[::every]]
    label = f"demand, in domains at {100 * threshold_ratio(trial.past):.0f} %"
    axes.fill_between(times, need, step="post", color=NEED, lw=0, label=label)
    for (steps, color, label), width in zip(_sides(trial), (3.0, 1.4), strict=True):
        ready = [step.ready for step in steps[::every]]
        axes.step(times, ready, where="post", color=color, lw=width, label=f"ready, {label}")
    sides = trial.sides
    _title(axes, f"{trial.group}: {sides['recorded'].domain_hours:.2f} domain-hours recorded, "
                 f"{sides['other'].domain_hours:.2f} with the other policy (modelled)")  # fmt: skip
    highest = max(*need, *(step.ready for steps, _, _ in _sides(trial) for step in steps))
    axes.set(ylabel="domains", ylim=(0, highest + 0.5))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, -0.2), fontsize=9)
    if trial.difference is not None:
        when = datetime.fromtimestamp(trial.difference.at_s, UTC).astimezone()
        axes.axvline(when, color=INK, lw=0.8, ls=":")
        axes.annotate("first difference", (when, highest + 0.5), xytext=(3, -9), textcoords="offset points", fontsize=8)


def _cpu(axes: Any, trial: Trial, times: list[datetime], every: int) -> None:
    longest_s = GAP_INTERVALS * trial.past.settings.interval_s * every
    gaps = [
        number for number in range(1, len(times)) if (times[number] - times[number - 1]).total_seconds() > longest_s
    ]
    for steps, color, _ in _sides(trial):
        percents = [math.nan if step.cpu_ratio is None else 100 * step.cpu_ratio for step in steps[::every]]
        for number in gaps:
            percents[number] = math.nan
        axes.plot(times, percents, color=color, lw=1)
    threshold = 100 * threshold_ratio(trial.past)
    axes.axhline(threshold, color=LEVEL, lw=0.9, ls="--")
    sides = trial.sides
    _title(axes, f"CPU use; {sides['recorded'].over_threshold_s:.0f} s at or above {threshold:.0f} % recorded, "
                 f"{sides['other'].over_threshold_s:.0f} s modelled")  # fmt: skip
    axes.set(ylabel="% of the allotment", ylim=(0, 104))


def _sides(trial: Trial) -> tuple[tuple[tuple[Step, ...], str, str], ...]:
    return (trial.past.steps, RECORDED, "recorded"), (trial.other, OTHER, "other policy")


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10.5, color=INK)
