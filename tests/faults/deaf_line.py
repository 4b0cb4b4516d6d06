"""What stands between a client and libvirtd, lets a call through, and keeps its answer to itself.

Each packet of libvirt's protocol is a length, then program, version, procedure, type, serial and status, all of four
bytes (libvirt's src/rpc/virnetprotocol.x and src/remote/remote_protocol.x).
"""

import socket
import struct
import threading
from pathlib import Path
from typing import Final

from common.clock import SystemClock

CLOCK: Final = SystemClock()
LIBVIRTD: Final = "/run/libvirt/libvirt-sock"
REMOTE: Final = 0x20008086
CALL, REPLY = 0, 1
PROCEDURES: Final = {11: "define", 350: "define", 9: "start", 196: "start"}
HEAD: Final = struct.Struct(">7I")


class DeafLine:
    """A socket at ``path`` that leads to libvirtd; ``calls`` is what was asked for through it, and when.

    ``most_at_once`` is how many such calls waited for their answer at the same time. The answer to the next call of the
    kind ``cut`` is not handed on: that connection ends instead.
    """

    def __init__(self, path: Path) -> None:
        """Begin to listen."""
        self.calls: list[tuple[str, float]] = []
        self.most_at_once = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self.cut = ""
        self.has_cut = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        self._listener.close()
        for pair in self._pairs:
            _end(*pair)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(LIBVIRTD)
            self._pairs.append((client, server))
            kept: set[int] = set()
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink, kept), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: set[int]) -> None:
        try:
            while True:
                packet = _packet(source)
                if self._is_to_be_cut(packet, kept):
                    self.has_cut.set()
                    break
                sink.sendall(packet)
        except OSError:
            pass
        _end(source, sink)

    def _is_to_be_cut(self, packet: bytes, kept: set[int]) -> bool:
        """Return whether this is the answer to be kept; note the call that it will be the answer to."""
        _length, program, _version, procedure, kind, serial, _status = HEAD.unpack_from(packet)
        if program != REMOTE or procedure not in PROCEDURES:
            return False
        if kind == CALL:
            self._note(PROCEDURES[procedure], 1)
            if PROCEDURES[procedure] == self.cut:
                self.cut = ""
                kept.add(serial)
        elif kind == REPLY:
            self._note("", -1)
        return kind == REPLY and serial in kept

    def _note(self, call: str, more: int) -> None:
        with self._lock:
            self.calls += [(call, CLOCK.monotonic_s())] if call else []
            self._waiting += more
            self.most_at_once = max(self.most_at_once, self._waiting)

    def times(self, call: str) -> list[float]:
        """Return when this was asked for."""
        return [at_s for name, at_s in list(self.calls) if name == call]


def _packet(source: socket.socket) -> bytes:
    head = _exactly(source, 4)
    return head + _exactly(source, int.from_bytes(head) - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise ConnectionError("its other side has hung up")
        parts += part
    return parts


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
