"""The page and the picture of ``bench.capacity``: the tiers side by side, a cold start's stages, the step."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from bench.capacity_stages import NAMES

COLOURS: Final = ("#7570b3", "#1b9e77", "#a6761d", "#d95f02", "#e7298a", "#1f77b4")
INK: Final = "#22313f"
MIB: Final = 2**20


def page(result: Mapping[str, Any], meaning: Mapping[str, str]) -> str:
    """Return docs/capacity.md."""
    lines = [
        "# How fast capacity comes, and what it costs",
        "",
        "Written by `make bench-capacity`: every tier in one run, in turns, on the same guest. Milliseconds from the",
        "decision (the instant of the decider's tick) to the first request that the new domain answers through the",
        "endpoint; for `burst`, to the quota in force. `raw` is libvirt alone, the limit of a cold start. RAM and disk",
        "are what one waiting domain holds.",
        "",
        "| tier | what | n | median ms | p95 ms | RAM MiB | disk MiB |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, tier, meaning[name]) for name, tier in result["tiers"].items()),
        "",
        *_notes(result["tiers"]),
        "| goal | at most | measured | |",
        "|---|---|---|---|",
        *(_goal(goal) for goal in result["goals"]),
        "",
        "![The tiers, the stages of a cold start, the step](capacity.png)",
        "",
        *_stages("cold", "Where a cold start's time goes", result["stages"]),
        *_stages("clone", "Where a clone's time goes", result["clone_stages"]),
        *_step(result["step"]),
        f"{result['cpus']} CPUs; load before {result['load_before']:.1f}; the run took {result['took_s']:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, tier: Mapping[str, Any], what: str) -> str:
    times = "- | -" if tier["median_s"] is None else f"{1000 * tier['median_s']:.0f} | {1000 * tier['p95_s']:.0f}"
    return (
        f"| {name} | {what} | {tier['n']} | {times} | {tier['ram_bytes'] / MIB:.0f} | {tier['disk_bytes'] / MIB:.0f} |"
    )


def _notes(tiers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"- {name}: {note}" for name, tier in tiers.items() for note in tier.get("notes", ())]
    return [*lines, ""] if lines else []


def _goal(goal: Mapping[str, Any]) -> str:
    measured = "-" if goal["measured"] is None else f"{goal['measured']:.3g}"
    return f"| {goal['goal']} | {goal['at_most']:.3g} | {measured} | {'met' if goal['is_met'] else 'not met'} |"


def medians(tier: str, stages: list[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the median of each stage, 0 where it was never told."""
    told = {name: [value for one in stages if (value := one.get(name)) is not None] for name in NAMES[tier]}
    return {name: statistics.median(values) if values else 0.0 for name, values in told.items()}


def _stages(tier: str, title: str, stages: list[Mapping[str, float | None]]) -> list[str]:
    if not stages:
        return []
    rows = [f"| {name} | {1000 * value:.0f} |" for name, value in medians(tier, stages).items()]
    return [f"## {title}", "", "| stage | median ms |", "|---|---|", *rows, ""]


def _step(step: Mapping[str, Any] | None) -> list[str]:
    if step is None:
        return []
    if "note" in step:
        return ["## A step from 1 to 4 domains' worth of load", "", f"Not measured: {step['note']}", ""]
    answered = "never" if step["answered_s"] is None else f"after {step['answered_s']:.2f} s"
    recovered = "never" if step["recovered_s"] is None else f"after {step['recovered_s']:.0f} s"
    return [
        "## A step from 1 to 4 domains' worth of load",
        "",
        f"{step['requests']} requests, {step['failed']} failed; a second domain answered {answered}; p99 under "
        f"{1000 * step['p99_target_s']:.0f} ms for good {recovered}.",
        "",
    ]


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Write the picture."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (tiers, stages, step) = plt.subplots(
        3, 1, figsize=(10, 9), layout="constrained", height_ratios=(3, 1.3, 2.2)
    )
    _draw_tiers(tiers, result["tiers"])
    _draw_stages(stages, result["stages"])
    _draw_step(step, result["step"])
    for axes in (tiers, stages, step):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_tiers(axes: Any, tiers: Mapping[str, Mapping[str, Any]]) -> None:
    known = {name: tier for name, tier in tiers.items() if tier["median_s"]}
    for place, (name, tier) in enumerate(reversed(known.items())):
        median_ms, p95_ms = 1000 * tier["median_s"], 1000 * tier["p95_s"]
        axes.barh(place, median_ms, color=COLOURS[5] if name != "raw" else "#999999", height=0.6)
        axes.plot([median_ms, p95_ms], [place, place], color=INK, lw=1.5)
        price = f"{tier['ram_bytes'] / MIB:.0f} MiB RAM, {tier['disk_bytes'] / MIB:.0f} MiB disk"
        axes.annotate(f"{median_ms:.0f} ms  ({price})", (p95_ms, place), xytext=(6, -3), textcoords="offset points")
    axes.set_yticks(range(len(known)), list(reversed(known)))
    axes.set_xscale("log")
    axes.margins(x=0.35)
    axes.set_title("From the decision to the first request served: median, p95 (log ms)", loc="left", color=INK)


def _draw_stages(axes: Any, stages: list[Mapping[str, float | None]]) -> None:
    axes.set_title("Where a cold start's time goes (ms)", loc="left", color=INK)
    axes.set_yticks([])
    left_ms = 0.0
    for colour, (name, value_s) in zip(COLOURS, medians("cold", stages).items() if stages else (), strict=False):
        axes.barh(0, 1000 * value_s, left=left_ms, color=colour, label=f"{name} {1000 * value_s:.0f}")
        left_ms += 1000 * value_s
    if stages:
        axes.legend(ncols=3, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25))


def _draw_step(axes: Any, step: Mapping[str, Any] | None) -> None:
    axes.set_title("p99 by second around a step from 1 to 4 domains' worth of load (ms)", loc="left", color=INK)
    axes.set_xlabel("seconds from the step")
    if not step or "note" in step:
        return
    axes.step([at for at, _ in step["p99_s"]], [1000 * p99 for _, p99 in step["p99_s"]], where="post", color=COLOURS[5])
    axes.axhline(1000 * step["p99_target_s"], color=COLOURS[3], lw=1, ls="--")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_ylim(bottom=0)
