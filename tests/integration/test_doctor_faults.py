"""``autoscaler doctor`` on a real host: quiet where all is well, and every planted fault found.

The faults are real: a network of ours with STP on, a taken port, a truncated image, a full file system, two disks with
one machine-id, a guest that does not answer, a firewall that drops what it forwards.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.acceleration import INITRAMFS, KERNEL, MANIFEST
from common.config import Network
from common.network_xml import network_xml
from common.phases import Phase
from services.actuator.core.record import Record
from tests.named import Named

ROOT = Path(__file__).resolve().parents[2]
URI = "qemu:///system"
NAME, BRIDGE, SUBNET, PORT = "asdoctor", "asdoctor0", "192.168.197.0/24", 18497
TWINS = ("asdtwin-0000", "asdtwin-0001")
MACHINE_ID = "0123456789abcdef0123456789abcdef"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="networks, domains and file systems need root")

CONFIG = """
[system]
run_dir = "{home}/run"
state_dir = "{home}/state"

[network]
name = "{name}"
bridge = "{bridge}"
subnet = "{subnet}"
slots = 4

[metrics]
listen = "127.0.0.1:{metrics_port}"

[groups.web]
prefix = "asdoctor-"
endpoint = "127.0.0.1:{port}"

[groups.web.image]
directory = "{images}"
memory_mib = 128
cpu_quota = 0.4
"""

TWIN_GROUP = """
[groups.twin]
kind = "existing"
prefix = "asdtwin-"
min = 0
max = 2
endpoint = "127.0.0.1:{port}"
port = 1
address_source = "static"
addresses = { asdtwin-0000 = "127.0.0.1" }
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a directory that QEMU's own user can enter."""
    with tempfile.TemporaryDirectory(prefix="asd-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        (Path(directory) / "state").mkdir(mode=0o711)
        yield Path(directory)


def write_config(home: Path, images: Path, extra: str = "") -> Path:
    text = CONFIG.format(
        home=home, name=NAME, bridge=BRIDGE, subnet=SUBNET, metrics_port=PORT + 1000, port=PORT, images=images
    )
    path = home / "autoscaler.toml"
    path.write_text(text + extra, encoding="utf-8")
    return path


def doctor(config: Path, *args: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what ``doctor --json`` says, and check that its exit code is the one it names."""
    command = [*prefix, sys.executable, "-m", "cli", "--config", str(config), "doctor", "--json", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, 1, 3), done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    return told


def faults(told: dict[str, Any]) -> set[tuple[str, str]]:
    """Return check and subject of all that needs mending; each says what, why and how."""
    bad = [found for found in told["findings"] if found["level"] in ("warning", "error")]
    assert all(found["what"] and found["why"] and found["mend"] for found in bad)
    return {(found["check"], found["about"]) for found in bad}


def of_the_host(told: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the faults that come from whatever else runs on the machine that tests: its firewall, its CPUs."""
    return {fault for fault in faults(told) if fault[0] in ("forward-policy", "ip-forward", "cpus", "memory", "clock")}


def test_a_healthy_host_has_nothing_to_mend_and_is_left_as_it_was(home: Path, images: Path) -> None:
    config = write_config(home, images)
    told = doctor(config)
    assert faults(told) - of_the_host(told) == set()
    checks = {found["check"] for found in told["findings"]}
    assert {"libvirt", "kvm", "network-stp", "space", "ports", "haproxy", "clock", "image", "readiness"} <= checks
    assert sorted(path.name for path in home.iterdir()) == ["autoscaler.toml", "state"]
    assert list((home / "state").iterdir()) == []
    assert domains_and_networks() == []


def test_proving_boots_a_guest_that_answers_and_obeys_and_leaves_nothing(home: Path, images: Path) -> None:
    told = doctor(write_config(home, images), "--prove")
    found = {found["check"]: found for found in told["findings"]}
    assert found["boots"]["level"] == "ok", found["boots"]
    assert found["acpi"]["level"] == "ok", found["acpi"]
    assert found["kvm"]["level"] in ("ok", "note")
    assert "not proven" not in found["kvm"]["what"], told["findings"]
    assert domains_and_networks() == []


def test_every_planted_fault_is_found(home: Path, images: Path) -> None:
    broken = home / "images"
    config = write_config(home, broken, TWIN_GROUP.replace("{port}", str(PORT + 1)))
    with ExitStack() as stack:
        is_small = small_state(home, stack)
        damaged_image(images, broken)
        taken_port(stack)
        network_with_stp(stack)
        twins(home, stack)
        told = doctor(config)
    assert faults(told) - of_the_host(told) == {
        *([("space", "system.state_dir")] if is_small else []),
        ("image", "group web"),
        ("ports", "groups.web.endpoint"),
        ("network-stp", f"host local, network {NAME}"),
        ("machine-id", "group twin"),
        ("readiness", "group twin"),
        ("services", ""),  # domains of ours without anybody who looks after them
    }
    said = {found["check"]: f"{found['what']} {found['mend']}" for found in told["findings"]}
    assert f"process {os.getpid()}" in " ".join(f["what"] for f in told["findings"] if f["check"] == "ports")
    assert "initramfs.img" in next(f["what"] for f in told["findings"] if f["check"] == "image")
    assert f"ip link set {BRIDGE} type bridge stp_state 0" in said["network-stp"]
    assert told["exit_code"] == 3


def test_an_image_that_make_up_would_refuse_is_refused_here_too(home: Path, images: Path) -> None:
    disk, merged, wrong = home / "base.raw", home / "good.xml", home / "wrong.xml"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1024 * 1024))
    merged.write_text("<domain><title>web</title></domain>", encoding="utf-8")
    wrong.write_text("<domain><nothing/></domain>", encoding="utf-8")
    text = write_config(home, images).read_text(encoding="utf-8")

    def said(keys: str) -> str:
        config = home / "autoscaler.toml"
        config.write_text(text.partition("directory =")[0] + keys, encoding="utf-8")
        return next(f"{f['level']}: {f['what']}" for f in doctor(config)["findings"] if f["check"] == "image")

    disk.chmod(0o600)
    assert "must be readable for QEMU's user" in said(f'disk = "{disk}"')
    disk.chmod(0o644)
    assert said(f'disk = "{disk}"').startswith("ok")
    assert "none.yaml cannot be read" in said(f'disk = "{disk}"\nuser_data = "{home}/none.yaml"')
    assert "none.xml cannot be read" in said(f'directory = "{images}"\nxml = "{home}/none.xml"')
    assert said(f'directory = "{images}"\nxml = "{merged}"').startswith("ok")
    assert "libvirt refuses the definition" in said(f'directory = "{images}"\nxml = "{wrong}"')
    assert list((home / "state").iterdir()) == []
    assert domains_and_networks() == []


def test_a_firewall_that_drops_what_it_forwards_is_found(home: Path, images: Path) -> None:
    """In a network namespace of its own: the machine's firewall is left alone."""
    script = 'iptables -P FORWARD DROP && exec "$@"'
    told = doctor(write_config(home, images), prefix=("unshare", "--net", "sh", "-c", script, "sh"))
    assert ("forward-policy", f"host local, network {NAME}") in faults(told)
    (found,) = [found for found in told["findings"] if found["check"] == "forward-policy"]
    assert "iptables -I FORWARD -i asdoctor0 -j ACCEPT" in found["mend"]


def test_one_group_is_looked_at_alone_and_an_unknown_one_is_refused(home: Path, images: Path) -> None:
    config = write_config(home, images, TWIN_GROUP.replace("{port}", str(PORT + 1)))
    abouts = {found["about"] for found in doctor(config, "--group", "twin")["findings"]}
    assert "group twin" in abouts
    assert not [about for about in abouts if "web" in about.removeprefix("groups.web.endpoint")]
    command = [sys.executable, "-m", "cli", "--config", str(config), "doctor", "--group", "wep"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "groups: web, twin" in done.stderr.replace("\n", " ")


# --- planting -------------------------------------------------------------------------------------------------------


def small_state(home: Path, stack: ExitStack) -> bool:
    """Put the state directory on a file system of 8 MiB; return whether that is allowed here."""
    state = str(home / "state")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", state], check=False, capture_output=True)
    if done.returncode == 0:
        stack.callback(subprocess.run, ["umount", state], check=True)
    return done.returncode == 0


def damaged_image(images: Path, broken: Path) -> None:
    """Copy the image and cut its initramfs short."""
    broken.mkdir()
    for name in (KERNEL, INITRAMFS, MANIFEST):
        shutil.copyfile(images / name, broken / name)
    os.truncate(broken / INITRAMFS, 1000)


def taken_port(stack: ExitStack) -> None:
    """Listen where the endpoint should be."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", PORT)))
    listener.listen()


def network_with_stp(stack: ExitStack) -> None:
    """Make our network, and switch STP on at its bridge."""
    network = Network(name=NAME, bridge=BRIDGE, subnet=SUBNET, slots=4)
    connection = Named.open(URI, is_read_only=False, may_touch=lambda _name: False)
    stack.callback(connection.close)
    stack.callback(connection.remove_network, NAME)
    connection.ensure_network(network_xml(network), NAME)
    subprocess.run(["ip", "link", "set", BRIDGE, "type", "bridge", "stp_state", "1"], check=True)


def twins(home: Path, stack: ExitStack) -> None:
    """Define two domains whose disks carry one machine-id; the first runs, is marked ready, and answers nothing."""
    connection = Named.open(URI, is_read_only=False, may_touch=lambda name: name in TWINS)
    stack.callback(connection.close)
    for name in TWINS:
        disk = home / f"{name}.raw"
        make_disk(home, disk)
        identity = str(uuid.uuid4())
        stack.callback(connection.undefine, name)
        connection.define(twin_xml(name, identity, disk))
        record = Record(
            group="twin", uuid=identity, host="local", phase=Phase.READY, since_mono_s=0, since_s=0, boot_id="x"
        )
        connection.set_metadata(name, record.to_metadata())
    stack.callback(connection.destroy, TWINS[0])
    connection.start(TWINS[0])


def make_disk(home: Path, disk: Path) -> None:
    """Make a raw disk of 8 MiB with an ext4 file system in its first partition, and a machine-id in that."""
    root = home / "root"
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "machine-id").write_text(f"{MACHINE_ID}\n", encoding="ascii")
    part = home / "part.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(part), "7m"], check=True)
    entry = bytes((0x80, 0, 0, 0, 0x83, 0, 0, 0)) + (2048).to_bytes(4, "little") + (14336).to_bytes(4, "little")
    sector = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    disk.write_bytes(sector + bytes(2048 * 512 - 512) + part.read_bytes())
    part.unlink()


def twin_xml(name: str, identity: str, disk: Path) -> str:
    return f"""<domain type='qemu'><name>{name}</name><uuid>{identity}</uuid><memory unit='MiB'>32</memory>
    <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
    <target dev='vda' bus='virtio'/></disk></devices></domain>"""


def domains_and_networks() -> list[str]:
    """Return what libvirt still has under a name of these tests."""
    connection = Named.open(URI, is_read_only=True, may_touch=lambda name: name.startswith("asd"))
    try:
        found = [facts.name for facts in connection.domains() if facts.name.startswith("asd")]
        return found + [xml for xml, _ in connection.networks() if f"<name>{NAME}</name>" in xml]
    finally:
        connection.close()
