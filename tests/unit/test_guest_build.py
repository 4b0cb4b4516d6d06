"""The pure parts of the image build, and what it does without a network or root."""

import json
import lzma
import os
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from guest_image import arguments, build, cpio, kernel, packages
from guest_image.errors import BuildError

SIGNATURE = b"S" * 20 + struct.pack(">8BI", *bytes(8), 20) + b"~Module signature appended~\n"


def module(*needs: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_the_archive_does_not_depend_on_the_order_of_its_members() -> None:
    members = {"b/c": cpio.file(b"1"), "a": cpio.file(b"22", 0o755), "b/a/x": cpio.file(b"")}
    assert cpio.write(members) == cpio.write(dict(reversed(members.items())))


def test_the_archive_carries_the_given_time_and_nothing_else_changes() -> None:
    early, late = cpio.write({"a": cpio.file(b"1")}, 0), cpio.write({"a": cpio.file(b"1")}, 1700000000)
    assert late.replace(b"%08X" % 1700000000, b"0" * 8) == early


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_reads_back_what_is_written(tmp_path: Path) -> None:
    archive = cpio.write({"d/f": cpio.file(b"text", 0o755), "link": cpio.Entry(stat.S_IFLNK | 0o777, b"d/f")})
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "link").read_bytes() == b"text"
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o755


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "virtio.ko").write_bytes(module())
    (tmp_path / "virtio_pci.ko").write_bytes(module("virtio-ring", "virtio"))
    (tmp_path / "virtio-ring.ko.xz").write_bytes(lzma.compress(module("virtio")))
    (tmp_path / "net/virtio_net.ko").write_bytes(module("virtio"))
    names = [name for name, _ in kernel.modules(tmp_path, ("virtio_pci", "virtio_net", "built_in"))]
    assert names == ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "virtio_net.ko"]


def test_a_module_that_is_loaded_already_is_not_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(module())
    (tmp_path / "b.ko").write_bytes(module("a"))
    assert [name for name, _ in kernel.modules(tmp_path, ("b",), ("a",))] == ["b.ko"]


def test_a_signature_is_cut_off_and_an_unsigned_module_stays_as_it_is() -> None:
    assert kernel.unsigned(module("x") + SIGNATURE) == module("x")
    assert kernel.unsigned(module("x")) == module("x")


def bzimage(payload: bytes) -> bytes:
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + bytes(16) + payload + b"rest"


ELF = b"\x7fELF" + b"code" * 9 + struct.pack("<3I", 4, 4, 18) + b"Xen\0" + bytes(4)


def test_the_kernel_is_unpacked_where_it_can_be_entered_directly() -> None:
    assert kernel.bootable(bzimage(lzma.compress(ELF))) == ELF


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")
def test_a_zstd_kernel_is_unpacked() -> None:
    packed = subprocess.run(["zstd", "-c", "-q"], input=ELF, capture_output=True, check=True).stdout
    assert kernel.bootable(bzimage(packed + struct.pack("<I", len(ELF)))) == ELF


@pytest.mark.parametrize("payload", [lzma.compress(b"\x7fELF without the note"), b"unknown method"])
def test_a_kernel_that_cannot_be_entered_directly_stays_as_it_is(payload: bytes) -> None:
    assert kernel.bootable(bzimage(payload)) == bzimage(payload)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(BuildError, match="not an x86 bzImage"):
        kernel.bootable(bytes(1024))


def test_the_newest_kernel_is_taken(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for version in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "5.10.0-99-cloud-amd64"):
        (tmp_path / "boot" / f"vmlinuz-{version}").touch()
        (tmp_path / "lib/modules" / version).mkdir(parents=True)
    assert kernel.find(tmp_path)[1].name == "6.1.0-56-cloud-amd64"


def test_a_package_without_a_kernel_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no /boot/vmlinuz"):
        kernel.find(tmp_path)


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "linux-image-cloud-amd64"),
        ('ID=ubuntu\nVERSION_CODENAME="noble"\n', "linux-image-virtual"),
    ],
)
def test_each_distribution_has_its_kernel_package(text: str, package: str) -> None:
    assert packages.distribution(text).packages == (package, "busybox-static")


@pytest.mark.parametrize("text", ["", "ID=fedora\nVERSION_CODENAME=x\n", "ID=debian\n"])
def test_another_distribution_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="debian or ubuntu only"):
        packages.distribution(text)


STANZAS = """# a comment
Types: deb deb-src
URIs: http://a.invalid/debian
Suites: bookworm bookworm-updates trixie
# another
Components: main
Signed-By:
 -----BEGIN-----
 .
 -----END-----

Types: deb
URIs: http://b.invalid/other
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://c.invalid/debian
Suites: bookworm
Components: main
"""


def test_only_the_distributions_own_stanzas_are_used() -> None:
    found = packages.own_sources({"debian.sources": STANZAS}, "bookworm")
    expected = (
        "Types: deb\nUris: http://a.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By: -----BEGIN-----\n .\n -----END-----\n"
    )
    assert found == [("sources", expected)]


def test_only_the_distributions_own_lines_are_used() -> None:
    text = (
        "deb http://a.invalid/debian bookworm main # why\n"
        "deb [signed-by=/k] http://a.invalid/s bookworm-security main\n"
        "deb-src http://a.invalid/debian bookworm main\n"
        "deb http://b.invalid/other cloud-bookworm main\n#deb http://a.invalid/x bookworm main\n"
    )
    kept = "deb http://a.invalid/debian bookworm main\ndeb [signed-by=/k] http://a.invalid/s bookworm-security main\n"
    assert packages.own_sources({"sources.list": text, "x.list.save": text}, "bookworm") == [("list", kept)]


def test_a_machine_without_sources_of_its_own_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no apt source of this machine serves noble"):
        packages.fetch(tmp_path / "root", packages.Distribution("ubuntu", "noble"), [], 0)


def put_image(output: Path) -> None:
    manifest = build.describe(b"kernel", b"archive", "6.1", {})
    build.publish(output, b"kernel", b"archive", manifest)


def test_a_whole_image_of_the_present_inputs_is_current(tmp_path: Path) -> None:
    assert not build.is_current(tmp_path)
    put_image(tmp_path)
    assert build.is_current(tmp_path)
    assert build.main(["--output", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["vmlinuz", "initramfs.img", "manifest.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_a_damaged_image_is_not_current(tmp_path: Path, name: str, damage: object) -> None:
    put_image(tmp_path)
    assert callable(damage)
    damage(tmp_path / name)
    assert not build.is_current(tmp_path)


def test_an_image_of_other_inputs_is_not_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert not build.is_current(tmp_path)


def test_the_manifest_tells_sizes_hashes_and_the_kernel_arguments(tmp_path: Path) -> None:
    put_image(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["kernel"]["bytes"] == 6
    assert len(manifest["initramfs"]["sha256"]) == 64
    assert manifest["kernel_arguments"] == arguments.kernel_arguments()


def test_left_overs_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".build-old/root").mkdir(parents=True)
    with build.workplace(tmp_path) as work:
        assert [path.name for path in tmp_path.glob(".build-*")] == [work.name]
    assert not list(tmp_path.glob(".build-*"))


def run_build(output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(build.HERE / "build.py"), "--output", str(output)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_missing_tools_are_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    done = run_build(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "missing packages: gcc mmdebstrap" in done.stderr
    assert "apt-get install" in done.stderr


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _tool: "/bin/true")
    monkeypatch.setattr(build.os, "geteuid", lambda: 0)
    monkeypatch.setattr(build, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(BuildError, match="MiB free; the build needs"):
        build.check_machine(tmp_path)


def test_an_output_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_build(tmp_path / "file")
    assert done.returncode == 1
    assert "image not built: " in done.stderr
    assert "Traceback" not in done.stderr
