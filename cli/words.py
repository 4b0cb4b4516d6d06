"""Instants as the operator reads and types them: every one shown names its zone, and can be typed as it was shown.

What a service says is in UTC, for a replay on any machine says the same; what the command itself says is local time.
"""

import math
import re
from datetime import UTC, datetime

from common.errors import ConfigError


def local_time(at_s: float) -> str:
    """Return an instant (epoch seconds) in local time, with its offset from UTC."""
    return datetime.fromtimestamp(at_s, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def instant_s(text: str, now_s: float) -> float:
    """Return the epoch seconds of an instant: ISO 8601, ``HH:MM[:SS]`` of today, or epoch seconds.

    A time without a zone is local, one that ends in ``UTC`` or ``Z`` is not; ``now_s`` says what today is.

    >>> instant_s("1795374000", now_s=0), instant_s("2026-11-22T19:00:00Z", now_s=0)
    (1795374000.0, 1795374000.0)
    >>> instant_s("22:13:51 UTC", now_s=1_700_000_000)
    1700000031.0

    Raises:
        ConfigError: it is none of them.
    """
    wanted = "ISO 8601 such as 2026-11-22T14:03:20, HH:MM:SS of today (or HH:MM:SS UTC), or epoch seconds"
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
    zone = re.search(r" ?(UTC|Z)$", text)
    bare = text[: zone.start()] if zone else text
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", bare):
        today = datetime.fromtimestamp(now_s, UTC)
        day = (today if zone else today.astimezone()).date().isoformat()
        bare = f"{day}T{bare.zfill(len(bare) + (bare.index(':') < 2))}"
    found = datetime.fromisoformat(bare)
    if zone:
        return found.replace(tzinfo=UTC)
    return found if found.tzinfo else found.astimezone()
