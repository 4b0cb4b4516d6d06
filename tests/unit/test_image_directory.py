"""An image in a directory that an operator named: looked at before anything is started, and told as it is."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import stack
from cli.configuration import check
from common.config import Image, Network
from common.config_file import load
from common.errors import AutoscalerError
from services.actuator.image_check import main as check_images
from services.actuator.images import ImageError, Images

GROUP = '[groups.web]\nprefix = "web-"\n[groups.web.image]\ndirectory = "{home}/srv"\n'
TEXT = '[system]\nstate_dir = "{home}/state"\n' + GROUP
HOLDS = "image.directory must hold manifest.json, and kernel and initramfs as it describes them"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a configuration with a whole image in a directory of the operator's."""
    (tmp_path / "srv").mkdir()
    parts = {}
    for part in ("kernel", "initramfs"):
        (tmp_path / "srv" / part).write_bytes(part.encode())
        parts[part] = {"file": part, "sha256": hashlib.sha256(part.encode()).hexdigest()}
    (tmp_path / "srv" / "manifest.json").write_text(json.dumps(parts))
    path = tmp_path / "autoscaler.toml"
    path.write_text(TEXT.format(home=tmp_path))
    return path


def absent(srv: Path) -> None:
    for each in srv.iterdir():
        each.unlink()
    srv.rmdir()


def headless(srv: Path) -> None:
    (srv / "manifest.json").unlink()


def half(srv: Path) -> None:
    (srv / "manifest.json").write_text(json.dumps({"kernel": {"file": "kernel", "sha256": "0" * 64}}))


def partless(srv: Path) -> None:
    (srv / "initramfs").unlink()


def damaged(srv: Path) -> None:
    (srv / "kernel").write_bytes(b"kern")


def no_json(srv: Path) -> None:
    (srv / "manifest.json").write_text("{")


def unreadable(srv: Path) -> None:
    (srv / "manifest.json").unlink()
    (srv / "manifest.json").mkdir()


SPOILS = [
    (unreadable, "no guest image in {srv}: Is a directory"),
    (absent, "no guest image in {srv}: No such file or directory"),
    (headless, "no guest image in {srv}: No such file or directory"),
    (half, "manifest.json has no 'initramfs'"),
    (partless, "No such file or directory: '{srv}/initramfs'"),
    (damaged, "kernel does not match its manifest"),
    (no_json, "the guest image in {srv} is not usable"),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILS)
def test_up_and_config_check_refuse_it_and_say_what_must_be_there(
    file: Path, spoil: Callable[[Path], None], why: str
) -> None:
    srv = file.parent / "srv"
    config, _ = load(file)
    check(file)
    spoil(srv)
    for ask in (lambda: stack.check_images(config, file), lambda: check(file)):
        with pytest.raises(AutoscalerError) as caught:
            ask()
        said = str(caught.value)
        assert "groups.web.image: " in said and why.format(srv=srv) in said and said.endswith(HOLDS)
        assert "make image" not in said


def test_up_goes_by_the_copy_of_a_file_that_was_whole_before(file: Path) -> None:
    config, _ = load(file)
    stack.check_images(config, file)
    damaged(file.parent / "srv")
    stack.check_images(config, file)


def test_config_check_makes_nothing_of_it(file: Path) -> None:
    check(file)
    assert not (file.parent / "state").exists()


def test_no_host_is_asked_about_kernel_and_initramfs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + '[hosts.local]\nuri = "qemu+ssh://nowhere.invalid/system"\n')
    assert check_images(["--config", str(file), "--check-images"]) == 0
    assert capsys.readouterr().err == ""


def test_the_demo_guests_image_is_what_make_image_builds(tmp_path: Path) -> None:
    images = Images(tmp_path)
    with pytest.raises(ImageError, match=r"no guest image in .*/images: .*; build it with: make image$"):
        images.of(Image(), Network())
    with pytest.raises(ImageError, match=f"{HOLDS}$"):
        images.of(Image(directory=f"{tmp_path}/srv"), Network())
