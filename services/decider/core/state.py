"""What the decider knows of one group: its settings, what it has seen, and what must survive a restart.

All of it is frozen; ``group.handle`` returns a new one. Times are monotonic seconds of this machine.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

from common.config import Group
from common.messages import Claim, DecisionRecord, DesiredCapacity, Ordered, Taken
from services.decider.core import policies
from services.decider.core.burst import NO_BURST, Base, Burst, base_of
from services.decider.core.lack import NO_LACK, Lack
from services.decider.core.learned import Learned, to_text
from services.decider.core.policies.queue import Queue
from services.decider.core.seen import Seen

QUEUE_WINDOW_S: Final = 5.0  # of the policy that every group has, where no other has a window
HISTORY: Final = 120  # records kept for ``explain`` and ``history``; the recorder keeps the rest


@dataclass(frozen=True)
class Settings:
    """What the configuration says about one group, and which run this is."""

    name: str
    group: Group
    interval_s: float
    stale_after_s: float
    republish_s: float
    slots: int
    run_id: int = 0

    @cached_property
    def policies(self) -> tuple[Any, ...]:
        """Return the configured policies and, last, the one that every group has: no queue that stays."""
        return (*self.group.policies, Queue(self._least_out_window_s, self.group.max_in_flight))

    @cached_property
    def counting(self) -> tuple[Any, ...]:
        """Return the configured policies whose votes count."""
        return tuple(policy for policy in self.group.policies if policy.mode == "on")

    @cached_property
    def chance(self) -> float:
        """Return the group's draw in [0, 1), from its name alone: always the same, and another for another group."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6]) / 2**48

    @cached_property
    def standing_stale_after_s(self) -> float:
        """Return the age from which a message that is only repeated every ``republish_s`` is unknown."""
        return self.stale_after_s + 2 * self.republish_s

    @cached_property
    def out_window_s(self) -> float:
        """Return the longest window after which a policy scales out; so long the decider watches before it acts."""
        windows = [policies.of(policy).out_window_s(policy) for policy in self.counting]
        return max([self.interval_s, *windows])

    @cached_property
    def in_window_s(self) -> float:
        """Return the longest window after which a policy scales in."""
        windows = [policies.of(policy).in_window_s(policy) for policy in self.counting]
        return max([self.interval_s, *windows])

    @cached_property
    def out_point_ratio(self) -> float | None:
        """Return the lowest mean CPU ratio at which a policy scales out, None where none looks at it."""
        points = [policies.of(policy).out_point_ratio(policy) for policy in self.counting]
        return min((point for point in points if point is not None), default=None)

    @cached_property
    def base(self) -> Base | None:
        """Return what CPU ratios are taken against, None for what was allotted."""
        return base_of(self.group)

    @cached_property
    def is_blind(self) -> bool:
        """Return whether a calm says little of what could be spared: no policy sees it, or a forecast has a say."""
        kinds = [(policies.of(policy), policy) for policy in self.counting]
        return not any(kind.sees_spare(policy) for kind, policy in kinds) or any(kind.learned for kind, _ in kinds)

    @cached_property
    def _least_out_window_s(self) -> float:
        windows = [policies.of(policy).out_window_s(policy) for policy in self.counting]
        return max(self.interval_s, min((window_s for window_s in windows if window_s > 0), default=QUEUE_WINDOW_S))


@dataclass(frozen=True, slots=True)
class Standing:
    """What survives a restart: the desired capacity, its generation, cooldowns, the operator's orders.

    ``desired`` is None until the first membership tells how many there are. ``turned_at_s`` is when the present run of
    scale-ins began, None while the last change was a scale-out, and ``is_run_quiet`` whether hardly a request was
    worked on at each of them. ``ordered_from`` is the capacity from before others than the policies raised it, None
    where that is over. See Note [Patience] in ``patience``.
    """

    desired: int | None = None
    generation: int = 0
    cooldown_out_until_s: float = 0.0
    cooldown_in_until_s: float = 0.0
    changed_in_at_s: float | None = None
    turned_at_s: float | None = None
    is_run_quiet: bool = False
    patience_s: float = 0.0
    patience_until_s: float = 0.0
    ordered_from: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    mode: str | None = None
    is_paused: bool = False

    def without_decisions(self) -> "Standing":
        """Return what an operator ordered: nothing is desired, and no cooldown runs."""
        return Standing(minimum=self.minimum, maximum=self.maximum, mode=self.mode, is_paused=self.is_paused)


@dataclass(frozen=True)
class GroupState:
    """One group between two events."""

    settings: Settings
    standing: Standing
    policy_states: tuple[Any, ...]
    seen: Seen = field(default_factory=Seen)
    tick: int = 0
    last_tick_s: float | None = None
    watching_since_s: float | None = None  # start, or the end of a gap in our own ticks
    lack: Lack = NO_LACK
    halt_seen_s: float | None = None  # when so much was missing or unhealthy last that nobody is taken away
    leaning_in_since_s: float | None = None  # since when every policy would scale in, windows aside
    is_halted: bool = False
    published: DesiredCapacity | None = None
    published_at_s: float = 0.0
    history: tuple[DecisionRecord, ...] = ()
    taken: tuple[Taken, ...] = ()
    ordered: tuple[Ordered, ...] = ()
    resumed_from: str = ""
    resumed_learned: str = ""
    burst: Burst = NO_BURST
    rivals: tuple[Claim, ...] = ()  # of the tick that led here
    decided_at_s: float | None = None  # when the desired capacity took its value
    counted: tuple[str, ...] = ()  # UUIDs, see Note [Started by its owner] in ``adopt``
    cap: int | None = None  # what the policies allow at most since the last tick: a calendar's maximum

    @property
    def minimum(self) -> int:
        """Return the lower bound in force: the operator's, else the configured one, never above the upper one."""
        own = self.standing.minimum
        return min(self.settings.group.minimum if own is None else own, self.most)

    @property
    def maximum(self) -> int:
        """Return the upper bound in force: the operator's, else the configured one, never above HAProxy's slots.

        A calendar's maximum lowers it, but not below the lower bound.
        """
        return self.most if self.cap is None else min(self.most, max(self.cap, self.minimum))

    @property
    def maximum_text(self) -> str:
        """Return the upper bound in force in words: whose it is where it is not the configured or the operator's."""
        return f"{self.maximum}{' (schedule)' if self.maximum < self.most else ''}"

    @property
    def most(self) -> int:
        """Return the upper bound whatever a calendar says of this hour."""
        own = self.standing.maximum
        return min(self.settings.group.maximum if own is None else own, self.settings.slots)

    @property
    def mode(self) -> str:
        """Return the mode in force: the operator's, else the configured one."""
        return self.standing.mode or self.settings.group.mode


def begin(
    settings: Settings, standing: Standing | None = None, learned: Mapping[int, Learned] | None = None
) -> GroupState:
    """Return the state of a decider that has just started, with what it stored before if there is any.

    Args:
        settings: Of the group.
        standing: What it stood at.
        learned: What its policies had learned, by their number.

    Raises:
        ValueError: what was learned does not fit its policy.
    """
    known = learned or {}
    return GroupState(
        settings=settings,
        standing=standing or Standing(),
        policy_states=tuple(begun(policy, known.get(number)) for number, policy in enumerate(settings.policies)),
        resumed_from=json.dumps(asdict(standing), sort_keys=True) if standing else "",
        resumed_learned=to_text(known),
    )


def begun(policy: Any, learned: Learned | None) -> Any:
    """Return the state of a policy that has just started, with what it had learned.

    Raises:
        ValueError: it does not fit.
    """
    kind = policies.of(policy)
    if learned is None:
        return kind.start()
    if kind.resume is None:
        raise ValueError(f"a policy of type {policy.type!r} learns nothing")
    return kind.resume(policy, learned)


def learned_of(state: GroupState, *, is_whole: bool = False) -> dict[int, Learned]:
    """Return what the group's policies have learned, by their number; with the step under way where ``is_whole``."""
    found: dict[int, Learned] = {}
    for number, (policy, own) in enumerate(zip(state.settings.policies, state.policy_states, strict=True)):
        kind = policies.of(policy)
        learned = kind.whole if is_whole else kind.learned
        kept = learned(own) if learned else None
        if kept is not None:
            found[number] = kept
    return found
