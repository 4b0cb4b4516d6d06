"""``python -m cli.healthcheck NAME``: whether a service works, as its container's health check asks.

A service works when its own ``ServiceStatus`` is on the bus and fresh (its loop sends it, so one that hangs is silent
however alive its process is), tells of no trouble, and what it is there for is to be seen: the monitor's samples, the
decider's decisions, the actuator's memberships, the balancer's word that HAProxy obeys it, the exporter's page, the
plotter's picture. HAProxy works when it answers at its runtime API, the monitor's way to libvirt when libvirt answers
through it.
"""

import http.client
import os
import sys
from pathlib import Path

from common.bus import Bus
from common.clock import Clock, SystemClock
from common.config import Config
from common.config_file import load
from common.endpoint import within_reach
from common.errors import AutoscalerError
from common.messages import Body, Drain, HostSample, ServiceStatus
from common.services import ALL_SERVICES

READER_SOCKET = "/reader/libvirt-sock-ro"  # see container/libvirt-reader.cfg
STALE_PERIODS = 3  # as many missed repetitions are silence
PAGE_PATIENCE_S = 5.0
WORK = {"monitor": "sample", "decider": "decision", "actuator": "membership", "balancer": "drain"}
"""What is said of each host, or of each group, by those whose work is to say it."""


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
    said = _said(config, name, clock)
    status = said[f"service.{name}"]
    assert isinstance(status, ServiceStatus)  # noqa: S101 - by its topic
    trouble = trouble_in(name, list(said.values()))
    if not trouble and name == "exporter" and config.metrics.listen:
        trouble = page_trouble(config.metrics.listen)
    if not trouble and name == "plotter":
        trouble = _picture_trouble(config.system.state_path / "graph.png", clock.epoch_s(), status.started_at_s)
    if trouble:
        raise AutoscalerError(f"{name} lives, but {trouble}")
    return f"{name} works: it said {', '.join(sorted(said))}"


def topics_of(config: Config, name: str) -> set[str]:
    """Return what a service must have said lately."""
    about = () if name not in WORK else config.hosts if name == "monitor" else config.groups
    return {f"service.{name}", *(f"{WORK[name]}.{each}" for each in about)}


def trouble_in(name: str, said: list[Body]) -> str:
    """Return what is wrong by a service's own words, empty if nothing is."""
    notes = [body.note for body in said if isinstance(body, ServiceStatus) and body.note]
    samples = [body for body in said if isinstance(body, HostSample)]
    if notes:
        return notes[0]
    if samples and not any(sample.is_reachable for sample in samples):
        return f"no host answers it: {samples[0].note or samples[0].host}"
    if any(isinstance(body, Drain) and not body.is_proxy_alive for body in said):
        return f"HAProxy does not answer the {name}"
    return ""


def _said(config: Config, name: str, clock: Clock) -> dict[str, Body]:
    """Return the newest message of every topic that the service must have said something about.

    Raises:
        AutoscalerError: there is none, or an old one only.
    """
    allowed_s = STALE_PERIODS * max(config.system.republish_s, config.system.interval_s)
    wanted, said = topics_of(config, name), dict[str, Body]()
    bus = Bus.open(config, "healthcheck", clock, publishes=False)
    try:
        bus.subscribe(name, *{topic.partition(".")[0] for topic in wanted})
        deadline_s = clock.monotonic_s() + allowed_s
        while wanted - set(said) and (left_s := deadline_s - clock.monotonic_s()) > 0:
            fresh = (received for received in bus.receive(left_s).messages if received.age_s <= allowed_s)
            said |= {received.topic: received.body for received in fresh if received.topic in wanted}
    finally:
        bus.close()
    if f"service.{name}" not in said:
        raise AutoscalerError(f"{name} said nothing for {allowed_s:g} s")
    if missing := sorted(wanted - set(said)):
        raise AutoscalerError(f"{name} lives, but said nothing of {', '.join(missing)} for {allowed_s:g} s")
    return said


def page_trouble(listen: str) -> str:
    """Return what is wrong with the exporter's page, empty if it answers."""
    host, port = within_reach(listen)
    connection = http.client.HTTPConnection(host, port, timeout=PAGE_PATIENCE_S)
    try:
        connection.request("GET", "/metrics")
        status = connection.getresponse().status
        return "" if status == http.client.OK else f"its page answers with status {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"its page at {listen} does not answer: {error}"
    finally:
        connection.close()


def _picture_trouble(path: Path, now_s: float, started_at_s: float) -> str:
    from services.plotter.shell import EVERY_S

    allowed_s = STALE_PERIODS * EVERY_S
    if now_s - started_at_s < allowed_s:
        return ""
    drawn_s = path.stat().st_mtime if path.is_file() else 0.0
    return "" if now_s - drawn_s <= allowed_s else f"{path} was not drawn anew for {allowed_s:g} s"


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
