"""How long domains that are missing are waited for before a further scale-out.

Note [What can still be expected]
    Domains that are coming share the load soon, so nobody decides on the load of those that are there before. But that
    is a veto, and it must end: a domain that crashes again and again, or that never comes, would hide the overload of
    the others for ever. So what is missing counts as *coming* for as long as it can be expected, from when it was
    decided or began to be missing; after that it is *overdue*, and the load of those that are there decides. A domain
    that comes and goes again soon has not come: only a group that was whole for as long as a boot takes begins anew.
"""

from dataclasses import dataclass
from typing import Final

from common.messages import Membership

LATE: Final = 1.5  # of the p95 of a boot: under an overload boots are slower than those that were measured
LEAST_INTERVALS: Final = 5.0  # a woken domain is there in milliseconds, but it is seen by looks of an interval each


@dataclass(frozen=True, slots=True)
class Lack:
    """Since when domains are missing from ``desired``, and since when none is; None: it is not so."""

    desired: int = 0
    since_s: float | None = None
    whole_since_s: float | None = None


NO_LACK: Final = Lack()


def patience_s(membership: Membership | None, interval_s: float, boot_timeout_s: float) -> float:
    """Return how long a domain may be expected: by the slowest way that was measured, else the whole time-out."""
    leads_s = [lead.p95_s for lead in membership.lead_times] if membership else []
    if membership is not None and membership.boot_p95_s is not None:
        leads_s.append(membership.boot_p95_s)
    if not leads_s:
        return boot_timeout_s
    return max(min(LATE * max(leads_s), boot_timeout_s), LEAST_INTERVALS * interval_s)


def is_expected(lack: Lack, desired: int, now_s: float, patience_s: float) -> bool:
    """Return whether what is missing from ``desired`` at ``now_s`` may still come in time."""
    return desired > lack.desired or lack.since_s is None or now_s - lack.since_s < patience_s


def follow(lack: Lack, desired: int, missing: int, now_s: float, patience_s: float) -> Lack:
    """Return the lack after a tick at which ``missing`` domains were missing from ``desired``."""
    if desired > lack.desired:
        return Lack(desired, now_s, None) if missing else Lack(desired, None, now_s)
    if missing:
        return _changed(lack, desired, now_s if lack.since_s is None else lack.since_s, None)
    whole_since_s = now_s if lack.whole_since_s is None else lack.whole_since_s
    is_over = now_s - whole_since_s >= patience_s
    return _changed(lack, desired, None if is_over else lack.since_s, whole_since_s)


def _changed(lack: Lack, desired: int, since_s: float | None, whole_since_s: float | None) -> Lack:
    if (lack.desired, lack.since_s, lack.whole_since_s) == (desired, since_s, whole_since_s):
        return lack
    return Lack(desired, since_s, whole_since_s)
