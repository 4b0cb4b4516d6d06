"""Which configuration a command goes by: the file, or, while that is wrong, the one that what runs was started with.

Commands that look at a running system, stop it or give it orders need no valid file. What starts something, or has a
file taken over, does.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common import in_force
from common.config import System
from common.config_environment import PREFIX
from common.config_file import load
from common.config_places import chosen, places
from common.errors import ConfigError

_RUN_DIR = re.compile(r"""^\s*(?:system\s*\.\s*)?run_dir\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_RUN_DIR_VARIABLE = f"{PREFIX}SYSTEM__RUN_DIR"


@dataclass(frozen=True, slots=True)
class Usable:
    """A configuration that can be read at ``path``; ``fault`` is what is wrong with the file that it stands in for."""

    path: Path
    fault: str = ""


def usable(named: Path | None, environ: Mapping[str, str] = os.environ) -> Usable:
    """Return the configuration file to read; where it is wrong, the one in force, with a warning that says both.

    Args:
        named: what ``--config`` says.
        environ: the variables, which may be what is wrong.

    Raises:
        ConfigError: it is wrong, and of this very file nothing is known to be in force.
    """
    path = None
    try:
        path = chosen(named, environ)
        load(path, environ)
        return Usable(path)
    except ConfigError as error:
        kept = find([path] if path else list(places(environ)), environ)
        if kept is None:
            raise
        origin = in_force.read(kept).path
        print(f"autoscaler: warning: {error}", file=sys.stderr)
        print(f"autoscaler: warning: used instead: {origin} as it was last taken over ({kept})", file=sys.stderr)
        return Usable(kept, str(error))


def find(asked: list[Path], environ: Mapping[str, str]) -> Path | None:
    """Return where the configuration that is in force of one of these files is kept, None if it is not, or not usable.

    It stands in the run directory. Which that is, a wrong file may not tell: then the actuator that runs with it does.
    """
    wanted = {path.resolve() for path in asked}
    for directory in _run_dirs(asked, wanted, environ):
        kept = in_force.place(directory)
        try:
            if in_force.read(kept).path.resolve() in wanted:
                load(kept)
                return kept
        except ConfigError:
            continue
    return None


def _run_dirs(asked: list[Path], wanted: set[Path], environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where to look: beside a running actuator, where the environment and the files say, at the usual place."""
    yield from _beside_actuators(wanted)
    told = [environ.get(_RUN_DIR_VARIABLE, ""), *(_told(path) for path in asked), System().run_dir]
    yield from (Path(text) for text in told if text.startswith("/"))


def _told(path: Path) -> str:
    """Return the run directory that a file names, however wrong the rest of it is; empty if it names none."""
    try:
        found = _RUN_DIR.search(path.read_bytes().decode("utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _beside_actuators(wanted: set[Path]) -> Iterator[Path]:
    """Yield the directory of the lock that each running actuator with one of these files holds."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if f"services.{in_force.KEEPER}" not in words or process.stat().st_uid not in in_force.believed():
                continue
            named = {Path(after).resolve() for word, after in pairwise(words) if word == "--config"}
            if named & wanted:
                links = [link.readlink() for link in (process / "fd").iterdir()]
                yield from (link.parent for link in links if link.name == f"{in_force.KEEPER}.lock")
        except OSError:
            continue  # it has just ended, or is somebody else's
