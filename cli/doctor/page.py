"""The doctor's findings on paper: for people, and as JSON for scripts (the schema is in docs/doctor.md)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from cli.doctor.finding import ORDER, Finding, Level, exit_code, worst

SCHEMA: Final = 1
STYLES: Final = {
    Level.OK: "green",
    Level.SKIPPED: "dim",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.ERROR: "bold red",
}
_WIDTH: Final = 16


def values(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings in the form that ``doctor --json`` prints."""
    counts = Counter(finding.level for finding in findings)
    return {
        "schema": SCHEMA,
        "worst": worst(findings).value,
        "exit_code": exit_code(findings),
        "counts": {level.value: counts[level] for level in ORDER},
        "findings": [
            {
                "level": finding.level.value,
                "check": finding.check,
                "about": finding.about,
                "what": finding.what,
                "why": finding.why,
                "mend": finding.mend,
            }
            for finding in findings
        ],
    }


def page(findings: Sequence[Finding]) -> Text:
    """Return the findings for a terminal, in the order of the checks; what is wrong says why and how to mend it."""
    text = Text()
    for finding in findings:
        text.append(f"{finding.level.value:<8} ", STYLES[finding.level])
        text.append(f"{finding.check:<{_WIDTH}} ", "bold" if finding.level in (Level.WARNING, Level.ERROR) else "")
        text.append(f"{finding.about}: {finding.what}\n" if finding.about else f"{finding.what}\n")
        if finding.why:
            text.append(f"{'':9}why  {finding.why}\n", "dim")
        if finding.mend:
            text.append(f"{'':9}mend {finding.mend}\n")
    return text.append(summary(findings))


def summary(findings: Sequence[Finding]) -> str:
    """Return one line.

    >>> summary([Finding(Level.OK, "ports", "", "free"), Finding(Level.NOTE, "kvm", "", "slow")])
    'nothing to mend: 1 ok, 1 note'
    """
    counts = Counter(finding.level for finding in findings)
    parts = [f"{counts[level]} {_plural(level, counts[level])}" for level in ORDER if counts[level]]
    head = "nothing to mend" if exit_code(findings) == 0 else f"worst: {worst(findings).value}"
    return f"{head}: {', '.join(parts)}"


def _plural(level: Level, count: int) -> str:
    return f"{level.value}s" if count != 1 and level in (Level.NOTE, Level.WARNING, Level.ERROR) else level.value
