"""The recorder as a process: what the bus says is on disk, whatever happens to the process or the disk."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.bus import Bus, Inbox, Received
from common.clock import SystemClock
from common.config import Config
from common.config_file import load
from common.messages import Body, Drain, Event, Header, HostSample, message_id
from common.process import Context
from common.recording import Recording, frame_bytes, recording_dir, segment_files
from common.wire import encode
from services.recorder import shell
from services.recorder.core.gap import AFTER_STOP_S
from services.recorder.segments import SegmentWriter, drop_old, finish
from services.recorder.shell import RecorderService

CLOCK = SystemClock()
DEADLINE_S = 30.0


def until(is_true: Callable[[], bool], bus: Bus | None = None) -> None:
    deadline_s = CLOCK.monotonic_s() + DEADLINE_S
    while not is_true():
        assert CLOCK.monotonic_s() < deadline_s, "the condition did not come true in time"
        if bus is not None:
            bus.receive(0.02)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    system = f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
    path.write_text(system + '[groups.web]\nprefix = "web-"\n')
    return path


@pytest.fixture
def config(config_file: Path) -> Config:
    return load(config_file)[0]


@pytest.fixture
def monitor(config: Config) -> Iterator[Bus]:
    bus = Bus.open(config, "monitor", CLOCK)
    yield bus
    bus.close()


@pytest.fixture
def start(config_file: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "services.recorder", "--config", str(config_file)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def texts(config: Config) -> list[str]:
    return [body.text for body in bodies(config, "event") if isinstance(body, Event)]


def bodies(config: Config, kind: str) -> list[Body]:
    directory = recording_dir(config.system.state_path)
    if not segment_files(directory):
        return []
    return [body for _, _, body in Recording(directory).messages(kinds=[kind])]


def say(bus: Bus, text: str) -> None:
    bus.publish(Event(name="operator", text=text))


def say_until_heard(bus: Bus, config: Config, text: str) -> None:
    """Events are lost while nobody listens: say it until it is on disk."""

    def is_heard() -> bool:
        say(bus, text)
        bus.receive(0.05)
        return text in texts(config)

    until(is_heard)


def test_what_the_bus_says_is_on_disk_and_survives_kill_9(
    config: Config, monitor: Bus, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    say_until_heard(monitor, config, "before")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert "before" in texts(config)
    second = start()
    say_until_heard(monitor, config, "after")
    second.send_signal(signal.SIGTERM)
    assert second.wait(DEADLINE_S) == 0
    assert {"before", "after"} <= set(texts(config))
    assert Recording(recording_dir(config.system.state_path)).damage.text() == ""


def gaps(config: Config) -> list[str]:
    return [text for text in texts(config) if text.startswith("nothing was recorded from ")]


def until_a_gap_of(seconds: float, config: Config) -> None:
    """Return when the recording has ended so long ago."""
    newest = Recording(recording_dir(config.system.state_path)).newest()
    assert newest is not None
    until(lambda: CLOCK.monotonic_s() - newest.mono_s > seconds)


def test_a_killed_recorder_has_its_gap_told_in_the_recording_and_by_the_command(
    config: Config, config_file: Path, monitor: Bus, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    say_until_heard(monitor, config, "before")
    first.kill()
    first.wait()
    until_a_gap_of(2.0, config)
    say(monitor, "missing")
    start()
    until(lambda: bool(gaps(config)), monitor)
    say_until_heard(monitor, config, "after")
    (gap,) = gaps(config)
    assert gap.endswith(" s): events of that time are missing")
    assert "missing" not in texts(config)
    assert any(f"(process {first.pid}) did not end by itself" in text for text in texts(config))
    command = [sys.executable, "-m", "cli", "--config", str(config_file), "events"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.count(gap) == 1
    assert shown.count("recording-gap") == shown.count("service-restarted") == 1


@pytest.mark.parametrize("together", [False, True], ids=["alone", "with the recorder"])
def test_a_killed_decider_has_its_end_told_in_the_recording_once(
    config: Config, config_file: Path, start: Callable[[], subprocess.Popen[str]], *, together: bool
) -> None:
    def decider() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "services.decider", "--config", str(config_file)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deciders.append(process)
        return process

    def told() -> list[str]:
        return [text for text in texts(config) if text.startswith("decider runs again. ")]

    def until_decided() -> None:
        heard = len(bodies(config, "decision"))
        until(lambda: len(bodies(config, "decision")) > heard)

    deciders: list[subprocess.Popen[bytes]] = []
    try:
        recorder, first = start(), decider()
        until_decided()
        for process in (recorder, first) if together else (first,):
            process.kill()
            process.wait()
        second = decider()
        if together:
            door = Bus.open(config, "operator", CLOCK, publishes=False)
            door.subscribe("decider")
            until(lambda: bool(door.receive(0.1).messages))  # it has told already, and nobody recorded it
            door.close()
            start()
        until(lambda: bool(told()))
        assert f"(process {first.pid}) did not end by itself" in told()[0]
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
        decider()
        until_decided()
        assert len(told()) == 1
    finally:
        for process in deciders:
            process.kill()
            process.wait()


@pytest.mark.parametrize("others", ["go on", "stop too"])
def test_a_recorder_that_is_stopped_has_its_gap_told_if_others_go_on(
    config: Config, config_file: Path, start: Callable[[], subprocess.Popen[str]], others: str
) -> None:
    command = [sys.executable, "-m", "services.decider", "--config", str(config_file)]
    decider = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        first = start()
        until(lambda: bool(bodies(config, "service")))
        for process in (first, decider) if others == "stop too" else (first,):
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        until_a_gap_of(AFTER_STOP_S + 1.5, config)
        second = start()
        if others == "stop too":
            decider = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            heard = len(bodies(config, "decision"))
            until(lambda: len(bodies(config, "decision")) > heard)
            assert gaps(config) == []
        else:
            until(lambda: len(gaps(config)) == 1)
            heard = len(bodies(config, "decision"))
            until(lambda: len(bodies(config, "decision")) > heard)
            replay = [
                sys.executable,
                "-m",
                "cli",
                "--config",
                str(config_file),
                "replay",
                str(config.system.state_path),
            ]
            done = subprocess.run(replay, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done
        assert second.poll() is None
        assert not [text for text in texts(config) if "did not end by itself" in text]
    finally:
        decider.kill()
        decider.wait()


def test_every_standing_message_is_kept_not_only_the_newest(
    config: Config, monitor: Bus, start: Callable[[], subprocess.Popen[str]]
) -> None:
    start()
    say_until_heard(monitor, config, "ready")
    for _ in range(50):
        monitor.publish(HostSample(host="local", interval_s=1.0, is_reachable=True))
    recording = Recording(recording_dir(config.system.state_path))
    until(lambda: len(list(recording.frames(kinds=["sample"]))) == 50, monitor)
    assert [header.seq for _, header, _ in recording.messages(kinds=["sample"])] == list(range(1, 51))


def test_a_second_copy_ends_with_75(config: Config, monitor: Bus, start: Callable[[], subprocess.Popen[str]]) -> None:
    start()
    say_until_heard(monitor, config, "ready")
    assert start().wait(DEADLINE_S) == 75


def test_the_files_are_readable_by_their_owner_alone(
    config: Config, monitor: Bus, start: Callable[[], subprocess.Popen[str]]
) -> None:
    start()
    say_until_heard(monitor, config, "ready")
    directory = recording_dir(config.system.state_path)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.path.stat().st_mode & 0o777 for file in segment_files(directory)} == {0o600}


# --- on a disk that is full or fails: the service in this process ------------------------------------------------


class FakeBus:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.subscribed: list[str] = []
        self.published: list[Event] = []

    def keep_every_message(self) -> None:
        pass

    def subscribe(self, service: str, *kinds: str) -> None:
        self.subscribed.append(service)

    def publish(self, body: Event, *, keep_s: float = 0.0) -> None:
        self.published.append(body)


def service_on(config: Config, tmp_path: Path) -> tuple[RecorderService, FakeBus]:
    bus = FakeBus()
    context = Context("recorder", config, "", tmp_path, CLOCK, bus, is_stopping=lambda: True)  # type: ignore[arg-type]
    return RecorderService(context), bus


def inbox(text: str, seq: int = 1) -> Inbox:
    return received(Event(name="operator", text=text), seq)


def bulk(count: int) -> Inbox:
    """Return a message of so many bytes that no compression makes shorter."""
    notes = tuple(os.urandom(500).hex() for _ in range(count // 500))
    return received(Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=(), notes=notes), 1)


def received(body: Body, seq: int) -> Inbox:
    header = Header(source="decider", run_id=1, seq=seq, sent_at_s=0, mono_s=0)
    topic, payload = encode(header, body)
    return Inbox(messages=(Received(topic.decode(), header, body, 0.0, message_id(body.topic, header), payload),))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield small
    subprocess.run(["umount", "-l", str(small)], check=True)


def test_on_a_full_disk_it_says_so_goes_on_and_resumes(
    config: Config, full_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = config.system.model_copy(update={"state_dir": str(full_disk)})
    small = config.model_copy(update={"system": system})
    service, bus = service_on(small, tmp_path)
    for second in range(10):
        service.step(bulk(15_000), float(second))  # compressing what is there does not make room either
    assert 0 < bus.counters["recorded"] < 5
    assert bus.counters["lost"] == 10 - bus.counters["recorded"]
    said = capsys.readouterr().out
    assert said.count("recording-paused") == 1
    assert os.strerror(errno.ENOSPC) in said
    assert service._notes == {"recording": f"nothing is recorded: {os.strerror(errno.ENOSPC)}"}
    assert len(bodies(small, "drain")) == bus.counters["recorded"]
    (full_disk / "recording" / "000001.rec").unlink(missing_ok=True)
    for file in segment_files(full_disk / "recording"):
        file.path.unlink()
    service.step(inbox("again"), 100.0)
    assert texts(small)[-1:] == ["again"]
    assert "recording-resumed" in capsys.readouterr().out
    assert service._notes == {}
    lost = bus.counters["lost"]
    paused, resumed = bus.published
    assert (paused.name, paused.level) == ("recording-paused", "warning")
    assert paused.text == f"nothing is recorded: {os.strerror(errno.ENOSPC)}; {full_disk}/recording"
    assert resumed.name == "recording-resumed"
    assert resumed.text.startswith("nothing was recorded from ")
    assert resumed.text.endswith(f": {lost} messages were lost ({os.strerror(errno.ENOSPC)})")
    service.close()


def test_a_gap_that_a_full_disk_keeps_out_of_the_recording_is_told_again_when_there_is_room(
    config: Config, full_disk: Path, tmp_path: Path
) -> None:
    system = config.system.model_copy(update={"state_dir": str(full_disk)})
    small = config.model_copy(update={"system": system})
    service, bus = service_on(small, tmp_path)
    service._gap = "nothing was recorded from 1 to 2: events of that time are missing"
    (full_disk / "filling").write_bytes(bytes(126 * 1024))
    for second in range(3):
        service.step(bulk(15_000), 20.0 * second)
    assert [event.name for event in bus.published] == ["recording-gap", "recording-paused"]
    (full_disk / "filling").unlink()
    service.step(inbox("again"), 100.0)
    service.step(inbox("more"), 101.0)
    assert [event.name for event in bus.published[2:]] == ["recording-resumed", "recording-gap"]
    service.step(received(bus.published[-1], 2), 102.0)
    service.step(inbox("later"), 200.0)
    assert len(bus.published) == 4, "once it stands in the recording, it is not told again"
    assert gaps(small) == [service_text(bus)]
    service.close()


def service_text(bus: FakeBus) -> str:
    return bus.published[-1].text


@pytest.mark.parametrize("how", ["removed", "moved", "recording removed", "unmounted", "mounted over"])
def test_a_directory_that_is_lost_while_it_records_is_noticed_and_made_anew(
    config: Config, full_disk: Path, tmp_path: Path, how: str
) -> None:
    state = full_disk if how == "unmounted" else tmp_path / "state"
    system = config.system.model_copy(update={"state_dir": str(state)})
    config = config.model_copy(update={"system": system})
    service, bus = service_on(config, tmp_path)
    started_s = CLOCK.monotonic_s()
    service.step(inbox("before"), started_s)
    assert texts(config) == ["before"]
    with lose(state, how):
        service.step(inbox("unseen"), started_s + 1.0)
        assert "unseen" not in texts(config)
        service.step(inbox("after"), started_s + 20.0)
        assert texts(config) == ["after"]
        assert [(event.name, event.level) for event in bus.published] == [("recording-lost", "warning")]
        text = f"{state}/recording was removed, moved or unmounted: a new recording is begun"
        assert service._notes == {"recording-lost": text}
        service.step(inbox("later"), started_s + 100.0)
        assert service._notes == {}
        assert len(bus.published) == 1
        assert (state / "recording").stat().st_mode & 0o777 == 0o700
        if how in ("removed", "moved"):
            assert state.stat().st_mode & 0o777 == 0o711
    service.close()


@contextmanager
def lose(state: Path, how: str) -> Iterator[None]:
    match how:
        case "removed":
            shutil.rmtree(state)
        case "moved":
            state.rename(state.with_name("elsewhere"))
        case "recording removed":
            shutil.rmtree(state / "recording")
        case "unmounted":
            subprocess.run(["umount", "-l", str(state)], check=True)
        case _:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(state)], check=True)
    try:
        yield
    finally:
        if how == "mounted over":
            subprocess.run(["umount", "-l", str(state)], check=True)
        if how == "unmounted":  # for the fixture, which unmounts it
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(state)], check=True)


def test_messages_that_the_bus_dropped_are_told_as_a_gap(config: Config, tmp_path: Path) -> None:
    service, bus = service_on(config, tmp_path)
    bus.counters["gaps"] = 7
    service.step(inbox("after"), 1.0)
    service.step(inbox("more"), 2.0)
    assert [(event.name, event.text) for event in bus.published] == [
        ("recording-gap", "7 messages did not reach the recorder")
    ]
    service.close()


def test_a_running_recorder_whose_state_directory_is_removed_records_its_own_word_of_it(
    config: Config, monitor: Bus, start: Callable[[], subprocess.Popen[str]]
) -> None:
    start()
    say_until_heard(monitor, config, "before")
    shutil.rmtree(config.system.state_path)
    say_until_heard(monitor, config, "after")
    directory = recording_dir(config.system.state_path)
    until(lambda: f"{directory} was removed, moved or unmounted: a new recording is begun" in texts(config), monitor)
    assert config.system.state_path.stat().st_mode & 0o777 == 0o711
    until(lambda: (config.system.state_path / "recorder.run").is_file(), monitor)


def test_a_full_segment_gives_way_is_compressed_and_the_oldest_are_dropped(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "segment_bytes", lambda _: 20_000)
    service, _ = service_on(config, tmp_path)
    for number in range(12):
        service.step(bulk(4500), float(number))
    directory = recording_dir(config.system.state_path)
    until(lambda: sum(file.is_finished for file in segment_files(directory)) == 3)
    assert len(bodies(config, "drain")) == 12
    oldest = segment_files(directory)[0]
    total_bytes = sum(file.size_bytes for file in segment_files(directory))
    assert drop_old(directory, total_bytes - 1, 1e9, 0) == (oldest,)
    assert not oldest.path.exists()
    service.close()


def test_what_a_killed_recorder_left_is_compressed_by_the_next(config: Config, tmp_path: Path) -> None:
    directory = recording_dir(config.system.state_path)
    left = SegmentWriter.open(directory, 0, "b", 0.0, 0.0)
    empty = SegmentWriter.open(directory, 0, "b", 0.0, 0.0)
    service, _ = service_on(config, tmp_path)
    service.step(inbox("after"), 1.0)
    until(lambda: not left.path.exists() and not empty.path.exists())
    assert texts(config) == ["after"]
    service.close()
    left.close()
    empty.close()


def test_a_compression_that_finds_no_space_leaves_the_raw_segment(full_disk: Path, tmp_path: Path) -> None:
    writer = SegmentWriter.open(full_disk / "recording", 0, "b", 0.0, 0.0)
    writer.append(frame_bytes(1.0, 1.0, "event.x", os.urandom(90_000)))
    with pytest.raises(OSError, match="No space left"):
        finish(writer.file)
    assert [path.name for path in (full_disk / "recording").iterdir()] == ["000001.rec"]
    writer.close()
