"""A guest image that is damaged, or that QEMU cannot boot: said clearly, given up in time, nothing left behind."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.whole import look
from tests.e2e.world import QEMU_PIDS, World, now_s, wait_until
from tests.faults.proof import Proof

NAME = "ase3"
GIVE_UP_S = 60.0
BOOT_S = 60.0


@pytest.fixture(scope="module")
def image(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the demo image whose kernel does not match its manifest."""
    directory = tmp_path_factory.mktemp("image")
    shutil.copytree(images, directory, dirs_exist_ok=True)
    with (directory / "vmlinuz").open("r+b") as kernel:
        kernel.write(b"damaged")
    return directory


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], image: Path) -> Iterator[World]:
    """Return an installation that boots from that image; it is not up yet."""
    world = make_world(NAME, 3)
    text = world.config.read_text(encoding="utf-8")
    text = "\n".join(f'directory = "{image}"' if line.startswith("directory") else line for line in text.splitlines())
    world.config.write_text(text, encoding="utf-8")
    yield world


@pytest.mark.fault(55)
def test_up_ends_in_time_and_names_the_damaged_file(world: World, row: Proof) -> None:
    begin = now_s()
    done = world.autoscaler("up", check=False)
    print(f"\nup gave up after {now_s() - begin:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 1
    assert "vmlinuz does not match its manifest" in done.stderr
    assert "Traceback" not in done.stderr
    assert now_s() - begin < GIVE_UP_S
    assert not (world.run_dir / "supervisord.sock").exists(), "nothing was started"
    row.held("`up` with a damaged image ends, and names the file")


@pytest.mark.fault(55)
def test_nothing_is_made_from_one_that_is_damaged_later_and_no_service_loops(
    world: World, images: Path, image: Path, row: Proof
) -> None:
    replace(images / "vmlinuz", image / "vmlinuz")
    world.autoscaler("up")
    before = wait_until(lambda: whole_look(world), 60, "a word of every service")
    newer = json.loads((images / "manifest.json").read_text(encoding="utf-8"))
    newer["kernel"]["sha256"] = "0" * 64
    (image / "newer").write_text(json.dumps(newer), encoding="utf-8")
    replace(image / "newer", image / "manifest.json")  # another image, whose kernel has not come
    wait_until(lambda: "does not match" in " ".join(look(world)["groups"][0]["notes"]), 30, "it to be told early")
    world.autoscaler("scale", "2")
    wait_until(lambda: "does not match" in (look(world)["groups"][0]["blocked"] or ""), 30, "it to be told")
    assert world.domains() == [f"{NAME}-0000"]
    assert world.get("/healthz")[:2] == (200, f"{NAME}-0000")
    row.held("a real installation: nothing is made from an image that is damaged, and it is told")
    assert wait_until(lambda: whole_look(world), 30, "a word of every service")["services"] == before["services"]


def test_once_it_is_mended_the_group_grows_without_a_restart(world: World, images: Path, image: Path) -> None:
    before = wait_until(lambda: whole_look(world), 30, "a word of every service")["services"]
    replace(images / "manifest.json", image / "manifest.json")
    world.autoscaler("scale", "2")  # again: meanwhile the policies may have thought otherwise
    both = [f"{NAME}-0000", f"{NAME}-0001"]
    wait_until(lambda: world.domains() == both, BOOT_S, "a second domain")
    assert wait_until(lambda: whole_look(world), 30, "a word of every service")["services"] == before
    world.autoscaler("scale", "1")
    wait_until(lambda: len(world.domains()) == 1, BOOT_S, "one domain again")


def test_an_image_that_does_not_boot_takes_no_working_domain_away(world: World, image: Path) -> None:
    (working,) = world.domains()
    wait_until(
        lambda: [d["phase"] for d in look(world)["groups"][0]["domains"]] == ["ready"], 30, "the domain in rotation"
    )
    (image / "broken").write_bytes(b"no kernel at all")
    replace(image / "broken", image / "vmlinuz")
    manifest = json.loads((image / "manifest.json").read_text(encoding="utf-8"))
    manifest["kernel"]["sha256"] = hashlib.sha256((image / "vmlinuz").read_bytes()).hexdigest()
    (image / "broken").write_text(json.dumps(manifest), encoding="utf-8")
    replace(image / "broken", image / "manifest.json")
    copies = world.state_dir / "actuator" / "boot"
    broken = (image / "vmlinuz").read_bytes()
    wait_until(
        lambda: any(kernel.read_bytes() == broken for kernel in copies.glob("*/vmlinuz")),
        30,
        "the actuator's copy of the new image",
    )
    world.autoscaler("scale", "2")
    blocked = wait_until(lambda: starts_failed(world), BOOT_S, "the breaker")
    print(f"\nblocked: {blocked}")
    wait_until(lambda: world.domains() == [working], 15, "nothing half-made left")
    assert [path.stem for path in QEMU_PIDS.glob(f"{NAME}-*.pid")] == [working]
    assert world.get("/compute?n=10")[:2] == (200, str(2**10 % 1021))
    opened = lambda: world.autoscaler("events", "--limit", "1000").stdout.count("breaker-opened")  # noqa: E731
    assert wait_until(opened, 15, "the event in the recording") == 1


def whole_look(world: World) -> dict[str, Any] | None:
    """Return the status in which every service and the actuator's view of the group stand, else None."""
    status = look(world)
    is_whole = all(service["alive"] for service in status["services"]) and status["groups"][0]["ready"] is not None
    return status if is_whole else None


def starts_failed(world: World) -> str:
    """Return what is said of starts that fail in a row, else nothing."""
    blocked: str = look(world)["groups"][0]["blocked"] or ""
    return blocked if "starts in a row failed" in blocked else ""


def replace(source: Path, target: Path) -> None:
    """Put a copy in place in one step."""
    aside = target.with_name(f"{target.name}.aside")
    shutil.copy(source, aside)
    aside.replace(target)
