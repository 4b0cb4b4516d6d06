"""The live window: Tk and matplotlib. Only what moves is drawn each second; the frame only when it changes.

Tk's loop asks the bus ten times a second, so that signals, the close button and messages are all answered soon.
"""

import signal
import tkinter
from types import FrameType
from typing import Any, Final

from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
from matplotlib.figure import Figure

from common.bus import Bus
from common.clock import Clock, boot_id
from common.config import Config
from common.errors import AutoscalerError, RecordingError
from common.log import logger
from common.recording import Recorded, Recording, recording_dir
from services.plotter.core.layout import arrange
from services.plotter.core.series import State
from services.plotter.core.view import views
from services.plotter.picture import Picture, label_gap, size_in
from services.plotter.sources import heard, nothing_known, replayed, subscribe

SPAN_S: Final = 600.0
POLL_MS: Final = 100
IDLE_DRAW_S: Final = 1.5
WINDOW_DPI: Final = 100
TITLE: Final = "libvirt-autoscaler"
_CANVAS: Any = FigureCanvasTkAgg  # matplotlib leaves it untyped


def run(config: Config, clock: Clock) -> int:
    """Show the live graph until it is closed, or told to stop by a signal; return the exit code.

    Raises:
        AutoscalerError: there is no display, or the bus cannot be reached.
    """
    try:
        root = tkinter.Tk()
    except tkinter.TclError as error:
        raise AutoscalerError(
            f"there is no display to open a window on ({error}); for a picture: autoscaler plot --png FILE"
        ) from error
    bus = Bus.open(config, "graph", clock, publishes=False)
    try:
        _Window(root, config, bus, clock).run()
    finally:
        bus.close()
    return 0


class _Window:
    def __init__(self, root: tkinter.Tk, config: Config, bus: Bus, clock: Clock) -> None:
        self._root, self._bus, self._clock = root, bus, clock
        self._views = views(config)
        self._state = _with_history(config, clock)
        self._gap = label_gap(len(self._views))
        self._is_open = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._background: Any = None
        self._drawn_s = clock.monotonic_s()
        panels = arrange(self._state, self._views, self._drawn_s, self._gap)
        figure = Figure(figsize=size_in(len(panels)), dpi=WINDOW_DPI)
        root.title(f"{TITLE} — {', '.join(view.name for view in self._views)}")
        root.protocol("WM_DELETE_WINDOW", self._stop)
        self._canvas = _CANVAS(figure, master=root)
        self._canvas.get_tk_widget().pack(fill="both", expand=True)
        self._picture = Picture(figure, panels)
        self._picture.update(panels)
        self._animate()
        self._canvas.mpl_connect("draw_event", self._on_frame_drawn)
        self._canvas.draw()

    def run(self) -> None:
        """Show the graph until it is closed."""
        subscribe(self._bus)
        self._root.after(POLL_MS, self._poll)
        self._root.mainloop()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._is_open = False  # Tk is left from its own loop, within POLL_MS

    def _stop(self) -> None:
        self._is_open = False
        self._root.destroy()

    def _poll(self) -> None:
        """Take what arrived, draw if there is something new, and come back."""
        if not self._is_open:
            self._root.destroy()
            return
        inbox = self._bus.receive(0.0)
        now_s = self._clock.monotonic_s()
        self._state, is_new = heard(self._state, inbox, now_s)
        if is_new or now_s - self._drawn_s >= IDLE_DRAW_S:
            self._drawn_s = now_s
            self._draw(now_s)
        self._root.after(POLL_MS, self._poll)

    def _draw(self, now_s: float) -> None:
        is_frame_new = self._picture.update(arrange(self._state, self._views, now_s, self._gap))
        self._animate()
        if is_frame_new or self._background is None:
            self._canvas.draw()
            return
        self._canvas.restore_region(self._background)
        self._draw_moving()
        self._canvas.blit(self._canvas.figure.bbox)

    def _animate(self) -> None:
        """Keep what moves out of the frame."""
        for artist in self._picture.moving:
            artist.set_animated(True)

    def _on_frame_drawn(self, _event: Any) -> None:
        """Keep the frame, also after a resize, and draw upon it what moves."""
        self._background = self._canvas.copy_from_bbox(self._canvas.figure.bbox)
        self._draw_moving()

    def _draw_moving(self) -> None:
        for artist in self._picture.moving:
            self._canvas.figure.draw_artist(artist)


def _with_history(config: Config, clock: Clock) -> State:
    """Return the last ten minutes as the recorder of this machine knows them; nothing where it knows nothing."""
    state, recording = nothing_known(config, SPAN_S), Recording(recording_dir(config.system.state_path))
    now = Recorded(clock.epoch_s(), clock.monotonic_s(), boot_id(), "", b"")
    try:
        return replayed(state, recording, now, is_clock_shared=config.bus.transport == "ipc")
    except RecordingError as error:
        logger().info("no-history", reason=str(error))
        return state
