"""The standing of a group as plain values, and back; times move to the clock of the boot they are read in.

Monotonic times compare only within one boot. What is stored therefore names its boot and both clocks; in another boot
the wall clock tells how much time has passed since, and never less than none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from common.figures import (
    MAX_COUNT,
    MAX_DURATION_S,
    MAX_EPOCH_S,
    MAX_GENERATION,
    MAX_MONO_S,
    MAX_TOLD_GENERATION,
    is_number,
    is_whole,
)
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
    counts = (standing.desired, standing.minimum, standing.maximum, standing.ordered_from)
    times = tuple(getattr(standing, name) for name in _TIMES)
    least = 0 if standing.desired is None else 1  # what is desired is always of some generation
    checks = {
        "counts": all(value is None or is_whole(value, 0, MAX_COUNT) for value in counts),
        "generation": is_whole(standing.generation, least, MAX_TOLD_GENERATION - MAX_GENERATION),
        "times": all(at is None or is_number(at, -MAX_MONO_S, MAX_MONO_S) for at in times),
        "cooldowns": standing.cooldown_out_until_s is not None and standing.cooldown_in_until_s is not None,
        "patience": is_number(standing.patience_s, 0.0, MAX_DURATION_S) and standing.patience_until_s is not None,
        "clocks": is_number(saved.epoch_s, 0.0, MAX_EPOCH_S) and is_number(saved.mono_s, -MAX_MONO_S, MAX_MONO_S),
        "mode": standing.mode in (None, "on", "off", "observe", "out-only"),
        "is_paused": isinstance(standing.is_paused, bool),
        "boot_id": isinstance(saved.boot_id, str),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ValueError(f"impossible {', '.join(wrong)}; fields are {', '.join(f.name for f in fields(standing))}")
