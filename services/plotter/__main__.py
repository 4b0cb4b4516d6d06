"""``python -m services.plotter --config FILE``: the picture in a file; with ``--window``, the live window."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import AutoscalerError
from common.process import Context, Service, main


def build(context: Context) -> Service:
    """Return the service; it is loaded with its lock held, so that a second copy ends before it is."""
    from services.plotter.shell import PlotterService

    return PlotterService(context)


def open_window(argv: Sequence[str]) -> int:
    """Show the live graph; return the exit code: 0 after it was closed, 1 without a display, 2 on a wrong file."""
    from common import config_file, config_places, log
    from common.clock import SystemClock

    parser = argparse.ArgumentParser(prog="python -m services.plotter", description="Show the live graph.")
    parser.add_argument("--window", action="store_true", help="a live window instead of a picture in a file")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    named: Path | None = parser.parse_args(argv).config
    log.configure("graph", "info")
    try:
        config, _ = config_file.load(config_places.chosen(named))
        try:
            from services.plotter.window import run
        except ImportError as error:
            raise AutoscalerError(
                f"Tk is missing ({error}): install python3-tk; for a picture: autoscaler plot --png FILE"
            ) from error
        return run(config, SystemClock())
    except AutoscalerError as error:
        print(f"plotter: {error}", file=sys.stderr)  # noqa: T201 - a person at a terminal asked for the window
        return error.exit_code


if __name__ == "__main__":
    wants_window = "--window" in sys.argv[1:]
    raise SystemExit(open_window(sys.argv[1:]) if wants_window else main("plotter", build))
