"""The containers' health check against a real bus: a loop that turns is not enough, its work must be to be seen."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cli import healthcheck
from common.bus import Bus
from common.clock import SystemClock
from common.config import Config, Group, Host, Metrics, System
from common.errors import AutoscalerError
from common.messages import Body, Drain, HostSample, Membership, ServiceStatus

CLOCK = SystemClock()
SAMPLE = HostSample(host="local", interval_s=1.0, is_reachable=True)
MEMBERSHIP = Membership(group="web", generation_seen=1, desired_seen=0, members=(), owned_total=0, ceiling=1)
DRAIN = Drain(group="web", endpoint="127.0.0.1:1", is_proxy_alive=True, backends=())


@pytest.fixture
def config(tmp_path: Path) -> Config:
    system = System(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path), republish_s=0.5, interval_s=0.5)
    return Config(system=system, groups={"web": Group(prefix="web-")}, metrics=Metrics(listen=""))


def status(name: str, note: str = "", started_at_s: float = 0.0) -> ServiceStatus:
    return ServiceStatus(name=name, pid=1, started_at_s=started_at_s, release="0", note=note)


@contextmanager
def saying(config: Config, name: str, *bodies: Body) -> Iterator[None]:
    """Say these on the bus, again and again, as the service would."""
    is_over = threading.Event()
    bus = Bus.open(config, name, CLOCK)

    def talk() -> None:
        while not is_over.is_set():
            for body in bodies:
                bus.publish(body)
            bus.receive(0.05)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        bus.close()


def said(config: Config, name: str, *bodies: Body) -> str:
    """Return what the check says of a service that says this."""
    with saying(config, name, *bodies):
        try:
            return healthcheck.check(config, name, CLOCK)
        except AutoscalerError as error:
            return str(error)


@pytest.mark.parametrize(
    ("name", "bodies", "expected"),
    [
        ("monitor", (SAMPLE,), "works"),
        ("monitor", (), "said nothing of sample.local"),
        ("monitor", (SAMPLE.model_copy(update={"is_reachable": False, "note": "gone"}),), "no host answers it: gone"),
        ("decider", (), "said nothing of decision.web"),
        ("actuator", (MEMBERSHIP,), "works"),
        ("actuator", (), "said nothing of membership.web"),
        ("balancer", (DRAIN,), "works"),
        ("balancer", (DRAIN.model_copy(update={"is_proxy_alive": False}),), "HAProxy does not answer"),
        ("recorder", (), "works"),
        ("exporter", (), "works"),
        ("notifier", (), "works"),
    ],
)
def test_a_service_works_when_its_work_is_to_be_seen(
    config: Config, name: str, bodies: tuple[Body, ...], expected: str
) -> None:
    assert expected in said(config, name, status(name), *bodies)


def test_one_host_that_answers_is_enough_and_each_must_be_told_of(config: Config) -> None:
    both = config.model_copy(update={"hosts": {"local": Host(), "b": Host(uri="qemu+tls://b/system")}})
    assert "said nothing of sample.b" in said(both, "monitor", status("monitor"), SAMPLE)
    lost = SAMPLE.model_copy(update={"host": "b", "is_reachable": False})
    assert "works" in said(both, "monitor", status("monitor"), SAMPLE, lost)


def test_a_service_that_is_silent_or_tells_of_trouble_does_not_work(config: Config) -> None:
    assert "actuator said nothing for 1.5 s" in said(config, "actuator", MEMBERSHIP)
    assert "recorder lives, but disk full" in said(config, "recorder", status("recorder", "disk full"))


@pytest.mark.parametrize(("answer", "expected"), [(200, "works"), (500, "status 500"), (None, "does not answer")])
def test_the_exporters_page_must_answer(config: Config, answer: int | None, expected: str) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer or 500)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        stop: Callable[[], None] = server.shutdown
        if answer is not None:
            thread.start()
        else:
            server.server_close()
        listen = Metrics(listen=f"127.0.0.1:{server.server_address[1]}")
        try:
            assert expected in said(config.model_copy(update={"metrics": listen}), "exporter", status("exporter"))
        finally:
            if answer is not None:
                stop()


def test_the_plotters_picture_must_be_fresh_once_it_had_the_time(config: Config, tmp_path: Path) -> None:
    young = status("plotter", started_at_s=CLOCK.epoch_s() - 10)
    assert "works" in said(config, "plotter", young)
    assert "was not drawn anew for 180 s" in said(config, "plotter", status("plotter"))
    picture = tmp_path / "graph.png"
    picture.touch()
    assert "works" in said(config, "plotter", status("plotter"))
    os.utime(picture, (0, CLOCK.epoch_s() - 200))
    assert "was not drawn anew" in said(config, "plotter", status("plotter"))
