"""What a process takes in: accepted messages and requests that wait for an answer.

The bus hands over bytes; here they are checked once, judged against what was heard before, and counted. A fault is
logged once an hour for each sender and kind, and counted every time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import ProtocolError
from common.log import Quiet, logger
from common.messages import BODIES, QUESTIONS, Body, Header, Reply, Request, message_id
from common.messaging.budget import Budget
from common.messaging.requests import decode_request, encode_reply
from common.messaging.rights import Peer
from common.messaging.sequence import Receipt, Tracker, Verdict
from common.wire import decode

FAULT_PERIOD_S = 3600.0
JUMP_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True)
class Received:
    """One accepted message.

    ``age_s``: how old it was when it was received, >= 0 (see ``common.messaging.sequence``). ``payload``: its second
    frame, as it was sent.
    """

    topic: str
    header: Header
    body: Body
    age_s: float
    id: str
    payload: bytes = b""


class PendingRequest:
    """A request that waits for its answer; without one, whoever asked gives up after its time-out."""

    def __init__(self, request: Request, send: Callable[[bytes], None]) -> None:
        """Keep the request, and what sends a frame back to whoever asked."""
        self.request = request
        self._send = send

    def reply(self, reply: Reply) -> None:
        """Send the answer; to be called by the thread that receives. One that cannot be sent becomes an error."""
        try:
            frame = encode_reply(reply)
        except (ProtocolError, TypeError, ValueError, OverflowError) as error:
            logger().error("reply-not-sent", verb=self.request.verb, reason=str(error))
            frame = encode_reply(Reply(status="error", reason=f"the answer cannot be sent: {error}"))
        self._send(frame)


@dataclass(frozen=True, slots=True)
class Inbox:
    """What arrived: of each standing topic the newest message, every event in order, and requests."""

    messages: tuple[Received, ...] = ()
    requests: tuple[PendingRequest, ...] = ()


class Intake:
    """Takes in what one service publishes."""

    def __init__(self, service: str, counters: Counter[str], patience_s: float, *, is_clock_shared: bool) -> None:
        """Count into ``counters``; ``is_clock_shared`` as in ``Tracker.judge``, ``patience_s`` as in ``Tracker``."""
        self._service = service
        self._counters = counters
        self._is_clock_shared = is_clock_shared
        self._tracker = Tracker(patience_s)
        self._newest: dict[bytes, bytes] = {}
        self._faults = Quiet(FAULT_PERIOD_S)
        self._jumps = Quiet(JUMP_PERIOD_S)

    def accept(self, frames: list[bytes], at: Receipt) -> Received | None:
        """Return the message if it is whole, new, and from whom it says it is; otherwise count why not."""
        self._counters["received"] += 1
        if len(frames) == 2 and self._newest.get(frames[0]) == frames[1]:
            self._counters["duplicates"] += 1
            return None
        try:
            topic, header, body = decode(frames)
            if header.source != self._service:
                raise ProtocolError(f"{topic}: {self._service} speaks in the name of {header.source[:80]!r}")
        except ProtocolError as error:
            self._drop(frames, error, at.mono_s)
            return None
        judgement = self._tracker.judge(topic, header, at, is_clock_shared=self._is_clock_shared)
        if judgement.verdict in (Verdict.DUPLICATE, Verdict.REPLAYED):
            self._counters["duplicates" if judgement.verdict is Verdict.DUPLICATE else "replayed"] += 1
            return None
        self._counters["gaps"] += judgement.lost
        self._tell_jump(judgement.jumped_s, at.mono_s)
        if body.standing:
            self._newest[frames[0]] = frames[1]
        return Received(topic, header, body, judgement.age_s, message_id(topic, header), frames[1])

    def _tell_jump(self, jumped_s: float, now_s: float) -> None:
        """Say once that the sender's wall clock was set, or that its machine slept."""
        if not jumped_s:
            return
        self._counters["clock_jumps"] += 1
        if self._jumps.may_say("clock", now_s):
            logger().warning("clock-jumped", sender=self._service, wall_clock_moved_s=round(jumped_s, 1))

    def _drop(self, frames: list[bytes], error: ProtocolError, now_s: float) -> None:
        self._counters["dropped"] += 1
        kind = kind_of(frames[0])
        if self._faults.may_say(kind, now_s):
            logger().warning("message-dropped", sender=self._service, kind=kind, reason=str(error))


class Desk:
    """Takes in what operators ask."""

    def __init__(self, counters: Counter[str]) -> None:
        """Count into ``counters``."""
        self._counters = counters
        self._faults = Quiet(FAULT_PERIOD_S)
        self._budget = Budget()

    def accept(
        self, frames: list[bytes], send: Callable[[bytes], None], now_s: float, peer: Peer
    ) -> PendingRequest | None:
        """Return the request in what follows the sender's address, with who asks in ``by``.

        One that is malformed, an order of whom may not order, or of whom asks for more than a share, is answered and
        counted.
        """
        refusal = self._budget.refusal(peer.share, now_s)
        if refusal:
            self._counters["refused_requests"] += 1
            if self._faults.may_say("budget", now_s):
                logger().warning("requests-refused", reason=refusal)
            send(encode_reply(Reply(status="refused", reason=refusal)))
            return None
        try:
            if len(frames) != 2 or frames[0]:
                raise ProtocolError(f"a request is an empty frame and one more; got {len(frames)} frames")
            request = decode_request(frames[1])
        except ProtocolError as error:
            self._counters["dropped"] += 1
            if self._faults.may_say("request", now_s):
                logger().warning("request-dropped", reason=str(error))
            send(encode_reply(Reply(status="error", reason=str(error))))
            return None
        if peer.lacks and request.verb not in QUESTIONS:
            self._counters["refused_orders"] += 1
            if self._faults.may_say(("order", peer.who), now_s):
                logger().warning("order-refused", verb=request.verb[:80], by=peer.by(request.by), reason=peer.lacks)
            send(encode_reply(Reply(status="refused", reason=peer.lacks)))
            return None
        self._counters["requests"] += 1
        number = self._budget.begin(peer.share, now_s)

        def answer(frame: bytes) -> None:
            self._budget.end(number)
            send(frame)

        return PendingRequest(request.model_copy(update={"by": peer.by(request.by)}), answer)


def newest(messages: list[Received]) -> tuple[Received, ...]:
    """Return the newest message of each standing topic, and every event, in order of arrival."""
    kept: dict[object, Received] = {}
    for received in messages:
        key = (received.header.source, received.topic) if received.body.standing else received.id
        kept.pop(key, None)
        kept[key] = received
    return tuple(kept.values())


def kind_of(topic: bytes) -> str:
    """Return the kind of a topic that may be anything.

    >>> kind_of(b"sample.local"), kind_of(bytes(5))
    ('sample', 'unknown')
    """
    return next((body.kind for body in BODIES if topic.startswith(f"{body.kind}.".encode())), "unknown")
