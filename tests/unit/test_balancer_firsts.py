"""Slots whose last check was somebody else's: until another result is shown, nothing is made of it."""

from dataclasses import replace

import pytest

from services.balancer.core.answers import Admin, Server
from services.balancer.core.backends import Assign, Avoid, KeepUp, SetReady, StartChecks, Step
from services.balancer.core.firsts import begun, follow, own
from tests.unit.test_balancer_backends import owner, server

NEW = server(1, Admin.READY, status="UP 1/3", check="L4TOUT")  # of whoever had the slot before
ASSIGN = Assign("vm1", owner(1), is_trusted=True)


def after(step: Step, *shown: Server) -> Server:
    """Return the last of these, shown one look after the other since the order, as what it says of its member."""
    unchecked = begun({}, [step])
    for each in shown:
        unchecked = follow(unchecked, [each])
    return own(unchecked, shown[-1:])[0]


def test_the_result_of_whoever_had_the_slot_is_not_that_of_its_new_member() -> None:
    for looks in (1, 5):
        found = after(ASSIGN, server(1, Admin.MAINT, check="L4TOUT"), *[NEW] * looks)
        assert (found.is_unchecked, found.check, found.times_out, found.is_unreachable) == (True, "", False, False)


@pytest.mark.parametrize(
    "shown",
    [
        replace(NEW, status="UP", check="L7OK"),
        replace(NEW, status="DOWN"),
        replace(NEW, status="DOWN", check="L7STS"),
        replace(NEW, status="UP 1/3", check="L7TOUT"),
    ],
)
@pytest.mark.parametrize("looks_before", [0, 1])
def test_another_result_is_its_own(shown: Server, looks_before: int) -> None:
    if looks_before or shown.status != NEW.status:
        assert after(ASSIGN, *[NEW] * looks_before, shown) == shown
        assert (
            after(ASSIGN, *[NEW] * looks_before, shown, replace(NEW, status="UP 1/3")) != own({"vm1": None}, [NEW])[0]
        )


def test_a_predecessor_whose_check_succeeded_says_no_more() -> None:
    new = replace(NEW, check="L7OK")
    assert after(ASSIGN, new).is_unchecked
    assert not after(ASSIGN, new, replace(new, status="UP")).is_unchecked


@pytest.mark.parametrize("step", [SetReady("vm1", is_trusted=True), StartChecks("vm1", is_fresh=True)])
def test_who_runs_again_is_not_judged_by_a_check_of_before(step: Step) -> None:
    raised = server(1, Admin.READY, status="UP" if isinstance(step, SetReady) else "NOLB", check="L4TOUT")
    assert after(step, raised, raised).is_unchecked
    assert not after(step, raised, replace(raised, check="L7OK")).is_unchecked
    assert not after(step, raised, replace(raised, status="UP 2/3")).is_unchecked


@pytest.mark.parametrize("step", [Avoid("vm1"), KeepUp("vm1"), SetReady("vm1"), StartChecks("vm1", is_fresh=False)])
def test_where_checks_went_on_their_results_are_its_own(step: Step) -> None:
    late = server(1, Admin.READY, status="NOLB 2/3", check="L4TOUT")
    assert after(step, late) == late
