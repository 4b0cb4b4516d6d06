"""The picture of ``bench.policies``: our curve against every peer, one panel for each trace and delay."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.policies import LEADS, Outcome

OURS, INK, PEER, RUN_HERE, SHIPPED = "#1f77b4", "#22313f", "#d95f02", "#7570b3", "#999999"


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the picture to ``path``."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys(one.case for one in outcomes))
    figure, grid = plt.subplots(len(LEADS), len(cases), figsize=(16, 11), layout="constrained", squeeze=False)
    for one in outcomes:
        axes = grid[LEADS.index(one.lead)][cases.index(one.case)]
        _panel(axes, one)
        if one.lead == LEADS[0]:
            axes.set_title(one.case, fontsize=13, loc="left", color=INK)
        if one.case == cases[0]:
            axes.set_ylabel(f"delay {one.lead} step{'s' if one.lead > 1 else ''}\nθU: too few, %")
        if one.lead == LEADS[-1]:
            axes.set_xlabel("θO: too many, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, frameon=False)
    figure.suptitle("Nearer to the lower left corner is better", x=0.01, ha="left", fontsize=11, color=INK)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(axes: Any, one: Outcome) -> None:
    over = [point[2] for point in one.curve]
    under = [point[1] for point in one.curve]
    axes.plot(over, under, "-", color=OURS, lw=2.2, label="ours, headroom 0 to 5.5")
    kinds = ((True, "o", PEER, "published"), (False, "D", RUN_HERE, "HPA and last, run here"))
    floor = 0.02
    for is_published, marker, colour, label in kinds:
        peers = [peer for peer in one.peers if peer.is_published == is_published]
        axes.plot(
            [peer.theta_o for peer in peers],
            [max(peer.theta_u, floor) for peer in peers],
            marker,
            ms=5,
            color=colour,
            label=label,
        )
        for peer in peers:
            if is_published or one.lead > 1:
                axes.annotate(
                    peer.name,
                    (peer.theta_o, max(peer.theta_u, floor)),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=8,
                    color=INK,
                )
    if one.shipped:
        axes.plot(
            [p.theta_o for p in one.shipped], [p.theta_u for p in one.shipped], "x", color=SHIPPED, label="shipped"
        )
    for point in one.shipped:
        axes.annotate(
            point.name,
            (point.theta_o, point.theta_u),
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=8,
            color=SHIPPED,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor * 0.8, top=60)
    axes.set_xlim(left=0.3, right=400)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
