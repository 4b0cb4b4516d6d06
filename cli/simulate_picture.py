"""The picture of a simulation: demand and supply over time, or the trade-off curve of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from cli.simulate import Run
from cli.traces import Trace
from common.errors import AutoscalerError

INK, SUPPLY, MISSING, SPARE = "#22313f", "#1f77b4", "#d62728", "#9ecae1"
MOST_POINTS = 4000  # more than a picture has columns


def draw(path: Path, trace: Trace, runs: Sequence[Run]) -> None:
    """Write the picture to ``path`` (PNG or SVG by its ending).

    Raises:
        AutoscalerError: The file cannot be written.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 4.6) if len(runs) == 1 else (7, 5.2), layout="constrained")
    if len(runs) == 1:
        _over_time(axes, trace, runs[0])
    else:
        _trade_off(axes, trace, runs)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise AutoscalerError(f"{path}: the picture cannot be written: {error}") from error
    finally:
        plt.close(figure)


def _over_time(axes: Any, trace: Trace, run: Run) -> None:
    every = max(1, len(run.demand) // MOST_POINTS)
    hours = np.array(trace.t_s[::every]) / 3600
    demand, supply = np.array(run.demand[::every]), np.array(run.supply[::every])
    axes.fill_between(
        hours, demand, supply, where=supply > demand, step="post", color=SPARE, alpha=0.6, lw=0, label="too many"
    )
    axes.fill_between(
        hours, demand, supply, where=supply < demand, step="post", color=MISSING, alpha=0.8, lw=0, label="too few"
    )
    axes.step(hours, supply, where="post", color=SUPPLY, lw=1.1, label="supply")
    axes.step(hours, demand, where="post", color=INK, lw=1.1, label="demand")
    axes.set(xlabel="hours", ylabel="domains", ylim=(0, None), xlim=(hours[0], hours[-1]))
    metrics = run.metrics
    axes.set_title(f"{trace.name}: θU {metrics.theta_u:.2f} %, θO {metrics.theta_o:.1f} %", loc="left")
    axes.legend(ncols=4, frameon=False, loc="upper right", bbox_to_anchor=(1, 1.12))


def _trade_off(axes: Any, trace: Trace, runs: Sequence[Run]) -> None:
    spare = [run.metrics.theta_o for run in runs]
    missing = [run.metrics.theta_u for run in runs]
    axes.plot(spare, missing, "o-", color=SUPPLY, ms=3.5, lw=1.2)
    for run in runs[:: max(1, len(runs) // 8)]:
        axes.annotate(
            f"{run.headroom:g}",
            (run.metrics.theta_o, run.metrics.theta_u),
            textcoords="offset points",
            xytext=(5, 4),
            fontsize=8,
            color=INK,
        )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set(xlabel="θO: too many, %", ylabel="θU: too few, %", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{trace.name}: the trade-off; numbers are headroom", loc="left")
    axes.grid(alpha=0.25)
