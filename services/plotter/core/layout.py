"""Where everything stands in the picture; ``arrange`` knows positions, colours by number and texts, but no pixels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.names import domain_index
from common.phases import Phase
from services.plotter.core.axis import TimeAxis
from services.plotter.core.series import GroupSeries, Mark, Points, State, newest
from services.plotter.core.view import GroupView

TOP_RATIO: Final = 1.06
MARK_SIGN: Final = 0.017  # of the width: a mark's sign, and one letter of its text
MARK_LETTER: Final = 0.0075
FADED: Final = 0.45


@dataclass(frozen=True, slots=True)
class Curve:
    """Positions in [0, 1] and values; NaN where unknown."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DomainLine:
    """One domain. ``index`` gives it its colour for life. ``label`` is empty once it is gone; then it is faded.

    ``value_y`` is its newest ratio, ``label_y`` where its label stands, out of the way of the others.
    """

    name: str
    index: int
    curve: Curve
    opacity: float
    label: str = ""
    value_y: float = 0.0
    label_y: float = 0.0


@dataclass(frozen=True, slots=True)
class MarkSpot:
    """One mark. ``text`` is empty where it would run into that of its neighbour."""

    x: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One group."""

    name: str
    headline: str
    mode: str
    lines: tuple[DomainLine, ...]
    mean: Curve
    desired_now: float | None
    ready_now: float | None
    levels: tuple[tuple[float, str], ...]
    marks: tuple[MarkSpot, ...]
    desired: Curve
    ready: Curve
    count_top: int
    zero_x: float
    break_x: float | None
    ticks: tuple[tuple[float, str], ...]
    window_label: str


def arrange(state: State, group_views: Iterable[GroupView], now_s: float, label_gap: float = 0.05) -> tuple[Panel, ...]:
    """Return one panel for each group.

    Args:
        state: what is known.
        group_views: the groups to show, in order.
        now_s: the right end of the picture, monotonic seconds.
        label_gap: the height of a label as a share of the ratio axis.
    """
    return tuple(_panel(state, view, now_s, label_gap) for view in group_views)


def _panel(state: State, view: GroupView, now_s: float, label_gap: float) -> Panel:
    group = state.groups[view.name]
    axis = TimeAxis(state.span_s, view.window_s)
    stale_s = state.stale_after_s
    mean_now, ready_now = newest(group.mean, now_s, stale_s), newest(group.ready, now_s, stale_s)
    desired_now = newest(group.desired, now_s, stale_s)
    desired, ready = (_steps(points, axis, now_s, stale_s) for points in (group.desired, group.ready))
    known = [y for y in (*desired.ys, *ready.ys) if not math.isnan(y)]
    return Panel(
        name=view.name,
        headline=_headline(ready_now, desired_now, mean_now),
        mode=group.mode,
        lines=_domain_lines(group, view, axis, now_s, state, label_gap),
        mean=curve(group.mean, axis, now_s),
        desired_now=desired_now,
        ready_now=ready_now,
        levels=view.levels,
        marks=mark_spots([mark for mark in state.marks if mark.group in ("", view.name)], axis, now_s),
        desired=desired,
        ready=ready,
        count_top=int(max(known, default=1)) + 1,
        zero_x=axis.position(0.0),
        break_x=None if axis.break_s is None else axis.position(axis.break_s),
        ticks=tuple(axis.ticks()),
        window_label=f"window that decides ({view.window_s:g} s)",
    )


def curve(points: Points, axis: TimeAxis, now_s: float) -> Curve:
    """Return the points as positions, cut at the left end; unknown becomes NaN, which is a gap."""
    spots = [(axis.position(axis.seconds(at_s, now_s)), value) for at_s, value in points]
    spots = [*_entering(spots), *(spot for spot in spots if 0.0 <= spot[0] <= 1.0)]
    return Curve(tuple(x for x, _ in spots), tuple(math.nan if y is None else y for _, y in spots))


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Return heights near ``wanted``, in the same order, at least ``gap`` apart and within [0, top] if there is room.

    >>> [round(y, 2) for y in spread([0.5, 0.5, 0.9], 0.1, 1.0)]
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at], at))
    gap = min(gap, top / max(len(wanted) - 1, 1))
    pools: list[tuple[float, int]] = []  # isotonic regression: the mean of each run that wants to overlap, and its size
    for rank, at in enumerate(order):
        mean, size = wanted[at] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            below, below_size = pools.pop()
            mean, size = (mean * size + below * below_size) / (size + below_size), size + below_size
        pools.append((mean, size))
    highest = top - gap * (len(wanted) - 1)
    bases = [min(max(mean, 0.0), highest) for mean, size in pools for _ in range(size)]
    placed = [0.0] * len(wanted)
    for rank, (at, base) in enumerate(zip(order, bases, strict=True)):
        placed[at] = base + rank * gap
    return placed


def mark_spots(marks: Sequence[Mark], axis: TimeAxis, now_s: float) -> tuple[MarkSpot, ...]:
    """Return the marks that are in the picture, oldest first; a text is left out where the next mark is too near."""
    placed = sorted(((axis.position(axis.seconds(mark.at_s, now_s)), mark) for mark in marks), key=lambda it: it[0])
    placed = [(x, mark) for x, mark in placed if 0.0 <= x <= 1.0]
    following = [x for x, _ in placed[1:]] + [math.inf]
    return tuple(
        MarkSpot(x, mark.kind, mark.text if next_x - x >= MARK_SIGN + MARK_LETTER * len(mark.text) else "")
        for (x, mark), next_x in zip(placed, following, strict=False)
    )


def _entering(spots: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Return the point at the left edge through which the line comes in, if one does."""
    outside = [spot for spot in spots if spot[0] < 0.0]
    inside = next((spot for spot in spots if spot[0] >= 0.0), None)
    if not outside or inside is None or outside[-1][1] is None or inside[1] is None:
        return []
    (x, y), (next_x, next_y) = (outside[-1][0], outside[-1][1]), (inside[0], inside[1])
    return [(0.0, y + (next_y - y) * (0.0 - x) / (next_x - x))] if next_x > 0.0 else []


def _steps(points: Points, axis: TimeAxis, now_s: float, stale_after_s: float) -> Curve:
    """Return counts: a value holds until the next one, up to now unless it is stale, and comes in from the left."""
    if not points:
        return Curve((), ())
    last_s, last = points[-1]
    held = (*points, (now_s if now_s - last_s <= stale_after_s else last_s, last))
    spots = [(max(axis.position(axis.seconds(at_s, now_s)), 0.0), value) for at_s, value in held]
    return Curve(
        tuple(min(x, 1.0) for x, _ in spots), tuple(math.nan if value is None else value for _, value in spots)
    )


def _domain_lines(
    group: GroupSeries, view: GroupView, axis: TimeAxis, now_s: float, state: State, label_gap: float
) -> tuple[DomainLine, ...]:
    names = sorted(group.ratios, key=lambda name: (domain_index(view.prefix, name) or 0, name))
    now_ratios = {name: newest(group.ratios[name], now_s, state.stale_after_s) for name in names}
    current = [name for name in names if now_s - group.ratios[name][-1][0] <= state.stale_after_s]
    values = {name: min(now_ratios[name] or 0.0, TOP_RATIO) for name in current}
    heights = dict(zip(current, spread([values[name] for name in current], label_gap, TOP_RATIO - 0.03), strict=True))
    return tuple(
        DomainLine(
            name=name,
            index=domain_index(view.prefix, name) or 0,
            curve=curve(group.ratios[name], axis, now_s),
            opacity=1.0 if name in heights else _faded(group.ratios[name], now_s, state.span_s),
            label=_label(name, now_ratios[name], group.phases) if name in heights else "",
            value_y=values.get(name, 0.0),
            label_y=heights.get(name, 0.0),
        )
        for name in names
    )


def _faded(points: Points, now_s: float, span_s: float) -> float:
    """Return the opacity of a domain that is gone: less and less until it leaves the span."""
    return FADED * max(0.25, 1.0 - (now_s - points[-1][0]) / span_s)


def _label(name: str, ratio: float | None, phases: Mapping[str, Phase] | None) -> str:
    phase = None if phases is None else phases.get(name)
    value = "?" if ratio is None else f"{ratio:.0%}"
    return f"{name}  {value}" if phase in (None, Phase.READY) else f"{name}  {value}  {phase}"


def _headline(ready: float | None, desired: float | None, mean: float | None) -> str:
    cpu = "unknown" if mean is None else f"{mean:.0%}"
    return f"{count_text(ready)} ready of {count_text(desired)} desired  ·  mean CPU {cpu}"


def count_text(count: float | None) -> str:
    """Return a number of domains for people.

    >>> count_text(3.0), count_text(None)
    ('3', '?')
    """
    return "?" if count is None else f"{count:.0f}"
