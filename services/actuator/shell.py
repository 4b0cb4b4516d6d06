"""The actuator's loop: take in what was heard and seen, plan every group, hand out the steps, tell who lives.

Only the service's own thread runs what is in this file. The workers of the hosts and the prober report through one
queue and wake the loop.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from common.bus import Inbox, Received
from common.clock import boot_id
from common.config import Config, Image
from common.domain import DomainState
from common.log import logger
from common.messages import Body, DesiredCapacity, Drain, Event, Failure, Member, Membership, Traffic
from common.phases import Phase
from common.process import Context as ProcessContext
from common.refused import Refused
from common.unready import WRONG
from services.actuator.access import access
from services.actuator.alarms import Alarms
from services.actuator.core import lead_times
from services.actuator.core.addresses import asked_at, doubted, is_doing_badly, is_moving
from services.actuator.core.boot_times import added
from services.actuator.core.context import Context
from services.actuator.core.disks import Base
from services.actuator.core.doubt import at_start
from services.actuator.core.events import boot_time_s, event_of, vanished
from services.actuator.core.life import is_lent
from services.actuator.core.membership import address, membership
from services.actuator.core.placement import COMING
from services.actuator.core.plan import context_of, given_back, plan
from services.actuator.core.seen import Seen, Template, Wanted, is_observing
from services.actuator.core.sizing import choose, with_demand
from services.actuator.core.standing import Key, standing
from services.actuator.core.start_terms import start_terms, tried_at_once
from services.actuator.core.steps import Clone, Define, PlugIn, Save, SetPhase, SetQuota, Step, TakeSnapshot, Wake
from services.actuator.drafts import Draft, draft
from services.actuator.hosts import Hosts
from services.actuator.images import ImageError, Images
from services.actuator.keeper import Keeper
from services.actuator.ledger import Ledger
from services.actuator.orders_desk import OrdersDesk, View
from services.actuator.perform import Outcome, Result
from services.actuator.prober import Identity, Prober, Target, target_of
from services.actuator.remarks import Remarks
from services.actuator.snapshots import Snapshots, order_of
from services.actuator.starts import changes, cures, events
from services.actuator.store import read, write
from services.actuator.worker import Access, Bases, HostWorker, Lost, Observation, Prepared, Report

GIVE_BACK_S: Final = 1.0
LOOK_S: Final = 0.01
IMAGE_RECHECK_S: Final = 5.0
MAX_FAILURE_CAUSES: Final = 256

log = logger()


class ActuatorService:
    """Brings every group from what libvirt shows to what is desired."""

    def __init__(self, context: ProcessContext, make_access: Callable[[str], Access] | None = None) -> None:
        """Start the workers; ``make_access`` replaces libvirt in tests."""
        self._context = context
        self._config = context.config
        self._clock = context.clock
        now_s = self._clock.monotonic_s()
        self._boot_id = boot_id()
        self._state_file = self._config.system.state_path / "actuator.json"
        self._stored = read(self._state_file, now_s, self._boot_id)
        self._refused = Refused(context.notes, self._state_file, "breakers and boot times")
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._hosts = Hosts(self._config.hosts, now_s, self._config.system.stale_after_s, self._stored.owned)
        self._ledgers = {name: Ledger() for name in self._config.groups}
        self._doubts = {name: at_start(now_s) for name in self._config.groups}
        self._images = Images(self._config.system.state_path)
        self._templates: dict[Image, tuple[float, Template | None, str]] = {}
        self._failure_causes: dict[str, str] = {}
        self._orders = OrdersDesk(self._submit, self._say)
        self._remarks = Remarks()
        self._alarms = Alarms(self._say)
        self._snapshots = Snapshots(self._config.system.state_path)
        self._snapshots.sweep(self._config)
        self._end_waits(now_s)
        self._errors: dict[tuple[str, str], str] = {}
        self._published: dict[str, tuple[Membership, float]] = {}
        self._prober = Prober(context.bus.wake, self._ask_agent)
        context.bus.subscribe("decider", "capacity.desired")
        context.bus.subscribe("balancer", "drain", "traffic")
        context.bus.subscribe("monitor", "failure")
        make = make_access or (lambda host: access(self._config, host))
        tick_s = self._config.system.interval_s
        accesses = {host: make(host) for host in self._config.hosts}
        self._pools = {host: access.pool for host, access in accesses.items()}
        self._workers = {
            host: HostWorker(host, access, self._clock, tick_s, self._report) for host, access in accesses.items()
        }
        self._keepers = [
            Keeper(host, access.storage, self._clock, partial(self._report_bases, host), spared=self._snapshots.spared)
            for host, access in accesses.items()
            if access.storage is not None
        ]
        self._hold_back()
        for worker in self._workers.values():
            worker.start()
        for keeper in self._keepers:
            keeper.start()

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Take in what arrived, plan, hand out, publish; return the seconds until the next look at the clock."""
        for message in inbox.messages:
            self._hear(message, now_s)
        for pending in inbox.requests:
            self._orders.take(pending, now_s)
        self._take_reports(now_s)
        self._remember_owned()
        if self._refused.is_due(now_s):
            self._keep()
        self._hold_back()
        if self._orders.is_asked:
            self._orders.serve([self._look(name, now_s) for name in self._config.groups], now_s)
        views = {name: self._turn(name, now_s) for name in self._config.groups}
        self._tell_doubts(views.values())
        self._prober.aim({key: target for view in views.values() for key, target in targets(view).items()})
        for view in views.values():
            self._publish_membership(view, now_s)
        silent = {host.name for view in views.values() for host in view.seen.hosts if not host.is_reachable}
        self._alarms.tell({k: event for view in views.values() for k, event in _standing(view, now_s).items()}, silent)
        for keeper in self._keepers:
            keeper.aim({g.image.disk for g in self._config.groups.values() if g.image.disk and keeper.host in g.hosts})
        for step in self._hosts.overdue(now_s):
            log.error("step-lost", step=type(step).__name__, domain=step.domain, host=step.host)
        return self._config.system.interval_s / 2

    def reload(self, config: Config, now_s: float) -> None:
        """Plan under the new bounds and timeouts from the next turn on; what is under way ends as it began."""
        self._config = config
        self._end_waits(now_s)

    def keep_again(self, now_s: float) -> None:
        """Store breakers and boot times once more."""
        del now_s
        self._keep()

    def close(self) -> None:
        """Give back what bursts have lent, and stop; whatever is half done is seen again at the next start."""
        self._end_bursts()
        for worker in self._workers.values():
            worker.stop()
        for keeper in self._keepers:
            keeper.stop()
        self._prober.stop()
        self._keep()

    def _end_bursts(self) -> None:
        """Give members their configured quota, for ``GIVE_BACK_S`` at most: nobody does while nothing runs.

        A new process raises it again where the decider still says so.
        """
        now_s, pause = self._clock.monotonic_s(), threading.Event()
        until_s = now_s + GIVE_BACK_S
        groups = [self._wanted(name, now_s) for name in self._config.groups]
        while (now_s := self._clock.monotonic_s()) < until_s:
            self._take_reports(now_s)
            contexts = [context_of(wanted, self._seen(wanted.name, now_s), now_s) for wanted in groups]
            for context in contexts:
                for step in given_back(context):
                    self._submit(context.wanted, step, now_s)
            is_lent_out = any(is_lent(member) for context in contexts for member in context.view.members)
            if not is_lent_out and not any(isinstance(step, SetQuota) for step in self._hosts.in_flight()):
                return
            pause.wait(LOOK_S)

    def _end_waits(self, now_s: float) -> None:
        """Have starts that failed tried at once in groups whose configuration has changed since."""
        terms = {name: start_terms(group) for name, group in self._config.groups.items()}
        tried = tried_at_once(self._stored.breakers, self._stored.terms, terms, now_s)
        self._stored.terms.update(terms)
        if tried:
            self._stored.breakers.update(tried)
            self._keep()

    def _keep(self) -> None:
        """Store what stands nowhere else; have the status say so while the disk refuses it."""
        self._refused.note(write(self._state_file, self._stored, self._boot_id))

    # --- what comes in -----------------------------------------------------------------------------------------

    def _report(self, report: Report) -> None:
        self._reports.put(report)
        self._context.bus.wake()

    def _report_bases(self, host: str, bases: dict[str, Base]) -> None:
        self._report(Bases(host, bases))

    def _ask_agent(self, host: str, domain: str, timeout_s: float) -> str | None:
        return self._workers[host].ask_agent(domain, timeout_s)

    def _hear(self, message: Received, now_s: float) -> None:
        heard_s = now_s - message.age_s
        match message.body:
            case DesiredCapacity() as body if body.group in self._ledgers:
                before = self._ledgers[body.group].refusal
                refusal = self._ledgers[body.group].hear_desired(body, message.id, heard_s)
                if not refusal:
                    self._remember_demand(body)
                elif refusal != before:
                    log.warning("desired-refused", group=body.group, reason=refusal, cause=message.id)
            case Drain() as body if body.group in self._ledgers:
                self._ledgers[body.group].hear_drain(body, heard_s)
            case Traffic() as body if body.group in self._ledgers:
                self._ledgers[body.group].hear_traffic(body, heard_s)
            case Failure() as body:
                self._remember_failure(body, message.id)

    def _remember_demand(self, body: DesiredCapacity) -> None:
        """Keep what was desired when, where the size of the reserve follows from it."""
        if self._config.groups[body.group].warm.sizing == "fixed":
            return
        known = self._stored.demand.get(body.group, ())
        demand = with_demand(known, self._clock.epoch_s(), body.desired)
        if demand != known:
            self._stored.demand[body.group] = demand
            self._keep()

    def _remember_failure(self, body: Failure, identifier: str) -> None:
        if self._hosts.is_standing_by(body.host, body.uuid):
            return  # we paused or saved it ourselves
        self._failure_causes[body.uuid] = identifier
        while len(self._failure_causes) > MAX_FAILURE_CAUSES:
            del self._failure_causes[next(iter(self._failure_causes))]
        if body.host in self._workers:
            self._workers[body.host].look()

    def _take_reports(self, now_s: float) -> None:
        while True:
            try:
                report = self._reports.get_nowait()
            except Empty:
                return
            match report:
                case Observation():
                    if self._hosts.observed(report):
                        self._say(Event(name="host-back", host=report.host, text="the host answers again"))
                case Bases():
                    self._hosts.stored(report)
                case Lost():
                    self._note_lost(report)
                case Prepared():
                    self._hosts.prepared(report)
                    log.info("host-prepared", host=report.host, accel=report.accel, error=report.error)
                case Outcome():
                    self._finish(report, now_s)
            for domain in self._hosts.take_vanished():
                if domain.record is not None and domain.record.group in self._config.groups:
                    self._say(vanished(domain, domain.record), self._failure_causes.get(domain.uuid, ""))

    def _remember_owned(self) -> None:
        """Keep how many domains each host has: after a restart a host that is lost still counts with them."""
        owned = self._hosts.owned()
        if owned != self._stored.owned:
            self._stored.owned = owned
            self._keep()

    def _note_lost(self, report: Lost) -> None:
        if self._hosts.lost(report):
            log.warning("host-lost", host=report.host, error=report.error)
            self._say(Event(name="host-lost", host=report.host, text=report.error, level="warning"))

    def _finish(self, outcome: Outcome, now_s: float) -> None:
        step = outcome.step
        self._hosts.finished(outcome)
        is_news = self._errors.get((step.host, step.domain), "") != outcome.error
        self._errors[(step.host, step.domain)] = outcome.error
        emit = log.info if outcome.result is Result.DONE else log.warning if is_news else log.debug
        emit("step-finished", step=type(step).__name__, domain=step.domain, host=step.host, result=outcome.result.value,
             reason=step.reason, error=outcome.error, cause=step.cause)  # fmt: skip
        event = event_of(step, outcome.error, outcome.finished_s)
        if event is not None and (is_news or not outcome.error):
            self._say(event, step.cause)
        self._count_start(outcome, now_s)
        boot_s = boot_time_s(step, outcome.finished_s) if outcome.result is Result.DONE else None
        if boot_s is not None:
            self._stored.boot_times_s[step.group] = added(self._stored.boot_times_s.get(step.group, ()), boot_s)
            self._keep()
        lead = lead_times.measured(step) if outcome.result is Result.DONE else None
        if lead is not None:
            self._stored.lead_times_s[lead[0]] = added(self._stored.lead_times_s.get(lead[0], ()), lead[1])
            self._keep()
        self._orders.finished(outcome)
        if isinstance(step, Save | Wake | SetPhase | PlugIn | Clone | TakeSnapshot):
            self._remarks.note(outcome, now_s)
        dropped = self._snapshots.finished(outcome)
        if dropped:
            self._say_dropped(step.group, step.host, dropped, now_s)

    def _say_dropped(self, group: str, host: str, why: str, now_s: float) -> None:
        text = f"the snapshot is taken anew: {why}"
        self._remarks.add(group, text, now_s)
        self._say(Event(name="snapshot-dropped", group=group, host=host, text=text, level="warning"))

    def _count_start(self, outcome: Outcome, now_s: float) -> None:
        """Tell the breakers about a start that failed, led to a right answer or did not last; keep what they say."""
        step = outcome.step
        group = self._config.groups.get(step.group)
        is_existing = group is not None and group.kind == "existing"
        for change in changes(self._stored.breakers, outcome, now_s, is_existing):
            self._stored.breakers[change.key] = change.new
            self._keep()
            for event in events(change, step, outcome.error, now_s):
                self._say(event, step.cause)

    def _count_cures(self, view: View, now_s: float) -> None:
        """Forget relapses once what was started after them has served long enough."""
        cured = cures(self._stored.breakers, view.wanted.name, view.planned, now_s)
        if cured:
            self._stored.breakers.update(cured)
            self._keep()

    # --- what goes out -----------------------------------------------------------------------------------------

    def _wanted(self, name: str, now_s: float) -> Wanted:
        group, ledger = self._config.groups[name], self._ledgers[name]
        template, note = self._template(group.image, now_s) if group.kind == "template" else (None, "")
        wanted = Wanted(
            name=name,
            group=group,
            network=self._config.network,
            desired=ledger.desired,
            cause=ledger.cause,
            is_desired_fresh=now_s - ledger.desired_heard_s <= self._config.system.stale_after_s,
            template=template,
            template_note=note,
            slots=self._config.haproxy.slots,
        )
        demand = self._stored.demand.get(name, ())
        snapshots = self._snapshots.seen(name, group, template, self._config, self._hosts.seen(now_s))
        for owner, host in self._snapshots.damaged():
            self._say_dropped(owner, host, "its file was damaged", now_s)
        lead_s = lead_times.of_new(lead_times.told(name, self._stored.lead_times_s), group.warm.start)
        standby = choose(group, wanted.maximum, demand, self._clock.epoch_s(), lead_s)
        return replace(wanted, standby=standby, snapshots=snapshots)

    def _template(self, image: Image, now_s: float) -> tuple[Template | None, str]:
        checked_s, template, note = self._templates.get(image, (float("-inf"), None, ""))
        if now_s - checked_s < IMAGE_RECHECK_S:
            return template, note
        try:
            template, note = self._images.of(image, self._config.network), ""
            self._sweep_images(now_s)
        except ImageError as error:
            template, note = None, str(error)
        self._templates[image] = now_s, template, note
        return template, note

    def _sweep_images(self, now_s: float) -> None:
        """Remove copies of images that no domain boots from, when every host can be asked."""
        hosts = self._hosts.seen(now_s)
        if all(host.is_reachable for host in hosts):
            self._images.sweep({d.record.template for host in hosts for d in host.domains if d.record is not None})

    def _seen(self, name: str, now_s: float) -> Seen:
        ledger = self._ledgers[name]
        return Seen(
            epoch_s=self._clock.epoch_s(),
            boot_id=self._boot_id,
            hosts=self._hosts.seen(now_s),
            probes=self._prober.results(),
            backends=ledger.backends(now_s, self._config.system.stale_after_s),
            is_proxy_alive=ledger.drain is None or ledger.drain.is_proxy_alive,
            in_flight=self._hosts.in_flight(),
            breakers=self._stored.breakers,
            failure_causes=self._failure_causes,
            load=ledger.load(now_s, self._config.system.stale_after_s),
            doubt=self._doubts[name],
        )

    def _look(self, name: str, now_s: float) -> View:
        wanted, seen = self._wanted(name, now_s), self._seen(name, now_s)
        planned = plan(wanted, seen, now_s)
        self._doubts[name] = planned.doubt
        return View(wanted, seen, planned)

    def _turn(self, name: str, now_s: float) -> View:
        """Plan one group and hand out its steps: the next group's plan counts what they take of the hosts."""
        view = self._look(name, now_s)
        self._count_cures(view, now_s)
        for step in view.planned.steps:
            self._submit(view.wanted, step, now_s)
        return view

    def _submit(self, wanted: Wanted, step: Step, now_s: float) -> None:
        """Hand a step to its host's worker, unless one for the same domain is under way."""
        if self._hosts.is_busy(step.host, step.domain):
            return
        made = None
        if isinstance(step, Define | TakeSnapshot):
            made = self._draft(wanted, step)
            if made is None:
                return
        self._hosts.begun(step, now_s)
        self._workers[step.host].submit(step, made)

    def _draft(self, wanted: Wanted, step: Define | TakeSnapshot) -> Draft | None:
        template = wanted.template
        if template is None:
            return None
        base = None if template.disk is None else self._hosts.base(step.host, template.disk.path)
        pool = self._pools[step.host]
        if isinstance(step, Clone | TakeSnapshot):
            path = self._snapshots.path(step.group, step.host, step.snapshot)
            frozen = self._snapshots.frozen(path) if isinstance(step, Clone) else None
            return order_of(wanted, step, template, path, base, pool, frozen)
        return draft(wanted, step, template, base, pool)

    def _publish_membership(self, view: View, now_s: float) -> None:
        name = view.wanted.name
        planned = replace(view.planned, notes=view.planned.notes + self._remarks.of(name, now_s))
        leads = lead_times.told(name, self._stored.lead_times_s)
        body = membership(view.wanted, view.seen, planned, self._stored.boot_times_s.get(name, ()), now_s, leads)
        last = self._published.get(name)
        if last is not None and still(last[0]) == still(body) and now_s - last[1] < self._config.system.republish_s:
            return
        self._context.bus.publish(body, cause=view.wanted.cause or None)
        self._published[name] = body, now_s

    def _tell_doubts(self, views: Iterable[View]) -> None:
        """Have the hosts ask again where domains are whose address disappoints."""
        found = [doubted(view.wanted, view.planned.view.members) for view in views]
        for worker in self._workers.values():
            worker.doubt(frozenset().union(*found))

    def _hold_back(self) -> None:
        """Leave alone the hosts all of whose groups only observe: no network, no storage, no probe guest."""
        ledgers, groups = self._ledgers, self._config.groups
        active = {name for name, group in groups.items() if not is_observing(group, ledgers[name].desired)}
        hosts = {host for name in active for host in groups[name].hosts}
        for host, worker in self._workers.items():
            worker.allow(host in hosts)
        for keeper in self._keepers:
            keeper.allow(keeper.host in hosts)

    def _say(self, body: Body, cause: str = "") -> None:
        self._context.bus.publish(body, cause=cause or None)


def _standing(view: View, now_s: float) -> dict[Key, Event]:
    """Return what stands in one group."""
    return standing(Context(view.wanted, view.seen, view.planned.view, now_s, is_halted=False))


def still(body: Membership) -> Membership:
    """Return the message without what changes by itself, to tell news from the passing of time."""
    members = tuple(member.model_copy(update=_passing(member)) for member in body.members)
    return body.model_copy(update={"members": members, "breaker_opens_until_s": None})


def _passing(member: Member) -> dict[str, object]:
    """Return what of a member is no news: its age; and how it is silent, for a guest that boots is so in many ways."""
    is_wrong = member.unready is not None and member.unready.kind in WRONG
    return {"age_s": 0.0} if is_wrong else {"age_s": 0.0, "unready": None}


def targets(view: View) -> dict[Identity, Target]:
    """Return whom to probe: every member that is on its way, or back, and has an address, also while it is resumed.

    And one that serves, where it is looked for at another address than its own; or that fails its checks, to tell why.
    """
    found: dict[Identity, Target] = {}
    for member in view.planned.view.members:
        is_existing = view.wanted.group.kind == "existing"
        at = asked_at(view.wanted, member) if is_existing else address(view.wanted, member)
        is_coming = member.phase in COMING or (member.phase is Phase.STANDBY and not member.is_reserve)
        is_coming |= member.phase is Phase.FAILED and member.domain.power is DomainState.RUNNING
        is_coming |= is_moving(view.wanted, member)
        is_asked = is_coming or is_doing_badly(view.wanted, member)
        if is_asked and member.is_reachable and not member.is_off and at is not None:
            key, wanted = (member.name, member.domain.uuid), view.wanted
            target = target_of(wanted.name, wanted.group, member.domain.host, member.name, at)
            found[key] = replace(target, is_serving=not is_coming)
    return found
