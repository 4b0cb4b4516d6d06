"""The tables ``[[groups.NAME.policies]]``: one class for each type of policy.

Every policy has a ``mode``: ``observe`` records its vote beside the others' and does not count it, so that it can be
watched before it is trusted.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common import cron
from common.config_table import Positive, Seconds, Share, Table

Metric = Literal["cpu", "requests-per-domain", "in-flight", "response-time", "queue"]
PolicyMode = Literal["on", "observe"]

TARGETS: dict[str, str] = {
    "cpu": "target_ratio",
    "requests-per-domain": "target_requests_per_s",
    "in-flight": "target_in_flight",
    "response-time": "target_response_time_s",
    "queue": "target_queue",
}


class Threshold(Table):
    """The rule of two thresholds.

    At or above ``high_ratio`` for a full ``out_window_s``: ``step_out`` more; at or below ``low_ratio`` for a full
    ``in_window_s``: ``step_in`` fewer.
    """

    type: Literal["threshold"] = "threshold"
    mode: PolicyMode = "on"
    high_ratio: Share = 0.80
    low_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.35
    out_window_s: Positive = 5.0
    in_window_s: Positive = 30.0
    step_out: int = Field(default=1, ge=1, le=100)
    step_in: int = Field(default=1, ge=1, le=100)

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low_ratio >= self.high_ratio:
            raise ValueError(f"low_ratio must be less than high_ratio ({self.high_ratio}); got {self.low_ratio}")
        return self


class TargetTracking(Table):
    """Hold a metric of the group at its target; changes within ``tolerance`` of it are ignored.

    ``metric`` says which, and which of the target keys holds: ``cpu`` the mean CPU ratio of the ready domains,
    ``requests-per-domain`` requests per second, ``in-flight`` requests and connections that are there, ``queue`` those
    that wait, each a domain; ``response-time`` seconds.
    """

    type: Literal["target-tracking"] = "target-tracking"
    mode: PolicyMode = "on"
    metric: Metric = "cpu"
    target_ratio: Share = 0.60
    target_requests_per_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    target_in_flight: Annotated[float, Field(gt=0, le=1e6)] | None = None
    target_response_time_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    target_queue: Annotated[float, Field(gt=0, le=1e6)] | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.10
    out_stabilization_s: Seconds = 3.0
    in_stabilization_s: Seconds = 60.0

    @model_validator(mode="after")
    def _target_fits_the_metric(self) -> Self:
        check_target(self, self.metric, TARGETS)
        return self

    @property
    def target(self) -> float:
        """Return the target of one domain, in the metric's own unit."""
        return float(getattr(self, TARGETS[self.metric]))


class StepRule(Table):
    """One step of a ``step`` policy: on one side of a bound for a full window, change the capacity.

    ``above_ratio`` and ``below_ratio`` are for the metric ``cpu``, ``above`` and ``below`` for the others. ``change``
    is a number of domains or a share such as ``"+50%"``, ``to`` a capacity; exactly one of both.
    """

    above_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    below_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    above: Annotated[float, Field(gt=0, le=1e9)] | None = None
    below: Annotated[float, Field(ge=0, le=1e9)] | None = None
    change: int | str | None = None
    to: int | None = Field(default=None, ge=0, le=1000)
    window_s: Positive | None = None

    @model_validator(mode="after")
    def _one_bound_and_one_change(self) -> Self:
        bounds = [key for key in ("above_ratio", "below_ratio", "above", "below") if getattr(self, key) is not None]
        if len(bounds) != 1:
            raise ValueError(f"a step needs one of above_ratio, below_ratio, above, below; got {bounds or 'none'}")
        if (self.change is None) == (self.to is None):
            raise ValueError("a step needs exactly one of change and to")
        if self.change is not None and (self.amount > 0) != self.is_out:
            way = "a positive" if self.is_out else "a negative"
            raise ValueError(f"a step {bounds[0]} needs {way} change, of 1 to 1000 (per cent); got {self.change!r}")
        return self

    @field_validator("change")
    @classmethod
    def _change_is_a_number_or_a_share(cls, change: int | str | None) -> int | str | None:
        digits = change[1:-1] if isinstance(change, str) and change[:1] in "+-" and change[-1:] == "%" else ""
        is_share = digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 1000
        if isinstance(change, str) and not is_share:
            raise ValueError(f"must be a number such as 2 or -1, or a share such as '+50%' or '-25%'; got {change!r}")
        if isinstance(change, int) and not 1 <= abs(change) <= 1000:
            raise ValueError(f"must be in 1..1000 or -1000..-1; got {change}")
        return change

    @property
    def is_out(self) -> bool:
        """Return whether it scales out."""
        return self.above is not None or self.above_ratio is not None

    @property
    def is_ratio(self) -> bool:
        """Return whether its bound is a CPU ratio."""
        return self.above_ratio is not None or self.below_ratio is not None

    @property
    def bound(self) -> float:
        """Return the bound, in the metric's own unit."""
        return next(x for x in (self.above_ratio, self.below_ratio, self.above, self.below) if x is not None)

    @property
    def amount(self) -> int:
        """Return the number in ``change``, or ``to``: domains, per cent, or a capacity, by ``unit``."""
        if self.to is not None:
            return self.to
        return int(self.change[:-1]) if isinstance(self.change, str) else int(self.change or 0)

    @property
    def unit(self) -> str:
        """Return what ``amount`` counts: ``domains``, ``percent`` or ``to``."""
        if self.to is not None:
            return "to"
        return "percent" if isinstance(self.change, str) else "domains"


class Step(Table):
    """A staircase: the further a metric is from where it should be, the larger the change, at once.

    Each step has its window, else the policy's. Of the steps whose window is full, the largest applies.
    """

    type: Literal["step"] = "step"
    mode: PolicyMode = "on"
    metric: Metric = "cpu"
    out_window_s: Positive = 5.0
    in_window_s: Positive = 30.0
    steps: tuple[StepRule, ...] = Field(strict=False, min_length=1, max_length=20)

    @model_validator(mode="after")
    def _steps_make_a_staircase(self) -> Self:
        for step in self.steps:
            if step.is_ratio != (self.metric == "cpu"):
                allowed = "above_ratio, below_ratio" if self.metric == "cpu" else "above, below"
                raise ValueError(f"steps of the metric {self.metric!r} have one of {allowed}")
        outs = [step for step in self.steps if step.is_out]
        ins = [step for step in self.steps if not step.is_out]
        _check_staircase(outs, "above", 1)
        _check_staircase(ins, "below", -1)
        if outs and ins and ins[0].bound >= outs[0].bound:
            raise ValueError(
                f"steps overlap: every below ({ins[0].bound}) must be less than every above ({outs[0].bound})"
            )
        return self

    def window_s(self, step: StepRule) -> float:
        """Return how long the metric must stay beyond the bound of ``step``."""
        if step.window_s is not None:
            return step.window_s
        return self.out_window_s if step.is_out else self.in_window_s


class Schedule(Table):
    """At least ``capacity`` and at most ``maximum`` domains in a window that begins whenever ``cron`` says in ``zone``.

    It lasts ``duration_s`` of real time, or until the time that ``until``, a cron expression too, names next: the only
    way to say "until midnight" also on a day of 25 hours. ``ramp_s`` before it the capacity begins to grow, ``ramp_s``
    after its end it is gone; each group begins and ends up to ``jitter_s`` further out, always the same, so that many
    groups do not move at once. See ``common.cron`` for what happens when the clocks change.
    """

    type: Literal["schedule"] = "schedule"
    mode: PolicyMode = "on"
    cron: str
    zone: str = "UTC"
    duration_s: Positive | None = None
    until: str | None = None
    capacity: int | None = Field(default=None, ge=1, le=1000)
    maximum: int | None = Field(default=None, ge=1, le=1000)
    ramp_s: Seconds = 0.0
    jitter_s: Seconds = 0.0

    @field_validator("cron", "until")
    @classmethod
    def _cron_fires(cls, value: str | None) -> str | None:
        if value is not None:
            cron.check(value)
        return value

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        cron.check_zone(value)
        return value

    @model_validator(mode="after")
    def _one_end_and_something_to_hold(self) -> Self:
        if (self.duration_s is None) == (self.until is None):
            found = "neither" if self.until is None else "both"
            raise ValueError(f"a schedule needs exactly one of duration_s and until; got {found}")
        if self.capacity is None and self.maximum is None:
            raise ValueError("a schedule needs capacity (at least so many), maximum (at most) or both; got neither")
        if self.capacity is not None and self.maximum is not None and self.capacity > self.maximum:
            raise ValueError(f"capacity must be <= maximum ({self.maximum}); got {self.capacity}")
        return self


class Predictive(Table):
    """Have the capacity ready that will be needed when a domain started now serves. It never scales in by itself.

    The load of the group, summed up over ``step_s``, is forecast over the measured boot time; ``lead_s`` stands for it
    until one is measured. ``headroom`` is how much to spare.
    """

    type: Literal["predictive"] = "predictive"
    mode: PolicyMode = "observe"
    metric: Literal["cpu", "requests-per-domain"] = "cpu"
    target_ratio: Share = 0.60
    target_requests_per_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    step_s: Annotated[float, Field(ge=5, le=900)] = 30.0
    headroom: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    lead_s: Annotated[float, Field(gt=0, le=3600)] = 60.0

    @model_validator(mode="after")
    def _target_fits_the_metric(self) -> Self:
        check_target(self, self.metric, {metric: TARGETS[metric] for metric in ("cpu", "requests-per-domain")})
        return self

    @property
    def target(self) -> float:
        """Return the load that one domain is to carry: a CPU ratio, or requests per second."""
        return float(getattr(self, TARGETS[self.metric]))


Policy = Annotated[Threshold | TargetTracking | Step | Schedule | Predictive, Field(discriminator="type")]


def check_target(table: Table, metric: str, targets: dict[str, str]) -> None:
    """Return if the table sets no target but that of its metric, and sets that one unless it has a default.

    Raises:
        ValueError: a target is missing, or is that of another metric.
    """
    own = targets[metric]
    wrong = sorted(table.model_fields_set & (set(targets.values()) - {own}))
    if wrong:
        raise ValueError(f"metric {metric!r} takes {own}, not {', '.join(wrong)}")
    if getattr(table, own) is None:
        raise ValueError(f"metric {metric!r} needs {own}")


def _check_staircase(steps: list[StepRule], side: str, sign: int) -> None:
    """Refuse steps out of order, twice on one bound, of mixed units, or smaller where the bound is further out."""
    if len({step.unit for step in steps}) > 1:
        raise ValueError(f"steps {side} must all be of one kind: a number, a share, or to")
    for near, far in pairwise(steps):
        if sign * far.bound <= sign * near.bound:
            order = "ascending" if sign > 0 else "descending"
            raise ValueError(f"steps overlap: bounds {side} must be {order}; got {near.bound}, then {far.bound}")
        if sign * far.amount < sign * near.amount:
            least = "at least as far as"
            raise ValueError(f"the step {side} {far.bound} must go {least} the one {side} {near.bound}")
