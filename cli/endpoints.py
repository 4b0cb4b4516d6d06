"""The end of ``up``: every group that is to have a domain now answers at its endpoint."""

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from threading import Event

from cli.console import Steps
from cli.observe import Snapshot, observe_once
from cli.progress import Progress
from common.clock import Clock
from common.config import SERVICES, Config, Group
from common.config_readiness import question
from common.endpoint import join_endpoint, within_reach
from common.errors import AutoscalerError
from common.http_answer import ask_http
from common.messages import DesiredCapacity, Drain, Member, Membership
from common.phases import Phase
from common.rotation import serving, why_not_serving
from common.unready import of_member

UP_TIMEOUT_S = 240.0  # without anything coming nearer
NOBODY_SERVES = 503
MOST_TOLD = 3
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


def wait_for_endpoints(
    config: Config, clock: Clock, steps: Steps, is_running: Callable[[], bool] = lambda: True
) -> None:
    """Return when every group that is to have a domain now answers at its endpoint, all of them at the same look.

    Raises:
        AutoscalerError: nothing comes nearer any more, the message says what stands in the way; or what was started
            does not run any more.
    """
    began_s = clock.monotonic_s()
    progress = Progress.begin(began_s)
    left_off: dict[str, str] = {}
    deserted: set[str] = set()
    while waiting := _silent(config.groups, left_off, deserted):
        if not is_running():
            raise AutoscalerError("it was stopped meanwhile, by make down or by hand")
        snapshot = observe_once(config, clock, timeout_s=0.7)
        left_off |= {n: why for n, group in waiting.items() if (why := why_not_awaited(group, snapshot.wanted.get(n)))}
        deserted = {n for n in waiting if serving(snapshot.memberships.get(n), snapshot.drains.get(n)) == frozenset()}
        answering = config.groups.keys() - waiting.keys() - left_off.keys()
        missing, now_s = what_is_missing(waiting.keys() - left_off.keys(), snapshot), clock.monotonic_s()
        progress.note(waiting.keys() - left_off.keys(), answering, snapshot, now_s)
        patience_s = max([UP_TIMEOUT_S, *(group.boot_timeout_s for group in waiting.values())])
        if progress.is_over(now_s, patience_s):
            raise AutoscalerError(f"no answer after {now_s - began_s:.0f} s: {missing}; the services go on trying")
        steps.wait_for(missing, progress.over_at_s(now_s, patience_s))
        Event().wait(0.3)
    steps.say("; ".join(f"{name} {left_off.get(name, 'answers')}" for name in config.groups))


def _silent(groups: dict[str, Group], left_off: Collection[str], deserted: Collection[str]) -> dict[str, Group]:
    """Return the groups that do not answer now; those that are left off are not asked.

    Nor are those of which the services say that nobody serves: whoever asks there counts as one who wants to be served.
    """
    waited = {name: group for name, group in groups.items() if name not in left_off}
    return {name: group for name, group in waited.items() if name in deserted or not answers(name, group)}


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


def answers(name: str, group: Group) -> bool:
    """Return whether the group's endpoint gives a good answer now."""
    try:
        if group.protocol == "tcp":
            with socket.create_connection(within_reach(group.endpoint), timeout=2) as connection:
                connection.settimeout(0.5)
                return _stays_open(connection)
        address, port = within_reach(group.endpoint)
        if group.readiness.protocol != "http":
            return _is_served(f"http://{join_endpoint(address, port)}{group.readiness.path}")
        asked = question(name, group.readiness)
        return asked.is_right(ask_http(asked, address, port, connect_timeout_s=3, timeout_s=3).status)
    except (OSError, http.client.HTTPException):
        return False


def _is_served(url: str) -> bool:
    """Return whether some domain answers, whatever it says: the group does not name a path for this."""
    try:
        with DIRECT.open(url, timeout=3):
            return True
    except urllib.error.HTTPError as error:
        return error.code != NOBODY_SERVES


def _stays_open(connection: socket.socket) -> bool:
    """Return whether the peer keeps the connection: HAProxy closes it at once when no member is up."""
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


def what_is_missing(waiting: Collection[str], snapshot: Snapshot) -> str:
    """Return what each group that is waited for lacks: the first few of them, and how many there are besides."""
    names = sorted(waiting)
    texts = [f"{name}: {_lack(snapshot.memberships.get(name), snapshot)}" for name in names[:MOST_TOLD]]
    return "; ".join([*texts, *([f"and {len(names) - MOST_TOLD} more groups"] if len(names) > MOST_TOLD else [])])


def _lack(membership: Membership | None, snapshot: Snapshot) -> str:
    """Return which domains are on their way and since when, what is in the way, or who is silent."""
    if membership is None:
        silent = [service for service in SERVICES if service not in snapshot.services]
        return f"waiting for {', '.join(silent) or 'the actuator'}"
    drain = snapshot.drains.get(membership.group)
    coming = [_way_of(member, drain) for member in membership.members if member.phase is not Phase.STANDBY]
    return "; ".join([*([", ".join(coming[:MOST_TOLD])] if coming else []), *filter(None, [membership.blocked])]) or (
        "no domain yet"
    )


def _way_of(member: Member, drain: Drain | None) -> str:
    trouble = of_member(member).removeprefix(f"{member.name} ") or why_not_serving(member, drain) or member.note
    return f"{member.name} {member.phase.value} for {member.age_s:.0f} s{f' ({trouble})' if trouble else ''}"
