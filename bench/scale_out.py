"""From the onset of overload to the second domain's first answer.

The limit beside it, in the same run: the policy's window plus the boot that was measured for that domain.
"""

import subprocess
import sys
from typing import Any

from bench.installation import CLOCK, Installation, wait_until


def run(installation: Installation, rounds: int = 3) -> dict[str, Any]:
    """Return, for each round, when the scale-out was decided, when it served, and the boot's part."""
    group = installation.config.groups[installation.name]
    window_s = getattr(group.policies[0], "out_window_s", 0.0)
    return {"window_s": window_s, "rounds": [_round(installation, window_s) for _ in range(rounds)]}


def _round(installation: Installation, window_s: float) -> dict[str, float]:
    installation.hold_at(1)
    command = [sys.executable, "-m", "cli", "load", "--level", "high", "--json", "--seconds", "240"]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (installation.group()["request_rate"] or 0) > 5, 30, "the load's requests", every_s=0.05)
        begin_s = CLOCK.monotonic_s()
        installation.order("decider", "resume", group=installation.name)
        wait_until(lambda: (installation.group()["desired"] or 0) >= 2, 60, "a scale-out", every_s=0.05)
        decided_s = CLOCK.monotonic_s() - begin_s
        wait_until(lambda: len(installation.ready()) >= 2, 120, "the second domain", every_s=0.05)
        served_s = CLOCK.monotonic_s() - begin_s
    finally:
        load.terminate()
        load.wait(timeout=60)
    boot_s = installation.group()["boot_p50_s"] or float("nan")
    return {
        "decided_s": decided_s,
        "served_s": served_s,
        "boot_s": served_s - decided_s,
        "boot_p50_s": boot_s,
        "ratio_to_limit": served_s / (window_s + served_s - decided_s),
    }


def show(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    lines = [
        f"Out window {result['window_s']:.0f} s. Seconds from the onset of overload.",
        "| decided | second domain in rotation | boot to rotation | over (window + boot) |",
        "|---|---|---|---|",
    ]
    for one in result["rounds"]:
        lines.append(
            f"| {one['decided_s']:.1f} | {one['served_s']:.1f} | {one['boot_s']:.1f} | {one['ratio_to_limit']:.2f} x |"
        )
    return "\n".join(lines)
