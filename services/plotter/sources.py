"""Where the graph's messages come from: the bus now, the recording before."""

from typing import Final, Protocol

from common.bus import Inbox
from common.config import Config
from common.messages import Header
from common.recording import Recorded, Recording
from services.plotter.core import series
from services.plotter.core.series import Draw, State

KINDS: Final = {
    "monitor": ("sample", "failure", "event"),
    "decider": ("capacity.desired", "event"),
    "actuator": ("membership", "event"),
    "balancer": ("drain", "event"),
    "recorder": ("event",),
}
ALL_KINDS: Final = tuple(sorted({kind for kinds in KINDS.values() for kind in kinds}))


class Subscriber(Protocol):
    """The part of the bus that is needed here."""

    def subscribe(self, service: str, *kinds: str) -> None:
        """Listen to these kinds of messages of one service."""


def subscribe(bus: Subscriber) -> None:
    """Listen to all that the graph shows."""
    for service, kinds in KINDS.items():
        bus.subscribe(service, *kinds)


def nothing_known(config: Config, span_s: float) -> State:
    """Return the state of a graph of ``span_s`` seconds that has heard nothing yet."""
    prefixes = {name: group.prefix for name, group in config.groups.items()}
    return series.empty(prefixes, span_s, config.system.interval_s, config.system.stale_after_s)


def heard(state: State, inbox: Inbox, now_s: float) -> tuple[State, bool]:
    """Return the state after what arrived, and whether there is something new to see."""
    is_new = False
    for message in inbox.messages:
        state, actions = series.handle(state, message.body, now_s - message.age_s)
        is_new = is_new or Draw() in actions
    return state, is_new


def replayed(state: State, recording: Recording, end: Recorded, *, is_clock_shared: bool) -> State:
    """Return the state after what was recorded in its span up to ``end``, on the monotonic clock of ``end``.

    Args:
        state: one that knows nothing.
        recording: where to read; it tells afterwards what was left out.
        end: when the graph ends; only its times are used.
        is_clock_shared: whether the senders' monotonic clocks are this machine's (one machine): they are more exact.

    Raises:
        RecordingError: there is no recording, or it cannot be read.
    """
    since_s = end.at_s - state.span_s - state.stale_after_s
    taken_s: dict[str, float] = {}
    for recorded in recording.frames(since_s, end.at_s, ALL_KINDS):
        if _is_too_many(recorded, taken_s, state):
            continue
        for _, header, body in recording.decoded([recorded]):
            state, _ = series.handle(state, body, _moment_s(recorded, header, end, is_clock_shared))
    return state


def _is_too_many(recorded: Recorded, taken_s: dict[str, float], state: State) -> bool:
    """Return whether a standing message adds nothing that a graph this coarse could show."""
    if state.resolution_s < 2.0 or recorded.topic.startswith(("event.", "failure.")):
        return False
    if 0 <= recorded.at_s - taken_s.get(recorded.topic, -1e18) < 0.9 * state.resolution_s:
        return True
    taken_s[recorded.topic] = recorded.at_s
    return False


def _moment_s(recorded: Recorded, header: Header, end: Recorded, is_clock_shared: bool) -> float:
    if recorded.boot_id != end.boot_id:
        return end.mono_s - (end.at_s - recorded.at_s)
    return min(header.mono_s, recorded.mono_s) if is_clock_shared else recorded.mono_s
