"""Domains that somebody else pauses, saves or starves, in the model world: they wait, come back, and are not ended."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain import DomainState
from services.actuator.core.steps import Define
from tests.sim.actuator_model import FakeDomain, World, group
from tests.sim.test_actuator_existing import running, users_world

PAUSED, RUNNING, SHUTOFF = DomainState.PAUSED, DomainState.RUNNING, DomainState.SHUTOFF
ONE = "web-0000"


def calls(world: World, name: str) -> list[str]:
    return [call for _, call, each in world.log if each == name]


def one(world: World, name: str = ONE) -> FakeDomain:
    return world.hosts["local"].by_name[name]


def pause(domain: FakeDomain, reason: str = "user") -> None:
    domain.become(PAUSED, reason)
    domain.is_held = True


def let_go(domain: FakeDomain) -> None:
    domain.become(RUNNING, "unpaused")
    domain.is_held = False


def serving(kind: str, desired: int = 2, **changes: object) -> World:
    world = users_world(running=(0, 1), **changes) if kind == "existing" else World(group(**changes))
    world.want(desired)
    world.run_until(lambda: world.ready() == desired)
    world.run(5)
    return world


KINDS = pytest.mark.parametrize("kind", ["existing", "template"])


@KINDS
@pytest.mark.parametrize("reason", ["user", "snapshot", "dump", "save", "migration", "unknown"])
def test_paused_domain_is_out_of_rotation_at_once_and_back_when_it_runs(kind: str, reason: str) -> None:
    world = serving(kind)
    pause(one(world), reason)
    world.tick()
    assert world.phases()[ONE] == "suspended"
    world.run(3)
    let_go(one(world))
    world.run_until(lambda: world.phases()[ONE] == "ready", 4)
    assert not {"destroy", "shutdown", "undefine", "define", "start"} & set(calls(world, ONE)[3:])
    assert len([d for d in world.everything() if d.state is RUNNING]) == 2, "nobody stood in for three seconds"


@KINDS
def test_pause_of_20_s_costs_the_domain_nothing_and_its_stand_in_leaves(kind: str) -> None:
    world = serving(kind)
    before = calls(world, ONE)
    pause(one(world))
    world.run(20)
    assert world.phases()[ONE] == "suspended" and world.ready() == 2, "another one stands in"
    stand_in = next(name for name in world.phases() if name not in (ONE, "web-0001"))
    let_go(one(world))
    fewest = []
    world.run_until(lambda: fewest.append(world.ready()) or (world.ready() == 2 and len(running(world)) == 2))
    assert min(fewest) == 2, "nobody leaves before the one that came back serves"
    assert running(world) == [ONE, "web-0001"], "who stood in leaves, not the one that came back"
    assert set(calls(world, ONE)[len(before) :]) == {"set_metadata"}
    assert "shutdown" in calls(world, stand_in) and "destroy" not in calls(world, stand_in)
    assert [event.name for event in world.events if event.domain == ONE][-3:] == [
        "domain-suspended",
        "domain-resumed",
        "domain-ready",
    ]


@KINDS
def test_last_one_serving_is_stood_in_for_at_once(kind: str) -> None:
    world = serving(kind, desired=1)
    pause(one(world), "snapshot")
    world.run(1)
    assert [name for _, call, name in world.log if call == "start"][-1] == "web-0001"


def test_without_room_nobody_stands_in_nothing_is_ended_and_status_says_why() -> None:
    world = serving("template", desired=1, max=1, surge=0)
    pause(one(world))
    world.run(400)
    assert list(world.phases()) == [ONE] and world.trespasses == []
    assert world.message is not None
    assert "web-0000 keeps its place: it was suspended by hand or by another program" in world.message.blocked
    let_go(one(world))
    world.run_until(lambda: world.ready() == 1, 5)


def test_operator_is_told_once_of_a_pause_that_does_not_end() -> None:
    world = serving("existing")
    pause(one(world), "snapshot")
    world.run(590)
    assert not [event for event in world.events if event.name == "still-suspended"]
    world.run(100)
    (event,) = [event for event in world.events if event.name == "still-suspended"]
    assert (event.level, event.domain) == ("warning", ONE)
    assert event.text == "a snapshot of it is being taken, for more than 600 s; it is left as it is"


@KINDS
def test_managed_save_of_the_owner_is_neither_undefined_nor_started(kind: str) -> None:
    world = serving(kind)
    domain = one(world)
    domain.become(SHUTOFF, "saved")
    domain.has_saved = domain.is_held = True
    world.run(60)
    assert world.phases()[ONE] == "suspended" and domain.has_saved and world.trespasses == []
    domain.reason = "unknown"  # libvirt's daemon was started anew, and forgets why it is off
    world.run(60)
    assert world.phases()[ONE] == "suspended" and domain.has_saved and world.trespasses == []
    domain.become(RUNNING, "restored")
    domain.has_saved = domain.is_held = False
    world.run_until(lambda: world.phases()[ONE] == "ready", 5)


@KINDS
def test_domain_that_its_owner_has_saved_to_a_file_keeps_its_definition_and_is_not_started(kind: str) -> None:
    world = serving(kind)
    domain, before = one(world), calls(world, ONE)
    domain.become(SHUTOFF, "saved")
    world.run(900)
    assert world.phases()[ONE] == "suspended"
    assert set(calls(world, ONE)[len(before) :]) == {"set_metadata"}
    domain.become(RUNNING, "restored")
    world.run_until(lambda: world.phases()[ONE] == "ready", 5)


def test_domain_that_is_saved_while_it_boots_is_not_started_from_that_memory_by_a_step_planned_before() -> None:
    world = World(group(boot_timeout_s=20.0))
    world.want(1)
    world.run_until(lambda: "start" in calls(world, ONE))
    domain = one(world)
    domain.become(SHUTOFF, "saved")
    domain.has_saved = domain.is_held = True
    world.run(2)
    assert calls(world, ONE).count("start") == 1 and domain.has_saved


@pytest.mark.parametrize("phase", ["draining", "stopping"])
def test_leaving_domain_that_is_paused_waits_and_its_clock_starts_anew(phase: str) -> None:
    world = serving("template", desired=2, drain_timeout_s=10.0)
    for domain in world.everything():
        domain.in_flight, domain.is_deaf = (3 if phase == "draining" else 0), True
    world.want(1, generation=2)
    world.run_until(lambda: phase in world.phases().values())
    name = next(name for name, each in world.phases().items() if each == phase)
    pause(one(world, name))
    world.run(200)
    assert world.phases()[name] == phase and world.trespasses == []
    let_go(one(world, name))
    world.run(5)
    assert world.phases()[name] == phase, "it has its whole time again"
    world.run_until(lambda: name not in world.phases(), 60)


def test_booting_domain_that_is_paused_boots_on_with_a_new_clock() -> None:
    world = World(group(boot_timeout_s=10.0, max=1, surge=0))
    world.boot_s = 8.0
    world.want(1)
    world.run_until(lambda: world.phases().get(ONE) == "booting")
    pause(one(world))
    world.run(100)
    assert world.phases()[ONE] == "suspended"
    let_go(one(world))
    one(world).started_s = world.now_s  # its boot goes on from where it was
    world.run_until(lambda: world.phases()[ONE] == "ready", 12)
    assert not [event for event in world.events if event.name == "domain-failed"]


# --- a fault of the host --------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("refuses_records", [False, True])
def test_full_disk_pauses_all_destroys_nobody_and_all_come_back_with_room(kind: str, refuses_records: bool) -> None:
    world = serving(kind, desired=2)
    host = world.hosts["local"]
    host.is_full, host.refuses_records = True, refuses_records
    world.run(120)
    assert world.trespasses == [] and not [s for s in world.steps if isinstance(s, Define) and s.domain > "web-0001"]
    assert [world.phases()[name] for name in (ONE, "web-0001")] == ["suspended", "suspended"]
    (event,) = [event for event in world.events if event.name == "host-fault"]
    assert (event.level, event.host) == ("error", "local")
    assert event.text.startswith("no space on a disk of host local (vda of web-0000: /pool/web-0000.qcow2, vda of web-")
    assert world.message is not None and "no space on a disk of host local" in world.message.blocked
    assert any("no space on a disk" in note and "resumed again and again" in note for note in world.message.notes)
    host.is_full = host.refuses_records = False
    world.run_until(lambda: world.ready() == 2, 70)
    world.run_until(lambda: any(event.name == "host-fault-over" for event in world.events), 10)
    assert sorted(running(world)) == [ONE, "web-0001"]


def test_domain_is_resumed_ever_more_rarely() -> None:
    world = serving("existing", desired=1)
    world.hosts["local"].is_full = True
    world.run(330)
    tries = [at_s for at_s, call, _ in world.log if call == "resume"]
    gaps = [round(later - earlier) for earlier, later in pairwise(tries)]
    assert gaps[:4] == [10, 20, 40, 60] and set(gaps[3:]) == {60}


def test_domain_that_is_paused_again_at_its_next_write_is_not_shown_in_service_meanwhile() -> None:
    world = serving("existing", desired=1)
    world.hosts["local"].is_full = True
    shown = set()
    world.tick()
    for _ in range(200):
        world.tick()
        shown.add(world.phases()[ONE])
    assert shown == {"suspended"}
    assert len([event for event in world.events if event.name == "domain-suspended"]) == 1


def test_other_host_takes_over_what_a_full_one_cannot_serve() -> None:
    world = World(group(hosts=("a", "b"), max=4, surge=2), hosts=("a", "b"))
    world.want(2)
    world.run_until(world.is_settled)
    world.hosts["a"].is_full = True
    world.run_until(lambda: world.ready() == 2)
    assert len(world.hosts["a"].by_name) == 1 and len(world.hosts["b"].by_name) == 2
    world.hosts["a"].is_full = False
    world.run_until(world.is_settled)
    assert world.trespasses == []


@pytest.mark.parametrize("reason", ["postcopy-failed", "user"])
def test_nothing_but_a_fault_of_disks_or_of_libvirt_is_resumed_by_us(reason: str) -> None:
    world = serving("existing")
    pause(one(world), reason)
    world.run(300)
    assert "resume" not in calls(world, ONE)


# --- failed ---------------------------------------------------------------------------------------------------------


def test_sick_domain_is_not_ended_before_another_one_serves() -> None:
    world = serving("template")
    one(world).is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.phases().get(ONE) == "failed")
    world.boot_s = 30.0
    world.run(25)
    assert "destroy" not in calls(world, ONE)
    world.run_until(lambda: ONE not in world.phases())
    assert world.ready() == 2


def test_sick_domain_without_room_beside_it_has_a_minute_to_recover() -> None:
    world = serving("template", desired=1, max=1, surge=0)
    one(world).is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.phases().get(ONE) == "failed")
    failed_s = world.now_s
    world.run_until(lambda: "destroy" in calls(world, ONE))
    assert 58 <= world.now_s - failed_s <= 62
    world.run_until(lambda: world.ready() == 1)


def test_failed_domain_that_answers_again_goes_back_to_service() -> None:
    world = serving("template", desired=1, max=1, surge=0)
    one(world).is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.phases().get(ONE) == "failed")
    world.run(30)
    one(world).is_unhealthy_since_s = None
    world.run_until(lambda: world.phases()[ONE] == "ready", 5)
    assert "destroy" not in calls(world, ONE) and "domain-recovered" in [event.name for event in world.events]


def test_panicked_domain_without_room_gives_up_its_place_at_once() -> None:
    world = serving("template", desired=1, max=1, surge=0)
    one(world).become(DomainState.CRASHED, "panicked")
    world.run(2)
    assert "destroy" in calls(world, ONE)
    world.run_until(lambda: world.ready() == 1)


@pytest.mark.parametrize("reason", ["crashed", "watchdog"])
def test_users_panicked_domain_is_left_to_its_owner_and_another_serves(reason: str) -> None:
    world = serving("existing", desired=2)
    one(world).become(PAUSED, reason)
    world.run(300)
    assert world.ready() == 2 and one(world).state is PAUSED
    assert not {"destroy", "shutdown"} & set(calls(world, ONE))


def test_several_sick_ones_leave_one_by_one_as_others_take_their_places() -> None:
    world = serving("template", desired=4, max=4, surge=1)
    one(world).is_unhealthy_since_s = world.now_s
    world.run_until(lambda: world.phases().get(ONE) == "failed")
    one(world, "web-0001").become(PAUSED, "watchdog")
    fewest = 4
    for _ in range(120):
        world.tick()
        fewest = min(fewest, world.ready())
    world.run_until(world.is_settled)
    assert fewest == 2


# --- power_off ------------------------------------------------------------------------------------------------------


@KINDS
def test_deaf_domain_is_asked_again_for_ever_and_told_of_once_where_its_power_is_never_cut(kind: str) -> None:
    world = serving(kind, power_off="never")
    domain = one(world, "web-0001")
    domain.is_deaf = True
    world.want(1, generation=2)
    world.run(205)
    asked = calls(world, "web-0001").count("shutdown")
    assert 18 <= asked <= 22 and "destroy" not in calls(world, "web-0001")
    assert world.phases()["web-0001"] == "stopping"
    (event,) = [event for event in world.events if event.name == "shutdown-ignored"]
    assert (event.level, event.text) == (
        "warning",
        "web-0001 does not shut down; asked 3 times; power_off is never",
    )
    assert world.message is not None
    assert f"web-0001 does not shut down; asked {asked} times; power_off is never" in world.message.notes
    domain.is_deaf = False
    world.run_until(lambda: "web-0001" not in world.phases(), 20)


@KINDS
def test_deaf_domain_is_powered_off_in_the_end_where_the_file_says_so(kind: str) -> None:
    world = serving(kind, power_off="after-stop-timeout")
    one(world, "web-0001").is_deaf = True
    world.want(1, generation=2)
    world.run(30)
    assert calls(world, "web-0001").count("shutdown") == 2 and "destroy" in calls(world, "web-0001")


@KINDS
def test_sick_and_deaf_domain_keeps_its_power_where_it_is_never_cut(kind: str) -> None:
    world = serving(kind, power_off="never")
    one(world).is_unhealthy_since_s, one(world).is_deaf = world.now_s, True
    world.run(300)
    assert one(world).state is RUNNING and "destroy" not in calls(world, ONE) and world.ready() == 2


# --- any order of all of it -----------------------------------------------------------------------------------------

MOVES = ("want", "suspend", "snapshot", "go", "save", "crash", "panic", "fill", "free", "mute", "sick", "well", "deaf")
scripts = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7), st.integers(0, 60)), max_size=25)


def move(world: World, what: str, number: int, generation: int) -> None:
    """Let somebody do one thing."""
    host = world.hosts["local"]
    domains = [domain for _, domain in sorted(host.by_name.items())]
    domain = domains[number % len(domains)] if domains else None
    match what:
        case "want":
            world.want(1 + number % 3, generation=generation)
        case "fill":
            host.is_full, host.refuses_records = True, number % 2 == 0
        case "free":
            host.is_full = host.refuses_records = False
        case "mute":
            world.is_balancer_alive = number % 2 == 0
    if domain is None:
        return
    match what:
        case "suspend" | "snapshot" if domain.state is RUNNING:
            pause(domain, "user" if what == "suspend" else "snapshot")
        case "save" if domain.state is RUNNING:
            domain.become(SHUTOFF, "saved")
            domain.has_saved = domain.is_held = True
        case "go" if domain.is_held:
            let_go(domain)
            domain.has_saved = False
        case "crash" if domain.state is RUNNING:
            domain.become(SHUTOFF, "crashed")
        case "panic" if domain.state is RUNNING:
            domain.become(PAUSED, "crashed")
        case "sick":
            domain.is_unhealthy_since_s = world.now_s
        case "well":
            domain.is_unhealthy_since_s = None
        case "deaf":
            domain.is_deaf = number % 2 == 0


def end_all_faults(world: World) -> None:
    """Every owner lets his domains go, a panicked one is reset by hand, disks have room, everybody listens."""
    host = world.hosts["local"]
    host.is_full = host.refuses_records = False
    world.is_balancer_alive = True
    for domain in world.everything():
        domain.is_unhealthy_since_s, domain.is_deaf = None, False
        if domain.is_held or (domain.state, domain.reason) == (PAUSED, "crashed"):
            let_go(domain)
            domain.has_saved = False


def suffer(world: World, script: list[tuple[str, int, int]]) -> None:
    world.want(2)
    world.run(10)
    for turn, (what, number, ticks) in enumerate(script):
        move(world, what, number, generation=turn + 2)
        for _ in range(ticks):
            world.tick()
            assert world.trespasses == []
            assert world.most_owned <= world.group.ceiling
    end_all_faults(world)
    world.want(2, generation=100)
    world.tick()


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(scripts)
def test_whatever_others_do_no_existing_domain_is_powered_off(script: list[tuple[str, int, int]]) -> None:
    world = users_world(running=(0, 1))
    suffer(world, script)
    world.run_until(lambda: world.ready() == 2 and len(running(world)) == 2, limit_s=6000)
    assert not {"destroy", "undefine", "define"} & {call for _, call, _ in world.log}


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(scripts)
def test_whatever_others_do_nothing_is_ended_that_may_come_back(script: list[tuple[str, int, int]]) -> None:
    world = World(group(boot_timeout_s=20.0, drain_timeout_s=10.0))
    suffer(world, script)
    world.run_until(world.is_settled, limit_s=6000)
    assert world.trespasses == []


@KINDS
@pytest.mark.parametrize("mode", ["off", "observe"])
def test_domain_whose_power_somebody_cuts_is_failed_and_not_suspended_where_nothing_may_be_done(
    kind: str, mode: str
) -> None:
    world = serving(kind)
    world.want(2, generation=2, mode=mode)
    world.run(2)
    one(world).become(RUNNING, "shutting-down")
    world.run(2)
    one(world).become(SHUTOFF, "destroyed")
    world.run(2)
    assert world.message is not None
    told = next(member for member in world.message.members if member.name == ONE)
    assert (told.phase, told.note) == ("failed", "libvirt shows it shutoff (destroyed)")
