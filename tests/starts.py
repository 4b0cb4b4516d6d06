"""What an outcome makes of the breakers, as a test compares it."""

from services.actuator.core.breaker import Breaker
from services.actuator.perform import Outcome
from services.actuator.starts import Breakers, changes


def count_start(known: Breakers, outcome: Outcome, now_s: float, is_existing: bool = False) -> dict[str, Breaker]:
    """Return the breakers that the outcome changes, by their keys."""
    return {change.key: change.new for change in changes(known, outcome, now_s, is_existing)}
