"""What the doctor's gatherers read from this machine, and whose domains are whose."""

import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import gather_images
from cli.doctor.facts import PortFacts
from cli.doctor.gather_images import _partitions, disk_facts, image_facts
from cli.doctor.gather_libvirt import _address, _group_of
from cli.doctor.gather_machine import haproxy, is_synchronised, listeners, ports, space
from common.config import Config, Group
from common.domain import DomainFacts, DomainState
from common.errors import HypervisorError
from common.phases import Phase
from common.run_dir import Lock, is_locked
from common.virt.addresses import Candidate, Rule, Source
from services.actuator.core.record import Record
from tests.ports import free_port


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {"groups": {"web": {"prefix": "web-", "endpoint": "127.0.0.1:1"}}}
    return Config.model_validate(values | changes)


def record(group: str, uuid: str) -> Record:
    return Record(group=group, uuid=uuid, host="local", phase=Phase.READY, since_mono_s=0, since_s=0, boot_id="")


def domain(name: str) -> DomainFacts:
    return DomainFacts(name, "u1", DomainState.RUNNING, "", True)


@pytest.mark.parametrize(
    ("name", "found", "group"),
    [
        ("web-0000", record("web", "u1"), "web"),
        ("other-0000", record("web", "u1"), None),  # another installation's group of the same name
        ("web-0000", record("shop", "u1"), None),
        ("web-0000", record("web", "u2"), None),  # a copy made with other tools carries our element
        ("web-0000", None, None),
        ("old-0000", None, "old"),
        ("old-0000", record("web", "u2"), "old"),
    ],
)
def test_a_domain_belongs_to_a_group_by_name_and_record(name: str, found: Record | None, group: str | None) -> None:
    groups = {
        "web": {"prefix": "web-"},
        "old": {"prefix": "old-", "kind": "existing", "endpoint": "127.0.0.1:2"},
    }
    assert _group_of(config(groups=groups), domain(name), found) == group


def test_a_listener_is_found_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ("127.0.0.1", port) in [(found.address, found.port) for found in listeners()]
        values = {"groups": {"web": {"prefix": "web-", "endpoint": f"127.0.0.1:{port}"}}, "metrics": {"listen": ""}}
        (found,) = ports(config(**values), ())
    assert f"process {os.getpid()}" in found.holder
    assert not found.is_ours


def metrics_port(run: Path, *answering: str) -> PortFacts:
    """Return what is found at an address of the exporter's at which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        values = {"groups": {"web": {"prefix": "web-", "endpoint": "127.0.0.1:1"}}, "metrics": {"listen": address}}
        found = ports(config(**values, system={"run_dir": str(run)}), answering)
    return next(port for port in found if port.key == "metrics.listen")


def test_the_port_of_a_service_is_ours_by_its_lock_whatever_number_it_has(tmp_path: Path) -> None:
    """In a container it tells 1 as its number; the host knows it by another one."""
    lock = Lock.take(tmp_path / "exporter.lock")
    try:
        assert metrics_port(tmp_path, "exporter").is_ours
    finally:
        lock.release()


def test_a_strangers_process_is_not_ours_although_our_service_answers(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "exporter.lock").touch()
    lock = Lock.take(tmp_path / "exporter.lock")  # of another installation
    try:
        found = metrics_port(tmp_path / "ours", "exporter")
    finally:
        lock.release()
    assert (found.is_ours, found.is_running) == (False, True)
    assert f"process {os.getpid()}" in found.holder


def haproxy_port(run: Path, *answering: str) -> PortFacts:
    """Return what is found at a group's endpoint at which nobody listens."""
    groups = {"web": {"prefix": "web-", "endpoint": f"127.0.0.1:{free_port()}"}}
    (found,) = ports(config(groups=groups, metrics={"listen": ""}, system={"run_dir": str(run)}), answering)
    return found


def test_haproxy_is_known_to_run_by_its_own_process_and_not_by_the_balancer(tmp_path: Path) -> None:
    found = haproxy_port(tmp_path, "balancer")
    assert (found.is_expected, found.is_running) == (True, False)
    shutil.copy("/bin/sh", tmp_path / "haproxy")
    command = [tmp_path / "haproxy", "-c", "echo up; read end", "-f", tmp_path / "haproxy.cfg"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        assert haproxy_port(tmp_path, "balancer").is_running
        assert not haproxy_port(tmp_path / "another", "balancer").is_running
        process.stdin.close()
    assert not haproxy_port(tmp_path, "balancer").is_running


def test_a_foreign_address_cannot_be_used() -> None:
    groups = {"web": {"prefix": "web-", "endpoint": "203.0.113.7:9"}}
    (found,) = ports(config(groups=groups, metrics={"listen": ""}), ())
    assert found.bind_error


def test_space_is_that_of_the_nearest_directory(tmp_path: Path) -> None:
    found = space(tmp_path / "not" / "there")
    assert found.path == str(tmp_path)
    assert found.free_bytes > 0
    assert found.is_writable


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "monitor.lock"
    assert not is_locked(path)
    lock = Lock.take(path)
    assert is_locked(path)
    lock.release()
    assert not is_locked(path)


def test_the_kernel_tells_whether_its_clock_is_kept_right() -> None:
    assert is_synchronised() in (True, False, None)


def test_the_haproxy_that_runs_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho HAProxy version 9.8.7\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = haproxy(config())
    assert (found.path, "9.8.7" in found.version_text) == (str(program), True)


class Addresses:
    """A connection that knows leases, and asks for more rights before it asks a guest's agent."""

    def addresses(self, _name: str, rule: Rule) -> tuple[Candidate, ...]:
        if rule.source is Source.AGENT:
            raise HypervisorError("read only")
        return (Candidate("192.0.2.7", "52:54:00:00:00:01"), Candidate("192.0.2.9", "52:54:00:00:00:01"))


STATIC = {"kind": "existing", "address_source": "static", "addresses": {"w-0001": "192.0.2.8"}}


@pytest.mark.parametrize(
    ("keys", "state", "address"),
    [
        ({"kind": "existing"}, DomainState.RUNNING, "192.0.2.7"),
        ({"kind": "existing"}, DomainState.SHUTOFF, None),
        ({"kind": "existing", "address_source": "agent"}, DomainState.RUNNING, None),
        (STATIC, DomainState.RUNNING, None),
        ({}, DomainState.RUNNING, None),
    ],
)
def test_a_running_domain_of_the_users_has_the_address_that_libvirt_knows(
    keys: dict[str, Any], state: DomainState, address: str | None
) -> None:
    group = Group.model_validate({"prefix": "w-", **keys})
    facts = DomainFacts("w-0000", "u", state, "", True)
    assert _address(Addresses(), group, facts) == address  # type: ignore[arg-type]


def image(directory: Path) -> tuple[bool, str]:
    group = config(groups={"web": {"prefix": "web-", "image": {"directory": str(directory)}}}).groups["web"]
    found = image_facts(config(), group, is_thorough=False)
    return found.exists, found.problem


def test_a_missing_and_a_damaged_manifest_are_told_apart(tmp_path: Path) -> None:
    assert image(tmp_path) == (False, "no manifest.json")
    for text in ("{", "[]", '{"kernel": {"file": "k"}}'):
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
        exists, problem = image(tmp_path)
        assert exists
        assert "cannot be understood" in problem
    part = '{"file": "%s", "sha256": "00"}'
    (tmp_path / "manifest.json").write_text(f'{{"kernel": {part % "k"}, "initramfs": {part % "i"}}}', encoding="utf-8")
    (tmp_path / "k").write_bytes(b"kernel")
    assert image(tmp_path)[1].startswith("k has sha256")
    assert "i is missing" in image(tmp_path)[1]


def test_a_disk_that_is_not_there_or_empty_is_not_whole(tmp_path: Path) -> None:
    assert not disk_facts(tmp_path / "none.raw", is_thorough=False).exists


def made(path: Path, form: str) -> Path:
    """Make an empty image with qemu-img, or skip the test."""
    if shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img here")
    subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), "1M"], check=True)
    return path


def test_without_qemu_img_no_image_is_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_images, "SBIN", str(tmp_path))
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    found = disk_facts(tmp_path / "disk.raw", is_thorough=True)
    assert (found.is_tool_missing, found.problem, found.is_usable) == (True, "", False)


def test_an_image_of_another_format_is_refused_as_the_actuator_refuses_it(tmp_path: Path) -> None:
    found = disk_facts(made(tmp_path / "disk.vmdk", "vmdk"), is_thorough=False)
    assert found.problem == "it must be qcow2 or raw, and is vmdk"
    assert not found.is_usable


def test_partitions_are_found_in_both_kinds_of_tables() -> None:
    mbr = bytearray(512 * 64)
    mbr[510:512] = b"\x55\xaa"
    struct.pack_into("<I", mbr, 446 + 8, 2048)
    assert list(_partitions(bytes(mbr))) == [0, 2048 * 512]
    gpt = bytearray(512 * 64)
    gpt[512:520] = b"EFI PART"
    struct.pack_into("<QII", gpt, 512 + 72, 2, 128, 128)
    gpt[1024] = 1
    struct.pack_into("<Q", gpt, 1024 + 32, 4096)
    assert list(_partitions(bytes(gpt))) == [0, 4096 * 512]


def test_a_machine_id_is_read_from_a_raw_disk(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk.raw"
    (root / "etc").mkdir(parents=True)
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), "4m"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no mke2fs here")
    if disk_facts(disk, is_thorough=False).problem:
        pytest.skip("no qemu-img here")
    bare = disk_facts(disk, is_thorough=False)
    assert (bare.machine_id, bare.is_machine_id_read, bare.is_bootable) == ("", True, False)
    (root / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    disk.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert disk_facts(disk, is_thorough=False).machine_id == "0123456789abcdef0123456789abcdef"
    packed = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(packed)], check=True)
    assert disk_facts(packed, is_thorough=False).machine_id == "0123456789abcdef0123456789abcdef"
