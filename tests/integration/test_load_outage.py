"""``autoscaler load`` where nobody answers: said at once, and given up unless somebody has answered before."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

from load.hope import NEVER_S
from tests.ports import free_port


def command(place: Path, port: int, *words: str) -> list[str]:
    path = place / "autoscaler.toml"
    system = f'[system]\nrun_dir = "{place}/run"\nstate_dir = "{place}/state"\n'
    path.write_text(f'{system}[groups.web]\nprefix = "web-"\nendpoint = "127.0.0.1:{port}"\n')
    return [sys.executable, "-m", "cli", "--config", str(path), "load", "--period", "0.2", *words]


def test_an_endpoint_at_which_nobody_listens_is_told_at_once_and_given_up(tmp_path: Path) -> None:
    port = free_port()
    done = subprocess.run(command(tmp_path, port), capture_output=True, text=True, check=False, timeout=60)
    first, *_, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert first.startswith(f"autoscaler: the endpoint 127.0.0.1:{port} cannot be reached (Connection refused): ")
    assert "make up" in first
    assert last.startswith(f"given up: http://127.0.0.1:{port} has not answered once in ")
    assert "0 answered well" in done.stdout


class Briefly(BaseHTTPRequestHandler):
    """Answers a few times."""

    left: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.left.pop()
        if not self.left:
            threading.Thread(target=self.server.shutdown).start()

    def log_message(self, *args: object) -> None:
        pass


def test_a_load_that_meets_an_outage_goes_on(tmp_path: Path) -> None:
    Briefly.left[:] = [0, 0, 0]
    server = HTTPServer(("127.0.0.1", 0), Briefly)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    seconds = NEVER_S + 2
    words = command(tmp_path, server.server_port, "--json", "--seconds", f"{seconds:g}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        thread.join(60)
        server.server_close()
        out, err = load.communicate(timeout=60)
    assert load.returncode == 1
    assert "given up" not in err and "cannot be reached" not in err
    assert json.loads(out)["requests"] > NEVER_S / 0.2
