"""Members in rotation get the quota that the decider says, and lose it again, whatever dies in between."""

from dataclasses import replace
from typing import Any

import pytest

from common.config_capacity import Burst
from common.errors import HypervisorLostError
from common.phases import Phase
from services.actuator.core.membership import PROBED_S, membership
from services.actuator.core.plan import plan
from services.actuator.core.record import parse
from services.actuator.core.seen import Probe, Wanted
from services.actuator.core.steps import SetPhase, SetQuota
from services.actuator.perform import perform
from tests.unit.test_actuator_plan import NOW_S, ONE, RUNNING, brief, domain, record, seen, steps, wanted

KEY = (ONE, f"u-{ONE}")


def bursting(quota: float | None, *, is_fresh: bool = True, is_enabled: bool = True) -> Wanted:
    base = wanted(1, burst=Burst(enabled=is_enabled, max_quota=0.9))
    assert base.desired is not None
    return replace(base, desired=base.desired.model_copy(update={"burst_quota": quota}), is_desired_fresh=is_fresh)


def quota_step(want: Wanted, **changes: Any) -> SetQuota | None:
    found = steps(want, seen(domain(ONE, **changes)))
    assert all(isinstance(step, SetQuota) for step in found)
    return found[0] if found else None  # type: ignore[return-value]


def test_a_member_in_rotation_gets_the_quota_that_the_decider_says() -> None:
    step = quota_step(bursting(0.8))
    assert step is not None
    assert (step.cpu_quota, step.record.cpu_quota, step.is_raised) == (0.8, 0.8, True)
    assert quota_step(bursting(0.8), cpu_quota=0.8) is None


@pytest.mark.parametrize(
    "want",
    [
        bursting(None),
        bursting(0.8, is_fresh=False),  # the decider is silent
        bursting(0.8, is_enabled=False),  # switched off meanwhile
    ],
)
def test_it_loses_the_quota_when_nobody_vouches_for_it(want: Wanted) -> None:
    step = quota_step(want, cpu_quota=0.8)
    assert step is not None
    assert (step.cpu_quota, step.record.cpu_quota, step.is_raised) == (0.4, None, False)
    assert quota_step(want) is None


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_a_burst_is_given_back_when_a_group_is_switched_off_and_nothing_else_is_done(mode: str) -> None:
    want = bursting(None)
    assert want.desired is not None
    want = replace(want, desired=want.desired.model_copy(update={"mode": mode, "desired": 3}))
    step = quota_step(want, cpu_quota=0.8)
    assert step is not None and (step.cpu_quota, step.record.cpu_quota) == (0.4, None)
    assert quota_step(want) is None


def test_no_quota_goes_beyond_the_configured_bounds() -> None:
    above, below = quota_step(bursting(1.0)), quota_step(bursting(0.1), cpu_quota=0.8)
    assert above is not None and below is not None
    assert (above.cpu_quota, below.cpu_quota) == (0.9, 0.4)


@pytest.mark.parametrize("phase", [Phase.BOOTING, Phase.DRAINING, Phase.STANDBY, Phase.STOPPING])
def test_only_members_in_rotation_burst(phase: Phase) -> None:
    found = steps(bursting(0.8), seen(domain(ONE, phase)))
    assert not any(isinstance(step, SetQuota) for step in found)


def test_a_booted_domain_gets_its_own_quota_before_any_burst() -> None:
    (step,) = steps(bursting(0.8), seen(domain(ONE, Phase.WARMING, age_s=1.0, is_boosted=True)))
    assert isinstance(step, SetQuota) and step.cpu_quota == 0.4


class DyingHost:
    """Notes the calls; the actuator dies before the call number ``dies_at``."""

    def __init__(self, dies_at: int) -> None:
        self.calls: list[str] = []
        self._dies_at = dies_at

    def facts(self, name: str) -> Any:
        return type("Facts", (), {"uuid": f"u-{name}", "metadata": {"group": "web"}})()

    def set_quota(self, name: str, uuid: str, cpu_quota: float | None) -> None:
        self._note(f"quota {cpu_quota}")

    def set_metadata(self, name: str, uuid: str, metadata: dict[str, str]) -> None:
        self._note(f"record {metadata['cpu_quota'] or 'configured'}")

    def _note(self, call: str) -> None:
        if len(self.calls) == self._dies_at:
            raise HypervisorLostError("the actuator was killed")
        self.calls.append(call)


@pytest.mark.parametrize(
    ("want", "has", "calls"),
    [
        (bursting(0.8), None, ["record 0.80", "quota 0.8"]),
        (bursting(None), 0.8, ["quota 0.4", "record configured"]),
    ],
)
def test_a_raised_quota_always_stands_in_the_record(want: Wanted, has: float | None, calls: list[str]) -> None:
    step = quota_step(want, cpu_quota=has)
    assert step is not None
    for dies_at in range(3):
        host = DyingHost(dies_at)
        try:
            perform(host, step, None)  # type: ignore[arg-type]
        except HypervisorLostError:
            assert dies_at < 2
        assert host.calls == calls[:dies_at]


def test_the_record_keeps_what_a_burst_and_a_start_need() -> None:
    full = record(ONE, cpu_quota=0.85, decided_mono_s=12.5, probed_mono_s=13.5)
    assert parse(full.to_metadata()) == full
    older = {key: value for key, value in full.to_metadata().items() if not key.endswith("mono_s") or "since" in key}
    del older["cpu_quota"]
    found = parse(older)
    assert found is not None and (found.cpu_quota, found.decided_mono_s, found.probed_mono_s) == (None, None, None)


# --- joining without waiting ------------------------------------------------------------------------------------------


def shown(see: Any) -> tuple[Phase, bool]:
    want = wanted(1)
    (member,) = membership(want, see, plan(want, see, NOW_S), (), NOW_S).members
    return member.phase, member.is_probed


def test_who_answers_is_told_to_be_warming_before_its_record_says_so() -> None:
    booting = domain(ONE, Phase.BOOTING)
    assert shown(seen(booting)) == (Phase.BOOTING, False)
    assert shown(seen(booting, probes={KEY: Probe(False)})) == (Phase.BOOTING, False)
    answers = seen(booting, probes={KEY: Probe(True)})
    assert shown(answers) == (Phase.WARMING, True)
    (member,) = membership(wanted(1), answers, plan(wanted(1), answers, NOW_S), (), NOW_S).members
    assert (member.age_s, member.since_s) == (0.0, answers.epoch_s)
    (step,) = steps(wanted(1), answers)
    assert isinstance(step, SetPhase) and step.record.probed_mono_s == NOW_S
    assert shown(seen(booting, in_flight=(step,))) == (Phase.WARMING, True)


def test_a_probe_counts_for_a_moment_only() -> None:
    for age_s, is_probed in ((0.5, True), (PROBED_S + 0.5, False)):
        warming = domain(ONE, Phase.WARMING, RUNNING, age_s, probed_mono_s=NOW_S - age_s)
        assert shown(seen(warming)) == (Phase.WARMING, is_probed)
    assert shown(seen(domain(ONE, Phase.WARMING, RUNNING, 0.1))) == (Phase.WARMING, False)  # its drain was cancelled


def test_who_is_to_stand_by_is_not_taken_in_when_it_answers() -> None:
    booting = domain(ONE, Phase.BOOTING, tier="paused")
    assert shown(seen(booting, probes={KEY: Probe(True)})) == (Phase.STANDBY, False)


def test_a_lead_time_ends_with_the_first_rotation() -> None:
    warming = domain(ONE, Phase.WARMING, decided_mono_s=NOW_S - 3.0)
    (step,) = steps(wanted(1), seen(warming))
    assert brief((step,)) == [f"SetPhase {ONE} ready"]
    assert isinstance(step, SetPhase) and (step.lead_s, step.record.decided_mono_s) == (3.0, None)
    (again,) = steps(wanted(1), seen(domain(ONE, Phase.WARMING)))
    assert isinstance(again, SetPhase) and again.lead_s is None
