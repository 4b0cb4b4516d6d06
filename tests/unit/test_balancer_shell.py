"""The balancer's loop with a bus and a clock of its own, and with no HAProxy: what it dares and what it says."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from common import config_file
from common.config import System
from common.errors import AutoscalerError
from common.messages import (
    FROZEN,
    SUSPENDED,
    Body,
    Drain,
    Event,
    Failure,
    Header,
    HostSample,
    Member,
    Membership,
    Recovery,
    Reply,
    Request,
    Traffic,
)
from common.messaging.inbox import Inbox, PendingRequest, Received
from common.messaging.requests import decode_reply
from common.phases import Phase
from common.process import Context
from services.balancer.core.answers import Admin, Server, Snapshot, Totals
from services.balancer.core.ending import read_bound
from services.balancer.core.haproxy_config import state_file
from services.balancer.core.older import Old, Older
from services.balancer.core.report import UNASKED
from services.balancer.errors import ProxyLostError
from services.balancer.files import forget_slots
from services.balancer.shell import BalancerService
from tests.clocks import FakeClock


@dataclass
class FakeBus:
    published: list[Body] = field(default_factory=list)
    heard: list[tuple[str, ...]] = field(default_factory=list)

    def publish(self, body: Body, cause: str | None = None) -> str:
        self.published.append(body)
        return "id"

    def subscribe(self, service: str, *kinds: str) -> None:
        self.heard.append((service, *kinds))

    def of(self, kind: type[Body]) -> list[Any]:
        return [body for body in self.published if isinstance(body, kind)]


NO_OLD_WORKER = Older()
SERVES = Server("vm1", "10.0.0.1", 80, Admin.READY, "UP", True, 0, 0, 0, 0, 0.0, "L7OK", 1.0)


@dataclass
class FakeApi:
    """HAProxy with one slot, which serves 10.0.0.1, or is as a test has it; or silent."""

    slot: Server = SERVES
    is_silent: bool = False
    orders: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    looks: int = 0
    number: int = 1
    has_group: bool = True

    def inode(self) -> int:
        return self.number

    def look(self, groups: object) -> Snapshot:
        self.looks += 1
        self._speak()
        servers = {"web": (self.slot,)} if self.has_group else {}
        return Snapshot(self.number, servers, {name: Totals(0, 0, 0, 0, 0.0, 0.0) for name in servers}, "1\n")

    def order(self, commands: list[str]) -> list[str]:
        self._speak()
        self.orders += commands
        return self.refused

    def _speak(self) -> None:
        if self.is_silent:
            raise ProxyLostError("HAProxy at x: no answer")


@dataclass
class FakeOld:
    """The old workers, as a test has them."""

    older: Older = NO_OLD_WORKER
    sessions: dict[int, tuple[str, ...]] = field(default_factory=dict)
    asked_to_end: list[tuple[int, str, str]] = field(default_factory=list)

    def look(self, present_pid: int, groups: object) -> Older:
        return self.older

    def end_sessions(self, pid: int, group: str, slot: str, spared: object) -> tuple[str, ...]:
        self.asked_to_end.append((pid, group, slot))
        return self.sessions.pop(pid, ())


class Bench:
    def __init__(self, directory: Path) -> None:
        text = f'[system]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}"\n[groups.web]\nprefix = "web-"\n'
        self.does_accept = False
        self.bus, self.clock, self.api = FakeBus(), FakeClock(), FakeApi()
        config = config_file.parse(text.encode(), "t")
        bus: Any = self.bus
        self.service = BalancerService(
            Context("balancer", config, "", Path("t"), self.clock, bus, is_stopping=lambda: False)
        )
        api: Any = self.api
        self.service._api = api
        self.old = FakeOld()
        old: Any = self.old
        self.service._old = old
        self.service._accepts = lambda endpoint: self.does_accept

    def step(self, *bodies: Body, age_s: float = 0.0, after_s: float = 0.0) -> float:
        self.clock.now_s += after_s
        header = Header(source="x", run_id=1, seq=1, sent_at_s=0, mono_s=0)
        messages = tuple(Received(body.topic, header, body, age_s, "x/1") for body in bodies)
        return self.service.step(Inbox(messages), self.clock.now_s)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def membership(phase: Phase = Phase.READY, address: str = "10.0.0.1", group: str = "web") -> Membership:
    member = Member(name="web-0001", uuid="u1", host="local", phase=phase, since_s=1, age_s=1, address=address, port=80)
    return Membership(group=group, generation_seen=1, desired_seen=1, members=(member,), owned_total=1, ceiling=9)


FAILURE = Failure(host="local", domain="web-0001", uuid="u1", reason="crashed")
NO_CHECKS = ["set server web/vm1 health stopping", "disable health web/vm1"]
CLOSED = ["set server web/vm1 state drain"]
CUT = ["set server web/vm1 health down", "set server web/vm1 state maint"]


def test_nothing_is_ordered_before_membership_is_known(bench: Bench) -> None:
    bench.step()
    bench.step(after_s=5)
    assert (bench.api.looks, bench.api.orders) == (2, [])
    assert bench.bus.heard == [("actuator", "membership"), ("monitor", "failure", "recovery", "sample")]


def test_nothing_is_said_of_members_before_membership_is_known_and_haproxy_was_looked_at(bench: Bench) -> None:
    bench.step()
    bench.step(after_s=5)
    assert bench.bus.of(Drain) == []
    bench.api.is_silent = bench.does_accept = True
    bench.step(membership(), after_s=5)
    assert bench.bus.of(Drain) == []
    bench.api.is_silent = False
    bench.step(after_s=5)
    assert [backend.state for backend in bench.bus.of(Drain)[0].backends] == ["ready"]


def test_a_proxy_that_does_not_run_is_said_at_once(bench: Bench) -> None:
    bench.api.is_silent = True
    bench.step(membership())
    assert [(drain.is_proxy_alive, drain.backends) for drain in bench.bus.of(Drain)] == [(False, ())]


def test_failure_is_acted_upon_before_haproxy_is_looked_at(bench: Bench) -> None:
    bench.step(membership())
    looks = bench.api.looks
    bench.api.look = lambda groups: pytest.fail("looked first") if not bench.api.orders else FakeApi().look(groups)
    bench.step(FAILURE)
    assert bench.api.orders[:2] == NO_CHECKS
    assert looks == 1
    assert [event.domain for event in bench.bus.of(Event) if event.name == "backend-cut"] == ["web-0001"]


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_wall_clock_changes_no_order_and_no_word(tmp_path: Path, jump_s: float) -> None:
    found = []
    for moved_s in (0.0, jump_s):
        bench = Bench(tmp_path)
        bench.step(membership())
        bench.clock.boot_epoch_s += moved_s
        for _ in range(5):
            bench.step(membership(), after_s=1)
        bench.step(FAILURE, age_s=0.1, after_s=1)
        bench.step(membership(Phase.DRAINING), after_s=1)
        said = [body for body in bench.bus.published if not isinstance(body, Event)]
        events = [(event.name, event.domain, event.text) for event in bench.bus.of(Event)]
        found.append((bench.api.orders, said, events))
    assert found[0] == found[1]
    assert found[0][0][:2] == NO_CHECKS


def test_failure_heard_together_with_the_first_membership_still_cuts(bench: Bench) -> None:
    bench.step(FAILURE, membership())
    assert bench.api.orders == NO_CHECKS


def test_what_a_failed_member_has_is_ended_only_when_no_connection_to_it_is_being_made(bench: Bench) -> None:
    bench.step(membership())
    bench.step(FAILURE)
    bench.api.slot = replace(bench.api.slot, status="NOLB", has_checks=False)
    bench.api.orders.clear()
    bench.step(after_s=0.1)
    assert bench.api.orders == CLOSED
    bench.api.slot = replace(bench.api.slot, admin=Admin.DRAIN)
    bench.step(after_s=0.3)
    assert bench.api.orders == CLOSED
    bench.step(after_s=0.4)
    assert bench.api.orders == [*CLOSED, *CUT]


def test_stale_failure_is_not_believed(bench: Bench) -> None:
    bench.step(membership())
    bench.step(FAILURE, age_s=60.0)
    assert bench.api.orders == []


def test_a_frozen_member_is_avoided_and_left_to_the_checks(bench: Bench) -> None:
    bench.step(membership())
    bench.step(FAILURE.model_copy(update={"reason": FROZEN}))
    bench.step(membership(), after_s=5)
    assert bench.api.orders == ["set server web/vm1 health stopping"]
    assert [event.text for event in bench.bus.of(Event) if event.name == "backend-cut"] == [
        "slot vm1 takes nothing new: frozen"
    ]


HELD = FAILURE.model_copy(update={"reason": SUSPENDED, "detail": "user: it was suspended by hand"})
DRAIN = "set server web/vm1 state drain"
FRESH_CHECKS = ["set server web/vm1 health stopping", "enable health web/vm1"]


def sample(*suspended: str) -> HostSample:
    return HostSample(host="local", interval_s=1.0, is_reachable=True, suspended_uuids=suspended)


def hold(bench: Bench) -> None:
    """Suspend the member, and have HAProxy show what was ordered."""
    bench.step(membership())
    bench.step(HELD)
    bench.api.slot = replace(bench.api.slot, status="NOLB", has_checks=False, admin=Admin.DRAIN, in_flight=3)
    bench.api.orders.clear()
    bench.step(sample("u1"), membership(), after_s=1)


def test_a_suspended_member_gets_nothing_new_and_is_not_cut(bench: Bench) -> None:
    bench.step(membership())
    bench.step(HELD)
    assert bench.api.orders[:2] == NO_CHECKS
    bench.api.slot = replace(bench.api.slot, status="NOLB", has_checks=False)
    bench.api.orders.clear()
    bench.step(sample("u1"), after_s=1)
    assert bench.api.orders == [DRAIN]
    assert [(event.name, event.text) for event in bench.bus.of(Event)] == [
        (
            "backend-held",
            "slot vm1 takes nothing new: it is paused (user): by hand, or while something saves it, dumps it or takes "
            "a snapshot",
        )
    ]


def test_a_suspended_member_is_held_for_as_long_as_the_samples_say_so(bench: Bench) -> None:
    hold(bench)
    for _ in range(60):
        bench.step(sample("u1"), membership(), after_s=1)
    assert bench.api.orders == []
    assert [backend.state for backend in bench.bus.of(Drain)[-1].backends] == ["held"]


def test_a_member_is_checked_as_soon_as_it_is_told_to_run_again(bench: Bench) -> None:
    hold(bench)
    bench.step(Recovery(host="local", domain="web-0001", uuid="another"), after_s=0.1)
    assert bench.api.orders == []
    bench.step(Recovery(host="local", domain="web-0001", uuid="u1"), after_s=0.1)
    assert bench.api.orders == FRESH_CHECKS


def test_a_member_that_runs_again_is_checked_anew_and_if_nobody_serves_it_does_at_once(bench: Bench) -> None:
    hold(bench)
    bench.step(sample(), after_s=0.1)
    assert bench.api.orders == FRESH_CHECKS
    bench.api.slot = replace(bench.api.slot, has_checks=True)
    bench.step(after_s=0.1)
    server = "set server web/vm1"
    assert bench.api.orders[2:] == [f"{server} weight 100%", f"{server} health up", f"{server} state ready"]


def test_the_word_of_a_monitor_that_fell_silent_ends_and_membership_decides(bench: Bench) -> None:
    hold(bench)
    bench.step(membership(Phase.SUSPENDED), after_s=10)
    assert bench.api.orders == []
    bench.step(membership(), after_s=10)
    assert bench.api.orders == FRESH_CHECKS


def test_a_suspended_member_that_fails_for_good_is_cut(bench: Bench) -> None:
    hold(bench)
    bench.step(FAILURE)
    assert bench.api.orders == [*NO_CHECKS, *CUT]


def test_a_restarted_balancer_holds_whom_a_sample_or_membership_says_is_suspended(bench: Bench) -> None:
    bench.step(sample("u1"), membership())
    assert bench.api.orders == NO_CHECKS
    other = Bench(Path(bench.service._context.config.system.state_dir))
    other.step(membership(Phase.SUSPENDED))
    assert other.api.orders == NO_CHECKS


@pytest.mark.parametrize("phase", [Phase.STANDBY, Phase.STOPPING])
def test_who_is_paused_on_its_way_out_is_no_news(bench: Bench, phase: Phase) -> None:
    bench.step(membership())
    bench.step(membership(phase))
    bench.api.orders.clear()
    bench.step(HELD)
    assert NO_CHECKS[1] not in bench.api.orders
    assert [event.name for event in bench.bus.of(Event) if event.name == "backend-held"] == []


@pytest.mark.parametrize("failure", [FAILURE, HELD], ids=["cut", "held"])
def test_a_failure_that_a_silent_haproxy_did_not_hear_is_ordered_when_it_answers(
    bench: Bench, failure: Failure
) -> None:
    bench.step(membership())
    bench.api.is_silent = True
    bench.step(failure)
    bench.api.is_silent = False
    bench.step(sample("u1") if failure is HELD else FAILURE, after_s=1)
    assert bench.api.orders == NO_CHECKS


# --- addresses that are forgotten ----------------------------------------------------------------------------------


def test_a_member_whose_address_is_forgotten_keeps_its_slot(bench: Bench) -> None:
    bench.step(membership())
    bench.step(membership().model_copy(update={"members": (nowhere(),)}))
    assert bench.api.orders == []
    drained = membership().model_copy(update={"members": (nowhere(Phase.DRAINING),)})
    bench.step(drained)
    assert bench.api.orders == [DRAIN]


def test_a_restarted_balancer_takes_no_slot_from_members_without_address(bench: Bench) -> None:
    bench.step(membership().model_copy(update={"members": (nowhere(),)}))
    assert bench.api.orders == []


def nowhere(phase: Phase = Phase.READY) -> Member:
    return membership(phase).members[0].model_copy(update={"address": None})


# --- the last one standing -----------------------------------------------------------------------------------------

LATE = {"status": "UP 2/3", "check": "L7TOUT", "in_flight": 9}
KEEP = "set server web/vm1 health up"


def test_the_last_one_is_kept_while_it_answers_and_that_is_said_once_a_minute(bench: Bench) -> None:
    bench.step(membership())
    for second in range(50):
        bench.api.slot = replace(bench.api.slot, **LATE, answers=second)
        bench.step(membership(), after_s=1)
        bench.api.slot = replace(bench.api.slot, status="UP", check="L7OK")
        bench.step(membership(), after_s=1)
    assert bench.api.orders == [KEEP] * 50
    assert [event.name for event in bench.bus.of(Event)] == ["backend-kept"] * 2


def test_the_last_one_that_answers_nobody_for_a_requests_time_is_left_to_its_checks(bench: Bench) -> None:
    bench.step(membership())
    bench.api.slot = replace(bench.api.slot, **LATE)
    for _ in range(40):
        bench.step(membership(), after_s=1)
    assert 28 <= len(bench.api.orders) <= 32
    bench.api.orders.clear()
    bench.step(membership(), after_s=1)
    assert bench.api.orders == []


@pytest.mark.parametrize(
    ("shown", "pause_s"),
    [({}, 1.0), ({"in_flight": 9}, 0.5), (LATE | {"status": "UP"}, 0.25), ({"status": "UP 2/3"}, 0.25)],
    ids=["idle", "busy", "kept", "falling"],
)
def test_the_more_checks_may_cut_the_more_often_they_are_looked_at(
    bench: Bench, shown: dict[str, Any], pause_s: float
) -> None:
    bench.api.slot = replace(bench.api.slot, **shown)
    bench.step(membership())
    bench.step(after_s=1.0)
    looks = bench.api.looks
    bench.step(after_s=pause_s - 0.05)
    assert bench.api.looks == looks
    bench.step(after_s=0.05)
    assert bench.api.looks == looks + 1


def test_failure_of_another_life_of_the_name_touches_nothing(bench: Bench) -> None:
    bench.step(membership())
    bench.step(FAILURE.model_copy(update={"uuid": "other"}))
    assert bench.api.orders == []


def test_many_failures_wait_for_a_silent_haproxy_once(bench: Bench) -> None:
    bench.step(membership())
    bench.api.is_silent = True
    bench.step(FAILURE, FAILURE, FAILURE)
    assert [event.name for event in bench.bus.of(Event)] == ["proxy-lost"]
    assert not bench.bus.of(Drain)[-1].is_proxy_alive
    bench.api.is_silent = False
    bench.step(after_s=1.0)
    assert bench.api.orders == NO_CHECKS
    assert bench.bus.of(Event)[-1].name == "proxy-back"


def test_hostile_address_is_no_address(bench: Bench) -> None:
    bench.api.slot = replace(bench.api.slot, address="127.0.0.1", port=1, admin=Admin.MAINT, status="MAINT")
    bench.step(membership(address="10.0.0.1;shutdown sessions"))
    assert bench.api.orders == []
    bench.step(membership(address="10.0.0.2"))
    assert bench.api.orders[0] == "set server web/vm1 addr 10.0.0.2 port 80"


def test_membership_of_an_unknown_group_is_ignored(bench: Bench) -> None:
    bench.step(membership(group="other"))
    assert bench.api.orders == []


def test_another_socket_is_looked_at_at_once(bench: Bench) -> None:
    bench.step(membership())
    bench.step(after_s=0.1)
    assert bench.api.looks == 1
    bench.api.number = 2
    bench.step(after_s=0.1)
    assert bench.api.looks == 2
    assert [event.name for event in bench.bus.of(Event)] == ["proxy-restarted"]


def test_refused_order_is_said_and_tried_again(bench: Bench) -> None:
    bench.api.refused = ["set server web/vm1 state maint: Permission denied"]
    bench.step(membership(Phase.STOPPING))
    bench.step(after_s=1.1)
    assert bench.api.orders == ["set server web/vm1 state maint"] * 2


def test_haproxy_with_another_configuration_is_not_alive_for_the_group(bench: Bench) -> None:
    bench.api.has_group = False
    bench.step(membership())
    assert not bench.bus.of(Drain)[-1].is_proxy_alive
    assert not bench.bus.of(Traffic)[-1].is_known


def test_silent_haproxy_that_serves_is_alive_and_unknown(bench: Bench) -> None:
    bench.step(membership())
    bench.api.is_silent = bench.does_accept = True
    bench.step(after_s=1.5)
    drain = bench.bus.of(Drain)[-1]
    assert (drain.is_proxy_alive, drain.backends[0].is_healthy) == (True, None)
    assert not bench.bus.of(Traffic)[-1].is_known


def test_drain_is_said_on_change_and_every_republish_s(bench: Bench) -> None:
    bench.step(membership())
    bench.step(after_s=0.5)
    assert len(bench.bus.of(Drain)) == 1
    bench.step(after_s=1.6)
    assert len(bench.bus.of(Drain)) == 2


def test_traffic_is_said_every_interval(bench: Bench) -> None:
    bench.step(membership())
    for _ in range(20):
        bench.step(after_s=0.25)
    assert len(bench.bus.of(Traffic)) == 6


def test_request_is_answered_that_the_balancer_has_no_verbs(bench: Bench) -> None:
    answers: list[Reply] = []
    request = PendingRequest(Request(verb="dance"), lambda frame: answers.append(decode_reply(frame)))
    bench.service.step(Inbox((), (request,)), bench.clock.now_s)
    assert [(reply.status, reply.reason) for reply in answers] == [("error", "the balancer does not know 'dance'")]


def test_a_reload_gives_the_groups_their_new_tables(bench: Bench) -> None:
    text = '[groups.web]\nprefix = "web-"\nmax = 9\n'
    bench.service.reload(config_file.parse(text.encode(), "t"), bench.clock.now_s)
    assert bench.service._groups["web"].config.maximum == 9


def test_a_reload_tells_the_keeper_how_long_haproxy_may_take_to_end(bench: Bench, tmp_path: Path) -> None:
    text = '[groups.web]\nprefix = "web-"\ndrain_timeout_s = 77\n'
    run_path = bench.service._context.config.system.run_path
    run_path.mkdir(parents=True, exist_ok=True)
    bench.service.reload(config_file.parse(text.encode(), "t"), bench.clock.now_s)
    assert read_bound(run_path) == 77


def test_connections_that_stay_far_apart_are_told_once_and_noted_until_they_are_even(bench: Bench) -> None:
    first = replace(SERVES, in_flight=20)
    second = replace(SERVES, name="vm2", address="10.0.0.2")
    totals = {"web": Totals(0, 0, 0, 0, 0.0, 0.0)}
    bench.api.look = lambda _groups: Snapshot(1, {"web": (first, second)}, totals, "1\n")  # type: ignore[method-assign]
    one = membership()
    other = one.members[0].model_copy(update={"name": "web-0002", "uuid": "u2", "address": "10.0.0.2"})
    both = one.model_copy(update={"members": (*one.members, other)})
    bench.step(both)
    for _ in range(70):
        bench.step(both, after_s=1.0)
    assert [event.text for event in bench.bus.of(Event)] == [
        "connections stay far apart: 20 at web-0001, 0 at web-0002; new ones go to the least, old ones do not move"
    ]
    assert bench.bus.of(Drain)[-1].notes == (bench.bus.of(Event)[0].text,)
    second = replace(second, in_flight=18)
    for _ in range(70):
        bench.step(both, after_s=1.0)
    assert [event.name for event in bench.bus.of(Event)] == ["connections-skewed", "connections-even"]
    assert bench.bus.of(Drain)[-1].notes == ()


# --- older processes of HAProxy ------------------------------------------------------------------------------------


def old_worker(pid: int, in_flight: int, clients: int = 0, since_s: float = 1.0, slot: Server = SERVES) -> Old:
    totals = Totals(0, 0, 0, in_flight, 0.0, 0.0, clients=clients or in_flight)
    return Old(Snapshot(pid, {"web": (replace(slot, in_flight=in_flight),)}, {"web": totals}, ""), since_s)


def drained(bench: Bench, older: Older) -> Any:
    """Return what is said of a member that drains in the present HAProxy, with nothing in flight there."""
    bench.api.slot = replace(SERVES, admin=Admin.DRAIN, status="DRAIN")
    bench.old.older = older
    bench.step(membership(Phase.DRAINING))
    return bench.bus.of(Drain)[-1].backends[0]


def test_what_old_workers_hold_is_in_flight(bench: Bench) -> None:
    found = drained(bench, Older((old_worker(7, 2), old_worker(8, 3))))
    assert (found.state, found.in_flight, found.is_in_flight_known) == ("draining", 5, True)
    traffic = bench.bus.of(Traffic)[-1]
    assert (traffic.in_flight, traffic.in_flights) == (5, (5,))


def test_a_drain_is_not_said_to_be_empty_while_an_old_worker_has_a_client_that_may_ask(bench: Bench) -> None:
    found = drained(bench, Older((old_worker(7, 0, clients=1),)))
    assert (found.in_flight, found.is_in_flight_known) == (0, False)
    bench.old.older = Older((old_worker(7, 0, clients=1, slot=replace(SERVES, admin=Admin.DRAIN)),))
    bench.step(membership(Phase.DRAINING), after_s=0.1)
    assert bench.bus.of(Drain)[-1].backends[0].is_in_flight_known


def test_a_drain_is_not_said_to_be_empty_while_old_workers_are_unknown(bench: Bench) -> None:
    found = drained(bench, Older(is_whole=False))
    assert (found.in_flight, found.is_in_flight_known) == (0, False)
    assert bench.bus.of(Drain)[-1].notes == ()
    bench.step(after_s=6)
    assert bench.bus.of(Drain)[-1].notes == (UNASKED,)
    bench.old.older = NO_OLD_WORKER
    bench.step(after_s=6)
    assert (bench.bus.of(Drain)[-1].backends[0].is_in_flight_known, bench.bus.of(Drain)[-1].notes) == (True, ())


def test_an_old_worker_that_falls_silent_holds_what_it_held(bench: Bench) -> None:
    drained(bench, Older((old_worker(7, 2),)))
    bench.old.older = Older(is_whole=False)
    bench.step(membership(Phase.DRAINING), after_s=0.1)
    found = bench.bus.of(Drain)[-1].backends[0]
    assert (found.in_flight, found.is_in_flight_known) == (2, False)


def test_at_the_end_of_a_drain_old_workers_sessions_are_ended_counted_once_and_told(bench: Bench) -> None:
    drained(bench, Older((old_worker(7, 2),)))
    bench.old.sessions = {7: ("0xa", "0xb")}
    bench.step(membership(Phase.STOPPING), after_s=0.1)
    bench.old.older = Older((old_worker(7, 0),))
    bench.step(membership(Phase.STOPPING), after_s=0.1)
    bench.step(membership(Phase.STOPPING), after_s=0.1)
    assert bench.old.asked_to_end[0] == (7, "web", "vm1")
    assert bench.bus.of(Drain)[-1].cut_sessions_total == 2
    told = [(event.name, event.domain, event.text) for event in bench.bus.of(Event)]
    assert told == [("drain-forced", "web-0001", "2 requests in flight were cut off")]


def test_sessions_that_cannot_be_ended_are_not_tried_without_a_pause(bench: Bench) -> None:
    drained(bench, Older((old_worker(7, 2),)))
    bench.api.slot = replace(SERVES, admin=Admin.MAINT, status="MAINT", connections=1)
    bench.step(membership(Phase.STOPPING), after_s=0.1)
    looks = bench.api.looks
    bench.step(after_s=0.05)
    assert bench.api.looks == looks


def test_a_failed_members_sessions_in_old_workers_are_ended_and_are_no_forced_drain(bench: Bench) -> None:
    bench.old.older = Older((old_worker(7, 1),))
    bench.old.sessions = {7: ("0xa",)}
    bench.step(membership())
    assert bench.old.asked_to_end == []
    bench.step(FAILURE)
    assert bench.old.asked_to_end == [(7, "web", "vm1")]
    assert bench.bus.of(Drain)[-1].cut_sessions_total == 0


def test_an_address_is_given_to_nobody_while_an_old_worker_has_sessions_with_whoever_had_it(bench: Bench) -> None:
    bench.step(membership())
    bench.api.number, bench.api.slot = (
        2,
        replace(SERVES, address="127.0.0.1", port=1, admin=Admin.MAINT, status="MAINT"),
    )
    bench.old.older = Older((old_worker(1, 1),))
    bench.step(after_s=1)
    bench.api.orders.clear()
    other = membership().members[0].model_copy(update={"uuid": "u2", "name": "web-0002"})
    successor = membership().model_copy(update={"members": (other,)})
    bench.step(successor, after_s=1)
    assert (bench.api.orders, bench.old.asked_to_end) == ([], [(1, "web", "vm1")])
    bench.old.older = NO_OLD_WORKER
    bench.step(after_s=1)
    assert bench.api.orders[0] == "set server web/vm1 addr 10.0.0.1 port 80"


def test_what_an_old_worker_held_when_its_time_was_up_is_counted_and_told(bench: Bench) -> None:
    bench.old.older = Older((old_worker(7, 3, since_s=598.5), old_worker(8, 4, since_s=100.0)))
    bench.step(membership())
    bench.old.older = NO_OLD_WORKER
    bench.step(membership(), after_s=1)
    assert bench.bus.of(Drain)[-1].cut_sessions_total == 3
    (event,) = bench.bus.of(Event)
    assert (event.name, event.level) == ("drain-forced", "warning")
    assert event.text.startswith("3 requests in flight were cut off: a reload left them 600 s")


def test_forgotten_slots_are_gone_and_forgetting_twice_is_nothing(tmp_path: Path) -> None:
    system = System(run_dir=f"{tmp_path}/r", state_dir=f"{tmp_path}/s")
    kept = state_file(system)
    kept.parent.mkdir()
    kept.write_text("1\n2 web 1 vm1 10.0.0.9 …\n")
    forget_slots(system)
    forget_slots(system)
    assert not kept.exists()
    kept.mkdir()
    with pytest.raises(AutoscalerError, match="cannot be removed"):
        forget_slots(system)
