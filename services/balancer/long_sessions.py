"""Ends TCP connections that have lasted for longer than their group's ``max_session_s``."""

from collections.abc import Mapping
from typing import Final

from common.config import Group
from common.log import logger
from services.balancer.core.sessions import SHOW_SESSIONS, ending, overdue, parse_sessions
from services.balancer.haproxy import RuntimeApi

PERIOD_S: Final = 2.0


class LongSessions:
    """What looks for them every ``PERIOD_S``, and only where a group has a limit."""

    def __init__(self) -> None:
        """Remember nothing but when it looked last."""
        self._looked_at_s = -PERIOD_S

    def end_overdue(self, api: RuntimeApi, groups: Mapping[str, Group], now_s: float) -> None:
        """Look if a look is due, and end some of those that are too old.

        Raises:
            ProxyLostError: HAProxy does not answer.
            ProxyError: what it answers cannot be read.
        """
        limits = {name: group.max_session_s for name, group in groups.items() if group.max_session_s}
        if not limits or now_s - self._looked_at_s < PERIOD_S:
            return
        self._looked_at_s = now_s
        sessions = parse_sessions(api.ask([SHOW_SESSIONS])[0])
        for name, limit_s in limits.items():
            old = overdue(sessions, name, limit_s)
            if old:
                api.order([ending(session) for session in old])  # refused: it has ended by itself
                logger().info("sessions-ended", group=name, count=len(old), oldest_s=old[0].age_s)
