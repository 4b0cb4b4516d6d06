"""What the balancer tells: drains, traffic, news; and whom it keeps out after a failure."""

from dataclasses import replace
from itertools import pairwise

import pytest

from common.messages import BackendState, Drain, Failure, Member, Membership, Traffic
from common.phases import Phase
from services.balancer.core.addresses import with_last_addresses, with_sound_addresses
from services.balancer.core.answers import Admin, Server, Snapshot, Totals
from services.balancer.core.backends import Owner, Slot, wanted_from
from services.balancer.core.holds import Hold, Word, held, suspended
from services.balancer.core.progress import Answered, progress, stalled
from services.balancer.core.report import backend_states, blind, news, notes, sick, substance, why_held
from services.balancer.core.traffic import Look, traffic, unknown_traffic

UP = Server(
    name="vm1",
    address="10.0.0.1",
    port=80,
    admin=Admin.READY,
    status="UP",
    is_weight_right=True,
    in_flight=2,
    queue=1,
    connections=2,
    sessions_total=100,
    response_time_s=0.02,
    check="L7OK",
    changed_s=7.0,
)
EMPTY = replace(
    UP, name="vm2", address="127.0.0.1", port=1, admin=Admin.MAINT, status="MAINT", in_flight=0, queue=0, connections=0
)


def member(phase: Phase, since_s: float = 1.0, uuid: str = "u1", address: str | None = "10.0.0.1") -> Member:
    return Member(
        name="web-0001", uuid=uuid, host="local", phase=phase, since_s=since_s, age_s=1, address=address, port=80
    )


def membership(*members: Member) -> Membership:
    return Membership(group="web", generation_seen=1, desired_seen=1, members=members, owned_total=1, ceiling=9)


def told(phase: Phase, *servers: Server, address: str | None = "10.0.0.1") -> BackendState:
    shown = membership(member(phase, address=address))
    slots = [Slot(server) for server in servers]
    (state,) = backend_states(shown, wanted_from(shown, ()), slots)
    return state


SICK = {("web-0001", "u1")}
IDLE = {"in_flight": 0, "queue": 0, "connections": 0}


@pytest.mark.parametrize(
    ("phase", "server", "state", "is_healthy"),
    [
        (Phase.READY, UP, "ready", True),
        (Phase.READY, replace(UP, status="UP 1/2"), "ready", True),
        (Phase.READY, replace(UP, status="DOWN"), "ready", False),
        (Phase.WARMING, replace(UP, admin=Admin.DRAIN, status="DRAIN 1/2"), "joining", None),
        (Phase.WARMING, replace(UP, admin=Admin.DRAIN, status="DOWN"), "joining", False),
        (Phase.WARMING, replace(UP, admin=Admin.DRAIN, status="DRAIN"), "joining", True),
        (Phase.DRAINING, UP, "ready", True),
        (Phase.DRAINING, replace(UP, admin=Admin.DRAIN, status="DRAIN"), "draining", True),
        (Phase.STOPPING, replace(UP, admin=Admin.MAINT, status="MAINT"), "draining", None),
        (Phase.STOPPING, replace(UP, admin=Admin.MAINT, status="MAINT", **IDLE), "left", None),
        (Phase.FAILED, replace(UP, admin=Admin.MAINT, status="MAINT", **IDLE), "left", None),
        (Phase.SUSPENDED, UP, "ready", True),
        (Phase.SUSPENDED, replace(UP, admin=Admin.DRAIN, status="NOLB", has_checks=False), "held", None),
        (Phase.SUSPENDED, replace(UP, admin=Admin.DRAIN, status="DRAIN", has_checks=False, **IDLE), "held", None),
        (Phase.SUSPENDED, replace(UP, admin=Admin.MAINT, status="MAINT", has_checks=False, **IDLE), "left", None),
        (Phase.WARMING, replace(UP, admin=Admin.DRAIN, status="NOLB", has_checks=False), "joining", None),
        (Phase.DRAINING, replace(UP, admin=Admin.DRAIN, status="NOLB", has_checks=False), "draining", None),
    ],
)
def test_state_is_what_the_slot_does(phase: Phase, server: Server, state: str, is_healthy: bool | None) -> None:
    found = told(phase, server, EMPTY)
    assert (found.slot, found.state, found.is_healthy) == ("vm1", state, is_healthy)
    assert found.in_flight == server.in_flight + server.queue
    assert found.unhealthy_s == (7.0 if is_healthy is False else 0.0)


def test_member_without_slot_joins_if_one_is_free_and_is_unplaced_if_none_is() -> None:
    stranger = replace(UP, address="10.0.0.9")
    assert told(Phase.WARMING, stranger, EMPTY).state == "joining"
    assert told(Phase.WARMING, stranger).state == "unplaced"
    assert told(Phase.BOOTING, stranger).state == "left"
    assert told(Phase.DRAINING, stranger).state == "left"
    assert told(Phase.WARMING, EMPTY, address=None).state == "left"


def test_a_member_whose_address_is_forgotten_has_not_left_while_a_slot_serves_that_may_be_its_own() -> None:
    assert told(Phase.DRAINING, UP, EMPTY, address=None).state == "unknown"
    assert told(Phase.READY, UP, EMPTY, address=None).state == "unknown"
    assert told(Phase.DRAINING, replace(UP, status="DOWN"), EMPTY, address=None).state == "left"
    assert told(Phase.STOPPING, UP, EMPTY, address=None).state == "left"


def test_a_restless_member_is_told_as_failing_for_as_long_as_it_is_kept_out() -> None:
    membership = Membership(
        group="web", generation_seen=1, desired_seen=1, members=(member(Phase.READY),), owned_total=1, ceiling=9
    )
    slot = Slot(replace(UP, admin=Admin.DRAIN, status="DRAIN"), restless_s=12.0)
    (found,) = backend_states(membership, wanted_from(membership, ()), [slot])
    assert (found.state, found.is_healthy, found.unhealthy_s, found.in_flight) == ("restless", False, 12.0, 3)
    ready = told(Phase.READY, UP, EMPTY)
    assert [(item.name, item.level) for item in news([ready], [found])] == [("backend-restless", "warning")]
    assert [item.name for item in news([found], [ready])] == ["backend-ready"]
    assert [item.name for item in news([found], [ready], SICK)] == ["backend-ready", "backend-healthy"]
    assert notes([found]) == (
        "web-0001 takes nothing new: it went down 2 times within 60 s; "
        "it comes back when its checks have succeeded for 30 s",
    )


def test_the_last_one_that_times_out_is_said_to_be_kept() -> None:
    late = told(Phase.READY, replace(UP, status="UP 2/3", check="L7TOUT"))
    assert (late.state, late.is_healthy, late.is_kept) == ("ready", True, True)
    assert not told(Phase.READY, replace(UP, check="L7OK")).is_kept
    ready = told(Phase.READY, UP, EMPTY)
    (item,) = news([ready], [late])
    assert (item.name, item.level) == ("backend-kept", "warning")
    assert "it keeps its 3 requests" in item.text
    assert list(news([late], [late])) == []
    assert notes([ready, late]) == (
        "web-0001 does not answer its health checks in time; it keeps its traffic because nobody else is up",
    )


def test_what_waits_for_a_held_member_is_noted() -> None:
    shown = told(Phase.SUSPENDED, replace(UP, admin=Admin.DRAIN, status="NOLB", has_checks=False))
    assert notes([shown]) == ("web-0001 takes nothing new; 3 requests in flight wait until it runs again",)


def test_silent_haproxy_leaves_health_unknown() -> None:
    down = told(Phase.READY, replace(UP, status="DOWN"))
    (found,) = blind([down])
    assert (found.state, found.is_healthy, found.unhealthy_s) == ("ready", None, 0.0)


def test_requests_in_flight_are_news_only_while_draining() -> None:
    def drain(state: str, in_flight: int) -> Drain:
        backend = BackendState(
            name="a", uuid="u", slot="vm1", state=state, is_healthy=True, in_flight=in_flight, unhealthy_s=in_flight
        )
        return Drain(group="web", endpoint="e", is_proxy_alive=True, backends=(backend,))

    assert substance(drain("ready", 1)) == substance(drain("ready", 2))
    assert substance(drain("draining", 1)) != substance(drain("draining", 2))


def test_news_are_changes() -> None:
    joining, ready = told(Phase.WARMING, EMPTY), told(Phase.READY, UP, EMPTY)
    down, unplaced = told(Phase.READY, replace(UP, status="DOWN", check="L7STS"), EMPTY), told(Phase.WARMING)
    assert [item.name for item in news([joining], [ready])] == ["backend-ready"]
    assert [item.name for item in news([ready], [down])] == ["backend-unhealthy"]
    assert [item.name for item in news([down], [ready], SICK)] == ["backend-healthy"]
    assert [item.name for item in news([joining], [unplaced])] == ["backend-unplaced"]
    for same in (joining, ready, down, unplaced):
        assert list(news([same], [same], sick((), [same]))) == []


def told_of(*servers: Server) -> list[str]:
    """Return the news of a member in rotation while its slot shows these, one after the other."""
    seen = [told(Phase.READY, server, EMPTY) for server in servers]
    found, ill = [], sick((), seen[:1])
    for before, after in pairwise(seen):
        found += [item.name for item in news([before], [after], ill)]
        ill = sick(ill, [after])
    return found


AVOIDED = replace(UP, status="NOLB")  # by our own word
LATE = replace(AVOIDED, check="L4TOUT")
RAISED = replace(UP, check="L4TOUT", **IDLE)  # so is this: ``health up``
DOWN = replace(UP, status="DOWN", check="L4TOUT")


def test_what_we_order_ourselves_is_not_told_as_what_a_check_found() -> None:
    assert told_of(UP, AVOIDED, UP) == []
    assert told_of(UP, AVOIDED, LATE, RAISED, DOWN, UP) == ["backend-unhealthy", "backend-healthy"]
    assert told(Phase.READY, RAISED).is_healthy is False


def test_who_is_kept_up_after_its_check_failed_is_told_as_well_only_by_a_check() -> None:
    busy = replace(RAISED, in_flight=2)
    assert told_of(UP, LATE, busy) == ["backend-unhealthy", "backend-kept"]
    assert told_of(UP, LATE, busy, UP) == ["backend-unhealthy", "backend-kept", "backend-healthy"]


def test_a_member_that_was_down_at_the_first_look_is_told_when_it_is_well() -> None:
    assert told_of(DOWN, UP) == ["backend-healthy"]


def test_of_a_member_that_was_not_checked_yet_nothing_is_known() -> None:
    unchecked = replace(UP, status="UP 1/3", check="", is_unchecked=True)
    found = told(Phase.READY, unchecked)
    assert (found.state, found.is_healthy, found.is_kept, found.check) == ("ready", None, False, "")


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        ("user: it was suspended by hand or by another program", "by hand, or while something saves it, dumps it or"),
        ("dump: its memory is being dumped", "dump: its memory is being dumped"),
        ("", "suspended"),
    ],
)
def test_who_has_paused_a_member_is_not_claimed_where_libvirt_cannot_know_yet(detail: str, text: str) -> None:
    found = why_held(Failure(host="local", domain="web-0001", uuid="u1", reason="suspended", detail=detail))
    assert text in found
    assert "was suspended by hand" not in found


# --- traffic -------------------------------------------------------------------------------------------------------

OWNED = {"vm1": ("web-0001", "u1")}


def look(at_s: float, requests: int, sessions: int, pid: int = 1, owned: dict[str, tuple[str, str]] = OWNED) -> Look:
    server = replace(UP, sessions_total=sessions)
    totals = Totals(requests, requests // 10, 3, 4, 0.005, 0.02)
    return Look(Snapshot(pid, {"web": (server, EMPTY)}, {"web": totals}, ""), owned, at_s)


def test_two_looks_make_rates() -> None:
    assert traffic("web", look(10, 100, 50), look(12, 160, 90), 1.0) == Traffic(
        group="web",
        interval_s=2.0,
        is_known=True,
        request_rate=30.0,
        error_rate=3.0,
        queue=3,
        in_flight=4,
        queue_time_s=0.005,
        response_time_s=0.02,
        names=("web-0001",),
        request_rates=(20.0,),
        in_flights=(2,),
        response_times_s=(0.02,),
    )


@pytest.mark.parametrize("before", [None, look(10, 100, 50, pid=2), look(10, 900, 900)])
def test_first_look_other_process_and_counter_reset_leave_rates_unknown(before: Look | None) -> None:
    found = traffic("web", before, look(12, 160, 90), 1.0)
    assert (found.is_known, found.request_rate, found.error_rate, found.request_rates) == (True, None, None, (None,))
    assert (found.queue, found.in_flight, found.response_time_s) == (3, 4, None)


def test_slot_with_another_member_has_no_rate_yet() -> None:
    found = traffic("web", look(10, 100, 50, owned={"vm1": ("web-0001", "old")}), look(12, 160, 90), 1.0)
    assert found.request_rates == (None,)


def test_two_slots_of_one_name_are_told_while_one_leaves_and_its_next_comes() -> None:
    """What is known of the one and not of the other cannot be compared."""
    owned = {"vm1": ("web-0001", "u1"), "vm2": ("web-0001", "u2")}
    servers = (replace(UP, sessions_total=90), replace(UP, name="vm2", sessions_total=1))
    now = replace(
        look(12, 160, 90, owned=owned),
        snapshot=Snapshot(1, {"web": servers}, {"web": Totals(160, 16, 3, 4, 0.0, 0.0)}, ""),
    )
    found = traffic("web", look(10, 100, 50), now, 1.0)
    assert found.names == ("web-0001", "web-0001")
    assert sorted(found.request_rates, key=str) == [20.0, None]


def test_no_request_leaves_times_unknown() -> None:
    found = traffic("web", look(10, 100, 50), look(12, 100, 50), 1.0)
    assert (found.request_rate, found.response_time_s, found.queue_time_s) == (0.0, None, None)


def test_silent_haproxy_makes_traffic_unknown() -> None:
    assert unknown_traffic("web", 1.0) == Traffic(group="web", interval_s=1.0, is_known=False)


# --- holds ---------------------------------------------------------------------------------------------------------

FIRST = Hold("u1", until_s=100.0)
READY_HOLD = Hold("u1", 100.0, Phase.READY, 5.0)
WARM_HOLD = Hold("u1", 100.0, Phase.WARMING, 5.0)


@pytest.mark.parametrize(
    ("hold", "shown", "expected"),
    [
        (FIRST, member(Phase.READY, 5.0), (READY_HOLD,)),
        (READY_HOLD, member(Phase.READY, 5.2), (replace(READY_HOLD, since_s=5.2),)),
        (READY_HOLD, member(Phase.READY, 9.0), ()),
        (READY_HOLD, member(Phase.FAILED, 9.0), ()),
        (READY_HOLD, member(Phase.WARMING, 9.0), ()),
        (WARM_HOLD, member(Phase.READY, 9.0), (replace(READY_HOLD, since_s=9.0),)),
        (READY_HOLD, member(Phase.READY, 9.0, uuid="other"), (READY_HOLD,)),
    ],
)
def test_failed_member_is_held_until_another_life(hold: Hold, shown: Member, expected: tuple[Hold, ...]) -> None:
    assert held([hold], membership(shown), now_s=50.0) == expected


def test_suspended_is_whoever_a_monitor_said_lately() -> None:
    words = [Word(frozenset({"a", "b"}), 10.0), Word(frozenset({"c"}), 6.0)]
    assert suspended(words, 12.0, stale_after_s=3.5) == {"a", "b"}
    assert suspended([Word()], 0.0, stale_after_s=3.5) == frozenset()


def test_hold_does_not_last_for_ever() -> None:
    assert held([READY_HOLD], membership(member(Phase.READY, 5.0)), now_s=100.0) == ()


def test_owner_of_the_slot_decides_whom_the_state_is_about() -> None:
    shown = membership(member(Phase.WARMING, uuid="new"))
    slots = [Slot(UP, Owner("web-0001", "old", "10.0.0.1", 80)), Slot(EMPTY)]
    (state,) = backend_states(shown, wanted_from(shown, ()), slots)
    assert (state.state, state.slot) == ("joining", None)


# --- addresses -----------------------------------------------------------------------------------------------------


def addresses(*members: Member) -> list[str | None]:
    before = membership(member(Phase.READY, uuid="u1"), member(Phase.READY, uuid="u2", address="10.0.0.2"))
    return [m.address for m in with_last_addresses(membership(*members), before).members]


def test_an_address_that_is_not_told_any_more_is_the_last_one() -> None:
    assert addresses(member(Phase.READY, address=None), member(Phase.DRAINING, uuid="u2", address=None)) == [
        "10.0.0.1",
        "10.0.0.2",
    ]


def test_another_address_is_the_one_that_is_told() -> None:
    assert addresses(member(Phase.READY, address="10.0.0.7")) == ["10.0.0.7"]


def test_a_last_address_that_another_member_is_told_to_have_is_forgotten() -> None:
    assert addresses(member(Phase.READY, address=None), member(Phase.READY, uuid="new")) == [None, "10.0.0.1"]


def test_who_never_had_an_address_has_none() -> None:
    assert addresses(member(Phase.READY, uuid="new", address=None)) == [None]
    assert with_last_addresses(membership(member(Phase.READY, address=None)), None).members[0].address is None


def test_a_hostile_address_is_no_address() -> None:
    told = membership(member(Phase.READY, address="10.0.0.1;shutdown sessions"), member(Phase.READY, uuid="u2"))
    assert [m.address for m in with_sound_addresses(told).members] == [None, "10.0.0.1"]


# --- who answers ---------------------------------------------------------------------------------------------------


def test_a_busy_server_that_answers_nobody_is_stalled() -> None:
    first = progress({}, [replace(UP, answers=5)], 10.0)
    later = progress(first, [replace(UP, answers=5)], 40.0)
    assert later == {"vm1": Answered(5, 10.0)}
    assert stalled(later, 40.0, limit_s=30.0) == frozenset()
    assert stalled(later, 40.1, limit_s=30.0) == {"vm1"}


@pytest.mark.parametrize("now", [replace(UP, answers=6), replace(UP, answers=0), replace(UP, answers=5, **IDLE)])
def test_an_answer_a_counter_reset_and_an_idle_moment_begin_anew(now: Server) -> None:
    assert progress({"vm1": Answered(5, 10.0)}, [now], 40.0) == {"vm1": Answered(now.answers, 40.0)}
