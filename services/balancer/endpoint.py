"""Whether clients reach anything at a group's endpoint: the one thing that tells a silent HAProxy from a dead one."""

import socket
from typing import Final

from common.endpoint import within_reach

DEADLINE_S: Final = 0.1


def accepts(endpoint: str, deadline_s: float = DEADLINE_S) -> bool:
    """Return whether something takes connections there; it is on this machine, so the answer comes at once."""
    try:
        socket.create_connection(within_reach(endpoint), timeout=deadline_s).close()
    except OSError:
        return False
    return True
