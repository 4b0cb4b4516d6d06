"""What a kind of policy is: a handful of pure functions, registered by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.messages import Vote
from services.decider.core.learned import Learned
from services.decider.core.metrics import GroupMetrics

PolicyState: TypeAlias = Any
Policy: TypeAlias = Any

Recommend: TypeAlias = Callable[[Policy, PolicyState, GroupMetrics, float], tuple[Vote | None, PolicyState]]
"""``(policy, state, metrics, at_s) -> (vote, state)``; no vote at all: it has nothing to say this time.

``at_s`` is when the figures were measured; the tick itself is at ``at_s + metrics.age_s``.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of policy.

    ``restart`` returns the state after the decided size has changed: what was measured before says nothing about the
    group as it is now. ``out_point_ratio`` is the mean CPU ratio at which it
    scales out, None where it does not look at it. ``sees_cpu``: its vote stands on CPU use. ``sees_spare``: its metric
    shows how much is not used. ``filled_s`` returns how full its two windows are. ``out_when`` and ``in_when`` complete
    the sentence "it scales out when …", empty where there is nothing to say. ``quiet_s`` returns how long its vote
    stays the same while the figures do, where it may change by the time alone.

    A kind that learns also has ``after_gap``, the state after ticks were missed (others start anew), ``learned``, what
    of its state is to be stored, ``whole``, the same for a recording, with all that the next tick depends on, and
    ``resume``, the state from what was stored or recorded (ValueError: it does not fit).
    """

    name: str
    start: Callable[[], PolicyState]
    restart: Callable[[PolicyState], PolicyState]
    recommend: Recommend
    out_window_s: Callable[[Policy], float]
    in_window_s: Callable[[Policy], float]
    out_point_ratio: Callable[[Policy], float | None]
    filled_s: Callable[[Policy, PolicyState, float], tuple[float, float]]
    sees_spare: Callable[[Policy], bool]
    out_when: Callable[[Policy], str]
    in_when: Callable[[Policy], str]
    sees_cpu: Callable[[Policy], bool] = lambda _: False
    quiet_s: Callable[[Policy, GroupMetrics, float], float] | None = None
    after_gap: Callable[[PolicyState], PolicyState] | None = None
    learned: Callable[[PolicyState], Learned | None] | None = None
    whole: Callable[[PolicyState], Learned | None] | None = None
    resume: Callable[[Policy, Learned], PolicyState] | None = None
