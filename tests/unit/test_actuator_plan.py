"""What the planner does about one domain, and about a group: tables, the whole answer compared."""

from dataclasses import replace

import pytest

from common.config import Group, Image, Network
from common.domain import DomainState
from common.messages import DesiredCapacity
from common.phases import FATES, Phase
from services.actuator.core import breaker as breakers
from services.actuator.core.doubt import Doubt
from services.actuator.core.life import ADVANCE
from services.actuator.core.members import deadline_s, view
from services.actuator.core.membership import membership
from services.actuator.core.plan import Plan, plan
from services.actuator.core.record import Record, Unreadable, read
from services.actuator.core.seen import Backend, Load, Probe, Seen, SeenDomain, SeenHost, Template, Wanted
from services.actuator.core.steps import Define, Destroy, SetPhase, Start, Step, Suspend
from services.actuator.core.victims import pick

NOW_S = 5000.0
RUNNING, PAUSED, SHUTOFF, CRASHED = DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF, DomainState.CRASHED


def record(name: str, phase: Phase = Phase.READY, age_s: float = 100.0, **changes: object) -> Record:
    values: dict[str, object] = {
        "group": "web",
        "uuid": f"u-{name}",
        "host": "local",
        "phase": phase,
        "since_mono_s": NOW_S - age_s,
        "since_s": 0.0,
        "boot_id": "b",
        "started_mono_s": NOW_S - age_s,
        "slot": int(name[-4:]),
        "template": "d1",
        "stop_terms": "10" if phase is Phase.STOPPING else "",
    }
    return Record(**(values | changes))  # type: ignore[arg-type] # checked by Record itself


def domain(
    name: str, phase: Phase = Phase.READY, power: DomainState = RUNNING, age_s: float = 100.0, **changes: object
) -> SeenDomain:
    return SeenDomain("local", name, f"u-{name}", power, record(name, phase, age_s, **changes))


def wanted(count: int | None, **changes: object) -> Wanted:
    values: dict[str, object] = {"prefix": "web-", "min": 0, "max": 4, "image": Image(cpu_quota=0.4)}
    group = Group.model_validate(values | changes)
    body = None
    if count is not None:
        body = DesiredCapacity(group="web", generation=1, desired=count, minimum=0, maximum=group.maximum)
    return Wanted("web", group, Network(slots=20), body, "decision-1", template=Template("k", "i", "d1"))


def seen(*domains: SeenDomain, backends: dict[tuple[str, str], Backend] | None = None, **changes: object) -> Seen:
    found = {
        (d.name, d.uuid): Backend("draining" if d.record and d.record.phase is Phase.DRAINING else "ready", True, 1)
        for d in domains
    }
    hosts = (SeenHost("local", domains),)
    values: dict[str, object] = {"hosts": hosts, "backends": found | (backends or {}), "load": Load(0, 0, 0.0, 0.0)}
    return Seen(epoch_s=1e9, boot_id="b", **(values | changes))  # type: ignore[arg-type] # a test's values


def steps(want: Wanted, see: Seen) -> tuple[Step, ...]:
    return plan(want, see, NOW_S).steps


def brief(found: tuple[Step, ...]) -> list[str]:
    """Each step as one word or two: what, to whom, and for a phase which."""
    return [
        f"{type(step).__name__} {step.domain}" + (f" {step.record.phase}" if isinstance(step, SetPhase) else "")
        for step in found
    ]


ONE = "web-0000"
TABLE = [
    # phase, power, age, what follows
    (Phase.CREATING, SHUTOFF, 1, ["Start web-0000"]),
    (Phase.CREATING, RUNNING, 1, ["SetPhase web-0000 booting"]),
    (Phase.CREATING, SHUTOFF, 31, ["SetPhase web-0000 failed"]),
    (Phase.CREATING, PAUSED, 1, []),
    (Phase.BOOTING, RUNNING, 1, []),
    (Phase.BOOTING, RUNNING, 91, ["SetPhase web-0000 failed"]),
    (Phase.BOOTING, SHUTOFF, 1, ["SetPhase web-0000 failed"]),
    (Phase.BOOTING, DomainState.UNKNOWN, 500, []),
    (Phase.WARMING, RUNNING, 1, ["SetPhase web-0000 ready"]),
    (Phase.WARMING, CRASHED, 1, ["SetPhase web-0000 failed"]),
    (Phase.READY, RUNNING, 9999, []),
    (Phase.READY, SHUTOFF, 1, ["SetPhase web-0000 failed"]),
    (Phase.READY, PAUSED, 1, ["SetPhase web-0000 suspended"]),
    (Phase.READY, DomainState.STOPPING, 1, ["SetPhase web-0000 suspended"]),
    (Phase.DRAINING, RUNNING, 1, []),
    (Phase.DRAINING, RUNNING, 31, ["SetPhase web-0000 stopping"]),
    (Phase.DRAINING, SHUTOFF, 1, ["Undefine web-0000"]),
    (Phase.DRAINING, PAUSED, 1, []),
    (Phase.STOPPING, RUNNING, 1, ["Shutdown web-0000"]),
    (Phase.STOPPING, RUNNING, 11, ["Destroy web-0000"]),
    (Phase.STOPPING, SHUTOFF, 1, ["Undefine web-0000"]),
    (Phase.STANDBY, RUNNING, 1, []),
    (Phase.SUSPENDED, PAUSED, 1, []),
    (Phase.SUSPENDED, RUNNING, 1, ["SetPhase web-0000 booting"]),
    (Phase.SUSPENDED, SHUTOFF, 1, ["SetPhase web-0000 failed"]),
    (Phase.FAILED, RUNNING, 1, ["Destroy web-0000"]),
    (Phase.FAILED, PAUSED, 1, []),
    (Phase.FAILED, CRASHED, 1, ["Undefine web-0000"]),
    (Phase.GONE, SHUTOFF, 1, ["Undefine web-0000"]),
    (Phase.GONE, RUNNING, 1, []),
]


@pytest.mark.parametrize(("phase", "power", "age_s", "expected"), TABLE)
def test_every_phase_and_power_has_its_next_step(
    phase: Phase, power: DomainState, age_s: float, expected: list[str]
) -> None:
    assert brief(steps(wanted(None), seen(domain(ONE, phase, power, age_s)))) == expected


def test_every_phase_has_a_way_on_and_a_line_in_the_table() -> None:
    assert set(ADVANCE) == set(Phase) == {row[0] for row in TABLE}


@pytest.mark.parametrize(("age_s", "expected"), [(1, []), (31, ["SetPhase web-0000 failed"])])
def test_start_that_libvirt_still_carries_out_is_waited_for(age_s: float, expected: list[str]) -> None:
    starting = replace(domain(ONE, Phase.CREATING, PAUSED, age_s), power_reason="starting-up")
    assert brief(steps(wanted(None), seen(starting))) == expected


@pytest.mark.parametrize("phase", list(Phase))
def test_every_deadline_names_a_setting_of_the_group(phase: Phase) -> None:
    assert (deadline_s(wanted(1), phase) is None) is (FATES[phase].deadline is None)


def test_right_answer_takes_a_booting_domain_on() -> None:
    see = seen(domain(ONE, Phase.BOOTING, age_s=1), probes={(ONE, f"u-{ONE}"): Probe(True, ONE)})
    assert brief(steps(wanted(None), see)) == ["SetPhase web-0000 warming"]


def test_answer_from_another_domain_takes_nobody_on() -> None:
    see = seen(domain(ONE, Phase.BOOTING, age_s=1), probes={(ONE, f"u-{ONE}"): Probe(False, "web-0003")})
    assert steps(wanted(None), see) == ()


@pytest.mark.parametrize(("age_s", "step"), [(1.0, "SetQuota web-0000"), (4.0, "SetPhase web-0000 ready")])
def test_boosted_domain_gets_its_quota_before_it_is_ready_unless_that_takes_long(age_s: float, step: str) -> None:
    see = seen(domain(ONE, Phase.WARMING, age_s=age_s, is_boosted=True))
    assert brief(steps(wanted(None), see)) == [step]


def test_domain_in_service_gets_the_quota_that_could_not_be_set_before() -> None:
    assert brief(steps(wanted(None), seen(domain(ONE, is_boosted=True)))) == ["SetQuota web-0000"]


def test_drain_ends_at_zero_in_flight() -> None:
    key = (ONE, f"u-{ONE}")
    see = seen(domain(ONE, Phase.DRAINING, age_s=1), backends={key: Backend("draining", True, 0)})
    assert brief(steps(wanted(None), see)) == ["SetPhase web-0000 stopping"]


@pytest.mark.parametrize("state", ["ready", "joining"])
def test_drain_does_not_end_before_the_balancer_has_begun_it(state: str) -> None:
    see = seen(domain(ONE, Phase.DRAINING, age_s=1), backends={(ONE, f"u-{ONE}"): Backend(state, True, 0)})
    assert steps(wanted(None), see) == ()


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (None, "an unknown number"),
        (Backend("draining", True, 0, 0.0, False), "an unknown number"),
        (Backend("left", None, 0, 0.0, False), "an unknown number"),
        (Backend("draining", True, 2, 0.0, False), "at least 2"),
    ],
)
def test_a_drain_of_which_it_is_unknown_what_is_in_flight_lasts_until_its_deadline(
    backend: Backend | None, said: str
) -> None:
    backends = {} if backend is None else {(ONE, f"u-{ONE}"): backend}
    at = lambda age_s: replace(seen(domain(ONE, Phase.DRAINING, age_s=age_s)), backends=backends)  # noqa: E731
    assert steps(wanted(None), at(29)) == ()
    (step,) = steps(wanted(None), at(31))
    assert isinstance(step, SetPhase) and step.record.phase is Phase.STOPPING
    assert step.reason.endswith(f", {said} in flight")


def test_who_has_left_rotation_and_is_still_worked_on_by_an_old_process_drains_on() -> None:
    see = seen(domain(ONE, Phase.DRAINING, age_s=1), backends={(ONE, f"u-{ONE}"): Backend("left", None, 2)})
    assert steps(wanted(None), see) == ()


def test_drain_waits_for_a_silent_balancer_beyond_its_deadline() -> None:
    assert steps(wanted(None), replace(seen(domain(ONE, Phase.DRAINING, age_s=500)), backends=None)) == ()


def test_other_boot_restarts_the_clock_of_a_phase_once() -> None:
    old = domain(ONE, Phase.BOOTING, age_s=500, boot_id="other")
    (step,) = steps(wanted(None), seen(old))
    assert isinstance(step, SetPhase)
    assert (step.record.phase, step.record.since_mono_s, step.record.boot_id) == (Phase.BOOTING, NOW_S, "b")


def test_failed_domain_that_is_kept_is_paused_and_then_left() -> None:
    keep = wanted(None, keep_failed=True)
    assert steps(keep, seen(domain(ONE, Phase.FAILED, PAUSED))) == ()
    assert steps(keep, seen(domain(ONE, Phase.FAILED, CRASHED))) == ()
    (first,) = steps(keep, seen(domain(ONE, Phase.FAILED, RUNNING)))
    assert isinstance(first, SetPhase) and first.record.is_kept and first.record.phase is Phase.FAILED
    (step,) = steps(keep, seen(domain(ONE, Phase.FAILED, RUNNING, is_kept=True)))
    assert isinstance(step, Suspend)


def test_new_domains_take_the_lowest_free_names_and_slots() -> None:
    stranger = SeenDomain("local", "web-0001", "u-x", RUNNING, None)
    found = steps(wanted(3), seen(domain("web-0002"), stranger))
    assert [(s.domain, s.record.slot) for s in found if isinstance(s, Define)] == [("web-0000", 0), ("web-0003", 1)]


def test_definition_carries_the_whole_record_and_its_cause() -> None:
    (step,) = steps(wanted(1), seen())
    assert isinstance(step, Define)
    assert step.record == Record(
        group="web", uuid=step.uuid, host="local", phase=Phase.CREATING, since_mono_s=NOW_S, since_s=1e9, boot_id="b",
        slot=0, cause="decision-1", template="d1", generation=1, is_boosted=True, decided_mono_s=NOW_S,
    )  # fmt: skip


def test_crash_is_told_and_replaced_in_one_plan() -> None:
    see = seen(domain("web-0000", power=CRASHED), domain("web-0001"))
    found = steps(wanted(2), replace(see, failure_causes={"u-web-0000": "monitor/1/failure/7"}))
    assert brief(found) == ["SetPhase web-0000 failed", "Define web-0002"]
    assert {step.cause for step in found} == {"monitor/1/failure/7"}
    assert found[1].reason == "replaces web-0000"


def test_who_failed_is_named_as_replaced_and_not_one_that_is_suspended() -> None:
    held = domain("web-0000", Phase.SUSPENDED, PAUSED)
    found = steps(wanted(3), seen(held, domain("web-0001", power=CRASHED), domain("web-0002"), domain("web-0003")))
    (made,) = [step for step in found if isinstance(step, Define)]
    assert made.reason == "replaces web-0001"
    (stand_in,) = [s for s in steps(wanted(2), seen(held, domain("web-0001"))) if isinstance(s, Define)]
    assert stand_in.reason == "stands in for web-0000"


def test_domain_being_defined_counts_and_is_not_defined_again() -> None:
    (first,) = steps(wanted(1), seen())
    assert steps(wanted(1), seen(in_flight=(first,))) == ()


def test_busy_domain_is_left_alone() -> None:
    busy = Destroy(group="web", host="local", domain=ONE, uuid=f"u-{ONE}", reason="")
    assert steps(wanted(None), seen(domain(ONE, Phase.FAILED), in_flight=(busy,))) == ()


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.GONE])
def test_ceiling_counts_domains_in_every_phase(phase: Phase) -> None:
    others = [domain(f"web-{index:04d}", phase, PAUSED) for index in range(5)]
    found = plan(wanted(4, keep_failed=True), seen(*others), NOW_S)
    assert not any(isinstance(step, Define) for step in found.steps)
    assert found.view.owned_total == 5


def test_operators_larger_bound_raises_the_ceiling_up_to_the_slots() -> None:
    base = wanted(4)
    assert base.desired is not None
    raised = replace(base, desired=base.desired.model_copy(update={"maximum": 9, "desired": 9}), slots=8)
    assert (raised.maximum, raised.ceiling) == (8, 9)
    assert len(steps(raised, replace(seen(), hosts=(SeenHost("local", cpus=8),)))) == 8


def test_older_generation_than_the_domains_were_made_for_is_not_applied() -> None:
    see = seen(domain("web-0000", generation=7), domain("web-0001", generation=6))
    found = plan(wanted(1), see, NOW_S)
    assert found.steps == () and "generation 1" in found.blocked[0]
    assert membership(wanted(1), see, found, (), NOW_S).generation_seen == 7


def test_scale_in_takes_the_emptiest_then_the_newest() -> None:
    see = seen(
        domain("web-0000", age_s=900), domain("web-0001", age_s=500), domain("web-0002", age_s=100),
        backends={("web-0001", "u-web-0001"): Backend("ready", True, 0)},
    )  # fmt: skip
    assert brief(steps(wanted(2), see)) == ["SetPhase web-0001 draining"]
    even = seen(domain("web-0000", age_s=900), domain("web-0001", age_s=500), domain("web-0002", age_s=100))
    assert brief(steps(wanted(2), even)) == ["SetPhase web-0002 draining"]


def test_domain_that_does_not_serve_yet_leaves_first_and_without_a_drain() -> None:
    see = seen(domain("web-0000", age_s=10), domain("web-0001", Phase.BOOTING, age_s=50))
    assert brief(steps(wanted(1), see)) == ["SetPhase web-0001 stopping"]


def test_victims_are_never_protected() -> None:
    see = seen(domain("web-0000", protected=True), domain("web-0001", Phase.BOOTING, protected=True))
    assert pick(view(wanted(0), see).members, 5, spare=5) == []


def test_who_stands_in_for_one_that_serves_again_goes_before_an_idler_one() -> None:
    first, second, stand_in = (domain(name) for name in ("web-0000", "web-0001", "web-0002"))
    assert stand_in.record is not None
    stand_in = replace(stand_in, record=replace(stand_in.record, replaces=first.uuid))
    busy = {("web-0002", stand_in.uuid): Backend("ready", True, 5)}
    assert brief(steps(wanted(2), seen(first, second, stand_in, backends=busy))) == ["SetPhase web-0002 draining"]
    assert brief(steps(wanted(1), seen(second, stand_in, backends=busy))) == ["SetPhase web-0001 draining"]


def test_an_image_that_cannot_be_used_is_told_before_a_domain_is_needed() -> None:
    want = replace(wanted(1), template=None, template_note="vmlinuz does not match its manifest")
    has_all = plan(want, seen(domain("web-0000")), NOW_S)
    assert has_all.blocked == () and "no other domain can be made: vmlinuz does not match its manifest" in has_all.notes
    lacks_one = plan(want, seen(), NOW_S)
    assert lacks_one.blocked == ("vmlinuz does not match its manifest",) and lacks_one.notes == ()


def test_victim_that_is_busy_keeps_its_place_and_nobody_goes_for_it() -> None:
    starting = domain("web-0001", Phase.CREATING, SHUTOFF, age_s=1)
    busy = Start(group="web", host="local", domain="web-0001", uuid="u-web-0001", reason="")
    assert steps(wanted(1), seen(domain("web-0000"), starting, in_flight=(busy,))) == ()


FORBIDDEN = {
    "the decider is silent": (lambda w: replace(w, is_desired_fresh=False), lambda s: s),
    "scale-in is not allowed now": (
        lambda w: replace(w, desired=w.desired.model_copy(update={"is_scale_in_allowed": False})),
        lambda s: s,
    ),
    "the balancer is silent": (lambda w: w, lambda s: replace(s, backends=None)),
    "too many domains are unhealthy": (
        lambda w: w,
        lambda s: replace(s, backends={key: Backend("ready", False, 0, 5.0) for key in s.backends}),
    ),
}


@pytest.mark.parametrize("why", FORBIDDEN)
def test_scale_in_needs_fresh_and_complete_data(why: str) -> None:
    change_wanted, change_seen = FORBIDDEN[why]
    see = seen(domain("web-0000"), domain("web-0001"), domain("web-0002"))
    found = plan(change_wanted(wanted(1)), change_seen(see), NOW_S)
    assert found.steps == ()
    assert any(why in text for text in found.blocked)


def test_single_sick_domain_is_replaced_although_it_is_the_whole_group() -> None:
    see = seen(domain(ONE), backends={(ONE, f"u-{ONE}"): Backend("ready", False, 0, 60.0)})
    assert brief(steps(wanted(1), see)) == ["SetPhase web-0000 failed", "Define web-0001"]


@pytest.mark.parametrize(("sick", "of", "given_up"), [(1, 2, 1), (2, 4, 1), (4, 4, 1), (2, 5, 2)])
def test_those_that_fail_together_are_given_up_one_at_a_time(sick: int, of: int, given_up: int) -> None:
    domains = [domain(f"web-{index:04d}") for index in range(of)]
    ill = {(d.name, d.uuid): Backend("ready", False, 0, 60.0) for d in domains[:sick]}
    found = steps(wanted(of, max=8), seen(*domains, backends=ill))
    assert [step.domain for step in found if isinstance(step, SetPhase)] == [d.name for d in domains[:given_up]]


def test_sick_for_less_than_the_grace_is_not_replaced() -> None:
    see = seen(domain(ONE), backends={(ONE, f"u-{ONE}"): Backend("ready", False, 0, 9.0)})
    assert steps(wanted(1), see) == ()


def test_unreachable_host_is_neither_touched_nor_counted_for_scale_in() -> None:
    away = SeenHost("far", (replace(domain("web-0001", power=CRASHED), host="far"),), False, 5.0)
    near = SeenHost("local", (domain("web-0000"),))
    see = replace(seen(domain("web-0000")), hosts=(near, away))
    assert steps(wanted(2, hosts=("local", "far")), see) == ()
    assert steps(wanted(1, hosts=("local", "far")), see) == ()


def passive(mode: str, heard: str | None) -> Plan:
    """Return the plan of a group whose file says ``mode`` and whose decider, where it has spoken, says ``heard``."""
    want = wanted(4, mode=mode)
    assert want.desired is not None
    want = replace(want, desired=want.desired.model_copy(update={"mode": heard}) if heard else None)
    see = seen(
        domain("web-0000", power=CRASHED), domain("web-0001", Phase.WARMING), domain("web-0002", Phase.STOPPING),
        domain("web-0003", Phase.CREATING, SHUTOFF, age_s=1),
    )  # fmt: skip
    return plan(want, see, NOW_S)


def test_a_group_that_is_off_only_writes_down_what_is() -> None:
    found = passive("on", "off")
    assert brief(found.steps) == ["SetPhase web-0001 ready"]
    assert "mode off: nothing is started, stopped or removed" in found.blocked


@pytest.mark.parametrize(("mode", "heard"), [("on", "observe"), ("observe", "observe"), ("observe", None)])
def test_a_group_that_only_observes_writes_nothing_at_all(mode: str, heard: str | None) -> None:
    found = passive(mode, heard)
    assert found.steps == ()
    assert "mode observe: nothing is changed, and nothing written down" in found.blocked


STRANGER = SeenDomain("local", "web-0009", "u-foreign", RUNNING, None)
HELD = SeenDomain("local", "web-0008", "u-held", PAUSED, None, "user")
FAR = SeenHost("far", (), is_reachable=False, unreachable_s=60.0)
IN_THE_WAY = {
    "domains under our prefix that are not ours are left alone: web-0009": ({}, (STRANGER,), ()),
    "not of the group before they run: web-0008": ({"kind": "existing", "image": {}}, (HELD,), ()),
    "running and not answering, left as they are: web-0002": (
        {"kind": "existing", "image": {}},
        (domain("web-0002", Phase.STANDBY),),
        (),
    ),
    "not reachable: far": ({"hosts": ("local", "far")}, (), (FAR,)),
    "records that cannot be true": ({}, (replace(STRANGER, unreadable=Unreadable("since_s")),), ()),
    "mode off: nothing is started": ({"mode": "off"}, (), ()),
    "mode observe: nothing is changed": ({"mode": "observe"}, (), ()),
}


@pytest.mark.parametrize("count", [2, 3], ids=["has all it wants", "lacks one"])
@pytest.mark.parametrize("text", IN_THE_WAY)
def test_what_is_in_the_way_blocks_only_a_group_that_lacks_somebody(text: str, count: int) -> None:
    keys, others, hosts = IN_THE_WAY[text]
    want = wanted(count, **keys)
    if "mode" in keys and want.desired is not None:
        want = replace(want, desired=want.desired.model_copy(update={"mode": keys["mode"]}))
    see = seen(domain("web-0000"), domain("web-0001"), *others)
    see = replace(see, hosts=(*see.hosts, *hosts))
    told = membership(want, see, plan(want, see, NOW_S), (), NOW_S)
    assert (text in told.blocked, any(text in note for note in told.notes)) == (count == 3, count == 2)
    assert count == 3 or told.blocked == ""


def test_too_many_that_were_unhealthy_block_nobody_once_all_serve_again() -> None:
    want, crowd = wanted(2), Doubt(crowd_s=NOW_S - 3)
    see = seen(domain("web-0000"), domain("web-0001"), doubt=crowd)
    found = plan(want, see, NOW_S)
    assert found.blocked == () and any("too many domains are unhealthy" in note for note in found.notes)


def test_a_member_that_is_to_be_replaced_counts_as_missing_for_what_is_in_the_way() -> None:
    see = seen(domain("web-0000", order="replace"), STRANGER)
    assert any("web-0009" in text for text in plan(wanted(1), see, NOW_S).blocked)


# --- who takes whose place -----------------------------------------------------------------------------------------


def reasons(*domains: SeenDomain, count: int, gone: tuple[SeenDomain, ...] = ()) -> list[str]:
    see = seen(*domains)
    found = plan(wanted(count), replace(see, hosts=(replace(see.hosts[0], vanished=gone),)), NOW_S)
    return [step.reason for step in found.steps if isinstance(step, Define)]


def test_each_domain_is_replaced_by_one() -> None:
    lost = domain("web-0001", Phase.FAILED, CRASHED, 5.0)
    assert reasons(lost, count=1) == ["replaces web-0001"]
    successor = domain("web-0000", Phase.BOOTING, age_s=4.0, replaces="u-web-0001")
    assert reasons(lost, successor, count=2) == ["fewer domains than desired"], "it is replaced already"
    other = domain("web-0002", Phase.FAILED, CRASHED, 2.0)
    assert reasons(lost, successor, other, count=2) == ["replaces web-0002"]


def test_one_that_libvirt_does_not_know_any_more_is_replaced_by_name() -> None:
    gone = domain("web-0002", Phase.FAILED, SHUTOFF, 2.0)
    assert reasons(count=1, gone=(gone,)) == ["replaces web-0002"]
    successor = domain("web-0003", Phase.BOOTING, age_s=1.0, replaces="u-web-0002")
    assert reasons(successor, count=2, gone=(gone,)) == ["fewer domains than desired"]


def test_whom_a_domain_stands_in_for_is_written_into_its_record() -> None:
    (step,) = [s for s in steps(wanted(1), seen(domain(ONE, Phase.FAILED, CRASHED, 5.0))) if isinstance(s, Define)]
    assert step.record.replaces == f"u-{ONE}" and read(step.record.to_metadata()) == step.record


def test_the_decider_s_mode_counts_more_than_the_file_s() -> None:
    assert passive("observe", "on").steps != ()


def test_who_failed_last_is_started_last_and_of_the_others_the_lowest_index() -> None:
    pool = tuple(SeenDomain("local", f"web-{i:04d}", f"u-{i}", SHUTOFF, None) for i in range(4))
    known = {
        breakers.domain_key("web", "local", "web-0000"): breakers.Breaker(1, last_failure_s=NOW_S - 100),
        breakers.domain_key("web", "local", "web-0001"): breakers.Breaker(1, last_failure_s=NOW_S - 200),
        breakers.domain_key("web", "local", "web-0003"): breakers.Breaker(relapses=1, relapsed_s=NOW_S - 300),
    }
    see = replace(seen(), hosts=(SeenHost("local", pool),), breakers=known)
    found = steps(wanted(4, kind="existing"), see)
    assert [step.domain for step in found] == ["web-0002", "web-0003", "web-0001", "web-0000"]


def test_missing_image_is_reported_and_creates_nothing() -> None:
    found = plan(replace(wanted(1), template=None, template_note="no guest image"), seen(), NOW_S)
    assert (found.steps, found.blocked) == ((), ("no guest image",))


def test_no_room_is_reported() -> None:
    host = SeenHost("local", free_memory_bytes=100 * 1024 * 1024)
    found = plan(wanted(1), replace(seen(), hosts=(host,)), NOW_S)
    assert (found.steps, found.blocked) == ((), ("local: not enough free memory for 128 MiB more",))


def test_host_without_acceleration_says_why() -> None:
    host = SeenHost("local", accel=None, note="the bridge asbr0 is taken")
    assert plan(wanted(1), replace(seen(), hosts=(host,)), NOW_S).blocked == ("local: the bridge asbr0 is taken",)


def test_open_breaker_tries_another_host() -> None:
    opened = {breakers.key("web", "a"): breakers.Breaker(3, 1, NOW_S + 30, NOW_S)}
    see = replace(seen(), hosts=(SeenHost("a"), SeenHost("b")), breakers=opened)
    assert [step.host for step in steps(wanted(2, hosts=("a", "b")), see)] == ["b", "b"]


def test_exhausted_network_slots_are_reported() -> None:
    full = replace(wanted(2), network=Network(slots=1))
    assert plan(full, seen(domain("web-0000")), NOW_S).blocked == ("local: all 1 network slots are taken",)


def test_just_freed_slot_is_used_last() -> None:
    host = SeenHost("local", quarantined_slots=frozenset({0}))
    (step,) = steps(wanted(1), replace(seen(), hosts=(host,)))
    assert isinstance(step, Define) and step.record.slot == 1
    (step,) = steps(replace(wanted(1), network=Network(slots=1)), replace(seen(), hosts=(host,)))
    assert isinstance(step, Define) and step.record.slot == 0


def test_dead_domain_is_told_as_failed_before_its_record_says_so() -> None:
    see = seen(domain("web-0000", power=CRASHED), domain("web-0001"))
    want = wanted(2)
    message = membership(want, see, plan(want, see, NOW_S), (3.0, 5.0, 4.0), NOW_S)
    assert [(m.name, m.phase, m.address) for m in message.members] == [
        ("web-0000", Phase.FAILED, "192.168.150.10"),
        ("web-0001", Phase.READY, "192.168.150.11"),
    ]
    assert (message.boot_p50_s, message.boot_p95_s, message.owned_total, message.ceiling) == (4.0, 5.0, 2, 5)


def test_ordered_replacement_waits_for_the_new_domain() -> None:
    old = domain("web-0000", order="replace")
    assert brief(steps(wanted(1), seen(old))) == ["Define web-0001"]
    assert steps(wanted(1), seen(old, domain("web-0001", Phase.BOOTING, age_s=1))) == ()
    assert brief(steps(wanted(1), seen(old, domain("web-0001")))) == ["SetPhase web-0000 draining"]


def test_ordered_replacement_goes_first_where_there_is_no_room_for_two() -> None:
    old = domain("web-0000", order="replace")
    assert brief(steps(wanted(1, max=1, surge=0), seen(old))) == ["SetPhase web-0000 draining"]
