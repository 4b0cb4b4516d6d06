"""``doctor`` on a group's endpoint: who serves of those that are desired, what it answers, and how bad that is."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.doctor.facts import EndpointAnswer, EndpointFacts
from cli.doctor.finding import Level
from cli.doctor.gather_endpoints import ask_endpoint, endpoint_facts
from cli.doctor.judge_endpoints import judge_endpoint
from cli.observe import Snapshot
from common.config import Group
from common.messages import BackendState, DesiredCapacity, Drain, Member, Membership, Unready
from common.phases import Phase
from tests.ports import free_port

RIGHT, LATE = EndpointAnswer(True, "answers 200"), EndpointAnswer(False, "does not answer within 3 s", is_late=True)
WRONG = EndpointAnswer(False, "answers 503 for /healthz; readiness wants 200")
FACTS = EndpointFacts("http://127.0.0.1:8000/", desired=3, serving=3, answer=RIGHT)
NOW_S = 10_000.0


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"serving": 4}, Level.OK),
        ({"serving": None}, Level.OK),
        ({"serving": 0, "answer": WRONG}, Level.ERROR),
        ({"serving": 0}, Level.ERROR),
        ({"answer": WRONG}, Level.ERROR),
        ({"serving": None, "answer": WRONG}, Level.ERROR),
        ({"serving": None, "answer": LATE}, Level.ERROR),
        ({"answer": LATE}, Level.WARNING),
        ({"serving": 2}, Level.NOTE),
        ({"serving": 2, "blocked": "no room", "is_waiting": True}, Level.NOTE),
        ({"serving": 2, "blocked": "no room"}, Level.WARNING),
        ({"serving": 2, "overdue": ("web-0002",)}, Level.WARNING),
        ({"blocked": "no room for a reserve"}, Level.OK),
        ({"idle": "no domain is desired: not asked", "answer": None}, Level.SKIPPED),
    ],
)
def test_how_bad_it_is(change: dict[str, object], level: Level) -> None:
    found = judge_endpoint("web", replace(FACTS, **change))  # type: ignore[arg-type]
    assert (found.check, found.level) == ("endpoint", level)
    assert bool(found.mend) == (level in (Level.WARNING, Level.ERROR))


def test_it_says_who_serves_what_came_and_why() -> None:
    facts = replace(FACTS, serving=0, answer=WRONG, reasons=("a", "b"), blocked="breaker open", overdue=("web-0000",))
    assert judge_endpoint("web", facts).what == (
        "0 of 3 serve; http://127.0.0.1:8000/ answers 503 for /healthz; readiness wants 200; a; b; "
        "longer than boot_timeout_s: web-0000; blocked: breaker open"
    )


# --- from what the services say -----------------------------------------------------------------------------------


class Page(BaseHTTPRequestHandler):
    """Answers with the status that stands in the path, and remembers who asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> Iterator[tuple[int, list[str]]]:
    """Return a port that is answered at, and what was asked there so far."""
    page = type("Own", (Page,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, page.asked
    server.shutdown()
    server.server_close()


def group(port: int, status: int = 200, **more: object) -> Group:
    values = {"prefix": "web-", "endpoint": f"127.0.0.1:{port}", "readiness": {"path": f"/{status}"}, **more}
    return Group.model_validate(values)


def member(number: int, phase: Phase = Phase.READY, age_s: float = 5.0, unready: Unready | None = None) -> Member:
    return Member(
        name=f"web-{number:04d}", uuid=f"u{number}", host="local", phase=phase, since_s=NOW_S - age_s, age_s=age_s,
        address="10.0.0.5", port=80, unready=unready,
    )  # fmt: skip


def backend(number: int, *, is_healthy: bool = True, unhealthy_s: float = 0.0) -> BackendState:
    return BackendState(
        name=f"web-{number:04d}", uuid=f"u{number}", slot=f"s{number}", state="ready", is_healthy=is_healthy,
        check="" if is_healthy else "L7STS/503", unhealthy_s=unhealthy_s,
    )  # fmt: skip


def snapshot(desired: int, *members: Member, backends: tuple[BackendState, ...] = (), mode: str = "on") -> Snapshot:
    found = Snapshot()
    found.take(DesiredCapacity(group="web", generation=1, desired=desired, minimum=0, maximum=9, mode=mode))
    found.take(
        Membership(
            group="web", generation_seen=1, desired_seen=desired, members=members, owned_total=len(members), ceiling=9
        )
    )
    found.take(Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=backends))
    return found


def facts(group: Group, seen: Snapshot) -> EndpointFacts:
    return endpoint_facts("web", group, seen, NOW_S)


def test_of_members_that_fail_their_checks_none_serves_and_the_reasons_are_those_of_status(
    asked: tuple[int, list[str]],
) -> None:
    port, _ = asked
    why = Unready(kind="status", address="10.0.0.5", port=80, path="/healthz", came="503", wanted="200")
    members = member(0, unready=why), member(1)
    seen = snapshot(2, *members, backends=(backend(0, is_healthy=False), backend(1, is_healthy=False, unhealthy_s=91)))
    found = facts(group(port, 503), seen)
    assert (found.desired, found.serving) == (2, 0)
    assert found.reasons == (
        "web-0000 10.0.0.5:80/healthz answers 503; readiness wants 200",
        "web-0001 is ready, but its check fails: L7STS/503",
    )
    assert found.overdue == ("web-0001",), "the other has not failed for so long"
    assert found.answer == EndpointAnswer(False, "answers 503 for /503; readiness wants 200")


def test_one_that_boots_for_too_long_is_overdue_one_that_leaves_or_stands_by_is_not(
    asked: tuple[int, list[str]],
) -> None:
    port, _ = asked
    coming = member(0, Phase.BOOTING, age_s=89), member(1, Phase.WARMING, age_s=91)
    others = member(2, Phase.DRAINING, age_s=999), member(3, Phase.STANDBY, age_s=999)
    assert facts(group(port), snapshot(2, *coming, *others)).overdue == ("web-0001",)


@pytest.mark.parametrize(
    ("seen", "idle"),
    [
        (snapshot(0), "no domain is desired: not asked"),
        (Snapshot(), "nobody says how many domains are desired"),
        (snapshot(2, mode="observe"), "has mode observe, and no domain was brought into service: not asked"),
    ],
)
def test_where_nobody_is_to_serve_nobody_is_asked(asked: tuple[int, list[str]], seen: Snapshot, idle: str) -> None:
    port, paths = asked
    found = facts(group(port, min=0), seen)
    assert (found.idle, found.answer, paths) == (idle, None, [])


def test_one_question_is_asked_and_its_answer_is_told(asked: tuple[int, list[str]]) -> None:
    port, paths = asked
    assert ask_endpoint("web", group(port)) == EndpointAnswer(True, "answers 200")
    assert paths == ["/200"]
    assert ask_endpoint("web", group(free_port())).said == "does not answer ([Errno 111] Connection refused)"


def test_of_a_tcp_group_a_connection_must_stay_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tcp = Group.model_validate(
            {"prefix": "web-", "protocol": "tcp", "endpoint": f"127.0.0.1:{server.getsockname()[1]}"}
        )
        assert ask_endpoint("web", tcp) == EndpointAnswer(True, "keeps a connection")
    assert ask_endpoint("web", tcp) == EndpointAnswer(False, "keeps no connection")


def test_a_question_that_nobody_answers_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.doctor.gather_endpoints.PATIENCE_S", 0.2)
    quick = {"path": "/healthz", "timeout_s": 0.2}
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = ask_endpoint("web", group(server.getsockname()[1], readiness=quick))
    assert found == EndpointAnswer(False, "does not answer within 0.2 s", is_late=True)
