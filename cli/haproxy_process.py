"""Our HAProxy as processes of this machine: which they are, and how one ends that nobody keeps.

``make up`` has ``scripts/keep-haproxy.sh`` keep it, under supervisord. Its master serves on when these are killed, and
the next keeper takes it over (Note [HAProxy outlives its supervisord] in ``cli.supervisor_config``).
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli.process_list import command
from cli.supervisor_config import haproxy_command, haproxy_pid_file
from common.config import System

NAME: Final = "haproxy"


def is_our_haproxy(run: Path, name: str, command: Sequence[str]) -> bool:
    """Return whether a process is HAProxy with the configuration in this run directory.

    >>> is_our_haproxy(Path("/run/a"), "haproxy", ("haproxy", "-W", "-f", "/run/a/haproxy.cfg", ""))
    True
    >>> is_our_haproxy(Path("/run/a"), "haproxy", ("haproxy", "-W", "-f", "/run/a-2/haproxy.cfg", ""))
    False
    """
    return name == NAME and str(run / "haproxy.cfg") in command


def serves(system: System) -> bool:
    """Return whether the HAProxy that ``up`` has started runs, kept or not."""
    try:
        pid = int(haproxy_pid_file(system).read_text(encoding="ascii"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError):
        return False
    return is_our_haproxy(system.run_path, name, command(pid))


def begin_end(system: System, root: Path, python: Path) -> "subprocess.Popen[bytes]":
    """Have a HAProxy that nobody keeps end what is in flight, and then itself; return the process that sees to it."""
    keeper = haproxy_command(system, root, python, is_to_end=True)
    return subprocess.Popen(keeper, cwd=root, stdin=subprocess.DEVNULL, start_new_session=True)
