"""Which acceleration a host's domains use, proven by booting a guest, never believed.

A host may offer KVM, in ``/dev/kvm`` and in its capabilities, and still hang every guest under it. So ``auto`` boots a
tiny guest under KVM that only powers itself off, with a deadline; what it did is remembered until something that could
change the answer changes: the machine's boot, its kernel, libvirt, QEMU, the CPU, the image.

# Note [One prover at a time]
``up``, the actuator and the doctor may all want to know at once, and the probe guest of a host has one name: the second
would end the guest of the first, and take its start for a fault. So whoever proves holds a lock of the host's in the
state directory; the others wait for it and find what was remembered.
"""

import fcntl
import json
import os
import platform
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, Final, Protocol

from common import files
from common.clock import Clock, SystemClock, boot_id
from common.config import Config, Host
from common.domain import PROBE_PREFIX, HostFacts
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.log import logger
from common.plain import plain
from common.state_dir import ensure_state_dir

KVM_DEADLINE_S: Final = 10.0
TCG_DEADLINE_S: Final = 90.0  # as long as a domain may take to boot, by default
PROVER_DEADLINE_S: Final = KVM_DEADLINE_S + TCG_DEADLINE_S + 60.0  # libvirt's own part may take long
LOOK_S: Final = 0.2
MEMORY_MIB: Final = 128
STORE: Final = "acceleration.json"
MAX_BYTES: Final = 1024 * 1024
KERNEL, INITRAMFS, MANIFEST = "vmlinuz", "initramfs.img", "manifest.json"
Say = Callable[[str], object]


def _silent(_text: str) -> None:
    """Tell nobody."""


class Prober(Protocol):
    """What the proof needs of ``common.hypervisor.Connection``."""

    def host_facts(self) -> HostFacts: ...
    def run_once(self, xml: str, deadline_s: float) -> str | None: ...
    def sweep(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Accel:
    """The answer: ``type`` is the libvirt domain type, ``kvm`` or ``qemu`` (software emulation)."""

    type: str
    reason: str

    def __str__(self) -> str:
        """Return the libvirt domain type."""
        return self.type

    @property
    def text(self) -> str:
        """Return one phrase for people."""
        return f"{'KVM' if self.type == 'kvm' else 'software emulation (TCG)'}: {self.reason}"


def choose(config: Config, name: str, connection: Prober, clock: Clock | None = None) -> Accel:
    """Return the acceleration of the host ``name``, proven now or remembered.

    Raises:
        HypervisorError: the probe guest runs under neither; or libvirt failed.
    """
    images, state = config.system.state_path / "images", config.system.state_path
    return prove(connection, name, config.hosts[name], images, state, clock or SystemClock())


def choose_for_host(name: str, host: Host, image_dir: Path, state_dir: Path, clock: Clock, say: Say = _silent) -> Accel:
    """Return the acceleration of a host over a connection of its own; errors as ``choose``."""
    connection = Connection.open(host.uri, is_read_only=False, may_touch=lambda _name: False)
    try:
        return prove(connection, name, host, image_dir, state_dir, clock, say)
    finally:
        connection.close()


def prove(
    connection: Prober,
    name: str,
    host: Host,
    image_dir: Path,
    state_dir: Path,
    clock: Clock,
    say: Say = _silent,
) -> Accel:
    """Return what the configuration asks for; for ``auto``, what was remembered for these circumstances, or is proven.

    Args:
        connection: To the host, read-write.
        name: The host's name in the configuration.
        host: Its ``accel`` decides whether anything is to be proven.
        image_dir: Holds the guest image; it boots the probe.
        state_dir: Holds ``acceleration.json``.
        clock: Times the probe.
        say: Is told what is waited for, where there is something to wait for.

    Raises:
        HypervisorError: as ``choose``; or another process proves it, and comes to no end.
    """
    if host.accel != "auto":
        return Accel("kvm" if host.accel == "kvm" else "qemu", f"the configuration says accel = {host.accel!r}")
    facts = connection.host_facts()
    if "kvm" not in facts.domain_types:
        return Accel("qemu", "libvirt offers no KVM on this host")
    kernel, initramfs = image_dir / KERNEL, image_dir / INITRAMFS
    if not (kernel.exists() and initramfs.exists()):
        return Accel("qemu", f"KVM is not proven: no guest image in {image_dir} (make image)")
    circumstances = _circumstances(facts, host, image_dir)
    known = _recall(state_dir, name, circumstances)
    if known is not None:
        return known
    with _sole_prover(state_dir, name, clock, say):
        known = _recall(state_dir, name, circumstances)  # by the one that was waited for
        if known is None:
            known = _probe(connection, name, kernel, initramfs, clock, say)
            _remember(state_dir, name, circumstances, known)
    return known


def remembered(connection: Prober, name: str, host: Host, image_dir: Path, state_dir: Path) -> Accel | None:
    """Return what was proven under the present circumstances, whatever ``accel`` says; None if nothing was."""
    try:
        circumstances = _circumstances(connection.host_facts(), host, image_dir)
    except FileNotFoundError:
        return None  # without the image nothing can have been proven with it
    return _recall(state_dir, name, circumstances)


def probe_xml(name: str, accel: str, kernel: Path, initramfs: Path) -> str:
    """Return the definition of the probe guest: no disk, no network, a kernel that is told to power off at once.

    A guest that resets must not pass for one that powered off, so a reset only starts it again, until the deadline.
    """
    root = ET.Element("domain", type=accel)
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = str(MEMORY_MIB)
    ET.SubElement(root, "vcpu").text = "1"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch=platform.machine(), machine="pc").text = "hvm"
    ET.SubElement(system, "kernel").text = str(kernel)
    ET.SubElement(system, "initrd").text = str(initramfs)
    ET.SubElement(system, "cmdline").text = f"{_kernel_arguments(kernel.parent)} autoscaler.probe=1"
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    if accel == "kvm":
        ET.SubElement(root, "cpu", mode="host-passthrough")
    ET.SubElement(root, "on_poweroff").text = "destroy"
    ET.SubElement(root, "on_reboot").text = "restart"
    ET.SubElement(root, "on_crash").text = "destroy"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "serial", type="null")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(root, encoding="unicode")


@contextmanager
def _sole_prover(state_dir: Path, name: str, clock: Clock, say: Say) -> Iterator[None]:
    """Hold the right to prove this host; see Note [One prover at a time].

    Raises:
        HypervisorError: another process still held it after ``PROVER_DEADLINE_S``.
    """
    begun_s = clock.monotonic_s()
    with _opened(state_dir, f"acceleration.{name}.lock") as lock:
        while not _is_taken(lock):
            if clock.monotonic_s() - begun_s > PROVER_DEADLINE_S:
                raise HypervisorError(
                    f"another process has been proving the acceleration of {name} for {PROVER_DEADLINE_S:.0f} s"
                )
            say("another process proves it; waiting for what it finds")
            Event().wait(LOOK_S)
        yield


@contextmanager
def _opened(state_dir: Path, file: str) -> Iterator[int | None]:
    """Give a file to lock, made where it is missing; None where this account can have none there."""
    path, lock = state_dir / file, None
    try:
        ensure_state_dir(state_dir)
        lock = files.open_lock(path, is_shared=True)
    except OSError as error:
        logger().warning("acceleration-not-locked", path=str(path), reason=error.strerror)
    try:
        yield lock
    finally:
        if lock is not None:
            os.close(lock)


def _is_taken(lock: int | None) -> bool:
    """Return whether the lock is now ours; one that nobody can have stands in nobody's way."""
    if lock is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _probe(connection: Prober, name: str, kernel: Path, initramfs: Path, clock: Clock, say: Say) -> Accel:
    """Return KVM if the probe guest ends as it should under it, else software emulation if it does under that."""
    domain = f"{PROBE_PREFIX}{name}"
    connection.sweep(domain)  # one that a killed process left behind
    run = partial(_run, connection, domain, kernel, initramfs, clock)
    say(f"a probe guest is to power itself off under KVM within {KVM_DEADLINE_S:.0f} s")
    fault, took_s = run("kvm", KVM_DEADLINE_S)
    if fault is None:
        return Accel("kvm", f"a probe guest ran under KVM in {took_s:.1f} s")
    say(f"{fault} under KVM; now software emulation, within {TCG_DEADLINE_S:.0f} s")
    tcg_fault, took_s = run("qemu", TCG_DEADLINE_S)
    if tcg_fault is not None:
        raise HypervisorError(
            f"the probe guest runs neither under KVM ({fault}) nor under software emulation ({tcg_fault}); "
            f"is the guest image {kernel.parent} whole? (make image)"
        )
    return Accel("qemu", f"KVM is offered, but {fault} under it; software emulation took {took_s:.1f} s")


def _run(
    connection: Prober, domain: str, kernel: Path, initramfs: Path, clock: Clock, accel: str, deadline_s: float
) -> tuple[str | None, float]:
    """Return what was wrong with the probe guest (None: nothing), and how long it ran.

    Raises:
        HypervisorError: somebody ended the guest: that shows nothing.
    """
    start_s = clock.monotonic_s()
    try:
        ended = connection.run_once(probe_xml(domain, accel, kernel, initramfs), deadline_s)
    except HypervisorError as error:
        return f"the probe guest did not start ({_one_line(str(error))})", 0.0
    took_s = clock.monotonic_s() - start_s
    if ended is None:
        return f"the probe guest hung for {deadline_s:g} s", took_s
    if ended == "destroyed":
        raise HypervisorError(f"somebody ended the probe guest {domain} after {took_s:.1f} s: nothing is proven")
    return (None if ended == "shutdown" else f"the probe guest ended as {ended!r}"), took_s


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]}…"


def _circumstances(facts: HostFacts, host: Host, image_dir: Path) -> dict[str, str]:
    """Return all that could change the answer; of a remote host too, this machine's boot and kernel do no harm."""
    return {
        "uri": host.uri,
        "boot": boot_id(),
        "kernel": platform.release(),
        "libvirt": facts.libvirt,
        "hypervisor": facts.hypervisor,
        "cpu": facts.cpu_model,
        "image": _image_digest(image_dir),
    }


def _image_digest(image_dir: Path) -> str:
    """Return a digest of the image's manifest; of sizes and times where there is none."""
    try:
        return sha256((image_dir / MANIFEST).read_bytes()).hexdigest()
    except FileNotFoundError:
        stats = [(image_dir / file).stat() for file in (KERNEL, INITRAMFS)]
        return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def _kernel_arguments(image_dir: Path) -> str:
    """Return what the image wants its kernel told, as its manifest says."""
    return str(_read(image_dir / MANIFEST, Path.read_bytes).get("kernel_arguments", "console=ttyS0 quiet"))


def _recall(state_dir: Path, name: str, circumstances: dict[str, str]) -> Accel | None:
    entry = _read(state_dir / STORE).get(name)
    if not isinstance(entry, dict) or entry.get("circumstances") != circumstances:
        return None
    kind, reason = entry.get("type"), entry.get("reason")
    return Accel(kind, plain(f"{reason} (remembered)")) if kind in ("kvm", "qemu") and isinstance(reason, str) else None


def _remember(state_dir: Path, name: str, circumstances: dict[str, str], accel: Accel) -> None:
    """Keep what was proven; where another account's file stands in the way, it is proven again at the next start."""
    with _opened(state_dir, "acceleration.lock") as lock:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other hosts' entries are written at the same time
        _store(state_dir / STORE, name, {**asdict(accel), "circumstances": circumstances})


def _store(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Put one host's entry into the file, beside those of the others."""
    text = json.dumps({**_read(path), name: entry}, indent=2) + "\n"
    try:
        files.replace_file(path, text.encode(), mode=files.PUBLIC, is_durable=False)
    except OSError as error:
        logger().warning("acceleration-not-stored", path=str(path), reason=error.strerror)


def _stored(path: Path) -> bytes:
    return files.read_file(path, MAX_BYTES)


def _read(path: Path, read: Callable[[Path], bytes] = _stored) -> dict[str, Any]:
    """Return a file's JSON object; a missing or unreadable one is empty: the proof is made again."""
    try:
        store = json.loads(read(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return store if isinstance(store, dict) else {}
