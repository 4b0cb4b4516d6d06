"""The real plotter process on another machine: over TCP with CURVE, across a network namespace."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.bus import Bus
from common.clock import SystemClock
from common.config import SERVICES
from common.config_file import load
from common.keys import make_keys
from common.messages import DesiredCapacity, ServiceStatus
from tests.integration import test_bus_netns

CLOCK = SystemClock()
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]
HERE, THERE = test_bus_netns.HERE, test_bus_netns.THERE
machine = test_bus_netns.machine
pytestmark = test_bus_netns.pytestmark


def write_config(directory: Path, keys_dir: Path | str) -> Path:
    """Write a configuration in which the plotter lives there and everything else here."""
    directory.mkdir(exist_ok=True)
    places = {
        name: f"tcp://{THERE if name == 'plotter' else HERE}:{17100 + 2 * at}" for at, name in enumerate(SERVICES)
    }
    endpoints = ", ".join(f'{name} = "{place}"' for name, place in places.items())
    path = directory / "autoscaler.toml"
    path.write_text(
        f'[system]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}"\nrepublish_s = 0.5\n'
        f'[bus]\ntransport = "tcp"\nkeys_dir = "{keys_dir}"\nendpoints = {{ {endpoints} }}\n'
        '[groups.web]\nprefix = "web-"\n',
        encoding="utf-8",
    )
    return path


@contextmanager
def plotter_at(machine: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the plotter on the other machine, and end it by its identifier."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, "-m", "services.plotter", "--config", str(config)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)


def heard_by_plotter(config: Path, pub: Bus, is_enough: Callable[[int], bool]) -> int | None:
    """Return how many messages the plotter says it received, once that is enough; None if it never says anything."""
    observer = Bus.open(load(config)[0], "operator", CLOCK, publishes=False)
    observer.subscribe("plotter", "service")
    received, deadline_s = None, CLOCK.monotonic_s() + PATIENCE_S
    try:
        while CLOCK.monotonic_s() < deadline_s and (received is None or not is_enough(received)):
            pub.publish(DesiredCapacity(group="web", generation=1, desired=3, minimum=1, maximum=4))
            pub.receive(0.05)
            for message in observer.receive(0.1).messages:
                if isinstance(message.body, ServiceStatus):
                    received = message.body.counters.get("received", 0)
    finally:
        observer.close()
    return received


def test_the_plotter_hears_and_draws_on_another_machine_with_the_right_keys(machine: str, tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys").directory
    config = write_config(tmp_path / "near", keys)
    shutil.copytree(keys, tmp_path / "far-keys")
    far = write_config(tmp_path / "far", tmp_path / "far-keys")
    pub = Bus.open(load(config)[0], "decider", CLOCK)
    try:
        with plotter_at(machine, far) as process:
            assert (heard_by_plotter(config, pub, lambda received: received >= 3) or 0) >= 3
            deadline_s = CLOCK.monotonic_s() + PATIENCE_S
            while not (tmp_path / "far" / "graph.png").exists() and CLOCK.monotonic_s() < deadline_s:
                pub.receive(0.1)
        assert process.returncode == 0
    finally:
        pub.close()
    assert (tmp_path / "far" / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_the_plotter_hears_nothing_with_keys_of_another_installation(machine: str, tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys").directory
    config = write_config(tmp_path / "near", keys)
    far = write_config(tmp_path / "far", make_keys(tmp_path / "strangers").directory)
    pub = Bus.open(load(config)[0], "decider", CLOCK)
    try:
        with plotter_at(machine, far):
            assert heard_by_plotter(far, pub, lambda _: pub.counters["refused"] >= 2) == 0
        assert pub.counters["refused"] >= 2
    finally:
        pub.close()


def test_the_plotter_refuses_to_serve_off_loopback_without_keys(machine: str, tmp_path: Path) -> None:
    with plotter_at(machine, write_config(tmp_path / "far", "")) as process:
        assert process.wait(timeout=PATIENCE_S) == 2
