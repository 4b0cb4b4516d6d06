"""Our supervisord: started with all programs, brought to another configuration, stopped."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from cli import haproxy_process
from cli.console import Steps
from cli.process_list import command, commands, is_running
from cli.program import module
from cli.refusals import write_text
from cli.reload import MARKER
from cli.supervisor_config import control_socket, keeps_haproxy, supervisor_config
from common.clock import Clock
from common.config import Config, System
from common.config_environment import overriding
from common.errors import AutoscalerError
from common.state_dir import LOG_DIR
from services.balancer.core import ending

ROOT = Path(__file__).resolve().parent.parent
KEEPER = ROOT / "scripts" / "keep-supervisord.sh"
CONF = "supervisord.conf"  # in the run directory: what the running supervisord was told
UMASK = 0o077  # supervisord has a key for it, which it minds only where it goes into the background by itself
TREE = "directory="  # there: what it runs from, with the package below beneath it
PROGRAM = "cli"
START_TIMEOUT_S = 20.0
DOWN_TIMEOUT_S = 60.0
STOPPED = {"STOPPED", "EXITED", "FATAL"}
WAITING = "BACKOFF"
SHUTDOWN_FAULT = 6


def start_services(config: Config, config_path: Path, digest: str, clock: Clock, steps: Steps) -> str:
    """Start supervisord with all programs, or bring a running one to the present configuration."""
    system = config.system
    variables = overriding(os.environ)
    text = supervisor_config(system, config.services, config_path.resolve(), Path(sys.executable), ROOT, variables)
    path = system.run_path / CONF
    marker = system.run_path / MARKER
    taken_from = ""
    if is_supervised(system) and is_ending(system):
        stop_services(system, clock, steps)
    if is_supervised(system):
        before = _configuration(system)
        if before == text and not is_changed(system, digest):
            return start_stopped(system)
        if keeps_haproxy(before, text):
            write_text(path, text)
            restart_services(config)
            write_text(marker, digest)
            return "restarted with the changed configuration; HAProxy reloaded it"
        there = other_tree(before, ROOT)
        taken_from = f"; before, it ran from {there}" if there is not None else ""
        stop_services(system, clock, steps)
    is_served = haproxy_process.serves(system)
    write_text(path, text)
    start_supervisord(system, path, clock)
    write_text(marker, digest)
    return f"started under supervisord{taken_from}{'; HAProxy had served on' if is_served else ''}"


def refuse_other_tree(system: System, *, is_forced: bool = False) -> None:
    """Return if nothing runs that was started from another directory with this program, or if it ``is_forced``.

    What runs from a directory that is gone is taken over: the program was moved.

    Raises:
        AutoscalerError: such a supervisord runs; nothing was stopped.
    """
    if is_forced or not is_supervised(system) or is_ending(system):
        return
    there = other_tree(_configuration(system), ROOT)
    if there is not None and (there / PROGRAM).is_dir():
        raise AutoscalerError(
            f"nothing was changed: the installation in {system.run_path} runs from {there}, and this is {ROOT}. Run "
            f"make up in {there}; or take it over from here, which restarts HAProxy and refuses requests for some "
            "seconds: make up FORCE=1 (up --force)"
        )


def other_tree(text: str, here: Path) -> Path | None:
    """Return the directory that a supervisord with this configuration runs from.

    None where it is ``here``, also by way of a link, or where the configuration does not say.

    >>> other_tree("[supervisord]\\ndirectory=/opt/100%%\\n", Path("/here"))
    PosixPath('/opt/100%')
    """
    found = [line.removeprefix(TREE) for line in text.splitlines() if line.startswith(TREE)]
    there = Path(found[0].replace("%%", "%")) if found else here
    return None if there == here or there.resolve() == here.resolve() else there


def _configuration(system: System) -> str:
    """Return what supervisord was told at its start, empty where that is gone."""
    path = system.run_path / CONF
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def start_supervisord(system: System, path: Path, clock: Clock) -> None:
    """Start supervisord with its keeper in the background; return when it can be found, which is a moment later.

    What it would say goes nowhere: it has a log, and a file on a disk that is full would be its end.

    Raises:
        AutoscalerError: it does not take the file, or does not run.
    """
    _refuse_wrong(path)
    command = [*module("supervisor.supervisord"), "--nodaemon", "--silent", "-c", str(path)]
    keeper = subprocess.Popen(
        [str(KEEPER), str(_keeper_file(system)), *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=UMASK,
    )
    deadline_s = clock.monotonic_s() + START_TIMEOUT_S
    while not is_supervised(system):
        if keeper.poll() is not None or clock.monotonic_s() > deadline_s:
            log = system.state_path / LOG_DIR / "supervisord.log"
            raise AutoscalerError(f"supervisord does not run with {path}; see {log}")
        Event().wait(0.05)


def _refuse_wrong(path: Path) -> None:
    from supervisor.options import ServerOptions

    options = ServerOptions()
    options.stdout = options.stderr = said = io.StringIO()
    try:
        options.realize(["-c", str(path)])
    except SystemExit as error:
        why = said.getvalue().strip().splitlines()
        raise AutoscalerError(
            f"supervisord does not take {path}: {why[0] if why else 'it does not say why'}"
        ) from error


def start_stopped(system: System) -> str:
    """Start the programs that somebody stopped by supervisord, or that wait for their next try; return what was done.

    Raises:
        AutoscalerError: supervisord does not answer, or does not start one.
    """
    supervisor = _supervisor(system)
    try:
        found = {one["name"]: one["statename"] for one in supervisor.getAllProcessInfo()}
        stopped = [name for name, state in found.items() if state in (*STOPPED, WAITING)]
        for name in stopped:
            if found[name] == WAITING:
                supervisor.stopProcess(name)
            supervisor.startProcess(name, False)
    except (OSError, xmlrpc.client.Error) as error:
        raise AutoscalerError(f"supervisord does not start what is stopped: {_plainly(error)}") from error
    _reopen_logs(system)
    return f"started again: {', '.join(stopped)}" if stopped else "already running"


def _reopen_logs(system: System) -> None:
    """Have supervisord write to new logs where somebody removed them with the state directory."""
    pid = _supervisord_pid(system)
    if pid is not None and not (system.state_path / LOG_DIR / "supervisord.log").is_file():
        os.kill(pid, signal.SIGUSR2)


def restart_services(config: Config) -> None:
    """Give a running installation its changed configuration: HAProxy reloads it, the services start anew.

    A service that the new configuration asks for is started, one that it does not is ended.

    Raises:
        AutoscalerError: supervisord does not answer.
    """
    supervisor = _supervisor(config.system)
    try:
        supervisor.signalProcess("haproxy", "USR2")
        new = change_programs(supervisor)
        for name in config.services:
            if name in new:
                continue
            with contextlib.suppress(xmlrpc.client.Fault):  # it was stopped already
                supervisor.stopProcess(name)
            supervisor.startProcess(name, False)
    except (OSError, xmlrpc.client.Error) as error:
        raise AutoscalerError(f"supervisord does not start the services anew: {_plainly(error)}") from error


def change_programs(supervisor: Any) -> set[str]:
    """Have supervisord read its file again; return the programs that it has started because they are new or other."""
    ((added, changed, removed),) = supervisor.reloadConfig()
    for name in (*changed, *removed):
        supervisor.stopProcessGroup(name)
        supervisor.removeProcessGroup(name)
    for name in (*added, *changed):
        supervisor.addProcessGroup(name)
    return {*added, *changed}


def stop_services(system: System, clock: Clock, steps: Steps) -> str:
    """Stop supervisord and all its programs; return when they are gone, with what HAProxy had to cut.

    HAProxy is the last but the recorder, so that nothing is done about domains while it ends what is in flight.

    Raises:
        AutoscalerError: they are not gone in time, the time for what is in flight included.
    """
    pid, is_served = _supervisord_pid(system), haproxy_process.serves(system)
    if pid is None and not is_served:
        _end_keeper(system)
        return f"not running{what_was_cut(system)}"
    steps.note(partial(told_of_end, system, "the services end"))
    timeout_s = DOWN_TIMEOUT_S + ending.read_bound(system.run_path)
    deadline_s = clock.monotonic_s() + timeout_s
    _end_keeper(system)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _await(lambda: not is_running(pid), f"supervisord (process {pid})", timeout_s, deadline_s, clock)
    if haproxy_process.serves(system):
        ended = haproxy_process.begin_end(system, ROOT, Path(sys.executable))
        _await(lambda: ended.poll() is not None, "HAProxy", timeout_s, deadline_s, clock)
    how = "stopped" if pid is not None else "not running, but for HAProxy, which had served on; stopped"
    return f"{how}{what_was_cut(system)}"


def _await(is_over: Callable[[], bool], what: str, timeout_s: float, deadline_s: float, clock: Clock) -> None:
    while not is_over():
        if clock.monotonic_s() > deadline_s:
            raise AutoscalerError(f"{what} did not stop within {timeout_s:.0f} s")
        Event().wait(0.1)


def _keeper_file(system: System) -> Path:
    return system.run_path / "supervisord.keeper"


def _end_keeper(system: System) -> None:
    """End what would start supervisord again, and the supervisord that it has just started: they share a group."""
    pid = _found(KEEPER.name, _keeper_file(system))
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)


def told_of_end(system: System, otherwise: str) -> str:
    """Return what is waited for while HAProxy ends, in words; ``otherwise`` where nothing is in flight."""
    told = ending.read(system.run_path)
    return (told.text if told is not None and told.cut is None else "") or otherwise


def what_was_cut(system: System) -> str:
    """Return what HAProxy cut at its end, to follow other words, and forget it; empty where it cut nothing."""
    told = ending.read(system.run_path)
    with contextlib.suppress(OSError):
        ending.forget(system.run_path)
    return f"; {told.text}" if told is not None and told.cut is not None and told.text else ""


def is_supervised(system: System) -> bool:
    """Return whether our supervisord runs."""
    return _supervisord_pid(system) is not None


def is_ending(system: System) -> bool:
    """Return whether supervisord was told to stop and still does: then it answers nothing else."""
    try:
        _supervisor(system).getState()
    except xmlrpc.client.Fault as fault:
        return fault.faultCode == SHUTDOWN_FAULT
    except (OSError, xmlrpc.client.Error):
        pass
    return False


def _plainly(error: Exception) -> str:
    """Return what supervisord answers in words.

    >>> _plainly(xmlrpc.client.Fault(6, "SHUTDOWN_STATE"))
    'somebody stops it just now; try again'
    >>> _plainly(xmlrpc.client.Fault(50, "SPAWN_ERROR: monitor"))
    'spawn error: monitor'
    """
    if not isinstance(error, xmlrpc.client.Fault):
        return f"it does not answer: {error}"
    if error.faultCode == SHUTDOWN_FAULT:
        return "somebody stops it just now; try again"
    word, colon, rest = error.faultString.partition(":")
    return f"{word.replace('_', ' ').lower()}{colon}{rest}"


def is_changed(system: System, digest: str) -> bool:
    """Return whether our supervisord runs, with another configuration than the one of this digest."""
    marker = system.run_path / MARKER
    is_same = marker.is_file() and marker.read_text(encoding="ascii") == digest
    return is_supervised(system) and not is_same


def _supervisor(system: System) -> Any:
    """Return supervisord's own interface, at its socket."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{control_socket(system)}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def _supervisord_pid(system: System) -> int | None:
    if has_lost_files(system):
        return _found("supervisor.supervisord", system.run_path / CONF)
    try:
        pid = int((system.run_path / "supervisord.pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if any("supervisord" in word for word in command(pid)) else None


def has_lost_files(system: System) -> bool:
    """Return whether there is nothing of what supervisord is started with: it never was, or somebody took that away."""
    return not (system.run_path / CONF).is_file()


def _found(name: str, path: Path) -> int | None:
    """Return the process that runs a program of this name with this path, None without one.

    It is known by its command line: files with its number go with the run directory if somebody removes that.
    """
    for pid, words in commands():
        if str(path) in words and any(word == name or word.endswith(f"/{name}") for word in words[:4]):
            return pid
    return None
