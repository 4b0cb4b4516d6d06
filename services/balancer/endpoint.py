"""Whether clients reach anything at a group's endpoint: the one thing that tells a silent HAProxy from a dead one."""

import socket
from typing import Final

from common.endpoint import within_reach

DEADLINE_S: Final = 0.1


def accepts(endpoint: str, deadline_s: float = DEADLINE_S) -> bool:
    """Return whether something takes connections there, or may do.

    It is on this machine, so a refusal comes at once. One that lets the connection wait is busy, or has stopped for a
    moment: what it had in flight is not lost.
    """
    try:
        socket.create_connection(within_reach(endpoint), timeout=deadline_s).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
