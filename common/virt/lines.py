"""Connections to one host, a line for each thread that calls.

# Note [A line a thread]
While libvirt ends a domain it holds that domain's lock: for 12 s if the process is frozen, for as long as init leaves
it unreaped otherwise. Calls about that domain wait, and so do listings. On a connection with a waiting call, libvirt's
client hands out the answers to other threads' calls only when the next call is made (measured: they come late by
whatever the pause between calls is). So no two threads share a connection.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Line:
    """One connection; ``handles`` are what it gave out for domains, by UUID."""

    raw: Any
    handles: dict[str, Any] = field(default_factory=dict)
    callers: int = 0


class Lines:
    """Opens a line for each thread at its first call. A line is closed when nobody is in a call on it."""

    def __init__(self, open_line: Callable[[], Any], close_line: Callable[[Any], None], is_shared: bool) -> None:
        """Open the first line, that of the calling thread; ``is_shared``: all threads use it."""
        self._open = open_line
        self._close = close_line
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._own = threading.local()
        self._is_closed = False
        self._own.line = self._first = Line(open_line())
        self._lines = [self._first]

    @property
    def first(self) -> Any:
        """Return the first connection: the one for events."""
        return self._first.raw

    @contextmanager
    def use(self) -> Iterator[Line]:
        """Give the calling thread's line for a call."""
        line = self._mine()
        with self._lock:
            line.callers += 1
        try:
            yield line
        finally:
            with self._lock:
                line.callers -= 1
                is_last = self._is_closed and not line.callers
            if is_last:
                self._close(line.raw)

    def close(self) -> None:
        """Close every line, those in use when their call returns."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            idle = [line for line in self._lines if not line.callers]
        for line in idle:
            self._close(line.raw)

    def _mine(self) -> Line:
        if self._is_shared or self._is_closed:
            return self._first
        line: Line | None = getattr(self._own, "line", None)
        if line is None:
            line = self._own.line = Line(self._open())
            with self._lock:
                self._lines.append(line)
        return line
