"""The main job on real guests, in one life: up, scale out under load, every kill, scale in, down.

The tests of this module share one installation and run in the order in which they stand, under a steady stream of GETs
none of which may fail.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.steady import Steady
from tests.e2e.world import QEMU_PIDS, ROOT, World, now_s, restart_libvirtd, wait_until

SERVICES = ("monitor", "decider", "actuator", "balancer", "plotter", "recorder")
BOOT_S = 60.0  # generous: guests boot in software emulation beside everything else on two cores
CONVERGE_S = 30.0


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Return a running installation."""
    world = make_world("ase1", 1)
    world.autoscaler("up")
    return world


@pytest.fixture(scope="module")
def steady(world: World) -> Iterator[Steady]:
    """Send 20 GETs a second through everything that follows."""
    with Steady(world, rate=20) as stream:
        yield stream


@pytest.fixture
def high_load(world: World) -> Iterator[subprocess.Popen[str]]:
    """Drive the endpoint as ``make load LEVEL=high`` does."""
    command = [sys.executable, "-m", "cli", "--config", str(world.config), "load", "--level", "high", "--json"]
    load = subprocess.Popen([*command, "--seconds", "300"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield load
    if load.poll() is None:
        load.send_signal(signal.SIGTERM)
        load.communicate(timeout=60)


def settle(world: World, timeout_s: float, ready: int | None = None) -> dict[str, Any]:
    """Wait until the group has what it desires (which is ``ready``, if given) and no other; return its status."""

    def settled() -> dict[str, Any] | None:
        group = world.group()
        wanted = group["desired"] if ready is None else ready
        phases = [domain["phase"] for domain in group["domains"]]
        names = [domain["name"] for domain in group["domains"]]
        is_settled = group["desired"] == wanted == len(phases) and set(phases) == {"ready"}
        return group if is_settled and sorted(names) == world.domains() else None

    try:
        found: dict[str, Any] = wait_until(settled, timeout_s, f"{ready or 'the desired'} ready domain(s) and no other")
        return found
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(world.group(), indent=1)}\n{world.logs()}") from None


def test_up_ends_with_an_endpoint_that_answers(world: World) -> None:
    status, body, who = world.get("/compute?n=10")
    assert (status, body) == (200, str(2**10 % 1021))
    assert who == "ase1-0000"
    assert world.get("/healthz")[:2] == (200, "ase1-0000")


def test_the_doctor_finds_nothing_to_mend_while_all_runs(world: World) -> None:
    told = json.loads(world.autoscaler("doctor", "--json", check=False).stdout)
    of_the_machine = {"forward-policy", "cpus", "memory"}
    bad = [entry for entry in told["findings"] if entry["level"] == "error" and entry["check"] not in of_the_machine]
    assert bad == []
    looked_at = {entry["check"] for entry in told["findings"] if entry["level"] == "ok"}
    assert {"services", "services-config", "ports", "network-stp", "readiness", "image"} <= looked_at


def pids(world: World) -> dict[str, int]:
    """Return the process identifier of every service, once all of them answer."""

    def answering() -> dict[str, int] | None:
        services = world.status()["services"]
        return {one["name"]: one["pid"] for one in services} if all(one["alive"] for one in services) else None

    found: dict[str, int] = wait_until(answering, CONVERGE_S, "every service's sign of life")
    return found


def told(world: World, name: str, domain: str = "") -> int:
    """Return how many events of this name the recording has, all told or of one domain."""
    events = json.loads(world.autoscaler("events", "--json", "--limit", "1000").stdout)
    return sum(event["name"] == name and domain in ("", event["domain"]) for event in events)


def test_status_has_the_promised_form(world: World) -> None:
    assert list(pids(world)) == list(SERVICES)
    status = world.status()
    group = status["groups"][0]
    assert group["name"] == "web"
    assert group["endpoint"] == f"http://127.0.0.1:{world.port}/"
    domain = group["domains"][0]
    assert {"name", "host", "phase", "cpu_ratio", "address", "in_flight"} <= domain.keys()
    assert all({"name", "alive", "pid"} <= service.keys() for service in status["services"])


def test_up_again_changes_nothing(world: World) -> None:
    before = pids(world)
    world.autoscaler("up")
    assert pids(world) == before
    assert world.domains() == ["ase1-0000"]


def test_a_changed_configuration_is_taken_over_without_losing_a_request(world: World, steady: Steady) -> None:
    haproxy = (world.run_dir / "haproxy.cfg").read_text(encoding="utf-8")
    text = world.config.read_text(encoding="utf-8")
    world.config.write_text(text.replace("max_in_flight = 16", "max_in_flight = 17"), encoding="utf-8")
    world.autoscaler("up")
    assert "maxconn 17" in (world.run_dir / "haproxy.cfg").read_text(encoding="utf-8") != haproxy
    settle(world, CONVERGE_S, ready=1)
    assert world.domains() == ["ase1-0000"]
    assert steady.failures == []


def test_high_load_brings_a_second_domain(world: World, steady: Steady, high_load: subprocess.Popen[str]) -> None:
    begin = now_s()
    wait_until(lambda: (world.group()["desired"] or 0) >= 2, BOOT_S, "a scale-out")
    decided = now_s()
    wait_until(lambda: (world.group()["ready"] or 0) >= 2, BOOT_S, "the second domain in rotation")
    print(f"scale-out: decided after {decided - begin:.1f} s, serving after {now_s() - begin:.1f} s")
    wait_until(lambda: "ase1-0001" in steady.served_by, 10, "an answer from the second domain")
    explained = world.autoscaler("explain").stdout
    assert "scale" in explained
    assert steady.failures == []


def test_a_killed_qemu_under_load_is_replaced(world: World, steady: Steady, high_load: subprocess.Popen[str]) -> None:
    victim = wait_until(
        lambda: [d for d in world.group()["domains"] if d["phase"] == "ready"][1:], BOOT_S, "two ready domains"
    )[0]
    world.kill_qemu(victim["name"])
    wait_until(
        lambda: all(d["uuid"] != victim["uuid"] or d["phase"] != "ready" for d in world.group()["domains"]),
        CONVERGE_S,
        "the dead domain out of rotation",
    )
    begin = now_s()

    def replaced() -> bool:
        group = world.group()
        return sum(d["phase"] == "ready" for d in group["domains"]) >= 2 and not any(
            d["phase"] in ("failed", "stopping") for d in group["domains"]
        )

    wait_until(replaced, BOOT_S + CONVERGE_S, "a replacement in rotation")
    print(f"replacement serving after {now_s() - begin:.1f} s")
    assert steady.failures == []


@pytest.mark.parametrize("service", SERVICES[:5])
def test_a_killed_service_comes_back_and_nothing_is_lost(world: World, steady: Steady, service: str) -> None:
    before = {d["name"]: d["uuid"] for d in world.group()["domains"]}
    pid = pids(world)[service]
    os.kill(pid, signal.SIGKILL)
    begin = now_s()
    wait_until(lambda: world.pid(service) not in (None, pid), CONVERGE_S, f"a new {service}")
    print(f"{service} answers again after {now_s() - begin:.1f} s")
    uuids = {d["name"]: d["uuid"] for d in settle(world, CONVERGE_S + BOOT_S)["domains"]}
    assert {name: uuids[name] for name in uuids if name in before} == {n: before[n] for n in uuids if n in before}
    assert len(set(uuids.values())) == len(uuids)
    assert steady.failures == []


def test_a_restarted_libvirtd_is_found_again(world: World, steady: Steady, high_load: subprocess.Popen[str]) -> None:
    wait_until(lambda: (world.group()["ready"] or 0) >= 2, BOOT_S, "two domains in rotation")
    before = {d["name"]: d["uuid"] for d in world.group()["domains"]}
    back = told(world, "host-back")
    restart_libvirtd()
    begin = now_s()
    wait_until(lambda: told(world, "host-back") > back, CONVERGE_S, "a new connection of the monitor's")

    def sampled() -> bool:
        group = world.group()
        return all(d["cpu_ratio"] is not None for d in group["domains"] if d["phase"] == "ready")

    wait_until(sampled, CONVERGE_S, "samples of every ready domain")
    print(f"samples again {now_s() - begin:.1f} s after the restart")
    after = {d["name"]: d["uuid"] for d in world.group()["domains"]}
    assert all(after[name] == before[name] for name in after if name in before)
    domain = wait_until(
        lambda: [d["name"] for d in world.group()["domains"] if d["phase"] == "ready"][1:],
        BOOT_S,
        "another domain that can serve when one dies",
    )[0]
    failures = told(world, "domain-failed", domain)
    world.kill_qemu(domain)
    wait_until(
        lambda: told(world, "domain-failed", domain) > failures, CONVERGE_S, "the failure of a domain after the restart"
    )
    assert steady.failures == []


def test_low_load_brings_the_group_back_to_its_lower_bound(world: World, steady: Steady) -> None:
    settle(world, 240, ready=1)
    assert steady.failures == []
    assert steady.sent > 100


def test_the_last_minutes_can_be_drawn_without_a_display(world: World, tmp_path: Path) -> None:
    for option, name in (("--png", "graph.png"), ("--svg", "graph.svg")):
        world.autoscaler("plot", option, str(tmp_path / name), "--minutes", "10")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert "ase1-0000" in (tmp_path / "graph.svg").read_text(encoding="utf-8")


def test_events_tell_the_story(world: World) -> None:
    events = json.loads(world.autoscaler("events", "--json", "--limit", "1000").stdout)
    names = {event["name"] for event in events}
    assert {"scale-out", "scale-in", "domain-failed", "domain-ready"} <= names


def test_down_leaves_nothing_running(world: World) -> None:
    processes = pids(world).values()
    world.autoscaler("down")
    assert world.domains() == []
    assert world.networks() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert not list(QEMU_PIDS.glob("ase1-*.pid"))
    world.autoscaler("down", "--everything")
    assert not world.run_dir.exists()
    assert not world.state_dir.exists()
