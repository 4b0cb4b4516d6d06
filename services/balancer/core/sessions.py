"""Which TCP connections have lasted for too long: HAProxy bounds how long one is idle, never how long it lives.

# Note [The oldest first, a few at a time]
Clients that came together would be ended together, and come back together. So each time only a tenth of those that are
too old are ended, the oldest first: each of these clients connects anew, and to whoever has least.

# Note [A session's name]
HAProxy names a session by where it is in memory. Between the look and the order, milliseconds, one that ends by itself
may leave its name to a new one, which is then ended in its place: it connects again. Sessions of an old worker, after a
reload of HAProxy, are not seen; ``hard-stop-after`` ends them.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

SHOW_SESSIONS: Final = "show sess"
SHARE: Final = 0.1
_UNITS_S: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_LINE: Final = re.compile(r"(0x[0-9a-f]+): .*? be=(\S+) .*? age=((?:[0-9]+[dhms])+) ")


@dataclass(frozen=True, slots=True)
class Session:
    """One connection of a client: HAProxy's name of it, the group, and how old it is."""

    id: str
    group: str
    age_s: float


def parse_sessions(text: str) -> tuple[Session, ...]:
    """Return the sessions of an answer to ``SHOW_SESSIONS``; lines of another form are nobody's.

    >>> parse_sessions("0x5a0: proto=tcpv4 src=::1:5 fe=db be=db srv=vm1 ts=00 epoch=0 age=1h2m calls=3")
    (Session(id='0x5a0', group='db', age_s=3720.0),)
    """
    found = (_LINE.match(line) for line in text.splitlines())
    return tuple(Session(match[1], match[2], _seconds(match[3])) for match in found if match)


def overdue(sessions: tuple[Session, ...], group: str, limit_s: float) -> tuple[Session, ...]:
    """Return who is to be ended now; see Note [The oldest first, a few at a time]."""
    old = sorted((s for s in sessions if s.group == group and s.age_s > limit_s), key=lambda s: (-s.age_s, s.id))
    return tuple(old[: math.ceil(SHARE * len(old))])


def ending(session: Session) -> str:
    """Return the order that ends a session."""
    return f"shutdown session {session.id}"


def _seconds(age: str) -> float:
    return float(sum(int(number) * _UNITS_S[unit] for number, unit in re.findall(r"([0-9]+)([dhms])", age)))
