"""kill -9 of the actuator at every step of taking a snapshot and of cloning, with real guests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from common.config import Config
from services.actuator.access import disk_pool
from services.actuator.core.record import parse
from tests.integration.test_clones import URI, cloning, get, has_libvirt
from tests.named import Named

ROOT = Path(__file__).resolve().parents[2]
GROUP, PREFIX = "clonek", "clonek-"
TEMPLATE = f"{PREFIX}template"
PATIENCE_S = 120.0
BOOT: Final = ("define", "start", "set_link", "save_to", "undefine")
PROOF: Final = ("restore", "set_link", "publish", "publish", "destroy")
TAKING: Final = BOOT + PROOF
CLONING: Final = ("define", "restore", "set_link")
SAVE, RESTORE = 1 + TAKING.index("save_to"), 1 + TAKING.index("restore")
MIDST: Final = (("during", SAVE), ("during", RESTORE), ("unfed", RESTORE))
BOOTED: Final = "", "its cloning was cut short, so it boots"
CLONED: Final = "clone", ""
PLUGGED: Final = "clone", "its cloning was cut short before it had its link"
ANY: Final = None, ""
POINTS: Final = (
    ("before", 1, CLONED),
    ("after", 1, BOOTED),
    ("during", 2, BOOTED),
    ("unfed", 2, BOOTED),
    ("after", 2, PLUGGED),
    ("after", 3, CLONED),
)
"""When the process is killed, and how the domain serves that it was making: its tier, and what is noted of it."""


def waiting() -> set[str]:
    """Return the threads of libvirt that wait for somebody to write to a pipe."""
    found = subprocess.run(["pgrep", "-x", "libvirtd"], stdout=subprocess.PIPE, text=True, check=False)
    tasks = [task for pid in found.stdout.split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {f"thread {task.name}" for task in tasks if (task / "wchan").read_text() == "wait_for_partner"}


WAITED: Final = frozenset(waiting())
"""Those that others have left."""

pytestmark = pytest.mark.skipif(not has_libvirt(), reason="needs libvirtd")


@pytest.fixture(scope="module")
def config(images: Path) -> Iterator[Config]:
    place = Path(tempfile.mkdtemp(prefix="clonek-", dir="/var/tmp"))
    place.chmod(0o755)
    network = {"name": "clonek", "bridge": "asbr9k", "subnet": "192.168.173.0/24", "slots": 30}
    config = cloning(place, images, network, GROUP, prefix=PREFIX, max=8, endpoint="127.0.0.1:18996")
    (place / "config.json").write_text(config.model_dump_json(by_alias=True))
    yield config
    sweep(config)
    shutil.rmtree(place)


def connect(config: Config) -> Named:
    may_touch = lambda name: name.startswith(PREFIX)  # noqa: E731 - it is given away
    return Named.open(URI, is_read_only=False, may_touch=may_touch, pool=disk_pool(config))


def sweep(config: Config) -> None:
    connection = connect(config)
    connection.remove_mine()
    connection.remove_network(config.network.name)
    connection.close()


@contextmanager
def actuator(
    config: Config, settled: int, desired: int, domain: str = "", when: str = "never", index: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Give the process that has the group at ``settled`` domains, and is killed on its way to ``desired`` ones."""
    path = config.system.state_path.parent / "config.json"
    words = [str(path), str(settled), str(desired), domain, when, str(index)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.mortal_actuator", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[tuple[str, ...], int]:
    """Return what the process still said, and how it ended."""
    said, _ = process.communicate("\n", PATIENCE_S)
    return tuple(said.splitlines()), process.returncode


def left(config: Config) -> list[str]:
    """Return what nobody needs: domains that are not members, volumes, files beside the snapshot, threads that wait."""
    folder = config.system.state_path / "actuator/snapshots" / f"{GROUP}@local"
    connection = connect(config)
    try:
        strays = [d.name for d in connection.domains() if d.name == TEMPLATE or not d.is_persistent]
        volumes = [volume.name for volume in connection.volumes()]
    finally:
        connection.close()
    files = [path.name for path in folder.iterdir() if path.suffix not in (".save", ".json")]
    return strays + volumes + files + sorted(waiting() - WAITED)


def check(config: Config, process: subprocess.Popen[str], tier: str | None = None, note: str = "") -> None:
    """See that each member serves as itself, at an address of its own, and that nothing else is there.

    Args:
        config: Whose domains.
        process: It says what has become of its group.
        tier: How the newest member is to have come to service; None where that is all the same.
        note: What the group's notes are to say.
    """
    assert process.stdout is not None
    story = json.loads(process.stdout.readline())
    assert left(config) == [], story
    assert tier in (None, story["members"][-1][1]) and note in str(story["notes"]), story
    addresses = {address: name for name, _, address in story["members"]}
    assert {address: get(address, "/healthz")[1] for address in addresses} == addresses
    connection = connect(config)
    try:
        ours = [domain for domain in connection.domains() if domain.name.startswith("clonek-")]
        found = {domain.name: parse(domain.metadata) for domain in ours}
    finally:
        connection.close()
    assert sorted(found) == sorted(addresses.values()), story
    assert len({record.slot for record in found.values() if record is not None}) == len(addresses)


@pytest.mark.slow
def test_killed_at_every_step_of_taking_a_snapshot_nothing_leaks_and_one_is_taken(config: Config) -> None:
    *points, last = [("before", index) for index in range(1, 1 + len(TAKING))]
    for when, index in (*points, *MIDST, last):
        with actuator(config, 0, 1, TEMPLATE, when, index) as process:
            assert ended(process) == (TAKING[:index], -signal.SIGKILL), (when, index)
    with actuator(config, 1, 1) as process:
        check(config, process)


@pytest.mark.slow
def test_killed_at_every_step_of_cloning_the_domain_serves_all_the_same(config: Config) -> None:
    tier, note = ANY
    for count, (when, index, after) in enumerate(POINTS, start=1):
        with actuator(config, count, count + 1, f"{PREFIX}{count:04}", when, index) as process:
            check(config, process, tier, note)
            assert ended(process) == (CLONING[:index], -signal.SIGKILL), (when, index)
        tier, note = after
    with actuator(config, 1 + len(POINTS), 1 + len(POINTS)) as process:
        check(config, process, tier, note)
