"""The demo's load ends: from Ctrl-C to the fewest domains again, several times, on the running installation.

``make bench-demo RUNS=10`` after ``make up``. Beside each figure stands the most that it may be: the scale-in window, a
cooldown for each further step, and a little. A group that an earlier load has made patient (``status`` shows it) waits
for that instead of the window.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.decided import decisions, desired_since_s
from bench.driving import Load
from bench.installation import Installation, wait_until
from common.config import Config
from common.errors import AutoscalerError
from services.decider.core.state import Settings

LOAD_S: Final = 40.0
SLACK_S: Final = 15.0
GIVE_UP_S: Final = 600.0
LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """One load: how many domains were desired at Ctrl-C, and the seconds from there to the fewest; None: never."""

    domains: int
    took_s: float | None
    at_most_s: float

    @property
    def is_kept(self) -> bool:
        """Return whether it was in time."""
        return self.took_s is not None and self.took_s <= self.at_most_s


def at_most_s(config: Config, group: str, domains: int, patience_s: float = 0.0) -> float:
    """Return the seconds from the end of a load to the fewest domains, from so many, with the patience in force."""
    settings = config.groups[group]
    system = config.system
    window_s = Settings(
        group, settings, system.interval_s, system.stale_after_s, system.republish_s, config.haproxy.slots
    ).in_window_s
    steps = -(-(domains - settings.minimum) // settings.max_step_in)
    return max(window_s, patience_s) + max(0, steps - 1) * settings.cooldown_in_s + SLACK_S


def run(installation: Installation, config_path: Path, runs: int) -> list[Round]:
    """Return the rounds, the last of which may be one that never came back: it ends the run."""
    rounds: list[Round] = []
    while len(rounds) < runs and all(found.took_s is not None for found in rounds):
        rounds.append(_round(installation, config_path))
        print(line(rounds[-1]), flush=True)
    return rounds


def _round(installation: Installation, config_path: Path) -> Round:
    config, group = installation.config, installation.name
    least = config.groups[group].minimum
    installation.settle(least, GIVE_UP_S)
    with Load(config_path, group) as load:
        time.sleep(LOAD_S)  # the load is its length
        if not load.is_running:
            raise AutoscalerError("the load generator has ended by itself; try: make load LEVEL=high")
        ended_at_s = load.ctrl_c()
    last = decisions(config, group, ended_at_s - LOAD_S)[-1]
    domains, most_s = last.desired_after, at_most_s(config, group, last.desired_after, last.patience_s)
    try:
        wait_until(lambda: _back_s(config, group, ended_at_s, least) is not None, GIVE_UP_S, "", LOOK_EVERY_S)
    except AutoscalerError:
        return Round(domains, None, most_s)
    return Round(domains, _back_s(config, group, ended_at_s, least), most_s)


def _back_s(config: Config, group: str, ended_at_s: float, least: int) -> float | None:
    since_s = desired_since_s(decisions(config, group, ended_at_s), least)
    return None if since_s is None else since_s - ended_at_s


def line(found: Round) -> str:
    """Return one round as a row of the table.

    >>> line(Round(4, 97.04, 105.0))
    '| 4 | 97.0 | 105 | yes |'
    """
    took = f"none in {GIVE_UP_S:.0f}" if found.took_s is None else f"{found.took_s:.1f}"
    return f"| {found.domains} | {took} | {found.at_most_s:.0f} | {'yes' if found.is_kept else 'NO'} |"


def summary(rounds: Iterable[Round]) -> str:
    """Return the rounds in one sentence."""
    found = list(rounds)
    took = [one.took_s for one in found if one.took_s is not None]
    times = f", median {statistics.median(took):.1f} s, worst {max(took):.1f} s" if took else ""
    return f"{sum(one.is_kept for one in found)} of {len(found)} in time{times}."


def main() -> int:
    """Measure, print the table, and return 0 if every round was in time."""
    parser = argparse.ArgumentParser(prog="bench.demo_ends", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="how many loads, one after the other; default 10")
    parser.add_argument("--config", type=Path, default=Path(os.environ.get("AUTOSCALER_CONFIG", "autoscaler.toml")))
    parser.add_argument("--json", type=Path, help="write the rounds to this file")
    args = parser.parse_args()
    try:
        installation = Installation(args.config)
        if not any(service["alive"] for service in installation.status()["services"]):
            raise AutoscalerError("nothing runs that could be measured; run: make up")
        print(f"Seconds from Ctrl-C, after {LOAD_S:.0f} s of high load, to the fewest domains.")
        print("| domains at Ctrl-C | seconds | at most | in time |\n|---|---|---|---|", flush=True)
        rounds = run(installation, args.config, args.runs)
    except AutoscalerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{summary(rounds)}")
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in rounds], indent=1), encoding="utf-8")
    return 0 if all(one.is_kept for one in rounds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
