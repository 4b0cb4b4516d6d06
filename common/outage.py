"""When so many fail together that the fault is more likely elsewhere: one sick domain of two is a sick domain."""

from typing import Final

SHARE: Final = 0.45
COUNT: Final = 2


def is_outage(count: int, total: int) -> bool:
    """Return whether ``count`` of ``total`` domains are ``COUNT`` at least, and more than ``SHARE`` of them.

    >>> is_outage(1, 1), is_outage(2, 4), is_outage(2, 5)
    (False, True, False)
    """
    return count >= COUNT and count > SHARE * total
