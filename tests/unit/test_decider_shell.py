"""The decider's loop with a bus of lists: what arrives becomes events, what the core asks for is done."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.bus import Inbox, PendingRequest, Received
from common.config import Config
from common.messages import Body, Drain, Failure, Header, HostSample, Member, Membership, Reply, Request, Traffic
from common.phases import Phase
from common.process import Context
from services.decider.core.events import FailureSeen, SampleSeen
from services.decider.shell import DeciderService, events_of, next_beat_s
from tests.clocks import FakeClock

HEADER = Header(source="x", run_id=1, seq=1, sent_at_s=0, mono_s=0)


class FakeBus:
    def __init__(self) -> None:
        self.run_id = 127
        self.published: list[tuple[Body, str | None]] = []
        self.subscribed: list[tuple[str, ...]] = []
        self.counters: Counter[str] = Counter()

    def publish(self, body: Body, cause: str | None = None) -> str:
        self.published.append((body, cause))
        return f"decider/7f/{body.topic}/{len(self.published)}"

    def subscribe(self, service: str, *kinds: str) -> None:
        self.subscribed.append((service, *kinds))


class Asked(PendingRequest):
    def __init__(self, verb: str, **args: Any) -> None:
        self.request = Request(verb=verb, args=args)
        self.answers: list[Reply] = []

    def reply(self, reply: Reply) -> None:
        self.answers.append(reply)


class Rig:
    """A decider and what surrounds it."""

    def __init__(self, state_dir: Path, *groups: str) -> None:
        tables = {name: {"prefix": f"{name}-", "endpoint": f"127.0.0.1:{8000 + i}"} for i, name in enumerate(groups)}
        self.config = Config.model_validate({"system": {"state_dir": str(state_dir)}, "groups": tables})
        self.clock, self.bus = FakeClock(1000.0, boot_epoch_s=1_700_000_000.0), FakeBus()
        self.start()

    def start(self) -> None:
        context = Context("decider", self.config, "x", Path("x"), self.clock, self.bus, lambda: False)  # type: ignore[arg-type]
        self.notes = context.notes
        self.service = DeciderService(context)

    def step(self, *bodies: Body, ask: tuple[PendingRequest, ...] = (), after_s: float = 1.0) -> float:
        self.clock.now_s += after_s
        messages = tuple(received(body) for body in bodies)
        return self.service.step(Inbox(messages, ask), self.clock.now_s)

    def said(self, kind: str) -> list[Any]:
        return [body for body, _ in self.bus.published if body.kind == kind]


def received(body: Body, age_s: float = 0.0) -> Received:
    return Received(body.topic, HEADER, body, age_s, f"x/1/{body.topic}/1")


def sample(ratio: float = 0.95, group: str = "web") -> HostSample:
    return HostSample(
        host="local",
        interval_s=1.0,
        is_reachable=True,
        names=(f"{group}-0000",),
        uuids=("u0",),
        states=("running",),
        cpu_ratios=(ratio,),
        allotted_cpus=(1.0,),
    )


def membership(group: str = "web") -> Membership:
    member = Member(
        name=f"{group}-0000", uuid="u0", host="local", phase=Phase.READY, since_s=0, age_s=9, address=None, port=80
    )
    return Membership(group=group, generation_seen=0, desired_seen=None, members=(member,), owned_total=1, ceiling=5)


def traffic(group: str = "web") -> Traffic:
    return Traffic(group=group, interval_s=1.0, is_known=True, queue=0)


def drain(group: str = "web") -> Drain:
    return Drain(group=group, endpoint="", is_proxy_alive=True, backends=())


def test_it_listens_to_what_it_decides_from(tmp_path: Path) -> None:
    assert Rig(tmp_path, "web").bus.subscribed == [
        ("monitor", "sample", "failure"),
        ("actuator", "membership"),
        ("balancer", "traffic", "drain"),
    ]


def test_overload_becomes_a_desired_capacity_an_event_and_one_line_in_the_log(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    with capture_logs() as logs:
        for _ in range(8):
            rig.step(sample(), membership(), traffic(), drain())
    assert [body.desired for body in rig.said("capacity.desired")][-1] == 2
    assert [body.name for body in rig.said("event")] == ["scale-out"]
    lines = [line for line in logs if line["event"] == "capacity-decided"]
    assert [(line["from"], line["to"], line["log_level"]) for line in lines] == [(1, 2, "info")]
    causes = {cause for body, cause in rig.bus.published if body.kind == "capacity.desired"}
    assert causes == {"x/1/sample.local/1"}


def test_a_tick_comes_each_interval_and_leaves_a_record_for_every_group(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web", "api")
    assert rig.step(after_s=0.1) == pytest.approx(0.1)
    assert rig.said("decision") == []
    assert rig.step(after_s=0.1) == pytest.approx(1.0)
    assert rig.step(after_s=1.003) == pytest.approx(0.997)
    assert [(body.group, body.tick) for body in rig.said("decision")] == [
        ("api", 1),
        ("web", 1),
        ("api", 2),
        ("web", 2),
    ]


@pytest.mark.parametrize(("now_s", "due_s"), [(10.0, 11.0), (10.4, 11.0), (10.999, 11.0), (11.0, 12.0), (70.3, 71.0)])
def test_missed_ticks_are_not_made_up_for_and_the_beat_stays(now_s: float, due_s: float) -> None:
    assert next_beat_s(10.0, now_s, 1.0) == pytest.approx(due_s)


def test_a_restart_takes_up_what_was_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    rig.step(sample(0.5), membership(), traffic())
    pending = Asked("scale", desired=3)
    rig.step(ask=(pending,))
    assert pending.answers[0].status == "applied"
    generation = rig.said("capacity.desired")[-1].generation
    rig.start()
    rig.bus.published.clear()
    rig.step(sample(0.5), membership(), traffic())
    body = rig.said("capacity.desired")[-1]
    assert (body.desired, body.generation) == (3, generation)


def test_a_request_for_the_only_group_needs_no_name(tmp_path: Path) -> None:
    rig, pending = Rig(tmp_path, "web"), Asked("pause")
    with capture_logs() as logs:
        rig.step(ask=(pending,))
    assert pending.answers[0].status == "applied"
    assert [line["event"] for line in logs] == ["operator"]


@pytest.mark.parametrize("args", [{}, {"group": "nope"}, {"group": 7}])
def test_a_request_for_no_known_group_is_an_error_that_names_them(tmp_path: Path, args: dict[str, Any]) -> None:
    rig, pending = Rig(tmp_path, "web", "api"), Asked("pause", **args)
    rig.step(ask=(pending,))
    assert pending.answers[0].status == "error"
    assert "group must be one of api, web" in pending.answers[0].reason


def test_a_sample_goes_to_every_group_of_its_host_and_a_failure_to_the_group_of_its_prefix(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web", "api")
    groups = rig.service._groups
    found = list(events_of(received(sample(), age_s=2.0), groups, 100.0))
    assert [name for name, _ in found] == ["api", "web"]
    assert all(isinstance(event, SampleSeen) and event.reading.at_s == 98.0 for _, event in found)
    failure = Failure(host="local", domain="api-0001", uuid="u", reason="crashed")
    ((name, event),) = events_of(received(failure), groups, 100.0)
    assert name == "api"
    assert isinstance(event, FailureSeen)


@pytest.mark.parametrize("body", [membership("other"), traffic("other"), drain("other")])
def test_messages_of_other_groups_are_not_ours(tmp_path: Path, body: Body) -> None:
    assert list(events_of(received(body), Rig(tmp_path, "web").service._groups, 100.0)) == []


def test_a_sample_of_a_host_that_the_group_does_not_use_is_not_taken_in(tmp_path: Path) -> None:
    far = sample().model_copy(update={"host": "far"})
    assert list(events_of(received(far), Rig(tmp_path, "web").service._groups, 100.0)) == []


def test_close_leaves_nothing_to_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    rig.service.close()
    assert rig.said("capacity.desired") == []


# --- a disk that refuses, a configuration that changes ---------------------------------------------------------------


def refuse(rig: Rig) -> None:
    """Make the store's place one where no file can be written."""
    rig.service._store._path = Path("/dev/null/x/decider.json")


def test_an_order_that_could_not_be_stored_is_answered_with_that_fact(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    refuse(rig)
    order, question = Asked("pause"), Asked("history")
    rig.step(ask=(order, question))
    assert order.answers[0].status == "applied"
    assert order.answers[0].data == {"stored": False}
    assert order.answers[0].reason.endswith(
        "; but it is not stored, so a restart forgets it: /dev/null/x/decider.json cannot be written: Not a directory"
    )
    assert "stored" not in question.answers[0].reason


def test_a_state_that_is_not_stored_stands_in_the_status_until_it_is_and_is_logged_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    path = rig.service._store._path
    refuse(rig)
    with capture_logs() as lines:
        rig.step(ask=(Asked("pause"),))
        for _ in range(3):
            rig.step()
        (note,) = rig.notes.values()
        assert note.startswith("/dev/null/x/decider.json cannot be written: Not a directory; a restart forgets")
        rig.service._store._path = path
        for _ in range(2):
            rig.step()
    assert rig.notes == {}
    assert [line["event"] for line in lines if "state-" in line["event"]] == [
        "state-not-written",
        "state-written-again",
    ]
    rig.start()
    assert rig.service._groups["web"].standing.is_paused


def test_a_reload_reaches_the_groups_that_it_changes_and_no_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "api", "web")
    before = rig.service._groups["api"]
    tables = rig.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    tables["groups"]["web"] |= {"max": 9}
    rig.service.reload(Config.model_validate(tables), rig.clock.now_s)
    assert rig.service._groups["web"].maximum == 9
    assert rig.service._groups["api"] is before
    rig.step()
    assert [[order.verb for order in body.ordered] for body in rig.said("decision")] == [[], ["reload"]]


def test_bounds_that_outlive_a_reload_are_noted_until_they_are_reset(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "web")
    rig.step(ask=(Asked("bounds", max=6),))
    tables = rig.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    tables["groups"]["web"]["max"] = 8
    rig.service.reload(Config.model_validate(tables), rig.clock.now_s)
    assert list(rig.notes.values()) == [
        "web keeps the bounds 1..6 that were ordered, not 1..8: bounds --reset ends that"
    ]
    rig.step(ask=(Asked("bounds", reset=True),))
    rig.step()
    assert rig.notes == {}
