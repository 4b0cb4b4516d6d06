"""What the operator is shown: from messages to the promised JSON, and to a table."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from cli.events import duration_s
from cli.observe import Heard, Snapshot
from cli.status import endpoint_url, status_values, status_view
from cli.words import local_time
from common.config import Config, Group
from common.errors import ConfigError
from common.messages import (
    BackendState,
    DecisionRecord,
    DesiredCapacity,
    Drain,
    HostSample,
    Member,
    Membership,
    ServiceStatus,
)
from common.phases import Phase

CONFIG = Config(groups={"web": Group(prefix="web-")})


def member(name: str, phase: Phase, uuid: str) -> Member:
    return Member(
        name=name, uuid=uuid, host="local", phase=phase, since_s=0, age_s=5, address="192.168.150.10", port=8080
    )


def membership(*members: Member, **changes: Any) -> Membership:
    values = {"group": "web", "generation_seen": 1, "desired_seen": 2, "owned_total": len(members), "ceiling": 5}
    return Membership(members=members, **(values | changes))


def drain(*healthy: str, down: tuple[str, ...] = ()) -> Drain:
    """Return what the balancer says of the members with these UUIDs, all in rotation."""
    backends = tuple(
        BackendState(name=uuid, uuid=uuid, slot=uuid, state="ready", is_healthy=uuid in healthy, check="L4TOUT")
        for uuid in (*healthy, *down)
    )
    return Drain(group="web", endpoint="http://127.0.0.1:8000/", is_proxy_alive=True, backends=backends)


def snapshot(*bodies: Any) -> Snapshot:
    heard = Snapshot()
    for body in bodies:
        heard.take(body)
    return heard


def text_of(heard: Snapshot) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_view(CONFIG, heard))
    return console.file.getvalue()  # type: ignore[attr-defined] - a StringIO


def test_the_promised_keys_are_there_also_when_nothing_answers() -> None:
    values = status_values(CONFIG, Snapshot())
    group = values["groups"][0]
    assert {"name", "desired", "ready", "endpoint", "domains"} <= group.keys()
    assert (group["desired"], group["ready"], group["domains"]) == (None, None, [])
    assert {(service["alive"], service["pid"]) for service in values["services"]} == {(False, None)}
    json.dumps(values)


def test_figures_belong_to_the_uuid_not_to_the_name() -> None:
    sample = HostSample(
        host="local",
        interval_s=1,
        is_reachable=True,
        names=("web-0000",),
        uuids=("old",),
        states=("running",),
        cpu_ratios=(0.9,),
        allotted_cpus=(0.4,),
    )
    heard = snapshot(membership(member("web-0000", Phase.READY, "new")), sample)
    assert status_values(CONFIG, heard)["groups"][0]["domains"][0]["cpu_ratio"] is None


def test_only_ready_domains_count_as_ready() -> None:
    told = membership(member("web-0000", Phase.READY, "a"), member("web-0001", Phase.BOOTING, "b"))
    heard = snapshot(told, drain("a", "b"))
    group = status_values(CONFIG, heard)["groups"][0]
    assert (group["ready"], [domain["phase"] for domain in group["domains"]]) == (1, ["ready", "booting"])


def test_a_domain_that_is_ready_by_its_phase_and_down_in_the_proxy_is_not_ready_and_says_why() -> None:
    told = membership(member("web-0000", Phase.READY, "a"), member("web-0001", Phase.READY, "b"))
    heard = snapshot(told, drain("a", down=("b",)))
    group = status_values(CONFIG, heard)["groups"][0]
    assert group["ready"] == 1
    assert [(d["phase"], d["serving"], d["trouble"]) for d in group["domains"]] == [
        ("ready", True, ""),
        ("ready", False, "its check fails: L4TOUT"),
    ]
    assert "ready 1" in text_of(heard)
    assert "ready, but its check fails: L4TOUT" in text_of(heard)


def test_while_the_balancer_says_nothing_it_is_unknown_who_is_ready() -> None:
    heard = snapshot(membership(member("web-0000", Phase.READY, "a")))
    group = status_values(CONFIG, heard)["groups"][0]
    assert (group["ready"], group["domains"][0]["serving"], group["domains"][0]["trouble"]) == (None, None, "")
    assert "ready ?" in text_of(heard)


def test_the_bounds_are_those_in_force() -> None:
    told = DesiredCapacity(group="web", generation=1, desired=2, minimum=2, maximum=9)
    assert [(g["min"], g["max"]) for g in status_values(CONFIG, snapshot(told))["groups"]] == [(2, 9)]
    assert [(g["min"], g["max"]) for g in status_values(CONFIG, Snapshot())["groups"]] == [(1, 4)]
    assert "bounds 2..9" in text_of(snapshot(told))
    frozen = told.model_copy(update={"desired": 1, "minimum": 1, "bounds": (3, 9)})  # mode observe: one is there
    assert "desired 1" in text_of(snapshot(membership(desired_seen=1), frozen))
    assert [(g["min"], g["max"]) for g in status_values(CONFIG, snapshot(frozen))["groups"]] == [(3, 9)]


def test_what_is_not_said_again_becomes_unknown_and_the_rest_stays() -> None:
    heard = Heard(silent_after_s=6.0)
    heard.note(membership(member("web-0000", Phase.READY, "a")), now_s=0.0)
    heard.note(drain("a"), now_s=0.0)
    heard.note(ServiceStatus(name="actuator", pid=42, started_at_s=0, release="1"), now_s=0.0)
    heard.note(DesiredCapacity(group="web", generation=1, desired=2, minimum=2, maximum=9), now_s=5.0)
    assert status_values(CONFIG, heard.snapshot(6.0))["groups"][0]["ready"] == 1
    late = heard.snapshot(6.1)
    assert (late.memberships, late.services, list(late.wanted)) == ({}, {}, ["web"])
    heard.note(membership(), now_s=7.0)
    assert list(heard.snapshot(12.0).memberships) == ["web"]


def test_who_stands_by_is_shown_with_the_way_it_waits() -> None:
    waiting = member("web-0001", Phase.STANDBY, "b").model_copy(update={"tier": "paused"})
    told = membership(member("web-0000", Phase.READY, "a"), waiting).model_copy(update={"notes": ("warm auto: 1",)})
    group = status_values(CONFIG, snapshot(told, drain("a")))["groups"][0]
    assert (group["ready"], group["notes"], group["domains"][1]["tier"]) == (1, ["warm auto: 1"], "paused")
    shown = io.StringIO()
    Console(file=shown, width=120).print(status_view(CONFIG, snapshot(told)))
    assert "standby (paused)" in shown.getvalue() and "note: warm auto: 1" in shown.getvalue()


def decision(**changes: Any) -> DecisionRecord:
    values = {"desired_before": 2, "desired_after": 2, "recommended": 2, "votes": (), "limiter": "none", "at_s": 1000.0}
    told = {"group": "web", "tick": 1, "decision_id": "d", "action": "hold", "limiter_text": "", "counterfactual": ""}
    return DecisionRecord.model_validate({**values, **told, "evidence": {}} | changes)


def test_the_patience_in_force_is_shown_with_its_end_and_what_ends_it() -> None:
    heard = snapshot(decision(patience_s=73.5, patience_left_s=600.0))
    found = status_values(CONFIG, heard)["groups"][0]["patience"]
    assert found == {"calm_s": 73.5, "left_s": 600.0, "until_s": 1600.0}
    assert f"calm of 74 s until {local_time(1600.0)} (10 min left); autoscaler patience web --reset" in text_of(heard)


def test_nothing_is_said_of_patience_where_none_is_in_force() -> None:
    assert status_values(CONFIG, snapshot(decision()))["groups"][0]["patience"] is None
    assert status_values(CONFIG, Snapshot())["groups"][0]["patience"] is None
    assert "patience" not in text_of(snapshot(decision()))


def test_in_flight_comes_from_the_balancer() -> None:
    backend = BackendState(name="web-0000", uuid="a", slot="vm1", state="ready", is_healthy=True, in_flight=7)
    drain = Drain(group="web", endpoint="http://127.0.0.1:8000/", is_proxy_alive=True, backends=(backend,))
    heard = snapshot(membership(member("web-0000", Phase.READY, "a")), drain)
    assert status_values(CONFIG, heard)["groups"][0]["domains"][0]["in_flight"] == 7


def test_a_service_that_answers_has_its_process() -> None:
    heard = snapshot(ServiceStatus(name="monitor", pid=42, started_at_s=0, release="1"))
    services = {service["name"]: service for service in status_values(CONFIG, heard)["services"]}
    assert services["monitor"].items() >= {"name": "monitor", "alive": True, "pid": 42}.items()
    assert services["decider"]["alive"] is False


def test_the_table_says_what_is_in_the_way() -> None:
    text = text_of(snapshot(membership(member("web-0000", Phase.FAILED, "a"), blocked="the breaker is open")))
    assert "blocked: the breaker is open" in text
    assert "web-0000" in text


def test_a_silent_actuator_is_named() -> None:
    text = text_of(Snapshot())
    assert "the actuator does not answer" in text
    assert "ready ?" in text


@pytest.mark.parametrize(
    ("endpoint", "protocol", "url"),
    [
        ("*:8000", "http", "http://127.0.0.1:8000/"),
        ("10.0.0.1:80", "http", "http://10.0.0.1:80/"),
        ("127.0.0.1:5432", "tcp", "tcp://127.0.0.1:5432"),
    ],
)
def test_the_endpoint_is_what_a_client_can_use(endpoint: str, protocol: Any, url: str) -> None:
    assert endpoint_url(Group(prefix="x-", endpoint=endpoint, protocol=protocol)) == url


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1.5h", 5400)])
def test_durations_are_numbers_with_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "15 m", "5w", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 15m"):
        duration_s(text)
