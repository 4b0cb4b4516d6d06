"""What this machine shows: who listens where, HAProxy, clocks, file systems, files of ours."""

import ctypes
import os
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.doctor.facts import ClockFacts, HaproxyFacts, PortFacts, SpaceFacts
from cli.haproxy_process import is_our_haproxy
from cli.libvirt_daemon import has_systemd
from common.clock import Clock
from common.config import Config
from common.endpoint import split_endpoint
from services.balancer.core.haproxy_config import haproxy_config

PATIENCE_S: Final = 20.0
LISTEN: Final = "0A"
SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
STA_UNSYNC: Final = 0x40
_PROC: Final = Path("/proc")
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_TIMEX_BYTES, _STATUS_AT = 256, 40  # struct timex: modes, offset, freq, maxerror, esterror, and then status


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket."""

    address: str
    port: int
    inode: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a socket. ``files``: what it has open, as device and inode, as far as that may be seen."""

    pid: int
    name: str
    command: tuple[str, ...]
    files: frozenset[tuple[int, int]] = frozenset()


def ports(config: Config, answering: Collection[str]) -> list[PortFacts]:
    """Return who listens at each address that a process of ours wants.

    Args:
        config: names the addresses.
        answering: names of the services that answer.
    """
    wanted = [(f"groups.{name}.endpoint", group.endpoint, "haproxy") for name, group in config.groups.items()]
    if config.metrics.listen:
        wanted.append(("metrics.listen", config.metrics.listen, "exporter"))
    if config.metrics.haproxy_listen:
        wanted.append(("metrics.haproxy_listen", config.metrics.haproxy_listen, "haproxy"))
    if config.bus.transport == "tcp":
        for service, endpoint in config.bus.endpoints.items():
            wanted.append((f"bus.endpoints.{service}", endpoint.removeprefix("tcp://"), service))
    listening, running = listeners(), {*answering, *(["haproxy"] if _haproxy_runs(config) else [])}
    expected = {*answering, *(["haproxy"] if "balancer" in answering else [])}
    found = []
    for key, address, service in wanted:
        facts = _port(config, key, address, service, listening, is_expected=service in expected)
        found.append(replace(facts, is_running=service in running))
    return found


def _port(
    config: Config, key: str, address: str, service: str, listening: list[Listener], *, is_expected: bool
) -> PortFacts:
    host, port = split_endpoint(address)
    inodes = {found.inode for found in listening if found.port == port and _meet(host, found.address)}
    holders = _holders(inodes) if inodes else []
    is_ours = any(_is_ours(config, service, holder) for holder in holders)
    named = ", ".join(sorted(f"{holder.name} (process {holder.pid})" for holder in holders)[:3])
    holder_text = named or ("a process that this user cannot see" if inodes else "")
    return PortFacts(
        key=key,
        address=address,
        service=service,
        holder=holder_text,
        is_ours=is_ours or (bool(inodes) and not holders and is_expected),
        bind_error="" if inodes else _bind_error(host, port),
        is_expected=is_expected,
    )


def listeners() -> list[Listener]:
    """Return every TCP socket of this machine that listens."""
    found = []
    for table in _TABLES:
        lines = table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else []
        for words in map(str.split, lines):
            if words[3] == LISTEN:
                address, port = words[1].split(":")
                found.append(Listener(_address(address), int(port, 16), words[9]))
    return found


def _address(word: str) -> str:
    """Return an address of ``/proc/net/tcp``: words of four bytes, each in the machine's order."""
    raw = b"".join(struct.pack("=I", int(word[at : at + 8], 16)) for at in range(0, len(word), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _meet(wanted: str, found: str) -> bool:
    wide = ("*", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
    return wanted in wide or found in wide or found == wanted or found == f"::ffff:{wanted}"


def _holders(inodes: set[str]) -> list[Holder]:
    """Return the processes that hold one of these sockets, as far as this user may see them."""
    links = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for process in _PROC.glob("[0-9]*"):
        try:
            if any(str(fd.readlink()) in links for fd in (process / "fd").iterdir()):
                found.append(_holder(process))
        except OSError:
            continue  # not ours to see, or gone
    return found


def _holder(process: Path) -> Holder:
    return Holder(int(process.name), _name(process), _command(process), _open_files(process))


def _name(process: Path) -> str:
    return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()


def _command(process: Path) -> tuple[str, ...]:
    return tuple((process / "cmdline").read_bytes().decode(errors="replace").split("\0"))


def _open_files(process: Path) -> frozenset[tuple[int, int]]:
    """Return what a process has open; the descriptors themselves are asked: its paths may be those of a container."""
    found = set()
    for fd in (process / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            told = fd.stat()
            found.add((told.st_dev, told.st_ino))
    return frozenset(found)


def _is_ours(config: Config, service: str, holder: Holder) -> bool:
    """Return whether a process is this installation's ``service``, in a container or not.

    A service has the lock in its run directory open as long as it lives, and nobody else does. Numbers of processes
    prove nothing: in a container every service is process 1.
    """
    if service == "haproxy":
        return is_our_haproxy(config.system.run_path, holder.name, holder.command)
    try:
        lock = (config.system.run_path / f"{service}.lock").stat()
    except OSError:
        return False
    return (lock.st_dev, lock.st_ino) in holder.files


def _haproxy_runs(config: Config) -> bool:
    """Return whether our HAProxy is among the processes of this machine, those in containers with them."""
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # gone
            if is_our_haproxy(config.system.run_path, _name(process), _command(process)):
                return True
    return False


def _bind_error(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("" if host == "*" else host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def haproxy(config: Config) -> HaproxyFacts:
    """Return HAProxy's version, and what it says about the configuration that the balancer would give it."""
    path = shutil.which("haproxy") or shutil.which("haproxy", path=SBIN)  # as what starts it looks for it
    if path is None:
        return HaproxyFacts(None, "", "")
    told = _run([path, "-vv"])
    with tempfile.TemporaryDirectory(prefix="autoscaler-doctor-") as directory:
        file = Path(directory) / "haproxy.cfg"
        file.write_text(haproxy_config(config, open_files(), None), encoding="utf-8")
        checked = _run([path, "-c", "-q", "-f", str(file)])
    refusal = "" if checked is None or checked.returncode == 0 else _first_alert(checked.stderr or checked.stdout)
    return HaproxyFacts(path, told.stdout if told is not None else "", refusal)


def _first_alert(text: str) -> str:
    lines = [line for line in text.splitlines() if "[ALERT]" in line] or text.splitlines() or ["no reason given"]
    return " ".join(lines[0].split())[:200]


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None


def open_files() -> int:
    """Return how many files a process may open, as far as it may raise that itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1_048_576 if hard == resource.RLIM_INFINITY else hard


def clock_facts(config: Config, clock: Clock) -> ClockFacts:
    """Return the wall clock's time, and the youngest file of ours that it may be compared with."""
    newest = max(_written(config.system.state_path), default=(0.0, ""))
    return ClockFacts(clock.epoch_s(), newest[0], newest[1], is_synchronised(), has_systemd())


def is_synchronised() -> bool | None:
    """Return whether the kernel's clock is kept right by somebody; None where it does not tell."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    return not int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], "little") & STA_UNSYNC


def _written(directory: Path) -> Iterator[tuple[float, str]]:
    """Yield when files of ours were written: the program itself, and what the services keep."""
    for path in (Path(__file__), *directory.glob("*.json"), *directory.glob("recording/*"), *directory.glob("log/*")):
        try:
            yield path.stat().st_mtime, str(path)
        except OSError:
            continue  # it was replaced since it was listed


def space(path: Path) -> SpaceFacts:
    """Return what is free where ``path`` is, or would be made."""
    there = next(parent for parent in (path, *path.parents) if parent.is_dir())
    told = os.statvfs(there)
    free_files = told.f_favail if told.f_files else None
    mount = next(parent for parent in (there, *there.parents) if parent.is_mount())
    return SpaceFacts(str(there), str(mount), told.f_bavail * told.f_frsize, free_files, os.access(there, os.W_OK))


def recording_left_bytes(config: Config) -> int:
    """Return what the recording may still grow by."""
    files = (config.system.state_path / "recording").glob("*")
    present = sum(_size(path) for path in files)
    return max(0, config.system.recording_max_bytes - present)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
