"""Which tests may run beside others: those that start processes and sockets of their own, and change no machine.

All that is not named here uses the machine's libvirt or mounts, or measures how fast HAProxy is back: it runs alone,
see ``make test``. A new module does so too until its name is added.

# Note [One installation at a time]
Two installations at once with real guests saved minutes, and cost libvirtd its life in one of two runs: libvirt 9.0
ended by SEGV in ``virCgroupV2CopyPlacement``; the machine has both versions of cgroups.
"""

from pathlib import Path

import pytest

BESIDE = frozenset(
    f"test_{name}"
    for name in (
        "actuator_driver", "actuator_ended", "actuator_first_look", "actuator_groups", "actuator_moving",
        "actuator_process", "actuator_sickness", "actuator_stop", "actuator_worker", "alert_rules", "balancer_life",
        "balancer_reload", "balancer_suspended", "bus", "bus_netns", "bus_roles", "bus_tcp", "changed_programs",
        "command_errors", "command_exits", "decider_bus", "decider_process", "doctor_endpoint", "endpoint_keys",
        "engine_traces", "exporter_process", "guest_app", "haproxy_client", "haproxy_ending", "haproxy_outlives",
        "healthcheck", "install", "keep_haproxy", "monitor_service", "network_dns", "no_proxy", "notifier_process",
        "notifier_senders",
        "plotter_remote", "plotter_render", "plotter_window", "prober_answers", "process", "process_reload",
        "recorder_process", "reload_everywhere", "replay_cli", "shared_dirs", "supervision", "supervisor", "unreached",
    )
)  # fmt: skip
WAYS = frozenset({"test_actuator_warm", "test_clones"})
"""Other ways to capacity than a boot: ``make test-ways``, with what tests/e2e names."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.stem in BESIDE:
            item.add_marker(pytest.mark.beside)
        if item.path.parent == here and item.path.stem in WAYS:
            item.add_marker(pytest.mark.ways)
