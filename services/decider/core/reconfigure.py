"""New settings for a group that runs: what was measured and promised under the old ones stays where it still holds.

A reload stands in the record of the next tick among the operator's orders, with the settings that it brought, so that
a replay meets it in the same place.
"""

from dataclasses import replace
from typing import Any, Final

from common.messages import Ordered
from services.decider.core import basis, patience, policies
from services.decider.core.evolve import evolve
from services.decider.core.state import GroupState, Settings, Standing, begun

VERB: Final = basis.RELOAD


def reconfigured(state: GroupState, settings: Settings, now_s: float) -> GroupState:
    """Return the state under new settings: orders stay, as do the windows of policies that are the same.

    Cooldowns and a lesson in force stay too; where the file has made them shorter, they end by as much sooner.
    """
    ordered = Ordered(verb=VERB, args={"settings": basis.settings_text(settings)}, now_s=now_s)
    is_same = settings.policies == state.settings.policies
    return evolve(
        state,
        settings=settings,
        standing=_standing(state.standing, state.settings, settings),
        policy_states=_carried(state, settings),
        leaning_in_since_s=state.leaning_in_since_s if is_same else None,
        ordered=(*state.ordered, ordered),
    )


def _standing(standing: Standing, before: Settings, after: Settings) -> Standing:
    """Return the standing under new settings: nothing is made longer, and a mode changed in the file holds."""
    out_s = max(before.group.cooldown_out_s - after.group.cooldown_out_s, 0.0)
    in_s = max(before.group.cooldown_in_s - after.group.cooldown_in_s, 0.0)
    standing = patience.carried(standing, before, after)
    if before.group.mode != after.group.mode:
        standing = replace(standing, mode=None)
    if not (out_s or in_s):
        return standing
    return replace(
        standing,
        cooldown_out_until_s=standing.cooldown_out_until_s - out_s,
        cooldown_in_until_s=standing.cooldown_in_until_s - in_s,
    )


def _carried(state: GroupState, settings: Settings) -> tuple[Any, ...]:
    """Return the states of the new policies: that of an equal old one, what a like one has learned, or a fresh one."""
    left = list(zip(state.settings.policies, state.policy_states, strict=True))
    equal: dict[int, Any] = {}
    for number, policy in enumerate(settings.policies):
        found = next((pair for pair in left if pair[0] == policy), None)
        if found is not None:
            left.remove(found)
            equal[number] = found[1]
    return tuple(
        equal[number] if number in equal else _from_like(policy, left)
        for number, policy in enumerate(settings.policies)
    )


def _from_like(policy: Any, left: list[tuple[Any, Any]]) -> Any:
    """Return the state of a changed policy; what one of its type in ``left`` has learned goes on where it fits."""
    learned_by = policies.of(policy).learned
    if learned_by is not None:
        for pair in left:
            if pair[0].type == policy.type:
                left.remove(pair)
                try:
                    return begun(policy, learned_by(pair[1]))
                except ValueError:  # learned in steps of another length, say
                    break
    return begun(policy, None)
