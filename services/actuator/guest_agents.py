"""What is asked of guests' agents: to set a clock that stood still, to shut down where the power button did not help.

An agent that hangs takes long, and libvirt waits up to a minute for one that shuts down. So they are asked in threads
of their own. Whoever wakes a domain waits for its clock for ``WAIT_S`` at most: a guest sets it as soon as it hears of
it; what follows (its hardware's clock, the answer) may take a second. A guest without an agent is not waited for.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Final, Protocol

from common.errors import HypervisorError
from common.log import logger

WAIT_S: Final = 0.5
AGENT_TIMEOUT_S: Final = 1.0
THREADS: Final = 2

log = logger()


class Agents(Protocol):
    """What is needed of ``common.hypervisor.Connection``."""

    def set_time(self, name: str, uuid: str, timeout_s: float) -> bool: ...
    def shutdown_by_agent(self, name: str, uuid: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Order:
    call: Callable[[], bool]
    domain: str
    is_done: threading.Event = field(default_factory=threading.Event)


class GuestAgents:
    """The agents of one host's guests, asked for one kind of thing; each of ``THREADS`` threads does ``run``."""

    def __init__(self, host: str, unconfirmed: str) -> None:
        """``host`` is its name; ``unconfirmed`` what the log calls an agent that did not say that it has."""
        self._host = host
        self._unconfirmed = unconfirmed
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()

    def set_clock(self, host: Agents, domain: str, uuid: str) -> None:
        """Have the clock set; return when it is, when there is no agent, or after ``WAIT_S``. Never raises."""
        self._ask(partial(host.set_time, domain, uuid, AGENT_TIMEOUT_S), domain).wait(WAIT_S)

    def shut_down(self, host: Agents, domain: str, uuid: str) -> None:
        """Have the guest asked to shut down; return at once."""
        self._ask(partial(host.shutdown_by_agent, domain, uuid), domain)

    def _ask(self, call: Callable[[], bool], domain: str) -> threading.Event:
        order = _Order(call, domain)
        self._orders.put(order)
        return order.is_done

    def run(self) -> None:
        """Ask until it is stopped."""
        while (order := self._orders.get()) is not None:
            try:
                order.call()
            except HypervisorError as error:
                log.warning(self._unconfirmed, host=self._host, domain=order.domain, error=str(error))
            finally:
                order.is_done.set()

    def stop(self) -> None:
        """Have the threads end."""
        for _ in range(THREADS):
            self._orders.put(None)
