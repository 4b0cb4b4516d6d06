"""The effects of cloning on one host: a snapshot is taken of a booted template, and clones go on from it.

# Note [One saved memory for all]
A clone's save file differs from the snapshot in its header alone. libvirt reads it from a pipe: first the header that
was written for this clone, then the snapshot's own bytes, which the kernel hands over from its page cache. So nothing
is copied, nothing is written, and whoever is killed in between leaves an empty pipe at most.

# Note [A disk frozen with the memory]
The memory of a guest with a disk knows what stands on it. So the template's overlay stays as it was when the memory was
saved, and each clone has an overlay of its own on top. It is kept for as long as the snapshot, or a clone, needs it.
Only its owner and QEMU's group may read it (the group that it has while the template runs).
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
from typing import Any, Final

from common import files
from common.clock import SystemClock, boot_id
from common.config import Network
from common.domain import DomainState
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from common.phases import Phase
from common.virt import save_image
from services.actuator.core.clone_xml import CloneIdentity, clone_xml
from services.actuator.core.disks import owner_of
from services.actuator.core.record import Record
from services.actuator.core.seen import Probe
from services.actuator.core.steps import Clone, TakeSnapshot
from services.actuator.drafts import CloneDisks, Draft
from services.actuator.host import Host, define, remove_volumes
from services.actuator.prober import Target, probe

WAITS: Final = "waiting for an identity"
LINK_S: Final = 5.0
CANARY_S: Final = 15.0
DISK_LINK_S: Final = 180.0  # a distribution may still be starting; it says so when it is done
DISK_CANARY_S: Final = 60.0
LOOK_S: Final = 0.02
PIPE_BYTES: Final = 1 << 20
NOTE_LENGTH: Final = 200
READABLE: Final = 0o640


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOrder(Draft):
    """What a ``Clone`` needs besides the step: the definition to boot with, and the snapshot to go on from.

    ``disks`` where its group boots a disk image; it then boots as ``otherwise`` where it cannot be cloned.
    """

    snapshot: Path
    network: Network
    console_dir: str
    disks: CloneDisks | None = None
    otherwise: Draft | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOrder(Draft):
    """What a ``TakeSnapshot`` needs: the template's definition, whom to ask, and where the snapshot goes.

    ``disks`` where it boots a disk image: what the disk of the first clone stands on.
    """

    snapshot: Path
    target: Target
    network: Network
    console_dir: str
    boot_s: float
    disks: CloneDisks | None = None
    ask: Callable[[Target], Probe] = probe


def clone(host: Host, step: Clone, order: CloneOrder) -> None:
    """Define the domain and let it run from the snapshot; where that fails, it is left defined, to be booted.

    Raises:
        HypervisorError: libvirt refused; the record then says that the domain is to boot.
    """
    identity = _identity(step.domain, booting(step.record), order.network, order.console_dir)
    volumes = () if order.disks is None else order.disks.volumes(step.domain, identity)
    define(host, step, Draft(order.xml, volumes))
    try:
        _restore(host, step.domain, identity, order.snapshot, order.disks)
    except (HypervisorBusyError, HypervisorLostError, DomainGoneError):
        raise
    except (HypervisorError, OSError) as error:
        reason = " ".join(f"not cloned, so it boots: {error}".split())  # metadata hold no line ends
        if order.otherwise is not None:
            define(host, step, order.otherwise)
        host.set_metadata(
            step.domain, step.uuid, replace(step.record, is_cloned=False, note=reason[:NOTE_LENGTH]).to_metadata()
        )
        raise HypervisorError(reason) from error
    host.set_link(step.domain, step.uuid, True)


def take(host: Host, step: TakeSnapshot, order: SnapshotOrder) -> None:
    """Boot the template, save it, and prove by a first clone that the snapshot serves; only then it is there.

    Raises:
        HypervisorError: a part of it failed; nothing is left of it.
    """
    files.ensure_dir(order.snapshot.parent, 0o755)
    part = order.snapshot.with_suffix(".part")
    frozen = None if order.disks is None else Path(order.disks.frozen)
    is_taken = False
    try:
        _boot(host, step, order)
        readers = None if frozen is None else frozen.stat().st_gid
        host.save_to(step.domain, step.uuid, str(part))
        host.undefine(step.domain, step.uuid)
        files.set_mode(part, files.PRIVATE)
        if frozen is not None and readers is not None:
            files.give(frozen, -1, readers, READABLE)
        _prove(host, step, order, part)
        _publish(part, order.snapshot, frozen)
        is_taken = True
    except OSError as error:
        raise HypervisorError(f"cannot keep the snapshot: {error}") from error
    finally:
        _end(host, step, frozen, is_taken=is_taken)
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


def _identity(domain: str, record: Record, network: Network, console_dir: str, guest_name: str = "") -> CloneIdentity:
    epoch_ms = round(SystemClock().epoch_s() * 1000)
    return CloneIdentity(domain, record, network, console_dir, epoch_ms, secrets.token_hex(32), guest_name)


def _restore(host: Host, domain: str, identity: CloneIdentity, snapshot: Path, disks: CloneDisks | None) -> None:
    with snapshot.open("rb") as file:
        head = file.read(save_image.HEAD_BYTES)
        saved = save_image.parse(head + file.read(save_image.text_bytes(head)))
    uuid = identity.record.uuid
    xml = clone_xml(saved.xml, identity, None if disks is None else disks.of(domain, uuid))
    header = save_image.pack(replace(saved, xml=xml))
    with fed(snapshot.with_name(f"{uuid}.pipe"), header, snapshot, saved.stream_at) as path:
        host.restore(domain, path)


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


def _boot(host: Host, step: TakeSnapshot, order: SnapshotOrder) -> None:
    console = Path(order.console_dir) / f"{step.domain}.log"
    console.unlink(missing_ok=True)
    define(host, step, order)
    host.start(step.domain, step.uuid)
    _wait("the template did not answer", lambda: order.ask(order.target).is_right, order.boot_s)
    host.set_link(step.domain, step.uuid, False)
    said = "the guest does not say that it waits for an identity, so its image cannot be cloned"
    _wait(said, lambda: WAITS.encode() in console.read_bytes(), LINK_S if order.disks is None else DISK_LINK_S)


def _prove(host: Host, step: TakeSnapshot, order: SnapshotOrder, part: Path) -> None:
    """Run a first clone, under another name, until it answers."""
    name = f"{step.domain}-canary"
    record = replace(step.record, uuid=_canary_uuid(step.uuid))
    identity = _identity(step.domain, record, order.network, order.console_dir, guest_name=name)
    for volume in () if order.disks is None else order.disks.volumes(step.domain, identity):
        host.make_volume(volume)
    _restore(host, step.domain, identity, part, order.disks)
    host.set_link(step.domain, record.uuid, True)
    target = replace(order.target, name=name)
    limit_s = CANARY_S if order.disks is None else DISK_CANARY_S
    _wait("a first clone did not answer", lambda: order.ask(target).is_right, limit_s)


def _canary_uuid(uuid: str) -> str:
    return f"{'1' if uuid[0] == '0' else '0'}{uuid[1:]}"


def _end(host: Host, step: TakeSnapshot, frozen: Path | None, *, is_taken: bool) -> None:
    """Leave nothing of the template; what cannot be removed now is removed by a later plan, or by the keeper.

    Args:
        host: Where it is.
        step: It says which domain.
        frozen: The template's disk, None where it has none.
        is_taken: Whether the snapshot is there: its disk stays with it.
    """
    with suppress(HypervisorError):
        facts = host.facts(step.domain)
        if facts is not None:
            if facts.metadata.get("group") != step.group or facts.uuid not in (step.uuid, _canary_uuid(step.uuid)):
                return
            if facts.state not in (DomainState.SHUTOFF, DomainState.CRASHED):
                host.destroy(step.domain, facts.uuid)
            if facts.is_persistent:
                host.undefine(step.domain, facts.uuid)
        if frozen is not None:
            owners, kept = (step.uuid, _canary_uuid(step.uuid)), frozen.name if is_taken else ""
            remove_volumes(host, lambda volume: owner_of(volume) in owners and volume != kept)


def _publish(part: Path, snapshot: Path, frozen: Path | None) -> None:
    """Put the snapshot in its place, its manifest first: a snapshot without one would be taken for a damaged one."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    manifest: dict[str, Any] = {"format": 1, "sha256": digest, "bytes": part.stat().st_size}
    if frozen is not None:
        state = frozen.stat()
        manifest["disk"] = {"path": str(frozen), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    text = json.dumps(manifest) + "\n"
    files.replace_file(snapshot.with_suffix(".json"), text.encode(), mode=files.PRIVATE, is_durable=True)
    part.replace(snapshot)


def _wait(failure: str, is_so: Callable[[], bool], limit_s: float) -> None:
    clock, pause = SystemClock(), threading.Event()
    until_s = clock.monotonic_s() + limit_s
    while not is_so():
        if clock.monotonic_s() >= until_s:
            raise HypervisorError(f"{failure} within {limit_s:g} s")
        pause.wait(LOOK_S)
