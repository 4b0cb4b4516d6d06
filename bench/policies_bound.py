"""``python -m bench.policies_bound``: what hindsight reaches that knows no more of each moment than a forecast can.

Each step of a trace is described by what is known at its end: the load, its changes against the last step and against
means over 5, 30 and 120 steps, the minute of the hour, the time of day. A regression tree over these, grown on the
*whole* trace, cuts the steps into leaves of at least ``LEAF`` alike ones. For every weight of too few against too
many, each leaf gets the capacity that is best for its own steps, with the demand to come in sight. A forecast must
learn while it runs what this reads from the end. It is a mark, not a strict bound: another way of cutting may be
better, and small leaves know single steps by heart. The ratios to the peers are formed as in ``bench.policies``.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.policies import CASES, DOCS, LEADS, Case, Point, _peers, mean_ratio, ratio
from cli import traces
from services.decider.core.demand import domains_for, elasticity

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LEAF = 50
CUTS = 15
MEANS = (5, 30, 120)
WEIGHTS = tuple(math.exp(2 * headroom) / 4 for headroom in np.linspace(0, 5.5, 45))


def main() -> int:
    """Print the ratios that hindsight reaches, for each delay."""
    parser = argparse.ArgumentParser(prog="bench.policies_bound", description=__doc__)
    parser.add_argument("--traces", type=Path, default=DOCS.parent.parent / "shared" / "traces", metavar="DIR")
    parser.add_argument(
        "--leaf", type=int, default=LEAF, help="alike moments in a leaf, at least (default: %(default)s)"
    )
    args = parser.parse_args()
    for lead in LEADS:
        found = [pair for case in CASES for pair in ratios(args.traces, case, lead, args.leaf)]
        own = [value for peer, value in found if not peer.is_published]
        print(f"delay {lead}: geometric mean {mean_ratio(own):.2f} over {len(own)} points of HPA and last")
    return 0


def ratios(folder: Path, case: Case, lead: int, leaf: int) -> Iterator[tuple[Point, float]]:
    """Yield each peer's point, and hindsight's smallest θO at no larger θU over the peer's."""
    trace = traces.read(folder / case.file)
    demand = np.array([domains_for(requests, case.requests_per_domain) for requests in trace.requests])
    known = described(np.array(trace.requests, dtype=float), trace.step_s)[:-lead]
    leaves = grown(known, np.log1p(demand[lead:].astype(float)), leaf)
    curve = []
    for weight in WEIGHTS:
        supply = [int(demand[0])] * lead + best(demand[lead:], leaves, weight).tolist()
        metrics = elasticity(demand.tolist(), supply, trace.step_s)
        curve.append((weight, metrics.theta_u, metrics.theta_o))
    for peer in _peers(trace, case, lead):
        yield peer, ratio(curve, peer)


def described(requests: Floats, step_s: float) -> Floats:
    """Return one row for each step: what is known at its end."""
    load = np.log(requests + 0.01 * requests.mean() + 1e-9)
    sums = np.concatenate(((0.0,), np.cumsum(requests)))
    at = np.arange(1, len(requests) + 1)
    means = [(sums[at] - sums[np.maximum(at - width, 0)]) / np.minimum(at, width) for width in MEANS]
    ratios_to = [load - np.log(mean + 0.01 * requests.mean() + 1e-9) for mean in means]
    seconds = np.arange(len(requests)) * step_s
    before = np.concatenate((load[:1], load[:-1]))
    return np.column_stack((load, load - before, *ratios_to, seconds % 3600, seconds % 86400 // 900))


def grown(known: Floats, target: Floats, leaf: int) -> list[Ints]:
    """Return the steps of each leaf of a regression tree."""
    waiting, leaves = [np.arange(len(target))], []
    while waiting:
        rows = waiting.pop()
        halves = cut(known[rows], target[rows], leaf)
        if halves is None:
            leaves.append(rows)
        else:
            waiting += [rows[halves], rows[~halves]]
    return leaves


def cut(known: Floats, target: Floats, leaf: int) -> npt.NDArray[np.bool_] | None:
    """Return the cut that explains most of the target's variance; None where no half would be large enough."""
    best_gain, chosen = 1e-12, None
    total = target.sum()
    for column in known.T:
        for edge in np.unique(np.quantile(column, np.linspace(0, 1, CUTS + 2)[1:-1])):
            left = column <= edge
            count = int(left.sum())
            if count < leaf or len(target) - count < leaf:
                continue
            part = target[left].sum()
            gain = part**2 / count + (total - part) ** 2 / (len(target) - count) - total**2 / len(target)
            if gain > best_gain:
                best_gain, chosen = gain, left
    return chosen


def best(demand: Ints, leaves: list[Ints], weight: float) -> Ints:
    """Return for each step its leaf's best capacity: the weighted quantile of the demand, each counted with 1/d."""
    supply = np.zeros(len(demand), dtype=np.int64)
    for rows in leaves:
        own = np.sort(demand[rows])
        share = np.cumsum(1 / np.maximum(own, 1))
        at = int(share.searchsorted(share[-1] * weight / (1 + weight)))
        supply[rows] = max(1, int(own[min(at, len(own) - 1)]))
    return supply


if __name__ == "__main__":
    raise SystemExit(main())
