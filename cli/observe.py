"""Listening to the bus for a moment: the last value of everything, as the operator sees it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from common.bus import Bus
from common.clock import Clock
from common.config import Config
from common.messages import Body, DecisionRecord, DesiredCapacity, Drain, HostSample, Membership, ServiceStatus, Traffic

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
    wanted: dict[str, DesiredCapacity] = field(default_factory=dict)
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
            case DesiredCapacity():
                self.wanted[body.group] = body
            case Drain():
                self.drains[body.group] = body
            case Traffic():
                self.traffics[body.group] = body
            case _:
                pass

    def is_whole(self, config: Config) -> bool:
        """Return whether every service and every group has been heard."""
        per_group = (self.memberships, self.decisions, self.wanted, self.drains, self.traffics)
        return (
            self.services.keys() >= set(config.services)
            and self.samples.keys() >= config.hosts.keys()
            and all(heard.keys() >= config.groups.keys() for heard in per_group)
        )


@dataclass(slots=True)
class Heard:
    """The last value of each topic, and when it came; what was not said again for ``silent_after_s`` is unknown."""

    silent_after_s: float
    last: dict[str, tuple[float, Body]] = field(default_factory=dict)

    def note(self, body: Body, now_s: float) -> None:
        """Keep what came at ``now_s``."""
        self.last[body.topic] = (now_s, body)

    def snapshot(self, now_s: float) -> Snapshot:
        """Return what is known at ``now_s``."""
        found = Snapshot()
        for heard_s, body in self.last.values():
            if now_s - heard_s <= self.silent_after_s:
                found.take(body)
        return found


class Observer:
    """A silent subscriber to every service."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._heard = Heard(silent_after_s=config.system.silent_after_s)
        self._bus = Bus.open(config, "operator", clock, publishes=False)
        for service in config.services:
            self._bus.subscribe(service, *STANDING_KINDS[service])

    def observe(self, timeout_s: float = 1.0) -> Snapshot:
        """Return what was heard until the picture was whole, or ``timeout_s`` passed."""
        return self._listen(timeout_s, lambda snapshot: snapshot.is_whole(self._config))

    def follow(self, every_s: float = 1.0) -> Iterator[Snapshot]:
        """Yield the state every ``every_s``, for ever."""
        yield self.observe(every_s)
        while True:
            yield self._listen(every_s, lambda _: False)

    def _listen(self, for_s: float, is_enough: Callable[[Snapshot], bool]) -> Snapshot:
        now_s = self._clock.monotonic_s()
        deadline_s = now_s + for_s
        while not is_enough(snapshot := self._heard.snapshot(now_s)) and now_s < deadline_s:
            for received in self._bus.receive(deadline_s - now_s).messages:
                self._heard.note(received.body, self._clock.monotonic_s())
            now_s = self._clock.monotonic_s()
        return snapshot

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
