"""Runs inside a guest, as root: a template's guest that gives each clone of its memory an identity of its own.

cloud-init starts it from the template's seed. It waits until the template's link is taken away, makes the guest ready
to be saved, and says so on the serial port. A clone goes on from there: when its link comes, its own identity stands in
the last block of its own seed. The address comes last, so nobody reaches the guest before everything else is its own.

Needs Python 3.7, iproute2 and nothing else: systemd and OpenSSH are looked after where they are.
"""

from __future__ import annotations

import calendar
import fcntl
import json
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable  # noqa: UP035 - Python 3.7 has it here

BLOCK_BYTES = 4096
WAITS = "no link: waiting for an identity"
BOOT_S = 120
DAY_MS = 86_400_000
TRIES, FIRST_TRY_S = 5, 0.04  # the first frames of a new link may be lost; each try waits twice as long as the last
BLKFLSBUF = 0x1261
SIOCSIFHWADDR = 0x8924
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
RTC_RD_TIME = 0x80247009
FRESH_BYTES = 128  # more than the driver may have fetched before the snapshot
MAP_POPULATE = 0x8000
ETHERTYPE_IP, ETHERTYPE_ARP = 0x0800, 0x0806
NETWORKERS = ("systemd-networkd.socket", "systemd-networkd.service", "NetworkManager.service")
SSH = ("ssh.socket", "sshd.socket", "ssh.service", "sshd.service")
KEYS = "/etc/ssh/ssh_host_*_key"
CONFIGURED = (
    "/etc/hosts",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/netplan/*",
    "/etc/systemd/network/*",
    "/run/systemd/network/*",
    "/etc/NetworkManager/system-connections/*",
    "/run/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
)


def main() -> None:
    seed = os.path.realpath("/dev/disk/by-label/cidata")
    own = read_identity(seed)
    nic = interface(own["mac"])
    links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    links.bind((0, 1))  # RTMGRP_LINK
    wait_for_link(links, nic, False)
    stopped, key_types = make_ready(nic)
    say(WAITS)
    wait_for_link(links, nic, True)
    new = read_identity(seed)
    take(nic, new)
    say("serving as " + new["name"])
    settle(own, new, stopped, key_types)


def read_identity(seed: str) -> dict[str, str]:
    """Return what stands in the last block of the device now, whatever the kernel remembers of it."""
    device = os.open(seed, os.O_RDONLY)
    try:
        fcntl.ioctl(device, BLKFLSBUF)
        os.lseek(device, -BLOCK_BYTES, os.SEEK_END)
        found = json.loads(os.read(device, BLOCK_BYTES).rstrip(b"\0").decode())
    finally:
        os.close(device)
    return {str(key): str(value) for key, value in found.items()}


def interface(mac: str) -> str:
    """Return the name of the interface with the address."""
    for path in matching("/sys/class/net/*/address"):
        if path.read_text().strip() == mac:
            return path.parent.name
    raise SystemExit("no interface has the address " + mac)


def wait_for_link(links: socket.socket, nic: str, is_up: bool) -> None:
    """Return when the link is as it is to be; whatever the messages say, it is looked at as it is now."""
    while has_link(nic) != is_up:
        links.recv(65536)


def has_link(nic: str) -> bool:
    try:
        return Path("/sys/class/net/" + nic + "/carrier").read_text().strip() == "1"
    except OSError:
        return False  # the interface is down


# --- before the memory is saved ------------------------------------------------------------------------------------


def make_ready(nic: str) -> tuple[list[str], list[str]]:
    """Leave nothing that a clone must not share; return the units that were stopped, and the types of host keys."""
    run("timeout", str(BOOT_S), "systemctl", "is-system-running", "--wait")
    stopped = [unit for unit in NETWORKERS + SSH if run("systemctl", "is-active", "-q", unit) == 0]
    if stopped:
        run("systemctl", "stop", *stopped)
    key_types = [path.name[len("ssh_host_") : -len("_key")] for path in matching(KEYS)]
    for path in matching(KEYS) + matching(KEYS + ".pub"):
        path.unlink()
    run("ip", "address", "flush", "dev", nic)
    run("ip", "link", "set", "dev", nic, "up")
    os.sync()
    clear_free_memory()
    return stopped, key_types


def clear_free_memory() -> None:
    """Fill the free memory with zeros, which a snapshot does not have to hold."""
    free = re.search(r"MemFree: +(\d+)", Path("/proc/meminfo").read_text())
    size = int(free.group(1)) * 1024 * 9 // 10 if free else 0
    if size:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE).close()


# --- after the memory was restored ---------------------------------------------------------------------------------


def take(nic: str, new: dict[str, str]) -> None:
    """Become the one that ``new`` describes; its address comes last."""
    begin_s = time.monotonic()
    reseed(bytes.fromhex(new["seed"]))
    write_machine_id(new["machine_id"])
    socket.sethostname(new["name"])
    Path("/etc/hostname").write_text(new["name"] + "\n")
    set_mac(nic, new["mac"])
    set_clock(nic, new, begin_s)
    address = "{address}/{prefix_length}".format(**new)
    commands = "address add {} dev {}\nroute replace default via {} dev {}\n".format(address, nic, new["gateway"], nic)
    run("ip", "-batch", "-", text=commands)


def reseed(seed: bytes) -> None:
    """Give the kernel's random number generator what no other clone of the same memory has."""
    try:
        hardware = os.open("/dev/hwrng", os.O_RDONLY)
    except OSError:
        fresh = seed
    else:
        fresh = os.read(hardware, FRESH_BYTES) + seed
        os.close(hardware)
    generator = os.open("/dev/urandom", os.O_WRONLY)
    fcntl.ioctl(generator, RNDADDENTROPY, struct.pack("ii", 256, len(fresh)) + fresh)
    fcntl.ioctl(generator, RNDRESEEDCRNG)
    os.close(generator)


def write_machine_id(machine_id: str) -> None:
    run("umount", "-q", "/etc/machine-id")
    for name in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        path = Path(name)
        if path.is_symlink() or not path.exists():
            continue
        path.unlink()
        path.write_text(machine_id + "\n")
        path.chmod(0o444)


def set_mac(nic: str, mac: str) -> None:
    request = struct.pack("16sH6s8x", nic.encode(), 1, raw_mac(mac))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFHWADDR, request)


def set_clock(nic: str, new: dict[str, str], begin_s: float) -> None:
    """Set the wall clock by the gateway, which is asked before the guest has an address, else by the hardware's clock.

    The hardware's clock shows whole seconds: at the moment in which it goes on, it is exact.
    """
    told = ask_gateway(nic, new)
    hardware_ms = hardware_clock_ms()
    if told is None:
        first_ms, until_s = hardware_ms, time.monotonic() + 1.1
        while first_ms == hardware_ms and hardware_ms and time.monotonic() < until_s:
            time.sleep(0.005)
            hardware_ms = hardware_clock_ms()
    known_ms = int(new["epoch_ms"]) + int(1000 * (time.monotonic() - begin_s))  # when the seed was written, at least
    base_ms = max(hardware_ms, known_ms)
    if told is not None:  # its day is that of the base, or a neighbour of it around midnight
        of_day_ms, at_s = told
        difference_ms = (of_day_ms - base_ms + DAY_MS // 2) % DAY_MS - DAY_MS // 2
        base_ms += difference_ms + int(1000 * (time.monotonic() - at_s))
    time.clock_settime(time.CLOCK_REALTIME, base_ms / 1000)


def hardware_clock_ms() -> int:
    try:
        with Path("/dev/rtc0").open("rb") as clock:
            found = struct.unpack("9i", fcntl.ioctl(clock, RTC_RD_TIME, bytes(36)))
    except OSError:
        return 0
    second, minute, hour, day, month, year = found[:6]
    return 1000 * calendar.timegm((year + 1900, month + 1, day, hour, minute, second))


def ask_gateway(nic: str, new: dict[str, str]) -> tuple[int, float] | None:
    """Return the gateway's milliseconds since midnight UTC, and at which monotonic second it had them.

    ARP and ICMP timestamp by hand: the kernel has no address yet, so that nobody can reach the guest.
    """
    own = raw_mac(new["mac"]), socket.inet_aton(new["address"])
    gateway = socket.inet_aton(new["gateway"])
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    line.bind((nic, 0))
    try:
        for number in range(TRIES):
            patience_s = FIRST_TRY_S * 2**number
            there = exchange(line, arp_request(own, gateway), patience_s, partial(arp_answer, gateway))
            if there is None:
                continue
            sent_s = time.monotonic()
            asked = timestamp_request(own, there, gateway, number)
            answer = exchange(line, asked, patience_s, partial(timestamp_answer, own[0], number))
            if answer is not None:
                return int.from_bytes(answer, "big"), (sent_s + time.monotonic()) / 2
    except OSError:
        return None
    finally:
        line.close()
    return None


def exchange(
    line: socket.socket, frame: bytes, patience_s: float, understand: Callable[[bytes], bytes | None]
) -> bytes | None:
    """Send the frame, and return what ``understand`` finds in an answer; None after ``patience_s`` without one."""
    line.send(frame)
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        line.settimeout(max(until_s - time.monotonic(), 0.001))
        try:
            found = understand(line.recv(2048))
        except socket.timeout:  # noqa: UP041 - before Python 3.10 it is no TimeoutError
            return None
        if found is not None:
            return found
    return None


def arp_request(own: tuple[bytes, bytes], gateway: bytes) -> bytes:
    ether = struct.pack("!6s6sH", b"\xff" * 6, own[0], ETHERTYPE_ARP)
    return ether + struct.pack("!HHBBH6s4s6s4s", 1, ETHERTYPE_IP, 6, 4, 1, own[0], own[1], bytes(6), gateway)


def arp_answer(gateway: bytes, frame: bytes) -> bytes | None:
    is_it = len(frame) >= 42 and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"
    return frame[22:28] if is_it and frame[28:32] == gateway else None


def timestamp_request(own: tuple[bytes, bytes], there: bytes, gateway: bytes, number: int) -> bytes:
    ether = struct.pack("!6s6sH", there, own[0], ETHERTYPE_IP)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 1, 0, own[1], gateway)
    ip = ip[:10] + checksum(ip) + ip[12:]
    icmp = struct.pack("!BBHHHIII", 13, 0, 0, os.getpid() & 0xFFFF, number, 0, 0, 0)
    return ether + ip + icmp[:2] + checksum(icmp) + icmp[4:]


def timestamp_answer(own_mac: bytes, number: int, frame: bytes) -> bytes | None:
    """Return the four bytes of the answer's transmit time; a host that keeps no time sets the highest bit."""
    if len(frame) < 54 or frame[:6] != own_mac or frame[12:14] != b"\x08\x00" or frame[23] != 1:
        return None
    icmp = frame[14 + (frame[14] & 15) * 4 :]
    wanted = struct.pack("!HH", os.getpid() & 0xFFFF, number)
    return icmp[16:20] if len(icmp) >= 20 and icmp[0] == 14 and icmp[4:8] == wanted and icmp[16] < 128 else None


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack("!" + "H" * (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def raw_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# --- while it serves ---------------------------------------------------------------------------------------------


def settle(own: dict[str, str], new: dict[str, str], stopped: list[str], key_types: list[str]) -> None:
    """Write the new identity where the next start looks for it, and start again what had to rest."""
    for pattern in CONFIGURED:
        for path in matching(pattern):
            rewrite(path, own, new)
    for kind in key_types:
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", "/etc/ssh/ssh_host_" + kind + "_key")
    run("systemctl", "try-restart", "--no-block", "systemd-journald.service")  # its files are named by the machine-id
    if stopped:
        run("systemctl", "start", "--no-block", *stopped)


def rewrite(path: Path, own: dict[str, str], new: dict[str, str]) -> None:
    """Replace the template's MAC, address and name in a file of settings."""
    try:
        before = after = path.read_text(encoding="utf-8")
        for what in ("mac", "address", "name"):
            pattern = r"(?<![\w.:-])" + re.escape(own[what]) + r"(?![\w:-])"
            after = re.sub(pattern, new[what], after, flags=re.IGNORECASE)
        if after != before:
            path.write_text(after, encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # a directory, or nothing that we wrote


def matching(pattern: str) -> list[Path]:
    return sorted(Path("/").glob(pattern[1:]))


def run(*command: str, text: str | None = None) -> int:
    """Return the exit code; 127 where there is no such command."""
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE if text else quiet, stdout=quiet, stderr=quiet, universal_newlines=True
        )
    except OSError:
        return 127
    process.communicate(text)
    return process.returncode


def say(text: str) -> None:
    """Write a line to the serial port, where the host reads it."""
    with Path("/dev/ttyS0").open("w", encoding="utf-8") as port:
        port.write("autoscaler " + text + "\r\n")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        say("failed: " + repr(error))
        sys.exit(1)
