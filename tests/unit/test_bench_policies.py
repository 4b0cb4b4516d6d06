"""The parts of the policies' benchmark that are no measurement: where names stand, and how hindsight decides."""

import numpy as np

from bench.policies import SHIPPED_SETTINGS, Case, _shipped_curves
from bench.policies_bound import best, cut, described, grown
from bench.policies_picture import LINE_PX, _free
from cli.traces import synthetic


def test_a_name_is_moved_until_it_meets_nothing() -> None:
    placed = [(0.0, 50.0, 100.0)]
    assert _free(placed, 60.0, 50.0, 100.0, 0.0) == 100.0
    assert abs(_free(placed, 40.0, 50.0, 100.0, 0.0) - 100.0) >= LINE_PX
    assert _free(placed, 40.0, 50.0, 100.0, 95.0) == 100.0 + LINE_PX


def test_a_shipped_policy_is_a_curve_of_which_a_busier_ratio_spares_less() -> None:
    load = synthetic("diurnal", 1, steps=200, step_s=900.0)
    threshold, tracking = _shipped_curves(load, Case("", "", 150.0))
    for curve, name in ((threshold, "threshold"), (tracking, "target-tracking")):
        assert [point.name for point in curve] == [name] * len(SHIPPED_SETTINGS)
        over = [point.theta_o for point in curve]
        assert over == sorted(over, reverse=True)
        assert curve[0].theta_u <= curve[-1].theta_u


def test_hindsight_cuts_where_the_demand_differs_and_takes_the_weighted_quantile() -> None:
    known = np.arange(200.0)[:, None]
    demand = np.where(np.arange(200) < 100, 2, 8)
    assert cut(known, demand.astype(float), 150) is None
    leaves = grown(known, demand.astype(float), 20)
    assert sum(map(len, leaves)) == 200
    assert np.array_equal(best(demand, leaves, 1.0), demand)
    assert described(np.arange(1.0, 50.0), 60.0).shape == (49, 7)
