"""From the decision to rotation: when it counts from, how it is kept and told, and who uses it."""

from dataclasses import replace

import pytest

from common.messages import LeadTime, Member, Membership
from common.phases import Phase
from services.actuator.core.lead_times import DECISION_S, decided_s, measured, told
from services.actuator.core.plan import context_of
from services.actuator.core.steps import Define, SetPhase
from services.decider.core.metrics import lead_s
from tests.unit.test_actuator_plan import NOW_S, domain, seen, steps, wanted


def decided(at_s: float | None, boot_id: str = "b"):
    base = wanted(1)
    assert base.desired is not None
    return replace(base, desired=base.desired.model_copy(update={"decided_mono_s": at_s, "boot_id": boot_id}))


@pytest.mark.parametrize(
    ("at_s", "boot_id", "counts_from_s"),
    [
        (NOW_S - 0.2, "b", NOW_S - 0.2),
        (NOW_S - 0.2, "another boot", NOW_S),
        (NOW_S - DECISION_S - 1, "b", NOW_S),  # something held it up
        (NOW_S + 5, "b", NOW_S),
        (None, "b", NOW_S),
    ],
)
def test_a_start_counts_from_its_decision(at_s: float | None, boot_id: str, counts_from_s: float) -> None:
    (step,) = steps(decided(at_s, boot_id), seen())
    assert isinstance(step, Define) and step.record.decided_mono_s == counts_from_s
    assert decided_s(context_of(decided(at_s, boot_id), seen(), NOW_S)) == counts_from_s


def ready_step(lead: float | None, tier: str = "") -> SetPhase:
    record = domain("web-0000", Phase.READY).record
    assert record is not None
    return SetPhase(group="web", host="local", domain="web-0000", uuid="u0", reason="", tier=tier, record=record,
                    was=Phase.WARMING, lead_s=lead)  # fmt: skip


def test_lead_times_are_kept_by_tier_and_host_and_told() -> None:
    kept: dict[str, list[float]] = {}
    for lead, tier in ((3.0, ""), (4.0, ""), (0.1, "paused"), (None, "")):
        found = measured(ready_step(lead, tier))
        if found is not None:
            kept.setdefault(found[0], []).append(found[1])
    assert told("web", kept) == (
        LeadTime(tier="", host="local", n=2, p50_s=3.0, p95_s=4.0),
        LeadTime(tier="paused", host="local", n=1, p50_s=0.1, p95_s=0.1),
    )
    assert told("other", kept) == ()


def membership(*members: tuple[Phase, str]) -> Membership:
    return Membership(
        group="web", generation_seen=1, desired_seen=1, owned_total=1, ceiling=5, boot_p95_s=9.0,
        members=tuple(
            Member(name=f"w{i}", uuid=f"u{i}", host="a", phase=phase, since_s=0, age_s=i, address=None, port=1, tier=t)
            for i, (phase, t) in enumerate(members)
        ),
        lead_times=tuple(
            LeadTime(tier=tier, host=host, n=1, p50_s=p95_s, p95_s=p95_s)
            for tier, host, p95_s in (("", "a", 4.0), ("", "b", 5.0), ("clone", "a", 1.0), ("paused", "a", 0.2))
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("members", "expected_s"),
    [
        ([], 5.0),  # cold, the slowest host
        ([(Phase.READY, "")], 5.0),
        ([(Phase.READY, "clone"), (Phase.READY, "")], 1.0),  # the newest was cloned
        ([(Phase.READY, ""), (Phase.STANDBY, "saved"), (Phase.STANDBY, "paused")], 0.2),
        ([(Phase.STANDBY, "saved")], 9.0),  # never measured
    ],
)
def test_the_horizon_is_the_lead_time_of_the_tier_that_comes_next(
    members: list[tuple[Phase, str]], expected_s: float
) -> None:
    assert lead_s(membership(*members)) == expected_s
