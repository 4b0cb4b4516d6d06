"""A forecast as plain values, for a store that knows only maps, lists, numbers and bytes, and back.

Arrays are kept as little-endian bytes of 64-bit floats: after a round trip every later decision is the same.
"""

import dataclasses
import types
import typing
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.decider.core import forecast
from services.decider.core.forecast import Forecast

VERSION = 2
DTYPE = "<f8"
FLOATS: Final[Any] = npt.NDArray[np.float64]  # compared whole: what it is made of depends on numpy's release
MAX_FIGURE = 1e15


def to_values(state: Forecast) -> dict[str, Any]:
    """Return ``state`` as maps, lists, numbers, bytes and None."""
    is_shared = bool(state.pending) and state.pending[-1] is state.latest
    plain = dataclasses.replace(state, latest=None) if is_shared else state
    return {"version": VERSION, "is_latest_pending": is_shared, "state": _packed(plain)}


def from_values(values: dict[str, Any]) -> Forecast:
    """Return the state that ``to_values`` was given.

    Raises:
        ValueError: ``values`` are of another version, or not of the right form.
    """
    if values.get("version") != VERSION:
        raise ValueError(f"a stored forecast must be of version {VERSION}; got {values.get('version')!r}")
    try:
        state: Forecast = _unpacked(Forecast, values["state"])
        _check(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a stored forecast is not of the right form: {error!r}") from error
    if values["is_latest_pending"] and state.pending:
        return dataclasses.replace(state, latest=state.pending[-1])
    return state


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "data": value.astype(DTYPE).tobytes()}
    if dataclasses.is_dataclass(value):
        return {field.name: _packed(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_packed(one) for one in value]
    return value


def _unpacked(kind: Any, value: Any) -> Any:
    if kind == FLOATS:
        return np.frombuffer(value["data"], dtype=DTYPE).reshape(value["shape"]).astype(np.float64)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _unpacked(arguments[0], value)
    if origin is tuple:
        return tuple(_unpacked(arguments[0], one) for one in value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(
            **{field.name: _unpacked(hints[field.name], value[field.name]) for field in dataclasses.fields(kind)}
        )
    return figure(kind, value)


def figure(kind: Any, value: Any) -> Any:
    """Return a number that was stored, as ``kind``: one of a size that can be reckoned with, and be stored again.

    Raises:
        TypeError: it is no number.
        ValueError: it is too large, or NaN where NaN has no meaning.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"must be a number; got {value!r}")
    if abs(value) > MAX_FIGURE:  # NaN is not: it stands for what is unknown
        raise ValueError(f"must be in ±{MAX_FIGURE:g}; got {value!r}")
    return kind(value)


def _check(state: Forecast) -> None:
    """Refuse what no forecast of these steps can be: other seasons, other shapes, figures that are not finite."""
    fresh = forecast.initial(state.step_s, state.lead_steps)
    if state.age_steps < 0 or state.step < fresh.step or len(state.pending) > forecast.MAX_LEAD_STEPS:
        raise ValueError("a stored forecast is not of the right form: steps")
    _check_like(state.points, fresh.points, "points")
    _check_like(state.spread, fresh.spread, "spread")


def _check_like(kept: Any, known: Any, name: str) -> None:
    """Refuse a part whose arrays, or whose season's buckets, are not like those of a forecast that has just begun."""
    if (kept is None) != (known is None):
        raise ValueError(f"a stored forecast is not of the right form: {name}")
    for field in dataclasses.fields(known) if known is not None else ():
        array, like = getattr(kept, field.name), getattr(known, field.name)
        if dataclasses.is_dataclass(like) or like is None:
            _check_like(array, like, f"{name}.{field.name}")
            continue
        if isinstance(like, np.ndarray):
            is_good = array.shape == like.shape and not np.isinf(array).any()
            is_good = is_good and (np.isnan(like).all() or np.isfinite(array).all())
        else:
            is_good = field.name != "bucket_s" or array == like
        if not is_good:
            raise ValueError(f"a stored forecast is not of the right form: {name}.{field.name}")
