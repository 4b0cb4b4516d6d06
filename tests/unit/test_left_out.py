"""Where a list is cut, it is said that more there is."""

import json
from pathlib import Path

import pytest

from cli.doctor import judge_endpoints, judge_guests
from cli.doctor.facts import EndpointAnswer, EndpointFacts, MemberFacts, StrayFacts
from cli.events import print_events
from common.clock import SystemClock
from common.config import Config, Group
from common.messages import Event, Header
from common.recording import frame_bytes, header_bytes, raw_name, recording_dir
from common.wire import encode

MOST = 1000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration with a recording of seven events."""
    config = Config.model_validate({"system": {"state_dir": str(tmp_path)}, "groups": {"web": {"prefix": "web-"}}})
    recording_dir(tmp_path).mkdir()
    now_s = SystemClock().epoch_s()
    data = header_bytes("boot", now_s)
    for number in range(7):
        header = Header(source="decider", run_id=7, seq=number + 1, sent_at_s=now_s, mono_s=0)
        topic, payload = encode(header, Event(name="scale-out", group="web", text=f"number {number}"))
        data += frame_bytes(now_s, 0.0, topic.decode(), payload)
    (recording_dir(tmp_path) / raw_name(1)).write_bytes(data)
    return config


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        (
            5,
            MOST,
            "autoscaler: older events of the last 15m are left out: these are the newest 5; more: --limit 1000\n",
        ),
        (5, 5, "autoscaler: older events of the last 15m are left out: these are the newest 5\n"),
        (7, MOST, ""),
        (9, MOST, ""),
    ],
)
def test_events_that_are_left_out_are_told_on_standard_error(
    config: Config, capsys: pytest.CaptureFixture[str], limit: int, most: int, said: str, as_json: bool
) -> None:
    print_events(config, "15m", limit, most, follow=False, as_json=as_json, why_silent=str)
    out, err = capsys.readouterr()
    told = [event["text"] for event in json.loads(out)] if as_json else [line[-8:] for line in out.splitlines()]
    assert told == [f"number {number}" for number in range(max(0, 7 - limit), 7)]
    assert err == said


def test_the_doctor_says_how_many_more_there_are() -> None:
    names = [f"web-{number:04d}" for number in range(judge_guests.MAX_NAMED + 2)]
    (stale,) = judge_guests.judge_strays(StrayFacts({}, dict.fromkeys(names, "old"), (), {}, (), ()), "local")
    silent = [MemberFacts(name, "local", name, "ready", True, "10.0.0.5", is_right=False) for name in names]
    late = [MemberFacts(name, "local", name, "ready", True, "10.0.0.5", clock_off_s=90.0) for name in names]
    reasons = tuple(f"{name} answers 500" for name in names)
    facts = EndpointFacts("*:8000", 8, 1, reasons, answer=EndpointAnswer(is_right=True, said="answers"))
    group = Group(prefix="web-")
    found = [
        stale,
        judge_guests.judge_readiness("web", group, silent),
        judge_guests.judge_guest_clocks("web", late),
        judge_endpoints.judge_endpoint("web", facts),
    ]
    assert [one.what for one in found if "and 2 more" not in one.what] == []
