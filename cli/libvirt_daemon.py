"""Bring libvirt's daemons up where nobody else does, and down again what we started.

With systemd they are its business. Without it (containers, rescue systems) ``virtlogd -d`` and ``libvirtd -d`` are
started here, remembered in the run directory, and ended by ``down`` once no domain runs any more.
"""

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event

from cli.refusals import write_text
from common.clock import Clock
from common.config import Host, System
from common.errors import AutoscalerError, HypervisorError
from common.hypervisor import Connection

LOCAL_URI = "qemu:///system"
START_TIMEOUT_S = 30.0
PID_DIRECTORY = Path("/run/libvirt/qemu")
DAEMONS = {"libvirtd", "virtqemud"}
MOST_TOLD = 3
ANSWERS = "libvirt answers"
_PID_FILES = {"libvirtd": "/run/libvirtd.pid", "virtlogd": "/run/virtlogd.pid"}


def has_systemd() -> bool:
    """Return whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir()


def ensure_libvirt(host: Host, system: System, clock: Clock) -> str:
    """Return in plain words how the host's libvirt was found or brought to answer.

    Raises:
        AutoscalerError: it does not answer, and cannot be started from here.
    """
    try:
        _touch(host.uri)
        is_alone = host.uri == LOCAL_URI and not has_systemd() and _daemon_pid("virtlogd") is None
        return f"{ANSWERS}; {_start_daemons(system)}" if is_alone and _daemon_pid("libvirtd") else ANSWERS
    except HypervisorError as error:
        if host.uri != LOCAL_URI:
            raise AutoscalerError(f"libvirt at {host.uri} does not answer: {error}") from error
    how = _start_with_systemd() if has_systemd() else _start_daemons(system)
    deadline_s = clock.monotonic_s() + START_TIMEOUT_S
    while True:
        try:
            _touch(host.uri)
            return how
        except HypervisorError as error:
            if clock.monotonic_s() > deadline_s:
                raise AutoscalerError(f"libvirtd was started but does not answer at {host.uri}: {error}") from error
            Event().wait(0.2)


def start_again(hosts: Iterable[Host], system: System, clock: Clock) -> str:
    """Have this machine's libvirt answer where it can be started: a former ``down`` may have ended it, or it crashed.

    Who asks it next says what is wrong where it does not answer.

    Returns:
        What was started, empty if it answered or still does not.
    """
    for host in hosts:
        if host.uri == LOCAL_URI:
            with suppress(AutoscalerError):
                how = ensure_libvirt(host, system, clock)
                return "" if how == ANSWERS else how
    return ""


def stop_libvirt(system: System) -> str:
    """End the daemons that ``ensure_libvirt`` started, unless domains still run; return what was done."""
    notes = [note for name in _PID_FILES if (note := _note(system, name)).exists()]
    if not notes:
        return "libvirt's daemons are not ours: left alone"
    try:
        running = running_domains()
    except OSError as error:
        return f"libvirt's daemons go on: whether domains run cannot be known ({error.strerror})"
    if running:
        more = f" and {len(running) - MOST_TOLD} more" if len(running) > MOST_TOLD else ""
        return f"libvirt's daemons go on, for these domains run: {', '.join(running[:MOST_TOLD])}{more}"
    libvirtd = _daemon_pid("libvirtd")
    if libvirtd is not None and not _is_noted(_note(system, "libvirtd"), libvirtd):
        return "libvirt's daemons go on: the libvirtd that runs is not the one that was started here"
    stopped = []
    for note in notes:
        name = note.suffix.removeprefix(".")
        pid = _daemon_pid(name)
        if pid is not None and _is_noted(note, pid):
            os.kill(pid, signal.SIGTERM)
            stopped.append(name)
        note.unlink()
    return f"stopped {' and '.join(stopped)}, which we had started" if stopped else "what we had started has ended"


def _touch(uri: str) -> None:
    Connection.open(uri, is_read_only=True, may_touch=lambda _name: False).close()


def _start_with_systemd() -> str:
    try:
        subprocess.run(["systemctl", "start", "libvirtd"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise AutoscalerError(f"systemctl start libvirtd failed: {error}; see: systemctl status libvirtd") from error
    return "started libvirtd with systemctl"


def _start_daemons(system: System) -> str:
    started, lost = [], []
    for name in ("virtlogd", "libvirtd"):
        if _daemon_pid(name) is not None:
            continue
        if _note(system, name).exists():  # ``stop_libvirt`` takes it away with the daemon
            lost.append(f"; the {name} of an earlier start is gone: it crashed, was stopped, or the machine restarted")
        try:
            subprocess.run([name, "-d"], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            raise AutoscalerError(f"{name} -d failed: {error}") from error
        started.append(name)
        pid = _daemon_pid(name)
        if pid is not None:
            write_text(_note(system, name), str(pid))
    if not started:
        return "libvirt's daemons were starting"
    return f"started {' and '.join(started)} (no systemd here){''.join(lost)}"


def _note(system: System, name: str) -> Path:
    return system.run_path / f"started.{name}"


def _is_noted(note: Path, pid: int) -> bool:
    """Return whether the process is the one that was started here; False if nothing is noted."""
    try:
        return note.read_text(encoding="ascii").strip() == str(pid)
    except FileNotFoundError:
        return False


def _daemon_pid(name: str) -> int | None:
    """Return the identifier of the running daemon, from its own file, if that process is the daemon and no zombie."""
    try:
        pid = int(Path(_PID_FILES[name]).read_text(encoding="ascii"))
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
        return pid if stat.startswith(f"{pid} ({name}) ") and not stat.startswith(f"{pid} ({name}) Z") else None
    except (OSError, ValueError):
        return None


def running_domains(directory: Path = PID_DIRECTORY) -> list[str]:
    """Return the names of the domains of this machine that run, ours or not.

    Each has a file with the identifier of its process. libvirt's own driver has one of the same form; a domain of that
    name has a process that is not libvirt's.

    Raises:
        OSError: it cannot be known.
    """
    if not directory.is_dir():
        return []
    return sorted(path.stem for path in directory.iterdir() if path.suffix == ".pid" and _is_domain(path))


def _is_domain(path: Path) -> bool:
    """Return whether the process of a file runs and is no daemon of libvirt's; a file that cannot be read counts."""
    try:
        comm = Path(f"/proc/{int(path.read_text(encoding='ascii'))}/comm")
        return comm.read_text(encoding="ascii", errors="replace").strip() not in DAEMONS
    except FileNotFoundError:
        return False  # it ended without libvirt's having noticed yet
    except (OSError, ValueError):
        return True
