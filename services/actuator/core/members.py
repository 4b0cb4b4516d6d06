"""Who is ours: sorts the domains that the hosts show into members, a pool, and strangers.

A *template* group owns a domain that carries our record for this group, under a name of its prefix, with the UUID that
the record was written for. Everything else under such a name is a stranger: never touched, its name avoided.
An *existing* group owns the domains with its prefix: those with a record are members, those that run without one are
adopted, those that are off are the pool it may start from. A record that cannot be true makes a domain a stranger in
both: nobody knows whether it may carry traffic, be started, or go.
"""

from dataclasses import dataclass, replace
from typing import Final

from common import names
from common.domain import DomainState
from common.domain_states import MAY_COME_BACK, SAVED, Meaning, Row, shown
from common.phases import FATES, OnDeadline, Phase
from services.actuator.core.record import Record
from services.actuator.core.seen import Backend, Probe, Seen, SeenDomain, Wanted
from services.actuator.core.steps import Define, SetPhase, SetQuota, Shutdown, Step, Wake

SUSPENDABLE: Final = frozenset({Phase.BOOTING, Phase.WARMING, Phase.READY})
SERVING: Final = frozenset({Phase.WARMING, Phase.READY})
PANICKED: Final = "panicked"
PAUSED_BY_US: Final = frozenset({"", "user"})
RESERVE: Final = frozenset({Phase.CREATING, Phase.BOOTING, Phase.STANDBY})
CLONE_TIMEOUT_S: Final = 20.0  # from its making; ten at once, on two CPUs with other work for ten, took 7 to 16 s
DISK_CLONE_TIMEOUT_S: Final = 60.0
ADDRESS_SOURCES: Final = ("lease", "arp", "agent", "static")
WAKE_TIMEOUT_S: Final = {"paused": 5.0, "saved": 20.0}  # the tiers of a reserve, the fastest first


@dataclass(frozen=True, slots=True)
class Member:
    """One owned domain with all that is known about it.

    ``is_busy``: a step is in flight, so nothing else is done to it now. ``is_reachable``: its host answers.
    """

    domain: SeenDomain
    record: Record
    is_reachable: bool = True
    is_busy: bool = False
    backend: Backend | None = None
    probe: Probe | None = None

    @property
    def name(self) -> str:
        """Return the domain's name."""
        return self.domain.name

    @property
    def key(self) -> tuple[str, str]:
        """Return host and name: what a step in flight blocks."""
        return self.domain.host, self.domain.name

    @property
    def phase(self) -> Phase:
        """Return the phase in the record."""
        return self.record.phase

    @property
    def is_off(self) -> bool:
        """Return whether libvirt shows the domain without power."""
        return is_off(self.domain)

    @property
    def state(self) -> Row:
        """Return what the state in which libvirt shows it means."""
        return shown(self.domain.power, self.domain.power_reason, self.domain.has_saved_state)

    @property
    def is_own_doing(self) -> bool:
        """Return whether we keep it from running: it stands by, was asked to shut down, is kept, or has not run yet."""
        domain, is_waiting = self.domain, self.record.tier in WAKE_TIMEOUT_S and not self.record.has_served
        if self.is_off:
            return (is_waiting and self.record.tier == "saved") or self.phase is Phase.CREATING
        if domain.power is DomainState.STOPPING or domain.power_reason == "shutting-down":
            return self.record.stop_calls > 0
        if domain.power_reason == "starting-up":
            return self.phase is Phase.CREATING or self.record.started_mono_s is None
        is_being_woken = self.is_busy and self.phase is Phase.BOOTING
        is_at_rest = is_being_woken or self.phase in (Phase.STANDBY, Phase.STOPPING, Phase.FAILED)
        is_kept = self.record.is_kept and self.phase is Phase.FAILED
        return ((is_waiting and is_at_rest) or is_kept) and domain.power_reason in PAUSED_BY_US

    @property
    def is_held(self) -> bool:
        """Return whether somebody else keeps it from running, and may let it go on: nothing is done to it meanwhile."""
        return self.state.meaning in MAY_COME_BACK and not self.is_own_doing

    @property
    def is_suspended(self) -> bool:
        """Return whether it would serve, or be on its way there, if somebody else let it run; written down or not."""
        is_just_held = self.phase in SUSPENDABLE and self.is_held and not self.is_reserve
        return self.phase is Phase.SUSPENDED or is_just_held

    @property
    def is_broken(self) -> bool:
        """Return whether its guest has paused or crashed for good, and still has its power."""
        return self.state.meaning is Meaning.GUEST_FAULT and not self.is_off

    @property
    def is_in_rotation(self) -> bool:
        """Return whether it serves now, as far as is known: HAProxy, if it is heard, sends it requests."""
        is_sent_to = self.backend is None or self.backend.state == "ready"
        return self.phase is Phase.READY and self.is_reachable and is_fit(self) and is_sent_to

    @property
    def is_free(self) -> bool:
        """Return whether a step may be planned for it now."""
        return self.is_reachable and not self.is_busy

    @property
    def is_reserve(self) -> bool:
        """Return whether it stands by, or is on its way there, and has not been woken."""
        return self.phase in RESERVE and self.record.tier in WAKE_TIMEOUT_S and not self.record.is_woken

    @property
    def is_standing_by(self) -> bool:
        """Return whether it is in reserve and has answered once."""
        return self.is_reserve and self.phase is Phase.STANDBY

    @property
    def is_capacity(self) -> bool:
        """Return whether it counts as capacity, now or soon: not one in reserve, or that an operator wants away."""
        is_counted = FATES[self.phase].is_capacity and not self.is_suspended
        return is_counted and not self.record.order and not self.is_reserve

    def age_s(self, now_s: float) -> float:
        """Return seconds since it entered its phase, >= 0; since it runs again where it was paused in it."""
        since_s = self.record.since_mono_s
        past = self.domain.past
        if past is not None and past.since_s is not None and self.domain.power is DomainState.RUNNING:
            since_s = max(since_s, past.since_s)
        return max(0.0, now_s - since_s)

    def held_s(self, now_s: float) -> float:
        """Return for how long somebody has kept it from running, >= 0; its record may not be writable meanwhile."""
        past = self.domain.past
        told_s = self.record.since_mono_s if self.phase is Phase.SUSPENDED else now_s
        seen_s = past.since_s if past is not None and past.since_s is not None and self.is_held else now_s
        return max(0.0, now_s - min(told_s, seen_s))


@dataclass(frozen=True, slots=True)
class View:
    """One group, sorted. ``pool`` and ``adoptable`` are for existing groups only.

    ``unseen``: domains that were on hosts which have not answered since this process started. ``vanished``: members
    that were there a moment ago and that libvirt does not know any more.
    """

    members: tuple[Member, ...]
    pool: tuple[SeenDomain, ...] = ()
    adoptable: tuple[SeenDomain, ...] = ()
    strangers: tuple[SeenDomain, ...] = ()
    unseen: int = 0
    templates: int = 0
    vanished: tuple[Member, ...] = ()

    @property
    def owned_total(self) -> int:
        """Return how many domains count against the ceiling: members in whatever phase, and those being saved."""
        return len(self.members) + self.unseen + self.templates

    @property
    def owned_besides_reserve(self) -> int:
        """Return how many domains are owned that serve, will or did: neither in reserve nor a template."""
        return len(self.members) + self.unseen - sum(1 for member in self.members if member.is_reserve)

    @property
    def generation(self) -> int:
        """Return the newest generation for which a member was made, 0 without members."""
        return max((member.record.generation for member in self.members), default=0)


def view(wanted: Wanted, seen: Seen) -> View:
    """Return the group's domains sorted; the order in which they were seen does not matter."""
    in_flight = {(step.host, step.domain): step for step in seen.in_flight}
    members: list[Member] = []
    pool: list[SeenDomain] = []
    adoptable: list[SeenDomain] = []
    strangers: list[SeenDomain] = []
    for host in seen.hosts:
        for domain in host.domains:
            if host.name not in wanted.group.hosts or names.domain_index(wanted.group.prefix, domain.name) is None:
                continue
            step = in_flight.get((host.name, domain.name))
            record = _record(step) or own_record(wanted, domain)
            if record is not None and (wanted.group.kind == "template" or record.phase is not Phase.GONE):
                members.append(_member(domain, record, seen, host.is_reachable, step is not None))
            elif wanted.group.kind == "template" or domain.unreadable is not None:
                strangers.append(domain)
            elif host.is_reachable and step is None:
                (pool if is_off(domain) else adoptable).append(domain)
    members.extend(_ghosts(wanted, seen, {member.key for member in members}))
    return View(
        members=tuple(sorted(members, key=lambda member: member.key)),
        pool=tuple(sorted(pool, key=lambda domain: (_is_saved(domain), domain.name, domain.host))),
        adoptable=tuple(sorted(adoptable, key=lambda domain: (domain.name, domain.host))),
        strangers=tuple(sorted(strangers, key=lambda domain: (domain.name, domain.host))),
        unseen=sum(host.remembered.get(wanted.name, 0) for host in seen.hosts if not host.is_ever_seen),
        templates=_templates(wanted, seen),
        vanished=_vanished(wanted, seen),
    )


def is_off(domain: SeenDomain) -> bool:
    """Return whether a domain has no power. A panicked one has, for libvirt was told to preserve it."""
    is_preserved = domain.power is DomainState.CRASHED and domain.power_reason == PANICKED
    return domain.power in (DomainState.SHUTOFF, DomainState.CRASHED) and not is_preserved


def is_fit(member: Member) -> bool:
    """Return whether one that drains could go on serving: it runs, and HAProxy's checks do not speak against it."""
    is_sick = member.backend is not None and member.backend.is_healthy is False
    return member.domain.power is DomainState.RUNNING and not is_sick


def is_saved_elsewhere(domain: SeenDomain) -> bool:
    """Return whether a file of its owner's holds its memory: started without it, its disks no longer fit that."""
    return domain.power is DomainState.SHUTOFF and domain.power_reason == SAVED and not domain.has_saved_state


def _is_saved(domain: SeenDomain) -> bool:
    """Return whether its owner has saved its memory: such a one is the last to be started."""
    return domain.has_saved_state or domain.power_reason == SAVED


def _templates(wanted: Wanted, seen: Seen) -> int:
    """Return how many domains there are, or will be in a moment, that are booted to be saved."""
    name = names.template_name(wanted.group.prefix)
    shown = {(host.name, d.name) for host in seen.hosts for d in host.domains if d.name == name and d.record}
    return len(shown | {(s.host, s.domain) for s in seen.in_flight if s.domain == name and s.group == wanted.name})


def _vanished(wanted: Wanted, seen: Seen) -> tuple[Member, ...]:
    gone = [domain for host in seen.hosts for domain in host.vanished]
    members = [Member(d, d.record) for d in gone if d.record is not None and d.record.group == wanted.name]
    return tuple(sorted(members, key=lambda member: member.key))


def own_record(wanted: Wanted, domain: SeenDomain) -> Record | None:
    """Return the domain's record if it was written for this group and this very domain, else None."""
    record = domain.record
    if record is None or record.group != wanted.name or record.uuid != domain.uuid:
        return None
    return record


def after(members: tuple[Member, ...], steps: list[Step]) -> tuple[Member, ...]:
    """Return the members as they will be once the steps are done: with the records that the steps write."""
    written = {(step.host, step.domain): _record(step) for step in steps}
    planned = {(step.host, step.domain) for step in steps}
    return tuple(
        replace(member, record=written.get(member.key) or member.record, is_busy=True)
        if member.key in planned
        else member
        for member in members
    )


def is_uncounted(wanted: Wanted, member: Member) -> bool:
    """Return whether its owner has started it, and the decider has not counted it since.

    Such a one is no surplus, see Note [Started by its owner] in the decider's ``adopt``.
    """
    counted = wanted.desired.counted if wanted.desired is not None else ()
    return member.record.is_owners and member.domain.uuid not in counted


def deadline_s(wanted: Wanted, phase: Phase) -> float | None:
    """Return how long a domain may stay in ``phase``, None for ever."""
    setting = FATES[phase].deadline
    return None if setting is None else float(getattr(wanted.group, setting))


def boot_limit_s(wanted: Wanted, member: Member) -> float:
    """Return how long the member may take to answer: one that has answered before, as itself or another, has little."""
    limit_s = wanted.group.boot_timeout_s
    if member.record.is_woken:
        return min(limit_s, WAKE_TIMEOUT_S.get(member.record.tier, limit_s))
    if not member.record.is_cloned:
        return limit_s
    return min(limit_s, DISK_CLONE_TIMEOUT_S if wanted.group.image.disk else CLONE_TIMEOUT_S)


def is_overdue(wanted: Wanted, member: Member, now_s: float) -> bool:
    """Return whether the member has been in its phase for longer than the group allows."""
    limit_s = boot_limit_s(wanted, member) if member.phase is Phase.BOOTING else deadline_s(wanted, member.phase)
    return (
        limit_s is not None
        and FATES[member.phase].on_deadline is not OnDeadline.STAY
        and (member.age_s(now_s) >= limit_s)
    )


def why_no_address(wanted: Wanted, member: Member) -> str:
    """Return why nobody can ask a user's domain whether it answers, empty where it has an address."""
    group, source = wanted.group, wanted.group.address_source
    known = group.addresses.get(member.name) or member.domain.address or member.record.address
    if group.kind == "template" or known:
        return ""
    if source == "static":
        return "addresses names none for it"
    others = [other for other in ADDRESS_SOURCES if other != source]
    where = f" in {group.address_network}" if group.address_network else ""
    return f"its address{where} is not known by {source}; try {', '.join(others[:-1])} or {others[-1]}"


def _member(domain: SeenDomain, record: Record, seen: Seen, is_reachable: bool, is_busy: bool) -> Member:
    identity = domain.name, domain.uuid
    backend = None if seen.backends is None else seen.backends.get(identity)
    return Member(domain, record, is_reachable, is_busy, backend, seen.probes.get(identity))


def _ghosts(wanted: Wanted, seen: Seen, shown: set[tuple[str, str]]) -> list[Member]:
    """Return members that are being defined and that libvirt does not show yet: they count already."""
    reachable = {host.name for host in seen.hosts if host.is_reachable}
    return [
        Member(
            SeenDomain(step.host, step.domain, step.uuid, DomainState.SHUTOFF, step.record),
            step.record,
            step.host in reachable,
            True,
        )
        for step in seen.in_flight
        if isinstance(step, Define) and step.group == wanted.name and (step.host, step.domain) not in shown
    ]


def _record(step: Step | None) -> Record | None:
    return step.record if isinstance(step, Define | SetPhase | SetQuota | Shutdown | Wake) else None
