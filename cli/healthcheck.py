"""``python -m cli.healthcheck NAME``: whether a service works, as its container's health check asks.

A service works when its own ``ServiceStatus`` is on the bus and fresh: its loop sends it, so one that hangs is silent
however alive its process is. HAProxy works when it answers at its runtime API, the
monitor's way to libvirt when libvirt answers through it.
"""

import os
import sys
from pathlib import Path

from common.bus import Bus
from common.clock import Clock, SystemClock
from common.config import Config
from common.config_file import load
from common.errors import AutoscalerError
from common.messages import ServiceStatus
from common.services import ALL_SERVICES

READER_SOCKET = "/reader/libvirt-sock-ro"  # see container/libvirt-reader.cfg
STALE_PERIODS = 3  # as many missed repetitions are silence


def check(config: Config, name: str, clock: Clock) -> str:
    """Return how the service, or what stands beside the services, was found to work.

    Raises:
        AutoscalerError: it does not work, or there is none of this name.
    """
    if name == "haproxy":
        return _check_haproxy(config, clock)
    if name == "libvirt-reader":
        return _check_reader()
    if name not in ALL_SERVICES:
        raise AutoscalerError(f"no service {name!r}; there are {', '.join(ALL_SERVICES)}, haproxy, libvirt-reader")
    return _check_service(config, name, clock)


def _check_service(config: Config, name: str, clock: Clock) -> str:
    allowed_s = STALE_PERIODS * config.system.republish_s
    bus = Bus.open(config, "healthcheck", clock, publishes=False)
    try:
        bus.subscribe(name, "service")
        deadline_s = clock.monotonic_s() + allowed_s
        while (left_s := deadline_s - clock.monotonic_s()) > 0:
            for received in bus.receive(left_s).messages:
                if isinstance(received.body, ServiceStatus) and received.age_s <= allowed_s:
                    return f"{name} works: its status is {received.age_s:.1f} s old"
    finally:
        bus.close()
    raise AutoscalerError(f"{name} said nothing for {allowed_s:g} s")


def _check_haproxy(config: Config, clock: Clock) -> str:
    from services.balancer.core.haproxy_config import stats_socket
    from services.balancer.haproxy import RuntimeApi

    shown = RuntimeApi(stats_socket(config.system), clock).look(config.groups)
    return f"HAProxy answers for {', '.join(shown.servers)}"


def _check_reader() -> str:
    from common.hypervisor import Connection

    Connection.open(f"qemu:///system?socket={READER_SOCKET}", is_read_only=True, may_touch=lambda _name: False).close()
    return "libvirt answers"


def main(argv: list[str]) -> int:
    """Return 0 if the service works, 1 with the reason on standard output if not, 2 for a wrong configuration."""
    try:
        config, _digest = load(Path(os.environ.get("AUTOSCALER_CONFIG", "autoscaler.toml")))
        print(check(config, argv[0] if argv else "", SystemClock()))
    except AutoscalerError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
