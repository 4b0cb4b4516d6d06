"""Domains that stand by, step by step: coming to rest, being woken, and how many there are to be."""

import threading
from dataclasses import replace

import pytest

from common.config import Group
from common.domain import DomainFacts, DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError
from common.messages import LeadTime
from common.phases import Phase
from services.actuator.core.lead_times import of_new
from services.actuator.core.membership import membership
from services.actuator.core.plan import plan
from services.actuator.core.seen import Probe, Seen, SeenDomain, Snapshot, Standby, Wanted
from services.actuator.core.sizing import HISTORY_S, choose, largest_rise, with_demand
from services.actuator.core.steps import Save, SetPhase, Start, Step, Suspend, Wake
from services.actuator.guest_agents import GuestAgents
from services.actuator.hosts import Hosts
from services.actuator.perform import NOTE_LENGTH, Outcome, Result, attempt
from services.actuator.remarks import TOLD_S, Remarks
from services.actuator.store import Stored, read, write
from services.actuator.worker import Observation
from tests.starts import count_start
from tests.unit.test_actuator_plan import NOW_S, brief, domain, record, seen, wanted

RUNNING, PAUSED, SHUTOFF = DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF
ONE = "web-0000"


def standby(
    tier: str, power: DomainState, *, has_saved: bool = False, reason: str = "", **changes: object
) -> SeenDomain:
    found = domain(ONE, Phase.STANDBY, power, tier=tier, **changes)
    return replace(found, has_saved_state=has_saved, power_reason=reason)


def steps(want: Wanted, see: Seen) -> tuple[Step, ...]:
    return plan(want, see, NOW_S).steps


@pytest.mark.parametrize(
    ("tier", "power", "has_saved", "reason", "expected"),
    [
        ("paused", RUNNING, False, "", ["Suspend web-0000"]),
        ("paused", PAUSED, False, "user", []),
        ("paused", PAUSED, False, "ioerror", []),
        ("paused", PAUSED, False, "crashed", ["SetPhase web-0000 failed"]),
        ("paused", PAUSED, False, "migration", []),
        ("paused", SHUTOFF, False, "", ["Undefine web-0000"]),
        ("paused", DomainState.STOPPING, False, "", []),
        ("paused", SHUTOFF, True, "saved", []),
        ("paused", DomainState.UNKNOWN, False, "", []),
        ("saved", RUNNING, False, "", ["Save web-0000"]),
        ("saved", PAUSED, False, "save", []),
        ("saved", PAUSED, False, "user", ["Save web-0000"]),
        ("saved", SHUTOFF, True, "saved", []),
        ("saved", SHUTOFF, False, "", ["Undefine web-0000"]),
        ("saved", DomainState.CRASHED, False, "", ["Undefine web-0000"]),
    ],
)
def test_every_power_of_a_standby_has_its_next_step(
    tier: str, power: DomainState, has_saved: bool, reason: str, expected: list[str]
) -> None:
    found = standby(tier, power, has_saved=has_saved, reason=reason)
    assert brief(steps(wanted(None), seen(found))) == expected


def test_quota_is_in_force_before_it_rests() -> None:
    assert brief(steps(wanted(None), seen(standby("saved", RUNNING, is_boosted=True)))) == ["SetQuota web-0000"]


def test_right_answer_brings_one_in_reserve_to_standby_and_one_that_was_woken_to_service() -> None:
    probes = {(ONE, f"u-{ONE}"): Probe(True, ONE)}
    reserve = seen(domain(ONE, Phase.BOOTING, age_s=1, tier="paused"), probes=probes)
    assert brief(steps(wanted(None), reserve)) == ["SetPhase web-0000 standby"]
    woken = seen(domain(ONE, Phase.BOOTING, age_s=1, tier="paused", is_woken=True), probes=probes)
    assert brief(steps(wanted(None), woken)) == ["SetPhase web-0000 warming"]


@pytest.mark.parametrize(
    ("tier", "age_s", "is_given_up"), [("paused", 4, False), ("paused", 6, True), ("saved", 6, False)]
)
def test_woken_domain_has_little_time_to_answer(tier: str, age_s: float, is_given_up: bool) -> None:
    found = steps(wanted(None), seen(domain(ONE, Phase.BOOTING, age_s=age_s, tier=tier, is_woken=True)))
    assert brief(found) == (["SetPhase web-0000 failed"] if is_given_up else [])


def test_wake_writes_when_it_began_and_what_led_to_it() -> None:
    want = replace(wanted(1), standby=Standby(1, 0))
    (step,) = steps(want, seen(standby("paused", PAUSED)))
    assert isinstance(step, Wake)
    assert (step.record.phase, step.record.is_woken, step.record.started_mono_s) == (Phase.BOOTING, True, NOW_S)
    assert (step.record.cause, step.otherwise.phase, step.otherwise.is_woken) == ("decision-1", Phase.FAILED, True)


@pytest.mark.parametrize(("snapshot", "expected"), [(True, "Clone web-0001"), (False, "SetQuota web-0000")])
def test_reserve_that_still_boots_is_taken_where_no_clone_serves_sooner(snapshot: bool, expected: str) -> None:
    want = replace(wanted(1), standby=Standby(1, 0), snapshots={"local": Snapshot("k", snapshot)})
    see = seen(domain(ONE, Phase.BOOTING, age_s=1, tier="paused"))
    assert brief(steps(want, see)) == [expected]


def test_wake_in_flight_counts_as_capacity_until_its_time_is_over() -> None:
    want = replace(wanted(1), standby=Standby(1, 0))
    (step,) = steps(want, seen(standby("paused", PAUSED)))
    see = seen(standby("paused", PAUSED), in_flight=(step,))
    assert plan(want, see, NOW_S + 4).steps == ()
    assert brief(plan(want, see, NOW_S + 6).steps) == ["Define web-0001"]


def test_reserve_in_the_making_is_told_as_standby() -> None:
    want, see = wanted(0), seen(domain(ONE, Phase.BOOTING, age_s=1, tier="saved"))
    (member,) = membership(want, see, plan(want, see, NOW_S), (), NOW_S).members
    assert (member.phase, member.tier, member.note) == (Phase.STANDBY, "saved", "it boots, to stand by")


def test_nothing_is_done_to_the_reserve_while_the_mode_is_off() -> None:
    want = replace(wanted(1), standby=Standby(2, 0))
    body = want.desired.model_copy(update={"mode": "off"}) if want.desired else None
    see = seen(domain(ONE), replace(standby("paused", RUNNING), name="web-0001"))
    assert steps(replace(want, desired=body), see) == ()


def test_ceiling_has_room_for_those_that_stand_by_and_no_one_else_takes_it() -> None:
    want = replace(wanted(4), standby=Standby(1, 1))
    assert (want.room, want.ceiling) == (5, 7)
    failed = tuple(domain(f"web-{i:04d}", Phase.FAILED, DomainState.PAUSED) for i in range(5))
    found = plan(want, seen(*failed), NOW_S)
    assert "Define" not in " ".join(brief(found.steps)) and "max + surge + standby" in found.blocked[0]


def test_scale_in_takes_nobody_who_is_on_the_way_to_stand_by() -> None:
    want = replace(wanted(1), standby=Standby(1, 0))
    see = seen(domain(ONE), domain("web-0001"), domain("web-0002", Phase.BOOTING, age_s=1, tier="paused"))
    assert brief(steps(want, see)) == ["SetPhase web-0001 draining"]


# --- performing ------------------------------------------------------------------------------------------------------


class FakeHost:
    """One domain; ``error`` is raised by the call that wakes or saves it."""

    def __init__(self, error: HypervisorError | None = None, is_written: bool = True) -> None:
        self.error, self.is_written = error, is_written
        self.calls: list[str] = []
        self.written: dict[str, str] = {}

    def facts(self, name: str) -> DomainFacts:
        return DomainFacts(name, f"u-{ONE}", PAUSED, "user", True, {"group": "web"})

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.error is not None:
            raise self.error

    def resume(self, name: str, uuid: str) -> None:
        self._call("resume")

    def start(self, name: str, uuid: str) -> None:
        self._call("start")

    def save(self, name: str, uuid: str) -> None:
        self._call("save")

    def set_metadata(self, name: str, uuid: str, metadata: dict[str, str]) -> None:
        if not self.is_written:
            raise HypervisorError("no space left")
        self.written = dict(metadata)


def wake_of(tier: str) -> Wake:
    woken = record(ONE, Phase.BOOTING, tier=tier, is_woken=True)
    failed = replace(woken, phase=Phase.FAILED, note="it could not be woken")
    return Wake(
        group="web", host="local", domain=ONE, uuid=f"u-{ONE}", reason="", tier=tier, record=woken, otherwise=failed
    )


@pytest.mark.parametrize(("tier", "call"), [("paused", "resume"), ("saved", "start")])
def test_waking_resumes_or_starts_and_writes_the_record(tier: str, call: str) -> None:
    host = FakeHost()
    assert attempt(host, wake_of(tier), None) == (Result.DONE, "")  # type: ignore[arg-type] # a fake
    assert (host.calls, host.written["phase"], host.written["woken"]) == ([call], "booting", "1")


@pytest.mark.parametrize(("tier", "call"), [("paused", "resume"), ("saved", "start")])
def test_a_clock_is_set_when_the_guest_goes_on_and_before_its_record_lets_it_serve(tier: str, call: str) -> None:
    host, seen_then = FakeHost(), list[tuple[list[str], dict[str, str]]]()

    def set_clock(_host: object, domain: str, _uuid: str) -> None:
        seen_then.append(([*host.calls, domain], dict(host.written)))

    assert attempt(host, wake_of(tier), None, set_clock) == (Result.DONE, "")  # type: ignore[arg-type] # a fake
    assert seen_then == [([call, ONE], {})] and host.written["phase"] == "booting"


@pytest.mark.parametrize(("template", "clocks"), [("d1", [ONE]), ("", [])])
def test_a_clock_is_set_of_a_domain_of_ours_that_somebody_else_had_paused(template: str, clocks: list[str]) -> None:
    host, set_of = FakeHost(), list[str]()
    step = SetPhase(
        group="web", host="local", domain=ONE, uuid=f"u-{ONE}", reason="it runs again", was=Phase.SUSPENDED,
        record=record(ONE, Phase.WARMING, template=template),
    )  # fmt: skip
    assert attempt(host, step, None, lambda _host, domain, _uuid: set_of.append(domain)) == (Result.DONE, "")  # type: ignore[arg-type] # a fake
    assert set_of == clocks and host.written["phase"] == "warming"


class Agents:
    """Guests whose agents set the clock, refuse, or hang until ``goes_on``."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.told: list[str] = []

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool:
        self.told.append(name)
        if name == "hung":
            self.goes_on.wait(20)
        if name == "broken":
            raise HypervisorError("the agent is not available")
        return name != "none"

    def shutdown_by_agent(self, name: str, uuid: str) -> bool:
        return self.set_time(f"{name} {uuid}", uuid, 60.0)


def test_no_agent_that_fails_or_hangs_keeps_a_domain_from_being_woken() -> None:
    clocks, agents = GuestAgents("local", "clock-unconfirmed"), Agents()
    threads = [threading.Thread(target=clocks.run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for name in ("hung", "broken", "none", "good"):
        clocks.set_clock(agents, name, "u")
    assert agents.told == ["hung", "broken", "none", "good"]
    agents.goes_on.set()
    clocks.stop()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_whoever_asks_an_agent_to_shut_its_guest_down_does_not_wait_for_it() -> None:
    stops, agents = GuestAgents("local", "shutdown-unconfirmed"), Agents()
    stops.shut_down(agents, "web-0000", "u-0")
    assert agents.told == []
    thread = threading.Thread(target=stops.run, daemon=True)
    thread.start()
    stops.stop()
    thread.join(20)
    assert agents.told == ["web-0000 u-0"]


def test_what_cannot_be_woken_is_written_down_as_failed_in_one_plain_line() -> None:
    host = FakeHost(HypervisorError("unable to restore\n\x00 from /x " + "y" * 400))
    result, _ = attempt(host, wake_of("saved"), None)  # type: ignore[arg-type] # a fake
    assert (result, host.written["phase"]) == (Result.FAILED, "failed")
    assert host.written["note"].startswith("it could not be woken: unable to restore \ufffd from /x yy")
    assert len(host.written["note"]) == NOTE_LENGTH and host.written["note"].isprintable()


def test_failure_that_cannot_be_written_either_is_still_told() -> None:
    host = FakeHost(HypervisorError("refused"), is_written=False)
    assert attempt(host, wake_of("paused"), None) == (Result.FAILED, "refused")  # type: ignore[arg-type] # a fake


@pytest.mark.parametrize(
    ("error", "result"), [(HypervisorBusyError("late"), Result.UNKNOWN), (DomainGoneError("gone"), Result.FAILED)]
)
def test_late_call_writes_nothing_the_next_look_tells(error: HypervisorError, result: Result) -> None:
    host = FakeHost(error)
    assert attempt(host, wake_of("paused"), None)[0] is result  # type: ignore[arg-type] # a fake
    assert host.written == {}


# --- breaker, remarks, looks -----------------------------------------------------------------------------------------


def outcome(step: Step, result: Result = Result.DONE, error: str = "") -> Outcome:
    return Outcome(step, result, error, NOW_S)


def test_tier_that_fails_opens_its_own_breaker_only() -> None:
    assert list(count_start({}, outcome(wake_of("saved"), Result.FAILED, "no"), NOW_S)) == ["web@local/saved"]
    about = {"group": "web", "host": "local", "domain": ONE, "uuid": "u", "reason": ""}
    assert list(count_start({}, outcome(Start(**about), Result.FAILED), NOW_S)) == ["web@local"]
    failed = count_start({}, outcome(Save(**about, tier="saved", otherwise=record(ONE)), Result.FAILED), NOW_S)
    assert count_start(failed, outcome(Save(**about, tier="saved", otherwise=record(ONE))), NOW_S)["web@local/saved"]
    suspended = outcome(Suspend(**about, tier="paused", is_standby=True))
    assert count_start({}, suspended, NOW_S) == {}, "it is closed already"
    assert count_start({}, outcome(Suspend(**about, tier="paused")), NOW_S) == {}


def test_clone_that_nobody_made_to_its_end_is_told() -> None:
    (step,) = steps(wanted(1), seen(domain(ONE, Phase.CREATING, SHUTOFF, age_s=1, is_cloned=True)))
    remarks = Remarks()
    remarks.note(outcome(step), 0.0)
    assert remarks.of("web", 1.0) == (f"{ONE} (clone): its cloning was cut short, so it boots",)


def test_remarks_are_told_for_a_while_each_once() -> None:
    remarks = Remarks()
    remarks.note(outcome(wake_of("saved"), Result.FAILED, "two\nlines"), 0.0)
    remarks.note(outcome(wake_of("saved"), Result.FAILED, "two\nlines"), 5.0)
    remarks.note(outcome(wake_of("saved")), 6.0)
    assert remarks.of("web", 10.0) == (f"{ONE} (saved): two lines",)
    assert remarks.of("other", 10.0) == () and remarks.of("web", 6.0 + TOLD_S) == ()


def test_look_after_a_step_ends_it_and_outlives_an_older_listing() -> None:
    hosts = Hosts(("local",), 0.0, 3.5, {})
    before = DomainFacts(ONE, f"u-{ONE}", PAUSED, "user", True, record(ONE, Phase.STANDBY, tier="paused").to_metadata())
    hosts.observed(Observation("local", 1.0, (before,), None, 2))
    assert hosts.is_standing_by("local", f"u-{ONE}") and not hosts.is_standing_by("other", f"u-{ONE}")
    step = wake_of("paused")
    hosts.begun(step, 2.0)
    after = replace(before, state=RUNNING, metadata=step.record.to_metadata())
    hosts.finished(Outcome(step, Result.DONE, "", 3.0, after, 3.0))
    assert not hosts.is_busy("local", ONE) and power(hosts) is RUNNING
    hosts.observed(Observation("local", 2.5, (before,), None, 2))
    assert power(hosts) is RUNNING, "that listing began before the step ended"
    hosts.observed(Observation("local", 3.5, (before,), None, 2))
    assert power(hosts) is PAUSED


def power(hosts: Hosts) -> DomainState:
    return hosts.seen(4.0)[0].domains[0].power


# --- sizing ------------------------------------------------------------------------------------------------------


def auto(**keys: object) -> Group:
    return Group.model_validate({"prefix": "web-", "min": 1, "max": 6, "warm": {"sizing": "auto", **keys}})


def test_fixed_sizes_are_those_of_the_file() -> None:
    group = Group.model_validate({"prefix": "web-", "warm": {"paused": 2, "saved": 1}})
    assert choose(group, 4, (), 0.0) == Standby(2, 1)


@pytest.mark.parametrize(("maximum", "expected"), [(3, (2, 1)), (2, (2, 0)), (1, (1, 0)), (0, (0, 0))])
def test_of_fixed_sizes_no_more_stand_by_than_could_serve(maximum: int, expected: tuple[int, int]) -> None:
    group = Group.model_validate({"prefix": "web-", "min": 1, "surge": 1, "warm": {"paused": 2, "saved": 1}})
    found = choose(group, maximum, (), 0.0)
    assert (found.paused, found.saved) == expected
    assert ("could never serve" in found.why) is (expected != (2, 1))


@pytest.mark.parametrize(
    ("demand", "memory_mib", "expected"),
    [
        ((), 1024, (1, 0)),
        (((0.0, 1), (10.0, 2), (20.0, 4)), 1024, (3, 0)),
        (((0.0, 1), (10.0, 2), (20.0, 4)), 512, (2, 1)),
        (((0.0, 1), (10.0, 2), (20.0, 4)), 0, (0, 3)),
        (((0.0, 1), (10.0, 2), (200.0, 4)), 1024, (2, 0)),
        (((0.0, 6), (10.0, 1)), 1024, (1, 0)),
        (((0.0, 0), (10.0, 9)), 10240, (5, 0)),
    ],
)
def test_auto_keeps_what_demand_asked_for_within_a_boot(
    demand: tuple[tuple[float, int], ...], memory_mib: int, expected: tuple[int, int]
) -> None:
    chosen = choose(auto(memory_mib=memory_mib), 6, demand, 300.0)
    assert (chosen.paused, chosen.saved) == expected
    assert chosen.why.startswith(f"warm auto: {expected[0]} paused, {expected[1]} saved: ")


@pytest.mark.parametrize(("lead_s", "paused"), [(None, 3), (60.0, 3), (12.0, 3), (5.0, 2), (0.5, 2)])
def test_auto_counts_rises_within_the_measured_lead_time(lead_s: float | None, paused: int) -> None:
    demand = ((0.0, 1), (10.0, 2), (20.0, 4))
    chosen = choose(auto(), 6, demand, 300.0, lead_s)
    assert chosen.paused == paused
    assert ("no lead time measured yet" in chosen.why) is (lead_s is None)


def test_the_lead_time_is_that_of_the_way_new_domains_are_made_on_the_slowest_host() -> None:
    leads = [
        LeadTime(tier=tier, host=host, n=5, p50_s=1.0, p95_s=p95_s)
        for tier, host, p95_s in [("", "a", 3.0), ("", "b", 9.0), ("clone", "a", 0.6), ("paused", "a", 0.1)]
    ]
    assert (of_new(leads, "cold"), of_new(leads, "clone"), of_new([], "cold")) == (9.0, 0.6, None)


def test_rises_are_forgotten_after_hours_and_never_before() -> None:
    demand = ((0.0, 1), (10.0, 3))
    assert largest_rise(demand, 10.0 + HISTORY_S, 60.0) == 2
    assert largest_rise(demand, 11.0 + HISTORY_S, 60.0) == 0
    assert with_demand(demand, 20.0 + HISTORY_S, 4) == ((10.0, 3), (20.0 + HISTORY_S, 4))


def test_clock_that_jumped_back_forgets_what_is_to_come() -> None:
    assert with_demand(((0.0, 1), (900.0, 3)), 100.0, 2) == ((0.0, 1), (100.0, 2))


def test_demand_outlives_a_restart_and_a_file_from_before_it(tmp_path: object) -> None:
    path = tmp_path / "actuator.json"  # type: ignore[operator] # a Path
    write(path, Stored(demand={"web": ((1.0, 2), (3.0, 4))}), "b")
    assert read(path, 0.0, "b").demand == {"web": ((1.0, 2), (3.0, 4))}
    path.write_text('{"boot_id": "b", "breakers": {}, "boot_times_s": {}, "owned": {}}')
    assert read(path, 0.0, "b") == Stored()
