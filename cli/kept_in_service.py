"""Before ``up`` puts a changed file in force: would those that serve now pass the check that it asks for?

A wrong path or port takes all of a group's members out of rotation together, the moment HAProxy reloads: none of them
is sick, and none that comes later would serve either. So those that serve are asked the new question first.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from cli.observe import Snapshot, observe_once
from common.clock import Clock
from common.config import Config, Group
from common.errors import AutoscalerError
from common.messages import Member, Unready
from common.rotation import serving
from common.unready import WRONG, sentence
from services.actuator.core.seen import Probe
from services.actuator.prober import Target, probe, target_of

TRIES: Final = 3
THREADS: Final = 16
MOST_NAMED: Final = 3
HEARD_WITHIN_S: Final = 2.0
DEFINITE: Final = WRONG | {"refused", "broken"}
"""Answers that do not pass by asking again."""


def refuse_silencing(config: Config, clock: Clock, *, is_forced: bool = False) -> None:
    """Return if the groups that serve now would go on serving with this configuration, or if it ``is_forced``.

    Raises:
        AutoscalerError: one would not; nothing was changed.
    """
    if is_forced:
        return
    found = silenced(config, observe_once(config, clock, timeout_s=HEARD_WITHIN_S))
    if not found:
        return
    said = "; ".join(f"{name} would be out of service: {why}" for name, why in found.items())
    keys = ", ".join(f"groups.{name}.readiness and port" for name in found)
    raise AutoscalerError(f"nothing was changed: {said}. See {keys}; if it is meant: make up FORCE=1 (up --force)")


def silenced(config: Config, snapshot: Snapshot, ask: Callable[[Target], Probe] = probe) -> Mapping[str, str]:
    """Return the groups that would lose members that serve now, each with what these answer.

    Args:
        config: What would be in force.
        snapshot: What serves now, as actuator and balancer say; who is not heard has nobody to lose.
        ask: Puts a group's question to one domain.
    """
    found = {}
    for name, group in config.groups.items():
        membership, drain = snapshot.memberships.get(name), snapshot.drains.get(name)
        uuids = serving(membership, drain) or frozenset()
        members = [m for m in (membership.members if membership else ()) if m.uuid in uuids and m.address is not None]
        failing = _failing(name, group, members, ask)
        is_lost = any(why.kind in DEFINITE for why in failing.values()) or len(failing) == len(members) > 0
        if is_lost:
            found[name] = _told(failing)
    return found


def _failing(name: str, group: Group, members: list[Member], ask: Callable[[Target], Probe]) -> dict[str, Unready]:
    """Return who does not pass, and why."""
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda member: _asked(_question(name, group, member), ask), members))
    return {m.name: why for m, why in zip(members, answers, strict=True) if why is not None}


def _question(name: str, group: Group, member: Member) -> Target:
    """Return what HAProxy will ask: it does not look at who answers, and asks no guest agent."""
    target = target_of(name, group, member.host, member.name, member.address or "")
    protocol = "tcp" if target.protocol == "agent" else target.protocol
    return replace(target, protocol=protocol, is_identity_checked=False)


def _asked(target: Target, ask: Callable[[Target], Probe]) -> Unready | None:
    why: Unready | None = None
    for _ in range(TRIES):
        answer = ask(target)
        if answer.is_right:
            return None
        why = answer.why or Unready(kind="other", came=answer.detail)
    return why


def _told(failing: Mapping[str, Unready]) -> str:
    names = sorted(failing, key=lambda name: (failing[name].kind not in DEFINITE, name))
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(sentence(name, failing[name]) for name in names[:MOST_NAMED]) + more
