"""How long a start takes until the domain serves: the last ones measured, and their quantiles."""

from collections.abc import Sequence
from typing import Final

KEPT: Final = 50


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least ``share`` of ``values`` do not exceed, None without values.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def added(values: Sequence[float], value: float) -> tuple[float, ...]:
    """Return the measured times with one more, the oldest forgotten.

    >>> added((1.0, 2.0), 3.0)
    (1.0, 2.0, 3.0)
    """
    return (*values, value)[-KEPT:]
