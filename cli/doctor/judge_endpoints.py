"""Whether clients of a group are served, by what its services say and by what its endpoint answers."""

from cli.doctor.facts import EndpointFacts
from cli.doctor.finding import Finding, error, note, ok, skipped, warning

MOST_REASONS = 5


def judge_endpoint(name: str, facts: EndpointFacts) -> Finding:
    """Return whether as many domains serve as are desired, and whether the endpoint answers."""
    about = f"group {name}"
    if facts.idle or facts.answer is None:
        return skipped("endpoint", about, facts.idle)
    what = _what(facts)
    mend = f"autoscaler status; autoscaler explain {name}; autoscaler events --since 15m"
    if facts.serving == 0 or not (facts.answer.is_right or (facts.answer.is_late and facts.serving)):
        return error("endpoint", about, what, "clients of this group are not served", mend)
    if not facts.answer.is_right:
        return warning("endpoint", about, what, "requests wait longer than clients may", mend)
    if facts.serving is None or facts.desired is None or facts.serving >= facts.desired:
        return ok("endpoint", about, what)
    if facts.overdue or (facts.blocked and not facts.is_waiting):
        return warning("endpoint", about, what, "fewer domains carry the load than it was decided to need", mend)
    return note("endpoint", about, what, "the others are on their way")


def _what(facts: EndpointFacts) -> str:
    """Return who serves, what the endpoint answers, and what stands in the way."""
    count = "how many serve is not known" if facts.serving is None else f"{facts.serving} of {facts.desired} serve"
    answer = f"{facts.where} {facts.answer.said}" if facts.answer else ""
    is_whole = facts.serving is not None and facts.serving >= (facts.desired or 0)
    blocked = ("waiting: " if facts.is_waiting else "blocked: ") + facts.blocked if facts.blocked else ""
    late = f"longer than boot_timeout_s: {', '.join(facts.overdue)}" if facts.overdue else ""
    more = len(facts.reasons) - MOST_REASONS
    told = (*facts.reasons[:MOST_REASONS], f"and {more} more" if more > 0 else "")
    reasons = () if is_whole else (*told, late, blocked)
    return "; ".join(part for part in (count, answer, *reasons) if part)
