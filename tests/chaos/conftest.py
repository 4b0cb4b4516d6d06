"""Which faults, and for how long: ``make chaos SEED=n MINUTES=m``."""

import pytest

from tests.e2e.conftest import make_world as make_world


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed and the time."""
    parser.addoption("--seed", type=int, default=1, help="decides which faults come, and in which order")
    parser.addoption("--minutes", type=float, default=20.0, help="how long faults come")
