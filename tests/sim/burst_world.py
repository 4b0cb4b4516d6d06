"""A model group on a host with idle CPU: its members use what their quota allows, as far as the load asks for it."""

from dataclasses import dataclass

from common.messages import Claim, DecisionRecord, HostSample
from services.decider.core.events import SampleSeen, Tick
from services.decider.core.group import claims_of
from tests.sim.decider_model import EPOCH_S, Domain, World

QUOTA = 0.4


@dataclass
class BurstWorld(World):
    """``load`` is in configured allotments, as in ``World``; ``other_cpus`` is what strangers use of the host."""

    host_cpus: int = 4
    other_cpus: float = 0.0
    rivals: tuple[Claim, ...] = ()
    is_blind: bool = False  # the sample does not tell what the host has idle
    slowdown: float = 1.0  # a member's share of what it would use: less than 1 where the host is overcommitted

    def tick(self) -> Tick:
        return Tick(EPOCH_S + self.t, self.rivals)

    def claims(self) -> tuple[Claim, ...]:
        return claims_of(self.state, self.now_s)

    def quota(self) -> float:
        return self.state.burst.quota or QUOTA

    def used_cpus(self, domain: Domain) -> float:
        serving = self.serving()
        if domain not in serving:
            return 1.0  # a boot, without quota
        return min(self.load(self.t) * QUOTA / len(serving), self.quota()) * self.slowdown

    def sample(self) -> SampleSeen:
        running = [d for d in self.domains if not d.is_dead]
        allotted = [self.quota() if d in self.serving() else 1.0 for d in running]
        used = [self.used_cpus(d) for d in running]
        idle = max(self.host_cpus - self.other_cpus - sum(used), 0.0)
        return self.told_sample(
            HostSample(
                host="local",
                interval_s=1.0,
                is_reachable=True,
                names=tuple(d.name for d in running),
                uuids=tuple(d.uuid for d in running),
                states=("running",) * len(running),
                cpu_ratios=tuple(u / a for u, a in zip(used, allotted, strict=True)),
                allotted_cpus=tuple(allotted),
                host_cpus=self.host_cpus,
                host_idle_cpus=None if self.is_blind else idle,
            )
        )

    def last(self) -> DecisionRecord:
        return self.state.history[-1]
