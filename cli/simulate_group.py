"""A group's own configuration over a trace: the decider's ``decide``, tick by tick, against modelled figures.

A trace knows one number a step, so within a step the load is even; what is over the domains' capacity waits in the
queue, and CPU use is load over capacity, at most 1. A domain answers one request at a time, so the response time is
that of a queue with random arrivals, service / (1 - use), and what waits comes on top. The supply is what was desired
``lead_steps`` before, which is also the measured boot time. ``t_seconds`` are epoch seconds to a calendar. The group's
bounds, cooldowns, windows and limits all bind. Ticks are the configured interval, at most ``TICKS`` in a step.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from cli.simulate import Run, played
from cli.traces import Trace
from common.config import Config, Group
from common.config_file import load
from common.errors import ConfigError
from services.decider.core.decide import decide
from services.decider.core.demand import domains_for
from services.decider.core.evolve import evolve
from services.decider.core.metrics import GroupMetrics
from services.decider.core.state import GroupState, Settings, Standing, begin

TICKS = 12
BUSIEST = 0.99  # of one domain: beyond it the response time of such a queue has no bound
NO_HEADROOM = math.nan
Figures = Callable[[int], GroupMetrics]


def simulate(trace: Trace, requests_per_domain: float, lead_steps: int, path: Path, name: str | None) -> Run:
    """Return the run of the group ``name`` of the configuration in ``path``.

    Raises:
        ConfigError: The file is invalid, or does not say which group is meant.
    """
    config, _ = load(path)
    group = _group(config, path, name)
    return of_group(trace, requests_per_domain, lead_steps, group, config)


def of_group(trace: Trace, requests_per_domain: float, lead_steps: int, group: Group, config: Config) -> Run:
    """Return the run of ``group``; ``config`` gives the interval and the number of slots."""
    tick_s = max(min(config.system.interval_s, trace.step_s), trace.step_s / TICKS)
    settings = Settings(
        "simulated", group, tick_s, max(3.5 * tick_s, config.system.stale_after_s), 2 * tick_s, config.haproxy.slots
    )
    first = domains_for(trace.requests[0], requests_per_domain)
    first = min(max(first, group.minimum), group.maximum)
    state = replace(begin(settings, Standing(desired=first)), watching_since_s=0.0)
    coming = deque([first] * lead_steps)
    desired = []
    ticks = round(trace.step_s / tick_s)
    for number, requests in enumerate(trace.requests):
        figures = _figures(requests, requests_per_domain, coming.popleft(), trace, lead_steps, tick_s)
        for tick in range(1, ticks + 1):
            state = _ticked(state, figures, number * trace.step_s + tick * tick_s)
        wanted = state.standing.desired or 0
        coming.append(wanted)
        desired.append(wanted)
    return played(trace, requests_per_domain, lead_steps, NO_HEADROOM, desired, first)


def _group(config: Config, path: Path, name: str | None) -> Group:
    if name is None and len(config.groups) == 1:
        return next(iter(config.groups.values()))
    if name not in config.groups:
        raise ConfigError(f"{path}: --group must be one of {', '.join(config.groups)}; got {name}")
    return config.groups[name]


def _figures(
    requests: float, requests_per_domain: float, supply: int, trace: Trace, lead_steps: int, tick_s: float
) -> Figures:
    """Return what the decider sees in every tick of one step, given how many are desired at that tick."""
    capacity = supply * requests_per_domain
    ratio = min(1.0, requests / capacity) if supply else 0.0
    queue = math.ceil(max(0.0, requests - capacity))
    service_s = trace.step_s / requests_per_domain
    response_s = service_s / (1 - min(ratio, BUSIEST)) + queue * service_s / max(supply, 1)
    base = GroupMetrics(
        interval_s=tick_s,
        epoch_offset_s=trace.t_s[0],
        boot_s=lead_steps * trace.step_s,
        desired=supply,
        ready=supply,
        known=supply,
        mean=ratio,
        low=ratio,
        high=ratio if supply else 1.0,
        is_membership_fresh=True,
        is_traffic_known=True,
        queue=queue,
        request_rate=requests / trace.step_s,
        response_time_s=response_s,
        error_rate=0.0,
    )

    @cache
    def at(desired: int) -> GroupMetrics:
        return replace(base, desired=desired, coming=max(0, desired - supply), surplus=max(0, supply - desired))

    return at


def _ticked(state: GroupState, figures: Figures, now_s: float) -> GroupState:
    metrics = figures(state.standing.desired or 0)
    decided, _ = decide(state, metrics, now_s)
    return evolve(decided, last_tick_s=now_s, tick=state.tick + 1)
