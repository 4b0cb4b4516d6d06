"""``python -m services.balancer``: the service; ``--write-config``, ``--forget-slots``: what HAProxy begins with."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import config_file, config_places, log
from common.errors import AutoscalerError
from common.process import Context, Service, main
from services.balancer.files import forget_slots, write_config


def build(context: Context) -> Service:
    """Return the service; it is loaded with its lock held, so that a second copy ends before it is."""
    from services.balancer.shell import BalancerService

    return BalancerService(context)


def run(argv: Sequence[str]) -> int:
    """Return the exit code of the service, of writing ``haproxy.cfg``, or of forgetting who had which slot."""
    parser = argparse.ArgumentParser(prog="python -m services.balancer", description="Run the balancer.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    parser.add_argument("--write-config", action="store_true", help="write haproxy.cfg into run_dir and exit")
    parser.add_argument(
        "--forget-slots",
        action="store_true",
        help="forget who served, so that HAProxy begins with empty slots, and exit",
    )
    args = parser.parse_args(argv)
    if not (args.write_config or args.forget_slots):
        return main("balancer", build, [] if args.config is None else ["--config", str(args.config)])
    try:
        config, _ = config_file.load(config_places.chosen(args.config))
        if args.forget_slots:
            forget_slots(config.system)
            return 0
        path = write_config(config)
    except AutoscalerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    log.configure("balancer", "info")
    log.logger().info("config-written", path=str(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
