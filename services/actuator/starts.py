"""Which outcomes tell the breaker something: a start that led nowhere, or one that led to a right answer.

What concerns a tier of warm domains is told to the tier's own breaker: where it fails, real capacity comes another way.
"""

from collections.abc import Mapping

from common.phases import Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.placement import COMING
from services.actuator.core.steps import Define, Save, SetPhase, Start, Suspend, TakeSnapshot, Wake
from services.actuator.perform import Outcome, Result


def count_start(known: Mapping[str, breakers.Breaker], outcome: Outcome, now_s: float) -> dict[str, breakers.Breaker]:
    """Return the breaker that the outcome changes, by its key; nothing where it changes none."""
    step = outcome.step
    key = breakers.key(step.group, step.host, step.tier)
    old = known.get(key, breakers.CLOSED)
    if is_failed_start(outcome):
        new = breakers.failed(old, now_s)
    elif outcome.result is Result.DONE and _is_success(outcome):
        new = breakers.succeeded(old)
    else:
        return {}
    return {} if new == old else {key: new}


def is_failed_start(outcome: Outcome) -> bool:
    """Return whether the outcome means that a start did not lead to a serving domain."""
    step = outcome.step
    if isinstance(step, Define | Start | Save | Wake | TakeSnapshot):
        return outcome.result is Result.FAILED
    return (
        isinstance(step, SetPhase)
        and outcome.result is Result.DONE
        and step.record.phase is Phase.FAILED
        and (step.was in COMING or (step.was is Phase.STANDBY and bool(step.tier)))
    )


def _is_success(outcome: Outcome) -> bool:
    """Return whether a done step means that a start has led where it was to lead."""
    step = outcome.step
    if isinstance(step, Suspend):
        return step.is_standby
    if isinstance(step, Save | TakeSnapshot):
        return True
    return isinstance(step, SetPhase) and step.record.phase is Phase.WARMING
