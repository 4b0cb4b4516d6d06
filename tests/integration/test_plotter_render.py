"""Pictures in files: from a recording, on demand, and by the service without a display."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from common.bus import Bus, Inbox
from common.clock import SystemClock, boot_id
from common.config import Config
from common.config_file import load
from common.errors import AutoscalerError, RecordingError
from common.messages import (
    BackendState,
    Body,
    DesiredCapacity,
    Drain,
    Event,
    Failure,
    Header,
    HostSample,
    Member,
    Membership,
)
from common.phases import Phase
from common.process import Context
from common.recording import Recording, frame_bytes, header_bytes, raw_name, recording_dir
from common.wire import encode
from services.plotter import palette
from services.plotter.render import render
from services.plotter.shell import EVERY_S, FIRST_AFTER_S, PlotterService

CLOCK = SystemClock()
TWO_GROUPS = '[groups.api]\nprefix = "api-"\nendpoint = "127.0.0.1:8001"\n'


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    system = f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
    path.write_text(system + '[groups.web]\nprefix = "web-"\n')
    return path


@pytest.fixture
def config(config_file: Path) -> Config:
    return load(config_file)[0]


def sample(ratios: dict[str, float | None]) -> HostSample:
    return HostSample(
        host="local",
        interval_s=1.0,
        is_reachable=True,
        names=tuple(ratios),
        uuids=tuple("u" for _ in ratios),
        states=tuple("running" for _ in ratios),
        cpu_ratios=tuple(ratios.values()),
        allotted_cpus=tuple(1.0 for _ in ratios),
    )


def membership(names: list[str], group: str = "web") -> Membership:
    members = tuple(
        Member(name=name, uuid=name, host="local", phase=Phase.READY, since_s=0, age_s=0, address=None, port=80)
        for name in names
    )
    return Membership(
        group=group, generation_seen=1, desired_seen=1, members=members, owned_total=len(members), ceiling=5
    )


def drain(names: list[str]) -> Drain:
    backends = tuple(BackendState(name=name, uuid=name, slot=name, state="ready", is_healthy=True) for name in names)
    return Drain(group="web", endpoint="http://127.0.0.1:8000/", is_proxy_alive=True, backends=backends)


def story(domains: int, seconds: int) -> Iterator[tuple[float, Body]]:
    """Tell of a group that grows, loses a domain and shrinks; with as many samples as seconds."""
    names = [f"web-{number:04d}" for number in range(domains)]
    for second in range(seconds):
        yield second, sample({name: 0.3 + 0.5 * ((second + 7 * at) % 60) / 60 for at, name in enumerate(names)})
        yield second, drain(names)
        yield second, membership(names)
        yield second, DesiredCapacity(group="web", generation=1, desired=domains, minimum=1, maximum=domains)
    yield seconds * 0.3, Event(name="scale-out", group="web", text="from 1 to 2: above")
    yield seconds * 0.5, Failure(host="local", domain="web-0001", uuid="u", reason="crashed")
    yield seconds * 0.8, Event(name="scale-in", group="web", text="from 2 to 1: below")


def record(config: Config, said: Iterator[tuple[float, Body]], *, end_ago_s: float = 0.0, boot: str = "") -> None:
    """Write ``said`` as the recorder does, such that its last message was said ``end_ago_s`` ago."""
    told = sorted(said, key=lambda it: it[0])
    shift_s = CLOCK.monotonic_s() - end_ago_s - told[-1][0]
    epoch_s = CLOCK.epoch_s() - CLOCK.monotonic_s()
    data = header_bytes(boot or boot_id(), 0.0)
    for seq, (at_s, body) in enumerate(told, start=1):
        mono_s = at_s + shift_s
        header = Header(source="monitor", run_id=1, seq=seq, sent_at_s=mono_s + epoch_s, mono_s=mono_s)
        topic, payload = encode(header, body)
        data += frame_bytes(mono_s + epoch_s, mono_s, topic.decode(), payload)
    directory = recording_dir(config.system.state_path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / raw_name(1)).write_bytes(data)


def pixels(path: Path, colour: str) -> int:
    """Return how many pixels of a picture have the colour."""
    image = matplotlib.image.imread(path)[:, :, :3]
    return int(np.sum(np.all(np.abs(image - np.array(to_rgb(colour))) < 0.02, axis=2)))


def draw(config: Config, *names: str, minutes: float = 10.0) -> list[Path]:
    paths = [config.system.state_path / name for name in names]
    assert render(config, recording_dir(config.system.state_path), minutes, paths) == ""
    return paths


def test_a_png_shows_the_lines_the_window_the_marks_and_the_counts(config: Config) -> None:
    record(config, story(domains=2, seconds=300))
    (path,) = draw(config, "graph.png")
    for colour in (
        palette.DOMAINS[0],
        palette.DOMAINS[1],
        palette.MEAN_BELOW,
        palette.READY,
        *(palette.MARKS[kind][1] for kind in ("out", "in", "failure")),
    ):
        assert pixels(path, colour) > 30, colour
    assert pixels(path, palette.WINDOW) > 5000
    assert pixels(path, palette.DOMAINS[2]) == 0


def test_an_svg_holds_names_thresholds_and_the_window_as_text(config: Config) -> None:
    record(config, story(domains=3, seconds=400))
    (path,) = draw(config, "graph.svg")
    texts = {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())}
    assert {"web", "window that decides (5 s)", "high 80%", "low 35%", "0", "+5", "1→2", "2→1", "web-0001"} <= texts
    assert {text.split()[0] for text in texts if text.startswith("web-")} == {"web-0000", "web-0001", "web-0002"}
    assert any(text.startswith("3 ready of 3 desired") for text in texts)


def test_both_kinds_of_files_are_drawn_at_once(config: Config) -> None:
    record(config, story(domains=1, seconds=30))
    assert all(path.stat().st_size > 10_000 for path in draw(config, "a.png", "a.svg"))
    assert not list(config.system.state_path.glob("*.new"))


def test_several_groups_are_several_panels(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + TWO_GROUPS)
    config = load(config_file)[0]
    record(config, story(domains=2, seconds=60))
    (path,) = draw(config, "graph.svg")
    text = path.read_text()
    assert text.count("window that decides (5 s)") == 2
    assert "? ready of ? desired" in text


def test_only_the_minutes_asked_for_are_drawn(config: Config) -> None:
    record(config, story(domains=1, seconds=600))
    far, near = draw(config, "far.svg")[0].read_text(), draw(config, "near.svg", minutes=1.0)[0].read_text()
    assert ">1→2<" in far and ">1→2<" not in near


def test_a_recording_of_before_the_last_boot_is_drawn_too(config: Config) -> None:
    record(config, story(domains=2, seconds=60), end_ago_s=3600.0, boot="an earlier boot")
    assert "web-0001" in draw(config, "graph.svg")[0].read_text()


def test_what_is_damaged_is_left_out_and_said(config: Config) -> None:
    record(config, story(domains=1, seconds=60))
    (segment,) = recording_dir(config.system.state_path).iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    out = config.system.state_path / "graph.png"
    said = render(config, recording_dir(config.system.state_path), 10, [out])
    assert said.startswith("left out of the recording: 1 damaged place")
    assert pixels(out, palette.DOMAINS[0]) > 30


def test_without_a_recording_there_is_one_clear_error(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"there is no recording in .*/state/recording"):
        render(config, recording_dir(config.system.state_path), 10, [tmp_path / "a.png"])


def test_an_empty_recording_is_one_clear_error(config: Config, tmp_path: Path) -> None:
    directory = recording_dir(config.system.state_path)
    directory.mkdir(parents=True)
    (directory / raw_name(1)).write_bytes(header_bytes("b", 0.0))
    with pytest.raises(RecordingError, match="holds no message yet"):
        render(config, directory, 10, [tmp_path / "a.png"])


def test_another_kind_of_picture_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(AutoscalerError, match=r"must end in \.png or \.svg; got 'a\.jpg'"):
        render(config, tmp_path, 10, [tmp_path / "a.jpg"])


def test_a_path_that_cannot_be_written_is_one_clear_error(config: Config, tmp_path: Path) -> None:
    record(config, story(domains=1, seconds=10))
    with pytest.raises(AutoscalerError, match=r"none/a\.png cannot be written: No such file or directory"):
        render(config, recording_dir(config.system.state_path), 10, [tmp_path / "none" / "a.png"])


def test_the_recorder_and_the_operators_command_do_not_load_matplotlib() -> None:
    program = (
        "import sys, services.recorder.shell, services.plotter.shell, cli.main; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- the service without a display -----------------------------------------------------------------------------


class FakeBus:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.subscribed: dict[str, tuple[str, ...]] = {}

    def subscribe(self, service: str, *kinds: str) -> None:
        self.subscribed[service] = kinds


def service(config: Config) -> PlotterService:
    bus = FakeBus()
    context = Context("plotter", config, "", Path(), CLOCK, bus, is_stopping=lambda: False)  # type: ignore[arg-type]
    return PlotterService(context)


def test_the_service_draws_what_was_recorded_before_it_started(config: Config) -> None:
    record(config, story(domains=2, seconds=60))
    plotter = service(config)
    now_s = CLOCK.monotonic_s()
    path = config.system.state_path / "graph.png"
    assert plotter.step(Inbox(), now_s) <= FIRST_AFTER_S
    assert not path.exists()
    assert plotter.step(Inbox(), now_s + FIRST_AFTER_S + 0.1) == pytest.approx(EVERY_S)
    assert pixels(path, palette.DOMAINS[0]) > 30
    assert [found.name for found in path.parent.iterdir() if found.suffix == ".new"] == []


def test_a_picture_that_cannot_be_written_is_said_once_and_the_service_goes_on(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    plotter = service(config)
    now_s = CLOCK.monotonic_s() + FIRST_AFTER_S + 0.1
    blocker = config.system.state_path / "graph.png"
    (blocker / "in the way").mkdir(parents=True)
    plotter.step(Inbox(), now_s)
    plotter.step(Inbox(), now_s + EVERY_S + 0.1)
    assert capsys.readouterr().out.count("graph-not-written") == 1
    (blocker / "in the way").rmdir()
    blocker.rmdir()
    plotter.step(Inbox(), now_s + 2 * EVERY_S + 0.2)
    assert blocker.is_file()
    assert "graph-written-again" in capsys.readouterr().out


def test_the_process_listens_and_ends_cleanly(config: Config, config_file: Path) -> None:
    command = [sys.executable, "-m", "services.plotter", "--config", str(config_file)]
    monitor = Bus.open(config, "monitor", CLOCK)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DISPLAY": ""})
    try:
        deadline_s = CLOCK.monotonic_s() + 90
        path = config.system.state_path / "graph.png"
        while not (path.exists() and pixels(path, palette.DOMAINS[0])):
            assert CLOCK.monotonic_s() < deadline_s, "no picture in time"
            monitor.publish(sample({"web-0000": 0.5}))
            monitor.receive(0.5)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
        monitor.close()


def test_a_recording_in_use_is_read_while_it_grows(config: Config) -> None:
    record(config, story(domains=1, seconds=30))
    (segment,) = recording_dir(config.system.state_path).iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    recording = Recording(recording_dir(config.system.state_path))
    assert len(list(recording.frames())) > 80
    assert recording.damage.tails == 1
