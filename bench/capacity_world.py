"""An installation of its own that a capacity benchmark measures: directories, network, ports, one group for each tier.

It is started and asked as an operator does it, and heard on its bus. Every instant is on this machine's monotonic
clock. It goes away with all its domains, whatever happened.
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.installation import CLOCK, wait_until
from common.bus import Bus, ask
from common.config import Config
from common.config_file import load as read_config
from common.errors import AutoscalerError
from common.messages import Body, DesiredCapacity, Drain, Membership, Request
from common.phases import Phase

ROOT = Path(__file__).resolve().parent.parent
UP_TIMEOUT_S = 240.0
SNAPSHOTS = "actuator/snapshots"
POLL_S = 0.002

HEAD = """
[system]
run_dir = "{directory}/run"
state_dir = "{directory}/state"
interval_s = 0.25
republish_s = 1.0
stale_after_s = 2.5

[metrics]
listen = ""

[hosts.local]
accel = "tcg"

[network]
name = "{name}"
bridge = "{bridge}"
subnet = "{subnet}"
slots = 24

[haproxy]
slots = 16
"""

GROUP = """
[groups.{group}]
prefix = "{name}-{group}-"
min = 0
max = {maximum}
surge = 1
endpoint = "127.0.0.1:{port}"
max_in_flight = 16
drain_timeout_s = 5.0
cooldown_out_s = 0.0
cooldown_in_s = 1.0
[groups.{group}.image]
directory = "{images}"
memory_mib = 128
cpu_quota = {quota}
{extra}
"""


class Heard:
    """What was said on the bus: of each kind the newest by group, and when a condition first held."""

    def __init__(self, config: Config) -> None:
        """Listen from now on, in a thread."""
        self._bus = Bus.open(config, "operator", CLOCK, publishes=False)
        self._bus.keep_every_message()
        self._bus.subscribe("decider", "capacity.desired")
        self._bus.subscribe("actuator", "membership", "event")
        self._bus.subscribe("balancer", "drain", "event")
        self._lock = threading.Lock()
        self._is_over = False
        self.log: list[tuple[float, Body]] = []
        self.newest: dict[str, Body] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def since(self, mark: int) -> list[tuple[float, Body]]:
        """Return what was heard after ``mark``, with when it was said."""
        with self._lock:
            return self.log[mark:]

    def mark(self) -> int:
        """Return how much has been heard."""
        with self._lock:
            return len(self.log)

    def membership(self, group: str) -> Membership | None:
        """Return the newest membership of a group."""
        body = self.newest.get(f"membership.{group}")
        return body if isinstance(body, Membership) else None

    def close(self) -> None:
        """Listen no more."""
        self._is_over = True
        self._bus.wake()
        self._thread.join(5)
        self._bus.close()

    def _listen(self) -> None:
        while not self._is_over:
            for received in self._bus.receive(0.2).messages:
                with self._lock:
                    self.log.append((received.header.mono_s, received.body))
                    self.newest[received.topic] = received.body


class World:
    """The installation; a context manager."""

    def __init__(self, groups: dict[str, tuple[int, float, str]], images: Path) -> None:
        """Write its configuration: for each group the most domains, their quota and further tables."""
        self.directory = Path(tempfile.mkdtemp(prefix="asbench-", dir="/tmp"))
        self.directory.chmod(0o711)
        self.name = f"asb{os.getpid() % 10000}"
        self.images = images
        self.path = self.directory / "autoscaler.toml"
        number = 40 + os.getpid() % 200
        text = HEAD.format(
            directory=self.directory, name=self.name, bridge=self.name[:14], subnet=f"10.213.{number}.0/24"
        )
        for group, (maximum, quota, extra) in groups.items():
            text += GROUP.format(
                name=self.name, group=group, maximum=maximum, port=_free_port(), images=images, quota=quota,
                extra=extra.format(group=group),
            )  # fmt: skip
        self.path.write_text(text, encoding="utf-8")
        self.config: Config = read_config(self.path)[0]
        self._heard: Heard | None = None

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.command("up", timeout_s=UP_TIMEOUT_S)
            self._heard = Heard(self.config)
            for group in self.config.groups:
                wait_until(lambda group=group: self.heard.membership(group) is not None, 30, f"word of {group}")  # type: ignore[misc]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Remove everything."""
        if self._heard is not None:
            self._heard.close()
        self.command("down", "--everything", timeout_s=120, is_checked=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def heard(self) -> Heard:
        """Return what was heard on the bus."""
        assert self._heard is not None, "the installation runs"  # noqa: S101
        return self._heard

    def command(self, *words: str, timeout_s: float, is_checked: bool = True) -> None:
        """Run the operator's command."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--config", str(self.path), *words],
            cwd=ROOT, check=False, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
        if is_checked and done.returncode != 0:
            raise AutoscalerError(f"autoscaler {' '.join(words)}: {done.stdout[-800:]}{done.stderr[-800:]}")

    def order(self, service: str, verb: str, **args: Any) -> None:
        """Ask a service for something, and insist that it is applied."""
        reply = ask(self.config, service, Request(verb=verb, args=args, by="bench"), 5.0)
        if reply.status != "applied":
            raise AutoscalerError(f"{verb} {args}: {reply.status}: {reply.reason}")

    def scale(self, group: str, count: int) -> None:
        """Have the decider want so many domains of a paused group."""
        self.order("decider", "scale", group=group, desired=count)

    def endpoint(self, group: str) -> tuple[str, int]:
        """Return where the group answers."""
        host, _, port = self.config.groups[group].endpoint.rpartition(":")
        return host, int(port)

    def phases(self, group: str) -> list[str]:
        """Return the phases of all domains of a group."""
        membership = self.heard.membership(group)
        return sorted(member.phase.value for member in membership.members) if membership else []

    def snapshots(self) -> list[Path]:
        """Return the snapshots that clones go on from; each has been proved by a first clone."""
        return sorted((self.directory / "state" / SNAPSHOTS).rglob("*.save"))

    def settle(self, group: str, standby: int, timeout_s: float = 90.0) -> None:
        """Return when the group has nothing but so many domains in standby, and nothing moves any more."""
        wanted = [Phase.STANDBY.value] * standby
        wait_until(lambda: self.phases(group) == wanted, timeout_s, f"{group} to have {standby} in standby", 0.05)

    def decided(
        self, group: str, mark: int, is_it: Callable[[DesiredCapacity], bool], timeout_s: float = 10
    ) -> tuple[float, DesiredCapacity]:
        """Return when the decider said what ``is_it`` looks for, and what, among what it said after ``mark``."""

        def found() -> tuple[float, DesiredCapacity] | None:
            for said_s, body in self.heard.since(mark):
                if isinstance(body, DesiredCapacity) and body.group == group and is_it(body):
                    return said_s, body
            return None

        wait_until(lambda: found() is not None, timeout_s, f"a decision about {group}", 0.002)
        return found()  # type: ignore[return-value] # what was heard stays

    def rotated_s(self, group: str, mark: int) -> float | None:
        """Return when the balancer said that a domain of the group is in rotation."""
        for said_s, body in self.heard.since(mark):
            if isinstance(body, Drain) and body.group == group and any(b.state == "ready" for b in body.backends):
                return said_s
        return None


class Poller:
    """Asks an endpoint without pause until a domain has answered."""

    def __init__(self, where: tuple[str, int], pause_s: float = POLL_S) -> None:
        """Begin at once."""
        self._where = where
        self._pause_s = pause_s
        self._is_over = False
        self.served_s: float | None = None
        self.served_by = ""
        self._has_answer = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> float:
        """Return when the first right answer came."""
        has_answer = self._has_answer.wait(timeout_s)
        self.stop()
        if not has_answer or self.served_s is None:
            raise AutoscalerError(f"waited {timeout_s:.0f} s for an answer at {self._where}")
        return self.served_s

    def stop(self) -> None:
        """Ask no more."""
        self._is_over = True
        self._thread.join(5)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=2)
        while not self._is_over and self.served_s is None:
            try:
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.served_s, self.served_by = CLOCK.monotonic_s(), response.headers.get("X-Served-By", "")
                    self._has_answer.set()
            except (OSError, http.client.HTTPException):
                connection.close()
            time.sleep(self._pause_s)
        connection.close()


@contextmanager
def load(where: tuple[str, int], path: str, threads: int) -> Iterator[None]:
    """Keep the endpoint busy with so many requests at a time."""
    is_over = threading.Event()

    def work() -> None:
        connection = http.client.HTTPConnection(*where, timeout=10)
        while not is_over.is_set():
            try:
                connection.request("GET", path)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
                is_over.wait(0.05)
        connection.close()

    busy = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in busy:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in busy:
            thread.join(12)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
