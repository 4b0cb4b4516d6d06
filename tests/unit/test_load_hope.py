"""A load is given up only where nobody ever answered."""

import pytest

from load.hope import NEVER_S, is_hopeless


@pytest.mark.parametrize(
    ("age_s", "failed", "in_flight", "is_answered", "expected"),
    [
        (NEVER_S, 10, 0, False, True),
        (NEVER_S - 1, 10, 0, False, False),
        (NEVER_S, 10, 0, True, False),  # an outage: what a load is there to see
        (NEVER_S, 10, 1, False, False),  # somebody took the connection, and is slow
        (NEVER_S, 0, 0, False, False),  # nothing was sent yet
    ],
)
def test_a_load_is_given_up(age_s: float, failed: int, in_flight: int, is_answered: bool, expected: bool) -> None:
    assert is_hopeless(age_s, failed, in_flight, is_answered=is_answered) is expected
