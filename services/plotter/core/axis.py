"""The time axis: seconds, with 0 where the window that decides begins; the newest sample stands at ``+window``.

# Note [The near part is enlarged]
Five seconds of ten minutes are four pixels. So the last few windows take a third of the width, on a scale of their
own: the axis is linear on each side of one break, at which the picture shows a line. Where the window is wide
enough by itself there is no break.
"""

from dataclasses import dataclass
from typing import Final

NEAR_SHARE: Final = 0.34  # of the width, for the near part
NEAR_WINDOWS: Final = 4.0  # windows in the near part, the one that decides included
MINUS: Final = chr(0x2212)  # the sign that is as wide as a plus
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400, 172800)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """``span_s`` seconds, the last ``window_s`` of them right of 0. Positions are in [0, 1], left to right."""

    span_s: float
    window_s: float

    @property
    def first_s(self) -> float:
        """Return the left end, in seconds."""
        return self.window_s - self.span_s

    @property
    def break_s(self) -> float | None:
        """Return where the scale changes; None if it does not. See Note [The near part is enlarged]."""
        near_s = NEAR_WINDOWS * self.window_s
        return self.window_s - near_s if near_s < NEAR_SHARE * self.span_s else None

    def seconds(self, at_s: float, now_s: float) -> float:
        """Return where on the axis an instant lies.

        >>> TimeAxis(600, 5).seconds(at_s=100, now_s=100), TimeAxis(600, 5).seconds(at_s=95, now_s=100)
        (5, 0)
        """
        return at_s - now_s + self.window_s

    def position(self, seconds: float) -> float:
        """Return the share of the width left of ``seconds``.

        >>> axis = TimeAxis(600, 5)
        >>> axis.position(-595), round(axis.position(-15), 2), round(axis.position(0), 3), axis.position(5)
        (0.0, 0.66, 0.915, 1.0)
        """
        if self.break_s is None:
            return (seconds - self.first_s) / self.span_s
        if seconds < self.break_s:
            return (1 - NEAR_SHARE) * (seconds - self.first_s) / (self.break_s - self.first_s)
        return 1 - NEAR_SHARE * (self.window_s - seconds) / (self.window_s - self.break_s)

    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and texts of the ticks; 0 and the window's end are among them."""
        end_s = self.first_s * 0.04 if self.break_s is None else self.break_s + self.first_s * 0.05
        far = _multiples(self.first_s, end_s, _step(end_s - self.first_s, 6), without_zero=True)
        near: list[float] = [0.0, self.window_s]
        if self.break_s is not None:
            near += _multiples(self.break_s, 0.0, self.window_s, without_zero=True)
        return [(self.position(seconds), _text(seconds)) for seconds in sorted([*far, *near])]


def _step(length_s: float, most: int) -> float:
    return float(next((step for step in _STEPS_S if length_s / step <= most), _STEPS_S[-1]))


def _multiples(first_s: float, last_s: float, step_s: float, *, without_zero: bool) -> list[float]:
    found, seconds = [], -step_s if without_zero else 0.0
    while seconds >= first_s:
        if seconds <= last_s:
            found.append(seconds)
        seconds -= step_s
    return found


def _text(seconds: float) -> str:
    if seconds <= -7200:
        text = f"{seconds / 3600:g} h"
    elif seconds <= -1200:
        text = f"{seconds / 60:g} min"
    else:
        text = f"{seconds:+g}" if seconds else "0"
    return text.replace("-", MINUS)
