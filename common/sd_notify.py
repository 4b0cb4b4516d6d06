"""What systemd is told about this process: that it is ready, that its loop turns, that it reloads, that it ends.

The protocol of ``sd_notify(3)``: one datagram to the socket that systemd names in the environment. Where none is named,
nothing is told.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from common.log import logger


@dataclass(slots=True)
class Notifier:
    """The way to systemd. ``every_s`` is how often it wants to hear that the loop turns; None: it does not."""

    address: str
    every_s: float | None
    _told_s: float = float("-inf")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the notifier for this process; one without an address tells nothing."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address, _every_s(environ) if address else None)

    def ready(self) -> None:
        """Tell that the service works, at its start or after a reload."""
        self._tell("READY=1")

    def reloading(self, now_s: float) -> None:
        """Tell that a new configuration is read; ``ready`` ends that. ``now_s`` is monotonic."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={round(now_s * 1e6)}")

    def stopping(self) -> None:
        """Tell that the service ends."""
        self._tell("STOPPING=1")

    def turned(self, now_s: float) -> None:
        """Tell, as often as systemd wants to hear it, that the loop turned."""
        if self.every_s is not None and now_s - self._told_s >= self.every_s / 2:
            self._told_s = now_s
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
                door.settimeout(1.0)
                door.sendto(text.encode(), address)
        except OSError as error:
            logger().warning("systemd-not-told", text=text, reason=str(error))


def _every_s(environ: Mapping[str, str]) -> float | None:
    """Return half of the patience of systemd's watchdog, None where it does not watch this process."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6 / 2
