"""The end of ``up``: every group that must have a domain answers at its endpoint."""

import socket
import urllib.error
import urllib.request
from threading import Event

from cli.console import Steps
from cli.observe import Snapshot, observe_once
from common.clock import Clock
from common.config import SERVICES, Config, Group
from common.endpoint import join_endpoint, within_reach
from common.errors import AutoscalerError
from common.messages import Membership
from common.phases import FATES

UP_TIMEOUT_S = 240.0
NOBODY_SERVES = 503
STUCK_S = 20.0  # no domain serves, none is coming, and the actuator says why


def wait_for_endpoints(config: Config, clock: Clock, steps: Steps) -> None:
    """Return when every group that must have a domain answers at its endpoint.

    Raises:
        AutoscalerError: a group does not answer in time; the message says what stands in its way.
    """
    waiting = {name: group for name, group in config.groups.items() if not why_not_awaited(group)}
    began_s = hopeful_s = clock.monotonic_s()
    left_off: dict[str, str] = {}
    while waiting := {name: group for name, group in waiting.items() if name not in left_off and not answers(group)}:
        snapshot = observe_once(config, clock, timeout_s=0.7)
        left_off |= {name: why for name in waiting if (why := ordered_mode(snapshot, name))}
        missing, now_s = _what_is_missing(waiting, snapshot), clock.monotonic_s()
        if not any(is_stuck(snapshot.memberships.get(name)) for name in waiting):
            hopeful_s = now_s
        patience_s = max([UP_TIMEOUT_S, *(group.boot_timeout_s for group in waiting.values())])
        if now_s - began_s > patience_s or now_s - hopeful_s > STUCK_S:
            raise AutoscalerError(f"no answer after {now_s - began_s:.0f} s: {missing}; the services go on trying")
        steps.wait_for(missing)
        Event().wait(0.3)
    items = config.groups.items()
    steps.say("; ".join(f"{name} {left_off.get(name) or why_not_awaited(group) or 'answers'}" for name, group in items))


def why_not_awaited(group: Group) -> str:
    """Return why nobody waits for the group's answer, empty where ``up`` does.

    >>> why_not_awaited(Group.model_validate({"prefix": "web-", "min": 0})), why_not_awaited(Group(prefix="web-"))
    ('may have no domain (min 0): not waited for', '')
    """
    if group.mode != "on":
        return f"has mode {group.mode}: not waited for"
    return "" if group.minimum > 0 else "may have no domain (min 0): not waited for"


def ordered_mode(snapshot: Snapshot, group: str) -> str:
    """Return the order of an operator by which no domain of the group is started, in words, else nothing."""
    decision = snapshot.decisions.get(group)
    if decision is None or decision.mode not in ("off", "observe"):
        return ""
    return f"has mode {decision.mode}, as ordered: not waited for"


def is_stuck(membership: Membership | None) -> bool:
    """Return whether no domain serves or comes, and the actuator knows what keeps it from starting one."""
    if membership is None or not membership.blocked:
        return False
    return not any(FATES[member.phase].is_capacity for member in membership.members)


def answers(group: Group) -> bool:
    """Return whether the group's endpoint gives a good answer now."""
    try:
        if group.protocol == "tcp":
            with socket.create_connection(within_reach(group.endpoint), timeout=2) as connection:
                connection.settimeout(0.5)
                return _stays_open(connection)
        url = f"http://{join_endpoint(*within_reach(group.endpoint))}{group.readiness.path}"
        if group.readiness.protocol != "http":
            return _is_served(url)
        with urllib.request.urlopen(url, timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _is_served(url: str) -> bool:
    """Return whether some domain answers, whatever it says: the group does not name a path for this."""
    try:
        with urllib.request.urlopen(url, timeout=3):  # noqa: S310 - http, at an endpoint of our own
            return True
    except urllib.error.HTTPError as error:
        return error.code != NOBODY_SERVES


def _stays_open(connection: socket.socket) -> bool:
    """Return whether the peer keeps the connection: HAProxy closes it at once when no member is up."""
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


def _what_is_missing(waiting: dict[str, Group], snapshot: Snapshot) -> str:
    texts = []
    for name in waiting:
        membership = snapshot.memberships.get(name)
        if membership is None:
            silent = [service for service in SERVICES if service not in snapshot.services]
            texts.append(f"{name}: waiting for {', '.join(silent) or 'the actuator'}")
        elif membership.blocked:
            texts.append(f"{name}: {membership.blocked}")
        else:
            domains = ", ".join(f"{member.name} {member.phase.value}" for member in membership.members)
            texts.append(f"{name}: {domains or 'no domain yet'}")
    return "; ".join(texts)
