"""Which desired capacity and generation to go on from, once the first membership has arrived, and what owners add.

Note [Started by its owner]
    The domains of an existing group are somebody's. One that its owner starts is not shut down for being one too many:
    when it serves, the desired capacity counts it, and from then on the policies decide, in their windows and
    cooldowns. The actuator tells such a member as uncounted and leaves it alone; the decider answers with the desired
    capacity and the UUIDs that it counts, and repeats them until the actuator has written it down. Who does not fit
    below ``max`` stays uncounted and runs, until there is room or the capacity is ordered: such an order means all who
    are there. One that comes back after others had paused it is not meant: who was started in its place goes.
"""

from dataclasses import replace

from common.messages import Membership
from services.decider.core.decide import moved, restarted
from services.decider.core.evolve import evolve
from services.decider.core.metrics import capacity, reserve, uncounted
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
    state = state if standing is state.standing else evolve(state, standing=standing)
    return _with_owners(state, count, now_s)


def _with_owners(state: GroupState, count: int, now_s: float) -> GroupState:
    """Return the state in which those who serve by their owner's will are desired, as far as ``max`` allows.

    Args:
        state: With a desired capacity.
        count: How many members have a place in the group.
        now_s: Monotonic seconds.
    """
    told, before = uncounted(state.seen), state.counted
    known = tuple(m.uuid for m in told if m.uuid in before)
    new = sorted((m for m in told if m.uuid not in before), key=lambda m: (-m.age_s, m.name))
    new = new[: max(len(new) - max(count - state.maximum, 0), 0)]
    counted = (*known, *(m.uuid for m in new))
    if counted != before:
        state = evolve(state, counted=counted)
    desired = state.standing.desired or 0
    wanted = min(max(desired, min(desired + len(new), count)), state.maximum)
    if wanted <= desired:
        return state
    standing = moved(after_order(state.standing, wanted), state.settings, wanted, now_s)
    policy_states = restarted(state.settings, state.policy_states)
    return evolve(state, standing=standing, policy_states=policy_states, leaning_in_since_s=None)


def all_counted(state: GroupState) -> GroupState:
    """Return the state after an order that sets the capacity: it means everybody who is there."""
    return evolve(state, counted=tuple(m.uuid for m in uncounted(state.seen)))


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
