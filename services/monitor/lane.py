"""A thread that makes one libvirt call after the other, and may hang at any of them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from common.domain import CpuReading, HostCpu
from common.errors import HypervisorError

_T = TypeVar("_T")


class Readable(Protocol):
    """What is asked of a connection."""

    def refresh(self) -> None: ...
    def known(self) -> dict[str, str]: ...
    def reading(self, uuid: str) -> CpuReading | None: ...
    def host_cpu(self) -> HostCpu | None: ...
    def ping(self) -> None: ...


class Lane:
    """Work goes in, a future comes out. The thread is a daemon: where it hangs, it dies with the process."""

    def __init__(self, name: str, connection: Readable) -> None:
        """Start the thread."""
        self._connection = connection
        self._work: SimpleQueue[tuple[Callable[[Readable], Any], Future[Any]] | None] = SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def is_free(self) -> bool:
        """Return whether all work is done."""
        return self._last is None or self._last.done()

    def submit(self, work: Callable[[Readable], _T]) -> "Future[_T]":
        """Have ``work`` done; its HypervisorError comes out of the future."""
        future: Future[_T] = Future()
        self._last = future
        self._work.put((work, future))
        return future

    def leave(self) -> None:
        """End the thread after its present work."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                future.set_result(work(self._connection))
            except HypervisorError as error:
                future.set_exception(error)


def is_done(future: "Future[Any]", patience_s: float) -> bool:
    """Return whether the future is done within ``patience_s``."""
    return bool(wait([future], timeout=patience_s).done)
