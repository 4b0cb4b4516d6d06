"""Which acceleration a host's domains use, proven by booting a guest, never believed.

A host may offer KVM, in ``/dev/kvm`` and in its capabilities, and still hang every guest under it. So ``auto`` boots a
tiny guest under KVM that only powers itself off, with a deadline; what it did is remembered until something that could
change the answer changes: the machine's boot, its kernel, libvirt, QEMU, the CPU, the image.
"""

import json
import platform
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from common import files
from common.clock import Clock, SystemClock, boot_id
from common.config import Config, Host
from common.domain import PROBE_PREFIX, HostFacts
from common.errors import HypervisorError
from common.hypervisor import Connection
from common.log import logger
from common.state_dir import ensure_state_dir

KVM_DEADLINE_S: Final = 10.0
TCG_DEADLINE_S: Final = 45.0
MEMORY_MIB: Final = 128
STORE: Final = "acceleration.json"
MAX_BYTES: Final = 1024 * 1024
KERNEL, INITRAMFS, MANIFEST = "vmlinuz", "initramfs.img", "manifest.json"


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


def choose_for_host(name: str, host: Host, image_dir: Path, state_dir: Path, clock: Clock) -> Accel:
    """Return the acceleration of a host over a connection of its own; errors as ``choose``."""
    connection = Connection.open(host.uri, is_read_only=False, may_touch=lambda _name: False)
    try:
        return prove(connection, name, host, image_dir, state_dir, clock)
    finally:
        connection.close()


def prove(connection: Prober, name: str, host: Host, image_dir: Path, state_dir: Path, clock: Clock) -> Accel:
    """Return what the configuration asks for; for ``auto``, what was remembered for these circumstances, or is proven.

    Args:
        connection: To the host, read-write.
        name: The host's name in the configuration.
        host: Its ``accel`` decides whether anything is to be proven.
        image_dir: Holds the guest image; it boots the probe.
        state_dir: Holds ``acceleration.json``.
        clock: Times the probe.
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
    accel = _probe(connection, name, kernel, initramfs, clock)
    _remember(state_dir, name, circumstances, accel)
    return accel


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


def _probe(connection: Prober, name: str, kernel: Path, initramfs: Path, clock: Clock) -> Accel:
    """Return KVM if the probe guest ends as it should under it, else software emulation if it does under that."""
    domain = f"{PROBE_PREFIX}{name}"
    connection.sweep(domain)  # one that a killed process left behind
    run = partial(_run, connection, domain, kernel, initramfs, clock)
    fault, took_s = run("kvm", KVM_DEADLINE_S)
    if fault is None:
        return Accel("kvm", f"a probe guest ran under KVM in {took_s:.1f} s")
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
    """Return what was wrong with the probe guest (None: nothing), and how long it ran."""
    start_s = clock.monotonic_s()
    try:
        ended = connection.run_once(probe_xml(domain, accel, kernel, initramfs), deadline_s)
    except HypervisorError as error:
        return f"the probe guest did not start ({_one_line(str(error))})", 0.0
    took_s = clock.monotonic_s() - start_s
    if ended is None:
        return f"the probe guest hung for {deadline_s:g} s", took_s
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
    return Accel(kind, f"{reason} (remembered)") if kind in ("kvm", "qemu") and isinstance(reason, str) else None


def _remember(state_dir: Path, name: str, circumstances: dict[str, str], accel: Accel) -> None:
    """Keep what was proven; where another account's file stands in the way, it is proven again at the next start."""
    path = state_dir / STORE
    store = {**_read(path), name: {**asdict(accel), "circumstances": circumstances}}
    try:
        ensure_state_dir(state_dir)
        text = json.dumps(store, indent=2) + "\n"
        files.replace_file(path, text.encode(), mode=files.PUBLIC, is_durable=False)
    except OSError as error:
        logger().warning("acceleration-not-stored", path=str(path), reason=error.strerror)


def _stored(path: Path) -> bytes:
    return files.read_file(path, MAX_BYTES)


def _read(path: Path, read: Callable[[Path], bytes] = _stored) -> dict[str, Any]:
    """Return a file's JSON object; a missing or unreadable one is empty: the proof is made again."""
    try:
        store = json.loads(read(path))
    except (OSError, ValueError):
        return {}
    return store if isinstance(store, dict) else {}
