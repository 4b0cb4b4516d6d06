"""``python -m services.balancer``: the service, or with ``--write-config`` the configuration of its HAProxy."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import config_file, config_places, log
from common.errors import AutoscalerError
from common.process import main
from services.balancer.files import write_config
from services.balancer.shell import BalancerService


def run(argv: Sequence[str]) -> int:
    """Return the exit code of the service, or of writing ``haproxy.cfg``."""
    parser = argparse.ArgumentParser(prog="python -m services.balancer", description="Run the balancer.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=config_places.HELP)
    parser.add_argument("--write-config", action="store_true", help="write haproxy.cfg into run_dir and exit")
    args = parser.parse_args(argv)
    if not args.write_config:
        return main("balancer", BalancerService, [] if args.config is None else ["--config", str(args.config)])
    try:
        path = write_config(config_file.load(config_places.chosen(args.config))[0])
    except AutoscalerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    log.configure("balancer", "info")
    log.logger().info("config-written", path=str(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
