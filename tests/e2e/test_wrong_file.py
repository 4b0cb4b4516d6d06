"""A real installation whose file goes wrong, that is stopped while it starts, and whose member somebody saved."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.e2e.world import ROOT, World, wait_until

BOOT_S = 240.0


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> Iterator[World]:
    """Give an installation; its file is right again at the end."""
    world = make_world("ase29", 29, minimum="1", maximum="2")
    good = world.config.read_text(encoding="utf-8")
    yield world
    world.config.write_text(good, encoding="utf-8")


def begin(world: World, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli", "--config", str(world.config), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_typo_keeps_nobody_from_looking_nor_from_stopping_all(world: World) -> None:
    up = ["sh", "-c", 'umask 077; exec "$0" -m cli --config "$1" up', sys.executable, str(world.config)]
    subprocess.run(up, cwd=ROOT, check=True, timeout=BOOT_S)  # a umask that hides all from QEMU's own user
    good = world.config.read_text(encoding="utf-8")
    world.config.write_text(good.replace("cooldown_in_s", "coldown_in_s"), encoding="utf-8")
    assert [domain["phase"] for domain in world.group()["domains"]] == ["ready"]
    done = world.autoscaler("scale", "1")
    assert "coldown_in_s: unknown key; did you mean 'cooldown_in_s'" in done.stderr
    assert world.autoscaler("up", check=False).returncode == 2
    done = world.autoscaler("down")
    assert "used instead" in done.stderr
    assert (world.domains(), world.networks()) == ([], [])
    assert not (world.run_dir / "supervisord.pid").exists()
    world.config.unlink()  # what was in force last still tells what there is to remove
    Path(world.config).mkdir()
    told = world.autoscaler("down", "--everything", check=False)
    world.config.rmdir()
    world.config.write_text(good, encoding="utf-8")
    assert told.returncode == 2, "without a file and without a process, its run directory is not known"
    assert "Is a directory" in told.stderr


def test_up_and_down_at_once_end_in_plain_words_and_one_after_the_other(world: World) -> None:
    world.autoscaler("up")
    down, up, other = begin(world, "down"), begin(world, "up"), begin(world, "up")
    said = [process.communicate(timeout=BOOT_S)[0] for process in (down, up, other)]
    assert [word for text in said for word in ("Fault", "Traceback", "SHUTDOWN") if word in text] == []
    assert sum("is at work on this installation: waiting for its end" in text for text in said) >= 2, said
    codes = [process.returncode for process in (down, up, other)]
    stopped = [text for text in said[1:] if "it was stopped meanwhile" in text]
    assert (codes[0], codes[1:].count(1)) == (0, len(stopped)), said
    world.autoscaler("down")
    assert world.domains() == []


@pytest.mark.parametrize(
    ("act", "why"),
    [("managedSave", "its memory was saved, and it is off"), ("suspend", "it was suspended by hand")],
)
def test_a_memory_that_somebody_saved_or_holds_is_kept_until_it_may_go(world: World, act: str, why: str) -> None:
    world.autoscaler("up")
    connection = libvirt.open("qemu:///system")
    try:
        domain = connection.lookupByName(world.domains()[0])
        getattr(domain, act)()
        wait_until(lambda: len(world.domains()) == 2, BOOT_S, "another stands in for it")
        state = domain.state()
        done = world.autoscaler("down", check=False)
        assert done.returncode == 1
        assert f"{domain.name()}: {why}" in done.stderr and "its memory would be lost: it stays" in done.stderr
        assert (world.domains(), domain.state()) == ([domain.name()], state)
        done = world.autoscaler("down", "--discard-saved")
        assert f"{domain.name()}: {why}" in done.stderr and "its memory goes with it" in done.stderr
        assert world.domains() == []
    finally:
        connection.close()
