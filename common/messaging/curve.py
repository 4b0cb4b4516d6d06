"""The key files of the bus: who a process is, whose services it trusts, and whom the services let in.

A keys directory, mode 0700, holds ``service.key`` and ``service.key_secret`` (all services of an installation are one
party), ``client.key`` and ``client.key_secret`` (commands and graphs on other machines), and ``authorized/``: the
public keys that may connect, read again at every handshake. A file holds one key in Z85 and nothing else. A machine
that only looks on needs ``client.key_secret`` and ``service.key``.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from common.config import Bus
from common.errors import ConfigError

Z85_KEY = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class Keys:
    """Our own secret key and the public key of the services, in Z85."""

    secret: bytes
    service_public: bytes


def keys_of(bus: Bus, *, is_service: bool) -> Keys | None:
    """Return the keys of this process, None where the bus has none.

    Raises:
        ConfigError: as ``load_keys``.
    """
    if bus.transport != "tcp" or not bus.keys_dir:
        return None
    return load_keys(Path(bus.keys_dir), is_service=is_service)


def load_keys(keys_dir: Path, *, is_service: bool) -> Keys:
    """Return the keys of this process.

    Args:
        keys_dir: made by ``autoscaler keys``.
        is_service: services are ``service``; everyone else is ``client``, or ``service`` where there is no such key.

    Raises:
        ConfigError: a file is missing, damaged, or a secret that others can read.
    """
    own = keys_dir / "client.key_secret"
    if is_service or not own.exists():
        own = keys_dir / "service.key_secret"
    return Keys(_read_secret(own), read_key(keys_dir / "service.key"))


def read_key(path: Path) -> bytes:
    """Return the key in a file.

    Raises:
        ConfigError: the file cannot be read, or holds no key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"bus.keys_dir: {path} cannot be read: {error.strerror}; make keys: autoscaler keys"
        ) from error
    if not Z85_KEY.fullmatch(key):
        raise ConfigError(f"bus.keys_dir: {path} must hold one key of 40 Z85 characters; it has {len(key)} bytes")
    return key


def authorized_keys(keys_dir: Path) -> frozenset[bytes]:
    """Return the public keys that may connect; a file without a key is skipped, no directory lets nobody in."""
    found = set()
    for path in (keys_dir / "authorized").glob("*.key"):
        try:
            found.add(read_key(path))
        except ConfigError:
            continue
    return frozenset(found)


def _read_secret(path: Path) -> bytes:
    key = read_key(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"bus.keys_dir: {path} must be readable by its owner alone (0600); it is {mode:04o}")
    return key
