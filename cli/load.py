"""Starting the load generator, or changing the one that runs."""

import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cli.program import module
from cli.stack import check_address_is_free
from common.config import Config
from common.endpoint import join_endpoint, within_reach
from common.errors import AutoscalerError
from common.files import ensure_dir, open_lock
from load import levels

CONNECT_S = 1.0


def run_load(
    config: Config,
    group: str,
    level: str,
    period_s: float | None,
    n: int | None,
    seconds: float,
    web: int | None,
    *,
    as_json: bool,
    what_to_do: Callable[[], str],
) -> int:
    """Drive the group's endpoint until the time is over; where a load runs already, give that one the level.

    ``what_to_do`` is asked where nobody listens at the endpoint; one that does not answer for some seconds is given up.

    Raises:
        AutoscalerError: the load generator is not installed, or another program holds the port of its web page.
        ConfigError: no such level.
    """
    wanted = levels.choose(level, period_s, n)
    if importlib.util.find_spec("locust") is None:
        raise AutoscalerError("the load generator is not installed; run: make load")
    if web is not None:
        check_address_is_free("--web", f"127.0.0.1:{web}")
    directory = config.system.run_path
    control = directory / f"load-{group}.json"
    try:
        ensure_dir(directory, 0o700)
        levels.write(control, wanted)
        lock_fd = open_lock(directory / f"load-{group}.lock")
    except OSError as error:
        mend = "" if os.geteuid() == 0 else "; run it with sudo"
        raise AutoscalerError(f"{error.filename} cannot be written ({error.strerror}){mend}") from error
    with os.fdopen(lock_fd, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"a load runs already; it is now {wanted.name}: a request every {wanted.period_s:g} s, n={wanted.n}")
            return 0
        host, port = within_reach(config.groups[group].endpoint)
        endpoint = join_endpoint(host, port)
        if why := _why_unreached(host, port):
            print(f"autoscaler: the endpoint {endpoint} cannot be reached ({why}): {what_to_do()}", file=sys.stderr)
        return _run(endpoint, control, seconds, web, as_json=as_json)


def _run(endpoint: str, control: Path, seconds: float, web: int | None, *, as_json: bool) -> int:
    command = [*module("load.open_loop"), "--url", f"http://{endpoint}", "--control", str(control)]
    command += ["--seconds", str(seconds)]
    command += ["--web", str(web)] if web else []
    command += ["--json"] if as_json else []
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child got the same signal, and prints its summary


def _why_unreached(host: str, port: int) -> str:
    """Return why nobody takes a connection there, empty if somebody does."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
