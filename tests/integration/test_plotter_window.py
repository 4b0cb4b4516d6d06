"""The live window on a virtual display: it shows history at once, keeps up, survives restarts and closes cleanly."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from common.bus import Bus
from common.clock import SystemClock, boot_id
from common.config import Config
from common.config_file import load
from common.messages import Header, HostSample
from common.recording import frame_bytes, header_bytes, raw_name, recording_dir
from common.wire import encode
from services.plotter import palette
from tests.faults.proof import Proof

CLOCK = SystemClock()
DEADLINE_S = 60.0
TOOLS = ("Xvfb", "xdotool", "import")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)} (xvfb, xdotool, imagemagick)"
)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        name = f":{number.readline().strip()}"
    yield name
    server.terminate()
    server.wait()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    system = f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
    path.write_text(system + '[groups.web]\nprefix = "web-"\nmax = 20\n')
    return path


@pytest.fixture
def config(config_file: Path) -> Config:
    return load(config_file)[0]


@pytest.fixture
def open_window(config_file: Path, display: str) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    windows: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "services.plotter", "--window", "--config", str(config_file)]
        environment = os.environ | {"DISPLAY": display}
        window = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        windows.append(window)
        until(lambda: window_id(display) != "")
        return window

    yield start
    for window in windows:
        window.kill()
        window.communicate()


def until(is_true: Callable[[], bool], bus: Bus | None = None) -> None:
    deadline_s = CLOCK.monotonic_s() + DEADLINE_S
    while not is_true():
        assert CLOCK.monotonic_s() < deadline_s, "the condition did not come true in time"
        if bus is not None:
            bus.receive(0.05)


def window_id(display: str) -> str:
    command = ["xdotool", "search", "--onlyvisible", "--name", "libvirt-autoscaler"]
    found = subprocess.run(
        command, env=os.environ | {"DISPLAY": display}, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    return found.stdout.strip()


def seen(display: str, tmp_path: Path, colour: str) -> int:
    """Return how many pixels of the screen have the colour."""
    shot = tmp_path / "shot.png"
    command = ["import", "-window", "root", f"png24:{shot}"]
    subprocess.run(command, env=os.environ | {"DISPLAY": display}, check=True, timeout=DEADLINE_S)
    image = matplotlib.image.imread(shot)[:, :, :3]
    return int(np.sum(np.all(np.abs(image - np.array(to_rgb(colour))) < 0.02, axis=2)))


def sample(domains: int, tick: int) -> HostSample:
    names = tuple(f"web-{number:04d}" for number in range(domains))
    return HostSample(
        host="local",
        interval_s=1.0,
        is_reachable=True,
        names=names,
        uuids=names,
        states=("running",) * domains,
        cpu_ratios=tuple(0.2 + 0.6 * ((tick * 7 + at * 13) % 50) / 50 for at in range(domains)),
        allotted_cpus=(1.0,) * domains,
    )


def record_ten_minutes(config: Config, domains: int) -> None:
    now_s, offset_s = CLOCK.monotonic_s(), CLOCK.epoch_s() - CLOCK.monotonic_s()
    data = header_bytes(boot_id(), 0.0)
    for ago in range(600, 0, -1):
        header = Header(source="monitor", run_id=1, seq=601 - ago, sent_at_s=0, mono_s=now_s - ago)
        topic, payload = encode(header, sample(domains, ago))
        data += frame_bytes(now_s - ago + offset_s, now_s - ago, topic.decode(), payload)
    directory = recording_dir(config.system.state_path)
    directory.mkdir(parents=True)
    (directory / raw_name(1)).write_bytes(data)


def test_the_window_shows_what_is_said_and_goes_on_after_a_restart_of_the_monitor(
    config: Config, display: str, tmp_path: Path, open_window: Callable[[], subprocess.Popen[str]]
) -> None:
    window = open_window()
    until(lambda: seen(display, tmp_path, palette.WINDOW) > 1000)
    for domains in (1, 2):
        monitor = Bus.open(config, "monitor", CLOCK)
        ticks = iter(range(1000))

        def shows(colour: str, bus: Bus = monitor, count: int = domains, ticks: Iterator[int] = ticks) -> bool:
            bus.publish(sample(count, next(ticks)))
            bus.receive(0.3)
            return seen(display, tmp_path, colour) > 20

        until(lambda: shows(palette.DOMAINS[domains - 1]))  # noqa: B023 - called within this turn of the loop
        monitor.close()
    assert window.poll() is None


def test_the_window_shows_the_last_ten_minutes_at_once(
    config: Config, display: str, tmp_path: Path, open_window: Callable[[], subprocess.Popen[str]]
) -> None:
    record_ten_minutes(config, domains=3)
    open_window()
    until(lambda: seen(display, tmp_path, palette.MEAN_BELOW) > 1000)


def test_twenty_domains_over_ten_minutes_at_1_hz_take_well_under_half_a_core(
    config: Config, display: str, tmp_path: Path, open_window: Callable[[], subprocess.Popen[str]]
) -> None:
    record_ten_minutes(config, domains=20)
    monitor = Bus.open(config, "monitor", CLOCK)
    window = open_window()
    until(lambda: seen(display, tmp_path, palette.MEAN_BELOW) > 500)
    began_s, used_s = CLOCK.monotonic_s(), cpu_s(window.pid)
    for tick in range(8):
        monitor.publish(sample(20, tick))
        until(lambda tick=tick: CLOCK.monotonic_s() >= began_s + tick + 1, monitor)  # type: ignore[misc]
    share = (cpu_s(window.pid) - used_s) / (CLOCK.monotonic_s() - began_s)
    monitor.close()
    assert 0.0 < share < 0.4


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_window_closes_cleanly_on_a_signal(
    display: str, open_window: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    window = open_window()
    window.send_signal(number)
    _, said = window.communicate(timeout=DEADLINE_S)
    assert (window.returncode, "Traceback" in said) == (0, False)
    until(lambda: window_id(display) == "")


CLOSE_BUTTON = """
import sys, tkinter
from pathlib import Path
from common.clock import SystemClock
from common.config_file import load
from services.plotter import window

class Closing(tkinter.Tk):
    def __init__(self):
        super().__init__()
        self.after(1000, lambda: self.tk.eval(self.protocol("WM_DELETE_WINDOW")))

tkinter.Tk = Closing
sys.exit(window.run(load(Path(sys.argv[1]))[0], SystemClock()))
"""


def test_the_window_closes_cleanly_when_it_is_closed(display: str, config_file: Path) -> None:
    command = [sys.executable, "-c", CLOSE_BUTTON, str(config_file)]
    environment = os.environ | {"DISPLAY": display}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_window_may_be_resized(
    config: Config, display: str, tmp_path: Path, open_window: Callable[[], subprocess.Popen[str]]
) -> None:
    record_ten_minutes(config, domains=2)
    window = open_window()
    until(lambda: seen(display, tmp_path, palette.MEAN_BELOW) > 1000)
    before = seen(display, tmp_path, palette.WINDOW)
    command = ["xdotool", "windowsize", window_id(display), "640", "400"]
    subprocess.run(command, env=os.environ | {"DISPLAY": display}, check=True, timeout=DEADLINE_S)
    until(lambda: 20 < seen(display, tmp_path, palette.WINDOW) < 0.6 * before)
    assert window.poll() is None


@pytest.mark.fault(6)
def test_without_a_display_one_sentence_says_how_to_get_a_picture(config_file: Path, row: Proof) -> None:
    command = [sys.executable, "-m", "services.plotter", "--window", "--config", str(config_file)]
    done = subprocess.run(command, env=os.environ | {"DISPLAY": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"plotter: there is no display .*: autoscaler plot --png FILE\n", done.stderr)
    row.held("without a display its window ends with one sentence")


def test_a_wrong_configuration_is_exit_code_2(tmp_path: Path, display: str) -> None:
    path = tmp_path / "autoscaler.toml"
    path.write_text("[groups.web]\nprefx = 1\n")
    command = [sys.executable, "-m", "services.plotter", "--window", "--config", str(path)]
    done = subprocess.run(command, env=os.environ | {"DISPLAY": display}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "prefx" in done.stderr
