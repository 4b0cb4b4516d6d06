"""HAProxy under its keeper, as every way of running it has it, with one real server in each group."""

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cli import haproxy_process
from cli.console import Steps
from cli.program import module
from cli.supervision import KEEPER, stop_services
from cli.supervisor_config import haproxy_command, supervisor_config
from common import config_file
from common.clock import SystemClock
from common.config import Config
from common.state_dir import LOG_DIR
from services.balancer.core.haproxy_config import master_socket, state_file, stats_socket
from services.balancer.errors import ProxyError, ProxyLostError
from services.balancer.files import write_atomically, write_config
from services.balancer.haproxy import Master, RuntimeApi
from tests.integration.balancer_stand import APP, ROOT, end
from tests.ports import free_port
from tests.waiting import Stopwatch, wait_until

CLOCK = SystemClock()
BOUND_S = 3.0
GROUPS = """
[groups.web]
prefix = "web-"
endpoint = "127.0.0.1:WEB"
drain_timeout_s = 1
[groups.db]
prefix = "db-"
protocol = "tcp"
endpoint = "127.0.0.1:TCP"
drain_timeout_s = BOUND
"""


class Kept:
    """HAProxy under its keeper, with one server in each group; ``go`` lets held requests be answered."""

    def __init__(self, directory: Path, *, is_supervised: bool = False) -> None:
        self.directory, self.port, self.tcp_port, app_port = directory, free_port(), free_port(), free_port()
        path = directory / "autoscaler.toml"
        groups = GROUPS.replace("WEB", str(self.port)).replace("TCP", str(self.tcp_port))
        head = f'[system]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n[haproxy]\nslots = 8\n'
        path.write_text(head + groups.replace("BOUND", f"{BOUND_S:g}"), encoding="utf-8")
        self.config: Config = config_file.load(path)[0]
        self.run = self.config.system.run_path
        write_config(self.config)
        app = [
            sys.executable,
            str(APP),
            "127.0.0.21",
            str(app_port),
            "web-0000",
            f"{directory}/log",
            f"{directory}/sick",
        ]
        self._app = subprocess.Popen(app)
        self._log = (directory / "haproxy.log").open("wb")
        command = haproxy_command(self.config.system, ROOT, Path(sys.executable))
        if is_supervised:
            command = self._supervisord(path)
        self._is_supervised = is_supervised
        self.start(command)
        self.master = Master(master_socket(self.config.system), CLOCK, deadline_s=2.0)
        self._api = RuntimeApi(stats_socket(self.config.system), CLOCK, deadline_s=2.0)
        wait_until(self._serves(app_port), "both groups serve", 20)

    def start(self, command: list[str]) -> None:
        """Start a keeper; ``close`` ends the last one."""
        self.keeper = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=ROOT, start_new_session=True)

    def _supervisord(self, path: Path) -> list[str]:
        """Return the command that runs HAProxy as ``make up`` does, without the services."""
        (self.config.system.state_path / LOG_DIR).mkdir(parents=True)
        conf = self.run / "supervisord.conf"
        conf.write_text(supervisor_config(self.config.system, (), path, Path(sys.executable), ROOT), encoding="utf-8")
        command = [*module("supervisor.supervisord"), "--nodaemon", "--silent", "-c", str(conf)]
        return [str(KEEPER), str(self.run / "supervisord.keeper"), *command]

    def _serves(self, app_port: int) -> Callable[[], bool]:
        def is_up() -> bool:
            try:
                for group in ("web", "db"):
                    self._api.order([f"set server {group}/vm1 addr 127.0.0.21 port {app_port}"])
                    self._api.order([f"set server {group}/vm1 state ready"])
                shown = self._api.look(("web", "db")).servers
            except (ProxyError, ProxyLostError):
                return False
            return all(shown[group][0].is_proven for group in ("web", "db"))

        return is_up

    def log(self) -> str:
        return (self.directory / "haproxy.log").read_text(encoding="utf-8")

    def go(self) -> None:
        (self.directory / "go").touch()

    def in_flight(self) -> int:
        """Return what HAProxy's processes have in flight, -1 while one does not say."""
        try:
            return sum(self.master.in_flight(worker.pid) for worker in self.master.workers())
        except (ProxyError, ProxyLostError):
            return -1

    def until_in_flight(self, count: int) -> None:
        wait_until(lambda: self.in_flight() == count, f"{count} in flight", 20)

    def reload(self) -> None:
        """Have HAProxy reload with its servers as they are; return when another process serves, too."""
        self.keep_slots()
        self.keeper.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(self.workers()) == 2, "an old worker beside a new one", 20)

    def keep_slots(self) -> None:
        """Write what a reload begins with, as the balancer does."""
        write_atomically(state_file(self.config.system), self._api.look(("web", "db")).state_dump)

    def workers(self) -> list[int]:
        try:
            return [worker.pid for worker in self.master.workers()]
        except (ProxyError, ProxyLostError):
            return []

    def drain(self) -> Stopwatch:
        self.keeper.send_signal(signal.SIGUSR1)
        return Stopwatch(self.keeper.pid)

    def takes_new(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def close(self) -> None:
        self.go()
        if self._is_supervised:
            stop_services(self.config.system, CLOCK, Steps(CLOCK, 1))
        end(self.keeper, signal.SIGTERM)
        haproxy_process.begin_end(self.config.system, ROOT, Path(sys.executable)).wait(20)  # that of a killed keeper
        end(self._app)
        self._log.close()


def post(kept: Kept) -> str:
    """Return how a POST ended that is answered when the stand lets it."""
    connection = http.client.HTTPConnection("127.0.0.1", kept.port, timeout=40)
    try:
        connection.request("POST", "/work?held=1", b"x")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
