"""Demand in domains, and the SPEC elasticity metrics of a supply against it.

Source: Herbst et al., "Ready for Rain? A View from SPEC Research on the Future of Cloud Metrics" (2016). ``upsilon`` is
its instability: the share of steps in which supply and demand do not move in the same direction. Steps without
demand add nothing to theta, but count as time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Elasticity:
    """Percentages, means in domains, counts of domains started and stopped, direction changes of the supply."""

    theta_u: float
    theta_o: float
    tau_u: float
    tau_o: float
    upsilon: float
    mean_supply: float
    mean_demand: float
    starts: int
    stops: int
    direction_changes_per_hour: float


def domains_for(requests: float, requests_per_domain: float) -> int:
    """Return the domains that ``requests`` in one step need, each serving ``requests_per_domain`` in it.

    >>> domains_for(101, 50), domains_for(100, 50), domains_for(0, 50)
    (3, 2, 0)
    """
    return math.ceil(requests / requests_per_domain)


def elasticity(demand: Sequence[int], supply: Sequence[int], step_s: float) -> Elasticity:
    """Return the metrics of ``supply`` against ``demand``, both in domains, one value for each step of ``step_s``."""
    d, s = np.asarray(demand, dtype=float), np.asarray(supply, dtype=float)
    share = 100 / len(d)
    relative = np.divide(d - s, d, out=np.zeros_like(d), where=d > 0)
    moves = np.diff(s)
    upsilon = 100 * float(np.mean(np.sign(moves) != np.sign(np.diff(d)))) if len(d) > 1 else 0.0
    turns = np.sign(moves[moves != 0])
    hours = len(d) * step_s / 3600
    return Elasticity(
        theta_u=share * float(np.maximum(relative, 0).sum()),
        theta_o=share * float(np.maximum(-relative, 0).sum()),
        tau_u=share * float((d > s).sum()),
        tau_o=share * float((s > d).sum()),
        upsilon=upsilon,
        mean_supply=float(s.mean()),
        mean_demand=float(d.mean()),
        starts=int(np.maximum(moves, 0).sum()),
        stops=int(np.maximum(-moves, 0).sum()),
        direction_changes_per_hour=float((turns[1:] != turns[:-1]).sum()) / hours,
    )
