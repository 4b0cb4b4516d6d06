"""Files of ours that belong to no domain and no process: what a crash or an old release left behind."""

from pathlib import Path
from typing import Final

from cli.doctor.gather_libvirt import HostView
from common.config import Config
from common.run_dir import is_locked
from services.actuator.images import COPIES

HALF_MADE: Final = ("*.new", "actuator/*.new", "actuator/boot/*/*.new", "stores/*.new", ".build-*", "images/.build-*")


def stray_files(config: Config, view: HostView) -> tuple[str, ...]:
    """Return what is half made, and copies of images that no domain was started from.

    While the actuator runs, nothing in the state directory counts: it may be writing.
    """
    state = config.system.state_path
    if is_locked(config.system.run_path / "actuator.lock"):
        return ()
    half_made = (path for pattern in HALF_MADE for path in state.glob(pattern))
    copies = (path for path in (state / COPIES).glob("*") if path.is_dir() and path.name not in view.templates)
    newest = max((state / COPIES).glob("*"), key=_age, default=None)  # the next domain boots from it
    return tuple(sorted(str(path) for path in (*half_made, *copies) if path != newest))


def _age(path: Path) -> float:
    return path.stat().st_mtime
