"""What breaks, and what holds: domains, the balancer, HAProxy, the socket between them."""

import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from common.messages import FROZEN
from common.phases import Phase
from services.balancer.core.haproxy_config import EMPTY_ADDRESS, state_file, stats_socket
from services.balancer.haproxy import DEADLINE_S
from tests.faults.proof import Proof
from tests.integration.balancer_stand import Domain, Load, Stand, end
from tests.waiting import Stopwatch, undisturbed_s, wait_until


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


REFUSED_S = 0.2  # from HAProxy's end until the next one serves
AT_ONCE_S = 0.1
IN_ORDER_S = 1.0


def three(stand: Stand) -> list[Domain]:
    domains = [stand.domain(number) for number in range(3)]
    stand.join(*domains)
    return domains


def slots_of(stand: Stand, state: str) -> list[str]:
    return sorted(address for address, admin, _ in stand.servers().values() if admin == state)


# --- domains die ---------------------------------------------------------------------------------------------------


def test_killed_domain_with_push_fails_no_get(stand: Stand) -> None:
    _, _, victim = three(stand)
    with Load(stand.port, "/work?ms=100") as load:
        stand.run_for(1)
        end(victim.process)
        stand.fail(victim)
        stand.until(lambda: slots_of(stand, "ready") == ["127.0.0.20", "127.0.0.21"], "the slot is out")
        stand.run_for(1)
    assert load.failures == []


@contextmanager
def a_door_that_nobody_opens(address: str, port: int) -> Iterator[None]:
    """Have connections to the address wait for ever: they are neither made nor refused."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            guest = waiting.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex((address, port))
        yield


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_whose_connection_is_being_made_to_a_domain_that_fails_is_answered_by_another(
    stand: Stand, method: str
) -> None:
    _, _, victim = three(stand)
    in_flight = lambda: sum(s.in_flight for s in stand.api.look(["web"]).servers["web"] if s.address == victim.address)  # noqa: E731
    end(victim.process)
    with a_door_that_nobody_opens(victim.address, victim.port), ThreadPoolExecutor(9) as pool:
        url = f"http://127.0.0.1:{stand.port}/work?ms=300"
        asked = [pool.submit(urllib.request.urlopen, urllib.request.Request(url, method=method)) for _ in range(9)]
        wait_until(in_flight, "some of them are on their way to the dead one", every_s=0.005)
        stand.fail(victim)
        stand.until(lambda: all(each.done() for each in asked), "all are answered")
    assert [each.result().status for each in asked] == [200] * 9


def test_frozen_domain_with_push_fails_no_get(stand: Stand) -> None:
    _, _, victim = three(stand)
    with Load(stand.port, "/work?ms=100") as load:
        stand.run_for(1)
        victim.process.send_signal(signal.SIGSTOP)
        stand.run_for(0.05)
        stand.fail(victim)
        stand.until(lambda: slots_of(stand, "ready") == ["127.0.0.20", "127.0.0.21"], "the slot is out")
        stand.run_for(1)
    assert load.failures == []
    assert load.slowest_s < 2.0  # without the push: a check's time-out more, above 3 s


def test_frozen_domain_that_goes_on_is_back_by_its_checks(stand: Stand) -> None:
    _, _, victim = three(stand)
    health = lambda: stand.drains["web"].backends[2].is_healthy  # noqa: E731
    with Load(stand.port, "/work?ms=100") as load:
        stand.run_for(0.5)
        victim.process.send_signal(signal.SIGSTOP)
        stand.fail(victim, FROZEN)
        stand.until(lambda: health() is False, "down")
        victim.process.send_signal(signal.SIGCONT)
        stand.until(lambda: health() is True, "up again")
        stand.run_for(0.5)
    assert load.failures == []
    assert stand.state(victim) == "ready"
    assert "takes nothing new: frozen" in next(event.text for event in stand.events if event.name == "backend-cut")


def test_frozen_domain_without_push_is_retired_by_haproxy_itself(stand: Stand) -> None:
    _, _, victim = three(stand)
    with Load(stand.port, "/work?ms=100") as load:
        stand.run_for(0.5)
        victim.process.send_signal(signal.SIGSTOP)
        stand.until(lambda: stand.drains["web"].backends[2].is_healthy is False, "unhealthy")
        stand.run_for(0.5)
    assert load.failures == []
    assert stand.state(victim) == "ready"
    stand.until(lambda: any(event.name == "backend-unhealthy" for event in stand.events), "it is told")


def test_post_is_delivered_at_most_once_while_domains_die(stand: Stand) -> None:
    domains = three(stand)
    sent: list[str] = []
    stop = threading.Event()

    def post() -> None:
        while not stop.wait(0.01) and len(sent) < 2000:
            key = f"p{threading.get_ident()}-{len(sent)}"
            sent.append(key)
            request = urllib.request.Request(
                f"http://127.0.0.1:{stand.port}/count?id={key}&ms=50", data=b"x", method="POST"
            )
            try:
                urllib.request.urlopen(request, timeout=15).read()  # noqa: S310 - http, as written above
            except OSError:
                continue

    workers = [threading.Thread(target=post, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for victim in domains[1:]:
        stand.run_for(0.5)
        end(victim.process)
        stand.run_for(0.05)
        stand.fail(victim)
    stand.until(lambda: len(sent) > 50, "requests enough", 30)
    stop.set()
    for worker in workers:
        worker.join(30)
    arrived = [key for domain in domains for key in domain.posts()]
    assert sorted(arrived) == sorted(set(arrived))


def test_failed_member_stays_out_until_membership_tells_another_life(stand: Stand) -> None:
    _, _, victim = three(stand)
    stand.fail(victim)
    stand.until(lambda: stand.state(victim) == "left", "the slot is out")
    stand.tell()
    stand.run_for(1.5)
    assert stand.state(victim) == "left"
    stand.set_phase(victim, Phase.WARMING, wait_for="ready")


@pytest.fixture
def quick() -> Iterator[Stand]:
    stand = Stand(check_interval_s=0.1)
    yield stand
    stand.close()


def test_failure_reaches_haproxy_within_100_ms(quick: Stand) -> None:
    stand, victim = quick, three(quick)[2]
    took_s = []
    for _ in range(20):
        stand.fail(victim)
        took_s.append(stand.until(lambda: victim.address not in slots_of(stand, "ready"), "out"))
        stand.until(lambda: stand.state(victim) == "left", "left")
        stand.set_phase(victim, Phase.WARMING, wait_for="ready")
    print(f"failure to slot down: median {statistics.median(took_s) * 1000:.1f} ms, max {max(took_s) * 1000:.1f} ms")
    assert max(took_s) < 0.1, took_s


@pytest.mark.fault(60)
def test_who_goes_down_a_second_time_stays_out_though_its_checks_succeed(quick: Stand, row: Proof) -> None:
    stand, victim = quick, three(quick)[2]
    is_healthy = lambda: stand.drains["web"].backends[2].is_healthy  # noqa: E731
    with Load(stand.port) as load:
        victim.sick.touch()
        stand.until(lambda: is_healthy() is False, "it is down")
        victim.sick.unlink()
        stand.until(lambda: is_healthy() is True, "it is back")
        assert victim.address in slots_of(stand, "ready")
        victim.sick.touch()
        stand.until(lambda: stand.state(victim) == "restless", "it is down again")
        victim.sick.unlink()
        is_well = lambda: (victim.address, "drain", "DRAIN") in stand.servers().values()  # noqa: E731
        stand.until(is_well, "its checks succeed")
        stand.run_for(1.0)
        assert (stand.state(victim), is_healthy()) == ("restless", False)
        assert [event.domain for event in stand.events if event.name == "backend-restless"] == [victim.name]
        row.held("who goes down a second time stays out though its checks succeed, and is told")
        assert load.failures == []
        end(stand.domains[0].process)
        end(stand.domains[1].process)
        stand.until(lambda: victim.address in slots_of(stand, "ready"), "it serves, for nobody else does")


@pytest.mark.fault(58)
def test_address_of_another_domain_is_emptied_before_it_is_taken_again(stand: Stand, row: Proof) -> None:
    domains = three(stand)
    old = domains[2]
    end(old.process)
    new = Domain("web-0007", "uuid-new", old.address, old.port, old.log, old.sick, old.process)
    stand.domains[2] = new
    stand.tell()
    stand.until(lambda: old.address not in slots_of(stand, "ready"), "the old domain's slot is out")
    new.process = stand.start_app(new.address, new.name, new.log, new.sick)
    stand.until(lambda: stand.state(new) == "ready", "the new one is in")
    row.held("an address that another domain has now: its slot is emptied, and taken again by that one")


@pytest.mark.fault(58)
def test_a_slot_is_given_to_nobody_before_its_counters_are_0(row: Proof) -> None:
    stand = Stand(slots=4)
    try:
        domains = [stand.domain(number) for number in range(5)]
        stand.join(*domains[:4])
        threads = [get_in_background(stand.port, "/work?ms=6000")[0] for _ in range(8)]
        stand.until(lambda: [b.in_flight for b in stand.drains["web"].backends][:4] == [2] * 4, "all are busy")
        slot = next(name for name, (address, _, _) in stand.servers().items() if address == domains[0].address)
        stand.set_phase(domains[0], Phase.STOPPING)
        looks = []

        def is_given() -> bool:
            server = next(s for s in stand.api.look(["web"]).servers["web"] if s.name == slot)
            looks.append((server.address, server.is_idle))
            return server.address == domains[4].address

        stand.until(is_given, "the next one has the slot")
        before = [is_idle for address, is_idle in looks if address == EMPTY_ADDRESS]
        assert all(before) and looks[0][0] == domains[0].address
        assert not any(not is_idle for address, is_idle in looks if address == domains[4].address)
        row.held("a slot with requests in flight is given to the next one only when its counters are 0")
        for domain in domains:
            end(domain.process)
        for thread in threads:
            thread.join(20)
    finally:
        stand.close()


def _refused_s(stand: Stand) -> float:
    """Have a GET be refused as it is where nobody can serve; return how long that took."""
    start_s = stand.clock.monotonic_s()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{stand.port}/", timeout=5)
    took_s = stand.clock.monotonic_s() - start_s
    assert (caught.value.code, caught.value.headers["Retry-After"]) == (503, "1")
    assert b"No domain of this group can serve" in caught.value.read()
    return took_s


def test_nobody_there_is_a_quick_503_that_says_when_to_retry(stand: Stand) -> None:
    stand.tell()
    assert statistics.median(_refused_s(stand) for _ in range(5)) < AT_ONCE_S


@pytest.mark.fault(67)
def test_nobody_up_is_a_503_at_once(stand: Stand, row: Proof) -> None:
    first, second, third = three(stand)
    first.sick.touch()
    second.sick.touch()
    end(third.process)
    stand.until(lambda: [b.is_healthy for b in stand.drains["web"].backends] == [False] * 3, "all are down")
    took_s = statistics.median(_refused_s(stand) for _ in range(20))
    row.measured("503 where all are down: median of 20", took_s, at_most=AT_ONCE_S)


# --- drains --------------------------------------------------------------------------------------------------------


def get_in_background(port: int, path: str) -> tuple[threading.Thread, list[int]]:
    statuses: list[int] = []

    def get() -> None:
        try:
            statuses.append(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20).status)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    return thread, statuses


@pytest.mark.fault(68)
def test_drain_waits_for_a_long_request(stand: Stand, row: Proof) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    thread, statuses = get_in_background(stand.port, "/work?ms=2000")
    in_flight = lambda: sum(server.in_flight for server in stand.api.look(["web"]).servers["web"])  # noqa: E731
    stand.until(lambda: in_flight() == 1, "it is in flight")
    stand.set_phase(domain, Phase.DRAINING, wait_for="draining")
    assert stand.drains["web"].backends[0].in_flight == 1
    stand.until(lambda: stand.drains["web"].backends[0].in_flight == 0, "finished")
    thread.join(5)
    assert statuses == [200]
    assert stand.state(domain) == "draining"
    stand.set_phase(domain, Phase.STOPPING, wait_for="left")
    assert stand.drains["web"].cut_sessions_total == 0
    row.held("a request of 2 s during a drain: told as in flight until it is answered, none cut")


def test_forced_drain_is_counted_and_told(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    thread, statuses = get_in_background(stand.port, "/work?ms=8000")
    stand.until(lambda: stand.drains["web"].backends[0].in_flight == 1, "in flight is reported")
    stand.set_phase(domain, Phase.DRAINING, wait_for="draining")
    stand.set_phase(domain, Phase.STOPPING, wait_for="left")
    thread.join(5)
    assert statuses == [503]
    stand.until(lambda: stand.drains["web"].cut_sessions_total == 1, "it is counted")
    stand.until(lambda: any(event.name == "drain-forced" for event in stand.events), "it is told")


def test_cancelled_drain_returns_to_service_at_once(stand: Stand) -> None:
    domain, _, _ = three(stand)
    stand.set_phase(domain, Phase.DRAINING, wait_for="draining")
    domain.phase = Phase.READY
    stand.tell()
    assert stand.until(lambda: stand.state(domain) == "ready", "ready again") < 0.5


# --- the balancer dies ---------------------------------------------------------------------------------------------


@pytest.mark.fault(5)
def test_killed_balancer_leaves_traffic_alone_and_its_successor_goes_on(stand: Stand, row: Proof) -> None:
    first, second, third = three(stand)
    before = stand.servers()
    with Load(stand.port) as load:
        end(stand.balancer)
        stand.run_for(0.5)
        assert stand.servers() == before
        third.phase = Phase.DRAINING
        new = stand.domain(3)
        stand.tell()
        stand.run_for(0.5)
        assert stand.servers() == before
        row.held("without the balancer HAProxy's slots stay as they are; a new domain waits")
        stand.start_balancer()
        stand.until(lambda: stand.state(new) == "ready", "the waiting domain is in")
        stand.until(lambda: stand.state(third) == "draining", "the drain has begun")
    assert load.failures == []
    row.held(f"no GET of {load.count} failed")
    now = {address: slot for slot, (address, _, _) in stand.servers().items()}
    assert all(now[address] == slot for slot, (address, _, _) in before.items())
    assert [stand.state(domain) for domain in (first, second)] == ["ready", "ready"]
    row.held("the next one leaves each domain in the slot that it finds it in, lets the new one in and begins a drain")


def test_frozen_balancer_leaves_a_joining_member_out_and_goes_on_later(stand: Stand) -> None:
    stand.join(stand.domain(0))
    sick = stand.domain(1)
    sick.sick.touch()
    stand.tell()
    stand.until(lambda: slots_of(stand, "drain") == [sick.address], "it has a slot")
    stand.run_for(0.5)
    assert slots_of(stand, "drain") == [sick.address]
    stand.balancer.send_signal(signal.SIGSTOP)
    sick.sick.unlink()
    stand.run_for(2)
    assert slots_of(stand, "drain") == [sick.address]
    stand.balancer.send_signal(signal.SIGCONT)
    stand.until(lambda: stand.state(sick) == "ready", "ready")


@pytest.mark.fault(13)
def test_second_copy_exits_75_within_1_s(stand: Stand, row: Proof) -> None:
    stand.tell()
    stand.until(lambda: "web" in stand.drains, "the first runs")
    first = stand.balancer
    begun_s = stand.clock.monotonic_s()
    second = stand.start_balancer()
    row.measured("a second balancer ends", undisturbed_s(second, begun_s), at_most=1.0)
    assert second.wait() == 75
    stand.balancer = first
    assert first.poll() is None
    stand.join(stand.domain(0))
    row.held("with code 75; the first balancer takes a domain into rotation")


def test_without_balancer_haproxy_itself_retires_a_dead_domain(stand: Stand) -> None:
    _, _, victim = three(stand)
    end(stand.balancer)
    with Load(stand.port, "/work?ms=50") as load:
        stand.run_for(0.5)
        end(victim.process)
        stand.until(lambda: (victim.address, "ready", "DOWN") in stand.servers().values(), "down by its check")
        stand.run_for(0.5)
    assert load.failures == []


# --- HAProxy dies --------------------------------------------------------------------------------------------------


@pytest.mark.fault(7)
def test_killed_worker_comes_back_with_its_slots(stand: Stand, row: Proof) -> None:
    domains = three(stand)
    stand.until(lambda: all(d.address in state_file(stand.config.system).read_text() for d in domains), "saved")
    before, pid = stand.servers(), stand.worker()
    with Load(stand.port, "/work?ms=1", pause_s=0.005) as load:
        stand.run_for(0.3)
        assert load.failures == []
        watch = Stopwatch(*stand.pids())
        os.kill(pid, signal.SIGKILL)
        stand.until(lambda: stand.worker_now() not in (0, pid) and _can_get(stand), "serving again", 3)
        took_s, delayed_s = watch.s(*stand.pids()), watch.queued_s(*stand.pids())
        stand.run_for(0.3)
    row.measured("serving again", took_s, at_most=REFUSED_S)
    row.measured("from the first lost request to the last", max(load.lost_s() - delayed_s, 0.0), at_most=REFUSED_S)
    in_flight = [failure for failure in load.failures if "Refused" not in failure]
    assert len(in_flight) <= load.threads
    row.held(
        f"of {load.count} GETs {len(load.failures) - len(in_flight)} were refused, {len(in_flight)} were in flight"
    )
    assert {a for a, _, _ in stand.servers().values()} == {a for a, _, _ in before.values()}
    row.held("its slots are those of the state file")
    stand.until(lambda: any(e.name in {"proxy-restarted", "proxy-back"} for e in stand.events), "told")
    slot = next(slot for slot, (address, _, _) in stand.servers().items() if address == domains[0].address)
    stand.api.order([f"set server web/{slot} state maint"])
    stand.until(lambda: stand.state(domains[0]) == "ready" and len(slots_of(stand, "ready")) == 3, "restored")
    row.held("the balancer verifies them: one that is wrong is restored")


def test_killed_master_leaves_no_second_worker(stand: Stand) -> None:
    three(stand)
    pid = stand.worker()
    stand.proxy.process.kill()
    stand.until(lambda: not Path(f"/proc/{pid}").exists(), "the worker ends with its master", 5)
    stand.until(lambda: _can_get(stand), "serving again", 3)
    stand.until(lambda: len(slots_of(stand, "ready")) == 3, "slots are back")


@pytest.mark.fault(64)
def test_haproxy_with_an_empty_state_file_serves_again_within_a_second(stand: Stand, row: Proof) -> None:
    three(stand)
    stand.proxy.hold_down()
    stand.until(lambda: not stand.drains["web"].is_proxy_alive, "its absence is told")
    stand.until(lambda: not stand.traffics["web"].is_known, "traffic is unknown")
    stand.forget_state()
    stand.proxy.let_start()
    stand.until(lambda: _lives(stand), "HAProxy is back")
    row.measured("every slot is in order again, after HAProxy's restart", _in_order_s(stand), at_most=IN_ORDER_S)
    stand.until(lambda: _can_get(stand), "serving", 1)


@pytest.mark.fault(64)
def test_haproxy_restarted_between_two_looks_is_noticed_within_a_second(stand: Stand, row: Proof) -> None:
    three(stand)
    stand.balancer.send_signal(signal.SIGSTOP)
    stand.proxy.hold_down()
    stand.forget_state()
    stand.proxy.let_start()
    stand.until(lambda: _lives(stand), "HAProxy is back")
    assert stand.servers() == {}
    stand.balancer.send_signal(signal.SIGCONT)
    row.measured("the same, where it restarts between two looks", _in_order_s(stand), at_most=IN_ORDER_S)


def _in_order_s(stand: Stand) -> float:
    """Return how long it takes from now on until every slot is in order."""
    start_s = stand.clock.monotonic_s()
    stand.until(lambda: _in_order(stand), "every slot is in order")
    return stand.clock.monotonic_s() - start_s


def _in_order(stand: Stand) -> bool:
    """Return whether each member has a slot that serves with full weight, and all else is closed."""
    servers = stand.api.look(["web"]).servers["web"]
    serving = [s for s in servers if s.admin == "ready" and s.status.startswith("UP") and s.is_weight_right]
    rest = [s for s in servers if s not in serving]
    is_rest_empty = all((s.admin, s.address) == ("maint", EMPTY_ADDRESS) for s in rest)
    return sorted(s.address for s in serving) == sorted(d.address for d in stand.domains) and is_rest_empty


@pytest.mark.fault(63)
def test_reload_during_churn_loses_no_request_and_no_slot(stand: Stand, row: Proof) -> None:
    stays, moves = stand.domain(0), stand.domain(1)
    stand.join(stays, moves)
    with Load(stand.port) as load:
        for _ in range(3):
            stand.set_phase(moves, Phase.DRAINING)
            old = stand.start_reload()
            stand.until(lambda: stand.state(moves) == "draining", "draining")
            stand.set_phase(moves, Phase.STOPPING, wait_for="left")
            stand.until_replaced(old)
            stand.set_phase(moves, Phase.WARMING)
            old = stand.start_reload()
            stand.until(lambda: stand.state(moves) == "ready", "ready")
            stand.until_replaced(old)
            stand.set_phase(moves, Phase.READY)
            stand.run_for(1.2)
            stand.until(lambda: slots_of(stand, "ready") == [stays.address, moves.address], "both serve")
    assert load.failures == []
    row.held(f"6 reloads while a domain comes and goes: none of {load.count} GETs failed")
    assert any(event.name == "proxy-restarted" for event in stand.events)
    row.held("a reload is noticed and told")


@pytest.mark.fault(63)
def test_after_a_reload_each_order_goes_to_the_slot_that_has_the_domain_now(stand: Stand, row: Proof) -> None:
    leaves, stays, _ = three(stand)
    slots = {address: name for name, (address, _, _) in stand.servers().items()}
    stand.balancer.send_signal(signal.SIGSTOP)
    path = state_file(stand.config.system)
    path.write_text(_swapped(path.read_text(), slots[leaves.address], slots[stays.address]))
    stand.reload()
    assert {a: n for n, (a, _, _) in stand.servers().items()}[leaves.address] == slots[stays.address]
    leaves.phase = Phase.DRAINING
    stand.tell()
    stand.balancer.send_signal(signal.SIGCONT)
    seen: set[tuple[str, str]] = set()

    def drains() -> bool:
        seen.update((address, admin) for address, admin, _ in stand.servers().values())
        return (leaves.address, "drain") in seen

    stand.until(drains, "it drains in its new slot")
    stand.run_for(0.5)
    drains()
    assert {admin for address, admin in seen if address != leaves.address} == {"ready"}
    row.held("two slots that a reload has swapped: the drain goes to where its domain is now, the others serve on")


def _swapped(state: str, one: str, other: str) -> str:
    """Return the state file with two slots under each other's name."""
    names = {f" {one} ": f" {other} ", f" {other} ": f" {one} "}
    return re.sub("|".join(names), lambda found: names[found[0]], state)


@pytest.mark.fault(66)
def test_manual_changes_on_the_socket_are_undone_and_told(stand: Stand, row: Proof) -> None:
    domains = three(stand)
    slots = {address: slot for slot, (address, _, _) in stand.servers().items()}
    first, second, third = (slots[domain.address] for domain in domains)
    stand.api.order([f"set server web/{first} weight 0", f"set server web/{second} state maint"])
    stand.api.order([f"set server web/{third} state drain", "set server web/vm8 state ready"])
    stand.until(lambda: len(slots_of(stand, "ready")) == 3, "restored")
    stand.until(lambda: all(s.is_weight_right for s in stand.api.look(["web"]).servers["web"]), "weight")
    stand.until(lambda: stand.api.look(["web"]).servers["web"][7].admin == "maint", "an empty slot is closed again")
    row.held("weight, maintenance, drain, and an empty slot that was opened: restored")
    stand.until(lambda: {e.domain for e in stand.events if e.name == "slot-restored"} == {d.name for d in domains}, "")
    row.held("noticed, and told with the domain's name")


# --- the socket breaks ---------------------------------------------------------------------------------------------


HANGS_S = 10.0


@pytest.mark.fault(62)
@pytest.mark.parametrize("how", ["gone", "refuses", "hangs"])
def test_broken_socket_never_blocks_the_loop_and_traffic_goes_on(stand: Stand, row: Proof, how: str) -> None:
    three(stand)
    path = stats_socket(stand.config.system)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    with socket.socket(socket.AF_UNIX) as silent, Load(stand.port) as load:
        if how != "gone":
            silent.bind(str(path))
        if how == "hangs":
            silent.listen(64)
        ends_s = stand.clock.monotonic_s() + (HANGS_S if how == "hangs" else 0.0)
        stand.until(lambda: not stand.traffics["web"].is_known, "unknown")
        stand.until(lambda: {b.is_healthy for b in stand.drains["web"].backends} == {None}, "nobody's health is known")
        assert stand.drains["web"].is_proxy_alive
        silences_s = [_longest_silence_s(stand, 2)]
        while stand.clock.monotonic_s() < ends_s:
            silences_s.append(_longest_silence_s(stand, 1))
        limit_s = stand.config.system.interval_s + DEADLINE_S + 0.5
        row.measured(f"the socket {how}: the balancer's longest silence", max(silences_s), at_most=limit_s)
    assert load.failures == []
    row.held(f"the socket {how}: none of {load.count} GETs failed")
    path.unlink(missing_ok=True)
    aside.rename(path)
    stand.until(lambda: stand.traffics["web"].is_known, "known again")
    stand.until(lambda: {b.is_healthy for b in stand.drains["web"].backends} == {True}, "everybody's health is known")
    row.held(f"the socket {how}: asked again, and everybody's health is known once it answers")


# --- slots ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(65)
def test_more_members_than_slots_leaves_the_rest_unplaced_until_one_goes(row: Proof) -> None:
    stand = Stand(slots=4)
    try:
        domains = [stand.domain(number) for number in range(5)]
        worker = stand.worker()
        stand.join(*domains[:4])
        stand.until(lambda: stand.state(domains[4]) == "unplaced", "unplaced")
        unplaced = ("backend-unplaced", domains[4].name)
        stand.until(lambda: unplaced in {(event.name, event.domain) for event in stand.events}, "it is told")
        row.held("the one without a slot is told by its name")
        stand.set_phase(domains[0], Phase.STOPPING, wait_for="left")
        stand.until(lambda: stand.state(domains[4]) == "ready", "placed")
        assert stand.worker() == worker, "HAProxy was reloaded"
        row.held("no reload, neither for it nor when its turn has come")
    finally:
        stand.close()


def test_state_file_on_a_full_disk_stops_nothing(stand: Stand) -> None:
    domain = stand.domain(0)
    blocker = Path(f"{state_file(stand.config.system)}.new")
    blocker.mkdir()
    stand.join(domain)
    assert _can_get(stand)
    blocker.rmdir()
    stand.until(lambda: domain.address in state_file(stand.config.system).read_text(), "saved later")


def _longest_silence_s(stand: Stand, count: int) -> float:
    """Return the longest pause in what the balancer says of the traffic, until it has said it so often."""
    silences_s: list[float] = []
    for _ in range(count):
        told = stand.traffics["web"]
        silences_s.append(stand.until(lambda told=told: stand.traffics["web"] is not told, "the next word"))
    return max(silences_s)


def _lives(stand: Stand) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(stats_socket(stand.config.system))) == 0


def _can_get(stand: Stand) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{stand.port}/work", timeout=5).status == 200)
    except OSError:
        return False


def test_command_writes_a_configuration_that_haproxy_accepts(stand: Stand) -> None:
    path = stand.config.system.run_path / "haproxy.cfg"
    checked = subprocess.run(["haproxy", "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr.count("[WARNING]")) == (0, 0)
