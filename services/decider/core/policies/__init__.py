"""The policies by name. A new one is a module with a ``KIND`` and a line here."""

from typing import Any, Final

from services.decider.core.policies import predictive, queue, schedule, step, target_tracking, threshold
from services.decider.core.policies.kind import Kind

_ALL: Final = (threshold.KIND, target_tracking.KIND, step.KIND, schedule.KIND, predictive.KIND, queue.KIND)
KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _ALL}


def of(policy: Any) -> Kind:
    """Return the kind of a configured policy (a table with ``type``).

    Raises:
        ValueError: no kind has this name; the configuration should have refused it.
    """
    kind = KINDS.get(policy.type)
    if kind is None:
        raise ValueError(f"policy type must be one of {', '.join(KINDS)}; got {policy.type!r}")
    return kind
