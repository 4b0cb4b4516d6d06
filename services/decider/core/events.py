"""What reaches the core of the decider, and what it asks for in return."""

from dataclasses import dataclass

from common.messages import (
    Claim,
    DecisionRecord,
    DesiredCapacity,
    Drain,
    Event,
    Failure,
    Membership,
    Reply,
    Request,
    Traffic,
)
from services.decider.core.learned import Learned
from services.decider.core.seen import Reading
from services.decider.core.state import Settings, Standing

# --- events: ``at_s`` is when it was measured, on the decider's monotonic clock ----------------------------------


@dataclass(frozen=True, slots=True)
class SampleSeen:
    """A host's sample arrived."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class MembershipSeen:
    """The group's members, as libvirt shows them."""

    membership: Membership
    at_s: float
    id: str


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """What the group's endpoint carried."""

    traffic: Traffic
    at_s: float
    id: str


@dataclass(frozen=True, slots=True)
class DrainSeen:
    """How HAProxy sees the group's members."""

    drain: Drain
    at_s: float
    id: str


@dataclass(frozen=True, slots=True)
class FailureSeen:
    """A domain stopped serving."""

    failure: Failure
    at_s: float
    id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator asks; ``token`` tells the shell whom to answer. ``epoch_s`` is for people."""

    request: Request
    token: int
    epoch_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """The interval has passed: decide. ``epoch_s`` is for people, and seeds the first generation.

    ``rivals``: what other groups claim of this group's hosts.
    """

    epoch_s: float
    rivals: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The configuration was read again, and says something else about the group."""

    settings: Settings


CoreEvent = SampleSeen | MembershipSeen | TrafficSeen | DrainSeen | FailureSeen | Asked | Tick | Reconfigured

# --- actions, in the order in which the shell performs them ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Save:
    """Write this down, durably, before the actions that follow it."""

    group: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class SaveLearned:
    """Keep what the policy number ``number`` has learned; losing the newest of it costs a step of learning, no more."""

    group: str
    number: int
    learned: Learned
    is_base_new: bool


@dataclass(frozen=True, slots=True)
class PublishDesired:
    """Say how many domains the group is to have."""

    body: DesiredCapacity
    cause: str
    is_change: bool


@dataclass(frozen=True, slots=True)
class PublishRecord:
    """Say what this tick decided, and why."""

    body: DecisionRecord
    cause: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell an event."""

    body: Event
    cause: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the request ``token``."""

    token: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until_s``."""

    until_s: float


Action = Save | SaveLearned | PublishDesired | PublishRecord | Emit | Answer | Wait
