"""The configuration in force, kept in the run directory: what runs can be looked at and stopped whatever the file says.

The actuator writes it whenever it takes a configuration over: the file as it was then, and the variables that set keys.
``common.config_file`` reads it like any configuration file, with those variables in place of the environment's.

# Note [Who may tell what is in force]
Root acts by it, so it is believed only if root wrote it, or whoever asks, or the account of the installed units'
actuator (which commands libvirt anyway); and if nobody else may write to it. The services of a shared run directory
that are none of these could put a file of their own there, and are not believed.
"""

import json
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common import files
from common.errors import ConfigError

NAME: Final = "in-force.json"
KEEPER: Final = "actuator"
"""The service that keeps it: the one that acts on domains."""

ORIGIN_VARIABLE: Final = "LIBVIRT_AUTOSCALER_ORIGIN"
"""In a container: where the file is on the host."""

ACTUATOR_ACCOUNT: Final = "libvirt-autoscaler-actuator"  # packaging/systemd/sysusers.conf
MODE: Final = 0o640
MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class InForce:
    """A configuration as it was taken over: ``path`` is that of its file, ``variables`` set keys of it."""

    path: Path
    raw: bytes
    variables: Mapping[str, str]


def place(run_path: Path) -> Path:
    """Return where the configuration in force is kept."""
    return run_path / NAME


def is_place(path: Path) -> bool:
    """Return whether a path is one where a configuration in force is kept."""
    return path.name == NAME


def keep(run_path: Path, found: InForce) -> None:
    """Have it stand in the run directory, whole, readable by its owner and group.

    Raises:
        OSError: it cannot be written; what stood there still does.
    """
    values = {"path": str(found.path), "text": found.raw.decode("utf-8"), "variables": dict(found.variables)}
    files.replace_file(place(run_path), json.dumps(values).encode(), mode=MODE, is_durable=True)


def read(path: Path) -> InForce:
    """Return what is kept at ``path``.

    Raises:
        ConfigError: nothing is, it is damaged, or it is not to be believed: see Note [Who may tell what is in force].
    """
    try:
        values = json.loads(_content(path))
        found = InForce(Path(values["path"]), values["text"].encode(), _texts(values["variables"]))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: it does not tell a configuration") from error
    return found


def believed() -> set[int]:
    """Return the users that may tell what is in force; see Note [Who may tell what is in force]."""
    try:
        return {0, os.geteuid(), pwd.getpwnam(ACTUATOR_ACCOUNT).pw_uid}
    except KeyError:
        return {0, os.geteuid()}


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: is not a file")
        if found.st_uid not in believed() or found.st_mode & 0o022:
            raise ConfigError(
                f"{path}: belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}; "
                "it must be root's or yours, and nobody else's to write"
            )
        return file.read(MAX_BYTES)


def _texts(values: Any) -> dict[str, str]:
    if not all(isinstance(part, str) for pair in values.items() for part in pair):
        raise TypeError("a variable is no text")
    return dict(values)
