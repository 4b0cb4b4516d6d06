"""What a process gives out: numbered messages, and what a new subscriber is given at once.

That is the last value of every standing topic, and for a while an event that is to be kept: whoever restarts speaks
before all listeners have found it again, and what was said to nobody is lost. Whoever has heard it drops the copy.
"""

from collections import Counter
from collections.abc import Iterator

from common.clock import Clock
from common.messages import Body, Header, message_id
from common.wire import encode


class Outbox:
    """The messages of one run of one sender."""

    def __init__(self, source: str, run_id: int, clock: Clock) -> None:
        """Number the messages of ``source`` from 1, for each topic."""
        self._source = source
        self._run_id = run_id
        self._clock = clock
        self._sent: Counter[str] = Counter()
        self._last: dict[str, list[bytes]] = {}
        self._kept_until_s: dict[str, float] = {}

    def compose(self, body: Body, cause: str | None, keep_s: float = 0.0) -> tuple[list[bytes], str]:
        """Return the frames of the next message and its identifier; a standing body becomes the last value.

        An event does so for ``keep_s`` seconds; the next one of its topic takes its place, kept or not, for listeners
        take what is older than what they have heard for a replay.

        Raises:
            ProtocolError: the message is too large; it is not counted.
        """
        topic = body.topic
        header = Header(
            source=self._source,
            run_id=self._run_id,
            seq=self._sent[topic] + 1,
            sent_at_s=self._clock.epoch_s(),
            mono_s=self._clock.monotonic_s(),
            cause=cause,
        )
        frames = encode(header, body)
        self._sent[topic] += 1
        if topic in self._kept_until_s:
            del self._last[topic], self._kept_until_s[topic]
        if body.standing or keep_s > 0:
            self._last[topic] = frames
        if not body.standing and keep_s > 0:
            self._kept_until_s[topic] = self._clock.monotonic_s() + keep_s
        return frames, message_id(topic, header)

    def last_values(self, prefixes: set[bytes]) -> Iterator[list[bytes]]:
        """Yield the last value of each standing topic, and of each kept event, that starts with one of ``prefixes``."""
        now_s = self._clock.monotonic_s()
        for topic in [topic for topic, until_s in self._kept_until_s.items() if until_s < now_s]:
            del self._last[topic], self._kept_until_s[topic]
        for frames in self._last.values():
            if any(frames[0].startswith(prefix) for prefix in prefixes):
                yield frames
