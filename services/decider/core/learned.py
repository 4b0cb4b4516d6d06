"""What a forecasting policy has learned: a base, now and then, and the steps since; as bytes for a file, and back.

The base is about 100 KB and is written once in ``BASE_STEPS`` steps; the tail is small and written after each step.
Observing the tail again leads from the base to exactly the forecast that was lost, so a restart changes no decision.
A recording also has the step under way: a replay that begins there repeats what follows to the byte.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgpack

from services.decider.core import forecast, forecast_store
from services.decider.core.forecast import Forecast
from services.decider.core.forecast_store import figure

VERSION: Final = 1
BASE_STEPS: Final = 20
MAX_BYTES: Final = 4 * 1024 * 1024  # of one base, unpacked; it has a quarter of a megabyte

Steps = tuple[tuple[int, float], ...]
"""Of each step: the lead that was in force, in steps, and the load; NaN where it is unknown."""


Band = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The step that is being summed up, and what is known of the bands: told for steps to come, and how they held."""

    total: float = 0.0
    count: int = 0
    newest_s: float = -math.inf
    bands: tuple[tuple[int, Band], ...] = ()
    held: float = 0.0
    judged: float = 0.0


@dataclass(frozen=True, slots=True)
class Learned:
    """A forecast, in two parts. ``key`` names what was counted; ``origin`` is the number of the first step.

    ``under_way`` is None where it comes from a file: the step that a restart cut off is not known.
    """

    key: str
    origin: int
    base: Forecast
    tail: Steps = ()
    under_way: UnderWay | None = None


def current(learned: Learned) -> Forecast:
    """Return the forecast after all steps."""
    state = learned.base
    for lead_steps, load in learned.tail:
        state = forecast.observe(forecast.with_lead(state, lead_steps), load)
    return state


def observed(learned: Learned, state: Forecast, lead_steps: int, load: float) -> tuple[Learned, Forecast]:
    """Return what is learned after one more step; ``state`` is ``current(learned)``, so that it is not done again."""
    state = forecast.observe(forecast.with_lead(state, lead_steps), load)
    if len(learned.tail) + 1 >= BASE_STEPS:
        return replace(learned, base=state, tail=()), state
    return replace(learned, tail=(*learned.tail, (lead_steps, load))), state


def skipped(learned: Learned, state: Forecast, steps: int) -> tuple[Learned, Forecast]:
    """Return what is learned after ``steps`` of which nothing is known, however many."""
    for _ in range(min(steps, state.lead_steps)):
        state = forecast.observe(state, math.nan)
    rest = max(steps - state.lead_steps, 0)
    state = replace(state, step=state.step + rest, age_steps=state.age_steps + rest)
    return replace(learned, base=state, tail=()), state


def base_bytes(learned: Learned) -> bytes:
    """Return the base as bytes."""
    return _packed({"key": learned.key, "origin": learned.origin, "base": forecast_store.to_values(learned.base)})


def tail_bytes(learned: Learned) -> bytes:
    """Return the steps since the base as bytes."""
    return _packed({"key": learned.key, "after": learned.base.step, "steps": [list(step) for step in learned.tail]})


def from_bytes(base: bytes, tail: bytes) -> Learned:
    """Return what was learned. A tail of an older base gives its newer steps, one that does not fit none.

    Raises:
        ValueError: the bytes are not what ``base_bytes`` and ``tail_bytes`` return.
    """
    try:
        values, rest = _unpacked(base), _unpacked(tail) if tail else {}
        learned = Learned(str(values["key"]), figure(int, values["origin"]), forecast_store.from_values(values["base"]))
        first = figure(int, rest.get("after", learned.base.step))
        steps = tuple((figure(int, lead), figure(float, load)) for lead, load in rest.get("steps", ()))
        if rest.get("key", learned.key) != learned.key or first > learned.base.step:
            return learned
        learned = replace(learned, tail=steps[learned.base.step - first :])
        current(learned)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not of the right form: {error!r}") from error
    return learned


def to_text(learned: Mapping[int, Learned]) -> str:
    """Return what the policies of a group have learned, by their number, as text; empty where there is none."""
    if not learned:
        return ""
    parts = {
        number: (base_bytes(one), tail_bytes(one), *_under_way_bytes(one)) for number, one in sorted(learned.items())
    }
    return base64.b64encode(msgpack.packb(parts)).decode()


def from_text(text: str) -> dict[int, Learned]:
    """Return what ``to_text`` was given.

    Raises:
        ValueError: it is something else.
    """
    if not text:
        return {}
    try:
        parts = msgpack.unpackb(base64.b64decode(text, validate=True), strict_map_key=False)
        return {
            int(number): replace(from_bytes(base, tail), under_way=_under_way(rest))
            for number, (base, tail, *rest) in parts.items()
        }
    except (TypeError, AttributeError, msgpack.UnpackException) as error:
        raise ValueError(f"not of the right form: {error!r}") from error


def _under_way_bytes(learned: Learned) -> tuple[bytes, ...]:
    return () if learned.under_way is None else (_packed(asdict(learned.under_way)),)


def _under_way(packed: list[bytes]) -> UnderWay | None:
    if not packed:
        return None
    values = _unpacked(packed[0])
    del values["version"]
    bands = tuple((int(step), (low, middle, high)) for step, (low, middle, high) in values.pop("bands"))
    return UnderWay(bands=bands, **values)


def _packed(values: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb({"version": VERSION, **values})
    return zlib.compress(packed)


def _unpacked(data: bytes) -> dict[str, Any]:
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(data, MAX_BYTES)
        if not unpacker.eof:
            raise ValueError("cut off, or too large")
        values = msgpack.unpackb(raw)
    except (zlib.error, msgpack.UnpackException) as error:
        raise ValueError(f"cannot be unpacked: {error!r}") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ValueError(f"version must be {VERSION}")
    return values
