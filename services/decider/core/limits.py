"""What may keep a decision from its recommendation, in the order in which it is asked.

Each rule is one function that returns why it holds, or None. The first that holds binds. Scale-out passes few rules:
too much for a while costs little. Scale-in passes many: too little costs requests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from common.messages import Vote
from services.decider.core import halt, patience
from services.decider.core.ballot import FULL, leading, leaning, recommended
from services.decider.core.metrics import GroupMetrics
from services.decider.core.shares import full_hosts
from services.decider.core.state import GroupState
from services.decider.core.words import domains, percent, seconds

CALENDAR: Final = "schedule"  # its wish is the operator's, as a min is
MARGIN: Final = 0.95  # after a scale-in the mean must stay this far below the point that scales out


@dataclass(frozen=True, slots=True)
class Limit:
    """What bound a decision: a name for programs, and a clause for people."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """One tick, put before the rules. ``recommended`` is None where no policy had data."""

    state: GroupState
    metrics: GroupMetrics
    votes: tuple[Vote, ...]
    recommended: int | None
    leaning_in_s: float
    now_s: float

    @property
    def desired(self) -> int:
        """Return the desired capacity in force."""
        return self.metrics.desired

    @property
    def observing_left_s(self) -> float:
        """Return how long the decider only watches, after its start or a gap."""
        since_s = self.state.watching_since_s
        held_s = 0.0 if since_s is None else self.now_s - since_s
        return self.metrics.left_s(self.state.settings.out_window_s, held_s)


Rule = Callable[[Case], Limit | None]


def settle(case: Case) -> tuple[int, Limit]:
    """Return the desired capacity after this tick, and what bound it."""
    after, limit = _within_bounds(case) or _recommended(case)
    return _as_ordered(case, after, limit)


def _within_bounds(case: Case) -> tuple[int, Limit] | None:
    """Return the way back into the bounds, where they have moved; the actuator removes only a few at a time."""
    state, desired = case.state, case.desired
    if desired < state.minimum:
        return state.minimum, Limit("bounds", f"{desired} is below min {state.minimum}")
    if desired > state.maximum:
        return state.maximum, Limit("bounds", f"{desired} is above max {state.maximum_text}")
    return None


def _recommended(case: Case) -> tuple[int, Limit]:
    if case.recommended is None:
        return case.desired, _no_data(case)
    if case.recommended > case.desired:
        return _outwards(case, case.recommended)
    if case.recommended < case.desired:
        return _inwards(case, case.recommended)
    return case.desired, _nothing_asked(case)


def _outwards(case: Case, wanted: int) -> tuple[int, Limit]:
    held = _first(case, OUT_RULES)
    if held:
        return case.desired, held
    wanted = _fitting(case, wanted)
    most = case.desired + case.state.settings.group.max_step_out
    if min(wanted, case.state.maximum) > most:
        return most, Limit("step-limit", f"{wanted} wanted, at most {most - case.desired} more at once")
    if wanted > case.state.maximum:
        return case.state.maximum, Limit("bounds", f"{wanted} wanted, max is {case.state.maximum_text}")
    return wanted, Limit("none", _leading(case))


def _fitting(case: Case, wanted: int) -> int:
    """Return how many of ``wanted`` their hosts have CPUs for; what a calendar asks for comes all the same."""
    if not full_hosts(case.state, case.now_s):
        return wanted
    calendar = max((vote.capacity or 0 for vote in case.votes if vote.policy == CALENDAR), default=0)
    return min(wanted, max(calendar, case.desired))


def _inwards(case: Case, wanted: int) -> tuple[int, Limit]:
    held = _first(case, IN_RULES)
    if held:
        return case.desired, held
    step_most = case.desired - case.state.settings.group.max_step_in
    target = max(wanted, step_most, case.state.minimum)
    limit = Limit("none", _leading(case))
    if target > wanted:
        limit = Limit("step-limit", f"{wanted} wanted, at most {case.desired - step_most} fewer at once")
        if target == case.state.minimum:
            limit = Limit("bounds", f"{wanted} wanted, min is {case.state.minimum}")
    least = least_safe(case.state, case.metrics, target)
    return (least, limit) if least == target else (least, _projection(case, least - 1))


def _as_ordered(case: Case, after: int, limit: Limit) -> tuple[int, Limit]:
    """Return what the operator's orders leave of a decision."""
    state, desired = case.state, case.desired
    would = f"it would scale {'out' if after > desired else 'in'} to {after}" if after != desired else ""
    if state.mode in ("off", "observe"):
        return desired, Limit("mode", f"the mode is {state.mode}: {would or limit.text}")
    if state.standing.is_paused:
        return desired, Limit("paused", f"paused by the operator: {would or limit.text}")
    if state.mode == "out-only" and after < desired:
        return desired, Limit("mode", f"the mode is out-only: {would}")
    return after, limit


# --- rules ---------------------------------------------------------------------------------------------------------


def _observing(case: Case) -> Limit | None:
    left_s = case.observing_left_s
    return Limit("observing", f"it has watched too briefly, {seconds(left_s)} to go") if left_s > 0 else None


def _cooldown_out(case: Case) -> Limit | None:
    left_s = case.state.standing.cooldown_out_until_s - case.now_s
    return Limit("cooldown", f"{seconds(left_s)} left of the cooldown after a scale-out") if left_s > 0 else None


def _host_full(case: Case) -> Limit | None:
    hosts = full_hosts(case.state, case.now_s)
    if not hosts or _fitting(case, case.recommended or 0) > case.desired:
        return None
    which = f"host {hosts[0]}" if len(hosts) == 1 else f"hosts {', '.join(hosts)}"
    why = f"but the CPUs of {which} are all busy: one more would take from the others"
    return Limit("host-full", f"{case.recommended} wanted, {why}")


def _at_maximum(case: Case) -> Limit | None:
    if case.desired < case.state.maximum:
        return None
    return Limit("bounds", f"{case.recommended} wanted, max is {case.state.maximum_text}")


def _blocked(case: Case) -> Limit | None:
    """More than one decision's worth is missing, and the actuator says why: more of it would only pile up."""
    metrics = case.metrics
    if not metrics.blocked or metrics.missing <= case.state.settings.group.max_step_out:
        return None
    return _missing_and_blocked(metrics)


def _unknown_data(case: Case) -> Limit | None:
    return None if case.metrics.is_complete else _no_data(case)


def _vote_missing(case: Case) -> Limit | None:
    mute = next((vote for vote in case.votes if vote.capacity is None), None)
    return Limit("unknown-data", f"{mute.policy}: {mute.reason}") if mute else None


def _just_come(case: Case) -> Limit | None:
    new = case.metrics.new
    if not new:
        return None
    return Limit("unknown-data", f"no CPU figure yet of {domains(len(new))} that came only just now ({', '.join(new)})")


def _unhealthy(case: Case) -> Limit | None:
    metrics = case.metrics
    halted = halt.text(case.state, metrics, case.now_s)
    if halted:
        return Limit("unhealthy", halted)
    if metrics.unhealthy >= metrics.ready:
        return Limit("unhealthy", f"{metrics.unhealthy} of {metrics.ready} ready domains are missing or unhealthy")
    return None


def _pressure(case: Case) -> Limit | None:
    if case.metrics.queue:
        return Limit("pressure", f"{case.metrics.queue} requests queue")
    if case.metrics.pressure:
        return Limit("pressure", "; ".join(case.metrics.pressure))
    return None


def _settling(case: Case) -> Limit | None:
    surplus, blocked = case.metrics.surplus, case.metrics.blocked
    if not surplus:
        return None
    return Limit("settling", f"{domains(surplus)} more than desired still there" + (blocked and f": {blocked}"))


def _cooldown_in(case: Case) -> Limit | None:
    left_s = case.state.standing.cooldown_in_until_s - case.now_s
    return Limit("cooldown", f"{seconds(left_s)} left of the cooldown before a scale-in") if left_s > 0 else None


def _impatient(case: Case) -> Limit | None:
    since_s = case.now_s - case.metrics.age_s - case.leaning_in_s
    needed_s = patience.required_s(case.state.standing, case.state.settings, case.now_s, since_s)
    left_s = case.metrics.left_s(needed_s, case.leaning_in_s)
    if left_s <= 0:
        return None
    calm = f"calm for {seconds(case.leaning_in_s)} of {seconds(needed_s)}"
    if needed_s <= case.state.settings.in_window_s:
        return Limit("window", calm)
    return Limit("patience", f"{calm}: the last scale-in had to be undone")


def _at_minimum(case: Case) -> Limit | None:
    if case.desired > case.state.minimum:
        return None
    return Limit("bounds", f"{case.recommended} wanted, min is {case.state.minimum}")


OUT_RULES: Final[tuple[Rule, ...]] = (_at_maximum, _observing, _host_full, _cooldown_out, _blocked)
IN_RULES: Final[tuple[Rule, ...]] = (
    _at_minimum,
    _unknown_data,
    _vote_missing,
    _just_come,
    _unhealthy,
    _pressure,
    _observing,
    _settling,
    _cooldown_in,
    _impatient,
)


def _first(case: Case, rules: tuple[Rule, ...]) -> Limit | None:
    for rule in rules:
        held = rule(case)
        if held:
            return held
    return None


# --- projection ----------------------------------------------------------------------------------------------------


def projected_ratio(metrics: GroupMetrics, target: int) -> float:
    """Return the mean CPU ratio that ``target`` domains would have with the present use; infinite for none."""
    serving = min(target, metrics.ready)
    return metrics.ready * metrics.high / serving if serving else float("inf")


def least_safe(state: GroupState, metrics: GroupMetrics, target: int) -> int:
    """Return the fewest domains, ``target`` or more, that would not scale out again at once; at most those desired."""
    while target < metrics.desired and not is_safe(state, metrics, target):
        target += 1
    return target


def is_safe(state: GroupState, metrics: GroupMetrics, target: int) -> bool:
    """Return whether ``target`` domains would carry the present use; none never would."""
    point = state.settings.out_point_ratio
    if point is None:
        return target > 0
    return projected_ratio(metrics, target) < MARGIN * point


def _projection(case: Case, target: int) -> Limit:
    if target == 0:
        return Limit("projection", "nobody would be left to serve, and nothing would show new load")
    ratio = percent(projected_ratio(case.metrics, target))
    return Limit("projection", f"{domains(target)} would have {ratio} CPU, too close to scaling out again")


# --- nothing to do, and why ------------------------------------------------------------------------------------------


def _no_data(case: Case) -> Limit:
    metrics = case.metrics
    has_figures = metrics.known > 0 or metrics.ready + metrics.silent == 0
    is_stale = not metrics.is_membership_fresh or not has_figures
    return Limit("stale-data" if is_stale else "unknown-data", metrics.ignorance or case.votes[0].reason)


def _nothing_asked(case: Case) -> Limit:
    waiting = leaning(case.votes, case.desired)
    if waiting is not None and waiting.wait_s > 0:
        return Limit("window", waiting.reason)
    metrics, point = case.metrics, case.state.settings.out_point_ratio
    if metrics.missing and metrics.blocked:
        return _missing_and_blocked(metrics)
    if metrics.coming and point is not None and metrics.low >= point:
        return Limit("coming", _leading(case))
    asked = recommended(tuple(vote for vote in case.votes if vote.weight == FULL), case.desired)
    return Limit("none" if asked is None or asked >= case.desired else "floor", _leading(case))


def _missing_and_blocked(metrics: GroupMetrics) -> Limit:
    text = f"{domains(metrics.missing)} to come, but the actuator cannot go on: {metrics.blocked}"
    return Limit("blocked", text)


def _leading(case: Case) -> str:
    """Return the reason of the vote that won."""
    winner = leading(case.votes)
    return f"{winner.policy}: {winner.reason}" if winner else "no policy that counts has anything to say"
