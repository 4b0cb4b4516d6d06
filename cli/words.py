"""Instants as the operator types and reads them: local time."""

import math
import re
from datetime import UTC, datetime

from common.errors import ConfigError


def local_time(at_s: float) -> str:
    """Return an instant (epoch seconds) in local time."""
    return datetime.fromtimestamp(at_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def instant_s(text: str, now_s: float) -> float:
    """Return the epoch seconds of an instant: ISO 8601, ``HH:MM[:SS]`` of today, or epoch seconds.

    A time without a zone is local; ``now_s`` says what today is.

    >>> instant_s("1795374000", now_s=0), instant_s("2026-11-22T19:00:00Z", now_s=0)
    (1795374000.0, 1795374000.0)

    Raises:
        ConfigError: it is none of them.
    """
    wanted = "ISO 8601 such as 2026-11-22T14:03:20, HH:MM:SS of today, or epoch seconds"
    if re.fullmatch(r"\d+(\.\d+)?", text) and len(text.partition(".")[0]) >= 9:
        at_s = float(text)
    else:
        try:
            at_s = _parsed(text, now_s).timestamp()
        except (ValueError, OverflowError, OSError) as error:
            raise ConfigError(f"an instant is {wanted}; got {text!r}") from error
    if not math.isfinite(at_s):
        raise ConfigError(f"an instant is {wanted}; got {text!r}")
    return at_s


def _parsed(text: str, now_s: float) -> datetime:
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", text):
        today = datetime.fromtimestamp(now_s, UTC).astimezone().date().isoformat()
        text = f"{today}T{text.zfill(len(text) + (text.index(':') < 2))}"
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.astimezone()
