"""The picture of ``bench.policies``: our curve against every peer, one panel for each trace and delay."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.policies import LEADS, Outcome

FLOOR = 0.02  # of θU: what lies below is drawn here
LETTER_PX, LINE_PX, GAP_PX, SPARE_PX, MARK_PX = 6.2, 13.0, 7.0, 14.0, 4.0  # of a name at 8 points and 100 dots an inch
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
    figure.draw_without_rendering()  # lays the panels out, so that a name knows where it stands
    figure.set_layout_engine("none")
    for one in outcomes:
        _name(grid[LEADS.index(one.lead)][cases.index(one.case)], one)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(axes: Any, one: Outcome) -> None:
    over = [point[2] for point in one.curve]
    under = [point[1] for point in one.curve]
    axes.plot(over, under, "-", color=OURS, lw=2.2, label="ours, headroom 0 to 20")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=FLOOR * 0.8, top=60)
    axes.set_xlim(left=0.3, right=400)
    kinds = ((True, "o", PEER, "published"), (False, "D", RUN_HERE, "HPA and last, run here"))
    for is_published, marker, colour, label in kinds:
        peers = [peer for peer in one.peers if peer.is_published == is_published]
        across, up = [peer.theta_o for peer in peers], [max(peer.theta_u, FLOOR) for peer in peers]
        axes.plot(across, up, marker, ms=5, color=colour, label=label)
    for number, points in enumerate(one.shipped_curves):
        across, up = [point.theta_o for point in points], [max(point.theta_u, FLOOR) for point in points]
        label = "shipped, ratio 0.5 to 0.95" if number == 0 else None
        axes.plot(across, up, ("-", "--")[number % 2], color=SHIPPED, lw=1.2, label=label)
    if one.shipped:
        across, up = [p.theta_o for p in one.shipped], [max(p.theta_u, FLOOR) for p in one.shipped]
        axes.plot(across, up, "x", color=SHIPPED, label="shipped")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Any, one: Outcome) -> None:
    """Write each point's name beside it, where no other name stands, with a line to the point."""
    points = [(peer, INK) for peer in one.peers if peer.is_published or one.lead > 1]
    points += [(point, SHIPPED) for point in one.shipped]
    to_pixels = axes.transData.transform
    placed = _taken(to_pixels, one)
    room = axes.bbox
    for point, colour in sorted(points, key=lambda pair: (-pair[0].theta_u, pair[0].theta_o)):
        at = point.theta_o, max(point.theta_u, FLOOR)
        x, y = to_pixels(at)
        width = LETTER_PX * len(point.name)
        left = x + GAP_PX if x + GAP_PX + width <= room.x1 + SPARE_PX else x - GAP_PX - width
        height = _free(placed, left, width, y + LINE_PX / 2, room.y0 + LINE_PX)
        placed.append((left, left + width, height))
        line = {"arrowstyle": "-", "lw": 0.5, "color": colour, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            point.name,
            at,
            xytext=axes.transData.inverted().transform((left, height)),
            textcoords="data",
            fontsize=8,
            color=colour,
            va="center",
            arrowprops=line,
            annotation_clip=False,
        )


def _taken(to_pixels: Any, one: Outcome) -> list[tuple[float, float, float]]:
    """Return where marks and the curve stand: left and right edge, and height, in pixels."""
    marks = [to_pixels((point.theta_o, max(point.theta_u, FLOOR))) for point in (*one.peers, *one.shipped)]
    curve = [to_pixels((max(over, FLOOR), max(under, FLOOR))) for _, under, over in one.curve]
    for (x, y), (next_x, next_y) in itertools.pairwise(curve):
        pieces = 1 + int(max(abs(next_x - x), abs(next_y - y)) // MARK_PX)
        marks += [(x + (next_x - x) * k / pieces, y + (next_y - y) * k / pieces) for k in range(pieces)]
    return [(x - MARK_PX, x + MARK_PX, y) for x, y in marks]


def _free(
    placed: Sequence[tuple[float, float, float]], left: float, width: float, wanted: float, lowest: float
) -> float:
    """Return the height nearest to ``wanted`` at which a label of this width meets none that is placed."""
    for distance in range(200):
        for height in (wanted - distance, wanted + distance):
            is_clear = all(
                abs(height - other) >= LINE_PX or left >= right or left + width <= start
                for start, right, other in placed
            )
            if is_clear and height >= lowest:
                return height
    return wanted
