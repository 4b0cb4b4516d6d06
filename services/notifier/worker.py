"""One thread for each receiver: a receiver that is slow, dead or hostile keeps nobody waiting but itself."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from services.notifier.core.deliver import Finished
from services.notifier.core.notice import Notice
from services.notifier.senders import Sender


class Worker:
    """Tells one receiver, one notice after the other, and reports how it went."""

    def __init__(self, key: str, sender: Sender, report: Callable[[Finished], None]) -> None:
        """Begin to wait for notices; ``report`` is called by the worker's thread."""
        self._key, self._sender, self._report = key, sender, report
        self._waiting: SimpleQueue[Notice] = SimpleQueue()
        threading.Thread(target=self._run, name=f"tell-{key}", daemon=True).start()

    def tell(self, notice: Notice) -> None:
        """Tell the notice soon; returns at once."""
        self._waiting.put(notice)

    def _run(self) -> None:
        while True:
            notice = self._waiting.get()
            self._report(Finished(self._key, notice.id, self._sender.send(notice)))
