"""A disk image as a distribution makes one: Debian with systemd and cloud-init, and a boot loader of its own.

``build(directory)`` returns it, made once and kept: a raw disk whose one partition holds GRUB's files, the kernel and
everything else. On purpose it has what badly made images have: a machine-id and SSH host keys that all its copies would
share. A unit serves on port 8080 as soon as cloud-init has made the domain what it is to be.
"""

import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from guest_image.packages import _proxy_options, distribution, own_sources, read_sources

SECTOR: Final = 512
FIRST_SECTOR: Final = 2048
SIZE_MIB: Final = 640
BAKED_MACHINE_ID: Final = "0123456789abcdef0123456789abcdef"
PACKAGES: Final = (
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-cloud-amd64",
    "cloud-init",
    "openssh-server",
    "qemu-guest-agent",
    "busybox-static",
    "grub-pc-bin",
    "iproute2",
)
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/i18n/*")
MASKED: Final = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
                 "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service", "getty@tty1.service",
                 "serial-getty@ttyS0.service", "ssh.service", "kmod-static-nodes.service",
          "cloud-config.service", "cloud-final.service")  # fmt: skip
INITRAMFS: Final = "MODULES=list\nCOMPRESS=lz4\n"
MODULES: Final = "virtio_pci\nvirtio_blk\next4\n"
CLOUD_CFG: Final = """\
datasource_list: [NoCloud]
ssh_genkeytypes: [ed25519]
cloud_config_modules: []
cloud_final_modules: []
"""
UNIT: Final = """\
[Unit]
After=cloud-init.service network-online.target
Wants=network-online.target
[Service]
ExecStart=/usr/bin/busybox httpd -f -p 8080 -h /srv/www
[Install]
WantedBy=multi-user.target
"""
IDENTITY: Final = """\
#!/bin/sh
echo Content-Type: text/plain
echo
echo "hostname $(hostname)"
echo "machine-id $(cat /etc/machine-id)"
echo "mac $(cat /sys/class/net/e*/address)"
echo "address $(ip -4 -o addr show scope global | awk '{print $4}')"
echo "host-key $(cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub)"
echo "left-over-keys $(ls /etc/ssh/ssh_host_rsa_key* 2>/dev/null | wc -l)"
echo "authorized $(cat /home/debian/.ssh/authorized_keys | wc -l)"
echo "greeting $(cat /etc/greeting)"
echo "epoch $(date +%s.%N)"
echo "random $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ')"
echo "root-device $(awk '$2 == "/" {print $1}' /proc/mounts)"
"""
GRUB_CFG: Final = """\
linux /vmlinuz root=/dev/vda1 ro console=ttyS0 quiet cryptomgr.notests=1 mitigations=off net.ifnames=0 \
systemd.show_status=0 no_timer_check
initrd /initrd.img
boot
"""
GRUB_OPTIONS: Final = '-O i386-pc -p "(hd0,msdos1)/boot/grub"'
GRUB_MODULES: Final = "biosdisk part_msdos ext2 linux normal echo"


def build(directory: Path) -> Path:
    """Return the image in ``directory``, built there first where it is not yet; safe to be called side by side."""
    directory.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    image = directory / f"debian-{recipe}.raw"
    with (directory / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            for old in directory.glob("debian-*.raw"):
                old.unlink()
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                _build(Path(scratch), image)
    return image


def _build(scratch: Path, image: Path) -> None:
    root = scratch / "root"
    _install(scratch, root)
    boot, core = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes(), (root / "core.img").read_bytes()
    (root / "core.img").unlink()
    for path in ("usr/lib/grub", "usr/share/grub", "var/lib/apt/lists", "var/cache", "dev"):
        shutil.rmtree(root / path, ignore_errors=True)
    (root / "dev").mkdir()
    aside = scratch / "disk.raw"
    with aside.open("wb") as disk:
        disk.truncate(SIZE_MIB * 1024 * 1024)
    offset = FIRST_SECTOR * SECTOR
    options = f"offset={offset},lazy_itable_init=1,nodiscard,root_owner=0:0"
    size_kib = (SIZE_MIB * 1024 * 1024 - offset) // 1024
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", options, "-d", str(root), str(aside),
         f"{size_kib}k")  # fmt: skip
    _make_bootable(aside, boot, core)
    aside.chmod(0o644)
    aside.replace(image)


def _install(scratch: Path, root: Path) -> None:
    wanted = distribution(Path("/etc/os-release").read_text(encoding="utf-8"))
    sources = []
    for number, (extension, text) in enumerate(own_sources(read_sources(Path("/etc/apt")), wanted.suite)):
        sources.append(scratch / f"apt-{number}.{extension}")
        sources[-1].write_text(text, encoding="utf-8")
    files = _files(scratch / "files")
    masks = "; ".join(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in MASKED)
    _run("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
         *[f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT], "--dpkgopt=force-unsafe-io",
         *[f"--aptopt={option}" for option in _proxy_options()],
         f'--essential-hook=cp -a {files}/. "$1/"',
         f'--customize-hook={masks}; chroot "$1" systemctl -q enable systemd-networkd served',
         f'--customize-hook=chroot "$1" grub-mkimage {GRUB_OPTIONS} -o /core.img {GRUB_MODULES}',
         f'--customize-hook=echo {BAKED_MACHINE_ID} > "$1/etc/machine-id"; rm -f "$1/etc/hostname"',
         wanted.suite, str(root), *map(str, sources))  # fmt: skip


def _files(directory: Path) -> Path:
    """Lay out the files that the image has beside its packages."""
    contents = {
        "etc/initramfs-tools/conf.d/small": INITRAMFS,
        "etc/initramfs-tools/modules": MODULES,
        "etc/cloud/cloud.cfg.d/90-trimmed.cfg": CLOUD_CFG,
        "etc/systemd/system/served.service": UNIT,
        "etc/fstab": "/dev/vda1 / ext4 defaults 0 0\n",
        "srv/www/healthz": "fine\n",
        "srv/www/cgi-bin/identity": IDENTITY,
        "boot/grub/grub.cfg": GRUB_CFG,
    }
    for name, text in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if "cgi-bin" in name else 0o644)
    return directory


def _make_bootable(disk: Path, boot: bytes, core: bytes) -> None:
    """Write GRUB's first sector with a table of one partition, and GRUB itself into the gap behind it."""
    sectors = disk.stat().st_size // SECTOR - FIRST_SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST_SECTOR, sectors)
    assert len(core) < (FIRST_SECTOR - 1) * SECTOR
    with disk.open("r+b") as file:
        file.write(boot[:446] + entry + bytes(48) + b"\x55\xaa")
        file.write(core)


def _run(*command: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["nice", *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n" + "\n".join(done.stderr.strip().splitlines()[-12:]))


if __name__ == "__main__":
    print(build(Path(tempfile.gettempdir()) / f"autoscaler-test-disks-{os.getuid()}"))
