"""CPU ratios from counters: facts, and what must hold for any counter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain import CpuReading, DomainState, HostCpu
from services.monitor.core.rates import EPSILON, STUCK_TICKS, Counter, counter, cpu_ratio, idle_cpus
from tests.faults.proof import Proof

MAX_GAP_S = 2.5


def read(cpu_time_s: float | None, at_s: float, allotted: float | None = 1.0, state: DomainState = DomainState.RUNNING):
    return CpuReading("web-0000", "u0", state, cpu_time_s, allotted, at_s)


def ratios(*readings: CpuReading) -> list[float | None]:
    last: Counter | None = None
    found = []
    for reading in readings:
        now = counter(last, reading)
        found.append(cpu_ratio(last, now, MAX_GAP_S))
        last = now
    return found


def test_the_first_reading_has_no_ratio() -> None:
    assert ratios(read(5.0, 0.0)) == [None]


def test_ratio_is_cpu_time_over_elapsed_time_and_allotment() -> None:
    assert ratios(read(5.0, 0.0, 2.0), read(6.0, 1.0, 2.0)) == [None, pytest.approx(0.5)]


def test_half_a_cpu_used_whole_is_a_full_ratio() -> None:
    assert ratios(read(5.0, 0.0, 0.5), read(5.5, 1.0, 0.5)) == [None, pytest.approx(1.0)]


def test_an_uneven_interval_changes_nothing() -> None:
    assert ratios(read(0.0, 0.0), read(0.6, 1.2)) == [None, pytest.approx(0.5)]


@pytest.mark.fault(31)
def test_a_counter_that_went_backwards_is_unknown_and_then_known_again(row: Proof) -> None:
    assert ratios(read(9.0, 0.0), read(1.0, 1.0), read(1.5, 2.0)) == [None, None, pytest.approx(0.5)]
    row.held("in the core alone: a counter of 9 s, then 1 s, without any event between them, is unknown for that tick")


def test_a_changed_allotment_makes_one_interval_unknown() -> None:
    found = ratios(read(0.0, 0.0, 1.0), read(0.5, 1.0, 0.5), read(0.75, 2.0, 0.5))
    assert found == [None, None, pytest.approx(0.5)]


def test_a_counter_that_stands_still_becomes_unknown_after_three_ticks() -> None:
    still = [read(7.0, float(tick)) for tick in range(6)]
    assert ratios(*still) == [None, 0.0, 0.0, None, None, None]
    assert STUCK_TICKS == 3


def test_a_stuck_counter_that_moves_again_is_known_again() -> None:
    still = [read(7.0, float(tick)) for tick in range(5)]
    assert ratios(*still, read(7.5, 5.0))[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("state", [state for state in DomainState if state is not DomainState.RUNNING])
def test_only_a_running_domain_has_a_ratio(state: DomainState) -> None:
    assert ratios(read(0.0, 0.0), read(0.5, 1.0, state=state), read(1.0, 2.0)) == [None, None, None]


@pytest.mark.parametrize(("cpu_time_s", "allotted"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_a_reading_without_counter_or_allotment_is_unknown(cpu_time_s: float | None, allotted: float | None) -> None:
    assert ratios(read(0.0, 0.0), read(cpu_time_s, 1.0, allotted)) == [None, None]


def test_readings_too_far_apart_are_not_compared() -> None:
    assert ratios(read(0.0, 0.0), read(0.1, 60.0)) == [None, None]


def test_two_readings_at_one_moment_are_not_compared() -> None:
    assert ratios(read(0.0, 1.0), read(0.5, 1.0)) == [None, None]


@given(
    before=st.floats(0, 1e9),
    after=st.floats(0, 1e9),
    start_s=st.floats(0, 1e7),
    elapsed_s=st.floats(-10, 1000),
    allotted=st.floats(0.001, 1024),
)
def test_a_ratio_is_within_0_and_1_plus_epsilon(
    before: float, after: float, start_s: float, elapsed_s: float, allotted: float
) -> None:
    found = ratios(read(before, start_s, allotted), read(after, start_s + elapsed_s, allotted))[1]
    assert found is None or 0 <= found <= 1 + EPSILON


def limited(cpu_time_s: float, at_s: float, allotted: float) -> CpuReading:
    return CpuReading("web-0000", "u0", DomainState.RUNNING, cpu_time_s, allotted, at_s, is_limited=True)


def test_a_raised_quota_leaves_the_ratio_known() -> None:
    assert ratios(limited(0.0, 0.0, 0.4), limited(0.7, 1.0, 1.0)) == [None, pytest.approx(0.7)]


def test_a_lowered_quota_shows_what_was_used_beyond_it() -> None:
    found = ratios(limited(0.0, 0.0, 1.0), limited(0.9, 1.0, 0.4), limited(1.3, 2.0, 0.4))
    assert found == [None, pytest.approx(0.9 / 0.4), pytest.approx(1.0)]


def test_the_first_quota_of_a_booted_domain_makes_one_interval_unknown() -> None:
    assert ratios(read(0.0, 0.0, 1.0), limited(0.9, 1.0, 0.4), limited(1.1, 2.0, 0.4)) == [
        None,
        None,
        pytest.approx(0.5),
    ]


def test_readings_at_almost_the_same_time_tell_nothing() -> None:
    assert ratios(read(1.0, 0.0, 0.4), read(1.0, 5e-324, 0.4))[1] is None


def test_idle_cpus_are_idle_time_over_elapsed_time() -> None:
    assert idle_cpus(HostCpu(2, 10.0, 0.0), HostCpu(2, 11.5, 1.0), MAX_GAP_S) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (None, HostCpu(2, 1.0, 1.0)),
        (HostCpu(2, 1.0, 0.0), None),
        (HostCpu(2, 5.0, 0.0), HostCpu(2, 1.0, 1.0)),
        (HostCpu(2, 0.0, 0.0), HostCpu(4, 1.0, 1.0)),
        (HostCpu(2, 0.0, 0.0), HostCpu(2, 1.0, 60.0)),
        (HostCpu(2, 0.0, 1.0), HostCpu(2, 1.0, 1.0)),
    ],
)
def test_idle_cpus_without_a_fitting_pair_are_unknown(before: HostCpu | None, now: HostCpu | None) -> None:
    assert idle_cpus(before, now, MAX_GAP_S) is None


def test_a_host_is_never_more_idle_than_it_has_cpus() -> None:
    assert idle_cpus(HostCpu(2, 0.0, 0.0), HostCpu(2, 2.1, 1.0), MAX_GAP_S) == 2.0
