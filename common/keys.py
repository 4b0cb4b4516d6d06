"""Making the keys of the bus: what ``autoscaler keys`` does. What they are: ``common.messaging.curve``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import files, names
from common.bus import new_key_pair
from common.errors import ConfigError
from common.messaging.curve import AUTHORIZED, CLIENT, OPERATOR, ORDERS, SERVICES_DIR, SHARED, has_roles
from common.services import ALL_SERVICES

RESERVED = (SHARED, OPERATOR, *ALL_SERVICES)


@dataclass(frozen=True, slots=True)
class MadeKeys:
    """What was written, in order; ``note`` says in a sentence what that means for who has keys already."""

    directory: Path
    files: tuple[Path, ...]
    note: str = ""


def make_keys(directory: Path) -> MadeKeys:
    """Write a new directory of keys, or give one of before roles; see Note [Directories of before].

    A new one has a pair for each service, the operator's, who orders, and a client's, who listens. The directory is
    0700 and secret files are 0600 from their first instant.

    Raises:
        ConfigError: the directory holds something else already, or cannot be written.
    """
    with _told(directory):
        files.ensure_dir(directory, 0o700)
        if (directory / f"{SHARED}.key").exists() and not has_roles(directory):
            return _with_roles(directory)
        if any(directory.iterdir()):
            raise ConfigError(
                f"{directory} is not empty; keys are never overwritten: name a new directory, or add one key with "
                "--client NAME or --order NAME"
            )
        files.set_mode(directory, 0o700)
        return MadeKeys(directory, _services(directory) + _operator(directory) + _client(directory, CLIENT))


def add_client(directory: Path, name: str, *, may_order: bool = False) -> MadeKeys:
    """Write one more client's pair and authorize it; running services let it in at its next attempt.

    Its holder copies ``NAME.key_secret`` as ``client.key_secret``, and the services' public keys.

    Raises:
        ConfigError: the name is taken or no name, the directory holds no keys or no roles, or cannot be written.
    """
    if not names.GROUP_NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(f"a client's name must match {names.GROUP_NAME.pattern}, and be none of ours; got {name!r}")
    if not any((directory / place).exists() for place in (SERVICES_DIR, f"{SHARED}.key")):
        raise ConfigError(f"{directory} holds no keys; make them first: autoscaler keys {directory}")
    if may_order and not has_roles(directory):
        raise ConfigError(
            f"in {directory} every authorized key may order still; give it roles first: autoscaler keys {directory}"
        )
    with _told(directory):
        return MadeKeys(directory, _client(directory, name, may_order=may_order))


def split(directory: Path) -> MadeKeys:
    """Give each service a pair of its own, and remove the one that all shared.

    Services show it from their next start on; a machine that listens then needs the public keys in ``services``.

    Raises:
        ConfigError: the services share no pair, the directory has no roles, or cannot be written.
    """
    if not has_roles(directory) or not (directory / f"{SHARED}.key").exists():
        raise ConfigError(f"{directory}: no pair that services share, with roles; see 'autoscaler keys --help'")
    with _told(directory):
        made = _services(directory)
        for path in (directory / AUTHORIZED / f"{SHARED}.key", directory / f"{SHARED}.key_secret"):
            path.unlink(missing_ok=True)
        (directory / f"{SHARED}.key").unlink()  # last: from here on each service shows its own
    note = (
        f"restart the services; then every machine that listens needs {directory / SERVICES_DIR}/*.key, "
        f"as services/ in its keys_dir, instead of {SHARED}.key"
    )
    return MadeKeys(directory, made, note)


def _with_roles(directory: Path) -> MadeKeys:
    made = _operator(directory)
    note = (
        "keys that were authorized before listen from now on; the operator's, on this machine, orders. "
        f"One more that orders: autoscaler keys {directory} --order NAME. "
        f"A pair for each service: autoscaler keys {directory} --split"
    )
    return MadeKeys(directory, made, note)


def _services(directory: Path) -> tuple[Path, ...]:
    files.ensure_dir(directory / SERVICES_DIR, 0o700)
    made: tuple[Path, ...] = ()
    for name in ALL_SERVICES:
        made += _pair(directory / SERVICES_DIR, name, directory / AUTHORIZED)
    return made


def _operator(directory: Path) -> tuple[Path, ...]:
    return _pair(directory, OPERATOR, directory / ORDERS)


def _client(directory: Path, name: str, *, may_order: bool = False) -> tuple[Path, ...]:
    return _pair(directory, name, directory / (ORDERS if may_order else AUTHORIZED))


def _pair(directory: Path, name: str, authorized: Path) -> tuple[Path, ...]:
    public, secret = new_key_pair()
    paths = (directory / f"{name}.key_secret", directory / f"{name}.key", authorized / f"{name}.key")
    files.ensure_dir(authorized, 0o700)
    for path, key, mode in zip(paths, (secret, public, public), (0o600, 0o644, 0o644), strict=True):
        files.make_file(path, key + b"\n", mode=mode)
    return paths


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} exists already; keys are never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise ConfigError(f"{directory}: keys cannot be written: {error.strerror}") from error
