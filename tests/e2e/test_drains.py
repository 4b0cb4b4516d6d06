"""A drain with long POSTs in flight, on real guests, while everything around it is reloaded, restarted and killed."""

import http.client
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.world import World, wait_until

BOOT_S = 60.0
POSTS, DURATION_S = 12, 35
TIMEOUT = "request_timeout_s = 60.0"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Return a running installation of two domains."""
    world = make_world("asdr", 33, minimum="1", maximum="2", group_extra="drain_timeout_s = 90.0")
    change(world, "[network]", f"[haproxy]\n{TIMEOUT}\n\n[network]")
    world.autoscaler("up")
    world.autoscaler("scale", "2")
    wait_until(lambda: phases(world) == ["ready", "ready"], BOOT_S, "two domains in rotation")
    return world


def change(world: World, before: str, after: str) -> None:
    text = world.config.read_text(encoding="utf-8")
    assert before in text
    world.config.write_text(text.replace(before, after), encoding="utf-8")


def phases(world: World) -> list[str]:
    return sorted(domain["phase"] for domain in world.group()["domains"])


def post(world: World, answers: Counter[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=2 * DURATION_S)
    try:
        connection.request("POST", f"/slow?ms={DURATION_S * 1000}", b"x")
        answer = str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        answer = type(error).__name__
    answers[answer] += 1
    connection.close()


def in_flight(world: World) -> dict[str, Any]:
    return {domain["name"]: domain["in_flight"] for domain in world.group()["domains"]}


@pytest.mark.slow
def test_no_post_is_lost_while_a_domain_drains_and_all_around_it_starts_anew(world: World) -> None:
    answers: Counter[str] = Counter()
    threads = [threading.Thread(target=post, args=(world, answers), daemon=True) for _ in range(POSTS)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(n or 0 for n in in_flight(world).values()) == POSTS, 10, "all of them in flight")
    world.autoscaler("scale", "1")
    wait_until(lambda: "draining" in phases(world), 10, "a drain")
    change(world, TIMEOUT, f"{TIMEOUT}\nmaxconn = 3000")
    assert "reloaded" in world.autoscaler("up").stdout
    assert not answers, "they ended before the reload"
    seen = wait_until(lambda: found if None not in (found := in_flight(world)).values() else None, 10, "a balancer")
    assert sum(seen.values()) == POSTS, "the old HAProxy process is counted"
    for service in ("balancer", "actuator"):
        pid = world.pid(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(2 * DURATION_S)
    assert answers == {"200": POSTS}
    wait_until(lambda: len(world.group()["domains"]) == 1, 30, "the drained one has left")
    assert world.get("/healthz")[0] == 200
