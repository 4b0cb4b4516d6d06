"""How HAProxy's end is told: a small file in the run directory, for whoever waits for it.

The keeper's helper (``services.balancer.ending``) writes it, ``autoscaler down`` reads it. Whoever reads it may be root
and whoever writes it is not, so what it says is checked.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from common import figures, files

DEFAULT_S: Final = 30.0  # of ``drain_timeout_s``
LONGEST_S: Final = 7 * 86400.0  # the most that ``drain_timeout_s`` may be
MAX_BYTES: Final = 1000
_BOUND_FILE, _FILE = "haproxy.drain", "haproxy.ending"


@dataclass(frozen=True, slots=True)
class Ending:
    """HAProxy takes nothing new; ``in_flight`` may end within ``at_most_s``.

    ``cut`` is None while they may, then how many had not ended by then. Where a process of HAProxy does not say what it
    has, ``is_whole`` is false: there may be more.
    """

    in_flight: int
    at_most_s: float
    waited_s: float = 0.0
    cut: int | None = None
    is_whole: bool = True

    @property
    def text(self) -> str:
        """Return what is waited for, or what was cut, in words; empty where there is nothing to tell."""
        count = self.in_flight if self.cut is None else self.cut
        if not count and self.is_whole:
            return ""
        if not count:
            return self._unknown
        told = f"{'' if self.is_whole else 'at least '}{count} request{'' if count == 1 else 's'}"
        if self.cut is None:
            return f"HAProxy takes nothing new; {told} in flight may end within {self.at_most_s:g} s"
        return f"{told} {'was' if count == 1 else 'were'} cut after {self.waited_s:.0f} s"

    @property
    def _unknown(self) -> str:
        """Return in words that a process of HAProxy does not say what it has, and nothing of it is known."""
        if self.cut is None:
            what = "a process of it does not say what it has in flight"
            return f"HAProxy takes nothing new; {what}, which may end within {self.at_most_s:g} s"
        return f"what was still in flight after {self.waited_s:.0f} s is not known, and was cut"


def write_bound(run_path: Path, at_most_s: float) -> None:
    """Keep for how long requests in flight may go on once HAProxy is told to end.

    Raises:
        OSError: it cannot be written.
    """
    files.replace_file(run_path / _BOUND_FILE, f"{at_most_s:g}\n".encode(), mode=files.PRIVATE, is_durable=False)


def read_bound(run_path: Path) -> float:
    """Return for how long, in seconds, requests in flight may go on; the default where nobody has said it."""
    try:
        return figures.number(files.read_file(run_path / _BOUND_FILE, MAX_BYTES).decode(), 0, LONGEST_S)
    except (OSError, ValueError):
        return DEFAULT_S


def write(run_path: Path, ending: Ending) -> None:
    """Tell how far HAProxy's end is.

    Raises:
        OSError: it cannot be written.
    """
    data = json.dumps(asdict(ending)).encode()
    files.replace_file(run_path / _FILE, data, mode=files.PRIVATE, is_durable=False)


def read(run_path: Path) -> Ending | None:
    """Return how far HAProxy's end is, None while it is not ending, or nobody tells."""
    try:
        told = json.loads(files.read_file(run_path / _FILE, MAX_BYTES))
        return Ending(
            in_flight=figures.count_in(told["in_flight"]),
            at_most_s=figures.time_in(told["at_most_s"], 0, LONGEST_S),
            waited_s=figures.time_in(told["waited_s"], 0),
            cut=None if told["cut"] is None else figures.count_in(told["cut"]),
            is_whole=told["is_whole"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def forget(run_path: Path) -> None:
    """Remove what was told of an earlier end.

    Raises:
        OSError: it cannot be removed.
    """
    (run_path / _FILE).unlink(missing_ok=True)
