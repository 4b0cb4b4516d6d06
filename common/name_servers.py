"""Whom guests of our network ask for names: the configured servers, else those that this machine asks.

A resolver of the machine's own (127.0.0.53, 127.0.0.1) is none for a guest, whose loopback is another; systemd-resolved
tells in a file of its own whom it asks. Guests have IPv4 alone, so servers with IPv6 addresses are left out.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.config import Network

FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
MOST: Final = 3  # glibc's resolver reads no more
_MAX_BYTES: Final = 65536


def name_servers(network: Network, files: Sequence[Path] = FILES) -> tuple[str, ...]:
    """Return the addresses of the name servers for guests of ``network``: none where none can be reached from there.

    Args:
        network: what is configured.
        files: where the machine's own are told, the first that names one counts.
    """
    if network.name_servers is not None:
        return network.name_servers
    return next((found for found in map(_told, files) if found), ())


def name_servers_in(text: str) -> tuple[str, ...]:
    """Return the addresses in a ``resolv.conf`` that a guest can ask, each once, at most ``MOST``.

    >>> name_servers_in("nameserver 127.0.0.53\\nnameserver 192.0.2.1\\nnameserver fe80::1%eth0\\n")
    ('192.0.2.1',)
    """
    words = [line.split() for line in text.splitlines()]
    given = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(dict.fromkeys(filter(is_for_guests, given)))[:MOST]


def is_for_guests(text: str) -> bool:
    """Return whether ``text`` is an IPv4 address that a guest can ask: not its own loopback."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local)


def _told(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as opened:
            return name_servers_in(opened.read(_MAX_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ()  # no such file: this machine has no resolver of that kind
