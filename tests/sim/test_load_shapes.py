"""However a load ends, the demo is back at its min in the time that its windows and cooldowns take, and 15 s."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.config_file import load as read_config
from common.messages import Traffic
from services.decider.core.state import Settings
from tests.sim.life_world import COST_S, REMEMBERED, Life

SHIPPED = Path(__file__).parents[2] / "autoscaler.toml"
HIGH = 6.0  # domains' worth of requests: more than the demo's four carry
SLACK_S = 15.0


@dataclass
class Door(Life):
    """A life behind an endpoint at which requests pile up that nobody works on yet."""

    backlog: float = 0.0

    def carrying(self) -> Traffic:
        """Return what the endpoint carries while a load runs: what waits grows, and so does the time that it takes."""
        if self.request_rate is not None:
            return super().carrying()
        arrivals, most = self.load(self.t) / COST_S, max(len(self.serving()), 1) / COST_S
        served = min(self.backlog + arrivals, most)
        self.backlog += arrivals - served
        took_s = COST_S + self.backlog / most
        self.told_s += (took_s - self.told_s) * min(served / REMEMBERED, 1.0)
        at_work = min(self.backlog, self.settings.group.max_in_flight * len(self.serving()))
        return Traffic(
            group="web",
            interval_s=1.0,
            is_known=True,
            request_rate=arrivals,
            error_rate=self.error_ratio * arrivals,
            queue=round(self.backlog - at_work),
            in_flight=round(self.backlog + served * COST_S),
            response_time_s=self.told_s,
        )

    def end(self, rate: float = 0.0, in_flight: Callable[[float], float] | None = None) -> None:
        """Let the load go; a rest of short requests may stay, or of long ones."""
        self.backlog, self.error_ratio = 0.0, 0.0
        self.load, self.request_rate, self.in_flight = lambda t: 0.02, lambda t: rate, in_flight


def demo() -> Door:
    """Return the shipped demo, a minute after a load began for which it is too small."""
    config, _ = read_config(SHIPPED, {})
    system = config.system
    own = Settings(
        "web", config.groups["web"], system.interval_s, system.stale_after_s, system.republish_s, slots=64, run_id=127
    )
    world = Door(lambda t: 0.0 if t < 10 else HIGH, settings=own)
    while world.state.standing.desired != own.group.maximum:
        world.step()
    return world


def at_once(world: Door) -> None:
    world.run(60).end()


def trickle(world: Door) -> None:
    world.run(60).end(rate=2.0)


def slow_client(world: Door) -> None:
    """One request of ten seconds after the other."""
    world.run(60).end(rate=0.1, in_flight=lambda t: 1.0)


def errors_at_the_end(world: Door) -> None:
    world.run(50).error_ratio = 1.0
    world.run(10).end(rate=2.0)


def idle_connections(world: Door) -> None:
    """Clients keep what they have opened, and ask for nothing: so it looks where a group is not HTTP."""
    world.run(60).end(in_flight=lambda t: 200.0)


def a_short_second_burst(world: Door) -> None:
    world.run(60).end()
    world.run(40)
    world.load, world.request_rate, world.in_flight = lambda t: HIGH, None, None
    world.run(8).end()


def slow_posts_that_end_late(world: Door) -> None:
    world.run(60)
    ended_s = world.t
    world.end(in_flight=lambda t: max(60.0 - 2.0 * (t - ended_s), 0.0))


def during_a_scale_out(world: Door) -> None:
    world.run(2).end()


SHAPES = (
    at_once, trickle, slow_client, errors_at_the_end, idle_connections, a_short_second_burst, slow_posts_that_end_late,
    during_a_scale_out,
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_when_a_load_has_ended_the_demo_is_at_its_min_in_time(shape: Callable[[Door], None]) -> None:
    world = demo()
    shape(world)
    standing, group = world.state.standing, world.settings.group
    assert standing.desired == group.maximum
    calm_s = max(world.settings.in_window_s, standing.patience_s)
    steps = group.maximum - group.minimum
    within_s = calm_s + (steps - 1) * group.cooldown_in_s + SLACK_S
    world.run(within_s)
    record = world.state.history[-1]
    assert world.state.standing.desired == group.minimum, (record.limiter, record.limiter_text)


def test_while_the_load_lasts_nobody_is_taken_away_though_cpu_is_low() -> None:
    world = demo().run(30)
    plain = world.ratio
    world.ratio = lambda domain, busy: min(plain(domain, busy) or 0.0, 0.1)  # type: ignore[method-assign]
    world.load = lambda t: 4.2  # what waits grows slowly: a database that is locked, say
    assert world.run(300).state.standing.desired == world.settings.group.maximum
