"""Who is at the other end of a request, and whether they may order: decided from what the door knows, not what is said.

On Unix sockets the kernel tells the user: a service takes orders from root and from its own user; whoever else may
enter the run directory listens. With keys the handshake has proved the key, and its file says what it may do. On
loopback without keys nothing is known, and everybody of this machine may order.
"""

import re
from dataclasses import dataclass
from typing import Final

from common.messaging.curve import Holder

MAX_CLAIM: Final = 64
_UNIX: Final = re.compile(r".*:(?P<uid>\d+):(?P<gid>\d+):(?P<pid>\d+)")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, and what they lack to order, empty if nothing; ``process`` where each has a share of its own."""

    who: str
    lacks: str = ""
    process: str = ""

    @property
    def share(self) -> str:
        """Return whose budget of requests counts; see ``budget``, Note [Whom it bounds]."""
        return f"{self.who}/{self.process}"

    def by(self, claim: str) -> str:
        """Return who asks for the record: the proven identity first, beside it what they call themselves.

        >>> Peer("root").by("alice"), Peer("root").by("root"), Peer("key desktop").by("")
        ('root (alice)', 'root', 'key desktop')
        """
        plain = "".join(letter for letter in claim if letter.isprintable()).strip()[:MAX_CLAIM]
        return f"{self.who} ({plain})" if plain and plain != self.who else self.who


def of_unix(address: str, owner_uid: int) -> Peer:
    """Return who is behind a Unix socket.

    Args:
        address: as the library tells it, with the kernel's word at its end: ``localhost:UID:GID:PID``.
        owner_uid: the user that the service runs as.

    >>> of_unix("localhost:0:0:17", 10001).lacks
    ''
    >>> of_unix("localhost:1000:1000:17", 0).who
    'user 1000'
    """
    found = _UNIX.fullmatch(address)
    if found is None:
        return Peer("an unknown user", "the system does not say which user asks, so nothing is ordered")
    uid = int(found["uid"])
    who = "root" if uid == 0 else f"user {uid}"
    if uid in (0, owner_uid):
        return Peer(who, process=found["pid"] if uid == 0 else "")
    own = "root" if owner_uid == 0 else f"root and user {owner_uid}"
    return Peer(who, f"{who} may listen, but not order: orders are taken from {own}")


def of_key(holder: Holder | None) -> Peer:
    """Return who is behind a key, None where the key has been removed since its handshake."""
    if holder is None:
        return Peer("a removed key", "its key is no longer authorized")
    who = f"key {holder.name}"
    lacks = f"{who} may listen, but not order; one that orders: autoscaler keys DIR --order NAME"
    return Peer(who, "" if holder.may_order else lacks)


def of_loopback(address: str) -> Peer:
    """Return who is at a TCP door without keys."""
    return Peer(f"{address or 'someone'} without a key")
