"""When ``up`` waits on, and when it gives up because nothing is on its way."""

import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cli import endpoints, stack, supervision
from cli.console import Steps
from cli.endpoints import answers, wait_for_endpoints, what_is_missing, why_not_awaited
from cli.observe import Snapshot
from cli.progress import STUCK_S, Progress, is_stuck
from common.config import Config, Group, System
from common.messages import DesiredCapacity, Drain, Member, Membership
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


def test_a_group_that_waits_for_its_turn_is_not_stuck() -> None:
    waiting = membership(blocked="local: 4 domains are starting there already").model_copy(update={"is_waiting": True})
    assert not is_stuck(waiting)


def snapshot(**memberships: Membership) -> Snapshot:
    return Snapshot(memberships=dict(memberships))


QUEUED = membership(blocked="local: 4 domains are starting there already").model_copy(update={"is_waiting": True})
PATIENCE_S = 240.0


def ends_at_s(*seen: Snapshot, until_s: float = 2000.0) -> float:
    """Return when ``up`` gives up, if each second it sees the next of ``seen`` and from then on the last of them."""
    progress = Progress.begin(0.0)
    for second in range(1, int(until_s)):
        found = seen[min(second, len(seen)) - 1]
        progress.note(found.memberships, (), found, float(second))
        if progress.is_over(float(second), PATIENCE_S):
            return float(second)
    return until_s


def test_twenty_groups_that_take_turns_are_waited_for_as_long_as_one_comes_nearer() -> None:
    names = [f"g{number}" for number in range(20)]
    turns = []
    for started in range(20):
        said = {
            name: membership(Phase.BOOTING, blocked="") if at <= started else QUEUED for at, name in enumerate(names)
        }
        turns += [snapshot(**said)] * 60
    assert ends_at_s(*turns) > 20 * 60


def test_a_queue_in_which_nothing_moves_is_given_up_after_the_patience() -> None:
    assert ends_at_s(snapshot(a=membership(Phase.BOOTING, blocked=""), b=QUEUED)) == 1 + PATIENCE_S + 1


def test_a_domain_that_boots_and_fails_again_and_again_does_not_come_nearer() -> None:
    booting, failed = (
        snapshot(a=membership(Phase.BOOTING, blocked="")),
        snapshot(a=membership(Phase.FAILED, blocked="")),
    )
    assert ends_at_s(*([booting, failed] * 500)) == 1 + PATIENCE_S + 1


def test_what_is_blocked_for_good_is_given_up_soon_and_only_when_nothing_else_moves() -> None:
    assert ends_at_s(snapshot(a=membership())) == STUCK_S + 1
    other = [snapshot(a=membership(), b=membership(Phase.BOOTING, blocked=""))] * 100
    assert ends_at_s(*other, snapshot(a=membership())) > 100 + STUCK_S


def test_it_is_said_when_up_gives_up_if_all_stays_as_it_is() -> None:
    progress, hopeful = Progress.begin(0.0), snapshot(a=membership(Phase.BOOTING, blocked=""))
    progress.note(["a"], (), hopeful, 10.0)
    assert progress.over_at_s(10.0, PATIENCE_S) == 10.0 + PATIENCE_S
    progress.note(["a"], (), hopeful, 60.0)
    assert progress.over_at_s(60.0, PATIENCE_S) == 10.0 + PATIENCE_S
    stuck = snapshot(a=membership())
    progress.note(["a"], (), stuck, 61.0)
    assert progress.over_at_s(61.0, PATIENCE_S) == 60.0 + STUCK_S
    progress.note(["a"], (), stuck, 80.5)
    assert progress.is_over(80.5, PATIENCE_S)


def test_it_is_said_which_group_waits_for_which_domain_why_and_for_how_long() -> None:
    coming = membership(Phase.BOOTING, blocked="local: 4 domains are starting there already")
    coming = coming.model_copy(update={"members": (coming.members[0].model_copy(update={"age_s": 12.4}),)})
    groups = {f"g{number}": coming for number in range(5)}
    text = what_is_missing(groups, snapshot(**groups))
    assert text.startswith("g0: web-0000 booting for 12 s; local: 4 domains are starting there already; g1: ")
    assert text.endswith("and 2 more groups")


class Always200(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_our_own_endpoint_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    server = HTTPServer(("127.0.0.1", 0), Always200)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        assert answers("web", Group(prefix="web-", endpoint=f"127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Clock:
    """A clock that goes on by a second with each look."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        self.now_s += 1.0
        return self.now_s

    epoch_s = monotonic_s


def test_up_ends_only_when_all_groups_answer_at_the_same_look(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(groups={name: Group(prefix=f"{name}-", endpoint=f"*:80{i}0") for i, name in enumerate("ab")})
    looks = iter([{"a"}, {"b"}, {"a"}, {"a", "b"}])
    answering: list[set[str]] = [set()]

    def at_next_look(*_args: object, **_kwargs: object) -> Snapshot:
        answering[0] = next(looks)
        return Snapshot()

    monkeypatch.setattr(endpoints, "observe_once", at_next_look)
    monkeypatch.setattr(endpoints, "answers", lambda _name, group: group.prefix[0] in answering[0])
    steps = Steps(Clock(), 1)
    with steps.step("first domains"):
        wait_for_endpoints(config, Clock(), steps)
    assert next(looks, None) is None


def test_up_does_not_ask_an_endpoint_of_which_the_services_say_that_nobody_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(groups={"web": Group(prefix="web-")})
    nobody = Snapshot(
        memberships={
            "web": Membership(
                group="web", generation_seen=1, desired_seen=1, members=(), owned_total=0, ceiling=4, notes=()
            )
        },
        drains={"web": Drain(group="web", endpoint="*:8000", is_proxy_alive=True, backends=())},
    )
    looks, asked = iter([nobody, nobody, nobody, Snapshot()]), []

    def answers(_name: str, _group: Group) -> bool:
        asked.append(next_look[0])
        return next_look[0] == 4

    next_look = [0]

    def look(*_args: object, **_kwargs: object) -> Snapshot:
        next_look[0] += 1
        return next(looks)

    monkeypatch.setattr(endpoints, "observe_once", look)
    monkeypatch.setattr(endpoints, "answers", answers)
    steps = Steps(Clock(), 1)
    with steps.step("first domains"):
        wait_for_endpoints(config, Clock(), steps)
    assert asked == [0, 4]


def test_up_names_what_is_left_of_former_groups_and_what_removes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "left_over_lines", lambda _config: ["old-0000 (group old) on local, of no group"])
    stack.print_what_next(Config(groups={"web": Group(prefix="web-")}), stack.SHIPPED)
    assert "left over old-0000 (group old) on local, of no group; make down removes them" in capsys.readouterr().out


def test_what_comes_next_names_another_file_wherever_it_acts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(stack, "left_over_lines", lambda _config: [])
    other = tmp_path / "my file.toml"
    stack.print_what_next(Config(groups={"web": Group(prefix="web-")}), other)
    lines = [line for line in capsys.readouterr().out.splitlines() if line and "endpoint" not in line]
    assert len(lines) == 4 and all(f"autoscaler --config '{other}' " in line for line in lines)


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


@pytest.mark.parametrize("has_log", [True, False])
def test_up_has_supervisord_write_to_new_logs_where_they_were_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_log: bool
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(supervision, "_supervisor", lambda _system: Supervisor(monitor="RUNNING"))
    monkeypatch.setattr(supervision, "_supervisord_pid", lambda _system: 4711)
    monkeypatch.setattr(supervision.os, "kill", lambda pid, number: sent.append((pid, number)))
    if has_log:
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / "supervisord.log").touch()
    supervision.start_stopped(System(state_dir=str(tmp_path)))
    assert sent == ([] if has_log else [(4711, signal.SIGUSR2)])


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
