"""A real supervisord takes over other programs without ending the one that stays."""

import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport

from cli.supervision import change_programs
from tests.waiting import wait_until

PATIENCE_S = 20.0
HEAD = """[supervisord]
nodaemon=true
logfile={0}/supervisord.log
pidfile={0}/supervisord.pid
[unix_http_server]
file={0}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""


def write(directory: Path, **programs: str) -> Path:
    path = directory / "supervisord.conf"
    sections = (f"[program:{name}]\ncommand={command}\nstartsecs=0\n" for name, command in programs.items())
    path.write_text(HEAD.format(directory) + "".join(sections))
    return path


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Any]:
    path = write(tmp_path, haproxy="sleep 1001", goes="sleep 1002", changes="sleep 1003")
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(path)], stdout=subprocess.PIPE
    )
    transport = SupervisorTransport(None, None, f"unix://{tmp_path}/s.sock")
    proxy: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    wait_until(lambda: (tmp_path / "s.sock").exists() and len(pids(proxy)) == 3, "three programs run", PATIENCE_S)
    yield proxy
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)


def pids(supervisor: Any) -> dict[str, int]:
    """Return the processes of the programs that run; none while supervisord does not answer yet."""
    try:
        shown = supervisor.getAllProcessInfo()
    except OSError:
        return {}
    return {one["name"]: one["pid"] for one in shown if one["statename"] == "RUNNING"}


def test_services_come_go_and_change_beside_haproxy(supervisor: Any, tmp_path: Path) -> None:
    before = pids(supervisor)
    write(tmp_path, haproxy="sleep 1001", changes="sleep 2003", comes="sleep 1004")
    assert change_programs(supervisor) == {"changes", "comes"}
    now = wait_until(lambda: found if len(found := pids(supervisor)) == 3 else None, "three programs run", PATIENCE_S)
    assert set(now) == {"haproxy", "changes", "comes"}
    assert now["haproxy"] == before["haproxy"]
    assert now["changes"] != before["changes"]
    wait_until(lambda: not Path(f"/proc/{before['goes']}").exists(), "what is not wanted has ended", PATIENCE_S)
    os.kill(now["haproxy"], 0)
