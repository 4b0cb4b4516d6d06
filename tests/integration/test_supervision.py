"""A real supervisord that is being stopped: what is asked of it meanwhile is answered in plain words."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.console import Steps
from cli.process_list import is_running
from cli.program import module
from cli.supervision import (
    is_ending,
    is_supervised,
    refuse_other_tree,
    restart_services,
    start_stopped,
    start_supervisord,
    stop_services,
)
from cli.supervisor_config import control_socket
from common.clock import SystemClock
from common.config import Config, System
from common.errors import AutoscalerError
from common.state_dir import LOG_DIR
from tests.waiting import wait_until

CLOCK = SystemClock()
CONF = """
[supervisord]
pidfile={run}/supervisord.pid
logfile={run}/log
directory={root}
[unix_http_server]
file={socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:haproxy]
command=/bin/sh -c "trap '' TERM; : > {run}/deaf; while :; do sleep 0.1; done"
startsecs=0
stopwaitsecs=4
stopasgroup=true
killasgroup=true
"""


def other_place(tmp_path: Path) -> Path:
    """Return a directory that holds the program, and is not this one."""
    path = tmp_path / "other"
    (path / "cli").mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """Start a supervisord whose program takes seconds to stop."""
    system = System(run_dir=f"{tmp_path}/run", state_dir=f"{tmp_path}/state")
    system.run_path.mkdir()
    conf = system.run_path / "supervisord.conf"
    conf.write_text(CONF.format(run=system.run_path, root=other_place(tmp_path), socket=control_socket(system)))
    subprocess.run([*module("supervisor.supervisord"), "-c", str(conf)], check=True)
    wait_until(lambda: is_supervised(system), "supervisord runs", 20, every_s=0.05)
    wait_until((system.run_path / "deaf").exists, "its program hears no SIGTERM any more", 20, every_s=0.05)
    yield system
    stop_services(system, CLOCK, Steps(CLOCK, 1))


def test_one_that_is_being_stopped_is_told_from_one_that_runs(system: System) -> None:
    config = Config.model_validate({"system": system.model_dump(), "groups": {"web": {"prefix": "web-"}}})
    assert not is_ending(system)
    os.kill(int((system.run_path / "supervisord.pid").read_text()), signal.SIGTERM)
    wait_until(lambda: is_ending(system), "it says that it ends", 20, every_s=0.05)
    for ask in (lambda: restart_services(config), lambda: start_stopped(system)):
        with pytest.raises(AutoscalerError, match="somebody stops it just now; try again") as raised:
            ask()
        assert "Fault" not in str(raised.value)
    assert stop_services(system, CLOCK, Steps(CLOCK, 1)) == "stopped"
    assert not is_supervised(system) and not is_ending(system)


def test_one_that_runs_from_another_place_is_left_alone_unless_it_ends_already(system: System, tmp_path: Path) -> None:
    pid = int((system.run_path / "supervisord.pid").read_text())
    assert Path(f"/proc/{pid}/cwd").readlink() == other_place(tmp_path)
    with pytest.raises(AutoscalerError, match=f"runs from {other_place(tmp_path)}"):
        refuse_other_tree(system)
    assert is_supervised(system) and not is_ending(system)
    refuse_other_tree(system, is_forced=True)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_ending(system), "it says that it ends", 20, every_s=0.05)
    refuse_other_tree(system)


QUIET = """
[supervisord]
pidfile={run}/supervisord.pid
logfile={run}/log
[unix_http_server]
file={run}/supervisord.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""


@pytest.fixture
def place(tmp_path: Path) -> System:
    """Make the directories of an installation that has not been started."""
    system = System(run_dir=f"{tmp_path}/run", state_dir=f"{tmp_path}/state")
    system.run_path.mkdir()
    (system.state_path / LOG_DIR).mkdir(parents=True)
    return system


def test_it_is_started_in_the_background_with_a_umask_that_hides_from_others(place: System) -> None:
    conf = place.run_path / "supervisord.conf"
    conf.write_text(QUIET.format(run=place.run_path))
    start_supervisord(place, conf, CLOCK)
    pid = int((place.run_path / "supervisord.pid").read_text())
    try:
        assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()
        assert os.getsid(pid) == int((place.run_path / "supervisord.keeper").read_text()) != os.getsid(0)
        assert {Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in (0, 1, 2)} == {Path("/dev/null")}
    finally:
        assert stop_services(place, CLOCK, Steps(CLOCK, 1)) == "stopped"


def test_one_that_cannot_start_says_why_and_is_not_tried_again(place: System) -> None:
    conf = place.run_path / "supervisord.conf"
    conf.write_text("[supervisord]\nlogfile=/nowhere/log\n")
    with pytest.raises(AutoscalerError, match=r"supervisord does not take .*conf: Error: .*/nowhere"):
        start_supervisord(place, conf, CLOCK)
    assert not (place.run_path / "supervisord.keeper").exists()


def test_one_that_ends_at_its_start_is_not_tried_again_and_its_log_is_named(place: System) -> None:
    conf = place.run_path / "supervisord.conf"
    conf.write_text(QUIET.format(run=place.run_path).replace("supervisord.sock", "x" * 200))
    with pytest.raises(AutoscalerError, match=r"does not run with .*conf; see .*/log/supervisord.log"):
        start_supervisord(place, conf, CLOCK)
    pid = int((place.run_path / "supervisord.keeper").read_text())
    wait_until(lambda: not is_running(pid), "the end of its keeper", 20)


def test_one_whose_run_directory_was_taken_away_is_found_and_stopped(place: System) -> None:
    conf = place.run_path / "supervisord.conf"
    conf.write_text(QUIET.format(run=place.run_path))
    start_supervisord(place, conf, CLOCK)
    pid = int((place.run_path / "supervisord.pid").read_text())
    place.run_path.rename(place.run_path.with_name("moved"))
    assert is_supervised(place)
    assert stop_services(place, CLOCK, Steps(CLOCK, 1)) == "stopped"
    assert not is_running(pid) and not is_supervised(place)
