"""A client in a process of its own: asks the decider once and prints the status of the answer."""

from common.bus import ask
from common.config import Config, Group, System
from common.messages import Request


def main(run_dir: str) -> None:
    """Ask over the sockets in ``run_dir``."""
    config = Config(system=System(run_dir=run_dir), groups={"web": Group(prefix="web-")})
    print(ask(config, "decider", Request(verb="scale"), 10.0).status)
