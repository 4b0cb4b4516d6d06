"""Sets the clocks of guests that go on after a pause, through their agents, before they serve.

A guest sets its clock as soon as it hears of it; what follows (its hardware's clock, the answer) may take a second, and
an agent that hangs takes longer. So that is done in threads of their own, and whoever wakes a domain waits for it for
``WAIT_S`` at most. A guest without an agent is not waited for.
"""

import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final, Protocol

from common.errors import HypervisorError
from common.log import logger

WAIT_S: Final = 0.5
AGENT_TIMEOUT_S: Final = 1.0
THREADS: Final = 2

log = logger()


class Clocks(Protocol):
    """What is needed of ``common.hypervisor.Connection``."""

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Order:
    host: Clocks
    domain: str
    uuid: str
    is_done: threading.Event = field(default_factory=threading.Event)


class GuestClocks:
    """The clocks of one host's guests; ``run`` is what each of ``THREADS`` threads does."""

    def __init__(self, host: str) -> None:
        """``host`` is its name, for the log."""
        self._host = host
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()

    def set(self, host: Clocks, domain: str, uuid: str) -> None:
        """Have the clock set; return when it is, when there is no agent, or after ``WAIT_S``. Never raises."""
        order = _Order(host, domain, uuid)
        self._orders.put(order)
        order.is_done.wait(WAIT_S)

    def run(self) -> None:
        """Set clocks until it is stopped."""
        while (order := self._orders.get()) is not None:
            try:
                order.host.set_time(order.domain, order.uuid, AGENT_TIMEOUT_S)
            except HypervisorError as error:
                log.warning("clock-unconfirmed", host=self._host, domain=order.domain, error=str(error))
            finally:
                order.is_done.set()

    def stop(self) -> None:
        """Have the threads end."""
        for _ in range(THREADS):
            self._orders.put(None)
