"""The breakers on starts: one for each group and host, and one more for each tier of warm domains there.

Each domain of the user's own has one too; and one for each group counts what replacing sick domains did not cure.

*Failed starts*: starts go ahead, with a pause that grows with the failures in a row. After ``LIMIT`` of them it opens
for 60 s, doubling to 30 min. Then one trial goes through (half open): success closes it, failure opens it again. A
changed configuration of the group ends the wait (``start_terms``).

*Relapses*: what serves and dies within ``SOON_S`` is no success either. The first one is replaced at once; from the
second in a row on its place is held free for 10 s, doubling to 30 min. Only its place: others are started meanwhile.
"""

from dataclasses import dataclass, replace
from typing import Final

LIMIT: Final = 3
FIRST_S: Final = 60.0
LONGEST_S: Final = 1800.0
PAUSE_S: Final = 1.0
SOON_S: Final = 60.0  # what has served for this long has been started well
RELAPSE_S: Final = 10.0  # the pause after the second relapse in a row
TROUBLED_S: Final = 120.0  # so long after a failed start, or the end of a wait for the next, another may still fail
SUCCESSOR_S: Final = 30.0  # who is replaced beside is given up so long after its successor was ready, at most
_TIER_OF_SICK: Final = "sick"


@dataclass(frozen=True, slots=True)
class Breaker:
    """Failed starts in a row, how often it opened since the last success, and until when it is open.

    ``culprits`` are the UUIDs of whose starts failed. ``relapses`` in a row, the last one counted at ``relapsed_s``,
    keep ``held`` places free. Of the breaker for sickness, ``relapses`` are replacements that did not cure.
    """

    failures: int = 0
    openings: int = 0
    open_until_s: float | None = None
    last_failure_s: float = 0.0
    culprits: tuple[str, ...] = ()
    relapses: int = 0
    relapsed_s: float = 0.0
    held: int = 0


CLOSED: Final = Breaker()


def key(group: str, host: str, tier: str = "") -> str:
    """Return the name under which a breaker is kept."""
    return f"{group}@{host}/{tier}" if tier else f"{group}@{host}"


def domain_key(group: str, host: str, domain: str) -> str:
    """Return the name under which the breaker of one domain of the user's own is kept."""
    return f"{group}@{host}#{domain}"


def sick_key(group: str) -> str:
    """Return the name under which it is kept what replacing a group's sick domains did not cure."""
    return key(group, "", _TIER_OF_SICK)


def group_of(key: str) -> str:
    """Return the group of which a breaker with this name is.

    >>> group_of(domain_key("web", "local", "a@b"))
    'web'
    """
    return key.partition("@")[0]


def is_open(breaker: Breaker, now_s: float) -> bool:
    """Return whether no start may be tried now."""
    return breaker.open_until_s is not None and now_s < breaker.open_until_s


def is_half_open(breaker: Breaker, now_s: float) -> bool:
    """Return whether exactly one trial may run now."""
    return breaker.open_until_s is not None and now_s >= breaker.open_until_s


def is_pausing(breaker: Breaker, now_s: float) -> bool:
    """Return whether the pause after a failure is not over yet."""
    return breaker.failures > 0 and now_s < breaker.last_failure_s + min(breaker.failures, LIMIT) * PAUSE_S


def is_troubled(breaker: Breaker, now_s: float) -> bool:
    """Return whether starts fail, so that nobody who runs is given up for the hope of another."""
    return breaker.failures > 0 and now_s < max(breaker.last_failure_s, breaker.open_until_s or 0.0) + TROUBLED_S


def is_again(breaker: Breaker, ready_s: float, served_s: float) -> bool:
    """Return whether a domain that fails its checks succeeds one that did: the breaker for sickness counts it as a try.

    Args:
        ready_s: When it became ready, on the clock of the breaker.
        served_s: How long it passed its checks, >= 0.
    """
    return breaker.relapses > 0 and served_s < SOON_S and ready_s >= breaker.relapsed_s - SUCCESSOR_S


def relapse_left_s(breaker: Breaker, now_s: float) -> float:
    """Return for how long the places of those that died soon after they were ready stay free, 0 where none does."""
    if breaker.relapses < 2:
        return 0.0
    pause_s = min(RELAPSE_S * 2.0 ** min(breaker.relapses - 2, 16), LONGEST_S)
    return max(breaker.relapsed_s + pause_s - now_s, 0.0)


def held(breaker: Breaker, now_s: float) -> int:
    """Return how many places stay free now."""
    return breaker.held if relapse_left_s(breaker, now_s) > 0 else 0


def failed(breaker: Breaker, now_s: float, uuid: str = "") -> Breaker:
    """Return the breaker after one more failed start.

    A failure that arrives while it is open belongs to a start from before, and does not lengthen the wait.

    Args:
        uuid: Whose start it was, if one that fails again and again is to count once: one broken domain is no broken
            host. A trial counts, whoever it was.
    """
    is_known = uuid in breaker.culprits and not is_half_open(breaker, now_s)
    if is_open(breaker, now_s) or is_known:
        return breaker
    culprits = tuple(dict.fromkeys((*breaker.culprits, uuid)))[-LIMIT:] if uuid else breaker.culprits
    failures = breaker.failures + 1
    breaker = replace(breaker, failures=failures, culprits=culprits, open_until_s=None, last_failure_s=now_s)
    if failures < LIMIT:
        return breaker
    wait_s = min(FIRST_S * 2.0 ** min(breaker.openings, 16), LONGEST_S)
    return replace(breaker, openings=breaker.openings + 1, open_until_s=now_s + wait_s)


def succeeded(breaker: Breaker) -> Breaker:
    """Return the breaker after a start that led to a right answer: closed; that it dies soon again can only be seen."""
    return replace(CLOSED, relapses=breaker.relapses, relapsed_s=breaker.relapsed_s, held=breaker.held)


def tried_again(breaker: Breaker, now_s: float) -> Breaker:
    """Return the breaker with its wait ended: one trial may run now; if it fails, the next wait is the longer one."""
    return replace(breaker, open_until_s=now_s) if is_open(breaker, now_s) else breaker


def relapsed(breaker: Breaker, now_s: float, started_s: float) -> Breaker:
    """Return the breaker after the end of a domain that had been ready for less than ``SOON_S``.

    Those that end together are one relapse of several places: only what was started after the last one counts anew.

    Args:
        started_s: When the domain was started, on the same clock.
    """
    is_held = relapse_left_s(breaker, now_s) > 0
    places = breaker.held + 1 if is_held else 1
    if breaker.relapses and started_s < breaker.relapsed_s:
        return replace(breaker, held=places)
    return replace(breaker, relapses=breaker.relapses + 1, relapsed_s=now_s, held=places)


def not_cured(breaker: Breaker, now_s: float, ready_s: float, served_s: float) -> Breaker:
    """Return the breaker for sickness after a sick domain has been given up; see ``is_again``."""
    relapses = breaker.relapses + 1 if is_again(breaker, ready_s, served_s) else max(breaker.relapses, 1)
    return replace(breaker, relapses=relapses, relapsed_s=now_s)


def cured(breaker: Breaker) -> Breaker:
    """Return the breaker once a start after the last relapse has served for ``SOON_S``."""
    return replace(breaker, relapses=0, relapsed_s=0.0, held=0)


def describe(breaker: Breaker, now_s: float) -> str:
    """Return ``closed``, ``open`` or ``half-open``."""
    if is_open(breaker, now_s):
        return "open"
    return "half-open" if is_half_open(breaker, now_s) else "closed"


def why_held(breaker: Breaker, now_s: float) -> str:
    """Return in plain words, with the time that is left, why nothing is tried now; empty where it may be."""
    if is_open(breaker, now_s):
        left_s = (breaker.open_until_s or now_s) - now_s
        return f"{breaker.failures} starts in a row failed; the next trial is in {left_s:.0f} s"
    if is_pausing(breaker, now_s):
        return "the last start failed; trying again in a moment"
    left_s = relapse_left_s(breaker, now_s)
    return why_in_vain(breaker.relapses, left_s) if left_s > 0 else ""


def why_in_vain(relapses: int, left_s: float) -> str:
    """Return what is said of starts that did not last."""
    died = f"{relapses} in a row died within {SOON_S:g} s of being ready"
    return f"replacing does not help: {died}; the next try in {left_s:.0f} s"


def restored(breaker: Breaker, now_s: float, is_same_boot: bool) -> Breaker:
    """Return a stored breaker on this machine's clock: after a reboot an open one waits its last wait again.

    Relapses are forgotten by a reboot: all that run have been started since.
    """
    if not is_same_boot:
        breaker = cured(breaker)
    relapsed_s = min(breaker.relapsed_s, now_s)
    if is_same_boot or breaker.open_until_s is None:
        return replace(breaker, last_failure_s=min(breaker.last_failure_s, now_s), relapsed_s=relapsed_s)
    wait_s = min(FIRST_S * 2.0 ** min(max(breaker.openings - 1, 0), 16), LONGEST_S)
    return replace(breaker, open_until_s=now_s + wait_s, last_failure_s=now_s)
