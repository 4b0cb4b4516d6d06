"""How far a sender's clocks are from ours, so that the age of its messages can be told across machines.

A delay, received minus sent, is the way of the message and the distance of the two clocks; the fastest message of the
last minutes has hardly any way. So the age of a message is its delay beyond the fastest one of a window.

# Note [Two clocks]
A monotonic clock stands still while its machine sleeps, a wall clock is set by people and time servers; both drift. A
message that was held up is late on both, one clock that jumped makes it late on that clock only: so the smaller of the
two ages counts. If both jumped, the window learns the new distance within ``WINDOW_S``.
"""

import math
from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 120.0
JUMP_S: Final = 1.0


@dataclass(slots=True)
class Fastest:
    """The least delay of the last ``WINDOW_S / 2`` to ``WINDOW_S``; silence ages nothing, only messages do."""

    before_s: float = math.inf
    least_s: float = math.inf
    since_s: float = -math.inf

    def beyond_s(self, delay_s: float, now_s: float) -> float:
        """Return by how much the delay of a message that came at ``now_s`` exceeds the least one, itself included."""
        if now_s - self.since_s >= WINDOW_S / 2:
            self.before_s, self.least_s, self.since_s = self.least_s, delay_s, now_s
        self.least_s = min(self.least_s, delay_s)
        return delay_s - min(self.least_s, self.before_s)


@dataclass(slots=True)
class ClockDistance:
    """What one run of one sender has shown of its clocks; see Note [Two clocks]."""

    mono: Fastest = field(default_factory=Fastest)
    wall: Fastest = field(default_factory=Fastest)
    newest_mono_s: float = -math.inf
    offset_s: float = 0.0

    def age_s(self, mono_delay_s: float, wall_delay_s: float, now_s: float) -> float:
        """Return how old a message is, >= 0; the first one counts as new.

        Args:
            mono_delay_s: our monotonic clock at receipt minus the sender's at sending.
            wall_delay_s: the same of the wall clocks.
            now_s: our monotonic clock.
        """
        return min(self.mono.beyond_s(mono_delay_s, now_s), self.wall.beyond_s(wall_delay_s, now_s))

    def jump_s(self, mono_s: float, wall_s: float) -> float:
        """Return by how much the sender's wall clock moved against its monotonic one, 0 if by less than ``JUMP_S``.

        A message older than the newest one heard tells nothing. A machine that slept shows a wall clock that moved on.
        """
        if mono_s < self.newest_mono_s:
            return 0.0
        is_first = self.newest_mono_s == -math.inf
        moved_s = 0.0 if is_first else wall_s - mono_s - self.offset_s
        self.newest_mono_s, self.offset_s = mono_s, wall_s - mono_s
        return moved_s if abs(moved_s) >= JUMP_S else 0.0
