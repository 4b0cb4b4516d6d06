"""What ``low``, ``mid`` and ``high`` mean, and how a running load is told of a new one.

A level is a period: seconds between two requests. The cost of one request is the N of ``/compute?n=N``.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import ConfigError
from common.files import PRIVATE, read_file, replace_file

PERIODS_S = {"low": 0.5, "mid": 0.1, "high": 1 / 30}
DEFAULT_N = 5_000_000
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Level:
    """One request every ``period_s``, each of cost ``n``."""

    name: str
    period_s: float
    n: int


def choose(name: str, period_s: float | None, n: int | None) -> Level:
    """Return the level that the command line asks for; ``period_s`` wins over the name.

    Raises:
        ConfigError: no such level.
    """
    cost = DEFAULT_N if n is None else n
    if period_s is not None:
        return Level("custom", period_s, cost)
    if name not in PERIODS_S:
        raise ConfigError(f"unknown level {name!r}; allowed: {', '.join(PERIODS_S)}, or a period in seconds")
    return Level(name, PERIODS_S[name], cost)


def write(path: Path, level: Level) -> None:
    """Leave the level where a running load finds it."""
    replace_file(path, json.dumps(asdict(level)).encode(), mode=PRIVATE, is_durable=False)


def read(path: Path) -> Level | None:
    """Return the level that was left, None where there is none that can be read."""
    try:
        values = json.loads(read_file(path, MAX_BYTES))
        return Level(str(values["name"]), float(values["period_s"]), int(values["n"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
