"""Waking a waiting loop from another thread or a signal handler, through an event descriptor that it polls."""

import os
import threading


class Waker:
    """``fd`` becomes readable with ``wake``. Harmless after ``close``, when the number may be another file's."""

    def __init__(self) -> None:
        """Open the descriptor."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread in here

    def wake(self) -> None:
        """Make ``fd`` readable."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Make ``fd`` unreadable again; to be called when it is readable."""
        os.eventfd_read(self.fd)

    def close(self) -> bool:
        """Give the descriptor back; return whether it was open."""
        with self._lock:
            if self.fd < 0:
                return False
            os.close(self.fd)
            self.fd = -1
            return True
