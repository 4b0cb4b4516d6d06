"""One tick of one group: policies vote, limits bind, the standing follows. No record, no message: those cost more.

The explanation of what would happen runs this same function forward (``outlook``), and so does a simulation.

Note [When windows begin anew]
    A window is about a group of the size that was decided: it begins anew when that changes. It does not when a domain
    fails, comes back or comes for the first time: one that does so again and again would keep every window from ever
    filling. What a change of members does to the figures, the figures show; and as long as domains are expected that
    share the load soon, no window for more of them fills (see Note [What can still be expected] in ``lack``).
"""

from dataclasses import dataclass, replace
from typing import Any

from common.messages import Vote
from services.decider.core import halt, lack, patience, policies
from services.decider.core.ballot import NONE, counted, is_leaning_in, most, recommended
from services.decider.core.evolve import evolve
from services.decider.core.limits import Case, Limit, settle
from services.decider.core.metrics import GroupMetrics
from services.decider.core.state import GroupState, Settings, Standing
from services.decider.core.witness import hushed


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tick decided. ``filled_s`` is how full the fullest out and in window is."""

    before: int
    after: int
    votes: tuple[Vote, ...]
    recommended: int | None
    limit: Limit
    observing_left_s: float
    leaning_in_s: float
    filled_s: tuple[float, float]

    @property
    def action(self) -> str:
        """Return ``out``, ``in`` or ``hold``."""
        if self.after == self.before:
            return "hold"
        return "out" if self.after > self.before else "in"


def decide(state: GroupState, metrics: GroupMetrics, now_s: float) -> tuple[GroupState, Decision]:
    """Return the state after a tick at ``now_s``, and what was decided.

    Args:
        state: With a desired capacity (``standing.desired`` is not None).
        metrics: The group now; its ``desired`` is the standing's.
        now_s: Monotonic seconds; later than the tick before. Windows count to when the figures were measured.
    """
    seen_s = now_s - metrics.age_s
    state = _noted(state, metrics, now_s)
    leaning_since_s = state.leaning_in_since_s
    votes, policy_states = _vote(state.settings, state.policy_states, metrics, seen_s)
    is_in = metrics.is_complete and is_leaning_in(votes, metrics.desired)
    leaning_since_s = (seen_s - metrics.interval_s if leaning_since_s is None else leaning_since_s) if is_in else None
    leaning_in_s = 0.0 if leaning_since_s is None else seen_s - leaning_since_s
    counting = counted(votes)
    state = evolve(state, cap=most(votes))
    wanted = recommended(counting, metrics.desired)
    case = Case(state, metrics, counting, wanted, leaning_in_s, now_s)
    after, limit = settle(case)
    filled_s = _filled_s(state.settings, policy_states, seen_s)
    decision = Decision(metrics.desired, after, votes, wanted, limit, case.observing_left_s, leaning_in_s, filled_s)
    standing = state.standing
    if after != metrics.desired:
        standing = moved(_learned(state, metrics, after, now_s), state.settings, after, now_s)
        policy_states, leaning_since_s = restarted(state.settings, policy_states), None
    return (
        evolve(
            state,
            standing=standing,
            policy_states=policy_states,
            leaning_in_since_s=leaning_since_s,
        ),
        decision,
    )


def _noted(state: GroupState, metrics: GroupMetrics, now_s: float) -> GroupState:
    """Return the state with since when domains are missing, and when so many were sick last."""
    wait_s = lack.patience_s(state.seen.membership, metrics.interval_s, state.settings.group.boot_timeout_s)
    found = lack.follow(state.lack, metrics.desired, metrics.missing, now_s, wait_s)
    if not metrics.is_halting and not state.is_halted:
        return state if found is state.lack else evolve(state, lack=found)
    state = evolve(state, lack=found, halt_seen_s=now_s if metrics.is_halting else state.halt_seen_s)
    return evolve(state, is_halted=halt.left_s(state, now_s) > 0)


def moved(standing: Standing, settings: Settings, desired: int, now_s: float) -> Standing:
    """Return the standing after a change of the desired capacity: next generation, cooldowns begun."""
    group = settings.group
    cooldown_out_until_s = standing.cooldown_out_until_s
    if desired > (standing.desired or 0):
        cooldown_out_until_s = now_s + group.cooldown_out_s
    return replace(
        standing,
        desired=desired,
        generation=standing.generation + 1,
        cooldown_out_until_s=cooldown_out_until_s,
        cooldown_in_until_s=now_s + group.cooldown_in_s,
    )


def _learned(state: GroupState, metrics: GroupMetrics, after: int, now_s: float) -> Standing:
    standing, before = state.standing, state.standing.desired or 0
    if not state.minimum <= before <= state.maximum:  # the way back into bounds that have moved
        return patience.after_order(standing, after)
    if after > before:
        return patience.after_out(standing, state.settings, now_s)
    return patience.after_in(standing, after, now_s, is_quiet=metrics.is_quiet)


def restarted(settings: Settings, policy_states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the policies' states with their windows begun anew."""
    pairs = zip(settings.policies, policy_states, strict=True)
    return tuple(policies.of(policy).restart(state) for policy, state in pairs)


def after_gap(settings: Settings, policy_states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the policies' states after ticks were missed: windows begin anew, what was learned stays."""
    found = []
    for policy, state in zip(settings.policies, policy_states, strict=True):
        kind = policies.of(policy)
        found.append(kind.after_gap(state) if kind.after_gap else kind.start())
    return tuple(found)


def _vote(
    settings: Settings, policy_states: tuple[Any, ...], metrics: GroupMetrics, now_s: float
) -> tuple[tuple[Vote, ...], tuple[Any, ...]]:
    votes, states = [], []
    for policy, policy_state in zip(settings.policies, policy_states, strict=True):
        vote, after = policies.of(policy).recommend(policy, policy_state, metrics, now_s)
        states.append(after)
        if vote is not None:
            vote = hushed(policy, vote, metrics)
            votes.append(vote if policy.mode == "on" else vote.model_copy(update={"weight": NONE}))
    return tuple(votes), tuple(states)


def _filled_s(settings: Settings, policy_states: tuple[Any, ...], now_s: float) -> tuple[float, float]:
    pairs = zip(settings.policies, policy_states, strict=True)
    filled = [policies.of(policy).filled_s(policy, state, now_s) for policy, state in pairs]
    return max(out_s for out_s, _ in filled), max(in_s for _, in_s in filled)
