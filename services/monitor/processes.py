"""What becomes of a domain's process, from the kernel itself, for hosts on this machine.

libvirt tells of a dead QEMU only after the machine's init has reaped it: at once under systemd, seconds later, or
never, under the init of a container. A pidfd becomes readable the moment the process ends. Of a stopped one (SIGSTOP)
libvirt never tells; its state in ``/proc`` does. The process is found by the PID file that libvirt keeps, and must
carry the domain's UUID in its command line. Where there is no such file or no such process (another machine, another
PID namespace), libvirt's event and HAProxy's checks are the only witnesses.
"""

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from services.monitor.core.host import Exited, Froze

SYSTEM_PID_DIR: Final = Path("/run/libvirt/qemu")
LOOK_S: Final = 0.25  # a process is frozen when two looks in a row find it stopped: one that is dumped stops for less
_STOPPED: Final = "T"  # not "t": whoever traces a process stops it again and again
_LOCAL_SCHEMES: Final = {"qemu", "qemu+unix"}
_NO_PROCESS: Final = (FileNotFoundError, ProcessLookupError, PermissionError)


def pid_directory(uri: str) -> Path | None:
    """Return where libvirt keeps the PID files of the domains at ``uri``, None for a host that is not this machine.

    >>> pid_directory("qemu:///system"), pid_directory("qemu+ssh://other/system")
    (PosixPath('/run/libvirt/qemu'), None)
    """
    parts = urlsplit(uri)
    is_local = parts.scheme in _LOCAL_SCHEMES and not parts.netloc and parts.path == "/system"
    return SYSTEM_PID_DIR if is_local else None


class ProcessWatch:
    """Follows the processes of one host's domains; ``tell`` is called in a thread of its own."""

    def __init__(self, directory: Path, tell: Callable[[Exited | Froze], None]) -> None:
        """Start following; nothing at first."""
        self._directory = directory
        self._tell = tell
        self._followed: dict[int, tuple[str, str, int]] = {}  # pidfd: name, UUID, PID
        self._stopped: frozenset[tuple[str, str]] = frozenset()  # at the last look: name, UUID
        self._frozen: frozenset[tuple[str, str]] = frozenset()  # at the last two
        self._lock = threading.Lock()
        self._is_closed = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="processes", daemon=True)
        self._thread.start()

    def follow(self, name: str, uuid: str) -> bool:
        """Follow the process of a running domain; return whether it is followed now."""
        with self._lock:
            if self._is_closed or any(known == uuid for _name, known, _pid in self._followed.values()):
                return not self._is_closed
            opened = _open(self._directory / f"{name}.pid", uuid)
            if opened is None:
                return False
            pidfd, pid = opened
            self._followed[pidfd] = (name, uuid, pid)
            self._epoll.register(pidfd, select.EPOLLIN)
            return True

    def close(self) -> None:
        """Stop following; nothing is told any more."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.eventfd_write(self._bell, 1)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            ready = self._epoll.poll(LOOK_S)
            for descriptor, _mask in ready:
                if descriptor != self._bell:
                    self._ended(descriptor)
            if not ready:
                self._look()
        self._epoll.close()
        for descriptor in (self._bell, *self._followed):
            os.close(descriptor)

    def _ended(self, pidfd: int) -> None:
        with self._lock:
            name, uuid, pid = self._followed.pop(pidfd)
            self._epoll.unregister(pidfd)
            os.close(pidfd)
        self._tell(Exited(name, uuid, _signal_of(pid)))

    def _look(self) -> None:
        """Tell who is frozen, once until it runs again."""
        with self._lock:
            followed = tuple(self._followed.values())
        stopped = frozenset((name, uuid) for name, uuid, pid in followed if _state_of(pid) == _STOPPED)
        told, self._frozen, self._stopped = self._frozen, self._stopped & stopped, stopped
        for name, uuid in sorted(self._frozen - told):
            self._tell(Froze(name, uuid))


def _open(path: Path, uuid: str) -> tuple[int, int] | None:
    """Return a pidfd and PID of the process in the file, if it is that domain's."""
    try:
        pid = int(path.read_text(encoding="ascii"))
        if pid <= 0:
            return None
        pidfd = os.pidfd_open(pid)
    except (*_NO_PROCESS, ValueError):
        return None
    if _is_of(pid, uuid):
        return pidfd, pid
    os.close(pidfd)
    return None


def _is_of(pid: int, uuid: str) -> bool:
    try:
        return uuid.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except _NO_PROCESS:
        return False


def _signal_of(pid: int) -> int:
    """Return the signal that ended a process not yet reaped, 0 where it is not known."""
    stat = _stat(pid)
    return int(stat[-1]) & 0x7F if stat else 0


def _state_of(pid: int) -> str:
    """Return the letter that stands for the state of a process, empty where it is not known."""
    stat = _stat(pid)
    return stat[0] if stat else ""


def _stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, behind its name; nothing where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
