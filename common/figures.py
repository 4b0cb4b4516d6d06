"""Figures from outside: what each kind of figure may be at most, and how one is read from text.

A figure that is not finite, negative or absurd is no measurement. The bounds are far beyond what any host, group or
clock can show, and far within what the arithmetic, the calendar and the wire can take.
"""

import math
from typing import Final

MAX_COUNT: Final = 1_000_000_000  # requests, sessions, domains
MAX_RATE: Final = 1e9  # per second
MAX_DURATION_S: Final = 1e10  # three centuries
MAX_MONO_S: Final = 1e10
MAX_EPOCH_S: Final = 2e11  # the year 8307: Python's calendar ends in 9999
MAX_CPUS: Final = 1e5
MAX_RATIO: Final = 1e5  # of a whole; above 1 where a burst or two clocks are involved
MAX_NUMBER: Final = 2**53  # what every program on the way keeps exact
MAX_GENERATION: Final = 10**15  # of a record; begins at the epoch in seconds and grows by one with each decision
MAX_SEEN_GENERATION: Final = 2 * MAX_GENERATION  # told by the actuator …
MAX_TOLD_GENERATION: Final = 4 * MAX_GENERATION  # … and by the decider, who goes on from what the actuator has seen


def number(text: str, least: float, most: float) -> float:
    """Return the finite number that the text is.

    >>> number("1.5", 0, 2)
    1.5

    Raises:
        ValueError: it is none, or not within ``least`` and ``most``.
    """
    value = float(text[:400])
    if not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"must be in {least:g}..{most:g}; got {text[:40]!r}")
    return value


def whole(text: str, least: int, most: int) -> int:
    """Return the whole number that the text is.

    Raises:
        ValueError: it is none, or not within ``least`` and ``most``.
    """
    value = int(text) if len(text) <= 40 else most + 1
    if not least <= value <= most:
        raise ValueError(f"must be in {least}..{most}; got {text[:40]!r}")
    return value


def is_number(value: object, least: float, most: float) -> bool:
    """Return whether a value of a file is a finite number within the limits; True and False are none.

    >>> is_number(2, 0, 3), is_number(float("nan"), 0, 3), is_number(True, 0, 3), is_number("2", 0, 3)
    (True, False, False, False)
    """
    is_figure = isinstance(value, int | float) and not isinstance(value, bool)
    return is_figure and least <= value <= most  # type: ignore[operator]  # narrowed above


def is_whole(value: object, least: int, most: int) -> bool:
    """Return whether a value of a file is a whole number within the limits.

    >>> is_whole(2, 0, 3), is_whole(2.0, 0, 3), is_whole(True, 0, 3)
    (True, False, False)
    """
    return type(value) is int and least <= value <= most


def count_in(value: object, most: int = MAX_COUNT) -> int:
    """Return a file's value as the whole number >= 0 that it must be.

    Raises:
        ValueError: it is none, or more than ``most``.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"must be a whole number in 0..{most}; got {str(value)[:40]!r}")
    return value


def time_in(value: object, least: float = -MAX_MONO_S, most: float = MAX_EPOCH_S) -> float:
    """Return a file's value as the finite time in seconds that it must be, on either clock.

    Raises:
        ValueError: it is none, or not within the limits.
    """
    if not is_number(value, least, most):
        raise ValueError(f"must be a number in {least:g}..{most:g}; got {str(value)[:40]!r}")
    return float(value)  # type: ignore[arg-type] # checked above
