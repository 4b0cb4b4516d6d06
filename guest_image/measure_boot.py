"""Measures what each option costs or saves at boot: ``python3 guest_image/measure_boot.py --image DIR``.

Each variant boots the image in QEMU (TCG, user networking, nothing of libvirt), round robin so that the load of the
machine falls on all alike. Prints a Markdown table: seconds from the start of QEMU to the first HTTP 200, CPU seconds
of QEMU from start to end, memory, and seconds from the power button to the end.
"""

import argparse
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if str(Path(__file__).resolve().parent.parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.clock import SystemClock
from guest_image.arguments import FAST_BOOT, SKIPPED_INITCALLS

DEADLINE_S = 60.0
PLAIN = ("console=ttyS0", "quiet", "panic=-1")
GUEST = ("autoscaler.name=web-0000", "autoscaler.address=10.0.2.15/24", "autoscaler.gateway=10.0.2.2")
_CLOCK = SystemClock()
_PAUSE = threading.Event()  # never set: a wait on it is a sleep


@dataclass(frozen=True)
class Variant:
    """One way to boot: the defaults are the recommended way."""

    arguments: tuple[str, ...] = FAST_BOOT
    machine: str = "pc"
    memory_mib: int = 128
    accel: str = "tcg,tb-size=32"
    options: tuple[str, ...] = ()
    kernel: Path | None = None


@dataclass(frozen=True)
class Boot:
    """What one boot took."""

    ready_s: float
    guest_s: float
    cpu_s: float
    rss_mib: float
    down_s: float


def without(word: str) -> tuple[str, ...]:
    """Return the recommended arguments less those that begin with ``word``."""
    return tuple(argument for argument in FAST_BOOT if not argument.startswith(word))


def variants(bzimage: Path | None) -> dict[str, Variant]:
    """Return the variants by the name they have in the table."""
    qboot = ("-bios", "/usr/share/qemu/qboot.rom")
    found = {
        "recommended": Variant(),
        "plain command line": Variant(PLAIN),
        "q35": Variant(machine="q35"),
        "qboot": Variant(options=qboot),
        "qboot, q35": Variant(options=qboot, machine="q35"),
        "cpu max": Variant(options=("-cpu", "max")),
        "96 MiB": Variant(memory_mib=96),
        "tb-cache 16 MiB": Variant(accel="tcg,tb-size=16"),
        "tb-cache 64 MiB": Variant(accel="tcg,tb-size=64"),
        "with balloon and rng": Variant(options=("-device", "virtio-balloon-pci", "-device", "virtio-rng-pci")),
        "noapictimer": Variant((*FAST_BOOT, "noapictimer")),
        "tsc=reliable": Variant((*FAST_BOOT, "tsc=reliable")),
    }
    for word in FAST_BOOT[3:]:
        found[f"without {word.partition('=')[0]}"] = Variant(without(word))
    for name in SKIPPED_INITCALLS:
        kept = ",".join(other for other in SKIPPED_INITCALLS if other != name)
        found[f"with {name}"] = Variant((*without("initcall_blacklist"), f"initcall_blacklist={kept}"))
    if bzimage is not None:
        found["bzImage"] = Variant(kernel=bzimage)
    return found


def boot(image: Path, variant: Variant) -> Boot:
    """Boot once, ask once, press the power button, wait for the end.

    Raises:
        TimeoutError: The guest did not serve or did not end in time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as directory:
        place, start_s = Path(directory), _CLOCK.monotonic_s()
        with _qemu(image, variant, place) as (process, port):
            guest_s = _wait_until_serving(place / "console", process)
            _ask(port)
            ready_s = _CLOCK.monotonic_s() - start_s
            rss_mib = _rss_mib(process.pid)
            pressed_s = _CLOCK.monotonic_s()
            _press_power_button(place / "monitor")
            process.wait(DEADLINE_S)
            down_s = _CLOCK.monotonic_s() - pressed_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Boot(ready_s, guest_s, cpu_s, rss_mib, down_s)


@contextmanager
def _qemu(image: Path, variant: Variant, place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = _free_port()
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "1"]
    command += ["-machine", variant.machine, "-accel", variant.accel, "-m", str(variant.memory_mib), *variant.options]
    command += ["-kernel", str(variant.kernel or image / "vmlinuz"), "-initrd", str(image / "initramfs.img")]
    command += ["-append", " ".join((*variant.arguments, *GUEST)), "-serial", f"file:{place}/console"]
    command += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:8080"]
    command += ["-device", "virtio-net-pci,netdev=net,romfile=", "-qmp", f"unix:{place}/monitor,server=on,wait=off"]
    process = subprocess.Popen(command)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_serving(console: Path, process: subprocess.Popen[bytes]) -> float:
    """Return the guest's own seconds since the kernel began, when it says that it serves."""
    deadline_s = _CLOCK.monotonic_s() + DEADLINE_S
    while _CLOCK.monotonic_s() < deadline_s and process.poll() is None:
        text = console.read_text(errors="replace") if console.exists() else ""
        line = next((line for line in text.splitlines(keepends=True) if "serving as" in line), "")
        if line.endswith("\n"):
            return float(line.split()[1])
        _PAUSE.wait(0.003)
    raise TimeoutError("the guest does not serve")


def _ask(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        if b" 200 " not in connection.recv(4096):
            raise TimeoutError("the guest does not answer 200")


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _press_power_button(monitor: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(monitor))
        lines = connection.makefile("r")
        lines.readline()
        for name in ("qmp_capabilities", "system_powerdown"):
            connection.sendall(json.dumps({"execute": name}).encode() + b"\n")
            lines.readline()


def _median(boots: list[Boot], field: str) -> float:
    return float(statistics.median(getattr(boot, field) for boot in boots))


def _row(name: str, boots: list[Boot]) -> str:
    if not boots:
        return f"| {name} | does not boot | | | | |"
    ready_s, cpu_s = [boot.ready_s for boot in boots], [boot.cpu_s for boot in boots]
    return (
        f"| {name} | {statistics.median(ready_s):.2f} ({min(ready_s):.2f}) | {_median(boots, 'guest_s'):.2f} "
        f"| {statistics.median(cpu_s):.2f} ({min(cpu_s):.2f}) | {_median(boots, 'rss_mib'):.0f} "
        f"| {_median(boots, 'down_s'):.2f} |"
    )


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the boot of the guest image.")
    parser.add_argument("--image", type=Path, required=True, help="directory that build.py filled")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bzimage", type=Path, help="the distribution's own vmlinuz, to compare")
    parser.add_argument("names", nargs="*", help="variants to measure; all if none is named")
    options = parser.parse_args()
    chosen = {n: v for n, v in variants(options.bzimage).items() if not options.names or n in options.names}
    boots: dict[str, list[Boot]] = {name: [] for name in chosen}
    for number in range(options.rounds):
        for name, variant in chosen.items():
            try:
                boots[name].append(boot(options.image, variant))
            except (TimeoutError, subprocess.TimeoutExpired, OSError) as error:
                sys.stderr.write(f"round {number}: {name}: {error}\n")
    lines = [
        "| variant | ready s (best) | guest's part s | CPU s (best) | RSS MiB | shutdown s |",
        "|---|---|---|---|---|---|",
    ]
    sys.stdout.write("\n".join([*lines, *(_row(name, found) for name, found in boots.items())]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
