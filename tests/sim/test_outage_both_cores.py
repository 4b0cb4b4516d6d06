"""Domains that all, or nearly half, stop answering: what both cores do together, and that it ends."""

from dataclasses import replace

import pytest

from common.messages import BackendState, Drain
from services.actuator.core.seen import Load
from services.decider.core.events import DrainSeen
from tests.sim.actuator_model import FakeDomain, group
from tests.sim.test_observe_both_cores import Both

GRACE_S = 25.0  # of which three pass before anybody is replaced whom no other can stand in for


class Served(Both):
    """Both cores with what the balancer tells of each member's checks, to both of them."""

    def decide(self) -> None:
        world = self.world
        backends = world._backends()
        told = tuple(
            BackendState(name=name, uuid=uuid, slot="vm1", state=backend.state, is_healthy=backend.is_healthy)
            for (name, uuid), backend in backends.items()
        )
        self.pass_on(DrainSeen(Drain(group="web", endpoint="", is_proxy_alive=True, backends=told), world.now_s, "d"))
        super().decide()

    def sicken(self, *domains: FakeDomain) -> None:
        for domain in domains:
            domain.is_unhealthy_since_s = self.world.now_s

    def cut_off(self, seconds: float) -> None:
        """Run for so long without a network to any domain, also to those that are made meanwhile."""
        for _ in range(int(seconds)):
            self.sicken(*[domain for domain in self.world.everything() if domain.is_unhealthy_since_s is None])
            self.run(1)

    def heal(self) -> None:
        for domain in self.world.everything():
            domain.is_unhealthy_since_s = None


def serving(demand: float) -> Served:
    """Return a group of four that has what it needs; in-window and cooldown are short, so only the outage holds it."""
    policy = {"type": "threshold", "out_window_s": 3.0, "in_window_s": 10.0}
    both = Served(
        group(policies=[policy], min=1, max=6, cooldown_in_s=5.0, unhealthy_grace_s=GRACE_S), lambda _t: demand
    )
    both.world.load = Load(queue=0, in_flight=0, request_rate=20.0, answer_rate=20.0)
    both.run(60)
    return both


def ends(both: Served) -> list[str]:
    return [name for _, call, name in both.world.log if call in ("shutdown", "destroy", "undefine")]


@pytest.mark.parametrize("queue", [0, 9])
def test_nobody_is_taken_away_while_the_network_to_all_of_them_is_down_for_a_minute(queue: int) -> None:
    both = serving(2.2)
    before = sorted(both.world.phases())
    assert len(before) >= 3
    both.load = lambda _t: 0.0  # nobody answers: no requests arrive, and the CPUs idle
    both.world.load = Load(queue=queue, in_flight=0, request_rate=20.0, answer_rate=0.0)
    both.cut_off(10)
    assert "too many domains are unhealthy" in (both.world.message.blocked if both.world.message else "")
    assert ends(both) == []
    both.cut_off(50)
    assert ends(both) == [] and both.world.desired is not None and both.world.desired.desired >= len(before)
    both.heal()
    both.load = lambda _t: 2.2
    both.world.load = Load(queue=0, in_flight=0, request_rate=20.0, answer_rate=20.0)
    both.run(60)
    assert set(before) <= set(both.world.phases())
    assert not set(before) & set(ends(both)), "what was added meanwhile may go again"


@pytest.mark.parametrize("sick", [2, 3])
def test_idle_domains_are_not_taken_away_while_half_of_the_group_or_more_fails(sick: int) -> None:
    both = serving(2.9)
    members = both.world.everything()
    assert len(members) >= 4
    both.load = lambda _t: 0.1
    both.sicken(*members[:sick])
    both.world.load = replace(both.world.load or Load(0, 0, 0.0, 0.0), queue=1)
    both.run(GRACE_S - 1)
    assert ends(both) == []
    both.heal()
    both.world.load = Load(queue=0, in_flight=0, request_rate=0.0, answer_rate=0.0)
    both.run(200)
    assert both.world.ready() == 1, "and the group shrinks when all is well"
