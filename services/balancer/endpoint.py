"""Whether clients reach anything at a group's endpoint: the one thing that tells a silent HAProxy from a dead one."""

import socket
from typing import Final

from common.config import split_endpoint

DEADLINE_S: Final = 0.1
_ANY: Final = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def accepts(endpoint: str, deadline_s: float = DEADLINE_S) -> bool:
    """Return whether something takes connections there; it is on this machine, so the answer comes at once."""
    host, port = split_endpoint(endpoint)
    bare = host.strip("[]")
    try:
        socket.create_connection((_ANY.get(bare, bare), port), timeout=deadline_s).close()
    except OSError:
        return False
    return True
