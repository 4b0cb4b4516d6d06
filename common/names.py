"""The one rule for names that reach libvirt, HAProxy, file names and topics.

Hostile names (``a;b``, ``</name>``) never get past it: the Runtime API of HAProxy splits commands at
``;``, XML and topics have meta characters of their own.
"""

import re

GROUP_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")
DOMAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,50}")
NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DIGITS = 4


def domain_name(prefix: str, index: int) -> str:
    """Return the name of the group's domain ``index`` (0 to 9999).

    >>> domain_name("web-", 3)
    'web-0003'
    """
    if not 0 <= index < 10**DIGITS:
        raise ValueError(f"index must be in 0..{10**DIGITS - 1}; got {index}")
    return f"{prefix}{index:0{DIGITS}d}"


def template_name(prefix: str) -> str:
    """Return the name of the domain that is booted to be saved; no index is written like it.

    >>> template_name("web-")
    'web-template'
    """
    return f"{prefix}template"


def domain_index(prefix: str, name: str) -> int | None:
    """Return the number in ``name`` if it belongs to ``prefix``, else None.

    >>> domain_index("web-", "web-0003"), domain_index("web-", "web-3"), domain_index("web-", "website")
    (3, None, None)
    """
    rest = name.removeprefix(prefix)
    if rest == name or len(rest) != DIGITS or not (rest.isascii() and rest.isdigit()):
        return None
    return int(rest)
