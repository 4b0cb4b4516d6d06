"""Doubt: whether checks that fail mean that a domain is sick, or only that it has too much to do.

``follow`` takes in one look and remembers when each sign was last seen, no more. A sign is in force until it has been
absent for a while without interruption: one check that succeeds, or a queue that is empty for a moment, ends nothing.
"""

from dataclasses import dataclass, replace
from typing import Final

from common.outage import COUNT, is_outage

KEPT_GRACES: Final = 2.0
"""For so many graces the balancer's word that somebody is kept lasts: it may be missing from one look. Once another one
serves it ends: HAProxy needs some seconds to take the kept one down, and a grace after that it is sick."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What one look shows of a group.

    ``is_busy``: requests wait, or the slots of those that serve are full; None where nobody tells. ``failing`` of
    ``total`` domains fail their checks. ``is_answering``: right answers came; None where nobody tells, or nobody asks.
    ``kept``: the UUIDs of those whose checks time out, and that HAProxy holds for up because nobody else is.
    """

    is_busy: bool | None = None
    failing: int = 0
    total: int = 0
    is_answering: bool | None = None
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Doubt:
    """When each sign was last seen, on the monotonic clock; None for never.

    ``kept``: by UUID, those whose checks time out and that were held for up. ``beside`` are the UUIDs of those that
    were replaced beside at the last look.
    """

    busy_s: float | None = None
    crowd_s: float | None = None
    failing_s: float | None = None
    answered_s: float | None = None
    kept: tuple[tuple[str, float], ...] = ()
    beside: frozenset[str] = frozenset()

    def is_busy(self, now_s: float, calm_s: float) -> bool:
        """Return whether requests have waited, or slots were full, within the last ``calm_s``."""
        return _is_fresh(self.busy_s, now_s, calm_s)

    def is_crowd(self, now_s: float, calm_s: float) -> bool:
        """Return whether so many have failed together within the last ``calm_s`` that the checks are in doubt."""
        return _is_fresh(self.crowd_s, now_s, calm_s)

    def is_kept(self, uuid: str, now_s: float, calm_s: float) -> bool:
        """Return whether its checks have timed out, and it was held for up, within the last ``KEPT_GRACES`` graces."""
        return any(_is_fresh(at_s, now_s, KEPT_GRACES * calm_s) for known, at_s in self.kept if known == uuid)

    def let_go_s(self, uuid: str, now_s: float) -> float:
        """Return for how long it has not been held for up though its checks time out; infinity where it never was."""
        return min((now_s - at_s for known, at_s in self.kept if known == uuid), default=float("inf"))

    def unanswered_s(self, now_s: float) -> float:
        """Return for how long no right answer has come, 0 where that was never looked at."""
        return 0.0 if self.answered_s is None else max(now_s - self.answered_s, 0.0)

    def well_s(self, now_s: float) -> float:
        """Return for how long nobody has failed, 0 where that was never looked at."""
        return 0.0 if self.failing_s is None else max(now_s - self.failing_s, 0.0)


NO_DOUBT: Final = Doubt()


def at_start(now_s: float) -> Doubt:
    """Return the doubt of a process that has seen nothing yet: it looks for a while before it judges anybody."""
    return Doubt(busy_s=now_s, failing_s=now_s, answered_s=now_s)


def follow(doubt: Doubt, signs: Signs, now_s: float, calm_s: float) -> Doubt:
    """Return the doubt after one more look.

    Args:
        calm_s: How long a sign has to be absent before it is over, > 0.
    """
    was_busy, was_crowd = doubt.is_busy(now_s, calm_s), doubt.is_crowd(now_s, calm_s)
    is_busy = was_busy if signs.is_busy is None else signs.is_busy
    is_crowd = is_outage(signs.failing, signs.total) or (was_crowd and signs.failing >= COUNT)
    is_unanswered = signs.is_answering is False and doubt.answered_s is not None
    kept = {uuid: at_s for uuid, at_s in doubt.kept if _is_fresh(at_s, now_s, KEPT_GRACES * calm_s)}
    return replace(
        doubt,
        busy_s=now_s if is_busy else doubt.busy_s,
        crowd_s=now_s if is_crowd else doubt.crowd_s,
        failing_s=now_s if signs.failing or doubt.failing_s is None else doubt.failing_s,
        answered_s=doubt.answered_s if is_unanswered else now_s,
        kept=tuple(sorted((kept | dict.fromkeys(signs.kept, now_s)).items())),
    )


def _is_fresh(seen_s: float | None, now_s: float, calm_s: float) -> bool:
    return seen_s is not None and now_s - seen_s < calm_s
