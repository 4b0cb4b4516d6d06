"""What was decided, in plain words: why, which limiter bound, what would change it."""

from typing import Any, Final

from common.messages import DecisionRecord, Evidence, Vote
from services.decider.core import policies
from services.decider.core.ballot import NONE, leaning
from services.decider.core.decide import Decision
from services.decider.core.limits import MARGIN, is_safe
from services.decider.core.metrics import GroupMetrics
from services.decider.core.outlook import bound, is_unasked, look_ahead, quiet_s
from services.decider.core.state import GroupState
from services.decider.core.words import clock, domains, percent, seconds

AHEAD: Final = 8  # ticks run forward in a decision: it is to cost far less than a millisecond


def counterfactual(state: GroupState, metrics: GroupMetrics, decision: Decision, now_s: float, epoch_s: float) -> str:
    """Return what would change the outcome of this tick, in one clause.

    Times and targets are those of the same core run forward (``outlook``), as if nothing changed: at most ``AHEAD``
    ticks, and never into a forecast's next step, because this is done at every tick.
    """
    if decision.action != "hold":
        return _after_a_change(state, now_s)
    special = _OF_LIMIT.get(decision.limit.name)
    if special:
        is_stuck = decision.limit.name in ("unknown-data", "stale-data") and metrics.missing and metrics.blocked
        return f"{_ACTUATOR_FIRST}{special}" if is_stuck else special
    if decision.limit.name == "projection":
        return _of_sparing_none(state, metrics)
    vote = leaning(decision.votes, metrics.desired)
    if vote is None or vote.wanted is None:
        return _of_calm(state, metrics, decision.votes)
    if vote.wanted > metrics.desired >= state.maximum:
        return f"a max above {state.maximum_text} would let it scale out"
    if vote.wanted < metrics.desired <= state.minimum:
        is_spare = is_safe(state, metrics, metrics.desired - 1)
        return f"a min below {state.minimum} would let it scale in" if is_spare else _of_sparing_none(state, metrics)
    return _of_leaning(state, metrics, now_s, epoch_s)


_ACTUATOR_FIRST: Final = "the actuator must go on first; then "
_OF_LIMIT = {
    "paused": "resume lets it act again",
    "mode": "the mode on lets it act",
    "unknown-data": "complete fresh figures let it decide again",
    "stale-data": "fresh figures let it decide again",
    "unhealthy": "healthy domains with fresh figures let it remove and replace again",
    "pressure": "once users no longer wait or get errors, or no longer ask, it may scale in",
    "settling": "once the last one has left rotation, it may go on",
    "blocked": "once the actuator can go on, the domains to come decide",
    "host-full": "idle CPU on one of its hosts, or fewer domains there, would let it scale out",
    "coming": "the coming domain decides: if the load stays too high with it, it scales out again",
}


def _after_a_change(state: GroupState, now_s: float) -> str:
    standing = state.standing
    out_s, in_s = standing.cooldown_out_until_s - now_s, standing.cooldown_in_until_s - now_s
    return f"no further scale-out for {seconds(max(out_s, 0.0))}, no scale-in for {seconds(max(in_s, 0.0))}"


def _of_sparing_none(state: GroupState, metrics: GroupMetrics) -> str:
    """Return what would let a group have one fewer that would have it: a lower min, less load, or both."""
    point, fewer = state.settings.out_point_ratio, metrics.desired - 1
    if fewer == 0 and state.minimum > 0:
        return "; ".join([*_ways_out(state, metrics), "the last domain stays: without it nothing would show new load"])
    if point is None or fewer == 0 or not metrics.ready:
        return "an operator may scale it to 0"
    enough = MARGIN * point * min(fewer, metrics.ready) / metrics.ready
    lower = "" if fewer >= state.minimum else f"with a min below {state.minimum} and "
    return f"{lower}below {percent(enough)} CPU it could spare one"


def _of_calm(state: GroupState, metrics: GroupMetrics, votes: tuple[Vote, ...]) -> str:
    """Return what each policy waits for; of those that would have fewer already, nothing is asked."""
    clauses = _ways_out(state, metrics)
    if metrics.desired > state.minimum:
        ways = _ways_in(state, metrics.desired, votes)
        clauses += [f"{' and '.join(ways)} it scales in"] if ways else []
    return ", ".join(clauses) or "nothing that its policies look at"


def _ways_out(state: GroupState, metrics: GroupMetrics) -> list[str]:
    """Return the clause that says when it scales out, none where no policy does."""
    if metrics.desired >= state.maximum:
        return [f"a max above {state.maximum_text} would let it scale out"]
    point = state.settings.out_point_ratio
    if metrics.doubt and point is not None and metrics.mean >= point:
        return [metrics.doubt_ends]
    is_without = is_unasked(metrics, state)
    ways = [way for policy in state.settings.counting if (way := _way_out(policy, is_without_requests=is_without))]
    return [f"{' or '.join(ways)} it scales out"] if ways else []


def _way_out(policy: Any, *, is_without_requests: bool) -> str:
    """Return when a policy scales out, empty where it does not tell; CPU use alone may not be enough."""
    kind = policies.of(policy)
    way = kind.out_when(policy)
    needs = way and is_without_requests and kind.sees_cpu(policy)
    return f"{way}, and with requests that need it (cpu_without_requests)," if needs else way


def _ways_in(state: GroupState, desired: int, votes: tuple[Vote, ...]) -> list[str]:
    """Return what those policies wait for that keep the group as large as it is."""
    holding = {vote.policy: vote for vote in votes if vote.weight != NONE and (vote.wanted or 0) >= desired}
    found = []
    for policy in state.settings.counting:
        if policy.type in holding:
            way = policies.of(policy).in_when(policy)
            found.append(way or f"with {policy.type} asking for less than {holding[policy.type].wanted}")
    return found


def _of_leaning(state: GroupState, metrics: GroupMetrics, now_s: float, epoch_s: float) -> str:
    learning = [policy for policy in state.settings.policies if policies.of(policy).learned]
    within_s = quiet_s(learning, metrics, now_s) - state.settings.interval_s
    view = look_ahead(state, metrics, now_s, "", most=AHEAD, within_s=within_s)
    if view.to is None:
        if view.limiter == "projection":
            return _of_sparing_none(state, metrics)
        if view.horizon_s < state.settings.interval_s:
            return "the next step of its forecast decides"
        return (
            f"if nothing changes it keeps {metrics.desired} for {seconds(view.horizon_s)} at least{bound(view.limiter)}"
        )
    if view.to > metrics.desired:
        return f"{seconds(view.after_s)} more like this and it scales out to {view.to}"
    return f"scales in to {view.to} in {seconds(view.after_s)} ({clock(epoch_s + view.after_s)}) if nothing changes"


def sentence(record: DecisionRecord) -> str:
    """Return what a record decided and why, as one sentence."""
    if record.action == "hold":
        return f"It keeps {domains(record.desired_after)}: {record.limiter_text}."
    return (
        f"It scales {record.action} from {record.desired_before} to {record.desired_after}{bound(record.limiter)}: "
        f"{record.limiter_text}."
    )


def page(record: DecisionRecord, last_change: DecisionRecord | None, outlooks: tuple[str, ...]) -> str:
    """Return the answer to ``explain``: the latest tick, its votes, what would change it, the last change before."""
    lines = [f"{record.group}: {sentence(record)}", *(_vote_line(vote) for vote in record.votes)]
    lines.append(f"  figures: {_figures(record)}")
    lines.append(f"  limiter: {record.limiter}; mode {record.mode}")
    lines.append(f"  what would change it: {record.counterfactual}")
    lines += [f"  burst: {record.burst_text}"] if record.burst_text else []
    lines += [_patience_line(record)] if record.patience_left_s > 0 else []
    lines += [f"  {outlook}" for outlook in outlooks]
    if last_change is not None and last_change.decision_id != record.decision_id:
        ago_s = max(record.now_s - last_change.now_s, 0.0)
        lines.append(f"Last change, {seconds(ago_s)} earlier ({clock(last_change.at_s)}): {sentence(last_change)}")
    return "\n".join(lines)


def _patience_line(record: DecisionRecord) -> str:
    until = clock(record.at_s + record.patience_left_s)
    return (
        f"  patience: a scale-in had to be undone, so the next one waits for a calm of {seconds(record.patience_s)}, "
        f"until {until} ({seconds(record.patience_left_s)} left); autoscaler patience {record.group} --reset ends it"
    )


def _vote_line(vote: Vote) -> str:
    capacity = "no vote, so no scale-in" if vote.capacity is None else f"votes {vote.capacity}"
    if vote.weight == NONE:
        capacity = f"({'no vote' if vote.capacity is None else f'would vote {vote.capacity}'}; not counted)"
    return f"  {vote.policy} {capacity}: {vote.reason}"


def _reserved(record: DecisionRecord) -> str:
    """Return what makes the CPU figure another one than the domains' own: some are new, or their host is full."""
    warming, full = record.evidence.domains_warming, record.evidence.full_hosts
    new = f"; {warming} of {record.evidence.domains_ready} warm up, and count for scale-in only" if warming else ""
    return f"{new}; on {', '.join(full)}, which is busy, of what they can have there" if full else new


def _figures(record: DecisionRecord) -> str:
    evidence = record.evidence
    late = f" ({evidence.domains_overdue} overdue)" if evidence.domains_overdue else ""
    parts = [f"{evidence.domains_ready} ready, {evidence.domains_coming} coming{late}"]
    if evidence.cpu_ratio is not None:
        parts.append(f"CPU {percent(evidence.cpu_ratio)} (known of {evidence.domains_known}{_reserved(record)})")
    if evidence.request_rate is not None:
        parts.append(f"{evidence.request_rate:.1f} requests/s")
    if evidence.queue is not None:
        parts.append(f"queue {evidence.queue}")
    if evidence.in_flight_mean is not None:
        parts.append(f"{evidence.in_flight_mean:.1f} in flight")
    return ", ".join([*parts, *_response(evidence), *_errors(evidence)])


def _response(evidence: Evidence) -> list[str]:
    """Return HAProxy's mean, which may be old, and the two that count: of now and over two minutes."""
    if evidence.response_fast_s is None or evidence.response_slow_s is None:
        return [] if evidence.response_time_s is None else [f"response {1000 * evidence.response_time_s:.0f} ms"]
    told = "" if evidence.response_time_s is None else f", HAProxy's last ones {1000 * evidence.response_time_s:.0f} ms"
    fast_ms, slow_ms = 1000 * evidence.response_fast_s, 1000 * evidence.response_slow_s
    return [f"response {fast_ms:.0f} ms now, {slow_ms:.0f} ms over two minutes{told}"]


def _errors(evidence: Evidence) -> list[str]:
    if evidence.error_rate is None:
        return []
    text = f"{evidence.error_rate:.2f} errors/s"
    if evidence.error_fast_ratio is None or evidence.error_slow_ratio is None:
        return [text]
    fast, slow = percent(evidence.error_fast_ratio), percent(evidence.error_slow_ratio)
    return [f"{text} ({fast} of requests now, {slow} over two minutes)"]
