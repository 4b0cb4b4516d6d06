"""``autoscaler replay`` and ``autoscaler explain`` on recordings that the recorder's own writer has written."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgpack
import pytest

from common.recording import Recorded, raw_name, segment_files
from services.recorder.segments import finish
from tests.sim.decider_model import EPOCH_S, World
from tests.sim.decider_tape import Tape, write

ROOT = Path(__file__).parents[2]
TOML = """
[system]
run_dir = "{dir}/run"
state_dir = "{dir}/state"
[groups.web]
prefix = "web-"
{more}
"""
QUICK = '[[groups.web.policies]]\ntype = "threshold"\nout_window_s = 2.0'


@cache
def life() -> tuple[Recorded, ...]:
    tape = Tape(World(lambda t: 0.95 if 60 < t < 200 else 0.3)).run(100)
    tape.ask("bounds", max=3)
    tape.run(60)
    tape.restart()
    tape.run(140)
    return tuple(tape.frames)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    path.write_text(TOML.format(dir=tmp_path, more=""))
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a state directory: a finished segment, and a raw one."""
    directory = tmp_path / "state" / "recording"
    half = len(life()) // 2
    write(directory, list(life()[:half]))
    finish(segment_files(directory)[0])
    write(directory, list(life()[half:]))
    return tmp_path / "state"


def autoscaler(config: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "-c", str(config), *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TZ": "UTC", "COLUMNS": "200"}, capture_output=True, text=True, timeout=60
    )


def refused(config: Path, *args: object, code: int = 1) -> str:
    done = autoscaler(config, *args)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def answered(config: Path, *args: object) -> dict[str, object]:
    done = autoscaler(config, *args, "--json")
    assert done.returncode == 0, done.stderr
    values: dict[str, object] = json.loads(done.stdout)
    return values


def only(group: object) -> dict[str, object]:
    assert isinstance(group, Sequence)
    assert len(group) == 1
    return dict(group[0])


# --- replay ----------------------------------------------------------------------------------------------------------


def test_a_state_directory_is_replayed_byte_for_byte(config: Path, recording: Path) -> None:
    found = only(answered(config, "replay", recording)["groups"])
    assert (found["ticks"], found["identical"], found["different"], found["runs"]) == (300, 300, 0, 2)
    assert (found["exact_from"], found["not_repeatable"]) == ("decider/7f/web/1", {})
    text = autoscaler(config, "replay", recording / "recording").stdout
    assert "web: 300 ticks of 2 runs: 300 identical byte for byte, 0 different" in text


@pytest.mark.parametrize("number", [0, 1])
def test_one_segment_alone_is_replayed_from_where_it_can_be(config: Path, recording: Path, number: int) -> None:
    path = segment_files(recording / "recording")[number].path
    found = only(answered(config, "replay", path)["groups"])
    assert found["different"] == 0
    assert (found["unknown"] == 0) == (number == 0)


def test_a_cut_off_tail_is_tolerated_and_told(config: Path, recording: Path) -> None:
    raw = segment_files(recording / "recording")[1].path
    raw.write_bytes(raw.read_bytes()[:-700])
    done = autoscaler(config, "replay", recording)
    assert done.returncode == 0
    assert "0 different" in done.stdout
    assert "1 cut-off end" in done.stderr


def test_a_decision_that_is_not_repeated_ends_with_1_and_both_texts(config: Path, tmp_path: Path) -> None:
    frames = list(life())
    place = [number for number, frame in enumerate(frames) if frame.topic == "decision.web"][80]
    values = msgpack.unpackb(frames[place].payload)
    values["body"]["desired_after"] = 9
    frames[place] = replace(frames[place], payload=msgpack.packb(values))
    write(tmp_path / "other", frames)
    done = autoscaler(config, "replay", tmp_path / "other")
    assert done.returncode == 1
    assert "299 identical byte for byte, 1 different" in done.stdout
    assert "first difference: decider/7f/web/81" in done.stdout
    assert "desired_after: recorded 9, replayed 2" in done.stdout


def test_a_recording_of_an_older_format_is_one_clear_error(config: Path, recording: Path) -> None:
    raw = segment_files(recording / "recording")[1].path
    data = raw.read_bytes()
    raw.write_bytes(data[:8] + (0).to_bytes(2, "little") + data[10:])
    assert "has format version 0; this program reads version 1" in refused(config, "replay", recording)


def test_what_is_no_recording_is_one_clear_error(config: Path, tmp_path: Path, recording: Path) -> None:
    assert "does not exist" in refused(config, "replay", tmp_path / "nowhere")
    assert "no decision in" in refused(config, "replay", config)
    (tmp_path / "empty").mkdir()
    assert "there is no recording in" in refused(config, "replay", tmp_path / "empty")
    assert "no group 'api' in the recording; groups: web" in refused(config, "replay", recording, "-g", "api")
    refused(config, "replay", recording, "--png", "x.png", code=2)


def test_without_a_basis_the_configuration_tells_the_settings(config: Path, tmp_path: Path) -> None:
    middle = [number for number, frame in enumerate(life()) if frame.topic == "decision.web"][40]
    write(tmp_path / "rest", list(life()[middle : middle + 300]))
    found = only(answered(config, "replay", tmp_path / "rest")["groups"])
    assert found["different"] == 0
    assert found["exact_from"] == "decider/7f/web/61"  # until then, for how long it was calm is not known
    assert "cannot be read" in refused(tmp_path / "none.toml", "replay", tmp_path / "rest", code=2)


# --- replay --policy -------------------------------------------------------------------------------------------------


def test_another_policy_is_shown_beside_the_recorded_one(config: Path, recording: Path, tmp_path: Path) -> None:
    other, png = tmp_path / "other.toml", tmp_path / "both.png"
    other.write_text(TOML.format(dir=tmp_path, more=QUICK))
    done = autoscaler(config, "replay", recording, "--policy", other, "--png", png)
    assert done.returncode == 0, done.stderr
    for word in (
        "domain-hours",
        "seconds over threshold",
        "θU",
        "θO",
        "starts",
        "flaps",
        "First difference",
        "The model",
    ):
        assert word in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    values = answered(config, "replay", recording, "--policy", other)
    sides = values["sides"]
    assert isinstance(sides, dict)
    assert sides["other"]["over_threshold_s"] < sides["recorded"]["over_threshold_s"]
    assert sides["other"].keys() == sides["recorded"].keys() == sides["control"].keys()


def test_a_policy_file_without_the_group_or_a_picture_of_no_kind_is_refused(
    config: Path, recording: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(TOML.format(dir=tmp_path, more="").replace("groups.web", "groups.api"))
    assert "no group 'web', as in the recording; groups: api" in refused(
        config, "replay", recording, "--policy", other, code=2
    )
    assert "must end in .png or .svg" in refused(
        config, "replay", recording, "--policy", config, "--png", "a.gif", code=2
    )
    assert "--lead-time must be in" in refused(
        config, "replay", recording, "--policy", config, "--lead-time", -1, code=2
    )


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain_at_a_time_tells_votes_limiter_and_what_comes_next(config: Path, recording: Path) -> None:
    at_s = EPOCH_S + 63
    text = autoscaler(config, "explain", "web", "--at", at_s).stdout
    assert "2023-11-14 22:14:23+00:00  web: It keeps 1 domain: CPU 95 %, at or above 80 % for 3 s of 5 s." in text
    assert "threshold votes 1" in text
    assert "if nothing changes: it scales out to 2 in 2 s" in text
    assert "thread: monitor/1/sample.local/63 → decider/7f/web/63" in text
    same = autoscaler(config, "explain", "web", "--at", "2023-11-14T22:14:23").stdout
    assert same == text
    values = answered(config, "explain", "web", "--at", at_s)
    assert values["cause"] == "monitor/1/sample.local/63"
    assert values["doubt"] == ""


def test_explain_after_a_restart_runs_the_core_forward_from_there(config: Path, recording: Path) -> None:
    values = answered(config, "explain", "web", "--at", EPOCH_S + 230)
    assert values["doubt"] == ""
    record = values["record"]
    assert isinstance(record, dict)
    assert record["decision_id"] == "decider/80/web/70"
    assert values["outlooks"]


def test_explain_since_lists_changes_or_every_tick(config: Path, recording: Path) -> None:
    changes = autoscaler(config, "explain", "--since", "9999d").stdout.splitlines()
    ticks = autoscaler(config, "explain", "--since", "9999d", "--ticks").stdout.splitlines()
    assert len(ticks) == 300
    assert 3 < len(changes) < 60
    assert any("It scales out from 1 to 2" in line for line in changes)


def test_explain_without_a_decider_falls_back_to_the_recording(config: Path, recording: Path) -> None:
    done = autoscaler(config, "explain")
    assert done.returncode == 0, done.stderr
    assert "this is the last tick of the recording" in done.stderr
    assert "web: It keeps" in done.stdout


def test_explain_of_a_time_that_was_not_recorded_names_the_one_before(config: Path, recording: Path) -> None:
    assert "the one before is of 2023-11-14 22:18:20" in refused(config, "explain", "--at", EPOCH_S + 900)
    assert "at or before 2023-11-14 22:13:19" in refused(config, "explain", "--at", EPOCH_S - 1)
    assert "no tick of group web is recorded since" in refused(config, "explain", "--since", "1s")
    assert "an instant is ISO 8601" in refused(config, "explain", "--at", "tea time", code=2)
    assert "a duration is a number" in refused(config, "explain", "--since", "soon", code=2)
    assert "cannot be used together" in refused(config, "explain", "--since", "1h", "--at", "12:00", code=2)


def test_segments_have_the_names_that_the_writer_gives(recording: Path) -> None:
    assert segment_files(recording / "recording")[1].path.name == raw_name(2)
