"""What keeps HAProxy is killed: it serves on, and whoever keeps it next takes over the one that runs.

The real HAProxy, its keeper, supervisord and the keeper of that, as ``make up`` starts them.
"""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from cli import haproxy_process, stack
from cli.console import Steps
from cli.process_list import is_running
from cli.supervision import is_supervised, stop_services
from cli.supervisor_config import haproxy_command, haproxy_pid_file
from common.clock import SystemClock
from tests.integration.balancer_stand import ROOT
from tests.integration.kept_haproxy import Kept, post
from tests.waiting import wait_until

CLOCK = SystemClock()
STEPS = Steps(CLOCK, 1)


@contextmanager
def stand(*, is_supervised: bool) -> Iterator[Kept]:
    directory = Path(tempfile.mkdtemp(prefix="out-", dir="/tmp"))  # HAProxy's sockets have short names
    kept = Kept(directory, is_supervised=is_supervised)
    try:
        yield kept
    finally:
        kept.close()
        shutil.rmtree(directory)


@pytest.fixture
def kept() -> Iterator[Kept]:
    with stand(is_supervised=False) as found:
        yield found


@pytest.fixture
def supervised() -> Iterator[Kept]:
    with stand(is_supervised=True) as found:
        yield found


@contextmanager
def asked(kept: Kept) -> Iterator[list[str]]:
    """Ask 50 times a second while the body runs; yield the answers, which are to be whole at its end."""
    answers, stop = list[str](), Event()

    def ask() -> None:
        while not stop.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", kept.port, timeout=20)
            try:
                connection.request("GET", "/work")
                answers.append(str(connection.getresponse().status))
            except (OSError, http.client.HTTPException) as error:
                answers.append(type(error).__name__)
            connection.close()

    thread = Thread(target=ask)
    thread.start()
    try:
        wait_until(lambda: answers, "an answer", 20)
        yield answers
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 10, "answers after it", 20)
    finally:
        stop.set()
        thread.join(30)


def master(kept: Kept) -> int:
    return int(haproxy_pid_file(kept.config.system).read_text(encoding="ascii"))


def command(kept: Kept) -> list[str]:
    return haproxy_command(kept.config.system, ROOT, Path(sys.executable))


def workers(kept: Kept) -> set[int]:
    return set(kept.workers())


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_haproxy_whose_keeper_is_killed_serves_on_and_the_next_one_takes_it_over_and_ends_it(
    kept: Kept, is_changed: bool
) -> None:
    before, served_by = master(kept), workers(kept)
    kept.keep_slots()
    with asked(kept) as answers:
        kept.keeper.kill()
        kept.keeper.wait(20)
        if is_changed:
            (kept.run / "haproxy.cfg").touch()
        kept.start(command(kept))
        if is_changed:
            wait_until(lambda: workers(kept) - served_by, "a worker with what the file says now", 20)
    assert set(answers) == {"200"}
    assert master(kept) == before, "another HAProxy was started"
    assert is_changed or workers(kept) == served_by, "it was reloaded for nothing"
    kept.keeper.send_signal(signal.SIGUSR1)
    assert kept.keeper.wait(20) == 0
    wait_until(lambda: not is_running(before), "its end", 20)


def test_one_that_was_taken_over_and_is_killed_is_started_again(kept: Kept) -> None:
    before = master(kept)
    kept.keeper.kill()
    kept.keeper.wait(20)
    kept.start(command(kept))
    Event().wait(0.5)  # it has taken over
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: master(kept) != before and haproxy_process.serves(kept.config.system), "another one", 20)
    wait_until(lambda: "it is started again" in kept.log(), "it is said", 20)


@pytest.mark.parametrize("whose", ["another program's", "another installation's", "nobody's", "no number"])
def test_what_is_not_this_haproxy_is_neither_taken_over_nor_touched(tmp_path: Path, whose: str) -> None:
    with stand(is_supervised=False) as other:
        pid_file, started = tmp_path / "pid", tmp_path / "started"
        sleeper = subprocess.Popen(["sleep", "60"])
        found = {
            "another program's": str(sleeper.pid),
            "another installation's": str(master(other)),
            "nobody's": "4194305",
            "no number": "x",
        }
        pid_file.write_text(f"{found[whose]}\n")
        (tmp_path / "haproxy").write_text("#!/bin/sh\necho x >$1; exec sleep 60\n")
        (tmp_path / "haproxy").chmod(0o755)
        keep = [str(ROOT / "scripts" / "keep-haproxy.sh"), "--pid-file", str(pid_file)]
        ended = subprocess.run([*keep, "--end", str(tmp_path / "haproxy"), str(started)], check=False, timeout=20)
        assert (ended.returncode, started.exists()) == (0, False), "--end starts nothing"
        keeper = subprocess.Popen([*keep, str(tmp_path / "haproxy"), str(started)])
        wait_until(started.exists, "its own one is started", 20)
        keeper.terminate()
        assert keeper.wait(20) == 0
        assert sleeper.poll() is None
        assert haproxy_process.serves(other.config.system)
        sleeper.kill()
        sleeper.wait(20)


def test_one_that_has_ended_is_not_taken_for_one_that_runs_where_its_parent_does_not_wait(kept: Kept) -> None:
    kept.keeper.terminate()
    assert kept.keeper.wait(20) == 0
    haproxy = subprocess.Popen(command(kept)[-6:])
    haproxy_pid_file(kept.config.system).write_text(f"{haproxy.pid}\n")
    wait_until(lambda: haproxy_process.serves(kept.config.system), "it runs", 20)
    kept.start(command(kept))
    Event().wait(0.5)  # it has taken over
    haproxy.kill()  # it stays on the list of processes, until this test waits for it
    wait_until(lambda: master(kept) != haproxy.pid and haproxy_process.serves(kept.config.system), "the next", 20)
    haproxy.wait(20)


def test_a_killed_supervisord_is_started_again_and_no_request_is_lost(supervised: Kept) -> None:
    system = supervised.config.system
    before, pid = master(supervised), int((system.run_path / "supervisord.pid").read_text())
    with asked(supervised) as answers:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid) and is_supervised(system), "the next supervisord", 20)
    assert (set(answers), master(supervised)) == ({"200"}, before)
    assert "supervisord ended with code 137; it is started again" in supervised.log()
    assert stop_services(system, CLOCK, STEPS) == "stopped"
    assert supervised.keeper.wait(20) != 0
    assert not is_supervised(system) and not haproxy_process.serves(system)


def test_down_ends_a_haproxy_that_is_left_alone_and_lets_its_requests_end(supervised: Kept) -> None:
    system = supervised.config.system
    supervised.keeper.kill()
    os.kill(int((system.run_path / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not is_supervised(system), "the end of supervisord", 20)
    assert haproxy_process.serves(system)
    assert f"127.0.0.1:{supervised.port}" in stack.held_addresses(system)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(post, supervised)
        supervised.until_in_flight(1)
        stopped = pool.submit(stop_services, system, CLOCK, STEPS)
        wait_until(lambda: not supervised.takes_new(), "it takes nothing new", 20)
        supervised.go()
        assert answer.result(20) == "200"
        assert stopped.result(20) == "not running, but for HAProxy, which had served on; stopped"
    assert not haproxy_process.serves(system)
    assert stop_services(system, CLOCK, STEPS) == "not running"
    assert stack.held_addresses(system) == []


def test_a_supervisord_that_is_asked_to_end_stays_ended(supervised: Kept) -> None:
    system = supervised.config.system
    os.kill(int((system.run_path / "supervisord.pid").read_text()), signal.SIGTERM)
    assert supervised.keeper.wait(30) == 0
    assert not is_supervised(system) and not haproxy_process.serves(system)
