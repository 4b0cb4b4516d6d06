"""What the breakers say about one more start: on a host, of one of the user's domains, or in a place that is held free.

A broken domain of the user's own closes its own breaker only. It is tried after all others, and names itself.
"""

from collections import Counter
from collections.abc import Iterable

from services.actuator.core import breaker as breakers
from services.actuator.core.breaker import Breaker
from services.actuator.core.context import Context
from services.actuator.core.host_faults import fault_of
from services.actuator.core.members import Member
from services.actuator.core.placement import COMING
from services.actuator.core.seen import Seen, SeenDomain
from services.actuator.core.steps import SetPhase, Step


def of_host(context: Context, host: str, tier: str = "") -> Breaker:
    """Return the breaker of the group on a host, or of a tier of its warm domains there."""
    return context.seen.breakers.get(breakers.key(context.wanted.name, host, tier), breakers.CLOSED)


def of_domain(seen: Seen, group: str, domain: SeenDomain) -> Breaker:
    """Return the breaker of one domain of the user's own."""
    return seen.breakers.get(breakers.domain_key(group, domain.host, domain.name), breakers.CLOSED)


def of_start(context: Context, member: Member) -> Breaker:
    """Return the breaker that holds back the start of a member which is defined: its host's, or its own."""
    host = of_host(context, member.domain.host, member.record.tier if member.is_reserve else "")
    if context.is_template or host.open_until_s is not None:
        return host
    return of_domain(context.seen, context.wanted.name, member.domain)


def in_order(context: Context, domains: Iterable[SeenDomain]) -> list[SeenDomain]:
    """Return domains of the pool, the one to be tried first first: who failed last is tried last, then by index."""
    return sorted(domains, key=lambda domain: (_failed_s(context, domain), domain.name, domain.host))


def why_not_domain(context: Context, domain: SeenDomain) -> str:
    """Return why a domain of the pool is not tried now, empty where it may be."""
    return breakers.why_held(of_domain(context.seen, context.wanted.name, domain), context.now_s)


def why_not_host(context: Context, host: str) -> str:
    """Return why no domain of the pool is started on a host now, empty where one may be; it names the host."""
    shown = next((each for each in context.seen.hosts if each.name == host), None)
    fault = None if shown is None else fault_of(shown, context.wanted.group.prefix, context.now_s)
    if fault is not None:
        return fault.text
    found = of_host(context, host)
    coming = any(m.domain.host == host and m.phase in COMING for m in context.view.members)
    if breakers.is_half_open(found, context.now_s) and coming:
        return f"{host}: starts fail; one trial at a time"
    why = breakers.why_held(found, context.now_s)
    return f"{host}: {why}" if why else ""


def broken(context: Context) -> tuple[str, ...]:
    """Return in plain words which domains of the pool are not tried now, and why."""
    whys = ((domain, why_not_domain(context, domain)) for domain in context.view.pool)
    return tuple(f"{domain.name} is tried after the others: {why}" for domain, why in whys if why)


def held_places(context: Context, planned: Iterable[Step]) -> dict[str, int]:
    """Return by host how many places stay free there, for those that had them died soon after they were ready.

    Those that are found dead in this very plan wait until their breaker has heard of it.
    """
    if not context.is_template:
        return {}
    dead = Counter(step.host for step in planned if _has_just_died(step))
    found = {h: breakers.held(of_host(context, h), context.now_s) + dead[h] for h in context.wanted.group.hosts}
    return {host: count for host, count in found.items() if count}


def why_places_held(context: Context, hosts: Iterable[str]) -> tuple[str, ...]:
    """Return in plain words why the places on these hosts stay free; nothing where that is for a moment only."""
    whys = ((host, breakers.why_held(of_host(context, host), context.now_s)) for host in sorted(hosts))
    return tuple(f"{host}: {why}" for host, why in whys if why)


def last_hope(group: str, seen: Seen, pool: tuple[SeenDomain, ...], now_s: float) -> Breaker:
    """Return the breaker of the domain in the pool that may be tried the soonest; closed without any."""
    found = [of_domain(seen, group, domain) for domain in pool]
    return min(found, key=lambda b: (breakers.is_open(b, now_s), b.open_until_s or 0.0), default=breakers.CLOSED)


def _has_just_died(step: Step) -> bool:
    if not isinstance(step, SetPhase) or step.served_s is None:
        return False
    return not step.is_sick and step.served_s < breakers.SOON_S


def _failed_s(context: Context, domain: SeenDomain) -> float:
    found = of_domain(context.seen, context.wanted.name, domain)
    return max(found.last_failure_s, found.relapsed_s)
