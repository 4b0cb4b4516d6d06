"""The model group with a store for what is learned: it survives a restart as bytes, as on disk."""

import json
from dataclasses import dataclass, field, replace

from common.messages import Traffic
from services.decider.core.events import CoreEvent, MembershipSeen, SaveLearned
from services.decider.core.learned import base_bytes, from_bytes, tail_bytes
from services.decider.core.state import begin
from services.decider.core.stored import from_values
from tests.sim.decider_model import BOOT_S, World, calm


@dataclass
class LearningWorld(World):
    """A world that measures its boot time, shows a queue where domains are too few, and keeps what is learned."""

    has_queue: bool = True
    files: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def pass_on(self, event: CoreEvent) -> None:
        known = len(self.actions)
        super().pass_on(event)
        for action in self.actions[known:]:
            if isinstance(action, SaveLearned):
                if action.is_base_new:
                    self.files[action.number, "base"] = base_bytes(action.learned)
                self.files[action.number, "tail"] = tail_bytes(action.learned)

    def restart(self) -> None:
        standing = from_values(json.loads(self.saved), self.instant()) if self.saved else None
        numbers = {number for number, _ in self.files}
        learned = {number: from_bytes(self.files[number, "base"], self.files[number, "tail"]) for number in numbers}
        self.state = begin(replace(self.settings, run_id=self.state.settings.run_id + 1), standing, learned)

    def membership(self) -> MembershipSeen:
        seen = super().membership()
        return replace(seen, membership=seen.membership.model_copy(update={"boot_p95_s": BOOT_S}))

    def carried(self) -> list[CoreEvent]:
        if self.traffic is None and self.has_queue:
            self.traffic = self.crowded
        return super().carried()

    def crowded(self, t: float) -> Traffic:
        """Return traffic with a queue: each domain works on a request a second too many at most."""
        load, serving = self.load(t), len(self.serving())
        over = max(load - serving, 0.0)
        return calm(load, queue=round(10 * over), response_time_s=0.02 * (1 + 10 * over))
