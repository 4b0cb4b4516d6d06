"""The client of HAProxy's runtime API: one connection for each batch of commands, one deadline for all of it.

A batch is one line; HAProxy answers in plain text and closes the connection. The client never waits longer than its
deadline, whatever HAProxy does. The present worker has a socket of its own; older ones are reached through the master.
"""

import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from common.clock import Clock
from services.balancer.core.answers import (
    BACKENDS,
    LOOK,
    Snapshot,
    parse_look,
    refusal,
    requests_in_flight,
    split_answers,
)
from services.balancer.core.workers import SHOW_WORKERS, Worker, parse_workers, sessions_at
from services.balancer.errors import ProxyError, ProxyLostError

DEADLINE_S: Final = 0.5
MASTER_DEADLINE_S: Final = 0.2  # what older processes say is worth a short wait only: failures are pushed meanwhile
MAX_LINE_BYTES: Final = 12_000  # HAProxy's buffer holds 16 KiB
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024


class Cli:
    """One of HAProxy's command sockets."""

    def __init__(self, path: Path, clock: Clock, deadline_s: float) -> None:
        """Keep where HAProxy listens; nothing is connected yet."""
        self._path = path
        self._clock = clock
        self._deadline_s = deadline_s

    def ask(self, commands: Sequence[str]) -> list[str]:
        """Return the answers to the commands, which are sent as one line.

        Raises:
            ProxyLostError: HAProxy does not answer.
            ProxyError: it gives another number of answers.
            ValueError: a command contains what would end it.
        """
        if any(mark in command for command in commands for mark in (";", "\n", "\\")):
            raise ValueError(f"a command must not contain ';', '\\' or a line end; got {commands!r}")
        text = self._exchange((";".join(commands) + "\n").encode())
        return split_answers(text, len(commands))

    def _exchange(self, line: bytes) -> str:
        until_s = self._clock.monotonic_s() + self._deadline_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._deadline_s)
                connection.connect(str(self._path))
                self._send(connection, line)
                return self._read(connection, until_s)
        except OSError as error:
            reason = error.strerror or f"no answer within {self._deadline_s} s"
            raise ProxyLostError(f"HAProxy at {self._path}: {reason}") from error

    def _send(self, connection: socket.socket, line: bytes) -> None:
        connection.sendall(line)

    def _read(self, connection: socket.socket, until_s: float) -> str:
        chunks: list[bytes] = []
        size = 0
        while size <= MAX_ANSWER_BYTES:
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
            chunk = connection.recv(_CHUNK_BYTES)
            if not chunk:
                return b"".join(chunks).decode(errors="replace")
            chunks.append(chunk)
            size += len(chunk)
        raise ProxyError(f"HAProxy's answer is longer than {MAX_ANSWER_BYTES} bytes")


class RuntimeApi(Cli):
    """The present worker of HAProxy, as the balancer reaches it."""

    def __init__(self, path: Path, clock: Clock, deadline_s: float = DEADLINE_S) -> None:
        """Keep where HAProxy listens; nothing is connected yet."""
        super().__init__(path, clock, deadline_s)

    def inode(self) -> int:
        """Return the identity of the socket: another one means that HAProxy was started anew; 0 when absent."""
        try:
            return self._path.stat().st_ino
        except OSError:
            return 0

    def look(self, groups: Collection[str]) -> Snapshot:
        """Return what HAProxy shows of the groups.

        Raises:
            ProxyLostError: HAProxy does not answer.
            ProxyError: what it answers cannot be read.
        """
        return parse_look(self.ask(LOOK), groups)

    def order(self, commands: Sequence[str]) -> list[str]:
        """Return what HAProxy refused to do, as ``command: reason``; empty when everything was done.

        Raises:
            ProxyLostError: HAProxy does not answer; some commands may have been done.
            ProxyError: what it answers cannot be read.
        """
        answers = [answer for batch in _batches(commands) for answer in self.ask(batch)]
        pairs = zip(commands, map(refusal, answers), strict=True)
        return [f"{command}: {reason}" for command, reason in pairs if reason]


class Master(Cli):
    """HAProxy's master: it knows every worker, and is the only way to those that a reload has made old."""

    def __init__(self, path: Path, clock: Clock, deadline_s: float = MASTER_DEADLINE_S) -> None:
        """Keep where the master listens; nothing is connected yet."""
        super().__init__(path, clock, deadline_s)

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that there are now.

        Raises:
            ProxyLostError: the master does not answer.
            ProxyError: what it answers cannot be read.
        """
        (answer,) = self.ask([SHOW_WORKERS])
        return parse_workers(answer)

    def look(self, pid: int, groups: Collection[str]) -> Snapshot:
        """Return what one worker shows of the groups.

        Raises:
            ProxyLostError: it does not answer.
            ProxyError: there is none, or what it answers cannot be read.
        """
        return parse_look(self.ask([f"@!{pid} {command}" for command in LOOK]), groups)

    def in_flight(self, pid: int) -> int:
        """Return how many requests one worker has in flight, of all groups.

        Raises:
            ProxyLostError: it does not answer.
            ProxyError: there is none, or what it answers cannot be read.
        """
        (answer,) = self.ask([f"@!{pid} {BACKENDS}"])
        return requests_in_flight(answer)

    def end_sessions(self, pid: int, group: str, slot: str, spared: Collection[str]) -> tuple[str, ...]:
        """End a worker's sessions with one server; return the identifiers of those that were ended now.

        A worker that a reload has made old obeys no other order about its servers.

        Args:
            pid: the worker.
            group: the name of the backend.
            slot: the name of the server.
            spared: identifiers of those that were ended before, and may take a moment to go.

        Raises:
            ProxyLostError: it does not answer.
            ProxyError: there is none, or what it answers cannot be read.
        """
        (shown,) = self.ask([f"@!{pid} show sess"])
        found = [name for name in sessions_at(shown, group, slot) if name not in spared]
        orders = [f"@!{pid} shutdown session {name}" for name in found]
        answers = [answer for batch in _batches(orders) for answer in self.ask(batch)]
        return tuple(name for name, answer in zip(found, answers, strict=True) if not answer)

    def _send(self, connection: socket.socket, line: bytes) -> None:
        """Send the line and say that there is no other: the master keeps the connection open otherwise."""
        super()._send(connection, line)
        connection.shutdown(socket.SHUT_WR)


def _batches(commands: Sequence[str]) -> list[list[str]]:
    """Return the commands in order, in lines that fit HAProxy's buffer."""
    batches: list[list[str]] = [[]]
    size = 0
    for command in commands:
        if size + len(command) + 1 > MAX_LINE_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(command)
        size += len(command) + 1
    return [batch for batch in batches if batch]
