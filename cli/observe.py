"""Listening to the bus for a moment: the last value of everything, as the operator sees it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from common.bus import Bus
from common.clock import Clock
from common.config import Config
from common.messages import Body, DecisionRecord, Drain, HostSample, Membership, ServiceStatus, Traffic

STANDING_KINDS = {
    "monitor": ("service", "sample"),
    "decider": ("service", "decision", "capacity.desired"),
    "actuator": ("service", "membership"),
    "balancer": ("service", "drain", "traffic"),
    "plotter": ("service",),
    "recorder": ("service",),
    "exporter": ("service",),
    "notifier": ("service",),
}


@dataclass(slots=True)
class Snapshot:
    """The last value of each standing topic that arrived; what is missing is unknown."""

    services: dict[str, ServiceStatus] = field(default_factory=dict)
    samples: dict[str, HostSample] = field(default_factory=dict)
    memberships: dict[str, Membership] = field(default_factory=dict)
    decisions: dict[str, DecisionRecord] = field(default_factory=dict)
    drains: dict[str, Drain] = field(default_factory=dict)
    traffics: dict[str, Traffic] = field(default_factory=dict)

    def take(self, body: Body) -> None:
        """Put one message's body where it belongs."""
        match body:
            case ServiceStatus():
                self.services[body.name] = body
            case HostSample():
                self.samples[body.host] = body
            case Membership():
                self.memberships[body.group] = body
            case DecisionRecord():
                self.decisions[body.group] = body
            case Drain():
                self.drains[body.group] = body
            case Traffic():
                self.traffics[body.group] = body
            case _:
                pass

    def is_whole(self, config: Config) -> bool:
        """Return whether every service and every group has been heard."""
        per_group = (self.memberships, self.decisions, self.drains, self.traffics)
        return (
            self.services.keys() >= set(config.services)
            and self.samples.keys() >= config.hosts.keys()
            and all(heard.keys() >= config.groups.keys() for heard in per_group)
        )


class Observer:
    """A silent subscriber to every service."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._bus = Bus.open(config, "operator", clock, publishes=False)
        for service in config.services:
            self._bus.subscribe(service, *STANDING_KINDS[service])

    def observe(self, timeout_s: float = 1.0) -> Snapshot:
        """Return what was heard until the picture was whole, or ``timeout_s`` passed."""
        snapshot = Snapshot()
        deadline_s = self._clock.monotonic_s() + timeout_s
        while not snapshot.is_whole(self._config):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            for received in self._bus.receive(left_s).messages:
                snapshot.take(received.body)
        return snapshot

    def follow(self, every_s: float = 1.0) -> Iterator[Snapshot]:
        """Yield the state every ``every_s``, for ever; a service that has fallen silent is dropped from it."""
        snapshot = self.observe(every_s)
        heard_s = dict.fromkeys(snapshot.services, self._clock.monotonic_s())
        silent_after_s = 3 * self._config.system.republish_s
        while True:
            yield snapshot
            self._listen(snapshot, heard_s, every_s)
            now_s = self._clock.monotonic_s()
            for name in [name for name, last_s in heard_s.items() if now_s - last_s > silent_after_s]:
                del snapshot.services[name], heard_s[name]

    def _listen(self, snapshot: Snapshot, heard_s: dict[str, float], for_s: float) -> None:
        deadline_s = self._clock.monotonic_s() + for_s
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            for received in self._bus.receive(left_s).messages:
                snapshot.take(received.body)
                if isinstance(received.body, ServiceStatus):
                    heard_s[received.body.name] = self._clock.monotonic_s()

    def close(self) -> None:
        """Leave the bus."""
        self._bus.close()


def observe_once(config: Config, clock: Clock, timeout_s: float = 1.0) -> Snapshot:
    """Return the last value of everything, heard within ``timeout_s``."""
    observer = Observer(config, clock)
    try:
        return observer.observe(timeout_s)
    finally:
        observer.close()
