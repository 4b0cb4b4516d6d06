"""Asks the question of a group's readiness, over a connection of its own, as HAProxy's check does.

The headers are exactly the question's and ``Connection: close``, which HAProxy's check sends too.
"""

import http.client
import io
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from common.clock import Clock, SystemClock
from common.config_readiness import Question

MAX_BODY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back: the status, two headers where there are any, and the beginning of the body."""

    status: int
    served_by: str | None
    date: str | None
    body: bytes


def ask_http(asked: Question, address: str, port: int, *, connect_timeout_s: float, timeout_s: float) -> HttpAnswer:
    """Return the answer to a question; redirects are not followed.

    Args:
        asked: The question.
        address: Where.
        port: Where.
        connect_timeout_s: How long the connection may take.
        timeout_s: How long the answer may take as a whole: who sends a byte now and then holds up nobody.

    Raises:
        OSError: nobody answers in time.
        http.client.HTTPException: what comes back is no HTTP.
    """
    connection = http.client.HTTPConnection(address, port, timeout=connect_timeout_s)
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.sock = _Hurried(connection.sock, SystemClock(), timeout_s)
        connection.putrequest(asked.method, asked.path, skip_host=True, skip_accept_encoding=True)
        for name, value in (*asked.headers, ("Connection", "close")):
            connection.putheader(name, value)
        connection.endheaders()
        with closing(connection.getresponse()) as response:
            body = response.read(MAX_BODY_BYTES)
            return HttpAnswer(response.status, response.getheader("X-Served-By"), response.getheader("Date"), body)
    finally:
        connection.close()


class _Hurried:
    """A connected socket as ``http.client`` uses it, whose answer is read until a deadline, not until it pauses.

    As with a socket, whoever reads it has it after ``close``.
    """

    def __init__(self, connected: socket.socket, clock: Clock, timeout_s: float) -> None:
        self._connected = connected
        self._clock = clock
        self._until_s = clock.monotonic_s() + timeout_s
        self._reading: _Reading | None = None

    def sendall(self, data: bytes) -> None:
        self._connected.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._reading = _Reading(self)
        return io.BufferedReader(self._reading)

    def receive(self, buffer: Any) -> int:
        self._connected.settimeout(max(self._until_s - self._clock.monotonic_s(), 0.001))
        return self._connected.recv_into(buffer)

    def close(self) -> None:
        if self._reading is None or self._reading.closed:
            self._connected.close()


class _Reading(io.RawIOBase):
    def __init__(self, hurried: _Hurried) -> None:
        super().__init__()
        self._hurried = hurried

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._hurried.receive(buffer)

    def close(self) -> None:
        super().close()
        self._hurried.close()
