"""Lead times: from the decision for more capacity to a domain in rotation, by tier and host, as measured here."""

from collections.abc import Mapping, Sequence
from typing import Final

from common.messages import LeadTime
from services.actuator.core import breaker as breakers
from services.actuator.core.boot_times import quantile
from services.actuator.core.context import Context
from services.actuator.core.steps import SetPhase, Step

DECISION_S: Final = 10.0  # what begins later than this was held up by something else than its tier


def decided_s(context: Context) -> float:
    """Return when it was decided that a domain which begins now is wanted, on the monotonic clock of this boot.

    That is the decider's tick where it is recent and told in this boot, else now.
    """
    desired = context.wanted.desired
    at_s = None if desired is None or desired.boot_id != context.seen.boot_id else desired.decided_mono_s
    return at_s if at_s is not None and 0 <= context.now_s - at_s <= DECISION_S else context.now_s


def measured(step: Step) -> tuple[str, float] | None:
    """Return the key and the lead time that a finished step ends; None where it ends none."""
    if not isinstance(step, SetPhase) or step.lead_s is None:
        return None
    return breakers.key(step.group, step.host, step.tier or "-"), step.lead_s


def told(group: str, times_s: Mapping[str, Sequence[float]]) -> tuple[LeadTime, ...]:
    """Return the lead times of a group for its membership, in the order of tiers and hosts."""
    found = []
    for key, values in sorted(times_s.items()):
        owner, _, place = key.partition("@")
        host, _, tier = place.partition("/")
        p50_s, p95_s = quantile(values, 0.5), quantile(values, 0.95)
        if owner == group and p50_s is not None and p95_s is not None:
            found.append(LeadTime(tier="" if tier == "-" else tier, host=host, n=len(values), p50_s=p50_s, p95_s=p95_s))
    return tuple(found)


def of_new(leads: Sequence[LeadTime], start: str) -> float | None:
    """Return the p95 of domains that are made the way ``start`` says, on the slowest host; None where none is known."""
    tier = "clone" if start == "clone" else ""
    return max((lead.p95_s for lead in leads if lead.tier == tier), default=None)
