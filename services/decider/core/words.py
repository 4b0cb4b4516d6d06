"""Numbers as people read them. Everything is computed from arguments, so that a replay says the same words."""

from datetime import UTC, datetime


def percent(ratio: float) -> str:
    """Return a ratio in per cent.

    >>> percent(0.914)
    '91 %'
    """
    return f"{100 * ratio:.0f} %"


def seconds(duration_s: float) -> str:
    """Return a duration, with a decimal only where it says something.

    >>> seconds(5.0), seconds(3.5), seconds(90.0), seconds(3600.0)
    ('5 s', '3.5 s', '90 s', '60 min')
    """
    if duration_s >= 600:
        return f"{duration_s / 60:.0f} min"
    text = f"{duration_s:.1f}"
    return f"{text[:-2] if text.endswith('.0') else text} s"


def clock(epoch_s: float) -> str:
    """Return the time of day, in UTC.

    >>> clock(0)
    '00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(epoch_s, tz=UTC):%H:%M:%S} UTC"


def domains(count: int) -> str:
    """Return a number of domains.

    >>> domains(1), domains(3)
    ('1 domain', '3 domains')
    """
    return f"{count} domain{'' if count == 1 else 's'}"
