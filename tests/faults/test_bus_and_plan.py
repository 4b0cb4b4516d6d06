"""Rows of the bus and of the plan that only a whole installation can show: four real guests, under a stream of GETs."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.bus import Bus
from common.clock import SystemClock
from common.messages import DesiredCapacity, Membership
from common.phases import Phase
from tests.e2e.service import MakeWorld, Service, in_service
from tests.e2e.world import now_s, wait_until
from tests.faults.proof import Proof

CLOCK = SystemClock()
COUNT = 4
LEAVE_S = 120.0  # generous: three drains and shutdowns, one after the other, beside everything else on two cores
LEAVING = (Phase.DRAINING, Phase.STOPPING)


@pytest.fixture(scope="module")
def service(make_world: MakeWorld) -> Iterator[Service]:
    """Return an installation of four domains in rotation, which no policy makes fewer."""
    sizes = {"minimum": str(COUNT), "maximum": str(COUNT), "in_window_s": "3000.0"}
    world = make_world("asfu", 65, **sizes, group_extra="boot_timeout_s = 180.0")  # four at once, on two cores
    with in_service(world, COUNT) as service:
        yield service


def set_bounds(service: Service, minimum: int, maximum: int) -> None:
    """Write other bounds into the file, and have the services take them over."""
    text = service.world.config.read_text(encoding="utf-8")
    text = re.sub(r"^min = \d+$", f"min = {minimum}", text, flags=re.MULTILINE)
    service.world.config.write_text(re.sub(r"^max = \d+$", f"max = {maximum}", text, flags=re.MULTILINE), "utf-8")
    service.world.autoscaler("reload")
    service.whole.reread()


def rss_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.fault(70)
def test_a_decider_that_says_an_older_or_an_empty_plan_removes_nobody(service: Service, row: Proof) -> None:
    """What stands in the decider's place says it; the good plan after it is followed, so these had their turn."""
    whole, power = service.whole, service.power
    set_bounds(service, 1, COUNT)
    power.forget()
    with whole.fault("an older and an empty plan in the decider's place", boots=0):
        with whole.stopped(whole.pid("supervisord")):
            pid = whole.pid("decider")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: is_zombie(pid), 10, "the decider's end, and its lock's")
            newest = heard(service, [])
            for generation, desired in ((newest - 1, 1), (1, 1), (newest, 0)):
                heard(service, [plan(generation, desired)])
            assert heard(service, [plan(newest + 1, COUNT)]) == newest + 1
        assert len(whole.ready()) == COUNT
    assert (power.ends(), power.starts()) == ([], [])
    row.held(f"two plans of older generations and an empty one, under {COUNT} guests: nobody leaves, no GET fails")


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended and let go of its files; its parent, which is stopped, has not looked yet."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"


def plan(generation: int, desired: int) -> DesiredCapacity:
    return DesiredCapacity(group="web", generation=generation, desired=desired, minimum=1, maximum=COUNT)


def heard(service: Service, plans: list[DesiredCapacity]) -> int:
    """Say these as the decider; return the generation that the actuator follows two of its turns later."""
    bus = Bus.open(service.whole.config, "decider", CLOCK)
    try:
        bus.subscribe("actuator", "membership")
        seen: list[int] = []
        until_s = now_s() + 30
        while len(seen) < 3:
            assert now_s() < until_s, "the actuator is silent"
            for body in plans:
                bus.publish(body)
            seen += [m.body.generation_seen for m in bus.receive(1.0).messages if isinstance(m.body, Membership)]
        return seen[-1]
    finally:
        bus.close()


@pytest.mark.fault(20)
def test_an_actuator_that_reads_nothing_for_60_s_follows_the_newest_plan_only(service: Service, row: Proof) -> None:
    whole, power, for_s = service.whole, service.power, row.lasts_s(60)
    set_bounds(service, 1, COUNT)
    service.wait_until_whole()
    power.forget()
    speakers = {name: whole.pid(name) for name in ("decider", "balancer", "monitor")}
    before = {name: rss_bytes(pid) for name, pid in speakers.items()}
    with whole.fault(f"SIGSTOP to the actuator for {for_s:.0f} s", boots=0):
        with whole.stopped(whole.pid("actuator")):
            until_s = now_s() + for_s
            for size in (1, 3, 2, COUNT):
                service.world.autoscaler("scale", str(size))
            assert whole.group()["desired"] == COUNT
            most = 0

            def is_over() -> bool:
                nonlocal most
                most = max(most, *(rss_bytes(pid) - before[name] for name, pid in speakers.items()))
                return now_s() >= until_s

            wait_until(is_over, for_s + 60, "the fault's length")
        assert {name: whole.pid(name) for name in speakers} == speakers
        wait_until(lambda: follows(service), 30, "the actuator to follow the newest plan")
    row.measured(f"{for_s:.0f} s unread: a publisher's memory grows by", most / 1e6, at_most=10.0, unit="MB")
    assert (power.ends(), power.starts()) == ([], [])
    row.held("four plans meanwhile: the newest is followed, and no domain left or came for those before it")


def follows(service: Service) -> bool:
    group = service.whole.group()
    return bool(group["desired"] == COUNT and len(service.whole.ready()) == COUNT)


@pytest.mark.fault(71)
def test_a_far_lower_max_shrinks_the_group_at_the_rate_of_removal_down_to_it(service: Service, row: Proof) -> None:
    """Every word of the actuator is heard, also while the command that reloads still runs."""
    whole, power = service.whole, service.power
    power.forget()
    failed, sent = len(whole.steady.failures), whole.steady.sent
    bus = Bus.open(whole.config, "operator", CLOCK, publishes=False)
    bus.keep_every_message()
    bus.subscribe("actuator", "membership")
    told: list[list[Phase]] = []

    def is_told(phases: list[Phase]) -> bool:
        bodies = [message.body for message in bus.receive(0.2).messages]
        told.extend([member.phase for member in body.members] for body in bodies if isinstance(body, Membership))
        return told[-1:] == [phases]

    try:
        wait_until(lambda: is_told([Phase.READY] * COUNT), 30, f"{COUNT} domains")
        print("\nmax lowered from 4 to 1 by a reload:")
        begun_s = now_s()
        set_bounds(service, 1, 1)
        wait_until(lambda: is_told([Phase.READY]), LEAVE_S, "one domain", every_s=0.0)
        took_s = now_s() - begun_s
        assert bus.counters["gaps"] == 0
    finally:
        bus.close()
    row.measured("domains that leave at once", max(sum(phase in LEAVING for phase in each) for each in told), 1, "")
    sizes = [each.count(Phase.READY) for each in told]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {4, 3, 2, 1}
    row.held(f"4 → 3 → 2 → 1, one after the other, in {took_s:.0f} s")
    whole.converge("one domain, and nothing left behind", boots=0)
    assert [how for _, how in power.ends()] == ["shutdown"] * (COUNT - 1)
    assert whole.steady.failures[failed:] == []
    row.held(f"down to max, each by shutdown; none of {whole.steady.sent - sent} GETs fails")
