"""The standing of a group as plain values, and back; times move to the clock of the boot they are read in.

Monotonic times compare only within one boot. What is stored therefore names its boot and both clocks; in another boot
the wall clock tells how much time has passed since, and never less than none.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from services.decider.core.state import Standing

VERSION: Final = 1
_TIMES: Final = (
    "cooldown_out_until_s",
    "cooldown_in_until_s",
    "changed_in_at_s",
    "turned_at_s",
    "patience_until_s",
)


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks, and the boot in which the monotonic one counts."""

    boot_id: str
    mono_s: float
    epoch_s: float


def to_values(standing: Standing, at: Instant) -> dict[str, Any]:
    """Return a standing as plain values that JSON can hold."""
    return {"version": VERSION, "saved": asdict(at), "standing": asdict(standing)}


def from_values(values: Any, at: Instant) -> Standing:
    """Return the standing that was stored, on the clock of ``at``.

    Raises:
        ValueError: it is not what ``to_values`` returns: another version, a field missing or of the wrong type.
    """
    if not isinstance(values, Mapping) or values.get("version") != VERSION:
        found = values.get("version") if isinstance(values, Mapping) else values
        raise ValueError(f"version must be {VERSION}; got {found!r}")
    try:
        saved = Instant(**values["saved"])
        standing = Standing(**values["standing"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or unknown: {error}") from error
    _check(standing, saved)
    return _shifted(standing, _shift_s(saved, at))


def _shift_s(saved: Instant, at: Instant) -> float:
    """Return what to add to a stored monotonic time."""
    if saved.boot_id == at.boot_id:
        return 0.0
    elapsed_s = max(at.epoch_s - saved.epoch_s, 0.0)
    return at.mono_s - elapsed_s - saved.mono_s


def _shifted(standing: Standing, shift_s: float) -> Standing:
    if shift_s == 0.0:
        return standing
    times = {name: getattr(standing, name) for name in _TIMES}
    return replace(standing, **{name: at + shift_s for name, at in times.items() if at is not None})


def _check(standing: Standing, saved: Instant) -> None:
    whole = (standing.desired, standing.generation, standing.minimum, standing.maximum, standing.ordered_from)
    times = (*(getattr(standing, name) for name in _TIMES), standing.patience_s, saved.mono_s, saved.epoch_s)
    checks = {
        "counts": all(value is None or (type(value) is int and value >= 0) for value in whole),
        "generation": standing.generation is not None,
        "times": all(at is None or (isinstance(at, int | float) and math.isfinite(at)) for at in times),
        "mode": standing.mode in (None, "on", "off", "observe", "out-only"),
        "is_paused": isinstance(standing.is_paused, bool),
        "boot_id": isinstance(saved.boot_id, str),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ValueError(f"impossible {', '.join(wrong)}; fields are {', '.join(f.name for f in fields(standing))}")
