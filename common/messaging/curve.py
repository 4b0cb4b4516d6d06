"""The key files of the bus: who a process is, whose services it trusts, whom the services let in, and what each may do.

A keys directory, mode 0700, holds in ``services/`` a pair for each service, and ``operator.key_secret`` and
``client.key_secret`` for commands and graphs. Public keys in ``authorized/`` may listen; those in ``orders/`` may order
as well. Both are read again at every handshake and at every order. A file holds one key in Z85 and nothing else; its
name is that of the key's holder. A machine that only looks on needs ``client.key_secret`` and ``services/*.key``.

# Note [Directories of before]
Once all services shared one pair, ``service.key`` and ``service.key_secret``, and whatever was authorized could order.
Such a directory serves as it did. ``autoscaler keys DIR`` gives it ``orders/``: what it had authorized then listens,
and no other machine need be touched. While ``service.key`` is there the shared pair is shown and asked for, by services
and others alike; ``--split`` gives each service its own, and every other machine then needs ``services/*.key``.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config import Bus
from common.errors import ConfigError

Z85_KEY = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
AUTHORIZED: Final = "authorized"
ORDERS: Final = "orders"
SERVICES_DIR: Final = "services"
SHARED: Final = "service"
OPERATOR: Final = "operator"
CLIENT: Final = "client"


@dataclass(frozen=True, slots=True)
class Keys:
    """Our own secret key and the public key of the service at the other end, in Z85."""

    secret: bytes
    service_public: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a key is, by the name of its file, and whether it may order."""

    name: str
    may_order: bool


def keys_of(bus: Bus, me: str | None, to: str) -> Keys | None:
    """Return the keys with which we reach the service ``to``, None where the bus has none.

    Raises:
        ConfigError: as ``load_keys``.
    """
    if bus.transport != "tcp" or not bus.keys_dir:
        return None
    return load_keys(Path(bus.keys_dir), me, to)


def load_keys(keys_dir: Path, me: str | None, to: str) -> Keys:
    """Return the keys with which we reach a service.

    Args:
        keys_dir: made by ``autoscaler keys``.
        me: which service we are, None for a command or a graph.
        to: which service we reach.

    Raises:
        ConfigError: a file is missing, damaged, or a secret that others can read.
    """
    secret = own_secret(keys_dir, me)
    is_shared = (keys_dir / f"{SHARED}.key").exists()
    public = keys_dir / f"{SHARED}.key" if is_shared else keys_dir / SERVICES_DIR / f"{to}.key"
    return Keys(secret, read_key(public))


def own_secret(keys_dir: Path, me: str | None) -> bytes:
    """Return the secret of a service, or of a command: the operator's, where it is there, before the client's.

    Raises:
        ConfigError: it is missing, damaged, or others can read it.
    """
    try:
        return _read_secret(secret_path(keys_dir, me))
    except PermissionError as error:
        raise ConfigError(f"bus.keys_dir: this user may not look into {keys_dir}: {error.strerror}") from error


def secret_path(keys_dir: Path, me: str | None) -> Path:
    """Return where the secret of a service, or of a command, is or would be.

    Raises:
        PermissionError: this user may not look.
    """
    shared = keys_dir / f"{SHARED}.key_secret"
    if me is not None:
        return shared if shared.exists() else keys_dir / SERVICES_DIR / f"{me}.key_secret"
    own = (keys_dir / f"{name}.key_secret" for name in (OPERATOR, CLIENT))
    return next((path for path in own if path.exists()), shared)


def has_roles(keys_dir: Path) -> bool:
    """Return whether the directory tells who may order; see Note [Directories of before]."""
    return any((keys_dir / name).exists() for name in (ORDERS, SERVICES_DIR, f"{OPERATOR}.key"))


def read_key(path: Path) -> bytes:
    """Return the key in a file.

    Raises:
        ConfigError: the file cannot be read, or holds no key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        how = "run it as a user who may" if isinstance(error, PermissionError) else "make keys: autoscaler keys"
        raise ConfigError(f"bus.keys_dir: {path} cannot be read: {error.strerror}; {how}") from error
    if not Z85_KEY.fullmatch(key):
        raise ConfigError(f"bus.keys_dir: {path} must hold one key of 40 Z85 characters; it has {len(key)} bytes")
    return key


def holders(keys_dir: Path) -> Mapping[bytes, Holder]:
    """Return who may connect, by public key; a file without a key is skipped, no directory lets nobody in."""
    is_open = not has_roles(keys_dir)
    found = {key: Holder(name, may_order=is_open) for name, key in _keys_in(keys_dir / AUTHORIZED)}
    return found | {key: Holder(name, may_order=True) for name, key in _keys_in(keys_dir / ORDERS)}


def _keys_in(directory: Path) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(directory.glob("*.key")):
        try:
            found.append((path.stem, read_key(path)))
        except ConfigError:
            continue
    return found


def _read_secret(path: Path) -> bytes:
    key = read_key(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"bus.keys_dir: {path} must be readable by its owner alone (0600); it is {mode:04o}")
    return key
