"""The load generator, started as ``make load`` starts it and ended as a person ends it: with Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from bench.installation import CLOCK

ROOT = Path(__file__).resolve().parent.parent
END_S = 60.0


class Load:
    """One load on a group's endpoint, from the first moment of the ``with`` block to Ctrl-C or the block's end."""

    def __init__(self, config_path: Path, group: str, level: str = "high") -> None:
        """Choose what is driven and how hard (``low``, ``mid`` or ``high``)."""
        words = ["--config", str(config_path), "load", "--level", level, "--group", group, "--json"]
        self._command = [sys.executable, "-m", "cli", *words]

    def __enter__(self) -> "Load":
        """Start it in a process group of its own, which is what a terminal sends Ctrl-C to."""
        out = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self.ctrl_c()

    @property
    def is_running(self) -> bool:
        """Return whether it still sends requests."""
        return self._process.poll() is None

    def ctrl_c(self) -> float:
        """Return when Ctrl-C was pressed, in epoch seconds; it has ended, and nothing is in flight any more."""
        pressed_at_s = CLOCK.epoch_s()
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(END_S)
        return pressed_at_s
