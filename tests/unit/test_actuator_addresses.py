"""A user's domain whose address is not found: what fails says so, and names what else can be tried."""

from dataclasses import replace

import pytest

from common.phases import Phase
from services.actuator.core.plan import plan
from services.actuator.core.seen import Seen, Wanted
from services.actuator.core.steps import SetPhase
from tests.unit.test_actuator_plan import NOW_S, ONE, domain, seen, wanted

LEASE = "its address is not known by lease; try arp, agent or static"


def existing(**changes: object) -> Wanted:
    return wanted(1, kind="existing", boot_timeout_s=90.0, **changes)


def reason(want: Wanted, see: Seen) -> str:
    (step,) = plan(want, see, NOW_S).steps
    assert isinstance(step, SetPhase)
    return step.reason


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({}, LEASE),
        ({"address_source": "arp"}, "its address is not known by arp; try lease, agent or static"),
        ({"address_source": "static", "addresses": {"web-0001": "10.0.0.5"}}, "addresses names none for it"),
    ],
)
def test_a_start_that_fails_for_want_of_an_address_says_so(source: dict[str, object], told: str) -> None:
    found = reason(existing(**source), seen(domain(ONE, Phase.BOOTING, age_s=91)))
    assert found == f"no right answer within 90 s ({told})"


def test_a_domain_that_ran_before_us_is_left_with_the_reason_and_a_note() -> None:
    adopted = domain(ONE, Phase.BOOTING, age_s=91, started_mono_s=None)
    assert reason(existing(), seen(adopted)).endswith(f"({LEASE})")
    found = plan(existing(), seen(domain(ONE, Phase.STANDBY)), NOW_S)
    assert f"{ONE}: {LEASE}" in found.blocked


def test_a_known_address_is_no_reason() -> None:
    found = replace(domain(ONE, Phase.BOOTING, age_s=91), address="10.0.0.5")
    assert reason(existing(), seen(found)) == "no right answer within 90 s"
