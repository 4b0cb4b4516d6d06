"""Who was refused at a door, put together from the library's reports: it names the peer at one, the reason at another.

The library tells of an accepted connection by its descriptor, of a failed handshake by its reason, and then of the
same descriptor that it hung up. One thread of the
library's tells it all, so the order holds.
"""

import os
import socket
from collections import Counter
from typing import Final

from common.log import Quiet, logger

REFUSAL_PERIOD_S: Final = 60.0


class Doorkeeper:
    """Counts refused handshakes at one door and logs each peer and reason once a minute."""

    def __init__(self, counters: Counter[str]) -> None:
        """Count into ``counters["refused"]``."""
        self._counters = counters
        self._peers: dict[int, str] = {}
        self._why = ""
        self._quiet = Quiet(REFUSAL_PERIOD_S)

    def accepted(self, fd: int, peer: str) -> None:
        """Note that ``peer`` connected; nothing is proved yet."""
        self._peers[fd] = peer

    def failed(self, why: str) -> None:
        """Note that a handshake failed; whose, the next ``hung_up`` tells."""
        self._why = why

    def hung_up(self, fd: int, now_s: float) -> None:
        """Note that a connection ended, and report it if that was a refusal."""
        peer, why = self._peers.pop(fd, "unknown"), self._why
        self._why = ""
        if why:
            self.refused(peer, why, now_s)

    def refused(self, peer: str, why: str, now_s: float) -> None:
        """Count and tell that ``peer`` was refused."""
        self._counters["refused"] += 1
        if self._quiet.may_say((peer, why), now_s):
            logger().warning("peer-refused", peer=peer, reason=why)


def peer_of(fd: int) -> str:
    """Return the address behind a connection's descriptor, ``unknown`` if it is gone already."""
    try:
        with socket.socket(fileno=os.dup(fd)) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return "unknown"
