"""What no recorder has recorded before this one came, and whether that is worth a word.

# Note [Whose words are missing]
After a recorder that was killed the gap is told whatever the others did: all of it was meant to be recorded. One that
was told to stop may have been stopped with all others (``make down``), and nobody said anything then. So that gap is
told only if another service lived in it, by the marks that services leave (``common.life``); those that end a little
later, or start a little earlier, do not count. Of another boot nothing is told: the machine was down meanwhile.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from common.life import Life
from common.recording import Recorded

AFTER_DEATH_S: Final = 0.5
AFTER_STOP_S: Final = 5.0


def unrecorded(
    newest: Recorded | None,
    own: Life | None,
    others: Iterable[Life],
    boot: str,
    mono_s: float,
    epoch_s: float,
    quiet_s: float,
) -> str:
    """Return the sentence about the time since the last message of the recording, empty where there is nothing to say.

    Args:
        newest: the last message of the recording; None if it is empty.
        own: what the recorder before this one left.
        others: the marks of all other services, as they are now.
        boot: the identifier of this boot.
        mono_s: now, monotonic.
        epoch_s: now, in epoch seconds.
        quiet_s: for how long nobody may say anything although all is well.
    """
    if newest is None or newest.boot_id != boot:
        return ""
    lasted_s = mono_s - newest.mono_s
    has_died = own is not None and own.boot_id == boot and not own.is_ended
    least_s = quiet_s + (AFTER_DEATH_S if has_died else AFTER_STOP_S)
    lived = has_died or any(_lived(life, boot, newest.mono_s, mono_s) for life in others)
    if lasted_s < least_s or not lived:
        return ""
    return f"{span(newest.at_s, epoch_s, lasted_s)}: events of that time are missing"


def _lived(life: Life, boot: str, since_s: float, until_s: float) -> bool:
    """Return whether a service lived in that time (monotonic seconds): this run of it, or the one before."""
    if life.boot_id != boot:
        return False
    is_this = life.began_mono_s < until_s - AFTER_STOP_S and life.seen_mono_s > since_s + AFTER_STOP_S
    return is_this or life.before_mono_s > since_s + AFTER_STOP_S


def span(from_at_s: float, until_at_s: float, lasted_s: float) -> str:
    """Return in words when nothing was recorded: epoch seconds, and how long by the monotonic clock.

    >>> span(1795374063.0, 1795374100.0, 37.2)
    'nothing was recorded from 19:01:03 to 19:01:40 UTC (37 s)'
    >>> span(1795374063.0, 1795460500.0, 86437.0)
    'nothing was recorded from 2026-11-22 19:01:03 to 2026-11-23 19:01:40 UTC (86437 s)'
    """
    began, ended = (datetime.fromtimestamp(at_s, UTC) for at_s in (from_at_s, until_at_s))
    form = "%H:%M:%S" if began.date() == ended.date() else "%Y-%m-%d %H:%M:%S"
    return f"nothing was recorded from {began.strftime(form)} to {ended.strftime(form)} UTC ({lasted_s:.0f} s)"
