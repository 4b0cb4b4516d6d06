"""The newest words of the decider and the balancer about one group, and how old they are."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.messages import DesiredCapacity, Drain, Traffic
from services.actuator.core.desired import refuse
from services.actuator.core.seen import Backend, Load


@dataclass(slots=True)
class Ledger:
    """What was heard about one group."""

    desired: DesiredCapacity | None = None
    cause: str = ""
    desired_heard_s: float = float("-inf")
    drain: Drain | None = None
    drain_heard_s: float = float("-inf")
    traffic: Traffic | None = None
    traffic_heard_s: float = float("-inf")
    refusal: str = ""

    def hear_desired(self, body: DesiredCapacity, identifier: str, heard_s: float) -> str:
        """Take in a desired capacity; return why it is not applied, empty if it is."""
        self.refusal = refuse(self.desired, body)
        if not self.refusal:
            is_same = self.desired is not None and self.desired.generation == body.generation
            self.cause = self.cause if is_same and self.cause else body.decision_id or identifier
            self.desired, self.desired_heard_s = body, heard_s
        return self.refusal

    def hear_drain(self, body: Drain, heard_s: float) -> None:
        """Take in the balancer's report."""
        self.drain, self.drain_heard_s = body, heard_s

    def hear_traffic(self, body: Traffic, heard_s: float) -> None:
        """Take in what the endpoint carries."""
        self.traffic, self.traffic_heard_s = body, heard_s

    def load(self, now_s: float, stale_after_s: float) -> Load | None:
        """Return what the endpoint carries now, None where that is not known, or was told too long ago."""
        told = self.traffic
        if told is None or not told.is_known or now_s - self.traffic_heard_s > stale_after_s:
            return None
        if told.queue is None or told.in_flight is None:
            return None
        return Load(told.queue, told.in_flight, told.request_rate, told.answer_rate)

    def backends(self, now_s: float, stale_after_s: float) -> Mapping[tuple[str, str], Backend] | None:
        """Return the balancer's word by name and UUID, None where it is too old to act on."""
        if self.drain is None or now_s - self.drain_heard_s > stale_after_s:
            return None
        return {
            (b.name, b.uuid): Backend(
                b.state, b.is_healthy, b.in_flight, b.unhealthy_s, b.is_in_flight_known, b.is_kept
            )
            for b in self.drain.backends
        }
