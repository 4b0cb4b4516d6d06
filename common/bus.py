"""The message bus: the only file that imports zmq.

Every service binds an XPUB socket, at which it says what is, and a ROUTER socket, at which it answers requests; it
connects one SUB socket to each service that it listens to. Nothing stands between them.

# Note [Last value]
XPUB tells the publisher of each subscription (``XPUB_VERBOSE``: of the second one to a topic too). The publisher then
sends the last value of every standing topic that fits, so a late or restarted listener is whole at once. All other
listeners get that copy as well, for XPUB cannot address one, and drop it, byte by byte the same, before it is decoded.
So that nobody can make everybody busy by subscribing, subscriptions beyond a few are served together, four times a
second (``common.messaging.budget``). What a process says at its start, before all
listeners are back, may be kept in the same way for a while (``keep_s`` of ``publish``).

# Note [Dead sockets]
After a refused handshake, or a frame larger than ``MAXMSGSIZE``, libzmq closes the connection and never tries again.
It tells so by its silence: no ``CONNECT_RETRIED`` follows. Such a link is made anew after ``REPAIR_AFTER_S``, with the
keys read again, so that a key authorized late is enough.

# Note [A listener that does not read]
While a listener's queue is full, libzmq reads nothing from its connection, no answers to its heartbeats either. It then
takes the other side for dead, connects anew, and libzmq (4.3.5) ends the whole process at the next read ("Assertion
failed: _input_stopped"). So a listener is patient: only one that does not read for ``LISTENING_TIMEOUT_MS`` while
more than ``HIGH_WATER`` messages wait ends like that, and is started anew.

# Note [Who is at the door]
On Unix sockets the library asks the kernel for the peer's user when he connects, and puts it into the property
``Peer-Address`` of each message; with CURVE our answer to the handshake names the key, which it puts into ``User-Id``.
What a peer says of himself in the handshake comes after both and replaces neither. The library cannot end one
connection of many, so a key that goes has its connections shut down at their descriptor, and the next handshake fails.
"""

import math
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils import z85

from common.clock import Clock
from common.config import Config
from common.errors import BusError, ConfigError, NoAnswerError, ProtocolError
from common.log import Quiet, logger
from common.messages import Body, Reply, Request
from common.messaging import zap
from common.messaging.addresses import check_encrypted, control_address, no_answer, publish_address
from common.messaging.budget import Resends
from common.messaging.curve import Keys, has_roles, holders, keys_of, own_secret
from common.messaging.doorkeeper import REFUSAL_PERIOD_S, Doorkeeper, peer_of
from common.messaging.inbox import Desk, Inbox, Intake, PendingRequest, Received, newest
from common.messaging.link import LinkHealth
from common.messaging.outbox import Outbox
from common.messaging.requests import decode_reply, encode_request
from common.messaging.rights import Peer, of_key, of_loopback, of_unix
from common.messaging.sequence import Receipt
from common.messaging.sessions import Sessions
from common.messaging.waker import Waker
from common.run_dir import Lock, check_reachable, ensure_run_dir, new_run_id, remove_stale_socket, running_pid
from common.wire import MAX_MESSAGE_BYTES

__all__ = ["Bus", "Inbox", "PendingRequest", "Received", "ask", "new_key_pair"]

HEARTBEAT_MS: Final = 500
HEARTBEAT_TIMEOUT_MS: Final = 1500
LISTENING_TIMEOUT_MS: Final = 10_000  # see Note [A listener that does not read]
HANDSHAKE_MS: Final = 3000
RECONNECT_MS: Final = 100
RECONNECT_MAX_MS: Final = 1000
HIGH_WATER: Final = 1000
LOOK_AT_KEYS_S: Final = 2.0
MAX_REQUEST_BYTES: Final = 256 * 1024
MAX_SUBSCRIPTION_BYTES: Final = 1024
MAX_DRAINED: Final = 1000  # messages taken from one socket in one go; the rest waits for the next
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ZAP_DOMAIN: Final = b"autoscaler"
_REFUSALS: Final[dict[int, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the key is not authorized",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the two sides do not share encryption: no key, or another key of the service",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the other side hung up during the handshake: it may have another key now",
}
_EVENTS: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)
_Socket = zmq.Socket[bytes]


class Bus:
    """One process's place on the bus. All but ``wake`` belongs to one thread."""

    def __init__(self, config: Config, name: str, clock: Clock, lock: Lock | None, run_id: int) -> None:
        """Use ``Bus.open``."""
        self.counters: Counter[str] = Counter()
        self.run_id = run_id
        self._config = config
        self._name = name
        self._clock = clock
        self._lock = lock
        self._context: zmq.Context[_Socket] = zmq.Context()
        self._poller = zmq.Poller()
        self._links: dict[str, _Link] = {}
        self._guard: _Guard | None = None
        self._publisher: _Socket | None = None
        self._control: _Socket | None = None
        self._keeps_every_message = False
        self._is_unix = True
        self._desk = Desk(self.counters)
        self._outbox = Outbox(name, run_id, clock)
        self._resends = Resends()
        self._waker = Waker()
        self._poller.register(self._waker.fd, zmq.POLLIN)

    @classmethod
    def open(cls, config: Config, name: str, clock: Clock, *, publishes: bool = True) -> "Bus":
        """Return the open bus; with ``publishes``, as the only copy of the service ``name`` on this machine.

        Raises:
            LockHeldError: another copy runs.
            ConfigError: the keys are missing or readable by others, or TCP without keys leaves this machine.
            BusError: the run directory or an address cannot be used.
        """
        run = config.system.run_path
        if not publishes:
            if config.bus.transport == "ipc":
                check_reachable(run)
            return cls(config, name, clock, lock=None, run_id=0)
        check_encrypted(config, name)
        ensure_run_dir(run)
        lock = Lock.take(run / f"{name}.lock")
        run_id = new_run_id((run / f"{name}.run", config.system.state_path / f"{name}.run"), clock.epoch_s())
        bus = cls(config, name, clock, lock, run_id)
        try:
            bus._bind()
        except BaseException:
            bus.close()
            raise
        return bus

    def publish(self, body: Body, cause: str | None = None, *, keep_s: float = 0.0) -> str:
        """Say ``body`` to whoever listens, and keep it as the last value if it is standing; return its identifier.

        ``keep_s``: an event is said again to whoever begins to listen within so many seconds.
        """
        if self._publisher is None:
            raise BusError(f"{self._name} has opened the bus without publishing")
        frames, identifier = self._outbox.compose(body, cause, keep_s)
        self._publisher.send_multipart(frames)
        self.counters["published"] += 1
        return identifier

    def subscribe(self, service: str, *kinds: str) -> None:
        """Listen to the messages of ``kinds`` that ``service`` publishes, to all of them without ``kinds``."""
        link = self._links.get(service)
        if link is None:
            me = None if self._lock is None else self._name
            link = self._links[service] = _Link(self._context, self._config, service, self.counters, me)
            link.open(self._poller)
        link.add({f"{kind}.".encode() for kind in kinds} or {b""})

    def keep_every_message(self) -> None:
        """From now on hand out every standing message too, in order, and not only the newest of each topic."""
        self._keeps_every_message = True

    def receive(self, timeout_s: float) -> Inbox:
        """Return what arrived, waiting up to ``timeout_s`` for it; empty after that, and after ``wake``."""
        deadline_s = self._clock.monotonic_s() + max(timeout_s, 0.0)
        while True:
            ready = self._wait(deadline_s)
            now_s = self._clock.monotonic_s()
            heard = self._heard(ready, now_s)
            messages = tuple(heard) if self._keeps_every_message else newest(heard)
            inbox = Inbox(messages, tuple(self._asked(ready, now_s)))
            self._serve_last_values(ready, now_s)
            if self._guard is not None:
                self._guard.attend(ready, now_s)
            if inbox.messages or inbox.requests or self._is_woken(ready) or now_s >= deadline_s:
                return inbox

    def wake(self) -> None:
        """Make ``receive`` return; callable from any thread and from a signal handler, also after ``close``."""
        self._waker.wake()

    def close(self) -> None:
        """Leave the bus at once; what was not sent is lost."""
        if not self._waker.close():
            return
        for link in self._links.values():
            link.close()
        if self._guard is not None:
            self._guard.close()
        self._context.destroy(linger=0)
        if self._lock is not None:
            self._lock.release()

    def _bind(self) -> None:
        """Bind the two doors of a service, guarded where they are open to other machines."""
        config, name = self._config, self._name
        self._is_unix = control_address(config, name).startswith("ipc:")
        if config.bus.transport == "tcp":
            self._guard = _Guard(self._context, self._poller, config, name, self.counters)
        self._publisher = _new_socket(self._context, zmq.XPUB, MAX_SUBSCRIPTION_BYTES)
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._control = _new_socket(self._context, zmq.ROUTER, MAX_REQUEST_BYTES)
        for door, address in (
            (self._publisher, publish_address(config, name)),
            (self._control, control_address(config, name)),
        ):
            if self._guard is not None:
                self._guard.protect(door)
            _bind(door, address)
            self._poller.register(door, zmq.POLLIN)

    def _wait(self, deadline_s: float) -> set[Any]:
        """Return the sockets that have something to read, at the deadline or a little later at the latest."""
        now_s = self._clock.monotonic_s()
        wake_at_s = min(deadline_s, self._resends.at_s(now_s))
        for link in self._links.values():
            wake_at_s = min(wake_at_s, link.repair(self._poller, now_s))
        if self._guard is not None:
            wake_at_s = min(wake_at_s, self._guard.next_look_s())
        wait_ms = math.ceil(max(0.0, wake_at_s - now_s) * 1000)
        return {source for source, _ in self._poller.poll(wait_ms)}

    def _heard(self, ready: set[Any], now_s: float) -> list[Received]:
        messages = []
        for link in self._links.values():
            if link.monitor in ready:
                link.take_events(now_s)
            if link.socket in ready:
                at = Receipt(now_s, self._clock.epoch_s())
                accepted = (link.intake.accept(frames, at) for frames in _drain(link.socket))
                messages += [received for received in accepted if received is not None]
        return messages

    def _asked(self, ready: set[Any], now_s: float) -> Iterator[PendingRequest]:
        if self._control is None or self._control not in ready:
            return
        for address, *frames in _drain_frames(self._control):
            peer = self._peer(address)
            answer = partial(self._answer, address.bytes)
            pending = self._desk.accept([frame.bytes for frame in frames], answer, now_s, peer)
            if pending is not None:
                yield pending

    def _peer(self, frame: zmq.Frame) -> Peer:
        if self._guard is not None and (self._guard.has_keys or not self._is_unix):
            return self._guard.met(frame)
        return of_unix(_property(frame, "Peer-Address"), os.geteuid())

    def _answer(self, address: bytes, frame: bytes) -> None:
        if self._control is not None:
            self._control.send_multipart([address, b"", frame])

    def _serve_last_values(self, ready: set[Any], now_s: float) -> None:
        """Send each new subscriber the last values that it asks for; see Note [Last value]."""
        if self._publisher is None:
            return
        for told, *_ in _drain_frames(self._publisher) if self._publisher in ready else ():
            if self._guard is not None:
                self._guard.saw(told)
            if told.bytes[:1] == b"\x01":
                self._resends.want({told.bytes[1:]})
        for frames in self._outbox.last_values(self._resends.due(now_s)):
            self._publisher.send_multipart(frames)

    def _is_woken(self, ready: set[Any]) -> bool:
        if self._waker.fd not in ready:
            return False
        self._waker.clear()
        return True


class _Link:
    """The connection to one service: a SUB socket, made anew when it is dead; see Note [Dead sockets]."""

    def __init__(
        self, context: zmq.Context[_Socket], config: Config, service: str, counters: Counter[str], me: str | None
    ) -> None:
        is_clock_shared = publish_address(config, service).startswith("ipc:")
        self.intake = Intake(service, counters, config.system.silent_after_s, is_clock_shared=is_clock_shared)
        self.socket: _Socket
        self.monitor: _Socket
        self._context = context
        self._config = config
        self._service = service
        self._counters = counters
        self._me = me
        self._filters: set[bytes] = set()
        self._quiet = Quiet(REFUSAL_PERIOD_S)

    def open(self, poller: zmq.Poller) -> None:
        self._begin(poller, keys_of(self._config.bus, self._me, self._service))

    def _begin(self, poller: zmq.Poller, keys: Keys | None) -> None:
        self._health = LinkHealth(has_keys=keys is not None)
        self.socket = _new_socket(self._context, zmq.SUB, MAX_MESSAGE_BYTES)
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        _identify(self.socket, keys)
        self.add(self._filters)
        _connect(self.socket, publish_address(self._config, self._service))
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.monitor, zmq.POLLIN)

    def add(self, filters: set[bytes]) -> None:
        self._filters |= filters
        for prefix in filters:
            self.socket.subscribe(prefix)

    def take_events(self, now_s: float) -> None:
        for frames in _drain(self.monitor):
            event, _ = _event(frames)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._health.connected()
            elif event == zmq.EVENT_DISCONNECTED:
                self._health.ended(now_s)
            elif event == zmq.EVENT_CONNECT_RETRIED:
                self._health.retried(now_s)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._health.broken_off(_REFUSALS[event])
            elif event in _REFUSALS:
                self._health.refused(_REFUSALS[event], now_s)

    def repair(self, poller: zmq.Poller, now_s: float) -> float:
        """Make a dead connection anew if it is time; return when to look again."""
        if now_s < self._health.repair_at_s:
            return self._health.repair_at_s
        if self._health.why and self._quiet.may_say(self._health.why, now_s):
            logger().warning("connection-cut", sender=self._service, reason=self._health.why)
        try:
            keys = keys_of(self._config.bus, self._me, self._service)
        except ConfigError as error:
            self._health.refused(str(error), now_s)
            return self._health.repair_at_s
        poller.unregister(self.socket)
        poller.unregister(self.monitor)
        self.close()
        self._counters["reconnects"] += 1
        self._begin(poller, keys)
        return math.inf

    def close(self) -> None:
        self.socket.disable_monitor()
        self.socket.close(linger=0)


class _Guard:
    """Answers handshakes from other machines and reports those that fail."""

    def __init__(
        self, context: zmq.Context[_Socket], poller: zmq.Poller, config: Config, name: str, counters: Counter[str]
    ) -> None:
        self._keys_dir = Path(config.bus.keys_dir)
        self._secret = own_secret(self._keys_dir, name) if config.bus.keys_dir else None
        self._sessions = Sessions()
        self._look_at_s = -math.inf
        if self._secret is not None and not has_roles(self._keys_dir):
            how = f"run: autoscaler keys {self._keys_dir}"
            logger().warning("keys-without-roles", reason=f"every authorized key may order; {how}")
        self._counters = counters
        self._poller = poller
        self._authenticator = Doorkeeper(counters)
        self._doors: list[_Socket] = []
        self._keepers: dict[_Socket, Doorkeeper] = {}  # by the monitor that each listens to
        self._zap = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(ZAP_ENDPOINT)
        poller.register(self._zap, zmq.POLLIN)

    def protect(self, door: _Socket) -> None:
        """Let only authorized keys through ``door``; nobody where no authenticator answers."""
        monitor = door.get_monitor_socket(_EVENTS)
        self._doors.append(door)
        self._keepers[monitor] = Doorkeeper(self._counters)
        self._poller.register(monitor, zmq.POLLIN)
        if self._secret is None:
            return
        door.curve_server = 1
        door.curve_secretkey = self._secret
        door.zap_domain = ZAP_DOMAIN
        door.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def attend(self, ready: set[Any], now_s: float) -> None:
        if self._zap in ready:
            for frames in _drain(self._zap):
                said = zap.answer(frames, self._is_authorized)
                self._zap.send_multipart(said.frames)
                if said.refusal:
                    self._authenticator.refused(said.address, said.refusal, now_s)
        for monitor, keeper in self._keepers.items():
            if monitor in ready:
                for frames in _drain(monitor):
                    self._take_event(keeper, *_event(frames), now_s)
        if self._secret is not None and now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_AT_KEYS_S
            for fd in self._sessions.to_cut(holders(self._keys_dir)):
                _cut(fd)

    def next_look_s(self) -> float:
        """Return when to attend to the keys again, also if nothing comes."""
        return self._look_at_s if self._secret is not None else math.inf

    @property
    def has_keys(self) -> bool:
        return self._secret is not None

    def saw(self, frame: zmq.Frame) -> bytes:
        """Return the key of whoever has sent this, and remember his connection: it is cut when his key goes."""
        key = _key_behind(frame)
        self._sessions.saw(_descriptor(frame), key)
        return key

    def met(self, frame: zmq.Frame) -> Peer:
        """Return who has sent this, by the key files of now."""
        if self._secret is None:
            return of_loopback(_property(frame, "Peer-Address"))
        return of_key(holders(self._keys_dir).get(self.saw(frame)))

    def _is_authorized(self, key: bytes) -> bool:
        return z85.encode(key) in holders(self._keys_dir)

    def _take_event(self, keeper: Doorkeeper, event: int, value: int, now_s: float) -> None:
        if event == zmq.EVENT_ACCEPTED:
            keeper.accepted(value, peer_of(value))
        elif event in _REFUSALS and event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # that is our own answer, told already
            keeper.failed(_REFUSALS[event])
        elif event == zmq.EVENT_DISCONNECTED:
            self._sessions.ended(value)
            keeper.hung_up(value, now_s)

    def close(self) -> None:
        for door in self._doors:
            door.disable_monitor()


def ask(config: Config, service: str, request: Request, timeout_s: float) -> Reply:
    """Return the answer of ``service`` to ``request``.

    Raises:
        NoAnswerError: no answer within ``timeout_s``.
        BusError: we are refused, or the answer is not understood.
        ConfigError: the keys are missing or readable by others.
    """
    if config.bus.transport == "ipc":
        check_reachable(config.system.run_path)
    context: zmq.Context[_Socket] = zmq.Context()
    try:
        door = _new_socket(context, zmq.REQ, MAX_MESSAGE_BYTES)
        monitor = door.get_monitor_socket(_EVENTS)
        keys = keys_of(config.bus, None, service)
        _identify(door, keys)
        _connect(door, control_address(config, service))
        door.send(encode_request(request), zmq.DONTWAIT)
        if not door.poll(math.ceil(timeout_s * 1000)):
            events = [_event(frames)[0] for frames in _drain(monitor)]
            refusal = next((_REFUSALS[event] for event in events if keys is not None and event in _REFUSALS), "")
            pid = running_pid(config.system.run_path, service)
            text = no_answer(config, service, timeout_s, refusal, pid)
            raise BusError(text) if refusal else NoAnswerError(text)
        return decode_reply(door.recv())
    except ProtocolError as error:
        raise BusError(f"{service} gave an answer that is not understood: {error}") from error
    finally:
        context.destroy(linger=0)


def new_key_pair() -> tuple[bytes, bytes]:
    """Return a new public and secret CURVE key, in Z85."""
    return zmq.curve_keypair()


def _new_socket(context: zmq.Context[_Socket], kind: int, max_bytes: int) -> _Socket:
    """Return a socket that is bounded in every direction and notices a frozen peer."""
    door: _Socket = context.socket(kind)
    door.linger = 0
    door.sndhwm = door.rcvhwm = HIGH_WATER
    door.maxmsgsize = max_bytes
    door.handshake_ivl = HANDSHAKE_MS
    door.reconnect_ivl = RECONNECT_MS
    door.reconnect_ivl_max = RECONNECT_MAX_MS
    if kind in (zmq.SUB, zmq.REQ):  # whoever connects asks; the other side learns from it how long to wait
        door.heartbeat_ivl = HEARTBEAT_MS
        door.heartbeat_timeout = LISTENING_TIMEOUT_MS if kind == zmq.SUB else HEARTBEAT_TIMEOUT_MS
        door.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
    return door


def _identify(door: _Socket, keys: Keys | None) -> None:
    """Show our key to the service, and ask for its own."""
    if keys is not None:
        door.curve_serverkey = keys.service_public
        door.curve_publickey = zmq.curve_public(keys.secret)
        door.curve_secretkey = keys.secret


def _bind(door: _Socket, address: str) -> None:
    if address.startswith("ipc://"):
        remove_stale_socket(Path(address.removeprefix("ipc://")))
    door.ipv6 = "[" in address
    try:
        door.bind(address)
    except zmq.ZMQError as error:
        raise BusError(f"cannot bind {address}: {error.strerror}") from error


def _connect(door: _Socket, address: str) -> None:
    door.ipv6 = "[" in address
    try:
        door.connect(address)
    except zmq.ZMQError as error:
        raise BusError(f"cannot connect to {address}: {error.strerror}") from error


def _drain(door: _Socket) -> Iterator[list[bytes]]:
    """Yield what waits in ``door``, at most ``MAX_DRAINED`` messages, without waiting."""
    for _ in range(MAX_DRAINED):
        try:
            frames = door.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return
        yield frames


def _drain_frames(door: _Socket) -> Iterator[list[zmq.Frame]]:
    """Yield as ``_drain`` does, with what the library knows of each sender."""
    for _ in range(MAX_DRAINED):
        try:
            frames = door.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        yield frames


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def _descriptor(frame: zmq.Frame) -> int:
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _key_behind(frame: zmq.Frame) -> bytes:
    """Return the public key, in Z85, that the handshake has proved; the library puts it before what a peer tells."""
    try:
        return bytes(z85.encode(bytes.fromhex(_property(frame, "User-Id"))))
    except ValueError:
        return b""


def _cut(fd: int) -> None:
    """End a connection of the library's; one that has ended meanwhile, or is none of ours any more, is left alone."""
    with suppress(OSError):
        own = os.dup(fd)
        try:
            connection = socket.socket(fileno=own)
        except OSError:  # no socket
            os.close(own)
            raise
        with connection:
            connection.shutdown(socket.SHUT_RDWR)


def _event(frames: list[bytes]) -> tuple[int, int]:
    """Return number and value of a monitor's event."""
    event, value = struct.unpack("=Hi", frames[0])
    return event, value
