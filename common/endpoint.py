"""``ADDRESS:PORT``: where a group serves, the bus listens, Prometheus reads. One rule for all of them.

The text goes into HAProxy's configuration as it stands, so it may hold an address's own characters and nothing else:
Python's ``ipaddress`` takes whatever follows the ``%`` of an IPv6 zone, and its ``isdigit`` the digits of every script.
"""

import ipaddress
import re
from typing import Final

WANTED: Final = "ADDRESS:PORT, such as 127.0.0.1:8000, *:8000 or [::1]:8000"
_FORM: Final = re.compile(r"(\*|[0-9.]+|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_LOOPBACK: Final = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return address and port of ``ADDRESS:PORT``; an IPv6 address stands in brackets, and comes short and without.

    >>> split_endpoint("127.0.0.1:8000"), split_endpoint("*:80"), split_endpoint("[::1]:80")
    (('127.0.0.1', 8000), ('*', 80), ('::1', 80))

    Raises:
        ValueError: it is no IP address or ``*``, or the port is not in 1..65535.
    """
    found = _FORM.fullmatch(endpoint)
    if found is None:
        raise ValueError(f"must be {WANTED}")
    host, port = found[1].strip("[]"), int(found[2])
    if host != "*" and not is_address(host):
        raise ValueError(f"must be {WANTED}: {host!r} is no IP address")
    if not 1 <= port <= 65535:
        raise ValueError("the port must be in 1..65535")
    return host if host == "*" else str(ipaddress.ip_address(host)), port


def join_endpoint(host: str, port: int) -> str:
    """Return ``ADDRESS:PORT``, an IPv6 address in brackets.

    >>> join_endpoint("::1", 80)
    '[::1]:80'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def within_reach(endpoint: str) -> tuple[str, int]:
    """Return address and port at which a client on this machine reaches ``endpoint``.

    >>> within_reach("*:80"), within_reach("10.0.0.5:80")
    (('127.0.0.1', 80), ('10.0.0.5', 80))
    """
    host, port = split_endpoint(endpoint)
    return _LOOPBACK.get(host, host), port


def is_clash(one: str, other: str) -> bool:
    """Return whether two sockets cannot be bound at both; ``[::]`` takes IPv4 too, as Linux does by default.

    >>> is_clash("*:80", "127.0.0.1:80"), is_clash("*:80", "[::1]:80"), is_clash("*:80", "*:81")
    (True, False, False)
    """
    (host, port), (rival, rival_port) = split_endpoint(one), split_endpoint(other)
    if port != rival_port:
        return False
    ours, theirs = _network(host), _network(rival)
    if "::" in (str(ours.network_address), str(theirs.network_address)):
        return True
    return ours.version == theirs.version and ours.overlaps(theirs)


def is_address(text: str) -> bool:
    """Return whether the text is an IPv4 or IPv6 address, without a zone.

    >>> is_address("10.0.0.5"), is_address("10.0.0.5;shutdown"), is_address("fe80::1%eth0"), is_address("web0.lan")
    (True, False, False, False)
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the addresses that a socket bound to ``host`` takes."""
    address = ipaddress.ip_address("0.0.0.0" if host == "*" else host)  # noqa: S104 - compared with, not bound
    return ipaddress.ip_network(f"{address}/0" if address.is_unspecified else str(address))
