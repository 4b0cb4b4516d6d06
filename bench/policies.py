"""``python -m bench.policies``: the default configuration family against the published autoscalers.

Peers' points at one step's delay are published ones, measured on these traces with the authors' code of React, Adapt,
Reg, Hist and ConPaaS; "last" (as many as the last step needed) and HPA are run again here at delays of one, two and
five steps. A point is beaten by a setting with no larger θU and a smaller θO; its ratio is our smallest θO at no
larger θU over the peer's θO.
"""

import argparse
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from cli import simulate, simulate_group, traces
from common.config import Config, Group, TargetTracking, Threshold
from common.errors import AutoscalerError
from services.decider.core.demand import domains_for, elasticity

LEADS = (1, 2, 5)
HPA_TOLERANCE = 0.1
HPA_STABILIZATION_S = 300.0
SHIPPED_SETTINGS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the one ratio that says how busy a domain may be
SHIPPED_STEPS = 10080  # a week of minutes; twelve ticks a step take their time
DOCS = Path(__file__).resolve().parent.parent / "docs"


@dataclass(frozen=True, slots=True)
class Case:
    """One trace, and the requests one domain serves in one of its steps."""

    title: str
    file: str
    requests_per_domain: float


@dataclass(frozen=True, slots=True)
class Point:
    """What one autoscaler reaches. ``is_published``: taken over, not measured by this command."""

    name: str
    theta_u: float
    theta_o: float
    is_published: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trace at one delay: our curve, as (headroom, θU, θO), what is shipped, and every peer with our ratio.

    ``shipped`` is each shipped policy as it is, ``shipped_curves`` the same with other ratios, in order.
    """

    case: str
    lead: int
    curve: tuple[tuple[float, float, float], ...]
    shipped: tuple[Point, ...]
    shipped_curves: tuple[tuple[Point, ...], ...]
    peers: tuple[Point, ...]
    ratios: tuple[float, ...]


CASES = (
    Case("World Cup 98", "worldcup98_1min_jun30_1day.csv", 5000),
    Case("IBM CICS", "ibm_cics_15min_1week.csv", 2000),
    Case("Twitter", "twitter_1min_7d.csv", 450),
    Case("NASA", "nasa_http_1min_full.csv", 20),
)
PUBLISHED = {
    "World Cup 98": (
        ("HPA-0.8", 0.05, 32.7),
        ("React", 0.08, 17.5),
        ("Adapt", 0.62, 6.4),
        ("Reg", 0.56, 15.3),
        ("HPA-1.0", 0.89, 4.9),
        ("last", 1.41, 1.7),
        ("ConPaaS", 6.4, 5.3),
        ("Hist", 2.2, 155),
    ),
    "IBM CICS": (
        ("HPA-0.8", 1.2, 55),
        ("Adapt", 1.6, 54),
        ("React", 2.4, 49),
        ("Reg", 2.9, 71),
        ("last", 5.6, 9.6),
        ("HPA-1.0", 5.7, 9.8),
    ),
    "Twitter": (
        ("HPA-0.8", 0.68, 46),
        ("Adapt", 1.1, 12),
        ("HPA-1.0", 1.4, 16),
        ("Reg", 2.0, 36),
        ("last", 2.3, 3.4),
        ("React", 2.6, 27),
    ),
    "NASA": (
        ("HPA-0.8", 0.13, 99),
        ("Reg", 0.33, 86),
        ("Hist", 0.42, 122),
        ("HPA-1.0", 2.2, 43),
        ("React", 5.8, 49),
        ("last", 9.4, 17),
    ),
}


def main() -> int:
    """Run all, print the table, write ``docs/policies.md`` and ``docs/policies.png``."""
    parser = argparse.ArgumentParser(prog="bench.policies", description=__doc__)
    parser.add_argument("--traces", type=Path, default=DOCS.parent.parent / "shared" / "traces", metavar="DIR")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where policies.md and policies.png are written")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    if not args.traces.is_dir():
        parser.error(f"--traces: {args.traces} is not a directory; it must hold {', '.join(c.file for c in CASES)}")
    outcomes = measure(args.traces)
    text = page(outcomes)
    print(text)
    args.docs.mkdir(parents=True, exist_ok=True)
    (args.docs / "policies.md").write_text(text, encoding="utf-8")
    from bench import policies_picture

    policies_picture.draw(args.docs / "policies.png", outcomes)
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1), encoding="utf-8")
    return 0


def measure(folder: Path) -> list[Outcome]:
    """Return the outcome of each trace at each delay."""
    jobs = [(folder, case, lead) for lead in LEADS for case in CASES]
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        return list(pool.map(_outcome, *zip(*jobs, strict=True)))


def _outcome(folder: Path, case: Case, lead: int) -> Outcome:
    trace = traces.read(folder / case.file)
    runs = simulate.simulate(trace, case.requests_per_domain, lead, simulate.AUTO)
    curve = tuple((run.headroom, run.metrics.theta_u, run.metrics.theta_o) for run in runs)
    peers = tuple(_peers(trace, case, lead))
    ratios = tuple(ratio(curve, peer) for peer in peers)
    week = traces.Trace(trace.name, trace.step_s, trace.t_s[:SHIPPED_STEPS], trace.requests[:SHIPPED_STEPS])
    shipped = tuple(_shipped(week, case, policy) for policy in (Threshold(), TargetTracking())) if lead == 1 else ()
    curves = tuple(_shipped_curves(week, case)) if lead == 1 else ()
    return Outcome(case.title, lead, curve, shipped, curves, peers, ratios)


def ratio(curve: Sequence[tuple[float, float, float]], peer: Point) -> float:
    """Return our smallest θO at no larger θU over the peer's; infinite where no setting has so small a θU."""
    best = min((over for _, under, over in curve if under <= peer.theta_u), default=math.inf)
    return best / peer.theta_o


def _peers(trace: traces.Trace, case: Case, lead: int) -> Iterator[Point]:
    demand = [domains_for(requests, case.requests_per_domain) for requests in trace.requests]
    if lead == 1:
        yield from (Point(*values, is_published=True) for values in PUBLISHED[case.title])
    window = max(1, round(HPA_STABILIZATION_S / trace.step_s))
    supplies = {"last": _last(demand, lead)}
    for target in (0.8, 1.0):
        supplies[f"HPA-{target}"] = _hpa(demand, lead, target, window)
        if window > 1:
            supplies[f"HPA-{target} bare"] = _hpa(demand, lead, target, 1)
    for name, supply in supplies.items():
        metrics = elasticity(demand, supply, trace.step_s)
        yield Point(name, metrics.theta_u, metrics.theta_o, is_published=False)


def _last(demand: Sequence[int], lead: int) -> list[int]:
    return ([demand[0]] * lead + [max(1, d) for d in demand])[: len(demand)]


def _hpa(demand: Sequence[int], lead: int, target: float, window: int) -> list[int]:
    """Return what the Kubernetes HPA's rule supplies: ceil(current * use / target), a tolerance, the window's highest.

    ``window`` steps of scale-down stabilization are 5 minutes, the default of Kubernetes; 1 is none ("bare").
    """
    supply = [max(1, demand[0])] * lead
    wanted: list[int] = []
    for number, needed in enumerate(demand):
        current = supply[number]
        use = needed / (current * target)
        holds = abs(use - 1) <= HPA_TOLERANCE
        wanted.append(current if holds else max(1, math.ceil(round(current * use, 9))))
        supply.append(max(wanted[-window:]))
    return supply[: len(demand)]


def _shipped(trace: traces.Trace, case: Case, policy: Threshold | TargetTracking) -> Point:
    """Return what one of the decider's own policies reaches, cooldowns and windows on; only the bounds are wide."""
    group = Group.model_validate({"prefix": "web-", "min": 1, "max": 64, "policies": (policy,)})
    run = simulate_group.of_group(trace, case.requests_per_domain, 1, group, Config(groups={"web": group}))
    return Point(policy.type, run.metrics.theta_u, run.metrics.theta_o, is_published=False)


def _shipped_curves(trace: traces.Trace, case: Case) -> Iterator[tuple[Point, ...]]:
    """Yield each shipped policy with one ratio moved; a threshold's lower bound keeps its share of the upper one."""
    default = Threshold()
    share = default.low_ratio / default.high_ratio
    yield tuple(
        _shipped(trace, case, Threshold(high_ratio=ratio, low_ratio=round(ratio * share, 4)))
        for ratio in SHIPPED_SETTINGS
    )
    yield tuple(_shipped(trace, case, TargetTracking(target_ratio=ratio)) for ratio in SHIPPED_SETTINGS)


# --- the page -----------------------------------------------------------------------------------------------------

INTRODUCTION = """# Against the published autoscalers

`make bench-policies` repeats all of this. θU is the mean share of the demand that was missing, θO the mean share that
was too much, in percent: two of the elasticity metrics of SPEC's research group. A point is won by a setting with no
larger θU and a smaller θO. The ratio is our smallest θO at no larger θU over the peer's: less than 1 is a win.

Ours is one family, the same everywhere: `headroom` is the only knob, 40 settings (`--sweep headroom=auto`), cooldown
and stabilization off as for the peers. Nothing is set per trace. It is what `simulate` runs by default: it decides
alone, out and in. A live group's `predictive` policy makes the same forecast, but its vote is a floor: it scales out
only, and other policies, windows and cooldowns decide when to scale in. So the blue curve is what the forecast is
worth, not what a group with the default configuration reaches; that is the grey ones.

![The trade-off curves](policies.png)
"""

PEERS = """
Peers marked *published* were measured on these traces with their authors' code. The others are run by this command:
`last` supplies what the last known step needed; HPA follows the rule of Kubernetes (use = demand over supply,
tolerance 10 %), with its default of five minutes of scale-down stabilization, or *bare*, without. With 15-minute
steps both are the same. Our `last` agrees with the published points to the digit; HPA comes near them (World Cup,
HPA-1.0: 0.82 / 4.8 here, 0.89 / 4.9 published), its exact settings there are not known.
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the page: means, losses, and one table for each delay."""
    parts = [INTRODUCTION, _summary(outcomes), PEERS]
    for lead, group in itertools.groupby(outcomes, key=lambda one: one.lead):
        parts.append(_table(lead, list(group)))
    parts.append(_losses(outcomes))
    parts.append(_shipped_table(outcomes))
    parts.append(CHOSEN)
    return "\n".join(parts)


def mean_ratio(ratios: Sequence[float]) -> float:
    """Return the geometric mean. Ratios are kept within 0.001 and 1000, so that none decides alone.

    >>> round(mean_ratio([0.5, 2.0]), 6)
    1.0
    """
    return math.exp(sum(math.log(min(max(one, 1e-3), 1e3)) for one in ratios) / len(ratios))


def _summary(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "## In short\n",
        "| delay | peers | points | won | geometric mean of the ratios |",
        "|---|---|---|---|---|",
    ]
    for lead in LEADS:
        pairs = [pair for one in outcomes if one.lead == lead for pair in zip(one.peers, one.ratios, strict=True)]
        for title, chosen in (
            ("published", [value for peer, value in pairs if peer.is_published]),
            ("HPA and last, run here", [value for peer, value in pairs if not peer.is_published]),
        ):
            if chosen:
                won = sum(value < 1 for value in chosen)
                lines.append(f"| {_steps(lead)} | {title} | {len(chosen)} | {won} | **{mean_ratio(chosen):.2f}** |")
    return "\n".join(lines) + "\n"


def _table(lead: int, outcomes: Sequence[Outcome]) -> str:
    lines = [
        f"## Delay of {_steps(lead)}\n",
        "| trace | peer | θU | θO | our θO | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        for peer, value in zip(one.peers, one.ratios, strict=True):
            name = f"{peer.name} (published)" if peer.is_published else peer.name
            ours = f"{value * peer.theta_o:.2f}" if math.isfinite(value) else "-"
            mark = f"{value:.2f}" if value < 1 else f"**{value:.2f}, lost**"
            lines.append(f"| {one.case} | {name} | {peer.theta_u:.2f} | {peer.theta_o:.2f} | {ours} | {mark} |")
    return "\n".join(lines) + "\n"


def _losses(outcomes: Sequence[Outcome]) -> str:
    lost = [
        f"- {one.case}, {_steps(one.lead)}, {peer.name}: {peer.theta_u:.2f} / {peer.theta_o:.2f}, ratio {value:.2f}"
        for one in outcomes
        for peer, value in zip(one.peers, one.ratios, strict=True)
        if value >= 1
    ]
    return "\n".join(["## Where it does not win\n", *(lost or ["No point of these tables is lost."])]) + "\n" + LIMITS


def _shipped_table(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "\n## What is shipped, for comparison\n",
        SHIPPED,
        "| trace | policy | θU | θO |",
        "|---|---|---|---|",
    ]
    for one in outcomes:
        for point in one.shipped:
            lines.append(f"| {one.case} | {point.name} | {point.theta_u:.2f} | {point.theta_o:.2f} |")
    return "\n".join(lines) + "\n"


def _steps(lead: int) -> str:
    return "1 step" if lead == 1 else f"{lead} steps"


CHOSEN = """
## How the settings of the forecast were chosen

By reasoning first (what is minimised is the sum of relative errors, so a newsvendor's quantile of the demand counted
with 1/d; forecasters weighted by their recent score), then on other data: power use of a house by the minute, sales by
the quarter of an hour, bicycles and cars counted by the hour, three kinds of generated load, each whole and cut into
short pieces that start cold. These four traces were looked at beside them, and two things were taken from their
pictures: jobs start on the clock (Twitter), and slow forecasters are wrong after a jump (Twitter, CICS). A constant was
kept where all the data together preferred it, never for one trace; within a factor of two most of them hardly matter.
The first 8,000 of NASA's 84,332 steps were seen while choosing, the other nine tenths only in this table. So the
figures of the other three traces are optimistic to an unknown degree. The 40 settings of `headroom=auto` were chosen
on these and the other loads of the next section together.

## On other loads

Measured once, with the same 40 settings and the same HPA and `last`, not part of `make bench-policies`: 23 generated
loads (jobs on the clock, levels, flash crowds, random walks, pure noise, weeks by the hour), and these traces at other
domain sizes (World Cup 50 to 30,000 requests per domain, CICS 100 to 15,000, Twitter 100 to 1,500, NASA 2 to 60), added
up to 5, 15 and 60 minutes, and in pieces that start cold.

| delay | generated: points, won | mean ratio | other sizes, steps and pieces: points, won | mean ratio |
|---|---|---|---|---|
| 1 step | 105, 79 | 0.58 | 136, 121 | 0.61 |
| 2 steps | 105, 77 | 0.61 | 136, 131 | 0.65 |
| 5 steps | 105, 77 | 0.61 | 136, 123 | 0.69 |

What it loses, it loses mostly to HPA-0.8 (64 of 279 points), at high headroom where θU is a few jumps that nobody
foresees: random levels, steps and bursts cost 1.1 to 2.2 times its θO, a flash crowd 2.5, a day of Twitter that starts
cold 1.1 to 1.9, World Cup by 5 minutes 1.7 to 3.2, a weekly load by the quarter of an hour 4 to 8; a sawtooth from
which HPA misses next to nothing 20 to 37. After a jump the errors are believed to stay wide, and the rare jump is
spared for all the time, where HPA's plain 25 % is all that it takes. Against `last` 137 of 165 points are won. On CICS
that depends on the size of a domain and on the start: one step ahead 0.96 at 2,000 requests per domain, 1.00 at 100,
1.02 at 500, 1.09 at 5,000; five steps ahead a piece of two days lost with 1.18. Pure noise, a random walk, and three
hours alone lose to `last` by 1.05 to 1.3. With 500 domains in use `last` is lost with 1.1 (1.3 while capacities beyond
40 were weighed in steps of 2.5 %; what is left is the distance of the 40 settings: 1.03 with settings close together).

Tried against the long tail and not taken, because the loads together did not prefer it: counting how often each
quantile held and correcting it (worse at high headroom), a memory of errors five times as long, a third of the weight
for what is believed before any data, and, before, HPA's margin as a bound, or chosen by its past cost.

More load in the last step never asks for fewer domains, all else equal. What that costs, with 237 settings instead of
40: on these traces in all sizes and pieces the mean ratio went from 0.567 to 0.575 at one step and from 0.659 to 0.663
at five; on the generated loads from 0.553 to 0.539 at one step, and from 0.523 to 0.586 at five, where loads that
alternate or fall silent at night are now followed less closely.
"""
LIMITS = """
The ratios against `last` and HPA-1.0 are near 1 where a load is mostly noise of one step (NASA: counts of 40
requests a minute), because no forecast removes noise; and where a week of data is all there is (CICS), because the
daily pattern is known from the second day on and the weekly one never. A mean of 0.4 or less, which we wanted, is
reached against the published points at one step's delay, and against `last` and HPA alone at no delay. At five steps'
delay the bursts of Twitter begin and mostly end within the delay; only the time of the hour tells of them.

### How far hindsight gets

`python -m bench.policies_bound` asks what could be reached at all from what is known at the end of a step: the load,
its changes against the last step and against means over 5, 30 and 120 steps, the minute of the hour, the time of day. A
regression tree, grown on the whole trace, cuts the steps into leaves of alike moments; each leaf gets the capacity
that is best for its own steps, with the demand to come in sight. This is cheating on purpose, and a mark rather than a
strict bound: another tree may be better, small leaves know single steps by heart, and 672 steps (CICS) give few large
ones.

| geometric mean against HPA and last | 1 step | 2 steps | 5 steps |
|---|---|---|---|
| ours, learned while it runs | 0.66 | 0.71 | 0.82 |
| hindsight, at least 50 alike moments in a leaf | 0.74 | 0.71 | 0.60 |
| hindsight, at least 20 (much of it by heart) | 0.52 | 0.52 | 0.42 |

So a mean of 0.4 against `last` and HPA is out of reach at all three delays, even for one who has read the end.
At five steps there is room: hindsight is ahead of us on Twitter (0.29 to 0.47), where jobs start on the clock, and on
CICS. Tried there (NASA's first 5,000 steps) and not taken, because the mean, then 0.81, moved by 0.02 at most: a longer
memory for the minute of the hour, more weight for its data, the profile of the hour as a forecaster of its own, slower
weights of the experts, and errors that overlap counted less.
"""
SHIPPED = """The decider's other policies with their shipped windows, cooldowns and step limits, bounds 1 to 64,
at a delay of one step over the first week at most. In the picture each is a curve too, with the ratio that says how
busy a domain may be at 0.5 to 0.95 (the threshold's `high_ratio`, its `low_ratio` in proportion; the tracking's
`target_ratio`). They look at CPU use alone and take their time on purpose: they
protect against flapping, which θ does not count.
"""


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except AutoscalerError as error:
        raise SystemExit(f"bench: {error}") from error
