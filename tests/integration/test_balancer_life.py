"""Members come and go in the real HAProxy, and no request notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.phases import Phase
from tests.integration.balancer_stand import Load, Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def test_member_joins_after_its_check_and_leaves_after_its_drain(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    assert list(stand.servers().values()) == [(domain.address, "ready", "UP")]
    stand.set_phase(domain, Phase.DRAINING, wait_for="draining")
    assert [admin for _, admin, _ in stand.servers().values()] == ["drain"]
    stand.set_phase(domain, Phase.STOPPING, wait_for="left")
    stand.until(lambda: stand.servers() == {}, "the slot is empty")


@pytest.fixture
def quick() -> Iterator[Stand]:
    stand = Stand(check_interval_s=0.1)
    yield stand
    stand.close()


def test_fifty_joins_and_leaves_under_load_fail_no_request(quick: Stand) -> None:
    stand = quick
    stays, moves = stand.domain(0), stand.domain(1)
    stand.join(stays, moves)
    with Load(stand.port) as fresh, Load(stand.port, is_kept=True) as kept:
        for _ in range(50):
            stand.set_phase(moves, Phase.DRAINING)
            stand.until(lambda: stand.drains["web"].backends[1].state == "draining", "draining")
            stand.until(lambda: stand.drains["web"].backends[1].in_flight == 0, "nothing in flight")
            stand.set_phase(moves, Phase.STOPPING, wait_for="left")
            stand.set_phase(moves, Phase.WARMING, wait_for="ready")
            stand.set_phase(moves, Phase.READY)
    assert (fresh.failures, kept.failures) == ([], [])
    assert fresh.count + kept.count > 500
    assert stand.drains["web"].cut_sessions_total == 0


TCP_GROUP = """
[groups.db]
prefix = "db-"
protocol = "tcp"
endpoint = "127.0.0.1:TCP_PORT"
"""


def test_tcp_group_beside_an_http_group() -> None:
    stand = Stand(TCP_GROUP)
    try:
        web, db = stand.domain(0), stand.domain(1, prefix="db-")
        stand.tell(web)
        stand.tell(db, group="db")
        stand.until(lambda: stand.state(web) == "ready", "web is ready")
        stand.until(lambda: stand.state(db, "db") == "ready", "db is ready")
        assert stand.drains["db"].backends[0].check.startswith("L4OK")
        with Load(stand.tcp_port) as tcp, Load(stand.port) as http:
            stand.until(lambda: (stand.traffics["db"].request_rate or 0) > 10, "TCP traffic is told")
            stand.until(lambda: (stand.traffics["web"].request_rate or 0) > 30, "HTTP traffic is told")
            db.phase = Phase.DRAINING
            stand.tell(db, group="db")
            stand.until(lambda: stand.state(db, "db") == "draining", "db drains")
            assert stand.state(web) == "ready"
        assert http.failures == []
        assert tcp.count > 10
        assert stand.traffics["db"].names == ("db-0001",)
    finally:
        stand.close()


def test_traffic_tells_rates_errors_and_members(stand: Stand) -> None:
    first, second = stand.domain(0), stand.domain(1)
    stand.join(first, second)
    with Load(stand.port, "/work?ms=20"):
        stand.until(lambda: (stand.traffics["web"].request_rate or 0) > 30, "a rate")
        stand.run_for(1.1)
        traffic = stand.traffics["web"]
    assert traffic.is_known
    assert traffic.names == (first.name, second.name)
    assert 0.9 < traffic.interval_s < 1.3
    assert traffic.error_rate == 0
    assert traffic.response_time_s is not None and 0.015 < traffic.response_time_s < 0.5
    assert sum(rate or 0 for rate in traffic.request_rates) == pytest.approx(traffic.request_rate, rel=0.2)
    stand.set_phase(first, Phase.STOPPING, wait_for="left")
    stand.set_phase(second, Phase.STOPPING, wait_for="left")
    with Load(stand.port):
        stand.until(lambda: (stand.traffics["web"].error_rate or 0) > 10, "503s are errors")


def test_four_members_cost_less_than_a_fiftieth_of_a_core(stand: Stand) -> None:
    stand.join(*(stand.domain(number) for number in range(4)))
    stand.run_for(1.0)
    before_s, start_s = _cpu_s(stand.balancer.pid), stand.clock.monotonic_s()
    stand.run_for(3.0)
    ratio = (_cpu_s(stand.balancer.pid) - before_s) / (stand.clock.monotonic_s() - start_s)
    print(f"balancer: {ratio:.2%} of a core")
    assert ratio < 0.02


def _cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def test_who_has_just_answered_joins_without_another_check(stand: Stand) -> None:
    stays, probed = stand.domain(0), stand.domain(1, Phase.STOPPING)
    stand.join(stays)
    probed.phase = Phase.WARMING
    probed.sick.touch()  # our own check would never let it in
    probed.is_probed = True
    stand.tell()
    stand.until(lambda: stand.state(probed) == "ready", "it is in rotation")
    probed.is_probed = False
    stand.set_phase(probed, Phase.READY)
    stand.until(lambda: stand.drains["web"].backends[1].is_healthy is False, "the check finds it sick")


def test_quick_joins_fail_no_request_even_of_a_domain_that_died_since(quick: Stand) -> None:
    stand = quick
    stays, moves, dies = stand.domain(0), stand.domain(1, Phase.STOPPING), stand.domain(2, Phase.STOPPING)
    stand.join(stays)
    moves.is_probed = dies.is_probed = True
    with Load(stand.port) as fresh, Load(stand.port, is_kept=True) as kept:
        for _ in range(20):
            stand.set_phase(moves, Phase.WARMING, wait_for="ready")
            stand.set_phase(moves, Phase.READY)
            stand.set_phase(moves, Phase.DRAINING, wait_for="draining")
            stand.until(lambda: stand.drains["web"].backends[1].in_flight == 0, "nothing in flight")
            stand.set_phase(moves, Phase.STOPPING, wait_for="left")
        dies.process.kill()
        dies.process.wait(10)
        stand.set_phase(dies, Phase.WARMING, wait_for="ready")
        stand.until(lambda: stand.drains["web"].backends[2].is_healthy is False, "the check finds it dead")
    assert (fresh.failures, kept.failures) == ([], [])
    assert min(fresh.count, kept.count) > 20, "requests went on through all of it"
