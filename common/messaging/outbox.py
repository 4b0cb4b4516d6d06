"""What a process gives out: numbered messages, and the last value of every standing topic."""

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

    def compose(self, body: Body, cause: str | None) -> tuple[list[bytes], str]:
        """Return the frames of the next message and its identifier; a standing body becomes the last value.

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
        if body.standing:
            self._last[topic] = frames
        return frames, message_id(topic, header)

    def last_values(self, prefixes: set[bytes]) -> Iterator[list[bytes]]:
        """Yield the last value of each standing topic that starts with one of ``prefixes``."""
        for frames in self._last.values():
            if any(frames[0].startswith(prefix) for prefix in prefixes):
                yield frames
