"""A Docker engine of the tests' own: own data, own socket, no bridge and no packet filter rules of Docker's."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.world import wait_until

START_S = 90.0
STOP_S = 90.0


class Engine:
    """One engine that runs; ``environ`` is what leads Docker's commands to it."""

    def __init__(self) -> None:
        # Not a random name: it is containerd's namespace too, which may not hold every letter that those do.
        self.home = Path(f"/var/tmp/ased-{os.getpid()}")
        self.home.mkdir(mode=0o700)
        socket = f"unix://{self.home}/docker.sock"
        self.environ = {"DOCKER_HOST": socket}
        self._traces = traces()
        self._process = self._start(socket)

    def _start(self, socket: str) -> "subprocess.Popen[bytes]":
        command = ["dockerd", "--data-root", f"{self.home}/data", "--exec-root", f"{self.home}/exec"]
        command += ["--pidfile", f"{self.home}/docker.pid", "-H", socket, "--containerd-namespace", self.home.name]
        # The containers have the host's network: the engine is to leave that as it is.
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        with (self.home / "log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: self._answers(process), START_S, "the engine to answer")
        return process

    def docker(self, *words: str, check: bool = True) -> str:
        """Return what a command of Docker's prints."""
        environ = {**os.environ, **self.environ}
        done = subprocess.run(["docker", *words], capture_output=True, text=True, env=environ, timeout=300, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"docker {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine shows of each container, by its service."""
        found = self.docker("ps", "-aq", "--filter", "label=com.docker.compose.service").split()
        shown: list[dict[str, Any]] = json.loads(self.docker("inspect", *found)) if found else []
        return {entry["Config"]["Labels"]["com.docker.compose.service"]: entry for entry in shown}

    def log(self) -> str:
        """Return the end of the engine's own log."""
        return "\n".join((self.home / "log").read_text(encoding="utf-8").splitlines()[-15:])

    def boot(self, forget: Path) -> None:
        """End the engine, remove ``forget`` as the machine's boot would, and start the engine again."""
        self._end()
        shutil.rmtree(forget)
        self._process = self._start(self.environ["DOCKER_HOST"])

    def stop(self) -> None:
        """End the engine and all it runs; return when its files are gone."""
        self._end()
        shutil.rmtree(self.home, ignore_errors=True)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_S)
        for line in self.mounts():  # the engine leaves the mount of its network namespace
            subprocess.run(["umount", line.split()[1]], check=True)

    def mounts(self) -> list[str]:
        """Return what is mounted for containers."""
        return [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.home) in line]

    def left(self) -> list[str]:
        """Return what the engine has left behind on the machine."""
        files = [str(self.home)] if self.home.exists() else []
        return [*files, *self.mounts(), *sorted(traces() - self._traces)]

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        if process.poll() is not None:
            raise AssertionError(f"dockerd ended\n{self.log()}")
        return "Server Version" in self.docker("info", check=False)


def traces() -> set[str]:
    """Return what shows an engine at work in the network: interfaces, rules, a closed FORWARD chain.

    Rules come without what they have counted: those of an engine that ran before do not change with each packet.
    """
    said = subprocess.run(["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    telling = {line.strip() for line in said.splitlines() if "docker" in line.lower() or "hook forward" in line}
    return telling | {
        path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(("docker", "veth"))
    }
