"""What systemd is told, as datagrams at a socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.sd_notify import Notifier


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def told(door: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(door.recv(4096).decode())
        except BlockingIOError:
            return found


def notifier(door: socket.socket, **environ: str) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": door.getsockname(), **environ})


def test_readiness_a_reload_and_the_end_are_told(door: socket.socket) -> None:
    one = notifier(door)
    one.ready()
    one.reloading(12.5)
    one.stopping()
    assert told(door) == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=12500000", "STOPPING=1"]


def test_the_watchdog_is_fed_four_times_in_its_patience_at_most(door: socket.socket) -> None:
    one = notifier(door, WATCHDOG_USEC="8000000", WATCHDOG_PID=str(os.getpid()))
    assert one.every_s == 4.0
    for now_s in (100.0, 101.0, 102.0, 103.0, 104.5):
        one.turned(now_s)
    assert told(door) == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_does_not_watch_us_is_not_fed(door: socket.socket, environ: dict[str, str]) -> None:
    one = notifier(door, **environ)
    one.turned(100.0)
    assert (one.every_s, told(door)) == (None, [])


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel picks an abstract name
        address = listening.getsockname()
        Notifier.from_environment({"NOTIFY_SOCKET": "@" + address[1:].decode()}).ready()
        listening.settimeout(2.0)
        assert listening.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_told_and_a_socket_that_is_gone_is_logged(tmp_path: Path) -> None:
    with capture_logs() as lines:
        Notifier.from_environment({}).ready()
        assert lines == []
        Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert [line["event"] for line in lines] == ["systemd-not-told"]
