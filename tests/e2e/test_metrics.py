"""A real Prometheus reads a real installation: every panel of the dashboard and every alert finds its figures.

And a program is told of what happens there.

The tests share one installation and run in the order in which they stand.
"""

import json
import os
import signal
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from bench import dashboard
from bench.prometheus import Prometheus
from common.errors import AutoscalerError
from tests.e2e.steady import Steady
from tests.e2e.world import World, wait_until

LISTEN, HAPROXY_LISTEN = "127.0.0.1:19464", "127.0.0.1:18405"
JOBS = {"libvirt-autoscaler": LISTEN, "libvirt-autoscaler-haproxy": HAPROXY_LISTEN}
BOOT_S = 120.0  # generous: guests boot in software emulation beside everything else on two cores
NOTIFIED = """
[[notifications]]
command = ["/bin/sh", "-c", 'cat >> "$0"', "{path}"]
events = ["scale", "failure", "operator"]
timeout_s = 30.0
"""
MAY_BE_ABSENT = {  # with the configuration of this test, or before there is anything to measure
    "autoscaler_group_burst_quota_ratio",
    "autoscaler_group_lead_time_p50_seconds",
    "autoscaler_group_lead_time_p95_seconds",
}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Return a running installation with one domain."""
    world = make_world("asem", 14, metrics=LISTEN, haproxy_metrics=HAPROXY_LISTEN)
    with world.config.open("a", encoding="utf-8") as file:
        file.write(NOTIFIED.format(path=world.config.parent / "told"))
    world.autoscaler("up")
    return world


@pytest.fixture(scope="module")
def prometheus(world: World) -> Iterator[Prometheus]:
    """Let a Prometheus read it every second, under a trickle of requests."""
    try:
        found = Prometheus(JOBS)
    except AutoscalerError as error:
        if "could not download" in str(error):
            pytest.skip(str(error))
        raise
    try:
        with Steady(world, rate=4, threads=2):
            yield found
    finally:
        found.close()


def page() -> dict[str, float]:
    """Return the exporter's page: each series by its text."""
    with urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def domains_shown() -> int:
    return sum(series.startswith("autoscaler_domain_cpu_ratio{") for series in page())


def test_both_targets_are_read(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.healthy_jobs() == JOBS.keys(), 30, "two healthy targets")


def test_every_panel_finds_its_figures(world: World, prometheus: Prometheus) -> None:
    world.autoscaler("scale", "2")
    world.autoscaler("pause")
    wait_until(lambda: domains_shown() == 2, BOOT_S, "the figures of two domains")
    asked = [target for panel in dashboard.panels(dashboard.read()) for target, _ in panel.targets]
    wanted = [expression for expression in asked if not dashboard.metrics_in(expression) & MAY_BE_ABSENT]

    left = list(wanted)

    def all_found() -> bool:
        left[:] = [expression for expression in left if not prometheus.query(expression)]
        return not left

    try:
        wait_until(all_found, 40, "figures for every panel", every_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}: nothing for {left}") from None
    for expression in set(asked) - set(wanted):
        prometheus.query(expression)  # refused if it were none


def test_every_alert_is_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    wait_until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), 30, "an evaluation of every rule")
    assert [rule["lastError"] for rule in prometheus.rules() if rule.get("lastError")] == []
    assert {rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"} == set()
    known = {series["metric"]["__name__"] for series in prometheus.query('{__name__=~"autoscaler_.*|up"}')}
    named = {name for rule in prometheus.rules() for name in dashboard.metrics_in(rule["query"])}
    assert named <= known


def test_figures_match_what_the_operator_sees(world: World) -> None:
    ready = 'autoscaler_group_ready_domains{group="web"}'
    wait_until(lambda: page().get(ready) == 2, BOOT_S, "two domains in rotation")
    series = page()
    group = wait_until(lambda: found if (found := world.group())["ready"] == 2 else None, 20, "the same in status")
    assert series['autoscaler_group_desired_domains{group="web"}'] == group["desired"] == 2
    assert series[ready] == 2
    said = world.autoscaler("events", "--limit", "1000").stdout
    assert series['autoscaler_scale_events_total{direction="out",group="web"}'] == said.count("scale-out")
    services = [f'autoscaler_service_up{{service="{entry["name"]}"}}' for entry in world.status()["services"]]
    wait_until(lambda: all(page().get(service) for service in services), 20, "a sign of life of every service")


def test_what_a_frozen_monitor_no_longer_says_is_absent(world: World) -> None:
    pid = world.pid("monitor")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        reachable = 'autoscaler_host_reachable{host="local"}'
        wait_until(lambda: reachable not in page() and domains_shown() == 0, 20, "the end of stale figures")
        assert page()['autoscaler_sample_age_seconds{host="local"}'] > 3.0
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: domains_shown() == 2, 20, "fresh figures")


def told(world: World) -> list[tuple[str, str]]:
    """Return kind and domain of what the program was told."""
    path = world.config.parent / "told"
    notices = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [(notice["type"], notice["data"]["domain"]) for notice in notices]


def test_a_program_is_told_of_a_failure(world: World) -> None:
    victim = world.group()["domains"][-1]["name"]
    world.kill_qemu(victim)
    wait_until(lambda: ("domain-failed", victim) in told(world), 30, "the notice of a failure")
    assert "operator" in {name for name, _ in told(world)}
    ready = 'autoscaler_group_ready_domains{group="web"}'
    wait_until(lambda: page().get(ready) == 2, BOOT_S, "its replacement")
    failures = 'autoscaler_domain_failures_total{group="web"}'
    wait_until(lambda: (page().get(failures) or 0) >= 1, 20, "the failure's figure")


def test_the_series_of_a_domain_end_with_it(world: World) -> None:
    world.autoscaler("resume")
    world.autoscaler("scale", "1")
    wait_until(lambda: len(world.domains()) == 1, BOOT_S, "one domain")
    wait_until(lambda: domains_shown() == 1, 20, "the figures of one domain")
