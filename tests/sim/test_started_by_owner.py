"""An existing group whose owner starts one of its domains by hand: both cores, from Note [Started by its owner]."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from common.domain import DomainState
from common.messages import Event, Request
from services.decider.core.events import Asked, Emit
from services.decider.core.group import handle
from services.decider.core.state import begin
from tests.sim.actuator_model import FakeDomain, group
from tests.sim.test_observe_both_cores import EPOCH_S, Both

IN_WINDOW_S, COOLDOWN_S = 20.0, 10.0


class Owned(Both):
    """Both cores over domains of a user; ``events`` are the decider's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.events: list[Event] = []
        for index in range(5):
            name = f"web-{index:04d}"
            self.world.hosts["local"].by_name[name] = FakeDomain(name, f"u-{index}")

    def pass_on(self, event: Any) -> None:
        _, actions = handle(self.state, event, self.world.now_s)
        self.events += [action.body for action in actions if isinstance(action, Emit)]
        super().pass_on(event)

    def ask(self, verb: str, **args: str | int | bool) -> None:
        self.pass_on(Asked(Request(verb=verb, args=args), 1, EPOCH_S))

    def start(self, index: int) -> FakeDomain:
        domain = self.world.hosts["local"].by_name[f"web-{index:04d}"]
        domain.state, domain.started_s = DomainState.RUNNING, self.world.now_s
        return domain

    @property
    def desired(self) -> int:
        return self.state.standing.desired or 0

    @property
    def running(self) -> list[str]:
        return sorted(d.name for d in self.world.everything() if d.state is DomainState.RUNNING)

    @property
    def shut_down(self) -> list[str]:
        return [name for _, call, name in self.world.log if call in ("shutdown", "destroy")]

    def until_ready(self, count: int) -> "Owned":
        while self.world.ready() != count:
            assert self.world.now_s < 2000, self.world.summary()
            self.run(0.5)
        return self


def one_serves(demand: float = 0.5, **changes: object) -> Owned:
    policy = {"type": "threshold", "out_window_s": 3.0, "in_window_s": IN_WINDOW_S}
    settings = {"min": 1, "max": 3, "cooldown_in_s": COOLDOWN_S, "boot_timeout_s": 30.0} | changes
    both = Owned(group(kind="existing", address_source="arp", policies=[policy], **settings), lambda _t: demand)
    both.until_ready(1).run(5)
    assert (both.desired, both.running) == (1, ["web-0000"])
    return both


def test_it_is_counted_as_soon_as_it_serves_and_goes_when_the_policies_say_so() -> None:
    both = one_serves(demand=0.7)  # of one: two are just as well too many only after a calm
    both.start(3)
    both.until_ready(2).run(3)
    counted_s = both.world.now_s
    assert (both.desired, both.running) == (2, ["web-0000", "web-0003"])
    assert [e.text for e in both.events if e.name == "scale-followed"] == [
        "from 1 to 2: started by their owner: web-0003"
    ]
    both.load = lambda _t: 0.1
    both.run(IN_WINDOW_S - 5)
    assert both.shut_down == []
    both.run(60)
    assert (both.desired, len(both.running), len(both.shut_down)) == (1, 1, 1)
    assert both.world.now_s - counted_s >= IN_WINDOW_S
    assert not any(m.is_uncounted for m in both.world.message.members) if both.world.message else False
    assert both.state.standing.patience_s == 0.0


def test_the_load_that_it_was_started_for_keeps_it() -> None:
    both = one_serves(demand=1.0)
    both.load = lambda _t: 1.0
    both.start(2)
    both.until_ready(2).run(300)
    assert both.desired == 2 and both.shut_down == []


def test_two_of_them_one_while_the_other_is_counted() -> None:
    """At each distance of half a second: the second one is taken in just as the first is counted."""
    for steps in range(12):
        both = one_serves()
        both.start(2)
        both.run(0.5 * steps)
        both.start(3)
        both.until_ready(3).run(5)
        assert (both.desired, both.shut_down) == (3, []), steps


def test_a_paused_group_counts_it_and_keeps_it() -> None:
    both = one_serves(demand=0.1)
    both.ask("pause")
    both.start(3)
    both.until_ready(2).run(300)
    assert (both.desired, both.shut_down) == (2, [])
    both.ask("resume")
    both.run(IN_WINDOW_S + COOLDOWN_S + 20)
    assert (both.desired, len(both.shut_down)) == (1, 1)


def test_beyond_the_most_it_stays_until_the_capacity_is_ordered() -> None:
    both = one_serves(demand=2.0, max=2).until_ready(2)
    assert isinstance(both, Owned)
    both.start(3)
    both.until_ready(3).run(100)
    assert both.desired == 2 and both.shut_down == []
    notes = both.world.message.notes if both.world.message else ()
    assert "1 more than desired, started by their owner, and left to run: web-0003" in notes
    both.load = lambda _t: 0.1
    both.ask("scale", desired=1)
    both.run(30)
    assert both.desired == 1 and len(both.running) == 1


def test_beyond_the_most_a_scale_in_makes_the_group_smaller_all_the_same() -> None:
    both = one_serves(demand=2.0, max=2).until_ready(2)
    both.start(3)
    both.until_ready(3).run(10)
    both.load = lambda _t: 0.1
    both.run(6 * (IN_WINDOW_S + COOLDOWN_S))
    assert both.desired == 1 and len(both.running) == 1


def test_one_that_does_not_answer_asks_for_nobody_and_is_left_alone() -> None:
    both = one_serves()
    both.start(3).never_boots = True
    both.run(200)
    assert (both.desired, both.running, both.shut_down) == (1, ["web-0000", "web-0003"], [])
    assert [call for _, call, _ in both.world.log].count("start") == 1


def test_a_decider_that_starts_anew_meanwhile_counts_it_once() -> None:
    both = one_serves()
    both.start(3)
    while both.desired == 1:
        both.run(0.5)
    standing = both.state.standing
    both.state = begin(both.state.settings, type(standing)(**json.loads(json.dumps(asdict(standing)))))
    both.until_ready(2).run(IN_WINDOW_S / 2)
    assert (both.desired, both.shut_down) == (2, [])


@pytest.mark.parametrize("way", ["actuator", "decider"])
def test_nobody_is_shut_down_while_one_of_the_two_is_silent(way: str) -> None:
    both = one_serves()
    if way == "decider":
        both.world.is_decider_fresh = False
        both.start(3)
        for _ in range(200):
            both.world.tick()
        assert both.shut_down == [] and both.world.ready() == 2
        both.world.is_decider_fresh = True
    else:
        both.start(3)
    both.run(8)
    assert (both.desired, both.shut_down) == (2, [])
