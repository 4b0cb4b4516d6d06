"""From members and slots to steps."""

from dataclasses import replace

import pytest

from common.messages import Member, Membership
from common.phases import Phase
from services.balancer.core.answers import Admin, Server
from services.balancer.core.backends import (
    Assign,
    Avoid,
    Clear,
    Cut,
    Goal,
    KeepUp,
    Owner,
    Placement,
    SetDrain,
    SetMaint,
    SetReady,
    Slot,
    StartChecks,
    Step,
    StopChecks,
    Wanted,
    is_in_service,
    kept,
    match,
    next_owners,
    plan,
    wanted_from,
    with_owners,
)
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, EMPTY_PORT

EMPTY = Server(
    name="vm1",
    address=EMPTY_ADDRESS,
    port=EMPTY_PORT,
    admin=Admin.MAINT,
    status="MAINT",
    is_weight_right=True,
    in_flight=0,
    queue=0,
    connections=0,
    sessions_total=0,
    response_time_s=0.0,
    check="",
    changed_s=0.0,
)
STATUS = {Admin.READY: "UP", Admin.DRAIN: "DRAIN", Admin.MAINT: "MAINT"}


def server(number: int, admin: Admin | None = None, **changes: object) -> Server:
    """Return slot ``vm<number>``: empty, or with the address 10.0.0.<number> in the given state."""
    empty = replace(EMPTY, name=f"vm{number}")
    if admin is None:
        return replace(empty, **changes)
    full = replace(empty, address=f"10.0.0.{number}", port=80, admin=admin, status=STATUS[admin])
    return replace(full, **changes)


def member(number: int, goal: Goal = Goal.SERVE, uuid: str = "", **changes: object) -> Placement:
    placement = Placement(f"web-{number:04d}", uuid or f"u{number}", f"10.0.0.{number}", 80, goal)
    return replace(placement, **changes)


def owner(number: int, uuid: str = "") -> Owner:
    return Owner(f"web-{number:04d}", uuid or f"u{number}", f"10.0.0.{number}", 80)


def steps(*placements: Placement, slots: list[Slot], is_complete: bool = True) -> tuple[Step, ...]:
    return plan(Wanted(placements, is_complete), slots)


SERVING = Slot(server(9, Admin.READY), owner(9))
NINE = member(9)


def test_warm_member_gets_an_empty_slot_in_drain() -> None:
    found = steps(member(1), NINE, slots=[Slot(server(3)), SERVING])
    assert found == (Assign("vm3", owner(1), is_trusted=False),)


def test_member_becomes_ready_only_after_a_fresh_check() -> None:
    stale = Slot(server(1, Admin.DRAIN, status="DRAIN 1/2"), owner(1))
    fresh = Slot(server(1, Admin.DRAIN), owner(1))
    down = Slot(server(1, Admin.DRAIN, status="DOWN"), owner(1))
    assert steps(member(1), slots=[stale]) == ()
    assert steps(member(1), slots=[down]) == ()
    assert steps(member(1), slots=[fresh]) == (SetReady("vm1"),)


@pytest.mark.parametrize("status", ["UP", "DOWN"])
def test_a_restless_member_takes_nothing_new_and_is_not_taken_back(status: str) -> None:
    found = Slot(server(1, Admin.READY, status=status), owner(1), restless_s=1.0)
    assert steps(member(1), NINE, slots=[found, SERVING]) == (SetDrain("vm1"),)
    assert steps(member(1), NINE, slots=[Slot(server(1, Admin.DRAIN), owner(1), restless_s=2.0), SERVING]) == ()
    assert steps(member(1), NINE, slots=[Slot(server(1, Admin.DRAIN), owner(1)), SERVING]) == (SetReady("vm1"),)


def test_satisfied_group_plans_nothing() -> None:
    slots = [Slot(server(1, Admin.READY), owner(1)), Slot(server(2, Admin.DRAIN), owner(2)), Slot(server(3))]
    assert steps(member(1), member(2, Goal.DRAIN), slots=slots) == ()


def test_unhealthy_member_in_rotation_is_left_to_haproxy_and_the_actuator() -> None:
    assert steps(member(1), slots=[Slot(server(1, Admin.READY, status="DOWN"), owner(1))]) == ()


@pytest.mark.parametrize(
    ("goal", "slot", "expected"),
    [
        (Goal.DRAIN, server(1, Admin.READY), (SetDrain("vm1"),)),
        (Goal.DRAIN, server(1, Admin.DRAIN, in_flight=2), ()),
        (Goal.DRAIN, server(1, Admin.DRAIN), ()),
        (Goal.DRAIN, server(1, Admin.MAINT), (Clear("vm1"),)),
        (Goal.OUT, server(1, Admin.READY), (SetMaint("vm1"),)),
        (Goal.OUT, server(1, Admin.DRAIN, in_flight=2), (SetMaint("vm1"),)),
        (Goal.OUT, server(1, Admin.MAINT, in_flight=1), ()),
        (Goal.OUT, server(1, Admin.MAINT, queue=1), ()),
        (Goal.OUT, server(1, Admin.MAINT, connections=1), ()),
        (Goal.OUT, server(1, Admin.MAINT), (Clear("vm1"),)),
        (Goal.CUT, server(1, Admin.READY), (StopChecks("vm1"),)),
        (Goal.CUT, server(1, Admin.DRAIN), (StopChecks("vm1"),)),
        (Goal.CUT, server(1, Admin.READY, status="NOLB", has_checks=False), (SetDrain("vm1"),)),
        (Goal.CUT, server(1, Admin.MAINT), (Clear("vm1"),)),
        (Goal.CUT, server(1, Admin.MAINT, in_flight=1), ()),
        (Goal.SERVE, server(1, Admin.READY, is_weight_right=False), (SetReady("vm1"),)),
        (Goal.HOLD, server(1, Admin.READY), (StopChecks("vm1"),)),
        (Goal.HOLD, server(1, Admin.READY, status="DOWN"), (StopChecks("vm1"),)),
        (Goal.HOLD, server(1, Admin.READY, status="NOLB", has_checks=False), (SetDrain("vm1"),)),
        (Goal.HOLD, server(1, Admin.DRAIN), (StopChecks("vm1"),)),
        (Goal.HOLD, server(1, Admin.DRAIN, status="NOLB", has_checks=False, in_flight=3), ()),
        (Goal.HOLD, server(1, Admin.MAINT), (Clear("vm1"),)),
        (Goal.SERVE, server(1, Admin.DRAIN, status="NOLB", has_checks=False), (StartChecks("vm1", is_fresh=True),)),
        (Goal.SERVE, server(1, Admin.DRAIN, status="DRAIN", has_checks=False), (StartChecks("vm1", is_fresh=True),)),
        (
            Goal.SERVE,
            server(1, Admin.READY, status="no check", has_checks=False),
            (StartChecks("vm1", is_fresh=False),),
        ),
        (Goal.SERVE, server(1, Admin.DRAIN, status="NOLB"), (SetReady("vm1", is_trusted=True),)),
        (Goal.SERVE, server(1, Admin.READY, status="NOLB"), ()),
        (Goal.DRAIN, server(1, Admin.DRAIN, status="NOLB", has_checks=False), (StartChecks("vm1", is_fresh=True),)),
        (Goal.CUT, server(1, Admin.DRAIN, status="NOLB", has_checks=False, in_flight=3), (Cut("vm1"),)),
        (Goal.OUT, server(1, Admin.DRAIN, status="NOLB", has_checks=False), (SetMaint("vm1"),)),
    ],
)
def test_each_goal_moves_a_slot_one_step(goal: Goal, slot: Server, expected: tuple[Step, ...]) -> None:
    assert steps(member(1, goal), slots=[Slot(slot, owner(1))]) == expected


def test_cancelled_drain_is_ready_at_once() -> None:
    assert steps(member(1), slots=[Slot(server(1, Admin.DRAIN, in_flight=3), owner(1))]) == (SetReady("vm1"),)


def test_slot_taken_out_by_hand_is_joined_again_from_the_start() -> None:
    found = steps(member(1), NINE, slots=[Slot(server(1, Admin.MAINT), owner(1)), SERVING])
    assert found == (Assign("vm1", owner(1)),)


def test_slot_without_member_is_emptied_even_if_someone_made_it_ready() -> None:
    assert steps(slots=[Slot(server(1, Admin.READY))]) == (SetMaint("vm1"),)
    assert steps(slots=[Slot(server(3, admin=Admin.READY, address=EMPTY_ADDRESS, port=EMPTY_PORT))]) == (
        SetMaint("vm3"),
    )


def test_restarted_balancer_finds_its_members_by_address() -> None:
    slots = [Slot(server(1, Admin.READY)), Slot(server(2, Admin.DRAIN, status="DRAIN 1/2"))]
    assert match(Wanted((member(2), member(1)), True), slots) == {"vm1": member(1), "vm2": member(2)}
    assert steps(member(2), member(1), slots=slots) == ()


def test_another_domain_at_the_address_is_not_the_one_that_had_it() -> None:
    newcomer = member(1, uuid="other")
    serving, leaving = Slot(server(1, Admin.READY), owner(1)), Slot(server(1, Admin.MAINT, in_flight=1), owner(1))
    spare = Slot(server(5))
    assert steps(newcomer, slots=[serving, spare]) == (SetMaint("vm1"),)
    assert steps(newcomer, slots=[leaving, spare]) == ()
    assert steps(newcomer, NINE, slots=[Slot(server(1)), spare, SERVING]) == (Assign("vm1", owner(1, "other")),)


def test_two_members_at_one_address_do_not_both_get_in() -> None:
    one, two = member(1, uuid="a"), replace(member(1, uuid="b"), name="web-0002")
    slots = [Slot(server(3)), Slot(server(4)), SERVING]
    assert [step.slot for step in steps(one, two, NINE, slots=slots)] == ["vm3"]


def test_restarted_balancer_believes_the_living_of_two_at_one_address() -> None:
    dead, alive = member(1, Goal.CUT, uuid="a"), member(1, uuid="b")
    slots = [Slot(server(1, Admin.READY))]
    assert match(Wanted((dead, alive), True), slots) == {"vm1": alive}


def test_member_in_two_slots_keeps_the_one_that_serves() -> None:
    twin = server(2, Admin.DRAIN, address="10.0.0.1")
    assert steps(member(1), slots=[Slot(twin), Slot(server(1, Admin.READY))]) == (SetMaint("vm2"),)


def test_more_members_than_slots_fills_the_slots_and_no_more() -> None:
    found = steps(member(1), member(2), NINE, slots=[Slot(server(3)), SERVING])
    assert found == (Assign("vm3", owner(1)),)


def test_members_that_served_before_get_the_last_slots_first() -> None:
    found = steps(member(1), member(2, is_known_good=True), NINE, slots=[Slot(server(3)), SERVING])
    assert found == (Assign("vm3", owner(2)),)


def test_slot_with_a_connection_left_is_not_given_away() -> None:
    busy = Slot(server(3, connections=1))
    assert steps(member(1), NINE, slots=[busy, SERVING]) == ()


def test_when_nobody_serves_members_that_did_go_straight_back() -> None:
    known, fresh = member(1, is_known_good=True), member(2)
    found = steps(known, fresh, slots=[Slot(server(3)), Slot(server(4))])
    assert found == (Assign("vm3", owner(1), is_trusted=True), Assign("vm4", owner(2), is_trusted=False))


def test_when_somebody_serves_everyone_waits_for_a_check() -> None:
    found = steps(member(1, is_known_good=True), NINE, slots=[Slot(server(3)), SERVING])
    assert found == (Assign("vm3", owner(1), is_trusted=False),)


def test_incomplete_membership_takes_nothing_that_serves_out() -> None:
    serving, down = Slot(server(1, Admin.READY), owner(1)), Slot(server(2, Admin.READY, status="DOWN"), owner(2))
    assert steps(slots=[serving, down], is_complete=False) == (SetMaint("vm2"),)
    assert steps(slots=[serving, down]) == (SetMaint("vm1"), SetMaint("vm2"))


def test_incomplete_membership_ends_nothing_that_a_leaving_member_works_on() -> None:
    busy = Slot(server(1, Admin.DRAIN, in_flight=3), owner(1))
    assert steps(slots=[busy], is_complete=False) == ()
    assert steps(slots=[Slot(server(1, Admin.DRAIN), owner(1))], is_complete=False) == (SetMaint("vm1"),)
    assert steps(slots=[busy]) == (SetMaint("vm1"),)


def test_incomplete_membership_still_takes_out_whoever_lost_the_address() -> None:
    serving = Slot(server(1, Admin.READY), owner(1))
    assert steps(member(1, uuid="other"), slots=[serving], is_complete=False) == (SetMaint("vm1"),)


def test_owner_counts_only_while_the_address_is_his() -> None:
    slots = with_owners([server(1, Admin.READY), server(2)], {"vm1": owner(1), "vm2": owner(2)})
    assert [slot.owner for slot in slots] == [owner(1), None]


def test_slot_that_is_being_left_keeps_its_owner() -> None:
    slots = [Slot(server(1, Admin.READY), owner(1)), Slot(server(2)), SERVING]
    wanted = Wanted((member(2), NINE), True)
    assert next_owners(wanted, slots, plan(wanted, slots)) == {"vm1": owner(1), "vm2": owner(2), "vm9": owner(9)}


def membership(*members: Member, unreachable: tuple[str, ...] = ()) -> Membership:
    return Membership(
        group="web",
        generation_seen=1,
        desired_seen=1,
        members=members,
        owned_total=len(members),
        ceiling=9,
        unreachable_hosts=unreachable,
    )


def shown(phase: Phase, address: str | None = "10.0.0.1") -> Member:
    return Member(name="web-0001", uuid="u1", host="local", phase=phase, since_s=1, age_s=1, address=address, port=80)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_goal(phase: Phase) -> None:
    goals = {
        Phase.WARMING: Goal.SERVE,
        Phase.READY: Goal.SERVE,
        Phase.DRAINING: Goal.DRAIN,
        Phase.SUSPENDED: Goal.HOLD,
        Phase.FAILED: Goal.CUT,
    }
    found = wanted_from(membership(shown(phase)), ())
    assert [p.goal for p in found.placements] == [goals.get(phase, Goal.OUT)]
    assert found.placements[0].is_known_good == (phase is Phase.READY)


def test_member_that_failed_is_cut_whatever_membership_says() -> None:
    assert [p.goal for p in wanted_from(membership(shown(Phase.READY)), ["u1"]).placements] == [Goal.CUT]


@pytest.mark.parametrize("phase", list(Phase))
def test_who_is_in_service_and_does_not_run_is_held_and_the_others_are_not(phase: Phase) -> None:
    (found,) = wanted_from(membership(shown(phase)), (), ["u1"]).placements
    (usual,) = wanted_from(membership(shown(phase)), ()).placements
    assert found.goal is (Goal.HOLD if is_in_service(phase) else usual.goal)


def test_a_suspended_member_that_fails_for_good_is_cut() -> None:
    assert [p.goal for p in wanted_from(membership(shown(Phase.READY)), ["u1"], ["u1"]).placements] == [Goal.CUT]


def test_a_held_member_gets_no_slot_of_its_own() -> None:
    assert steps(member(1, Goal.HOLD), NINE, slots=[Slot(server(3)), SERVING]) == ()


def test_member_without_address_has_no_place() -> None:
    assert wanted_from(membership(shown(Phase.WARMING, None)), ()).placements == ()


# --- held, and out of reach ----------------------------------------------------------------------------------------


def test_who_runs_again_waits_for_its_check_while_another_serves() -> None:
    held = Slot(server(1, Admin.DRAIN, status="NOLB"), owner(1))
    assert steps(member(1), member(2), slots=[held, Slot(server(2, Admin.READY), owner(2))]) == ()


def falling(check: str = "L4TOUT", status: str = "UP 2/3") -> Slot:
    return Slot(server(1, Admin.READY, status=status, check=check), owner(1))


def test_who_cannot_be_reached_gets_nothing_new_while_another_serves() -> None:
    sound = Slot(server(2, Admin.READY), owner(2))
    assert steps(member(1), member(2), slots=[falling(), sound]) == (Avoid("vm1"),)


def test_who_was_avoided_is_tried_again_if_nobody_serves() -> None:
    avoided = falling(status="NOLB 2/3")
    gone = Slot(server(2, Admin.DRAIN, status="NOLB", has_checks=False), owner(2))
    assert KeepUp("vm1") in steps(member(1), member(2, Goal.HOLD), slots=[avoided, gone])
    assert steps(member(1), member(2), slots=[avoided, Slot(server(2, Admin.READY), owner(2))]) == ()


@pytest.mark.parametrize(
    ("slot", "other"),
    [
        (falling(check="L7TOUT"), server(2, Admin.READY)),  # it is slow
        (falling(check="L4CON"), server(2, Admin.READY)),  # who is refused goes elsewhere at once
        (falling(status="UP"), server(2, Admin.READY)),
        (falling(), server(2, Admin.READY, status="UP 2/3", check="L4TOUT")),
        (falling(), server(2, Admin.READY, check="L4TOUT")),
        (falling(), server(2, Admin.DRAIN)),
        (falling(), server(2, Admin.READY, status="DOWN", check="L4TOUT")),
    ],
)
def test_who_can_be_reached_or_is_the_last_one_is_not_avoided(slot: Slot, other: Server) -> None:
    assert Avoid("vm1") not in steps(member(1), member(2), slots=[slot, Slot(other, owner(2))])


# --- discovery forgot an address -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.READY, Phase.DRAINING, Phase.SUSPENDED])
def test_a_slot_that_serves_stays_while_a_member_in_service_has_no_address(phase: Phase) -> None:
    wanted = wanted_from(membership(shown(phase, None)), ())
    assert wanted.unlocated == {("web-0001", "u1")}
    assert plan(wanted, [Slot(server(1, Admin.READY))]) == ()
    assert plan(wanted, [Slot(server(1, Admin.READY), owner(1))]) == ()


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.FAILED, Phase.STANDBY, Phase.GONE])
def test_a_slot_goes_with_a_member_that_leaves_though_its_address_is_forgotten(phase: Phase) -> None:
    wanted = wanted_from(membership(shown(phase, None)), ())
    assert plan(wanted, [Slot(server(1, Admin.READY), owner(1))]) == (SetMaint("vm1"),)


def test_a_forgotten_address_keeps_no_slot_that_fails_its_checks_or_is_another_members() -> None:
    wanted = wanted_from(membership(shown(Phase.READY, None)), ())
    assert plan(wanted, [Slot(server(1, Admin.READY, status="DOWN"))]) == (SetMaint("vm1"),)
    assert plan(wanted, [Slot(server(2, Admin.READY), owner(2))]) == (SetMaint("vm2"),)
    both = replace(wanted, placements=(member(1, uuid="other"),))
    assert plan(both, [Slot(server(1, Admin.READY), owner(1))]) == (SetMaint("vm1"),)


# --- the last one standing -----------------------------------------------------------------------------------------

BUSY = {"check": "L7TOUT", "in_flight": 9}


def last(admin: Admin = Admin.READY, **changes: object) -> Slot:
    return Slot(server(1, admin, **{"status": "UP 2/3", **BUSY, **changes}), owner(1))


def test_the_last_one_that_answers_too_late_keeps_its_traffic() -> None:
    assert steps(member(1), slots=[last()]) == (KeepUp("vm1"),)
    assert steps(member(1), slots=[last(check="L4TOUT", in_flight=0, queue=1)]) == (KeepUp("vm1"),)
    assert steps(member(1), slots=[last(status="UP")]) == ()


def test_it_is_kept_for_as_long_as_its_last_check_timed_out() -> None:
    assert kept([last(status="UP")], {"vm1": member(1)}) == {"vm1"}
    assert kept([last(status="UP", check="L7OK")], {"vm1": member(1)}) == frozenset()


def test_all_that_time_out_together_keep_their_traffic() -> None:
    two = Slot(server(2, Admin.READY, status="UP 1/3", **BUSY), owner(2))
    assert steps(member(1), member(2), slots=[last(), two]) == (KeepUp("vm1"), KeepUp("vm2"))


@pytest.mark.parametrize("other", [server(9, Admin.READY, check="L7OK"), server(9, Admin.READY, check="L4OK")])
def test_it_is_left_to_its_checks_if_another_is_up(other: Server) -> None:
    assert steps(member(1), NINE, slots=[last(), Slot(other, owner(9))]) == ()


@pytest.mark.parametrize(
    "other",
    [
        server(9, Admin.READY, status="DOWN", check="L7OK"),
        server(9, Admin.READY, status="UP 1/3", check="L7STS"),
        server(9, Admin.DRAIN, check="L7OK"),
        server(9, Admin.MAINT, check="L7OK"),
    ],
)
def test_a_sick_or_absent_other_is_nobody(other: Server) -> None:
    placement = NINE if other.admin is Admin.READY else member(9, Goal.DRAIN)
    assert KeepUp("vm1") in steps(member(1), placement, slots=[last(), Slot(other, owner(9))])


@pytest.mark.parametrize(
    "slot",
    [
        last(check="L4CON"),  # refused: nobody listens
        last(check="L7STS 503"),  # it says itself that it cannot
        last(in_flight=0),  # nobody waits
        replace(last(), is_stalled=True),  # it answers nobody at all
        last(status="NOLB"),  # frozen
        last(status="NOLB", has_checks=False),  # suspended
        last(status="DOWN"),
        last(admin=Admin.DRAIN),
    ],
)
def test_who_is_dead_idle_frozen_or_suspended_is_not_kept(slot: Slot) -> None:
    assert KeepUp("vm1") not in steps(member(1), slots=[slot])
    assert kept([slot], {"vm1": member(1)}) == frozenset()


@pytest.mark.parametrize("goal", [Goal.DRAIN, Goal.HOLD, Goal.OUT, Goal.CUT])
def test_who_is_not_to_serve_is_not_kept(goal: Goal) -> None:
    assert KeepUp("vm1") not in steps(member(1, goal), slots=[last()])


def test_membership_is_complete_if_it_lists_someone_and_every_host_answers() -> None:
    assert wanted_from(membership(shown(Phase.READY)), ()).is_complete
    assert not wanted_from(membership(shown(Phase.READY), unreachable=("local",)), ()).is_complete
    assert not wanted_from(membership(), ()).is_complete


def test_who_has_just_answered_needs_no_check() -> None:
    probed = member(1, is_probed=True)
    assert steps(probed, NINE, slots=[Slot(server(3)), SERVING]) == (Assign("vm3", owner(1), is_trusted=True),)
    unproven = Slot(server(1, Admin.DRAIN, status="DRAIN 1/2"), owner(1))
    assert steps(probed, slots=[unproven]) == (SetReady("vm1"),)


def test_a_probe_does_not_bring_back_who_has_failed() -> None:
    told = Member(
        name="web-0001", uuid="u1", host="a", phase=Phase.WARMING, since_s=0, age_s=0, address="10.0.0.1", port=80,
        is_probed=True,
    )  # fmt: skip
    whole = Membership(group="web", generation_seen=1, desired_seen=1, members=(told,), owned_total=1, ceiling=2)
    assert [p.is_probed for p in wanted_from(whole, ()).placements] == [True]
    assert [(p.goal, p.is_probed) for p in wanted_from(whole, ["u1"]).placements] == [(Goal.CUT, False)]


def test_a_member_taken_in_before_its_record_says_so_stays_in_while_it_serves() -> None:
    booting = member(1, Goal.OUT, is_coming=True)
    assert steps(booting, slots=[Slot(server(1, Admin.READY), owner(1))]) == ()
    assert steps(booting, slots=[Slot(server(1, Admin.READY))]) == (SetMaint("vm1"),)  # perhaps of who was there before
    assert steps(booting, slots=[Slot(server(1, Admin.READY, status="DOWN"), owner(1))]) == (SetMaint("vm1"),)
