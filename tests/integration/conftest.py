"""Which tests may run beside others: those that start processes and sockets of their own and change no machine.

All that is not named here uses the machine's libvirt, networks or mounts, or counts what was lost under a load of its
own: it runs alone, see ``make test``. A new module does so too until its name is added.
"""

from pathlib import Path

import pytest

BESIDE = frozenset(
    f"test_{name}"
    for name in (
        "actuator_driver", "actuator_ended", "actuator_first_look", "actuator_groups", "actuator_moving",
        "actuator_process", "actuator_sickness", "actuator_stop", "actuator_worker", "alert_rules", "bus", "bus_tcp",
        "command_errors", "command_exits", "decider_bus", "decider_process", "doctor_endpoint", "engine_traces",
        "exporter_process", "guest_app", "haproxy_client", "haproxy_ending", "healthcheck", "install", "keep_haproxy",
        "monitor_service", "notifier_process", "notifier_senders", "plotter_render", "plotter_window", "process",
        "process_reload", "recorder_process", "reload_everywhere", "replay_cli", "supervisor",
    )
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.stem in BESIDE:
            item.add_marker(pytest.mark.beside)
