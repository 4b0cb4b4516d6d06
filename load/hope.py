"""When a load is given up: an endpoint that never answered is not there; one that answered before may come back."""

from typing import Final

NEVER_S: Final = 5.0


def is_hopeless(age_s: float, failed: int, in_flight: int, *, is_answered: bool) -> bool:
    """Return whether a load of this age has nobody to wait for.

    ``failed`` requests came back without an answer, ``in_flight`` are waited for, as by an endpoint that is slow.

    >>> is_hopeless(5.0, failed=10, in_flight=0, is_answered=False)
    True
    """
    return not is_answered and age_s >= NEVER_S and failed > 0 and in_flight == 0
