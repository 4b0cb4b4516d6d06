"""``python -m services.decider --forget-capacity``: the end of what was decided; what an operator ordered stays.

For when the services are stopped and the domains go. The next start then counts the domains that there are, and begins
from the lower bound where there are none. Bounds, mode and pause are told: they are in force at the next start.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import config_file, config_places
from common.clock import SystemClock, boot_id
from common.config import Config
from common.errors import AutoscalerError
from common.run_dir import Lock, ensure_run_dir
from services.decider.core.state import Standing
from services.decider.core.stored import Instant
from services.decider.store import NAME, Store


def main(argv: Sequence[str]) -> int:
    """Forget what was decided; return 0 when the store says so, else 1, 2 or 75."""
    parser = argparse.ArgumentParser(prog="python -m services.decider", description="Forget what was decided.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    parser.add_argument(
        "--forget-capacity", action="store_true", help="desired capacities and cooldowns; an operator's orders stay"
    )
    options = parser.parse_args(argv)
    try:
        config, _ = config_file.load(config_places.chosen(options.config))
        ensure_run_dir(config.system.run_path)
        lock = Lock.take(config.system.run_path / "decider.lock")
        try:
            return _forget(config)
        finally:
            lock.release()
    except AutoscalerError as error:
        _say(str(error))
        return error.exit_code


def orders_of(standing: Standing) -> str:
    """Return what stays in force of an operator's orders, in words; empty where nothing does."""
    told = [f"mode {standing.mode}"] if standing.mode else []
    told += [f"min {standing.minimum}"] if standing.minimum is not None else []
    told += [f"max {standing.maximum}"] if standing.maximum is not None else []
    return ", ".join([*told, "paused"] if standing.is_paused else told)


def _forget(config: Config) -> int:
    clock = SystemClock()
    at = Instant(boot_id(), clock.monotonic_s(), clock.epoch_s())
    store = Store(config.system.state_path / NAME)
    for name in config.groups:
        standing = store.standing(name, at)
        if standing is None:
            continue
        store.save(name, standing.without_decisions(), at)
        orders = orders_of(standing)
        if orders:
            _say(f"{name}: ordered by an operator, and still so at the next start: {orders}")
    if store.trouble:
        _say(store.trouble)
    return 1 if store.trouble else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is a command
