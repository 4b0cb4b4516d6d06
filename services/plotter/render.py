"""Pictures in files. Only this module, ``picture`` and ``window`` load matplotlib."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import files
from common.config import Config
from common.errors import AutoscalerError, ConfigError, RecordingError
from common.recording import Recorded, Recording
from services.plotter.core.layout import Panel, arrange
from services.plotter.core.series import State
from services.plotter.core.view import views
from services.plotter.picture import Picture, label_gap, size_in
from services.plotter.sources import nothing_known, replayed

FORMATS: Final = (".png", ".svg")
FILE_DPI: Final = 130
SAVING: Final[dict[Any, Any]] = {"svg.fonttype": "none", "svg.hashsalt": "autoscaler"}


def render(config: Config, recording_dir: Path, minutes: float, paths: Sequence[Path], dpi: float = FILE_DPI) -> str:
    """Draw the last ``minutes`` of the recording, up to its last message, into ``paths``.

    Args:
        config: which groups, with which thresholds.
        recording_dir: ``common.recording.recording_dir(config.system.state_path)``.
        minutes: how far back, > 0.
        paths: files to write, whole or not at all; each ends in ``.png`` or ``.svg``.
        dpi: dots per inch of a PNG.

    Returns:
        What was left out of the recording because it is damaged, in one sentence; empty if nothing was.

    Raises:
        RecordingError: there is no recording, or it cannot be read.
        ConfigError: a path of another kind.
        AutoscalerError: one that cannot be written.
    """
    for path in paths:
        _check_format(path)
    end = next(Recording(recording_dir).frames(newest_first=True), None)
    if end is None:
        raise RecordingError(f"the recording in {recording_dir} holds no message yet")
    recording = Recording(recording_dir)
    is_clock_shared = config.bus.transport == "ipc"
    state = replayed(nothing_known(config, minutes * 60), recording, end, is_clock_shared=is_clock_shared)
    panels = arrange(state, views(config), _right_end_s(state, end), label_gap(len(config.groups)))
    save(panels, paths, f"up to {for_people(end.at_s)}", dpi)
    return recording.damage.text()


def save(panels: tuple[Panel, ...], paths: Sequence[Path], note: str, dpi: float) -> None:
    """Draw ``panels`` into ``paths``; a file that stands there is replaced at once, or left as it is.

    Raises:
        AutoscalerError: a file cannot be written.
    """
    figure = Figure(figsize=size_in(len(panels)), dpi=dpi)
    FigureCanvasAgg(figure)
    Picture(figure, panels).update(panels, note)
    for path in paths:
        write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """Save ``figure``, whole or not at all.

    Raises:
        AutoscalerError: it cannot be written; what stood there still does.
    """
    drawn = io.BytesIO()
    try:
        with mpl.rc_context(SAVING):
            figure.savefig(drawn, format=path.suffix.lower().removeprefix("."))
        files.replace_file(path, drawn.getvalue(), mode=files.PUBLIC, is_durable=False)
    except OSError as error:
        raise AutoscalerError(f"{path} cannot be written: {error.strerror or error}") from error


def _right_end_s(state: State, end: Recorded) -> float:
    """Return the time of the newest sample, which stands at the right end; without a fresh one, the last message's."""
    newest = [points[-1][0] for group in state.groups.values() for points in group.ratios.values()]
    latest_s = max(newest, default=-1.0)
    return latest_s if end.mono_s - latest_s <= state.stale_after_s else end.mono_s


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"the name of a picture must end in {' or '.join(FORMATS)}; got {path.name!r}")


def for_people(at_s: float) -> str:
    """Return an instant in local time."""
    return datetime.fromtimestamp(at_s, tz=UTC).astimezone().strftime("%d %b %Y %H:%M:%S %Z")
