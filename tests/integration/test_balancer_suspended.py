"""Members that are suspended, overloaded or not to be found any more, in the real HAProxy: nothing of theirs is cut."""

import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from common.phases import Phase
from tests.integration.balancer_stand import Domain, Load, Stand, end


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


@dataclass
class Posts:
    """Long POSTs, each on a connection of its own; ``statuses`` fills as they end, 0 where one was cut."""

    port: int
    count: int
    ms: int
    statuses: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._post, args=(n,), daemon=True) for n in range(self.count)]
        for thread in self._threads:
            thread.start()

    def _post(self, number: int) -> None:
        url = f"http://127.0.0.1:{self.port}/count?id=p{number}&ms={self.ms}"
        try:
            request = urllib.request.Request(url, data=b"x", method="POST")
            self.statuses.append(urllib.request.urlopen(request, timeout=60).status)  # noqa: S310
        except urllib.error.HTTPError as error:
            self.statuses.append(error.code)
        except OSError:
            self.statuses.append(0)

    def are_over(self) -> bool:
        return len(self.statuses) == self.count


def served_by(stand: Stand) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{stand.port}/work?ms=1", timeout=10) as answer:
        return str(answer.headers["X-Served-By"])


def health(stand: Stand, domain: Domain) -> bool | None:
    found = stand.backend(domain)
    return found.is_healthy if found else None


def posting(stand: Stand, domain: Domain, others: int = 1) -> Posts:
    """Return POSTs of 5 s, of which at least four are in flight on the domain."""
    posts = Posts(stand.port, 4 * (others + 1), 5000)
    stand.until(lambda: len(domain.posts()) >= 4, "POSTs arrived")
    return posts


def put(stand: Stand, domain: Domain, is_in_membership: bool) -> Callable[[], None]:
    """Suspend a domain, in membership too if that has the time to say so; return what wakes it."""
    stand.suspend(domain)
    if is_in_membership:
        stand.set_phase(domain, Phase.SUSPENDED)

    def wake() -> None:
        stand.resume(domain)
        if is_in_membership:
            stand.set_phase(domain, Phase.WARMING)

    return wake


@pytest.mark.parametrize("is_in_membership", [True, False], ids=["told", "too-short-to-be-told"])
@pytest.mark.parametrize("pause_s", [3.0, 12.0])
def test_posts_on_a_suspended_member_go_on_when_it_runs_again(
    stand: Stand, pause_s: float, is_in_membership: bool
) -> None:
    stays, paused = stand.domain(0), stand.domain(1)
    stand.join(stays, paused)
    posts = posting(stand, paused)
    wake = put(stand, paused, is_in_membership)
    took_s = stand.until(lambda: stand.state(paused) == "held", "it is held")
    with Load(stand.port, threads=2) as load:
        stand.run_for(0.3)
        assert {served_by(stand) for _ in range(20)} == {stays.name}
        stand.run_for(pause_s)
        assert stand.drains["web"].backends[1].in_flight >= 4
        wake()
        back_s = stand.until(lambda: stand.state(paused) == "ready", "it is ready again")
        stand.until(posts.are_over, "the POSTs end")
    print(f"held after {took_s * 1000:.0f} ms, ready {back_s * 1000:.0f} ms after it ran")
    assert posts.statuses == [200] * posts.count
    assert load.failures == []
    assert stand.drains["web"].cut_sessions_total == 0
    stand.until(lambda: {served_by(stand) for _ in range(20)} == {stays.name, paused.name}, "both serve")


def test_a_suspended_member_is_held_over_a_restart_of_the_balancer(stand: Stand) -> None:
    stays, paused = stand.domain(0), stand.domain(1)
    stand.join(stays, paused)
    posts = posting(stand, paused)
    wake = put(stand, paused, is_in_membership=True)
    stand.until(lambda: stand.state(paused) == "held", "it is held")
    end(stand.balancer)
    stand.run_for(4.0)  # longer than three checks that time out
    stand.drains.clear()
    stand.start_balancer()
    stand.until(lambda: stand.state(paused) == "held", "it is still held")
    wake()
    stand.until(lambda: stand.state(paused) == "ready", "it is ready again")
    stand.until(posts.are_over, "the POSTs end")
    assert posts.statuses == [200] * posts.count


def test_a_member_that_was_suspended_without_balancer_is_held_by_the_next_one(stand: Stand) -> None:
    stays, paused = stand.domain(0), stand.domain(1)
    stand.join(stays, paused)
    end(stand.balancer)
    wake = put(stand, paused, is_in_membership=True)
    stand.until(lambda: (paused.address, "ready", "DOWN") in stand.servers().values(), "HAProxy's checks find it")
    stand.start_balancer()
    stand.until(lambda: stand.state(paused) == "held", "it is held")
    wake()
    stand.until(lambda: stand.state(paused) == "ready", "it is ready again")


def test_a_suspended_member_is_held_over_a_reload_of_haproxy(stand: Stand) -> None:
    stays, paused = stand.domain(0), stand.domain(1)
    stand.join(stays, paused)
    posts = posting(stand, paused)
    wake = put(stand, paused, is_in_membership=True)
    stand.until(lambda: stand.state(paused) == "held", "it is held")
    stand.run_for(0.5)
    worker = stand.worker()
    stand.proxy.process.send_signal(signal.SIGUSR2)
    stand.until(lambda: stand.worker() != worker, "HAProxy has another worker")
    stand.until(lambda: any(event.name == "proxy-restarted" for event in stand.events), "it is noticed")
    stand.run_for(4.0)
    assert stand.state(paused) == "held"
    assert {served_by(stand) for _ in range(20)} == {stays.name}
    wake()
    stand.until(lambda: stand.state(paused) == "ready", "it is ready again")
    stand.until(posts.are_over, "the POSTs end")
    assert posts.statuses == [200] * posts.count


def test_a_suspended_member_that_fails_for_good_is_cut(stand: Stand) -> None:
    stays, paused = stand.domain(0), stand.domain(1)
    stand.join(stays, paused)
    posts = posting(stand, paused)
    put(stand, paused, is_in_membership=True)
    stand.until(lambda: stand.state(paused) == "held", "it is held")
    stand.fail(paused)
    stand.until(lambda: stand.state(paused) == "left", "it has left")
    stand.until(posts.are_over, "the POSTs end")
    assert posts.statuses.count(200) == len(stays.posts())
    assert len(paused.posts()) >= 4


def test_the_next_member_in_the_slot_of_a_suspended_one_is_checked(stand: Stand) -> None:
    first = stand.domain(0)
    stand.join(first)
    put(stand, first, is_in_membership=True)
    stand.until(lambda: stand.state(first) == "held", "it is held")
    (slot,) = stand.servers()
    stand.set_phase(first, Phase.STOPPING, wait_for="left")
    stand.until(lambda: stand.servers() == {}, "the slot is empty")
    second = stand.domain(1)
    second.sick.touch()
    stand.tell()
    stand.until(lambda: health(stand, second) is False, "its check fails")
    assert [(b.slot, b.state) for b in stand.drains["web"].backends if b.uuid == second.uuid] == [(slot, "joining")]
    second.sick.unlink()
    stand.until(lambda: stand.state(second) == "ready", "it is ready")
    second.sick.touch()
    stand.until(lambda: health(stand, second) is False, "its check finds it sick")


# --- the last one standing -----------------------------------------------------------------------------------------


def overload(stand: Stand) -> Load:
    """Return a load that one worker cannot carry: its health check waits in the same queue."""
    return Load(stand.port, "/block?ms=400", threads=12, limit_s=120)


def kept(stand: Stand, domain: Domain) -> bool:
    found = stand.backend(domain)
    return found is not None and found.is_kept


def test_the_last_one_that_is_only_overloaded_keeps_its_traffic(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    with overload(stand) as load:
        stand.until(lambda: kept(stand, domain), "it is kept")
        stand.run_for(10.0)
        assert load.failures == []
        assert health(stand, domain)
    assert load.failures == []
    assert load.count > 20
    assert stand.drains["web"].cut_sessions_total == 0
    stand.until(lambda: not kept(stand, domain) and health(stand, domain) is True, "its checks succeed")
    assert [event.domain for event in stand.events if event.name == "backend-kept"] == [domain.name]
    assert [event.name for event in stand.events if event.name == "backend-unhealthy"] == []


def test_the_last_one_is_left_to_its_checks_as_soon_as_another_is_up(stand: Stand) -> None:
    first = stand.domain(0)
    stand.join(first)
    first.process.send_signal(signal.SIGSTOP)  # it answers nothing for now
    with Load(stand.port, "/work?ms=10", threads=2):
        stand.until(lambda: kept(stand, first), "it is kept")
        second = stand.domain(1)
        stand.tell()
        stand.until(lambda: stand.state(second) == "ready", "another is up")
        stand.until(lambda: health(stand, first) is False, "its checks decide")
    assert not kept(stand, first)
    assert {served_by(stand) for _ in range(20)} == {second.name}


def test_the_last_one_that_is_dead_is_not_kept(stand: Stand) -> None:
    domain = stand.domain(0)
    stand.join(domain)
    with overload(stand):
        stand.until(lambda: kept(stand, domain), "it is kept")
        end(domain.process)
        stand.until(lambda: health(stand, domain) is False, "a refused check is no late one")
    assert not kept(stand, domain)


def test_the_last_one_that_answers_nobody_any_more_is_not_kept() -> None:
    stand = Stand(request_timeout_s=4.0)
    try:
        domain = stand.domain(0)
        stand.join(domain)
        with overload(stand):
            stand.until(lambda: kept(stand, domain), "it is kept")
            domain.process.send_signal(signal.SIGSTOP)
            stand.until(lambda: health(stand, domain) is False, "it hangs")
        assert not kept(stand, domain)
    finally:
        stand.close()


# --- discovery forgets ---------------------------------------------------------------------------------------------


def test_members_without_address_keep_the_slots_that_serve(stand: Stand) -> None:
    domains = [stand.domain(number) for number in range(2)]
    stand.join(*domains)
    before = stand.servers()
    with Load(stand.port) as load:
        for domain in domains:
            domain.is_found = False
        stand.tell()
        stand.run_for(1.5)
        assert [stand.state(domain) for domain in domains] == ["ready", "ready"]
        end(stand.balancer)
        stand.drains.clear()
        stand.start_balancer()
        stand.until(lambda: "web" in stand.drains, "the next one speaks")
        stand.run_for(1.5)
        assert [stand.state(domain) for domain in domains] == ["unknown", "unknown"]
        assert stand.servers() == before
        for domain in domains:
            domain.is_found = True
        stand.tell()
        stand.until(lambda: {stand.state(domain) for domain in domains} == {"ready"}, "they are found again")
    assert load.failures == []
    assert stand.servers() == before
    assert stand.drains["web"].cut_sessions_total == 0
