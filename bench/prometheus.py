"""A Prometheus of our own for a while: its own process, a free port, a directory that goes with it."""

import json
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from cli.endpoints import DIRECT
from common.clock import SystemClock
from common.errors import AutoscalerError

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "packaging" / "prometheus" / "autoscaler.rules.yml"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def binaries() -> Path:
    """Return the directory of ``prometheus`` and ``promtool``, fetched from Debian where they are not installed.

    Raises:
        AutoscalerError: they cannot be had.
    """
    done = subprocess.run(
        [ROOT / "scripts" / "fetch-prometheus.sh"], check=False, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        raise AutoscalerError(f"no Prometheus: {done.stderr.strip()}")
    return Path(done.stdout.strip())


class Prometheus:
    """Reads ``targets`` (job to ADDRESS:PORT) every ``every_s``, and evaluates the alert rules."""

    def __init__(self, targets: Mapping[str, str], every_s: float = 1.0) -> None:
        """Start it; return when it answers.

        Raises:
            AutoscalerError: it does not start.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="autoscaler-prometheus-"))
        self.port = _free_port()
        self._log = (self.directory / "log").open("wb")
        config = self.directory / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps(_config(targets, every_s)), encoding="utf-8")
        command = [
            str(binaries() / "prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, cwd=self.directory)
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and remove all it wrote."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of ``expression`` now, each with ``metric`` and ``value``.

        Raises:
            AutoscalerError: Prometheus refuses the expression.
        """
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def query_range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Return the series of ``expression`` between two epoch seconds, each with ``metric`` and ``values``.

        Raises:
            AutoscalerError: Prometheus refuses the expression.
        """
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=str(start_s), end=str(end_s), step=str(step_s)
        )["result"]
        return found

    def healthy_jobs(self) -> set[str]:
        """Return the jobs whose last scrape succeeded."""
        return {t["labels"]["job"] for t in self._get("targets")["activeTargets"] if t["health"] == "up"}

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules, each with ``name``, ``health``, ``lastError`` and ``state``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **arguments: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with DIRECT.open(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AutoscalerError(f"{what} {arguments}: {error.read().decode(errors='replace')[:500]}") from error
        except OSError as error:
            raise AutoscalerError(f"{what}: Prometheus does not answer: {error}") from error

    def _await_ready(self) -> None:
        clock = SystemClock()
        deadline_s, pause = clock.monotonic_s() + START_TIMEOUT_S, Event()
        while not self._is_ready():
            if self._process.poll() is not None or clock.monotonic_s() > deadline_s:
                said = (self.directory / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
                raise AutoscalerError(f"Prometheus did not start: {said}")
            pause.wait(0.1)

    def _is_ready(self) -> bool:
        try:
            with DIRECT.open(f"http://127.0.0.1:{self.port}/-/ready", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def _config(targets: Mapping[str, str], every_s: float) -> dict[str, Any]:
    every = f"{round(every_s * 1000)}ms"
    jobs: Sequence[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
    ]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": list(jobs),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
