"""A command that what runs does not answer says so, whatever the reason: never "not running"."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import config_file, in_force
from common.keys import make_keys
from common.services import ALL_SERVICES
from tests.ports import free_port
from tests.waiting import wait_until

TEXT = """
[system]
run_dir = "{place}/run"
state_dir = "{place}/state"
[metrics]
listen = ""
[groups.web]
prefix = "web-"
"""
COMMANDS = (["status"], ["status", "--json"], ["scale", "1"], ["explain"], ["reload"])


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # a socket's path must be short


@pytest.fixture
def over_tcp(place: Path) -> Path:
    """Return the configuration of an installation on TCP with keys."""
    keys = make_keys(place / "keys").directory
    lines = [f'{name} = "tcp://127.0.0.1:{port_pair()}"' for name in ALL_SERVICES]
    path = place / "tcp.toml"
    bus = f'[bus]\ntransport = "tcp"\nkeys_dir = "{keys}"\n[bus.endpoints]\n' + "\n".join(lines)
    path.write_text(TEXT.format(place=place) + bus)
    return path


def port_pair() -> int:
    return free_port()


@pytest.fixture
def start(place: Path) -> Iterator[Callable[[Path], "subprocess.Popen[bytes]"]]:
    running: list[subprocess.Popen[bytes]] = []

    def start_one(path: Path) -> "subprocess.Popen[bytes]":
        """Start a decider, and keep what is in force as the actuator does."""
        command = [sys.executable, "-m", "services.decider", "--config", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        mark = place / "run" / "decider.life"
        wait_until(mark.is_file, "its mark: it holds its lock and its addresses")
        in_force.keep(place / "run", config_file.read(path).source)
        return process

    yield start_one
    for process in running:
        process.kill()
        process.wait()


def autoscaler(path: Path, *args: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "cli", "--config", str(path), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("args", COMMANDS)
def test_another_configuration_than_the_one_that_runs_is_told_and_that_one_is_named(
    place: Path, over_tcp: Path, start: Callable[[Path], "subprocess.Popen[bytes]"], args: list[str]
) -> None:
    process = start(over_tcp)
    other = place / "other.toml"
    other.write_text(TEXT.format(place=place))
    done = autoscaler(other, *args)
    said = done.stderr + done.stdout
    assert done.returncode == 1, done
    assert f"nobody answered at ipc://{place}/run/decider.sock (from {other})" in said
    assert f"decider (process {process.pid})" in said
    assert f"it was started with another configuration: {over_tcp} (autoscaler --config {over_tcp} …)" in said
    assert "not running" not in said


def test_a_file_that_changed_since_the_start_is_told(
    over_tcp: Path, place: Path, start: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    start(over_tcp)
    over_tcp.write_text(TEXT.format(place=place))
    done = autoscaler(over_tcp, "status")
    assert done.returncode == 1
    assert f"{over_tcp}, or a variable, says something else than when it was started" in done.stderr


def test_keys_that_the_services_do_not_know_are_named(
    place: Path, over_tcp: Path, start: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    start(over_tcp)
    strange = make_keys(place / "strange").directory
    other = place / "other.toml"
    other.write_text(over_tcp.read_text().replace(str(place / "keys"), str(strange)))
    for args in (["status"], ["scale", "1"]):
        done = autoscaler(other, *args)
        assert done.returncode == 1, done
        key = strange / "operator.key_secret"
        assert f"the key {key}" in done.stderr or "refuses this machine" in done.stderr, done.stderr
        assert "not running" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become somebody who may not read the keys")
def test_keys_that_this_user_may_not_read_are_named(
    place: Path, over_tcp: Path, start: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    start(over_tcp)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    opened = Path("/var/tmp") / f"unreached-{os.getpid()}.toml"
    opened.write_text(over_tcp.read_text())
    opened.chmod(0o644)
    try:
        done = autoscaler(opened, "status", before=nobody)
    finally:
        opened.unlink()
    assert done.returncode == 2, done
    assert f"this user may not look into {place / 'keys'}" in done.stderr
    assert "not running" not in done.stderr


def test_doctor_does_not_say_that_none_runs(
    place: Path, over_tcp: Path, start: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    start(over_tcp)
    other = place / "other.toml"
    other.write_text(TEXT.format(place=place) + '[hosts.local]\nuri = "test:///default"\n')
    done = autoscaler(other, "doctor", "--json")
    assert f"nobody answered at ipc://{place}/run/decider.sock (from {other})" in done.stdout
    assert "none runs" not in done.stdout


def test_after_its_end_it_is_known_not_to_run(
    place: Path, over_tcp: Path, start: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    process = start(over_tcp)
    process.terminate()
    assert process.wait(30) == 0
    shutil.copy(over_tcp, place / "copy.toml")
    for path in (over_tcp, place / "copy.toml"):
        done = autoscaler(path, "status")
        assert (done.returncode, done.stderr.startswith("autoscaler: not running: make up")) == (1, True), done
