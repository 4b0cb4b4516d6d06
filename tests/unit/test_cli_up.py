"""When ``up`` waits on, and when it gives up because nothing is on its way."""

import pytest

from cli.stack import is_stuck
from common.messages import Member, Membership
from common.phases import FATES, Phase


def membership(*phases: Phase, blocked: str = "the guest image is not usable") -> Membership:
    members = tuple(
        Member(name=f"web-{i:04d}", uuid=f"u{i}", host="local", phase=phase, since_s=0, age_s=0, address=None, port=80)
        for i, phase in enumerate(phases)
    )
    return Membership(
        group="web", generation_seen=1, desired_seen=1, members=members, owned_total=1, ceiling=2, blocked=blocked
    )


def test_up_waits_for_an_actuator_that_has_not_spoken() -> None:
    assert not is_stuck(None)


def test_up_waits_while_nothing_stands_in_the_way() -> None:
    assert not is_stuck(membership(blocked=""))


def test_nothing_there_and_a_reason_why_is_stuck() -> None:
    assert is_stuck(membership())


@pytest.mark.parametrize("phase", Phase)
def test_a_domain_that_counts_as_capacity_is_waited_for(phase: Phase) -> None:
    assert is_stuck(membership(phase)) is not FATES[phase].is_capacity
