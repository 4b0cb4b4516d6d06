"""Drive the decider's cores with a request-rate trace, in virtual time.

Demand in step i is ``ceil(requests_i / requests_per_domain)``. What is decided at the end of step i serves in step
``i + lead``, scale-in included. Supply before the first decision can serve is the first step's demand, at least
``MINIMUM``. Without a configuration the forecasting family decides alone, with no cooldown and no stabilization; with
one, the group's own policies, limits and cooldowns decide (``cli.simulate_group``). The actuator's planner is not
driven: what is decided is taken to be there after the lead time, whatever the hosts.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli import traces
from cli.pictures import check_png
from cli.traces import Trace
from common.errors import ConfigError
from services.decider.core import forecast
from services.decider.core.demand import Elasticity, domains_for, elasticity

MINIMUM = 1
AUTO = (
    *(0.0, 0.3, 0.5),
    *(round(0.6 + 0.0625 * number, 4) for number in range(16)),
    *(round(1.6 + 0.1 * number, 1) for number in range(11)),
    *(2.8, 3.1, 3.4, 3.8, 4.3, 5.0, 6.2, 8.5, 12.0, 20.0),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One setting over a whole trace; one entry a step."""

    headroom: float
    demand: tuple[int, ...]
    supply: tuple[int, ...]
    desired: tuple[int, ...]
    metrics: Elasticity


def simulate(trace: Trace, requests_per_domain: float, lead_steps: int, headrooms: Sequence[float]) -> list[Run]:
    """Return the default configuration family over ``trace``, one run for each of ``headrooms``.

    Args:
        trace: Requests of each step.
        requests_per_domain: What one domain serves in one step, > 0.
        lead_steps: Steps from a decision to its supply, >= 1.
        headrooms: Settings of the one knob, each >= 0.
    """
    desired = _forecast_decisions(trace, requests_per_domain, lead_steps, headrooms)
    columns = zip(*desired, strict=True)
    return [
        played(trace, requests_per_domain, lead_steps, headroom, column)
        for headroom, column in zip(headrooms, columns, strict=True)
    ]


def played(
    trace: Trace,
    requests_per_domain: float,
    lead_steps: int,
    headroom: float,
    desired: Sequence[int],
    first: int | None = None,
) -> Run:
    """Return what ``desired``, decided at the end of each step, comes to when each decision takes ``lead_steps``.

    ``first`` is the supply until then; by default the first step's demand, at least ``MINIMUM``.
    """
    demand = tuple(domains_for(requests, requests_per_domain) for requests in trace.requests)
    first = max(MINIMUM, demand[0]) if first is None else first
    supply = ((first,) * lead_steps + tuple(desired))[: len(demand)]
    return Run(headroom, demand, supply, tuple(desired), elasticity(demand, supply, trace.step_s))


def lead_steps_of(lead_time_s: float, step_s: float) -> int:
    """Return the whole steps that a lead time takes, at least one.

    >>> lead_steps_of(60, 60), lead_steps_of(61, 60), lead_steps_of(5, 60)
    (1, 2, 1)
    """
    if not (math.isfinite(lead_time_s) and lead_time_s >= 0):
        raise ConfigError(f"--lead-time must be finite and >= 0 seconds; got {lead_time_s}")
    steps = max(1, math.ceil(lead_time_s / step_s - 1e-9))
    if steps > forecast.MAX_LEAD_STEPS:
        raise ConfigError(
            f"--lead-time must be at most {forecast.MAX_LEAD_STEPS} steps of {step_s:g} s; got {lead_time_s:g} s"
        )
    return steps


def headrooms_of(text: str) -> tuple[float, ...]:
    """Return the settings of ``headroom=auto`` or ``headroom=a,b,c``.

    >>> headrooms_of("headroom=0,0.5,2")
    (0.0, 0.5, 2.0)
    """
    name, equals, values = text.partition("=")
    if name.strip() != "headroom" or not equals:
        raise ConfigError(f"--sweep must be headroom=auto or headroom=a,b,c; got {text!r}")
    if values.strip() == "auto":
        return AUTO
    try:
        return tuple(checked_headroom(float(value)) for value in values.split(","))
    except ValueError as error:
        raise ConfigError(f"--sweep must be headroom=auto or headroom=a,b,c with numbers; got {text!r}") from error


def checked_headroom(headroom: float) -> float:
    """Return ``headroom`` if it is allowed."""
    if not (math.isfinite(headroom) and headroom >= 0):
        raise ConfigError(f"headroom must be finite and >= 0; got {headroom}")
    return headroom


def run(
    *,
    trace_path: Path | None = None,
    synthetic: str | None = None,
    seed: int = 1,
    requests_per_domain: float,
    lead_time_s: float,
    headroom: float | None = None,
    sweep: str | None = None,
    config: Path | None = None,
    group: str | None = None,
    as_json: bool = False,
    png: Path | None = None,
) -> None:
    """Simulate, print JSON or a table, and draw the picture if one is wanted.

    Raises:
        ConfigError: The trace or an option is not what is allowed.
    """
    if png is not None:
        check_png(png)
    if group is not None and config is None:
        raise ConfigError("--group names a group of --config FILE, which is not given")
    trace = _trace(trace_path, synthetic, seed)
    _check_size(requests_per_domain, trace)
    lead_steps = lead_steps_of(lead_time_s, trace.step_s)
    if config is not None and (sweep is not None or headroom is not None):
        raise ConfigError("--config decides by the group's own policies; it cannot be used with --headroom or --sweep")
    if sweep is not None and headroom is not None:
        raise ConfigError("--headroom and --sweep cannot be used together")
    settings = headrooms_of(sweep) if sweep is not None else (checked_headroom(_or_default(headroom)),)
    if config is not None:
        from cli import simulate_group

        runs = [simulate_group.simulate(trace, requests_per_domain, lead_steps, config, group)]
    else:
        runs = simulate(trace, requests_per_domain, lead_steps, settings)
    _show(trace, runs, is_sweep=sweep is not None, as_json=as_json)
    if png is not None:
        from cli import simulate_picture

        simulate_picture.draw(png, trace, runs)


def as_values(trace: Trace, runs: Sequence[Run], is_sweep: bool) -> dict[str, Any]:
    """Return the JSON of a run, or of a sweep."""
    if is_sweep:
        return {"sweep": [{"headroom": one.headroom, "metrics": asdict(one.metrics)} for one in runs]}
    one = runs[0]
    columns = zip(trace.t_s, one.demand, one.supply, one.desired, strict=True)
    steps = [{"t_s": t_s, "demand": d, "supply": s, "desired": wanted} for t_s, d, s, wanted in columns]
    return {"steps": steps, "metrics": asdict(one.metrics)}


def _forecast_decisions(
    trace: Trace, requests_per_domain: float, lead_steps: int, headrooms: Sequence[float]
) -> list[list[int]]:
    state = forecast.initial(trace.step_s, lead_steps)
    decisions = []
    for requests in trace.requests:
        state = forecast.observe(state, requests)
        wanted = forecast.capacities(state, requests_per_domain, headrooms)
        decisions.append([max(MINIMUM, capacity) for capacity in wanted])
    return decisions


def _trace(path: Path | None, synthetic: str | None, seed: int) -> Trace:
    if (path is None) == (synthetic is None):
        raise ConfigError("one of --trace FILE.csv and --synthetic KIND is needed, and only one")
    if path is not None:
        return traces.read(path)
    return traces.synthetic(synthetic or "", seed)


def _check_size(requests_per_domain: float, trace: Trace) -> None:
    """Refuse a size of a domain that is none, or of which a trace needs more than can be counted."""
    if not 0 < requests_per_domain <= traces.MOST_REQUESTS:
        raise ConfigError(
            f"--requests-per-domain must be > 0 and <= {traces.MOST_REQUESTS:g}; got {requests_per_domain}"
        )
    most = max(trace.requests) / requests_per_domain
    if most > forecast.MAX_CAPACITY:
        raise ConfigError(
            f"--requests-per-domain {requests_per_domain:g}: {trace.name} would need {most:g} domains; "
            f"at most {forecast.MAX_CAPACITY} can be counted"
        )


def _or_default(headroom: float | None) -> float:
    return forecast.DEFAULT_HEADROOM if headroom is None else headroom


def _show(trace: Trace, runs: Sequence[Run], *, is_sweep: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_values(trace, runs, is_sweep)))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(trace, runs))
    console.print(
        "θU, θO: mean share of the demand missing, and too much, in percent; τU, τO: time with too few, too many.\n"
        "upsilon: time in which supply and demand do not move in the same direction. Steps without demand add no θ.",
        style="dim",
    )


def _table(trace: Trace, runs: Sequence[Run]) -> Any:
    from rich import box
    from rich.table import Table

    mean = runs[0].metrics.mean_demand
    title = f"{trace.name}: {len(trace.requests)} steps of {trace.step_s:g} s, mean demand {mean:.2f} domains"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", padding=(0, 1, 0, 0))
    for name in ("headroom", "θU %", "θO %", "τU %", "τO %", "ups. %", "supply", "starts", "stops", "turns/h"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in runs:
        m = one.metrics
        table.add_row(
            "-" if math.isnan(one.headroom) else f"{one.headroom:g}",
            f"{m.theta_u:.2f}",
            f"{m.theta_o:.2f}",
            *(f"{value:.1f}" for value in (m.tau_u, m.tau_o, m.upsilon)),
            f"{m.mean_supply:.2f}",
            str(m.starts),
            str(m.stops),
            f"{m.direction_changes_per_hour:.1f}",
        )
    return table
