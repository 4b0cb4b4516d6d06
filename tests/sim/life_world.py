"""A model group to which everything happens that may: two hosts, crashes, losses, orders, an endpoint that is honest.

The endpoint tells what HAProxy tells: its response time is a mean over its last requests however old they are, and
none where no request came; what is in flight is what Little's law says. The actuator acts as the real one does: it
starts what is missing where it can, waits for lost hosts and suspended domains, and may be blocked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from common.messages import BackendState, Drain, HostSample, Membership, Traffic
from common.phases import Phase
from services.decider.core.events import CoreEvent, DrainSeen, MembershipSeen, SampleSeen, TrafficSeen
from services.decider.core.seen import read_sample
from tests.sim.decider_model import Domain
from tests.sim.policy_world import LearningWorld

GRACE_S = 30.0  # after which the actuator replaces some of those on a lost host
COST_S = 0.05  # of CPU that one request takes: so long is its response time where nothing waits
REMEMBERED = 1024  # requests over which HAProxy takes its mean
CRASHES_AFTER_S = 3.0


@dataclass
class Life(LearningWorld):
    """A world on the hosts of its group, in turn; what is set on it happens until it is taken back."""

    request_rate: Callable[[float], float] | None = None  # None: what the load costs
    in_flight: Callable[[float], float] | None = None  # None: what Little's law says, and the CPUs in use
    error_ratio: float = 0.0
    lost: set[str] = field(default_factory=set)
    lost_since_s: float = 0.0
    loops_from: int | None = None  # domains from this number on crash soon after each has become ready
    is_deaf: bool = False  # nothing reaches the decider
    is_restarted: bool = False  # HAProxy: its counters begin anew
    is_proxy_dead: bool = False
    is_stuck: bool = False  # nobody leaves
    is_full: bool = False  # the CPUs of every host are all busy
    queued: int = 0  # besides what the load leaves over
    suspended: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    blocked: str = ""
    told_s: float = 0.02

    # --- the actuator ------------------------------------------------------------------------------------------------

    def host(self, domain: Domain) -> str:
        return self.host_of(int(domain.name[-4:]))

    def host_of(self, number: int) -> str:
        hosts = self.settings.group.hosts
        return hosts[number % len(hosts)]

    def phase(self, domain: Domain) -> Phase:
        return Phase.SUSPENDED if domain.name in self.suspended else domain.phase(self.now_s)

    def serving(self) -> list[Domain]:
        ready = [d for d in self.domains if self.phase(d) is Phase.READY and self.host(d) not in self.lost]
        return [d for d in ready if d.name not in self.unhealthy]

    def act(self) -> None:
        self.domains = [d for d in self.domains if not d.is_dead and d.phase(self.now_s) is not Phase.GONE]
        if self.loops_from is not None:
            for domain in self.domains[-1:]:
                is_looper = int(domain.name[-4:]) >= self.loops_from and self.phase(domain) is Phase.READY
                domain.is_dead |= is_looper and domain.age_s(self.now_s) >= CRASHES_AFTER_S
        if self.wanted is None:
            return
        near = [d for d in self.capacity() if self.host(d) not in self.lost]
        away = len(self.capacity()) - len(near)
        if away and self.now_s - self.lost_since_s >= GRACE_S:
            away -= min(self.settings.group.surge, away)
        for _ in range(0 if self.blocked else self.wanted - len(near) - away):
            self.started += self.host_of(self.started) in self.lost
            self.add(self.now_s)
        for domain in [] if self.is_stuck else [d for d in near if d.name not in self.suspended][self.wanted :]:
            domain.leaving_s = self.now_s

    def loop(self) -> None:
        """Let the newest domain, and whoever replaces it, crash soon after it is ready, again and again."""
        self.loops_from = int(self.domains[-1].name[-4:]) if self.domains else self.started

    def lose(self, host: str) -> None:
        self.lost.add(host)
        self.lost_since_s = self.now_s

    # --- what is heard -----------------------------------------------------------------------------------------------

    def heard(self) -> list[CoreEvent]:
        events: list[CoreEvent] = [
            self.membership(),
            *map(self.sampled, self.settings.group.hosts),
            self.drain(),
            self.traffic_seen(),
        ]
        return [] if self.is_deaf else events

    def sampled(self, host: str) -> SampleSeen:
        here = [d for d in self.domains if not d.is_dead and self.host(d) == host]
        busy = min(self.load(self.t) / max(len(self.serving()), 1), 1.0)
        sample = HostSample(
            host=host,
            interval_s=1.0,
            is_reachable=host not in self.lost,
            names=tuple(d.name for d in here),
            uuids=tuple(d.uuid for d in here),
            states=tuple("paused" if d.name in self.suspended else "running" for d in here),
            cpu_ratios=tuple(self.figure(d, busy) for d in here),
            allotted_cpus=(1.0,) * len(here),
            host_cpus=max(len(here), 1) if self.is_full else 64,
            host_idle_cpus=0.0 if self.is_full else 32.0,
        )
        return SampleSeen(read_sample(sample, self.now_s, f"monitor/1/sample.{host}/{self.t:.0f}"))

    def figure(self, domain: Domain, busy: float) -> float | None:
        """Return a domain's CPU ratio; none before it has been in rotation for two samples."""
        is_new = domain.phase(self.now_s) is Phase.READY and domain.age_s(self.now_s) < 2.0
        return None if is_new else self.ratio(domain, busy)

    def membership(self) -> MembershipSeen:
        event = super().membership()
        by_name = {d.name: d for d in self.domains}
        members = tuple(
            m.model_copy(update={"host": self.host(by_name[m.name]), "phase": self.phase(by_name[m.name])})
            for m in event.membership.members
        )
        changes = {"members": members, "unreachable_hosts": tuple(sorted(self.lost)), "blocked": self.blocked}
        body: Membership = event.membership.model_copy(update=changes)
        return replace(event, membership=body)

    def drain(self) -> DrainSeen:
        backends = tuple(
            BackendState(name=d.name, uuid=d.uuid, slot="vm1", state="ready", is_healthy=d.name not in self.unhealthy)
            for d in self.domains
            if self.phase(d) is Phase.READY
        )
        body = Drain(group="web", endpoint="", is_proxy_alive=True, backends=backends)
        return DrainSeen(body, self.now_s, f"balancer/1/drain.web/{self.t:.0f}")

    def traffic_seen(self) -> TrafficSeen:
        return TrafficSeen(self.carrying(), self.now_s, f"balancer/1/traffic.web/{self.t:.0f}")

    def carrying(self) -> Traffic:
        """Return what the endpoint carries: each serving domain one request after the other, the rest waits."""
        load, count = self.load(self.t), len(self.serving())
        rate = load / COST_S if self.request_rate is None else self.request_rate(self.t)
        over = max(load - count, 0.0) if count else 0.0
        took_s = COST_S * (1 + 10 * over)
        self.told_s += (took_s - self.told_s) * min(rate / REMEMBERED, 1.0)
        working = max(rate * took_s, min(load, count))  # a request uses one CPU at most
        in_flight = working if self.in_flight is None else self.in_flight(self.t)
        return Traffic(
            group="web",
            interval_s=1.0,
            is_known=not self.is_proxy_dead,
            request_rate=None if self.is_restarted else rate,
            error_rate=None if self.is_restarted else rate * (self.error_ratio if count else 1.0),
            queue=round(10 * over) + self.queued,
            in_flight=round(in_flight) if count else 0,
            response_time_s=self.told_s if rate > 0 and not self.is_restarted else None,
        )
