"""What libvirt says of the power of domains while a test looks: each start, each end. No word of ours is in it."""

import threading
from types import TracebackType

from common.hypervisor import Connection
from tests.e2e.world import QEMU_PIDS

ENDS = {"stopped", "crashed", "failed"}


class Power:
    """Notes every start and every end of the domains whose names begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._seen: list[tuple[str, str, str]] = []

    def __enter__(self) -> "Power":
        self._connection = Connection.open("qemu:///system", is_read_only=True, may_touch=lambda _name: False)
        self._connection.watch(lambda event: self._note(event.name, event.kind, event.detail), lambda: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._seen.clear()

    def ends(self) -> list[tuple[str, str]]:
        """Return which domains lost their power since, and how: shutdown, destroyed, crashed, saved, …."""
        with self._lock:
            return [(name, detail) for name, kind, detail in self._seen if kind in ENDS]

    def starts(self) -> list[str]:
        """Return which domains got power since, once for each time."""
        with self._lock:
            return [name for name, kind, _ in self._seen if kind == "started"]

    def _note(self, name: str, kind: str, detail: str) -> None:
        if name.startswith(self._prefix):
            with self._lock:
                self._seen.append((name, kind, detail))


def qemu_pids(names: set[str]) -> dict[str, int]:
    """Return the process of each of these domains that runs: it is another one after any restart."""
    files = {name: QEMU_PIDS / f"{name}.pid" for name in names}
    return {name: int(path.read_text(encoding="ascii")) for name, path in files.items() if path.exists()}
