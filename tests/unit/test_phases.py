"""The table of fates is total, and says nothing that contradicts itself."""

import pytest

from common.config import Group
from common.phases import FATES, OnDeadline, Phase


def test_every_phase_has_a_fate_and_nothing_else_has() -> None:
    assert set(FATES) == set(Phase)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_deadline_is_a_setting_of_the_group_and_something_follows(phase: Phase) -> None:
    fate = FATES[phase]
    if fate.deadline is not None:
        assert fate.deadline in Group.model_fields
        assert fate.on_deadline is not OnDeadline.STAY


@pytest.mark.parametrize("phase", list(Phase))
def test_what_takes_traffic_counts_as_capacity(phase: Phase) -> None:
    assert FATES[phase].is_capacity or not FATES[phase].takes_traffic


@pytest.mark.parametrize("phase", list(Phase))
def test_a_victim_is_picked_from_capacity_only(phase: Phase) -> None:
    assert FATES[phase].is_capacity or not FATES[phase].may_be_victim


def test_booting_domains_count_towards_capacity() -> None:
    assert {phase for phase, fate in FATES.items() if fate.is_capacity} == {
        Phase.CREATING,
        Phase.BOOTING,
        Phase.WARMING,
        Phase.READY,
    }
