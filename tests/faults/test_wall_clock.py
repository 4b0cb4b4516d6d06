"""A wall clock that jumps under all services of an installation, while a domain drains and another one boots."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.service import Service, in_service
from tests.e2e.world import World, now_s, wait_until
from tests.faults.proof import Proof
from tests.faults.test_processes import PATIENCE_S, SLOW_S, post
from tests.wall_clock import WallClock

DRAIN_S = 120.0


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> WallClock:
    return WallClock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def service(make_world: Callable[..., World], clock: WallClock) -> Iterator[Service]:
    """Return a running installation of two domains, whose services have a wall clock of their own."""
    drains = f"drain_timeout_s = {DRAIN_S}"
    world = make_world("asfq", 61, minimum="2", maximum="3", group_extra=drains)
    world.python = clock.python
    with in_service(world, 2) as service:
        yield service


@pytest.mark.fault(16)
@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_ends_no_drain_and_no_boot(
    service: Service, clock: WallClock, jump_s: float, row: Proof
) -> None:
    whole, answers = service.whole, list[str]()
    whole.converge("two domains in rotation")
    python = Path(f"/proc/{whole.pid('actuator')}/cmdline").read_bytes().split(b"\0")[0].decode()
    assert python == str(clock.python)
    victim, stays = whole.ready()
    threads = [threading.Thread(target=post, args=(whole.world, answers), daemon=True) for _ in range(6)]
    phases = lambda: {domain["uuid"]: domain["phase"] for domain in whole.group()["domains"]}  # noqa: E731
    held = lambda: next(d["in_flight"] or 0 for d in whole.group()["domains"] if d["uuid"] == victim["uuid"])  # noqa: E731
    service.power.forget()
    with whole.fault(f"the wall clock jumps by {jump_s:+.0f} s"):
        for thread in threads:
            thread.start()
        wait_until(lambda: held() >= 3, PATIENCE_S, "requests in flight on it")
        whole.world.autoscaler("drain", victim["name"])
        wait_until(lambda: phases().get(victim["uuid"]) == "draining", PATIENCE_S, "its drain")
        wait_until(lambda: "booting" in phases().values(), PATIENCE_S, "another one that boots")
        clock.jump(jump_s)
        begin = now_s()
        for thread in threads:
            thread.join(4 * SLOW_S)
        assert answers == ["200"] * len(threads)
        wait_until(lambda: victim["uuid"] not in whole.owned().values(), DRAIN_S, "its end")
        ended_s = now_s() - begin
    assert stays["uuid"] in whole.owned().values()
    assert len(service.power.starts()) == 1, service.power.starts()
    assert [name for name, _ in service.power.ends()] == [victim["name"]]
    row.held(
        f"jump by {jump_s:+.0f} s: the drain goes on until its last request, none is cut, and the domain is gone after"
        f" {ended_s:.0f} s; one domain boots for it, the other one stays, and no GET failed"
    )
