"""Which desired capacity and generation to go on from, once the first membership has arrived."""

from dataclasses import replace

from common.messages import Membership
from services.decider.core.evolve import evolve
from services.decider.core.metrics import capacity, reserve
from services.decider.core.patience import after_order
from services.decider.core.state import GroupState, Standing


def adopt(state: GroupState, now_s: float, epoch_s: float) -> GroupState:
    """Return the state with a desired capacity, and a generation that the actuator has not outlived.

    Where none is stored, the number of members counts, with those that are about to be taken in, and what the actuator
    was last told, if it still knows; no scale-in follows before a full cooldown. In the modes ``off`` and ``observe``
    nobody follows us: the members there are count.
    """
    membership, standing = state.seen.membership, state.standing
    if membership is None:
        return state
    if standing.desired is None:
        if membership.unreachable_hosts and _is_early(state, now_s):
            return state
        standing = _derived(state, membership, now_s, epoch_s)
    elif membership.generation_seen > standing.generation:
        standing = replace(standing, generation=membership.generation_seen + 1)
    count = _count(state, membership)
    if state.mode in ("off", "observe") and count != standing.desired:
        standing = replace(after_order(standing, count), desired=count, generation=standing.generation + 1)
    return state if standing is state.standing else evolve(state, standing=standing)


def _count(state: GroupState, membership: Membership) -> int:
    """Return how many are there because they were desired, or by their owner's will."""
    return max(capacity(state.seen) - reserve(state.seen), 0) + membership.adoptable


def _is_early(state: GroupState, now_s: float) -> bool:
    """Return whether a host that nobody has reached yet may still turn up, and its domains with it."""
    since_s = state.watching_since_s
    return since_s is not None and now_s - since_s < state.settings.in_window_s


def _derived(state: GroupState, membership: Membership, now_s: float, epoch_s: float) -> Standing:
    return replace(
        state.standing,
        desired=min(max(_count(state, membership), membership.desired_seen or 0, state.minimum), state.maximum),
        generation=max(int(epoch_s), membership.generation_seen + 1, 1),
        cooldown_in_until_s=now_s + state.settings.group.cooldown_in_s,
    )
