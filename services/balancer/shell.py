"""The balancer's hands: it looks at HAProxy, has the cores plan and report, and gives HAProxy the orders.

A failure message is acted upon before anything else, from what the last look showed: one connection, two commands. All
the rest follows from looks: one each second, quicker while a member comes or goes, at once when HAProxy's socket is
another one. When HAProxy does not answer, the data plane does not need us: we ask again, and say that we know nothing.
Each look asks the master too: what workers hold that a reload has made old counts as in flight.
Nor is anything said of a group before its membership was heard and HAProxy looked at: nobody known is not nobody there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from common.config import Config, Group
from common.log import Quiet, logger
from common.messages import (
    FROZEN,
    SUSPENDED,
    BackendState,
    Drain,
    Event,
    Failure,
    HostSample,
    Membership,
    Recovery,
    Reply,
)
from common.messaging.inbox import Inbox, Received
from common.process import Context
from services.balancer.core.addresses import with_last_addresses, with_sound_addresses
from services.balancer.core.answers import Admin, Server, Snapshot, durable
from services.balancer.core.backends import (
    Assign,
    Avoid,
    Goal,
    Owner,
    SetMaint,
    SetReady,
    Slot,
    Step,
    StopChecks,
    Wanted,
    is_in_service,
    match,
    next_owners,
    plan,
    wanted_from,
    with_owners,
)
from services.balancer.core.commands import commands
from services.balancer.core.cuts import Cut, settled
from services.balancer.core.ending import write_bound
from services.balancer.core.firsts import Shown, begun, own
from services.balancer.core.firsts import follow as follow_firsts
from services.balancer.core.flapping import Course, restless_s
from services.balancer.core.flapping import follow as follow_courses
from services.balancer.core.haproxy_config import (
    CONNECT_TIMEOUT_MS,
    drain_s,
    hard_stop_s,
    master_socket,
    state_file,
    stats_socket,
)
from services.balancer.core.holds import HOLD_S, Hold, Word, held, suspended
from services.balancer.core.older import (
    Elder,
    Held,
    Older,
    Remembered,
    elders,
    endings,
    hard_stopped,
    in_flight,
    merged,
    occupied,
)
from services.balancer.core.older import held as held_by_older
from services.balancer.core.progress import Answered, progress, stalled
from services.balancer.core.report import (
    UNASKED,
    Key,
    backend_states,
    blind,
    news,
    notes,
    sick,
    substance,
    why_held,
)
from services.balancer.core.skew import Skew, follow, serving, skew_news, skew_notes
from services.balancer.core.traffic import Look, traffic, unknown_traffic
from services.balancer.endpoint import accepts
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.files import write_atomically
from services.balancer.haproxy import Master, RuntimeApi
from services.balancer.long_sessions import LongSessions
from services.balancer.older import UNKNOWN, OldWorkers

LOOK_S: Final = 1.0  # the longest between two looks: HAProxy may have been reloaded
BUSY_S: Final = 0.5  # while somebody waits: a check that times out is seen before the third
FALLING_S: Final = 0.25  # while checks fail
AFTER_ORDER_S: Final = 0.01  # soon: what was ordered is confirmed, told, and saved for the next HAProxy
MOVING_S: Final = 0.1
MOVING_FOR_S: Final = 10.0  # a member that still has not come or gone by then is looked at less often
SLOWLY_MOVING_S: Final = 0.25
PAUSE_PER_LOOK: Final = 10.0  # with very many slots a look takes long: at most a tenth of the time is spent on looking
NOTICE_S: Final = 0.25  # between two glances at the socket
RETRY_S: Final = 0.1
EARLY_RATIO: Final = 0.9  # a look that is due now may come a little early
RETRY_HANGING_S: Final = 0.5
SETTLED_S: Final = CONNECT_TIMEOUT_MS / 1000 + 0.1  # no connection is being made for longer than that
UNASKED_FOR_S: Final = 5.0  # a reload takes the master away for a moment


@dataclass(slots=True)
class _Group:
    """What this process knows of one group beyond what HAProxy shows; all of it can be lost."""

    name: str
    config: Group
    membership: Membership | None = None
    membership_id: str = ""
    owners: dict[str, Owner] = field(default_factory=dict)
    backends: tuple[BackendState, ...] = ()
    slots_total: int = 0
    cut_sessions: int = 0
    cuts: tuple[Cut, ...] = ()
    unchecked: Mapping[str, Shown | None] = field(default_factory=dict)
    sick: frozenset[Key] = frozenset()
    skew: Skew = field(default_factory=Skew)
    answered: dict[str, Answered] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    open_at_s: dict[str, float] = field(default_factory=dict)
    older_owners: Remembered = field(default_factory=Remembered)
    older: Mapping[tuple[str, str], Held] = field(default_factory=dict)
    is_known: bool = False
    is_seen: bool = False
    is_alive: bool = False
    traffic_base: Look | None = None
    traffic_told_s: float = -1e9
    told: tuple[object, ...] | None = None
    told_s: float = -1e9


class BalancerService:
    """Drives HAProxy; see ``common.process.Service``."""

    def __init__(self, context: Context) -> None:
        """Subscribe; nothing is ordered before membership has arrived and HAProxy has been looked at."""
        system = context.config.system
        self._context = context
        self._clock = context.clock
        self._bus = context.bus
        self._api = RuntimeApi(stats_socket(system), context.clock)
        self._old = OldWorkers(Master(master_socket(system), context.clock), context.clock)
        self._hard_stop_s = hard_stop_s(context.config)
        self._accepts: Callable[[str], bool] = accepts
        self._state_path = state_file(system)
        self._groups = {name: _Group(name, group) for name, group in context.config.groups.items()}
        self._holds: tuple[Hold, ...] = ()
        self._suspended: dict[str, Word] = {}
        self._snapshot: Snapshot | None = None
        self._older = UNKNOWN
        self._older_at_s = self._older_whole_at_s = context.clock.monotonic_s()
        self._ended: dict[int, frozenset[str]] = {}
        self._looked_at_s = 0.0
        self._pid: int | None = None
        self._inode = 0
        self._is_alive: bool | None = None
        self._saved: object = None
        self._look_at_s = 0.0
        self._moving_since_s = 0.0
        self._quiet = Quiet(period_s=60.0)
        self._sessions = LongSessions()
        self._bus.subscribe("actuator", Membership.kind)
        self._bus.subscribe("monitor", Failure.kind, Recovery.kind, HostSample.kind)

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Act on failures, then on membership, then look if a look is due; return when to be called again."""
        for received in inbox.messages:
            if isinstance(received.body, Failure):
                self._fail(received, received.body, now_s)
            elif isinstance(received.body, Recovery):
                self._resume(received.body, now_s)
            elif isinstance(received.body, HostSample):
                self._hear(received.body, now_s - received.age_s, now_s)
        for received in inbox.messages:
            if isinstance(received.body, Membership):
                self._learn(received, received.body, now_s)
        for request in inbox.requests:
            request.reply(Reply(status="error", reason=f"the balancer does not know {request.request.verb!r}"))
        if now_s >= self._look_at_s or self._is_other_socket():
            self._look(now_s)
        self._tell(now_s)
        return min(NOTICE_S, max(0.0, self._look_at_s - now_s))

    def reload(self, config: Config, now_s: float) -> None:
        """Know the groups by their new tables; of what HAProxy runs with, only ``hard-stop-after`` may change in them.

        HAProxy learns that with its next configuration, and so do we. How long it may take to end is said at once.
        """
        del now_s
        for name, group in self._groups.items():
            group.config = config.groups[name]
        try:
            write_bound(self._context.config.system.run_path, drain_s(config))
        except OSError as error:
            self._warn("drain-not-written", reason=error.strerror)

    def keep_again(self, now_s: float) -> None:
        """Keep at the next look what HAProxy starts from, changed or not."""
        del now_s
        self._saved = None

    def close(self) -> None:
        """Leave HAProxy as it is: it serves on without us."""

    # --- what arrives ------------------------------------------------------------------------------------------

    def _fail(self, received: Received, failure: Failure, now_s: float) -> None:
        """Take the failed member's slot down now, and keep it down until membership has caught up.

        A frozen one is in the hands of HAProxy's checks from then on: they say when it serves again. A suspended one is
        in nobody's hands until the monitor, or membership, says that it runs.
        """
        if received.age_s > self._context.config.system.stale_after_s:
            logger().warning("failure-ignored", domain=failure.domain, reason="stale", age_s=round(received.age_s, 1))
            return
        if failure.reason == SUSPENDED:
            word = self._suspended.get(failure.host, Word())
            self._suspended[failure.host] = Word(word.uuids | {failure.uuid}, now_s)
        elif failure.reason != FROZEN:
            self._holds = (*(h for h in self._holds if h.uuid != failure.uuid), Hold(failure.uuid, now_s + HOLD_S))
        for group in self._groups.values():
            if group.membership:
                self._holds = held(self._holds, group.membership, now_s)
            for slot, owner in group.owners.items():
                if self._is_alive and (owner.uuid, owner.name) == (failure.uuid, failure.domain):
                    self._take_out(group, slot, failure, received.id)
        if self._is_alive:
            self._look_at_s = now_s

    def _take_out(self, group: _Group, slot: str, failure: Failure, cause: str) -> None:
        """Give the order that the failure asks for; whoever leaves, or has left, is not news by being suspended."""
        is_suspended = failure.reason == SUSPENDED
        if is_suspended and not _has_in_service(group.membership, failure.uuid):
            return
        step = Avoid(slot) if failure.reason == FROZEN else StopChecks(slot)
        try:
            self._order(group, [step])
        except (ProxyError, ProxyLostError) as error:
            self._lose(error, self._clock.monotonic_s())
            return
        why = why_held(failure) if is_suspended else failure.reason
        name = "backend-held" if is_suspended else "backend-cut"
        self._event(name, group.name, failure.domain, f"slot {slot} takes nothing new: {why}", cause=cause)

    def _resume(self, recovery: Recovery, now_s: float) -> None:
        """Have whoever runs again checked now, not at the next sample."""
        word = self._suspended.get(recovery.host, Word())
        if recovery.uuid in word.uuids:
            self._note_suspended(recovery.host, replace(word, uuids=word.uuids - {recovery.uuid}), now_s)

    def _hear(self, sample: HostSample, said_s: float, now_s: float) -> None:
        """Take in who is suspended on a host; whoever runs again is looked at now."""
        self._note_suspended(sample.host, Word(frozenset(sample.suspended_uuids), said_s), now_s)

    def _note_suspended(self, host: str, word: Word, now_s: float) -> None:
        before = self._suspended.get(host, Word())
        self._suspended[host] = word
        if before.uuids != word.uuids and self._is_alive:
            self._look_at_s = self._moving_since_s = now_s

    def _learn(self, received: Received, membership: Membership, now_s: float) -> None:
        group = self._groups.get(membership.group)
        if group is None:
            return
        membership = with_last_addresses(with_sound_addresses(membership), group.membership)
        if group.membership is None or _places(group.membership) != _places(membership):
            self._look_at_s = self._moving_since_s = now_s
        group.membership, group.membership_id = membership, received.id
        self._holds = held(self._holds, membership, now_s)

    def _is_other_socket(self) -> bool:
        return self._is_alive is True and self._api.inode() != self._inode

    # --- looking and ordering ----------------------------------------------------------------------------------

    def _look(self, now_s: float) -> None:
        """Look at HAProxy, order what can be done now, and set the time of the next look."""
        try:
            self._inode = self._api.inode()
            snapshot = self._api.look(self._groups)
            older = self._old.look(snapshot.pid, self._groups)
            self._found(snapshot)
            self._found_older(older, snapshot.pid)
            has_ordered = [self._manage(group, snapshot) for group in self._groups.values()]
            self._sessions.end_overdue(self._api, {g.name: g.config for g in self._groups.values()}, now_s)
        except (ProxyError, ProxyLostError) as error:
            self._lose(error, now_s)
            return
        self._save(snapshot)
        cost_s = self._clock.monotonic_s() - now_s
        self._look_at_s = now_s + max(self._pause_s(any(has_ordered), now_s), PAUSE_PER_LOOK * cost_s)

    def _pause_s(self, has_ordered: bool, now_s: float) -> float:
        if has_ordered:
            self._moving_since_s = now_s
            return AFTER_ORDER_S
        backends = [b for group in self._groups.values() for b in group.backends if b.slot is not None]
        if any(b.state in {"joining", "draining"} for b in backends):
            return MOVING_S if now_s - self._moving_since_s < MOVING_FOR_S else SLOWLY_MOVING_S
        pause_s = min(LOOK_S, self._until_traffic_s())
        if any(b.is_kept for b in backends) or _is_any_falling(self._snapshot):
            return min(FALLING_S, pause_s)
        return min(BUSY_S, pause_s) if any(b.in_flight for b in backends) else pause_s

    def _until_traffic_s(self) -> float:
        """Return how soon a look is due for the figures of traffic, such that looks in between do not delay it."""
        interval_s = self._context.config.system.interval_s
        bases = [group.traffic_base.at_s for group in self._groups.values() if group.traffic_base]
        left_s = min((base_s + interval_s - self._looked_at_s for base_s in bases), default=interval_s)
        return left_s if left_s > interval_s * (1 - EARLY_RATIO) else interval_s

    def _found(self, snapshot: Snapshot) -> None:
        """Note that HAProxy answers, and whether it is another process than at the last look."""
        if self._is_alive is False:
            self._event("proxy-back", text="HAProxy answers again")
        elif self._pid not in (None, snapshot.pid):
            self._event("proxy-restarted", text=f"HAProxy is process {snapshot.pid} now; every slot is verified")
        for group in self._groups.values():
            group.is_seen = group.name in snapshot.servers
            group.is_alive = group.is_seen or self._accepts(group.config.endpoint)
            if not group.is_seen:
                self._warn("backend-missing", group=group.name, reason="HAProxy runs another configuration")
        self._is_alive, self._snapshot = True, snapshot
        self._looked_at_s = self._clock.monotonic_s()

    def _found_older(self, older: Older, pid: int) -> None:
        """Note what old workers hold; tell what one of them still held when its time was up."""
        pids = [old.snapshot.pid for old in older.workers]
        for group in self._groups.values():
            if self._pid is not None and self._pid != pid:
                group.older_owners.hand_over(self._pid, group.owners)
            if older.is_whole:
                group.older_owners.forget_but(pids)
        passed_s, self._older_at_s = self._looked_at_s - self._older_at_s, self._looked_at_s
        if older.is_whole:
            for shown in hard_stopped(self._older, older, passed_s, self._hard_stop_s):
                self._tell_hard_stop(shown)
            self._older_whole_at_s = self._looked_at_s
            self._ended = {pid: names for pid, names in self._ended.items() if pid in pids}
        self._older = merged(self._older, older, passed_s)

    def _tell_hard_stop(self, shown: Snapshot) -> None:
        why = f"a reload left them {self._hard_stop_s:g} s, and their HAProxy process has ended"
        for group in self._groups.values():
            cut = shown.totals[group.name].in_flight if group.name in shown.totals else 0
            if cut:
                group.cut_sessions += cut
                self._event("drain-forced", group.name, "", f"{cut} requests in flight were cut off: {why}", "warning")

    def _lose(self, error: Exception, now_s: float) -> None:
        """Note that HAProxy does not answer; the next look comes soon, but a hanging one is not asked all the time."""
        if self._is_alive is not False:
            self._event("proxy-lost", text=str(error), level="warning")
        for group in self._groups.values():
            group.is_seen = False
            group.is_alive = self._accepts(group.config.endpoint)
        self._is_alive, self._snapshot = False, None
        after_s = self._clock.monotonic_s()
        self._look_at_s = after_s + (RETRY_S if after_s - now_s < RETRY_S else RETRY_HANGING_S)

    def _manage(self, group: _Group, snapshot: Snapshot) -> bool:
        """Bring one group's slots closer to its membership; return whether something was ordered and done."""
        servers = snapshot.servers.get(group.name)
        if servers is None or group.membership is None:
            return False
        group.unchecked = follow_firsts(group.unchecked, servers)
        servers = own(group.unchecked, servers)
        group.answered = progress(group.answered, servers, self._looked_at_s)
        limit_s = group.config.answers_within_s(self._context.config.haproxy)
        stuck = stalled(group.answered, self._looked_at_s, limit_s)
        slots = with_owners(servers, group.owners, stuck, self._unsettled(group, servers))
        paused = suspended(self._suspended.values(), self._looked_at_s, self._context.config.system.stale_after_s)
        wanted = wanted_from(group.membership, (hold.uuid for hold in self._holds), paused)
        slots = self._with_courses(group, wanted, slots)
        old = elders(group.name, self._older, group.older_owners)
        group.older = held_by_older(wanted, old)
        steps = plan(wanted, slots, occupied(wanted, old))
        self._note_restored(group, steps, is_same=self._pid == snapshot.pid)
        group.owners = next_owners(wanted, slots, steps)
        group.unchecked = begun(group.unchecked, steps)
        self._tell_cut(group, snapshot)
        is_done = self._order(group, steps)
        cuts = self._end_older(group, wanted, old)
        if is_done:
            cuts += _cuts(group, steps, servers, snapshot.pid, self._looked_at_s)
        group.cuts += tuple(cuts)
        group.slots_total, group.is_known = len(slots), True
        states = backend_states(group.membership, wanted, slots, group.older, is_whole=self._older.is_whole)
        self._note_backends(group, states)
        return (bool(steps) and is_done) or bool(cuts)

    def _with_courses(self, group: _Group, wanted: Wanted, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """Return the slots with what is known of how the checks of their members went."""
        serving = {name: p.uuid for name, p in match(wanted, slots).items() if p.goal is Goal.SERVE}
        servers = {serving[slot.server.name]: slot.server for slot in slots if slot.server.name in serving}
        group.courses = follow_courses(group.courses, servers, self._looked_at_s)
        restless = restless_s(group.courses, serving.values(), self._looked_at_s)
        return tuple(replace(slot, restless_s=restless.get(serving.get(slot.server.name, ""))) for slot in slots)

    def _unsettled(self, group: _Group, servers: Sequence[Server]) -> set[str]:
        """Return the slots that have been open for new requests a moment ago."""
        group.open_at_s |= {s.name: self._looked_at_s for s in servers if s.admin is Admin.READY}
        return {name for name, at_s in group.open_at_s.items() if self._looked_at_s - at_s < SETTLED_S}

    def _order(self, group: _Group, steps: Sequence[Step]) -> bool:
        """Give the orders; return whether HAProxy refused none."""
        lines = [line for step in steps for line in commands(group.name, step)]
        refusals = self._api.order(lines)
        for refused in refusals:
            self._warn("order-refused", group=group.name, reason=refused)
        if refusals:
            return False
        for step in steps:
            owner = group.owners.get(step.slot)
            domain = owner.name if owner else ""
            logger().info("slot-ordered", group=group.name, slot=step.slot, order=type(step).__name__, domain=domain)
        return True

    def _note_restored(self, group: _Group, steps: Sequence[Step], *, is_same: bool) -> None:
        """Say so when a slot that was in rotation, and is to be, is found out of it; who took it out is not known."""
        serving = {b.slot for b in group.backends if b.state == "ready"} if is_same else set()
        for step in steps:
            if step.slot in serving and isinstance(step, SetReady | Assign):
                name = group.owners[step.slot].name if step.slot in group.owners else ""
                text = (
                    f"slot {step.slot} was found out of rotation, and not by an order of this balancer: it is put back"
                )
                self._event("slot-restored", group.name, name, text, "warning")

    def _end_older(self, group: _Group, wanted: Wanted, old: Sequence[Elder]) -> list[Cut]:
        """End what old workers have with those who have left or failed; return what of the former."""
        cuts: list[Cut] = []
        seen = {(elder.pid, slot.server.name): slot.server.redispatched for elder in old for slot in elder.slots}
        for ending in endings(wanted, old):
            before = self._ended.get(ending.pid, frozenset())
            names = self._old.end_sessions(ending.pid, group.name, ending.slot, before)
            self._ended[ending.pid] = before.union(names)
            if names and not ending.is_failure:
                moved = seen[ending.pid, ending.slot]
                cuts.append(Cut(ending.pid, ending.slot, ending.name, len(names), moved, self._looked_at_s))
        return cuts

    def _tell_cut(self, group: _Group, snapshot: Snapshot) -> None:
        """Tell what was cut, as soon as it is known what HAProxy has sent elsewhere."""
        shown = (snapshot, *(old.snapshot for old in self._older.workers))
        workers = {each.pid: each.servers.get(group.name, ()) for each in shown}
        told, group.cuts = settled(group.cuts, workers, self._looked_at_s)
        for one in told:
            group.cut_sessions += one.cut
            level = "warning" if one.cut else "info"
            self._event("drain-forced", group.name, one.name, one.text, level, group.membership_id)

    def _note_backends(self, group: _Group, backends: tuple[BackendState, ...]) -> None:
        before, group.backends = group.backends, backends
        were_sick, group.sick = group.sick, sick(group.sick, backends)
        for item in news(before, backends, were_sick) if before else ():
            if item.name == "backend-kept" and not self._quiet.may_say(
                (item.name, group.name, item.domain), self._looked_at_s
            ):
                continue  # checks of an overloaded one come and go
            self._event(item.name, group.name, item.domain, item.text, item.level, group.membership_id)
        self._note_skew(group)

    def _note_skew(self, group: _Group) -> None:
        in_flight = serving(group.backends)
        before, group.skew = group.skew, follow(group.skew, in_flight, self._looked_at_s)
        item = skew_news(before, group.skew, in_flight)
        if item is not None:
            self._event(item.name, group.name, item.domain, item.text, item.level, group.membership_id)

    def _save(self, snapshot: Snapshot) -> None:
        """Keep what a restarted HAProxy starts from, whenever it has changed."""
        self._pid = snapshot.pid
        state = durable(snapshot)
        if state == self._saved:
            return
        try:
            write_atomically(self._state_path, snapshot.state_dump)
        except OSError as error:
            self._warn("state-not-saved", path=str(self._state_path), reason=error.strerror)
            return
        self._saved = state

    # --- what is told ------------------------------------------------------------------------------------------

    def _tell(self, now_s: float) -> None:
        for group in self._groups.values():
            self._tell_drain(group, now_s)
            self._tell_traffic(group, now_s)

    def _tell_drain(self, group: _Group, now_s: float) -> None:
        if group.membership is None or (group.is_alive and not group.is_known):
            return
        drain = Drain(
            group=group.name,
            endpoint=group.config.endpoint,
            is_proxy_alive=group.is_alive,
            backends=group.backends if group.is_seen else blind(group.backends),
            notes=(*notes(group.backends), *skew_notes(group.skew, group.backends), *self._notes_of_older())
            if group.is_seen
            else (),
            slots_total=group.slots_total,
            cut_sessions_total=group.cut_sessions,
        )
        if substance(drain) != group.told or now_s - group.told_s >= self._context.config.system.republish_s:
            group.told, group.told_s = substance(drain), now_s
            self._bus.publish(drain, cause=group.membership_id or None)

    def _notes_of_older(self) -> tuple[str, ...]:
        """Return that old workers are unknown, where that is more than a reload that is under way."""
        is_said = not self._older.is_whole and self._looked_at_s - self._older_whole_at_s > UNASKED_FOR_S
        return (UNASKED,) if is_said else ()

    def _tell_traffic(self, group: _Group, now_s: float) -> None:
        """Say once each interval what was carried; the figures span two looks, not two calls."""
        interval_s = self._context.config.system.interval_s
        if self._snapshot is None or not group.is_seen:
            group.traffic_base = None
            if now_s - group.traffic_told_s >= interval_s:
                group.traffic_told_s = now_s
                self._bus.publish(unknown_traffic(group.name, interval_s))
            return
        base, owned = group.traffic_base, {slot: (o.name, o.uuid) for slot, o in group.owners.items()}
        if base is None or self._looked_at_s - base.at_s >= interval_s * EARLY_RATIO:
            older = {key: found.in_flight for key, found in group.older.items()}
            total = in_flight(group.name, self._older)
            group.traffic_base = Look(self._snapshot, owned, self._looked_at_s, total, older)
            group.traffic_told_s = now_s
            self._bus.publish(traffic(group.name, base, group.traffic_base, interval_s))

    def _event(
        self, name: str, group: str = "", domain: str = "", text: str = "", level: str = "info", cause: str = ""
    ) -> None:
        say = logger().warning if level == "warning" else logger().info
        say(name, group=group, domain=domain, text=text)
        self._bus.publish(Event(name=name, group=group, domain=domain, text=text, level=level), cause=cause or None)

    def _warn(self, event: str, **fields: object) -> None:
        if self._quiet.may_say((event, *fields.values()), self._clock.monotonic_s()):
            logger().warning(event, **fields)


def _cuts(group: _Group, steps: Sequence[Step], servers: Sequence[Server], pid: int, now_s: float) -> list[Cut]:
    """Return what the present worker had in flight with those whom the steps take out."""
    left = {step.slot for step in steps if isinstance(step, SetMaint)}
    names = {slot: owner.name for slot, owner in group.owners.items()}
    return [
        Cut(pid, server.name, names.get(server.name, ""), server.in_flight, server.redispatched, now_s)
        for server in servers
        if server.name in left and server.in_flight
    ]


def _places(membership: Membership) -> tuple[object, ...]:
    """Return what of a membership decides about slots."""
    members = tuple((m.name, m.uuid, m.phase, m.address, m.port, m.is_probed) for m in membership.members)
    return members, membership.unreachable_hosts


def _has_in_service(membership: Membership | None, uuid: str) -> bool:
    members = membership.members if membership else ()
    return any(member.uuid == uuid and is_in_service(member.phase) for member in members)


def _is_any_falling(snapshot: Snapshot | None) -> bool:
    groups = snapshot.servers.values() if snapshot else ()
    return any(server.is_falling for servers in groups for server in servers)
