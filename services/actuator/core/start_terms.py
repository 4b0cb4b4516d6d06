"""What of a group's configuration bears on its starts: once that has changed, an open breaker waits no longer.

Whoever mends the file after failed starts is to see at once whether it helped. A digest of these terms is stored beside
the breakers, so that a restart with a changed file tells it too.
"""

import json
from collections.abc import Mapping
from typing import Final

from common.config import Group
from common.volume import digest
from services.actuator.core.breaker import Breaker, group_of, is_open, tried_again

_SCALING: Final = frozenset(  # says how many domains are wanted, and when; not how one is started
    {
        "minimum",
        "maximum",
        "surge",
        "mode",
        "cooldown_out_s",
        "cooldown_in_s",
        "max_step_out",
        "max_step_in",
        "cpu_without_requests",
        "patience_s",
        "patience_memory_s",
        "policies",
    }
)


def start_terms(group: Group) -> str:
    """Return eight letters that differ where anything of the group does that may make its starts succeed or fail."""
    return digest(json.dumps(group.model_dump(mode="json", exclude=set(_SCALING)), sort_keys=True))


def tried_at_once(
    known: Mapping[str, Breaker], before: Mapping[str, str], after: Mapping[str, str], now_s: float
) -> dict[str, Breaker]:
    """Return by their keys the open breakers of groups whose terms have changed, each with a trial now.

    Args:
        before: The terms by group as they were; of a group that is not there nothing is known to have changed.
        after: The terms by group as they are.
    """
    changed = {group for group, terms in after.items() if before.get(group, terms) != terms}
    waiting = {key: breaker for key, breaker in known.items() if group_of(key) in changed and is_open(breaker, now_s)}
    return {key: tried_again(breaker, now_s) for key, breaker in waiting.items()}
