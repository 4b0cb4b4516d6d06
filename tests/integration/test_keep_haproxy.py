"""The keeper of HAProxy: a command that fails at once is tried again at one pace, until it is asked to stop."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from common.clock import SystemClock

KEEPER = Path(__file__).parents[2] / "scripts" / "keep-haproxy.sh"
PATIENCE_S = 20.0
CLOCK = SystemClock()


@pytest.fixture
def tries(tmp_path: Path) -> Path:
    (tmp_path / "tries").touch()
    return tmp_path / "tries"


@pytest.fixture
def keeper(tries: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([str(KEEPER), "sh", "-c", f"echo x >>{tries}; exit 7"], stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1])
def test_what_fails_at_once_is_tried_again_by_the_keeper_itself(
    keeper: "subprocess.Popen[bytes]", tries: Path, how: signal.Signals
) -> None:
    deadline_s = CLOCK.monotonic_s() + PATIENCE_S
    while tries.read_text().count("x") < 2:
        assert CLOCK.monotonic_s() < deadline_s, "no second try"
        assert keeper.poll() is None, "left to supervisord, which waits longer each time"
        Event().wait(0.05)
    keeper.send_signal(how)
    assert keeper.wait(PATIENCE_S) == 0
