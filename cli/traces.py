"""Request-rate traces: a CSV of ``t_seconds,requests``, or seeded synthetic load.

Stated tolerance: blank lines and a byte order mark are skipped, and steps may differ by up to 1 % from the first
(clocks drift). All else is refused with file, line and field: another header, a missing or extra field, what is not a
finite number, negative requests, rows out of order or twice, and gaps. A gap is refused rather than filled, because a
filled one would count as measured load; an empty ``requests`` field says "nobody counted this step" and is a gap too.
"""

import csv
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError

Floats = npt.NDArray[np.float64]
HEADER = ["t_seconds", "requests"]
STEP_TOLERANCE = 0.01
MOST_STEPS = 10_000_000
MOST_REQUESTS = 1e15


class TraceError(ConfigError):
    """A trace cannot be used; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of each step. ``t_s`` is the start of a step, ``step_s`` its length."""

    name: str
    step_s: float
    t_s: tuple[float, ...]
    requests: tuple[float, ...]


def read(path: Path) -> Trace:
    """Return the trace in ``path``.

    Raises:
        TraceError: The file cannot be read, or a line is not what is allowed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(path, file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if len(rows) < 2:
        raise TraceError(f"{path}: a trace needs at least 2 steps; got {len(rows)}")
    step_s = _checked_step_s(path, rows)
    return Trace(path.name, step_s, tuple(t for _, t, _ in rows), tuple(requests for _, _, requests in rows))


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, float, float]]:
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    if [field.strip() for field in header] != HEADER:
        raise TraceError(f"{path}, line 1: the header must be {','.join(HEADER)}; got {','.join(header)!r}")
    for row in reader:
        if not "".join(row).strip() and len(row) <= 1:
            continue
        line = reader.line_num
        if len(row) != len(HEADER):
            raise TraceError(
                f"{path}, line {line}: must have {len(HEADER)} fields ({','.join(HEADER)}); got {len(row)}"
            )
        requests = _number(path, line, "requests", row[1])
        if not 0 <= requests <= MOST_REQUESTS:
            raise TraceError(f"{path}, line {line}, field requests: must be in 0..{MOST_REQUESTS:g}; got {row[1]}")
        yield line, _number(path, line, "t_seconds", row[0]), requests


def _number(path: Path, line: int, field: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise TraceError(f"{path}, line {line}, field {field}: must be a number; got {text!r}") from error
    if not math.isfinite(value):
        raise TraceError(f"{path}, line {line}, field {field}: must be finite; got {text!r}")
    return value


def _checked_step_s(path: Path, rows: list[tuple[int, float, float]]) -> float:
    step_s = rows[1][1] - rows[0][1]
    for (_, before_s, _), (line, t_s, _) in itertools.pairwise(rows):
        where = f"{path}, line {line}, field t_seconds"
        if t_s <= before_s:
            raise TraceError(f"{where}: must be greater than on the line before ({before_s:g}); got {t_s:g}")
        if t_s - before_s > step_s * (1 + STEP_TOLERANCE):
            raise TraceError(f"{where}: a gap; after {before_s:g} must come {before_s + step_s:g}; got {t_s:g}")
        if t_s - before_s < step_s * (1 - STEP_TOLERANCE):
            raise TraceError(f"{where}: steps must be {step_s:g} s long like the first; got {t_s - before_s:g} s")
    return step_s


def synthetic(kind: str, seed: int, steps: int = 1440, step_s: float = 60.0, mean: float = 1000.0) -> Trace:
    """Return seeded load of a ``kind`` of SYNTHETIC, the same for the same arguments.

    Raises:
        TraceError: The kind is unknown, or a number is out of range.
    """
    if seed < 0:
        raise TraceError(f"--seed must be >= 0; got {seed}")
    shape = SYNTHETIC.get(kind)
    if shape is None:
        raise TraceError(f"--synthetic must be one of {', '.join(SYNTHETIC)}; got {kind!r}")
    if not 2 <= steps <= MOST_STEPS:
        raise TraceError(f"steps must be in 2..{MOST_STEPS}; got {steps}")
    chance = np.random.default_rng(seed)
    rate = np.maximum(shape(np.arange(steps) / steps, chance), 0.0) * mean
    requests = chance.poisson(rate)
    return Trace(
        f"{kind}, seed {seed}",
        step_s,
        tuple(float(number * step_s) for number in range(steps)),
        tuple(float(count) for count in requests),
    )


def _diurnal(part: Floats, chance: np.random.Generator) -> Floats:
    drift = np.exp(0.1 * np.cumsum(chance.normal(0, 1 / math.sqrt(len(part)), len(part))))
    daily: Floats = (1 - 0.7 * np.cos(2 * np.pi * part)) * drift
    return daily


def _spike(part: Floats, chance: np.random.Generator) -> Floats:
    load = np.full(len(part), 0.6)
    for start in chance.uniform(0.05, 0.95, 6):
        since = (part - start) * len(part)
        load += np.where(since >= 0, chance.uniform(1, 5) * np.exp(-np.maximum(since, 0) / 15), 0.0)
    return load


def _ramp(part: Floats, _chance: np.random.Generator) -> Floats:
    return np.asarray(0.1 + 1.8 * part, dtype=np.float64)


def _noise(part: Floats, chance: np.random.Generator) -> Floats:
    return np.asarray(chance.gamma(10, 0.1, len(part)), dtype=np.float64)


def _sawtooth(part: Floats, _chance: np.random.Generator) -> Floats:
    return np.asarray(0.2 + 1.6 * ((part * 12) % 1), dtype=np.float64)


SYNTHETIC: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "diurnal": _diurnal,
    "spike": _spike,
    "ramp": _ramp,
    "noise": _noise,
    "sawtooth": _sawtooth,
}
