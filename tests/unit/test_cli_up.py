"""When ``up`` waits on, and when it gives up because nothing is on its way."""

import pytest

from cli import stack, supervision
from cli.endpoints import is_stuck, why_not_awaited
from common.config import Config, Group, System
from common.messages import DesiredCapacity, Member, Membership
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


def test_up_names_what_is_left_of_former_groups_and_what_removes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "left_over_lines", lambda _config: ["old-0000 (group old) on local, of no group"])
    stack.print_what_next(Config(groups={"web": Group(prefix="web-")}))
    assert "left over old-0000 (group old) on local, of no group; make down removes them" in capsys.readouterr().out


class Supervisor:
    """Knows each program's state, and what was asked of it."""

    def __init__(self, **states: str) -> None:
        self.states, self.asked = states, []  # type: ignore[var-annotated]

    def getAllProcessInfo(self) -> list[dict[str, str]]:  # noqa: N802 - supervisord's own names
        return [{"name": name, "statename": state} for name, state in self.states.items()]

    def stopProcess(self, name: str) -> None:  # noqa: N802
        self.asked.append(("stop", name))

    def startProcess(self, name: str, wait: bool) -> None:  # noqa: N802
        self.asked.append(("start", name))


def test_up_starts_what_stands_still_and_what_waits_for_its_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(monitor="RUNNING", decider="STOPPED", actuator="BACKOFF", balancer="STARTING")
    monkeypatch.setattr(supervision, "_supervisor", lambda _system: supervisor)
    assert supervision.start_stopped(System()) == "started again: decider, actuator"
    assert supervisor.asked == [("start", "decider"), ("stop", "actuator"), ("start", "actuator")]


def wanted(desired: int = 1, mode: str = "on") -> DesiredCapacity:
    return DesiredCapacity(group="web", generation=1, desired=desired, minimum=min(1, desired), maximum=4, mode=mode)


@pytest.mark.parametrize(
    ("values", "in_force", "why"),
    [
        ({}, None, ""),
        ({"min": 0}, None, ""),
        ({}, wanted(), ""),
        ({"min": 0}, wanted(desired=2), ""),
        ({"min": 0}, wanted(desired=0), "is to have no domain now (desired 0): not waited for"),
        ({}, wanted(desired=0), "is to have no domain now (desired 0): not waited for"),
        ({"mode": "off"}, wanted(mode="off"), "has mode off: not waited for"),
        ({}, wanted(mode="off"), "has mode off, as ordered: not waited for"),
        ({"mode": "on"}, wanted(mode="observe"), "has mode observe, as ordered: not waited for"),
        ({"mode": "observe"}, wanted(mode="on"), ""),
        ({"mode": "out-only"}, wanted(mode="out-only"), ""),
    ],
)
def test_up_waits_by_what_is_in_force_and_says_of_whom_it_did_not(
    values: dict[str, object], in_force: DesiredCapacity | None, why: str
) -> None:
    assert why_not_awaited(Group.model_validate({"prefix": "web-", **values}), in_force) == why
