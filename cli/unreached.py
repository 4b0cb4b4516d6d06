"""Why nobody answers a command: nothing runs, or what runs cannot be reached with this configuration.

Who is told "not running" starts it, and a second installation beside the first one takes its domains for strangers. So
that is said only where it is known: no supervisord, no unit and no container of ours, nobody holds a service's lock,
nobody listens. ``look`` gathers, ``why`` decides.
"""

import contextlib
import os
import pwd
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli import haproxy_process
from cli.process_list import commands
from cli.shared_dirs import are_shared, belong_to_units
from cli.supervision import is_supervised
from common import in_force
from common.config import Config
from common.config_file import load
from common.endpoint import within_reach
from common.errors import ConfigError
from common.messaging.addresses import publish_address
from common.messaging.curve import secret_path
from common.run_dir import is_locked, running_pid
from common.services import ALL_SERVICES

ASKED: Final = "decider"
CONNECT_S: Final = 1.0
SYSTEMCTL_S: Final = 5.0
UNITS: Final = ("libvirt-autoscaler@*", "libvirt-autoscaler-haproxy.service")
STOPPED: Final = "not running: make up"
CLOSED: Final = "this user may not look into"


@dataclass(frozen=True, slots=True)
class Seen:
    """What this machine shows, where nobody has answered at ``address``, which ``file`` names.

    ``running``: what of this installation runs, in words; ``unseen``: why that cannot be told. ``origin`` is the file
    that it was started with, None where its run directory does not tell; ``is_changed``: that file says something else
    now. ``is_served``: our HAProxy runs. ``others``: files that other services of this machine run with. ``keys``: what
    is to be known of the key that is shown, empty on a bus without keys; ``is_tcp``: the bus could have some.
    """

    address: str
    file: str
    running: tuple[str, ...] = ()
    unseen: str = ""
    origin: str | None = None
    is_changed: bool = False
    is_served: bool = False
    others: tuple[str, ...] = ()
    keys: str = ""
    is_tcp: bool = False

    @property
    def is_known_stopped(self) -> bool:
        """Return whether it is known that nothing of this installation runs."""
        return not self.running and not self.unseen

    @property
    def is_closed(self) -> bool:
        """Return whether this user may not see what runs."""
        return not self.running and self.unseen.startswith(CLOSED)


def why(seen: Seen) -> str:
    """Return in one line why nobody answers: that nothing runs, or what may be the reason, the likeliest first."""
    if seen.is_known_stopped:
        hint = "; another configuration runs on this machine: " + _other(seen.others[0]) if seen.others else ""
        return STOPPED + ("; HAProxy serves on" if seen.is_served else "") + hint
    what = f"but this runs: {', '.join(seen.running)}" if seen.running else f"and {seen.unseen}"
    reasons = [*_other_configuration(seen), *_keys(seen), "the services are stopped, or hang: see their logs"]
    return f"nobody answered at {seen.address} (from {seen.file}), {what}. Maybe {'. Or '.join(reasons)}"


def _other_configuration(seen: Seen) -> Iterator[str]:
    if seen.origin is not None and seen.origin != seen.file:
        yield f"it was started with another configuration: {_other(seen.origin)}"
    elif seen.is_changed:
        yield f"{seen.file}, or a variable, says something else than when it was started"
    elif seen.origin is None:
        known = f": {_other(seen.others[0])}" if seen.others else "; its run directory does not tell which"
        yield f"it was started with another configuration{known}"


def _keys(seen: Seen) -> Iterator[str]:
    if seen.keys:
        yield seen.keys
    elif seen.is_tcp:
        yield "it asks for keys, and this configuration has none (bus.keys_dir)"


def _other(file: str) -> str:
    return f"{file} (autoscaler --config {file} …)"


def look(config: Config, path: Path) -> Seen:
    """Return what there is to see for a command that was run with the configuration at ``path``; never raises."""
    run, is_tcp = config.system.run_path, config.bus.transport == "tcp"
    file = _file(path)
    origin, is_changed = _in_force(run, path, file)
    mine, others = _processes(file)
    here = tuple(_running(config))
    running = here or first_of(mine)
    return Seen(
        address=publish_address(config, ASKED),
        file=file,
        running=running,
        unseen="" if running else _unseen(config),
        origin=file if origin is None and mine else origin,
        is_changed=is_changed or bool(mine and not here),
        is_served=haproxy_process.serves(config.system),
        others=others,
        keys=key_text(config) if is_tcp else "",
        is_tcp=is_tcp,
    )


def _file(path: Path) -> str:
    """Return the file, also where what is in force stands in for it."""
    if in_force.is_place(path):
        with contextlib.suppress(ConfigError):
            return str(in_force.read(path).path)
    return str(path)


def _in_force(run: Path, path: Path, file: str) -> tuple[str | None, bool]:
    """Return the file that what runs was started with, and whether ``path`` says something else now."""
    try:
        origin = str(in_force.read(in_force.place(run)).path)
        same = Path(origin).resolve() == Path(file).resolve()
        is_changed = same and load(in_force.place(run))[1] != load(path)[1]
    except (ConfigError, OSError):
        return None, False
    return file if same else origin, is_changed


def _running(config: Config) -> Iterator[str]:
    """Yield what runs of this installation, in words."""
    system = config.system
    try:
        if is_supervised(system):
            yield "our supervisord"
        held = [name for name in ALL_SERVICES if is_locked(system.run_path / f"{name}.lock")]
        pids = {name: running_pid(system.run_path, name) for name in held}
        named = [f"{name} (process {pid})" for name, pid in pids.items() if pid is not None]
        if named:
            yield from first_of(named)
        elif held:
            yield f"the {held[0]}"
        if held and are_shared(system):
            yield "a container"
        if belong_to_units(system.run_path) and (units := _active_units()):
            yield units[0]
    except OSError:
        return


def _active_units() -> list[str]:
    command = ["systemctl", "list-units", "--state=active", "--plain", "--no-legend", *UNITS]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SYSTEMCTL_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def _unseen(config: Config) -> str:
    """Return why it cannot be known here whether it runs, empty if it can."""
    address = publish_address(config, ASKED)
    if address.startswith("ipc:"):
        run = config.system.run_path
        try:
            is_closed = run.is_dir() and not os.access(run, os.R_OK | os.X_OK)
        except OSError:
            is_closed = True
        return f"{CLOSED} {run}" if is_closed else ""
    host, port = within_reach(address.removeprefix("tcp://"))
    if not _is_here(host):
        return "that is another machine"
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError:
        return ""
    return "somebody listens there"


def _is_here(host: str) -> bool:
    """Return whether an address is this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def alive(file: str) -> tuple[str, ...]:
    """Return the services of this machine that run with this file, in words."""
    return _processes(file)[0]


def _processes(file: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the services of this machine that run with this file, in words, and the files of all others."""
    mine, others = list[str](), dict[str, None]()
    for pid, words in commands():
        name, named = _service(words)
        if named and Path(named).resolve() == Path(file).resolve():
            mine.append(f"{name} (process {pid})")
        elif named:
            others[named] = None
    return tuple(mine), tuple(others)


def first_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first name, and how many more there are.

    >>> first_of(["monitor (process 7)", "decider (process 8)", "plotter (process 9)"]), first_of(["a"]), first_of([])
    (('monitor (process 7) and 2 more services',), ('a',), ())
    """
    more = len(names) - 1
    rest = f" and {more} more service{'s' if more > 1 else ''}" if more > 0 else ""
    return tuple(f"{name}{rest}" for name in names[:1])


def _service(words: Sequence[str]) -> tuple[str, str]:
    """Return which service a command line runs, and with which file; empty where it runs none for good.

    >>> _service(["python3", "-m", "services.decider", "--config", "/etc/a.toml", ""])
    ('decider', '/etc/a.toml')
    >>> _service(["python3", "-m", "services.plotter", "--config", "/etc/a.toml", "--window", ""])
    ('', '')
    """
    match [word for word in words if word]:
        case [*_, "-m", module, "--config", file] if module.removeprefix("services.") in ALL_SERVICES:
            return module.removeprefix("services."), file
    return "", ""


def key_text(config: Config) -> str:
    """Return what is to be known of the key that a command shows, where and whose it is; empty without keys."""
    if not config.bus.keys_dir:
        return ""
    keys_dir = Path(config.bus.keys_dir)
    try:
        path = secret_path(keys_dir, None)
        found = path.stat()
    except FileNotFoundError:
        return f"keys are missing in {keys_dir}: autoscaler keys --help"
    except OSError:
        return f"this user may not read the keys in {keys_dir}: run it as root"
    if not os.access(path, os.R_OK):
        return f"this user may not read the key {path}: {_owner(found)} alone may"
    let_in = f"the services do not let the key {path} in ({_owner(found)} may read it), or have other keys"
    return f"{let_in}: autoscaler keys --help"


def _owner(found: os.stat_result) -> str:
    try:
        name = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        name = str(found.st_uid)
    return f"user {name}, mode {stat.S_IMODE(found.st_mode):04o}"
