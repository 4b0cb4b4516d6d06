"""Slots whose member has not been checked yet: what HAProxy shows as the last check was somebody else's, or of before.

A slot that is given to a member keeps the result of the last check until the next one: of whoever had the slot before,
who may have failed. So does one that we have let in without waiting for a check. Until HAProxy shows another result, or
another health, nothing is made of it: nobody is avoided, kept or told as sick for what is not its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.balancer.core.answers import Admin, Server, has_failed
from services.balancer.core.backends import Assign, SetReady, StartChecks, Step

Shown = tuple[str, str]
"""A slot's status and the words for its last check."""

NOTHING_SHOWN: Final = None


def begun(before: Mapping[str, Shown | None], steps: Iterable[Step]) -> dict[str, Shown | None]:
    """Return the unchecked slots, with those that these steps open for a member on our word."""
    return {**before, **{step.slot: NOTHING_SHOWN for step in steps if _is_our_word(step)}}


def follow(before: Mapping[str, Shown | None], servers: Iterable[Server]) -> dict[str, Shown | None]:
    """Return the slots that are still unchecked after a look, with what they showed first."""
    shown = {server.name: server for server in servers if server.name in before}
    return {name: _first(before[name], server) for name, server in shown.items() if _is_open(before[name], server)}


def own(unchecked: Mapping[str, Shown | None], servers: Sequence[Server]) -> tuple[Server, ...]:
    """Return the servers, without the words for a check that was not their member's own."""
    return tuple(replace(s, check="", is_unchecked=True) if s.name in unchecked else s for s in servers)


def _is_our_word(step: Step) -> bool:
    match step:
        case Assign():
            return True
        case SetReady(is_trusted=is_trusted):
            return is_trusted
        case StartChecks(is_fresh=is_fresh):
            return is_fresh
        case _:
            return False


def _first(first: Shown | None, server: Server) -> Shown | None:
    return NOTHING_SHOWN if server.admin is Admin.MAINT else first or (server.status, server.check)


def _is_open(first: Shown | None, server: Server) -> bool:
    """Return whether no check can have come since; only checks take a server down, or to its full health."""
    if server.admin is Admin.MAINT:
        return True
    if server.status.startswith("DOWN") or (server.is_fully_up and not has_failed(server.check)):
        return False
    return first is NOTHING_SHOWN or first == (server.status, server.check)
