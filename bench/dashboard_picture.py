"""``python -m bench.dashboard_picture``: the Grafana dashboard of a real run, drawn without Grafana.

Debian 12 has no package of Grafana. So this asks a Prometheus for exactly what the dashboard asks for, and draws the
panels where the dashboard has them: the figures are real, the look is matplotlib's. The installation must run
(``make up``); the load is that of ``make load``, first high, then low.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from bench import dashboard
from bench.dashboard import Panel
from bench.prometheus import Prometheus
from common.clock import SystemClock
from common.config_file import load
from common.errors import AutoscalerError

EVERY_S: Final = 1.0
RATE_INTERVAL: Final = "15s"
UNIT_INCHES: Final = (0.58, 0.27)  # of Grafana's grid
UNITS: Final = {
    "percentunit": (100.0, " %"),
    "s": (1.0, " s"),
    "reqps": (1.0, " req/s"),
    "ops": (1.0, " /s"),
    "cps": (1.0, " /s"),
    "bytes": (1e-6, " MB"),
}
MAX_LEGEND: Final = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Watch the running installation under load, and draw what the dashboard shows of it."""
    parser = argparse.ArgumentParser(prog="bench.dashboard_picture", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(os.environ.get("AUTOSCALER_CONFIG", "autoscaler.toml")))
    parser.add_argument("--output", type=Path, default=Path("docs/dashboard.png"))
    parser.add_argument("--seconds", type=float, default=240.0, help="how long to watch; half of it under high load")
    parser.add_argument("--level", default="high", help="of the high load: mid for a slow machine")
    parser.add_argument(
        "--n", default="5000000", help="the cost of one request, as for make load: less on a busy machine"
    )
    args = parser.parse_args(argv)
    try:
        draw(args.output, *watch(args.config, args.seconds, args.level, args.n))
    except AutoscalerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def watch(
    config_path: Path, seconds: float, high: str, n: str
) -> tuple[list[tuple[Panel, list[list[dict[str, Any]]]]], float]:
    """Return every panel with the series of each of its expressions, and when the run began, in epoch seconds."""
    metrics = load(config_path)[0].metrics
    if not metrics.listen:
        raise AutoscalerError("metrics.listen is empty: there is nothing to be read")
    targets = {"libvirt-autoscaler": metrics.listen.replace("*", "127.0.0.1")}
    if metrics.haproxy_listen:
        targets["libvirt-autoscaler-haproxy"] = metrics.haproxy_listen.replace("*", "127.0.0.1")
    clock, prometheus = SystemClock(), Prometheus(targets, EVERY_S)
    try:
        begin_s = clock.epoch_s()
        for level, share in (("low", 0.1), (high, 0.45), ("low", 0.45)):
            _load(config_path, level, n, share * seconds)
        end_s = clock.epoch_s()
        found = [
            (panel, [prometheus.query_range(asked, begin_s, end_s, EVERY_S) for asked, _ in panel.targets])
            for panel in dashboard.panels(dashboard.read(), rate_interval=RATE_INTERVAL)
        ]
    finally:
        prometheus.close()
    return found, begin_s


def _load(config_path: Path, level: str, n: str, seconds: float) -> None:
    command = [sys.executable, "-m", "cli", "--config", str(config_path), "load", "--level", level, "--n", n, "--json"]
    done = subprocess.run([*command, "--seconds", f"{seconds:.0f}"], check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):  # 1: requests failed, which the picture shows
        raise AutoscalerError(f"the load ended with status {done.returncode}")


def draw(path: Path, panels: list[tuple[Panel, list[list[dict[str, Any]]]]], begin_s: float) -> None:
    """Write the picture to ``path``."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = max(panel.y + panel.height for panel, _ in panels)
    width, height = 24 * UNIT_INCHES[0], rows * UNIT_INCHES[1]
    with plt.style.context({"font.size": 7, "axes.grid": True, "grid.alpha": 0.3, "axes.titlesize": 8}):
        figure = plt.figure(figsize=(width, height))
        for panel, results in panels:
            left, top = panel.x / 24, 1 - panel.y / rows
            if panel.kind == "row":
                figure.text(0.008, top - 0.7 / rows, panel.title, fontsize=10, weight="bold", va="center")
            elif panel.kind == "stat":
                _stat(figure, panel, results, left, top, rows)
            else:
                box = (left + 0.035, top - (panel.height - 1.7) / rows, panel.width / 24 - 0.05)
                _series(figure.add_axes((*box, (panel.height - 3.2) / rows)), panel, results, begin_s)
        figure.savefig(path, dpi=80)
        plt.close(figure)
    print(f"{path}: drawn {time.strftime('%Y-%m-%d')}")


def _stat(figure: Any, panel: Panel, results: list[list[dict[str, Any]]], left: float, top: float, rows: int) -> None:
    last = [series["values"][-1][1] for series in results[0]]
    scale, unit = UNITS.get(panel.unit, (1.0, ""))
    text = f"{float(last[0]) * scale:.3g}{unit}" if last else "no data"
    middle = left + panel.width / 48
    figure.text(middle, top - 0.8 / rows, panel.title, ha="center", fontsize=8)
    figure.text(middle, top - 2.6 / rows, text, ha="center", fontsize=18, color="tab:green")


def _series(axes: Any, panel: Panel, results: list[list[dict[str, Any]]], begin_s: float) -> None:
    scale, unit = UNITS.get(panel.unit, (1.0, ""))
    lines = [
        (
            _legend(legend, series["metric"]),
            [(float(at) - begin_s, float(value) * scale) for at, value in series["values"]],
        )
        for (_, legend), found in zip(panel.targets, results, strict=True)
        for series in found
    ]
    axes.set_title(f"{panel.title}{f' ({unit.strip()})' if unit else ''}", loc="left")
    if panel.style.get("stacking", {}).get("mode") == "normal" and lines:
        _stacked(axes, lines)
    else:
        style = "steps-post" if panel.style.get("lineInterpolation") == "stepAfter" else "default"
        for label, points in lines:
            axes.plot(*zip(*_with_gaps(points), strict=True), label=label, linewidth=1.0, drawstyle=style)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.set_xlim(0, max((points[-1][0] for _, points in lines), default=1.0))
    if lines:
        axes.legend(*_few(axes), loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, fontsize=5.5, frameon=False)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center")


def _stacked(axes: Any, lines: list[tuple[str, list[tuple[float, float]]]]) -> None:
    times = sorted({at for _, points in lines for at, _ in points})
    columns = [dict(points) for _, points in lines]
    values = [[column.get(at, 0.0) for at in times] for column in columns]
    axes.stackplot(times, values, labels=[label for label, _ in lines], alpha=0.7)


def _with_gaps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points with a hole wherever Prometheus had none: absent is not zero."""
    found: list[tuple[float, float]] = []
    for at, value in points:
        if found and at - found[-1][0] > 1.5 * EVERY_S:
            found.append((at, float("nan")))
        found.append((at, value))
    return found


def _legend(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), text)


def _few(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles[:MAX_LEGEND], labels[:MAX_LEGEND]


if __name__ == "__main__":
    raise SystemExit(main())
