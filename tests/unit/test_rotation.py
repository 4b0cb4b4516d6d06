"""What ready means: one truth for every screen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.observe import Snapshot
from cli.status import status_values
from common.config import Config, Group
from common.messages import BackendState, Drain, Member, Membership
from common.messaging.inbox import Received
from common.phases import Phase
from common.rotation import serving, why_not_serving
from services.exporter.core import state as exporter
from services.exporter.core.render import render
from services.exporter.shell import scope_of
from services.plotter.core import series

CONFIG = Config(groups={"web": Group(prefix="web-")})
STATES = ("joining", "ready", "draining", "left", "unplaced", "held", "unknown")
HEALTH = (True, False, None)


def member(uuid: str, phase: Phase = Phase.READY) -> Member:
    return Member(name=f"web-{uuid}", uuid=uuid, host="local", phase=phase, since_s=0, age_s=0, address=None, port=80)


def membership(*members: Member) -> Membership:
    total = len(members)
    return Membership(
        group="web", generation_seen=1, desired_seen=1, members=members, owned_total=total, ceiling=total + 1
    )


def backend(uuid: str, state: str = "ready", *, is_healthy: bool | None = True, check: str = "") -> BackendState:
    return BackendState(name=f"web-{uuid}", uuid=uuid, slot="vm1", state=state, is_healthy=is_healthy, check=check)


def drain(*backends: BackendState, is_proxy_alive: bool = True) -> Drain:
    return Drain(group="web", endpoint="http://127.0.0.1:8000/", is_proxy_alive=is_proxy_alive, backends=backends)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("is_healthy", HEALTH)
def test_who_is_ready_in_rotation_and_not_sick_serves_and_nobody_else(
    phase: Phase, state: str, is_healthy: bool | None
) -> None:
    told = drain(backend("a", state, is_healthy=is_healthy))
    is_serving = phase is Phase.READY and state == "ready" and is_healthy is not False
    assert serving(membership(member("a", phase)), told) == (frozenset("a") if is_serving else frozenset())


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, ""),
        (drain(backend("a")), ""),
        (drain(backend("a", is_healthy=None)), ""),
        (drain(backend("a"), is_proxy_alive=False), "HAProxy does not answer"),
        (drain(backend("b")), "not in rotation"),
        (drain(backend("a", "joining")), "not in rotation: joining"),
        (drain(backend("a", "unknown")), "its address is not known, so whether it serves is not either"),
        (drain(backend("a", is_healthy=False)), "its check fails"),
        (drain(backend("a", is_healthy=False, check="L7TOUT")), "its check fails: L7TOUT"),
    ],
)
def test_a_ready_domain_that_does_not_serve_says_why(told: Drain | None, why: str) -> None:
    assert why_not_serving(member("a"), told) == why
    assert why_not_serving(member("a", Phase.BOOTING), told) == ""


def test_without_a_word_of_actuator_or_balancer_it_is_unknown() -> None:
    assert serving(None, drain()) is None
    assert serving(membership(member("a")), None) is None


def on_screens(told: Membership, drains: Drain | None) -> list[float | None]:
    """Return how many are ready as ``status --json``, the metrics and the graph show it."""
    bodies = [body for body in (drains, told) if body is not None]
    heard, metrics = Snapshot(), exporter.begin(scope_of(CONFIG), 0.0)
    graph = series.empty({"web": "web-"}, span_s=600.0, interval_s=1.0, stale_after_s=3.5)
    for body in bodies:
        heard.take(body)
        metrics = exporter.handle(metrics, Received(body.topic, None, body, 0.0, ""), 1.0)  # type: ignore[arg-type]
        graph, _ = series.handle(graph, body, 1.0)
    samples = [s.value for s in render(metrics, 1.0) if s.name == "autoscaler_group_ready_domains"]
    [group] = status_values(CONFIG, heard)["groups"]
    return [group["ready"], samples[0] if samples else None, graph.groups["web"].ready[-1][1]]


@given(
    members=st.lists(st.sampled_from(Phase), max_size=6),
    backends=st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(HEALTH)), max_size=6),
    is_proxy_alive=st.booleans(),
    has_balancer=st.booleans(),
)
def test_every_screen_shows_the_same_number(
    members: list[Phase], backends: list[tuple[str, bool | None]], is_proxy_alive: bool, has_balancer: bool
) -> None:
    told = membership(*(member(str(at), phase) for at, phase in enumerate(members)))
    states = [backend(str(at), state, is_healthy=health) for at, (state, health) in enumerate(backends)]
    drains = drain(*states, is_proxy_alive=is_proxy_alive) if has_balancer else None
    served = serving(told, drains)
    assert on_screens(told, drains) == [None if served is None else len(served)] * 3
