"""Files that are whole or absent: HAProxy's configuration and the state it starts from."""

import os
import pwd
import resource
from pathlib import Path

from common.config import Config, System
from common.errors import AutoscalerError, ConfigError
from common.files import PRIVATE, replace_file
from common.run_dir import ensure_run_dir
from common.state_dir import ensure_state_dir
from services.balancer.core import ending
from services.balancer.core.haproxy_config import drain_s, haproxy_config, master_socket, state_file

ACCOUNT = "haproxy"
MAX_SOCKET_PATH_BYTES = 93  # HAProxy binds the path with a suffix of its own first
EMPTY_STATE = "1\n"


def write_atomically(path: Path, text: str) -> None:
    """Replace the file, readable by its owner alone; after a power cut it may be empty."""
    replace_file(path, text.encode(), mode=PRIVATE, is_durable=False)


def write_config(config: Config) -> Path:
    """Write ``haproxy.cfg``, and how long HAProxy may take to end, into the run directory; return the former's path.

    Raises:
        ConfigError: a path cannot be given to HAProxy.
        AutoscalerError: a directory or a file cannot be written.
    """
    system = config.system
    _check_socket_fits(system)
    ensure_run_dir(system.run_path)
    path = system.run_path / "haproxy.cfg"
    written = state_file(system)
    try:
        ensure_state_dir(system.state_path)
        if not written.exists():
            write_atomically(written, EMPTY_STATE)
        written = path
        text = haproxy_config(config, _fd_limit(), _account())
        if not (path.is_file() and path.read_bytes() == text.encode()):  # HAProxy's keeper goes by its time
            write_atomically(path, text)
        ending.write_bound(system.run_path, drain_s(config))
        ending.forget(system.run_path)
    except OSError as error:
        raise AutoscalerError(f"{error.filename or written} cannot be written: {error.strerror}") from error
    return path


def forget_slots(system: System) -> None:
    """Forget who had which slot, once the services have ended for good.

    Nobody is a member any more then. A HAProxy that began with the old slots would send requests to who has not been
    taken in yet, and they would be cut when the balancer finds somebody there whom nobody has told it of.

    Raises:
        AutoscalerError: the file cannot be removed.
    """
    path = state_file(system)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise AutoscalerError(f"{path} cannot be removed: {error.strerror}") from error


def _check_socket_fits(system: System) -> None:
    longest = str(master_socket(system))
    if len(longest.encode()) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"system.run_dir is too long for HAProxy: {longest} has {len(longest.encode())} bytes; "
            f"at most {MAX_SOCKET_PATH_BYTES} are allowed"
        )


def _fd_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finite = [limit for limit in (hard, soft) if limit != resource.RLIM_INFINITY]
    return finite[0] if finite else 1_048_576


def _account() -> str | None:
    """Return the account that Debian's package made for HAProxy, if we may change to it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ACCOUNT).pw_name
    except KeyError:
        return None
