"""What supervisord is told: pure text from the configuration.

Every program is restarted for ever, at the next look, however young it was: with ``startsecs`` above 0, supervisord
waits a second longer after each quick end. What fails at its start keeps the pace itself (Note [A steady pace after a
failure] in ``common.process``). ``startretries`` is as good as endless, for what cannot be run at all.

# Note [HAProxy outlives its supervisord]
``scripts/keep-supervisord.sh`` starts a killed supervisord again. Services that the killed one had would be in the way
of the next one's, so they end with it, by a parent-death signal that they ask for; nobody misses them for some seconds.
HAProxy would be missed by every client: only its keeper ends with supervisord (``setpriv``), HAProxy serves on, and the
next keeper takes it over. Which process it is stands in a file of the run directory.

# Note [Who bounds HAProxy's end]
HAProxy's keeper does: it is told to have requests in flight end (SIGUSR1), and knows from a file for how long. What
supervisord waits for stands here, and another text would have HAProxy started anew; so it is more than any
``drain_timeout_s`` can be, whatever the configuration says.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cli.program import ISOLATED
from common.config import System
from common.process import RUN_DIR_VARIABLE
from common.state_dir import LOG_DIR
from services.balancer.core.workers import MASTER_SOCKET

ENDLESS = 1_000_000_000
HAPROXY_STOP_S = 8 * 86400  # see Note [Who bounds HAProxy's end]
_PROGRAM = "[program:"
FIRST, LATER = 10, 20  # the recorder starts before those whose first messages it must not miss


def supervisor_config(
    system: System,
    services: Sequence[str],
    config_path: Path,
    python: Path,
    root: Path,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the text of ``supervisord.conf``.

    Args:
        system: directories of this installation.
        services: those to run, as ``Config.services``.
        config_path: absolute path of ``autoscaler.toml``.
        python: the interpreter that runs the services.
        root: the directory that holds ``services`` and ``common``; the services start in it, so they import from it.
        variables: those that set keys of the configuration. Services inherit them through supervisord, so with others
            the text is another one, and ``up`` starts supervisord anew.
    """
    run, log = system.run_path, system.state_path / LOG_DIR
    parts = [
        "[supervisord]",
        f"pidfile={run / 'supervisord.pid'}",
        f"logfile={log / 'supervisord.log'}",
        f"childlogdir={log}",
        f"directory={_plain(root)}",
        f'environment=PYTHONDONTWRITEBYTECODE="1",{RUN_DIR_VARIABLE}="{_plain(run)}"',
        f"; {_mark(variables)}",
        "",
        "[unix_http_server]",
        f"file={control_socket(system)}",
        "chmod=0700",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "",
        *_program(
            "haproxy", haproxy_command(system, root, python), log, stop_wait_s=HAPROXY_STOP_S, stop_signal="USR1"
        ),
    ]
    for name in services:
        command = [str(python), ISOLATED, "-m", f"services.{name}", "--config", str(config_path)]
        parts += _program(name, command, log, stop_wait_s=5, priority=FIRST if name == "recorder" else LATER)
    return "\n".join(parts) + "\n"


def _mark(variables: Mapping[str, str]) -> str:
    """Return what tells one environment from another; supervisord's own syntax cannot hold every value."""
    told = "\0".join(f"{name}={value}" for name, value in sorted(variables.items()))
    return f"variables {', '.join(sorted(variables)) or 'none'}: {hashlib.sha256(told.encode()).hexdigest()[:12]}"


def keeps_haproxy(before: str, after: str) -> bool:
    """Return whether a supervisord that runs with the one text can take over the other, and leave HAProxy running.

    It can have other services, not another environment or another HAProxy.
    """
    return bool(before) and _unlike_services(before) == _unlike_services(after)


def _unlike_services(text: str) -> tuple[str, ...]:
    head, *programs = text.split(_PROGRAM)
    return head, *(program for program in programs if program.startswith("haproxy]"))


def control_socket(system: System) -> Path:
    """Return the socket at which supervisord takes orders."""
    return system.run_path / "supervisord.sock"


def haproxy_pid_file(system: System) -> Path:
    """Return the file with the number of HAProxy's master, as its keeper writes it."""
    return system.run_path / "haproxy.pid"


def haproxy_command(system: System, root: Path, python: Path, *, is_to_end: bool = False) -> list[str]:
    """Return the command that keeps HAProxy's master running, or has one that runs end.

    See Note [HAProxy outlives its supervisord].
    """
    run = system.run_path
    at_stop = shlex.join([str(python), ISOLATED, "-m", "services.balancer.ending", str(run)])
    keep = [str(root / "scripts" / "keep-haproxy.sh"), "--pid-file", str(haproxy_pid_file(system))]
    how = ["--end"] if is_to_end else []
    bound = [] if is_to_end else ["setpriv", "--pdeathsig", "KILL"]
    haproxy = ["haproxy", "-W", "-S", str(run / MASTER_SOCKET), "-f", str(run / "haproxy.cfg")]
    return [*bound, *keep, *how, "--at-stop", at_stop, *haproxy]


def _program(
    name: str, command: list[str], log: Path, stop_wait_s: int, priority: int = LATER, stop_signal: str = "TERM"
) -> list[str]:
    return [
        f"{_PROGRAM}{name}]",
        f"command={_plain(shlex.join(command))}",
        f"priority={priority}",
        "autorestart=true",
        "startsecs=0",
        f"startretries={ENDLESS}",
        f"stopwaitsecs={stop_wait_s}",
        f"stopsignal={stop_signal}",
        "redirect_stderr=true",
        f"stdout_logfile={log / f'{name}.log'}",
        "stdout_logfile_maxbytes=10MB",
        "stdout_logfile_backups=2",
        "",
    ]


def _plain(value: str | Path) -> str:
    """Return the value such that supervisord expands nothing in it."""
    return str(value).replace("%", "%%")
