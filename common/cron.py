"""When a cron expression fires in a time zone: the only door to the cron library.

The rules are those of Debian's cron. Five fields: minute, hour, day of month, month, day of week. Where both hour and
minute are fixed, a time that a clock change skips fires at the first instant after the gap, and a time that occurs
twice fires the first time only. Where one of them begins with ``*`` it follows the clock as it runs: it fires in both
passes of a repeated hour, and not in a skipped one.
"""

import difflib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS: Final = "minute hour day-of-month month day-of-week, such as '30 7 * * MON-FRI'"
MAX_LENGTH: Final = 200
DAY_S: Final = 86400  # in one there are not two changes
CHANGE: Final = timedelta(hours=3)  # no clock change is larger; the library cannot tell two passes of an hour apart


def check(cron: str) -> None:
    """Return if ``cron`` has five well-formed fields and fires within fifty years.

    Raises:
        ValueError: it has not, or never fires.
    """
    if len(cron) > MAX_LENGTH or len(cron.split()) != 5:
        raise ValueError(f"must have the five fields {FIELDS}; got {cron!r}")
    try:
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise ValueError(f"never fires: no day of the next fifty years matches; got {cron!r}") from None
    except CronSimError as error:
        raise ValueError(f"{_fault(cron, error)}; allowed: {FIELDS}; got {cron!r}") from error


def check_zone(zone: str) -> None:
    """Return if ``zone`` is a time zone of the IANA database.

    Raises:
        ValueError: it is not.
    """
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:  # OSError: a directory of zones, such as 'Europe'
        near = difflib.get_close_matches(zone, available_timezones(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"must be an IANA time zone such as 'Europe/Berlin' or 'UTC'{hint}; got {zone!r}") from error


def around(cron: str, zone: str, epoch_s: float) -> tuple[float | None, float | None]:
    """Return when ``cron`` last fired at or before ``epoch_s``, and when it fires next after it, in epoch seconds.

    Args:
        cron: As ``check`` accepts it.
        zone: As ``check_zone`` accepts it.
        epoch_s: Epoch seconds.

    Returns:
        Epoch seconds, None where there is no such time within fifty years.

    >>> around("0 12 * * *", "UTC", 86400.0)
    (43200.0, 129600.0)
    """
    now = datetime.fromtimestamp(int(epoch_s), tz=_zone(zone))
    room = CHANGE if _is_near_change(now) else timedelta(seconds=1)
    last = _first(cron, _moved(now, room), epoch_s, is_back=True)
    return last, _first(cron, _moved(now, -room), epoch_s, is_back=False)


def changes(zone: str, from_s: float, until_s: float) -> list[float]:
    """Return when (epoch seconds, whole) the clocks of ``zone`` change after ``from_s``, up to ``until_s``.

    >>> changes("Europe/Berlin", 1767225600.0, 1798761600.0)  # in 2026
    [1774746000.0, 1792890000.0]
    """
    found, before_s = [], int(from_s)
    for at_s in (*range(before_s + DAY_S, int(until_s), DAY_S), int(until_s)):
        if _offset_s(zone, at_s) != _offset_s(zone, before_s):
            found.append(float(_changed_s(zone, before_s, at_s)))
        before_s = at_s
    return found


def _changed_s(zone: str, before_s: int, after_s: int) -> int:
    """Return the first second at which the offset is no longer that of ``before_s``; it is another at ``after_s``."""
    offset_s = _offset_s(zone, before_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        before_s, after_s = (middle_s, after_s) if _offset_s(zone, middle_s) == offset_s else (before_s, middle_s)
    return after_s


def _offset_s(zone: str, at_s: int) -> float:
    offset = datetime.fromtimestamp(at_s, tz=_zone(zone)).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def _first(cron: str, begin: datetime, epoch_s: float, *, is_back: bool) -> float | None:
    """Return the first time from ``begin`` on, or back, that lies on the right side of ``epoch_s``."""
    for time in CronSim(cron, begin, reverse=is_back):
        at_s = time.timestamp()
        if (at_s <= epoch_s) if is_back else (at_s > epoch_s):
            return at_s
    return None


def _is_near_change(now: datetime) -> bool:
    return _moved(now, -CHANGE).utcoffset() != _moved(now, CHANGE).utcoffset()


def _moved(now: datetime, by: timedelta) -> datetime:
    """Return the time that is really ``by`` later: Python adds wall-clock time within one zone."""
    return (now.astimezone(UTC) + by).astimezone(now.tzinfo)


@lru_cache(maxsize=64)
def _zone(zone: str) -> ZoneInfo:
    return ZoneInfo(zone)


def _fault(cron: str, error: CronSimError) -> str:
    field = str(error).removeprefix("Bad ")
    names = ("minute", "hour", "day-of-month", "month", "day-of-week")
    if field not in names:
        return str(error)
    found = cron.split()[names.index(field)]
    if field == "day-of-month" and all(
        part.isascii() and part.isdigit() and 1 <= int(part) <= 31 for part in found.split(",")
    ):
        return f"never fires: no month it names has a day {found}"
    return f"{field} cannot be {found!r}"
