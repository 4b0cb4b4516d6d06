"""The actuator's own small file: breakers, boot times, how many domains each host had. All else stands in libvirt.

It is written whole beside the old one and renamed, so that a crash leaves one or the other. A missing or damaged
file means: nothing known.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from common import files
from common.figures import MAX_DURATION_S, count_in, time_in
from common.log import logger
from common.plain import plain_name
from common.state_dir import ensure_state_dir
from services.actuator.core.breaker import Breaker, restored
from services.actuator.core.sizing import Demand

MAX_BYTES: Final = 16 * 1024 * 1024

log = logger()


@dataclass(slots=True)
class Stored:
    """What is kept: breakers by group and host, boot times in seconds by group, domains owned by host and group.

    ``demand``: by group when the desired capacity changed, and to what, where the size of its reserve follows from it.
    """

    breakers: dict[str, Breaker] = field(default_factory=dict)
    boot_times_s: dict[str, tuple[float, ...]] = field(default_factory=dict)
    owned: dict[str, dict[str, int]] = field(default_factory=dict)
    demand: dict[str, Demand] = field(default_factory=dict)
    lead_times_s: dict[str, tuple[float, ...]] = field(default_factory=dict)  # see core.lead_times
    terms: dict[str, str] = field(default_factory=dict)  # by group, see core.start_terms


def read(path: Path, now_s: float, boot_id: str) -> Stored:
    """Return what the file says, on this boot's clock; nothing where there is no good file."""
    try:
        raw = files.read_file(path, MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return _stored(json.loads(raw), now_s, boot_id)
    except FileNotFoundError:
        return Stored()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("state-unreadable", path=str(path), error=str(error))
        return Stored()


def _stored(values: dict[str, Any], now_s: float, boot_id: str) -> Stored:
    """Return what the file's values say; raises what is no ``Stored``."""
    is_same_boot = values["boot_id"] == boot_id
    return Stored(
        {key: restored(_breaker(value), now_s, is_same_boot) for key, value in values["breakers"].items()},
        {group: _durations(times) for group, times in values["boot_times_s"].items()},
        {host: {group: count_in(n) for group, n in owned.items()} for host, owned in values["owned"].items()},
        {
            group: tuple((time_in(s, 0.0), count_in(n)) for s, n in told)
            for group, told in values.get("demand", {}).items()
        },
        {key: _durations(times) for key, times in values.get("lead_times_s", {}).items()},
        {group: plain_name(str(terms)) for group, terms in values.get("terms", {}).items()},
    )


def _durations(values: Any) -> tuple[float, ...]:
    return tuple(time_in(value, 0.0, MAX_DURATION_S) for value in values)


def write(path: Path, stored: Stored, boot_id: str) -> str:
    """Replace the file in one step; return why that failed, empty if it did not: it costs nothing but this memory."""
    values = {
        "boot_id": boot_id,
        "breakers": {key: asdict(breaker) for key, breaker in sorted(stored.breakers.items())},
        "boot_times_s": {group: list(times) for group, times in sorted(stored.boot_times_s.items())},
        "lead_times_s": {key: list(times) for key, times in sorted(stored.lead_times_s.items())},
        "demand": {group: list(demand) for group, demand in sorted(stored.demand.items())},
        "owned": {host: dict(sorted(owned.items())) for host, owned in sorted(stored.owned.items())},
        "terms": dict(sorted(stored.terms.items())),
    }
    try:
        ensure_state_dir(path.parent)
        files.replace_file(path, json.dumps(values, indent=1).encode(), mode=files.PRIVATE, is_durable=True)
    except OSError as error:
        return f"{path} cannot be written: {error.strerror or error}"
    return ""


def _breaker(values: dict[str, Any]) -> Breaker:
    until_s = values["open_until_s"]
    return Breaker(
        count_in(values["failures"]),
        count_in(values["openings"]),
        None if until_s is None else time_in(until_s),
        time_in(values["last_failure_s"]),
        tuple(plain_name(str(uuid)) for uuid in values.get("culprits", ())),
        count_in(values.get("relapses", 0)),
        time_in(values.get("relapsed_s", 0.0)),
        count_in(values.get("held", 0)),
    )
