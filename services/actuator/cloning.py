"""The effects of cloning on one host: a snapshot is taken of a booted template, and clones go on from it.

# Note [One saved memory for all]
A clone's save file differs from the snapshot in its header alone. libvirt reads it from a pipe: first the header that
was written for this clone, then the snapshot's own bytes, which the kernel hands over from its page cache. So nothing
is copied, nothing is written, and whoever is killed in between leaves an empty pipe at most.
"""

import fcntl
import hashlib
import json
import os
import secrets
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.clock import SystemClock, boot_id
from common.config import Network
from common.domain import DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.phases import Phase
from common.virt import save_image
from services.actuator.core.clone_xml import CloneIdentity, clone_xml
from services.actuator.core.record import Record
from services.actuator.core.seen import Probe
from services.actuator.core.steps import Clone, TakeSnapshot
from services.actuator.drafts import Draft
from services.actuator.prober import Target, probe

if TYPE_CHECKING:
    from services.actuator.perform import Host

WAITS: Final = "waiting for an identity"
BOOT_S: Final = 60.0
LINK_S: Final = 5.0
CANARY_S: Final = 15.0
LOOK_S: Final = 0.02
PIPE_BYTES: Final = 1 << 20
NOTE_LENGTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOrder(Draft):
    """What a ``Clone`` needs besides the step: the definition to boot with, and the snapshot to go on from."""

    snapshot: Path
    network: Network
    console_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOrder(Draft):
    """What a ``TakeSnapshot`` needs: the template's definition, whom to ask, and where the snapshot goes."""

    snapshot: Path
    target: Target
    network: Network
    console_dir: str
    ask: Callable[[Target], Probe] = probe


def clone(host: "Host", step: Clone, order: CloneOrder) -> None:
    """Define the domain and let it run from the snapshot; where that fails, it is left defined, to be booted.

    Raises:
        HypervisorError: libvirt refused; the record then says that the domain is to boot.
    """
    host.define(order.xml)
    try:
        _restore(host, step.domain, booting(step.record), order.snapshot, order.network, order.console_dir)
    except (HypervisorBusyError, HypervisorLostError, DomainGoneError):
        raise
    except (HypervisorError, OSError) as error:
        reason = " ".join(f"not cloned, so it boots: {error}".split())  # metadata hold no line ends
        host.set_metadata(step.domain, replace(step.record, tier="", note=reason[:NOTE_LENGTH]).to_metadata())
        raise HypervisorError(reason) from error


def take(host: "Host", step: TakeSnapshot, order: SnapshotOrder) -> None:
    """Boot the template, save it, and prove by a first clone that the snapshot serves; only then it is there.

    Raises:
        HypervisorError: a part of it failed; nothing is left of it.
    """
    order.snapshot.parent.mkdir(parents=True, exist_ok=True)
    part = order.snapshot.with_suffix(".part")
    try:
        _boot(host, step, order)
        host.save_to(step.domain, str(part))
        host.undefine(step.domain)
        part.chmod(0o600)
        _prove(host, step, order, part)
        _publish(part, order.snapshot)
    except OSError as error:
        raise HypervisorError(f"cannot keep the snapshot: {error}") from error
    finally:
        _end(host, step)
        part.unlink(missing_ok=True)


def booting(record: Record) -> Record:
    """Return the record of a clone that runs from now on."""
    clock = SystemClock()
    entered = record.enter(Phase.BOOTING, clock.monotonic_s(), clock.epoch_s(), boot_id())
    return replace(entered, started_mono_s=entered.since_mono_s)


@contextmanager
def fed(pipe: Path, header: bytes, snapshot: Path, stream_at: int) -> Iterator[str]:
    """Give the path of a pipe from which a save file can be read once; see Note [One saved memory for all]."""
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    stopping = threading.Event()
    source = os.open(snapshot, os.O_RDONLY | os.O_CLOEXEC)
    thread = threading.Thread(target=_feed, args=(pipe, header, source, stream_at, stopping), daemon=True)
    thread.start()
    try:
        yield str(pipe)
    finally:
        stopping.set()
        pipe.unlink(missing_ok=True)
        thread.join()


def _restore(
    host: "Host", domain: str, record: Record, snapshot: Path, network: Network, console_dir: str, guest_name: str = ""
) -> None:
    with snapshot.open("rb") as file:
        head = file.read(save_image.HEAD_BYTES)
        saved = save_image.parse(head + file.read(save_image.text_bytes(head)))
    epoch_ms = round(SystemClock().epoch_s() * 1000)
    identity = CloneIdentity(domain, record, network, console_dir, epoch_ms, secrets.token_hex(32), guest_name)
    header = save_image.pack(replace(saved, xml=clone_xml(saved.xml, identity)))
    with fed(snapshot.with_name(f"{record.uuid}.pipe"), header, snapshot, saved.stream_at) as path:
        host.restore(domain, path)
    host.set_link(domain, True)


def _feed(pipe: Path, header: bytes, source: int, stream_at: int, stopping: threading.Event) -> None:
    sink = -1
    try:
        sink = _open_when_read(pipe, stopping)
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        while header and _is_writable(sink, stopping):
            header = header[os.write(sink, header) :]
        while _is_writable(sink, stopping):
            count = os.splice(source, sink, PIPE_BYTES, offset_src=stream_at, flags=os.SPLICE_F_NONBLOCK)
            if count == 0:
                return
            stream_at += count
    except OSError:
        return  # nobody reads any more: libvirt itself says why
    finally:
        os.close(source)
        if sink >= 0:
            os.close(sink)


def _open_when_read(pipe: Path, stopping: threading.Event) -> int:
    """Return the pipe's end for writing, as soon as libvirt has opened the other."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if stopping.wait(0.001):
                raise


def _is_writable(sink: int, stopping: threading.Event) -> bool:
    """Return when the pipe takes more, or false when nobody wants it any more."""
    while not stopping.is_set():
        if select.select([], [sink], [], 0.1)[1]:
            return True
    return False


def _boot(host: "Host", step: TakeSnapshot, order: SnapshotOrder) -> None:
    console = Path(order.console_dir) / f"{step.domain}.log"
    console.unlink(missing_ok=True)
    host.define(order.xml)
    host.start(step.domain)
    _wait("the template did not answer", lambda: order.ask(order.target).is_right, BOOT_S)
    host.set_link(step.domain, False)
    said = "the guest does not say that it waits for an identity, so its image cannot be cloned"
    _wait(said, lambda: WAITS.encode() in console.read_bytes(), LINK_S)


def _prove(host: "Host", step: TakeSnapshot, order: SnapshotOrder, part: Path) -> None:
    """Run a first clone, under another name, until it answers."""
    name = f"{step.domain}-canary"
    record = replace(step.record, uuid=f"{'1' if step.uuid[0] == '0' else '0'}{step.uuid[1:]}")
    _restore(host, step.domain, record, part, order.network, order.console_dir, guest_name=name)
    target = replace(order.target, name=name)
    _wait("a first clone did not answer", lambda: order.ask(target).is_right, CANARY_S)


def _end(host: "Host", step: TakeSnapshot) -> None:
    """Leave nothing of the template; what cannot be removed now is removed by a later plan."""
    with suppress(HypervisorError):
        facts = host.facts(step.domain)
        if facts is None or facts.metadata.get("group") != step.group:
            return
        if facts.state not in (DomainState.SHUTOFF, DomainState.CRASHED):
            host.destroy(step.domain)
        if facts.is_persistent:
            host.undefine(step.domain)


def _publish(part: Path, snapshot: Path) -> None:
    """Put the snapshot in its place, its manifest first: a snapshot without one would be taken for a damaged one."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    manifest = {"format": 1, "sha256": digest, "bytes": part.stat().st_size}
    aside = snapshot.with_suffix(".new")
    aside.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    aside.replace(snapshot.with_suffix(".json"))
    part.replace(snapshot)


def _wait(failure: str, is_so: Callable[[], bool], limit_s: float) -> None:
    clock, pause = SystemClock(), threading.Event()
    until_s = clock.monotonic_s() + limit_s
    while not is_so():
        if clock.monotonic_s() >= until_s:
            raise HypervisorError(f"{failure} within {limit_s:g} s")
        pause.wait(LOOK_S)
