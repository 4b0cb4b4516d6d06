"""What a change of the clocks does to a calendar whose windows last a fixed time: holes and overlaps."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from common import cron
from common.config import Config, Schedule

YEAR_S: Final = 366 * 86400.0


def uneven_windows(config: Config, now_s: float) -> list[str]:
    """Return what the clock changes of the year after ``now_s`` (epoch seconds) do to schedules with ``duration_s``."""
    return [
        f"groups.{name}.policies.{number}: {told}"
        for name, group in config.groups.items()
        for number, policy in enumerate(group.policies)
        if isinstance(policy, Schedule) and policy.duration_s is not None
        for told in _told(policy, policy.duration_s, now_s)
    ]


def _told(policy: Schedule, duration_s: float, now_s: float) -> Iterator[str]:
    """Yield a line for each change at which two windows touch or overlap on the clock and not in time, or reversely."""
    for change_s in cron.changes(policy.zone, now_s, now_s + YEAR_S):
        begin_s, next_s = cron.around(policy.cron, policy.zone, change_s - 1)
        if begin_s is None or next_s is None:
            continue
        by_clock_s, end_s = _by_clock_s(policy.zone, begin_s, next_s), begin_s + duration_s
        why = f"the clocks change, and {duration_s:g} s of duration_s do not"
        advice = f'; until = "{policy.cron}" instead of duration_s follows the clocks'
        if by_clock_s <= duration_s < next_s - begin_s:
            yield f"no window from {_at(policy, end_s)} to {_at(policy, next_s)}: {why}{advice}"
        is_apart_before = begin_s - (cron.around(policy.cron, policy.zone, begin_s - 1)[0] or 0.0) >= duration_s
        if next_s - begin_s < duration_s <= by_clock_s and is_apart_before:
            both = f"two windows at once from {_at(policy, next_s)} to {_at(policy, end_s)}, which count as one: {why}"
            yield both + (advice if duration_s == by_clock_s else "")


def _by_clock_s(zone: str, begin_s: float, end_s: float) -> float:
    """Return how much later the clock on the wall shows."""
    begin, end = (datetime.fromtimestamp(at_s, ZoneInfo(zone)).replace(tzinfo=None) for at_s in (begin_s, end_s))
    return (end - begin).total_seconds()


def _at(policy: Schedule, at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, ZoneInfo(policy.zone)):%Y-%m-%d %H:%M %Z}"
