"""The graph: a window on a desktop, or files without one."""

import subprocess
import sys
from pathlib import Path

from cli.program import module
from common.config import Config
from common.recording import recording_dir


def open_window(config_path: Path) -> int:
    """Run the plotter's window until it is closed; return its exit code."""
    command = [*module("services.plotter"), "--config", str(config_path), "--window"]
    child = subprocess.Popen(command)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the window got the same signal, and closes itself


def draw_files(config: Config, minutes: float, paths: list[Path]) -> None:
    """Draw the last ``minutes`` of the recording into each file.

    Raises:
        RecordingError: there is no recording that can be read.
        AutoscalerError: a file cannot be written.
    """
    from services.plotter.render import render

    left_out = render(config, recording_dir(config.system.state_path), minutes, paths)
    if left_out:
        print(f"autoscaler: {left_out}", file=sys.stderr)
