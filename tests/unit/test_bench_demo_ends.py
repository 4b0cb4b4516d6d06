"""What ``bench.demo_ends`` makes of recorded decisions; the measuring itself needs real guests."""

from pathlib import Path

import pytest

from bench.decided import decisions, desired_since_s
from bench.demo_ends import Round, at_most_s, line, summary
from common.config import Config
from common.config_file import load
from common.errors import RecordingError
from common.messages import DecisionRecord, Evidence, Header
from common.recording import frame_bytes, header_bytes, raw_name, recording_dir
from common.wire import encode

GROUP = {"prefix": "web-", "endpoint": "127.0.0.1:8000"}
ROOT = Path(__file__).resolve().parents[2]


def record(at_s: float, desired: int, group: str = "web") -> DecisionRecord:
    return DecisionRecord(
        group=group,
        tick=0,
        decision_id="",
        action="hold",
        desired_before=desired,
        desired_after=desired,
        recommended=None,
        votes=(),
        limiter="none",
        limiter_text="",
        counterfactual="",
        evidence=Evidence(),
        at_s=at_s,
    )


def kept_in(directory: Path) -> Config:
    """Return a configuration whose recording is below the directory."""
    return Config.model_validate({"system": {"state_dir": str(directory)}, "groups": {"web": GROUP}})


def write(config: Config, *records: DecisionRecord) -> None:
    """Leave a recording in which each record was heard when it was made."""
    header = Header(source="decider", run_id=1, seq=1, sent_at_s=0.0, mono_s=0.0)
    frames = [frame_bytes(found.at_s, 0.0, found.topic, encode(header, found)[1]) for found in records]
    directory = recording_dir(config.system.state_path)
    directory.mkdir(parents=True)
    (directory / raw_name(1)).write_bytes(header_bytes("boot", 0.0) + b"".join(frames))


def test_decisions_are_those_of_one_group_from_a_time_on(tmp_path: Path) -> None:
    config = kept_in(tmp_path)
    write(config, record(1.0, 4), record(2.0, 3), record(2.5, 9, group="api"), record(3.0, 2))
    assert [found.desired_after for found in decisions(config, "web", since_s=2.0)] == [3, 2]
    with pytest.raises(RecordingError):
        decisions(kept_in(tmp_path / "none"), "web", since_s=2.0)


@pytest.mark.parametrize(
    ("desired", "since_s"),
    [
        ([], None),
        ([4, 3, 2], None),
        ([4, 1, 1], 1.0),
        ([1, 1, 1], 0.0),
        ([1, 2, 1], 2.0),  # it grew once more
        ([2, 1, 2], None),
    ],
)
def test_a_group_is_back_from_when_on_it_desires_no_more(desired: list[int], since_s: float | None) -> None:
    assert desired_since_s([record(float(at), count) for at, count in enumerate(desired)], 1) == since_s


def test_the_shipped_demo_may_take_105_seconds_from_four_domains() -> None:
    config = load(ROOT / "autoscaler.toml")[0]
    assert [at_most_s(config, "web", domains) for domains in (1, 2, 3, 4)] == [45.0, 45.0, 75.0, 105.0]
    assert at_most_s(config, "web", 4, patience_s=90.0) == 165.0


def test_larger_steps_need_fewer_cooldowns() -> None:
    group = GROUP | {"max": 8, "max_step_in": 3, "cooldown_in_s": 20.0}
    config = Config.model_validate({"groups": {"web": group}})
    window_s = at_most_s(config, "web", 1)
    assert [at_most_s(config, "web", domains) - window_s for domains in (4, 5, 8)] == [0.0, 20.0, 40.0]


@pytest.mark.parametrize(
    ("found", "row"),
    [
        (Round(4, 97.04, 105.0), "| 4 | 97.0 | 105 | yes |"),
        (Round(4, 105.1, 105.0), "| 4 | 105.1 | 105 | NO |"),
        (Round(4, None, 105.0), "| 4 | none in 600 | 105 | NO |"),
    ],
)
def test_a_row_says_whether_the_round_was_in_time(found: Round, row: str) -> None:
    assert line(found) == row


def test_the_summary_counts_rounds_that_never_came_back_as_late() -> None:
    rounds = [Round(4, 90.0, 105.0), Round(4, 100.0, 105.0), Round(4, None, 105.0)]
    assert summary(rounds) == "2 of 3 in time, median 95.0 s, worst 100.0 s."
    assert summary(rounds[2:]) == "0 of 1 in time."
