"""What the tests with real parts need, brought up before they are collected and taken down after the last one.

Unit, contract and simulation tests need nothing, and start nothing. The others find libvirt running and the demo guest
built (``LIBVIRT_AUTOSCALER_TEST_IMAGE``); without root they skip themselves and say why, or fail: see ``complete``.
"""

import fcntl
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from zlib import crc32

import hypothesis
import pytest

from cli.libvirt_daemon import ensure_libvirt, stop_libvirt
from common.clock import SystemClock
from common.config import Host, System

pytest_plugins = ["tests.complete", "tests.faults.plugin"]

ROOT = Path(__file__).resolve().parents[1]
FAST = {"unit", "contract", "sim", "common", "services", "cli", "bench"}
# One for each checkout: it is built anew where the sources differ, and guests of another run may stand on it.
IMAGES = Path(tempfile.gettempdir()) / f"autoscaler-test-images-{os.getuid()}-{crc32(bytes(ROOT)):08x}"
NOTES = Path(tempfile.gettempdir()) / f"autoscaler-test-run-{os.getuid()}"

# The same examples in every CI run: what is found at a desk, with new ones each time, gets a test of its own.
hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start libvirt where it does not run, and build the guest's image."""
    if os.geteuid() != 0 or is_fast_only(session.config.args) or session.config.option.collectonly:
        return
    os.environ["LIBVIRT_AUTOSCALER_TEST_IMAGE"] = str(IMAGES)
    if _is_worker(session):
        return
    system = _system()
    system.run_path.mkdir(mode=0o700, exist_ok=True)
    fcntl.flock(_users(), fcntl.LOCK_SH)
    print(f"libvirt: {ensure_libvirt(Host(), system, SystemClock())}", flush=True)
    IMAGES.mkdir(mode=0o711, exist_ok=True)
    subprocess.run(["/usr/bin/python3", str(ROOT / "guest_image" / "build.py"), "--output", str(IMAGES)], check=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what was started here, and nothing else."""
    if os.geteuid() != 0 or not NOTES.is_dir() or is_fast_only(session.config.args) or _is_worker(session):
        return
    try:
        fcntl.flock(_users(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another session needs libvirt still, and ends it
    stop_libvirt(_system())


@pytest.fixture(scope="session")
def images() -> Path:
    """Return the directory of the demo guest's image."""
    if "LIBVIRT_AUTOSCALER_TEST_IMAGE" not in os.environ:
        pytest.skip("real guests need root: libvirt's system socket, networks")
    return IMAGES


def _system() -> System:
    return System(run_dir=str(NOTES))


def _is_worker(session: pytest.Session) -> bool:
    """Return whether this is one of several processes of a run: the one that started them has brought all up."""
    return hasattr(session.config, "workerinput")


@cache
def _users() -> int:
    """Return the file that every session holds which needs libvirt; it is held until the process ends."""
    return os.open(NOTES / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_fast_only(args: list[str]) -> bool:
    """Return whether only tests are asked for that need nothing of the machine: the code's own examples are such."""
    asked = [Path(arg.split("::")[0]).resolve() for arg in args]
    return all(path.is_relative_to(ROOT) and _needs_nothing(path.relative_to(ROOT).parts) for path in asked)


def _needs_nothing(parts: tuple[str, ...]) -> bool:
    return bool(parts) and (parts[0] != "tests" or bool(FAST & set(parts)))
