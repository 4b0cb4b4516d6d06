"""The actuator's own loop, with its real threads, on hosts in memory: no libvirt, no guests, no network."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from common.clock import SystemClock
from common.config import Config
from common.domain import DomainState
from common.messages import DesiredCapacity, Drain, Membership
from common.process import Context
from services.actuator.access import address_rule
from services.actuator.core.record import Record, parse
from services.actuator.shell import ActuatorService
from services.actuator.worker import Access
from tests.integration.actuator_stand import FakeBus
from tests.sim.actuator_model import FakeDomain, FakeHost

CLOCK = SystemClock()


class Nobody:
    """Notes no call, and lets nothing die."""

    def __init__(self) -> None:
        self.trespasses: list[str] = []

    @property
    def now_s(self) -> float:
        return CLOCK.monotonic_s()

    def before(self, call: str, host: str, name: str) -> None:
        pass

    def after(self, call: str, host: str, name: str) -> None:
        pass


class Stand:
    """The service, on one host in memory; the test plays decider and balancer."""

    def __init__(self, state_dir: Path, groups: dict[str, object], slots: int = 20) -> None:
        make_image(state_dir / "images")
        system = {"state_dir": str(state_dir), "run_dir": str(state_dir / "run"), "interval_s": 0.2}
        network = {"subnet": "127.150.0.0/24", "slots": slots}  # where a connection is refused at once
        self.config = Config.model_validate({"system": system, "network": network, "groups": groups})
        self.host = FakeHost(Nobody(), "local")  # type: ignore[arg-type] # it is told what happens, no more
        self.bus = FakeBus()
        self._service: ActuatorService | None = None

    def start(self) -> None:
        context = Context("actuator", self.config, "", Path("t"), CLOCK, self.bus, lambda: False)  # type: ignore[arg-type] # a fake bus
        access = Access(
            open=lambda: self.host,
            watch=lambda _host, _look: None,
            prepare=lambda _host: "qemu",
            sources=lambda name: next(
                (address_rule(g) for g in self.config.groups.values() if name.startswith(g.prefix)), None
            ),
        )
        self._service = ActuatorService(context, lambda _host: access)

    def want(self, group: str, desired: int, maximum: int = 4) -> None:
        """Say what the decider would, and that the balancer knows nobody yet."""
        self.bus.put(Drain(group=group, endpoint="127.0.0.1:1", is_proxy_alive=True, backends=()))
        self.bus.put(DesiredCapacity(group=group, generation=1, desired=desired, minimum=0, maximum=maximum))

    def run_until(self, is_so: Callable[[], bool], limit_s: float = 20.0) -> None:
        begun_s = CLOCK.monotonic_s()
        while not is_so():
            assert CLOCK.monotonic_s() < begun_s + limit_s, (self.records(), self.memberships()[-1:])
            self.turn()

    def turn(self) -> None:
        assert self._service is not None
        self._service.step(self.bus.receive(0.05), CLOCK.monotonic_s())

    def memberships(self) -> list[Membership]:
        return [body for body in self.bus.published if isinstance(body, Membership)]

    def records(self) -> dict[str, Record]:
        found = {name: parse(domain.metadata) for name, domain in list(self.host.by_name.items())}
        return {name: record for name, record in found.items() if record is not None}

    def close(self) -> None:
        if self._service is not None:
            self._service.close()


def make_image(directory: Path) -> None:
    """Put a guest image there that nobody can boot."""
    directory.mkdir()
    parts = {}
    for part in ("kernel", "initramfs"):
        (directory / part).write_bytes(part.encode())
        parts[part] = {"file": part, "sha256": hashlib.sha256(part.encode()).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(parts), encoding="utf-8")


def running(name: str) -> FakeDomain:
    """Return a user's domain that runs and is not known to us."""
    return FakeDomain(name, f"u-{name}", DomainState.RUNNING, started_s=0.0)
