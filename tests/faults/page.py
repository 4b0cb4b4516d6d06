"""``docs/faults.md``: the matrix of faults with what one run of it measured."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from tests.faults.matrix import OPEN, ROWS, SECTIONS, Row
from tests.faults.proof import Proof

KEPT, IN_PART, NOT_SHOWN, BROKEN = "●", "◐", "○", "✗"
HEAD = """# Faults, and what holds

{count}: {day}, {minutes:.0f} minutes, {cores} cores, {machine}, QEMU {qemu}, libvirt {libvirt}, HAProxy {haproxy}.

`make faults` injects each of these faults into real parts (libvirt, QEMU guests, HAProxy, the services' own processes
and sockets), measures, and writes this page. `make faults ROW=12` does one row and writes it anew. A fault that is to
last longer than 60 s lasts 60 s; with `LONG=1` it lasts as long as the row says. What single
processes take is told without the time in which a busy machine had no processor for them.

- {kept} kept: the row's own bounds were measured and held
- {in_part} shown in part: what is missing stands in the last column
- {not_shown} not shown
- {broken} broken in this run

In every row also: the number of domains stays within `min` and `max` (+ `surge` during a replacement); nothing is
scaled in without fresh and complete figures; no domain, disk or slot is left without its owner; no request goes to a
domain that is not the one it should be; nobody else's domain is touched; all is well again within 30 s (and a boot, if
one is needed) after the fault's end; and no process is ever restarted by hand.
"""


def page(proofs: Mapping[int, Sequence[Proof]], took_s: float) -> str:
    """Return the page for what the tests of each row showed; ``took_s`` is how long they took, in seconds."""
    kept = sum(kept_or_not(row, proofs.get(number, ())) == KEPT for number, row in ROWS.items())
    head = HEAD.format(
        count=f"{kept} of {len(ROWS)} faults kept",
        day=f"{datetime.now(UTC):%Y-%m-%d}",  # noqa: TID251
        minutes=took_s / 60,
        cores=os.cpu_count(),
        machine=platform.machine(),
        kept=KEPT,
        in_part=IN_PART,
        not_shown=NOT_SHOWN,
        broken=BROKEN,
        **versions(),
    )
    return head + "".join(
        f"\n## {title}\n\n| | | fault | what must hold | what was seen |\n|---|---|---|---|---|\n"
        + "".join(line(row, proofs.get(row.number, ())) for row in rows)
        for title, rows in SECTIONS.items()
    )


def with_rows(text: str, proofs: Mapping[int, Sequence[Proof]]) -> str:
    """Return the page with the lines of these rows written anew, and as many rows kept as it then says."""
    lines = text.splitlines(keepends=True)
    for number, found in proofs.items():
        at = next(index for index, old in enumerate(lines) if old.startswith(f"| {number} |"))
        lines[at] = line(ROWS[number], found)
    kept = sum(each.startswith("| ") and f" | {KEPT} | " in each for each in lines)
    return re.sub(r"^\d+ of ", f"{kept} of ", "".join(lines), count=1, flags=re.MULTILINE)


def kept_or_not(row: Row, proofs: Sequence[Proof]) -> str:
    """Return the sign of a row."""
    if any(proof.fault for proof in proofs):
        return BROKEN
    if not any(proof.seen for proof in proofs):
        return NOT_SHOWN
    return IN_PART if row.number in OPEN else KEPT


def line(row: Row, proofs: Sequence[Proof]) -> str:
    """Return a row of the page's table."""
    cells = [str(row.number), kept_or_not(row, proofs), row.fault, row.must, "<br>".join(_seen(row, proofs))]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def versions() -> dict[str, str]:
    """Return the versions of what the faults were injected into, without a distribution's additions."""
    commands = {"qemu": "qemu-system-x86_64", "libvirt": "libvirtd", "haproxy": "haproxy"}
    outputs = {
        name: subprocess.run(
            [command, "-v" if name == "haproxy" else "--version"], capture_output=True, text=True, check=False
        ).stdout
        for name, command in commands.items()
    }
    return {
        name: next((word for word in text.split() if word[:1].isdigit()), "?").split("-")[0]
        for name, text in outputs.items()
    }


def _seen(row: Row, proofs: Sequence[Proof]) -> Iterator[str]:
    for proof in proofs:
        yield from proof.seen
        if proof.fault:
            yield f"**{proof.fault}**"
    if row.number in OPEN:
        yield f"*Open:* {OPEN[row.number]}"
