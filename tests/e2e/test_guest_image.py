"""The image itself: built twice, interrupted, and booted in QEMU without libvirt."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import SystemClock
from guest_image import build, measure_boot
from guest_image.arguments import FAST_BOOT

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mmdebstrap") is None, reason="needs root and mmdebstrap"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]
BUILD = [sys.executable, str(build.HERE / "build.py")]
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a built image."""
    output = tmp_path_factory.mktemp("image")
    subprocess.run([*BUILD, "--output", str(output)], check=True)
    return output


def hashes(output: Path) -> list[str]:
    manifest = json.loads((output / "manifest.json").read_text())
    return [manifest[part]["sha256"] for part in ("kernel", "initramfs")]


def test_two_builds_give_the_same_bytes(image: Path, tmp_path: Path) -> None:
    subprocess.run([*BUILD, "--output", str(tmp_path)], check=True)
    assert hashes(tmp_path) == hashes(image)


def test_a_second_build_changes_no_file(image: Path) -> None:
    before = [(image / name).stat().st_mtime_ns for name in ("vmlinuz", "initramfs.img", "manifest.json")]
    done = subprocess.run([*BUILD, "--output", str(image)], check=True, capture_output=True, text=True)
    assert "is current" in done.stdout
    assert before == [(image / name).stat().st_mtime_ns for name in ("vmlinuz", "initramfs.img", "manifest.json")]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([*BUILD, "--output", str(tmp_path)], start_new_session=True)
    end_s = SystemClock().monotonic_s() + DEADLINE_S
    while not list(tmp_path.glob(".build-*/root/*")):
        assert SystemClock().monotonic_s() < end_s
        threading.Event().wait(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 130
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_guest_serves_and_an_acpi_shutdown_ends_it_within_2_s(image: Path) -> None:
    found = measure_boot.boot(image, measure_boot.Variant())
    assert found.down_s < 2.0
    assert found.ready_s < DEADLINE_S


@pytest.fixture
def probe_arguments(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Give the arguments of a probe guest."""
    monkeypatch.setattr(measure_boot, "GUEST", ("autoscaler.probe=1",))
    yield FAST_BOOT


def test_a_probe_guest_says_so_and_ends_by_itself(
    image: Path, tmp_path: Path, probe_arguments: tuple[str, ...]
) -> None:
    with measure_boot._qemu(image, measure_boot.Variant(probe_arguments), tmp_path) as (process, _port):
        assert process.wait(DEADLINE_S) == 0
    assert "probe: ok" in (tmp_path / "console").read_text()


def test_a_crash_of_the_application_ends_the_guest(image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "image"
    shutil.copytree(image, broken, ignore=shutil.ignore_patterns(".*"))
    data = (
        (broken / "initramfs.img").read_bytes().replace(b"virtio_net.ko", b"virtio_nix.ko").replace(b"\x7fELF", b"NELF")
    )
    (broken / "initramfs.img").write_bytes(data)
    with measure_boot._qemu(broken, measure_boot.Variant(), tmp_path) as (process, _port):
        assert process.wait(DEADLINE_S) == 0  # panic=-1 resets, and QEMU ends at a reset
