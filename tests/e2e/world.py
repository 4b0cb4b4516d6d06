"""A whole installation of its own beside any other on the machine: directories, network, ports, prefix.

Everything is driven as a user drives it: the ``autoscaler`` command, HTTP at the endpoint, signals to processes whose
identifiers ``status --json`` gives. Waiting is for a condition with a deadline, and says what it waited for.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import waiting

ROOT = Path(__file__).resolve().parents[2]
QEMU_PIDS = Path("/run/libvirt/qemu")

TEMPLATE = """
[system]
run_dir = "{run_dir}"
state_dir = "{state_dir}"

[hosts.local]
accel = "tcg"

[network]
name = "{name}"
bridge = "{bridge}"
subnet = "{subnet}"
slots = 20

[metrics]
listen = "{metrics}"
haproxy_listen = "{haproxy_metrics}"

[groups.web]
prefix = "{name}-"
min = {minimum}
max = {maximum}
endpoint = "127.0.0.1:{port}"
cooldown_in_s = {cooldown_in_s}
max_in_flight = 16
{group_extra}

[groups.web.image]
{image}

[[groups.web.policies]]
type = "threshold"
high_ratio = 0.80
low_ratio = 0.35
out_window_s = {out_window_s}
in_window_s = {in_window_s}
{extra}
"""
DEFAULTS = {
    "minimum": "1",
    "maximum": "4",
    "cooldown_in_s": "15.0",
    "out_window_s": "5.0",
    "in_window_s": "10.0",
    "group_extra": "",
    "extra": "",
    "metrics": "",
    "haproxy_metrics": "",
}
DEMO_IMAGE = 'directory = "{}"\nmemory_mib = 128\ncpu_quota = 0.4'


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.2) -> Any:
    """Return the first true value of ``condition``, asked as rarely as a command that starts anew needs."""
    return waiting.wait_until(condition, what, timeout_s, every_s)


def now_s() -> float:
    """Return monotonic seconds."""
    return time.monotonic()  # noqa: TID251


class World:
    """One installation: its configuration file, its command, its endpoint."""

    def __init__(self, directory: Path, images: Path, name: str, number: int, **changes: str) -> None:
        """Write the file of an installation called ``name``; ``changes`` are put in the place of ``DEFAULTS``."""
        self.name = name
        self.python = Path(sys.executable)
        self.port = 18000 + number
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.config = directory / "autoscaler.toml"
        values = DEFAULTS | {"image": DEMO_IMAGE.format(images)} | changes
        self.config.write_text(
            TEMPLATE.format(
                run_dir=self.run_dir,
                state_dir=self.state_dir,
                name=name,
                bridge=f"ase{number}",
                subnet=f"192.168.{160 + number}.0/24",
                port=self.port,
                **values,
            ),
            encoding="utf-8",
        )

    def autoscaler(self, *args: str, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run the operator's command with this world's configuration."""
        done = subprocess.run(
            [str(self.python), "-m", "cli", "--config", str(self.config), *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"autoscaler {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def status(self) -> dict[str, Any]:
        """Return ``status --json``, also where nothing runs."""
        values: dict[str, Any] = json.loads(self.autoscaler("status", "--json", check=False).stdout)
        return values

    def group(self, name: str = "web") -> dict[str, Any]:
        """Return one group of the status."""
        return next(group for group in self.status()["groups"] if group["name"] == name)

    def pid(self, service: str) -> int | None:
        """Return the process identifier of a service that answers, else None."""
        found = next(entry for entry in self.status()["services"] if entry["name"] == service)
        return int(found["pid"]) if found["alive"] else None

    def get(self, path: str, timeout_s: float = 10) -> tuple[int, str, str]:
        """Return status, body and ``X-Served-By`` of one GET at the endpoint."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode().strip(), response.headers.get("X-Served-By", "")
        finally:
            connection.close()

    def domains(self) -> list[str]:
        """Return every domain of this world that libvirt knows, defined or running."""
        import libvirt

        connection = libvirt.openReadOnly("qemu:///system")
        try:
            return sorted(d.name() for d in connection.listAllDomains() if d.name().startswith(f"{self.name}-"))
        finally:
            connection.close()

    def networks(self) -> list[str]:
        """Return this world's network if libvirt knows it."""
        import libvirt

        connection = libvirt.openReadOnly("qemu:///system")
        try:
            return [n.name() for n in connection.listAllNetworks() if n.name() == self.name]
        finally:
            connection.close()

    def kill_qemu(self, domain: str) -> None:
        """End the domain's QEMU as a crash would."""
        os.kill(self.qemu_pid(domain), signal.SIGKILL)

    def qemu_pid(self, domain: str) -> int:
        """Return the process of a running domain."""
        return int((QEMU_PIDS / f"{domain}.pid").read_text(encoding="ascii"))

    def logs(self, lines: int = 15) -> str:
        """Return the tail of every service's log, for a failure's message."""
        parts = []
        for path in sorted((self.state_dir / "log").glob("*.log")):
            tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)


def libvirtd_pid() -> int:
    """Return the process of the machine's libvirtd, as systemd runs it or as it was started by hand."""
    if Path("/run/systemd/system").is_dir():
        told = subprocess.run(
            ["systemctl", "show", "--property=MainPID", "--value", "libvirtd"],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(told.stdout)
    return int(Path("/run/libvirtd.pid").read_text(encoding="ascii"))


def restart_libvirtd() -> None:
    """Restart libvirtd as the machine runs it: by systemd, or by hand."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "libvirtd"], check=True)
        return
    pid = libvirtd_pid()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "libvirtd to end")
    subprocess.run(["libvirtd", "-d"], check=True)
