"""Members that go down again and again: who went down twice within a minute needs longer to come back.

Where a member loses a part of its packets, three of its checks in a row fail now and then, and two that succeed follow
soon. Each time it is down, what it has in flight ends. So from the second time on it stays out of rotation until its
checks have succeeded without a break for ``CALM_S``; meanwhile it counts as one that fails them. That is for one sick
member among sound ones: where several go down again and again, or nobody else is sound, it is the load, or the network.

What we order ourselves is no up and down of theirs: who is avoided, kept up or given its slot anew after it went down
is down until a check of its own has succeeded (``is_proven``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from common.outage import is_outage
from services.balancer.core.answers import Admin, Server

WINDOW_S: Final = 60.0
TIMES: Final = 2
CALM_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Course:
    """How a member's checks went; times are monotonic seconds.

    ``downs_s``: when it went down, within ``WINDOW_S``. ``ill_s``: when its checks were last seen to fail.
    ``restless_since_s``: since when it is kept out, None where it is not.
    """

    is_down: bool
    ill_s: float
    downs_s: tuple[float, ...] = ()
    restless_since_s: float | None = None


def follow(before: Mapping[str, Course], servers: Mapping[str, Server], now_s: float) -> dict[str, Course]:
    """Return the courses after a look at the slots of the members that are to serve; keys are those of members."""
    after = {key: _followed(before.get(key), server, now_s) for key, server in servers.items()}
    restless = [key for key, course in after.items() if course.restless_since_s is not None]
    sound = [key for key, server in servers.items() if key not in restless and _is_sound(server)]
    if restless and (not sound or is_outage(len(restless), len(after))):
        return {key: Course(course.is_down, course.ill_s) for key, course in after.items()}
    return after


def restless_s(courses: Mapping[str, Course], keys: Iterable[str], now_s: float) -> dict[str, float]:
    """Return which of these members are kept out, and for how long they have been."""
    found = {key: courses[key].restless_since_s for key in keys if key in courses}
    return {key: now_s - since_s for key, since_s in found.items() if since_s is not None}


def _followed(last: Course | None, server: Server, now_s: float) -> Course:
    is_down = server.admin is not Admin.MAINT and server.has_checks and server.status.startswith("DOWN")
    is_down = is_down or (last is not None and last.is_down and not server.is_proven)
    if last is None:
        return Course(is_down, now_s)
    ill_s = last.ill_s if server.is_proven else now_s
    downs_s = tuple(at_s for at_s in last.downs_s if now_s - at_s < WINDOW_S)
    if is_down and not last.is_down:
        downs_s = (*downs_s, now_s)
    since_s = last.restless_since_s
    if since_s is None:
        since_s = now_s if len(downs_s) >= TIMES else None
    elif now_s - ill_s >= CALM_S:
        since_s, downs_s = None, ()
    return Course(is_down, ill_s, downs_s, since_s)


def _is_sound(server: Server) -> bool:
    return server.admin is Admin.READY and server.is_proven
