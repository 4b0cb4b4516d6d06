"""With a proxy named in the environment, loopback and guests are asked directly: a proxy does not know them."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parents[2]


class Guest(BaseHTTPRequestHandler):
    """Answers each request well; a proxy would be asked for a whole URL."""

    asked: list[str]

    def do_GET(self) -> None:
        """Answer as a guest."""
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("X-Served-By", "web-0000")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve() -> tuple[ThreadingHTTPServer, list[str]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Guest,), {"asked": asked}))
    Thread(target=server.serve_forever, daemon=True).start()
    return server, asked


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Name a proxy in every way there is; return what it was asked for."""
    server, asked = serve()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{server.server_port}")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    """Return where a guest answers."""
    server, _ = serve()
    yield server.server_port
    server.shutdown()
    server.server_close()


ASK = """
import sys
from cli.doctor.gather_guests import ask
from cli.endpoints import answers
from cli.healthcheck import page_trouble
from common.clock import SystemClock
from common.config import Group
from services.actuator.prober import Target, probe

port = int(sys.argv[1])
target = Target("web-0000", "127.0.0.1", port)
assert probe(target).is_right
assert ask(target, SystemClock()).is_right
assert answers("web", Group(prefix="web-", endpoint=f"127.0.0.1:{port}"))
assert page_trouble(f"127.0.0.1:{port}") == ""
"""


def test_who_asks_over_http_asks_directly(proxy: list[str], port: int) -> None:
    """In a process that has the variables from its start: some clients read them only then."""
    subprocess.run([sys.executable, "-c", ASK, str(port)], cwd=ROOT, check=True, timeout=120)
    assert proxy == []


def test_the_load_goes_to_the_endpoint_and_no_proxy(proxy: list[str], port: int, tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.toml"
    system = f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
    path.write_text(f'{system}[groups.web]\nprefix = "web-"\nendpoint = "127.0.0.1:{port}"\n')
    words = ["load", "--period", "0.1", "--seconds", "1", "--json"]
    command = [sys.executable, "-m", "cli", "--config", str(path), *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert set(json.loads(done.stdout)["errors"]) == {"wrong result"}, "the guest answered, and it cannot compute"
    assert proxy == []


def test_no_file_asks_over_http_in_a_way_that_goes_by_the_environment() -> None:
    """``http.client`` knows no proxies; of urllib only the opener of ``cli/endpoints.py`` is used, with none."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for top in ("bench", "cli", "common", "guest_image", "load", "services")
        for path in (ROOT / top).rglob("*.py")
        for name in imported(path)
        if name.partition(".")[0] in ("requests", "httpx", "aiohttp", "urllib3") or name == "urllib.request"
    }
    assert found == {("cli/endpoints.py", "urllib.request")}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
