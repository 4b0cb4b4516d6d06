"""What the doctor says about one thing: how bad it is, what was found, why it matters, what mends it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How bad; the later ones of ``ORDER`` are worse."""

    OK = "ok"
    SKIPPED = "skipped"  # nothing to look at, or not allowed to look
    NOTE = "note"  # worth knowing, works as it is
    WARNING = "warning"  # works now, and will not always
    ERROR = "error"  # does not work


ORDER: Final = tuple(Level)
EXIT_CODES: Final = {Level.OK: 0, Level.SKIPPED: 0, Level.NOTE: 0, Level.WARNING: 1, Level.ERROR: 3}
"""2 is left to a wrong configuration or command line, as everywhere."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page. ``about`` names the host, group, domain or path; ``mend`` is a command, or advice."""

    level: Level
    check: str
    about: str
    what: str
    why: str = ""
    mend: str = ""


def ok(check: str, about: str, what: str) -> Finding:
    """Return that all is well."""
    return Finding(Level.OK, check, about, what)


def skipped(check: str, about: str, what: str) -> Finding:
    """Return that this was not looked at, and why."""
    return Finding(Level.SKIPPED, check, about, what)


def note(check: str, about: str, what: str, why: str = "", mend: str = "") -> Finding:
    """Return something worth knowing that keeps nothing from working."""
    return Finding(Level.NOTE, check, about, what, why, mend)


def warning(check: str, about: str, what: str, why: str, mend: str) -> Finding:
    """Return something that works now, and will not always."""
    return Finding(Level.WARNING, check, about, what, why, mend)


def error(check: str, about: str, what: str, why: str, mend: str) -> Finding:
    """Return something that does not work."""
    return Finding(Level.ERROR, check, about, what, why, mend)


def virtlogd_mend(trouble: str, *, has_systemd: bool) -> str:
    """Return what mends a guest that cannot be started because virtlogd does not run, empty for another trouble.

    >>> virtlogd_mend("Failed to connect socket to '/run/libvirt/virtlogd-sock': refused", has_systemd=False)
    'virtlogd -d'
    """
    if "virtlogd-sock" not in trouble:
        return ""
    return "systemctl restart virtlogd.socket" if has_systemd else "virtlogd -d"


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level, ``ok`` where nothing was found.

    >>> worst([note("clock", "", "slow"), ok("ports", "", "free")])
    <Level.NOTE: 'note'>
    """
    return max((finding.level for finding in findings), key=ORDER.index, default=Level.OK)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 where nothing needs mending, 1 for warnings, 3 for errors.

    >>> exit_code([note("clock", "", "slow")]), exit_code([error("ports", "", "taken", "it matters", "free it")])
    (0, 3)
    """
    return EXIT_CODES[worst(findings)]


def size(count_bytes: float) -> str:
    """Return bytes for people.

    >>> size(3 * 1024**3), size(5 * 1024**2)
    ('3.0 GiB', '5 MiB')
    """
    gib = count_bytes / 1024**3
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count_bytes / 1024**2:.0f} MiB"
