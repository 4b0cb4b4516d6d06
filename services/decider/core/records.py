"""The record of one tick: all that it decided, all that it stood on."""

from common.messages import DecisionRecord, DesiredCapacity
from services.decider.core import basis
from services.decider.core.decide import Decision
from services.decider.core.explain import counterfactual
from services.decider.core.limits import Limit
from services.decider.core.metrics import GroupMetrics, evidence
from services.decider.core.patience import in_force
from services.decider.core.state import GroupState


def decision_id(state: GroupState) -> str:
    """Return the name of this tick's decision, unique over restarts by the run's number."""
    return f"decider/{state.settings.run_id:x}/{state.settings.name}/{state.tick}"


def record(
    state: GroupState, metrics: GroupMetrics, decision: Decision, now_s: float, epoch_s: float
) -> DecisionRecord:
    """Return the record of the tick that led to ``state``."""
    standing = state.standing
    lesson = in_force(standing, state.settings, now_s)
    return DecisionRecord(
        group=state.settings.name,
        tick=state.tick,
        decision_id=decision_id(state),
        action=decision.action,
        desired_before=decision.before,
        desired_after=decision.after,
        recommended=decision.recommended,
        votes=decision.votes,
        limiter=decision.limit.name,
        limiter_text=decision.limit.text,
        counterfactual=counterfactual(state, metrics, decision, now_s, epoch_s),
        evidence=evidence(metrics, *decision.filled_s),
        mode=state.mode,
        cooldown_out_left_s=max(standing.cooldown_out_until_s - now_s, 0.0),
        cooldown_in_left_s=max(standing.cooldown_in_until_s - now_s, 0.0),
        now_s=now_s,
        at_s=epoch_s,
        taken=state.taken,
        ordered=state.ordered,
        resumed_from=state.resumed_from,
        learned=state.resumed_learned or basis.learned_told(state),
        basis=basis.told(state),
        burst_quota=state.burst.quota,
        burst_text=state.burst.text,
        burst_rivals=state.rivals,
        patience_s=lesson.calm_s if lesson else 0.0,
        patience_left_s=round(lesson.left_s, 3) if lesson else 0.0,
    )


def waiting() -> Decision:
    """Return the decision of a tick before the group's first membership: there is nothing to change yet."""
    limit = Limit("unknown-data", "no membership from the actuator yet, so it is unknown how many domains there are")
    return Decision(0, 0, (), None, limit, 0.0, 0.0, (0.0, 0.0))


def desired_capacity(state: GroupState, metrics: GroupMetrics, reason: str) -> DesiredCapacity:
    """Return what the actuator is to be told now; where the capacity is frozen outside the bounds, they give way."""
    (generation, desired, minimum, maximum, may_remove, may_replace, mode, burst_quota, bounds, counted) = _terms(
        state, metrics
    )
    return DesiredCapacity(
        group=state.settings.name,
        generation=generation,
        desired=desired,
        minimum=minimum,
        maximum=maximum,
        is_scale_in_allowed=may_remove,
        is_replacement_allowed=may_replace,
        mode=mode,
        reason=reason,
        decision_id=decision_id(state),
        burst_quota=burst_quota,
        decided_mono_s=state.decided_at_s,
        bounds=bounds,
        counted=counted,
    )


def is_same(last: DesiredCapacity, state: GroupState, metrics: GroupMetrics) -> bool:
    """Return whether the actuator has been told just that."""
    told = (
        last.generation,
        last.desired,
        last.minimum,
        last.maximum,
        last.is_scale_in_allowed,
        last.is_replacement_allowed,
        last.mode,
        last.burst_quota,
        last.bounds,
        last.counted,
    )
    return told == _terms(state, metrics)


def _terms(
    state: GroupState, metrics: GroupMetrics
) -> tuple[int, int, int, int, bool, bool, str, float | None, tuple[int, int], tuple[str, ...]]:
    desired, mode = state.standing.desired or 0, state.mode
    is_acting = mode in ("on", "out-only")
    return (
        state.standing.generation,
        desired,
        min(state.minimum, desired),
        max(state.maximum, desired),
        is_acting and metrics.is_complete and not state.is_halted,
        is_acting and not metrics.is_blind,
        mode,
        state.burst.quota,
        (state.minimum, state.maximum),
        state.counted,
    )
