"""The plotter without a display: listens, and writes ``<state_dir>/graph.png`` now and then.

matplotlib is loaded at the first picture, when all other services have long started.
"""

from pathlib import Path
from typing import Final

from common.bus import Inbox
from common.clock import boot_id
from common.config import Config
from common.errors import AutoscalerError, RecordingError
from common.log import Quiet, logger
from common.process import Context
from common.recording import Recorded, Recording, recording_dir
from common.state_dir import ensure_state_dir
from services.plotter.core.layout import arrange
from services.plotter.core.view import views
from services.plotter.sources import heard, nothing_known, replayed, subscribe

SPAN_S: Final = 600.0
FIRST_AFTER_S: Final = 5.0
EVERY_S: Final = 60.0
SAY_AGAIN_S: Final = 900.0
GRAPH_DPI: Final = 90.0


class PlotterService:
    """Keeps a picture of the last ten minutes fresh."""

    def __init__(self, context: Context) -> None:
        """Listen, and begin with what the recording tells of the last ten minutes."""
        self._clock, config = context.clock, context.config
        self._views = views(config)
        self._path = config.system.state_path / "graph.png"
        self._quiet = Quiet(SAY_AGAIN_S)
        self._is_failing = False
        subscribe(context.bus)
        now_s = self._clock.monotonic_s()
        self._state = nothing_known(config, SPAN_S)
        recording = Recording(recording_dir(config.system.state_path))
        end = Recorded(self._clock.epoch_s(), now_s, boot_id(), "", b"")
        try:
            self._state = replayed(self._state, recording, end, is_clock_shared=config.bus.transport == "ipc")
        except RecordingError as error:
            logger().info("no-history", reason=str(error))
        if recording.damage.text():
            logger().warning("history-damaged", reason=recording.damage.text())
        self._due_s = now_s + FIRST_AFTER_S

    def step(self, inbox: Inbox, now_s: float) -> float:
        """Remember what arrived; draw if it is time."""
        self._state, _ = heard(self._state, inbox, now_s)
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self._draw(now_s)
        return self._due_s - now_s

    def reload(self, config: Config, now_s: float) -> None:
        """Draw the new thresholds and windows, soon."""
        self._views = views(config)
        self._due_s = min(self._due_s, now_s + FIRST_AFTER_S)

    def keep_again(self, now_s: float) -> None:
        """Draw soon: the picture is gone."""
        self._due_s = min(self._due_s, now_s + FIRST_AFTER_S)

    def close(self) -> None:
        """Leave the last picture where it is."""

    def _draw(self, now_s: float) -> None:
        from services.plotter.picture import label_gap
        from services.plotter.render import for_people, save

        panels = arrange(self._state, self._views, now_s, label_gap(len(self._views)))
        try:
            ensure_state_dir(self._path.parent)
            save(panels, [self._path], for_people(self._clock.epoch_s()), GRAPH_DPI)
        except (AutoscalerError, OSError) as error:
            self._complain(error, self._path, now_s)
            return
        if self._is_failing:
            logger().info("graph-written-again", path=str(self._path))
            self._is_failing = False

    def _complain(self, error: Exception, path: Path, now_s: float) -> None:
        self._is_failing = True
        if self._quiet.may_say("graph", now_s):
            logger().warning("graph-not-written", path=str(path), reason=str(error), retry_s=EVERY_S)
