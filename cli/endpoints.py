"""The end of ``up``: every group that is to have a domain now answers at its endpoint."""

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
from common.messages import DesiredCapacity, Membership
from common.phases import FATES

UP_TIMEOUT_S = 240.0
NOBODY_SERVES = 503
STUCK_S = 20.0  # no domain serves, none is coming, and the actuator says why


def wait_for_endpoints(config: Config, clock: Clock, steps: Steps) -> None:
    """Return when every group that is to have a domain now answers at its endpoint.

    Raises:
        AutoscalerError: a group does not answer in time; the message says what stands in its way.
    """
    waiting = dict(config.groups)
    began_s = hopeful_s = clock.monotonic_s()
    left_off: dict[str, str] = {}
    while waiting := {name: group for name, group in waiting.items() if name not in left_off and not answers(group)}:
        snapshot = observe_once(config, clock, timeout_s=0.7)
        left_off |= {n: why for n, group in waiting.items() if (why := why_not_awaited(group, snapshot.wanted.get(n)))}
        missing, now_s = _what_is_missing(waiting, snapshot), clock.monotonic_s()
        if not any(is_stuck(snapshot.memberships.get(name)) for name in waiting):
            hopeful_s = now_s
        patience_s = max([UP_TIMEOUT_S, *(group.boot_timeout_s for group in waiting.values())])
        if now_s - began_s > patience_s or now_s - hopeful_s > STUCK_S:
            raise AutoscalerError(f"no answer after {now_s - began_s:.0f} s: {missing}; the services go on trying")
        steps.wait_for(missing)
        Event().wait(0.3)
    steps.say("; ".join(f"{name} {left_off.get(name, 'answers')}" for name in config.groups))


def why_not_awaited(group: Group, wanted: DesiredCapacity | None) -> str:
    """Return why nobody waits for the group's answer, empty where ``up`` does, or does not know yet.

    What is in force counts, whatever the file says: bounds, mode and pause that an operator ordered outlive ``down``.
    """
    if wanted is None:
        return ""
    if wanted.mode in ("off", "observe"):
        ordered = "" if wanted.mode == group.mode else ", as ordered"
        return f"has mode {wanted.mode}{ordered}: not waited for"
    return "" if wanted.desired else "is to have no domain now (desired 0): not waited for"


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
