"""A figure that shows panels: made once, updated many times.

The frame (axes, levels, ticks, names) changes seldom; everything that moves is in ``moving``, so that a live window
redraws that alone.
"""

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from services.plotter import palette
from services.plotter.core.layout import DomainLine, Panel, count_text

WIDTH_IN: Final = 11.0
PANEL_IN: Final = 4.9
FURNITURE_IN: Final = 1.15
TOP: Final = 1.2  # of the ratio axis: room for the marks above 100 %
MARK_Y: Final = 1.13
LEFT_IN, RIGHT_IN, TOP_IN, BOTTOM_IN = 0.62, 1.75, 0.78, 0.55
LABEL_X: Final = 1.022
NEAR_THE_END: Final = 0.93
FEW: Final = 6  # domains
SMALL, NORMAL, LARGE = 8.0, 9.0, 14.0


def size_in(panels: int) -> tuple[float, float]:
    """Return a good size for that many panels, in inches."""
    return WIDTH_IN, max(panels, 1) * (4.2 if panels > 1 else PANEL_IN) + FURNITURE_IN * 0.6


def label_gap(panels: int) -> float:
    """Return the height of a domain's label as a share of the ratio axis."""
    return 0.058 if panels == 1 else 0.075


class Picture:
    """The figure and its panels."""

    def __init__(self, figure: Figure, panels: tuple[Panel, ...]) -> None:
        """Furnish ``figure`` for these groups."""
        self.figure = figure
        figure.set_facecolor(palette.PAPER)
        self._drawings = [_Drawing(figure, panel, at, len(panels)) for at, panel in enumerate(panels)]
        self._note = figure.text(
            1 - 0.12 / WIDTH_IN, 0.006, "", ha="right", va="bottom", color=palette.QUIET, fontsize=SMALL
        )

    def update(self, panels: tuple[Panel, ...], note: str = "") -> bool:
        """Show ``panels``; return whether the frame changed too, so that all has to be drawn again."""
        self._note.set_text(note)
        changed = [drawing.update(panel) for drawing, panel in zip(self._drawings, panels, strict=True)]
        return any(changed)

    @property
    def moving(self) -> list[Any]:
        """Return what changes from one second to the next, in drawing order."""
        artists = [artist for drawing in self._drawings for artist in drawing.moving]
        return [*artists, self._note]


class _Drawing:
    """One panel: the ratios above, the counts below."""

    def __init__(self, figure: Figure, panel: Panel, at: int, panels: int) -> None:
        width, height = figure.get_size_inches()
        share = (height - 0.2) / panels
        bottom = height - 0.05 - share * (at + 1) + BOTTOM_IN
        strip, between = 0.62, 0.13
        inner = share - BOTTOM_IN - TOP_IN
        left, across = LEFT_IN / width, (width - LEFT_IN - RIGHT_IN) / width
        self._ratios = figure.add_axes(
            (left, (bottom + strip + between) / height, across, (inner - strip - between) / height)
        )
        self._counts = figure.add_axes((left, bottom / height, across, strip / height))
        self._lines: dict[str, tuple[Line2D, Line2D, Text]] = {}
        self._marks: list[tuple[Line2D, Line2D, Text]] = []
        self._is_crowded: bool | None = None
        self._count_top = 0
        self._level_names: list[Text] = []
        header, inch = self._ratios.transAxes, 1 / (inner - strip - between)
        self._furnish(panel)
        self._notes(panel, inch)
        self._legend(inch)
        self._title = self._ratios.text(
            0, 1 + 0.42 * inch, panel.name, transform=header, fontsize=LARGE, weight="bold", color=palette.INK
        )
        self._headline = self._ratios.text(
            0, 1 + 0.15 * inch, "", transform=header, fontsize=NORMAL + 1, color=palette.QUIET
        )
        self._mean = Line2D([], [], solid_capstyle="round", solid_joinstyle="round")
        self._mean_halo = Line2D([], [], color=palette.PAPER, lw=4.4, alpha=0.7, zorder=5)
        for line in (self._mean_halo, self._mean):
            self._ratios.add_line(line)
        self._ready: Any = None
        self._desired = Line2D([], [], color=palette.DESIRED, lw=1.4, drawstyle="steps-post", zorder=4)
        self._counts.add_line(self._desired)
        self._counts_now = [
            self._counts.text(
                LABEL_X,
                y,
                "",
                transform=self._counts.transAxes,
                va="center",
                fontsize=SMALL,
                color=colour,
                weight="bold",
            )
            for y, colour in ((0.72, palette.DESIRED), (0.32, palette.READY_INK))
        ]

    # --- the frame ---------------------------------------------------------------------------------------------

    def _furnish(self, panel: Panel) -> None:
        for axes in (self._ratios, self._counts):
            axes.set_xlim(0, 1)
            axes.set_facecolor(palette.PAPER)
            axes.tick_params(length=0, colors=palette.QUIET, labelsize=SMALL)
            axes.axvspan(panel.zero_x, 1, color=palette.WINDOW, lw=0, zorder=0)
            axes.axvline(panel.zero_x, color=palette.WINDOW_INK, lw=0.9, zorder=1)
            if panel.break_x is not None:
                axes.axvline(panel.break_x, color=palette.BREAK, lw=1.0, ls=(0, (1, 2)), zorder=1)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.spines["bottom"].set_color(palette.BREAK)
            axes.set_xticks([x for x, _ in panel.ticks], [""] * len(panel.ticks))
            axes.grid(axis="x", color=palette.GRID, lw=0.6, zorder=0)
            axes.set_axisbelow(True)
        self._ratios.set_ylim(0, TOP)
        self._ratios.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        self._ratios.grid(axis="y", color=palette.GRID, lw=0.6, zorder=0)
        self._ratios.spines["bottom"].set_visible(False)
        self._counts.set_xticklabels([text for _, text in panel.ticks])
        for label, (_, text) in zip(self._counts.get_xticklabels(), panel.ticks, strict=True):
            if text == "0":
                label.set(color=palette.WINDOW_INK, weight="bold", fontsize=NORMAL)
        self._levels(panel)

    def _levels(self, panel: Panel) -> None:
        ground = {"facecolor": palette.PAPER, "alpha": 0.8, "linewidth": 0, "pad": 0.8}
        for ratio, text in panel.levels:
            self._ratios.axhline(ratio, color=palette.LEVEL, lw=1.0, ls=(0, (6, 3)), alpha=0.8, zorder=2)
            label = self._ratios.text(
                0.004,
                ratio + 0.016,
                text,
                fontsize=SMALL,
                color=palette.LEVEL,
                va="bottom",
                zorder=7,
                bbox=ground,
            )
            self._level_names.append(label)

    def _notes(self, panel: Panel, inch: float) -> None:
        self._ratios.text(
            1,
            1 + 0.07 * inch,
            panel.window_label,
            transform=self._ratios.transAxes,
            ha="right",
            va="bottom",
            fontsize=SMALL,
            color=palette.WINDOW_INK,
        )
        below: dict[str, Any] = {
            "xytext": (0, -22),
            "textcoords": "offset points",
            "va": "center",
            "color": palette.QUIET,
        }
        self._counts.annotate("seconds", (0, 0), fontsize=SMALL, ha="left", **below)
        if panel.break_x is not None:
            self._counts.annotate("enlarged from here", (panel.break_x, 0), fontsize=SMALL, ha="left", **below)

    def _legend(self, inch: float) -> None:
        handles: list[Any] = [Line2D([], [], color=palette.INK, lw=2.6, label="mean of ready domains")]
        for shape, colour, text in palette.MARKS.values():
            handles.append(Line2D([], [], marker=shape, color=colour, ls="", ms=6, label=text))
        legend = self._ratios.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1.0, 1 + 0.42 * inch),
            ncols=len(handles),
            frameon=False,
            fontsize=SMALL,
            handletextpad=0.55,
            columnspacing=1.3,
            borderpad=0,
            borderaxespad=0,
            labelcolor=palette.QUIET,
        )
        self._mean_key = legend.get_lines()[0]
        self._mean_key.set_solid_capstyle("butt")

    # --- what moves ----------------------------------------------------------------------------------------------

    def update(self, panel: Panel) -> bool:
        """Show ``panel``; return whether the frame changed."""
        mode = f"  ·  mode {panel.mode}" if panel.mode else ""
        self._headline.set_text(panel.headline + mode)
        for line in (self._mean, self._mean_halo):
            line.set_data(panel.mean.xs, panel.mean.ys)
        is_restyled = self._style_mean(is_crowded=sum(bool(line.label) for line in panel.lines) > FEW)
        self._update_lines(panel.lines)
        self._update_marks(panel)
        return self._update_counts(panel) or is_restyled

    def _style_mean(self, *, is_crowded: bool) -> bool:
        """Draw the mean dark and above many lines, but broad and pale below few: there they would be hidden."""
        if is_crowded == self._is_crowded:
            return False
        self._is_crowded = is_crowded
        colour, width = (palette.INK, 2.6) if is_crowded else (palette.MEAN_BELOW, 6.0)
        self._mean.set(color=colour, linewidth=width, zorder=6 if is_crowded else 2.5)
        self._mean_halo.set_visible(is_crowded)
        self._mean_key.set(color=colour, linewidth=width)
        return True

    def _update_lines(self, lines: tuple[DomainLine, ...]) -> None:
        for name in self._lines.keys() - {line.name for line in lines}:
            for artist in self._lines.pop(name):
                artist.remove()
        width, opacity = (1.1, 0.75) if self._is_crowded else (1.7, 1.0)
        for line in lines:
            curve, leader, label = self._lines.get(line.name) or self._new_line(line)
            curve.set_data(line.curve.xs, line.curve.ys)
            curve.set(alpha=line.opacity * opacity, linewidth=width)
            label.set_text(line.label)
            label.set_position((LABEL_X, line.label_y))
            leader.set_data(
                [1.002, LABEL_X - 0.004] if line.label else [], [line.value_y, line.label_y] if line.label else []
            )

    def _new_line(self, line: DomainLine) -> tuple[Line2D, Line2D, Text]:
        colour, dashes = palette.domain_style(line.index)
        curve = Line2D([], [], color=colour, ls=dashes, zorder=3, solid_joinstyle="round")
        leader = Line2D([], [], color=colour, lw=0.8, alpha=0.7, clip_on=False, zorder=3)
        self._ratios.add_line(curve)
        self._ratios.add_line(leader)
        label = self._ratios.text(LABEL_X, 0, "", color=colour, fontsize=SMALL, va="center", clip_on=False)
        self._lines[line.name] = curve, leader, label
        return self._lines[line.name]

    def _update_marks(self, panel: Panel) -> None:
        while len(self._marks) < len(panel.marks):
            self._marks.append(self._new_mark())
        for at, (stem, sign, text) in enumerate(self._marks):
            if at >= len(panel.marks):
                stem.set_data([], [])
                sign.set_data([], [])
                text.set_text("")
                continue
            spot = panel.marks[at]
            shape, colour, _ = palette.MARKS[spot.kind]
            stem.set_data([spot.x, spot.x], [0, MARK_Y - 0.03])
            sign.set_data([spot.x], [MARK_Y])
            stem.set_color(colour)
            sign.set(marker=shape, color=colour)
            is_at_the_end = spot.x > NEAR_THE_END
            text.set(text=spot.text, color=colour, ha="right" if is_at_the_end else "left")
            text.set_position((spot.x + (-0.008 if is_at_the_end else 0.008), MARK_Y))

    def _new_mark(self) -> tuple[Line2D, Line2D, Text]:
        stem = Line2D([], [], lw=0.8, alpha=0.45, zorder=2)
        sign = Line2D([], [], ls="", ms=7, mec="white", mew=0.6, zorder=7, clip_on=False)
        text = self._ratios.text(0, 0, "", fontsize=SMALL, va="center", zorder=7, clip_on=True)
        self._ratios.add_line(stem)
        self._ratios.add_line(sign)
        return stem, sign, text

    def _update_counts(self, panel: Panel) -> bool:
        if self._ready is not None:
            self._ready.remove()
        self._ready = self._counts.fill_between(
            panel.ready.xs, panel.ready.ys, step="post", color=palette.READY, lw=0, zorder=2
        )
        self._desired.set_data(panel.desired.xs, panel.desired.ys)
        self._counts_now[0].set_text(f"desired {count_text(panel.desired_now)}")
        self._counts_now[1].set_text(f"ready {count_text(panel.ready_now)}")
        if panel.count_top == self._count_top:
            return False
        self._count_top = panel.count_top
        self._counts.set_ylim(0, panel.count_top + 0.15)
        step = max(1, -(-panel.count_top // 4))
        self._counts.set_yticks(range(0, panel.count_top + 1, step))
        return True

    @property
    def moving(self) -> list[Any]:
        """Return what changes from one second to the next, in drawing order."""
        lines = [part for _, parts in sorted(self._lines.items()) for part in parts]
        stems = [stem for stem, _, _ in self._marks]
        signs = [part for _, sign, text in self._marks for part in (sign, text)]
        mean = [self._mean_halo, self._mean]
        both = [*lines, *mean] if self._is_crowded else [*mean, *lines]
        texts = [*self._level_names, self._headline, *self._counts_now]
        return [self._ready, self._desired, *stems, *both, *signs, *texts]
