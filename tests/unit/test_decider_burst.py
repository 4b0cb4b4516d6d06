"""How what is spare is shared, and what a CPU ratio means while a quota is raised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import HostSample
from services.decider.core.burst import Base, share
from services.decider.core.seen import read_sample

CPUS = st.floats(0, 64)
WANTED = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), CPUS, max_size=8)
HAIR = 1e-9


@given(spare=st.floats(-4, 64), wanted=WANTED)
def test_no_more_is_shared_than_is_spare_or_wanted(spare: float, wanted: dict[str, float]) -> None:
    granted = share(spare, wanted)
    assert granted.keys() == wanted.keys()
    assert sum(granted.values()) <= max(spare, 0.0) + HAIR
    assert all(0 <= granted[name] <= wanted[name] for name in wanted)


@given(spare=CPUS, wanted=WANTED)
def test_nothing_is_kept_back_while_somebody_wants_it(spare: float, wanted: dict[str, float]) -> None:
    assert sum(share(spare, wanted).values()) == pytest.approx(min(spare, sum(wanted.values())), abs=1e-6)


@given(spare=CPUS, wanted=WANTED)
def test_whoever_goes_short_has_as_much_as_anybody(spare: float, wanted: dict[str, float]) -> None:
    """Max-min fair: nobody could get more without taking from one who has no more than it."""
    granted = share(spare, wanted)
    short = [granted[name] for name in wanted if granted[name] < wanted[name] - HAIR]
    assert all(got >= max(granted.values()) - 1e-6 for got in short)


@given(spare=CPUS, wanted=WANTED)
def test_the_order_of_groups_does_not_matter(spare: float, wanted: dict[str, float]) -> None:
    assert share(spare, dict(reversed(wanted.items()))) == share(spare, wanted)


@pytest.mark.parametrize(
    ("ratio", "allotted", "expected"),
    [
        (0.5, 0.4, 0.5),  # no burst
        (1.0, 1.0, 2.5),  # all of a raised quota
        (0.2, 1.0, 0.5),  # little of a raised quota
        (2.25, 0.4, 2.25),  # lowered a moment ago
        (1.04, 0.4, 1.0),  # two clocks
        (1.0, 0.2, 1.0),  # throttled by hand: full is full
    ],
)
def test_a_ratio_is_against_the_configured_allotment(ratio: float, allotted: float, expected: float) -> None:
    sample = HostSample(
        host="local", interval_s=1.0, is_reachable=True,
        names=("web-0000",), uuids=("u0",), states=("running",), cpu_ratios=(ratio,), allotted_cpus=(allotted,),
    )  # fmt: skip
    reading = read_sample(sample, 1.0, "id")
    plain = reading.ratios["web-0000"][1]
    assert plain is not None
    assert Base(0.4).ratio(reading, "web-0000", plain) == pytest.approx(expected)
