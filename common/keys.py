"""Making the keys of the bus: what ``autoscaler keys`` does. What they are: ``common.messaging.curve``."""

from dataclasses import dataclass
from pathlib import Path

from common import files, names
from common.bus import new_key_pair
from common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MadeKeys:
    """What was written, in order."""

    directory: Path
    files: tuple[Path, ...]


def make_keys(directory: Path) -> MadeKeys:
    """Write a new directory of keys: the services' pair, one client's pair, and both authorized.

    The directory is 0700 and secret files are 0600 from their first instant.

    Raises:
        ConfigError: the directory holds something already, or cannot be written.
    """
    try:
        files.ensure_dir(directory, 0o700)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty; keys are never overwritten: name a new directory")
        files.set_mode(directory, 0o700)
        files.ensure_dir(directory / "authorized", 0o700)
        written = _write_pair(directory, "service") + _write_pair(directory, "client")
    except OSError as error:
        raise ConfigError(f"{directory}: keys cannot be written: {error.strerror}") from error
    return MadeKeys(directory, written)


def add_client(directory: Path, name: str) -> MadeKeys:
    """Write one more client's pair and authorize it; running services let it in at its next attempt.

    Its holder copies ``NAME.key_secret`` as ``client.key_secret``, and ``service.key``.

    Raises:
        ConfigError: the name is taken or no name, the directory holds no keys, or cannot be written.
    """
    if not names.GROUP_NAME.fullmatch(name):
        raise ConfigError(f"a client's name must match {names.GROUP_NAME.pattern}; got {name!r}")
    if not (directory / "service.key").exists():
        raise ConfigError(f"{directory} holds no keys; make them first: autoscaler keys {directory}")
    try:
        return MadeKeys(directory, _write_pair(directory, name))
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} exists already; keys are never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise ConfigError(f"{directory}: keys cannot be written: {error.strerror}") from error


def _write_pair(directory: Path, name: str) -> tuple[Path, ...]:
    public, secret = new_key_pair()
    paths = (directory / f"{name}.key_secret", directory / f"{name}.key", directory / "authorized" / f"{name}.key")
    for path, key, mode in zip(paths, (secret, public, public), (0o600, 0o644, 0o644), strict=True):
        files.make_file(path, key + b"\n", mode=mode)
    return paths
