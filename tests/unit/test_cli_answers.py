"""When ``up`` takes a group's endpoint for answering: by its path, or by anything but HAProxy's own 503."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.endpoints import answers
from common.config import Group


class Handler(BaseHTTPRequestHandler):
    """Answers every path with the status that stands in it."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.rpartition("/")[2] or 404))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def group(port: int, protocol: str, status: int) -> Group:
    readiness = {"protocol": protocol, "path": f"/{status}"}
    return Group.model_validate({"prefix": "web-", "endpoint": f"127.0.0.1:{port}", "readiness": readiness})


@pytest.mark.parametrize(
    ("protocol", "status", "is_answering"),
    [("http", 200, True), ("http", 404, False), ("agent", 200, True), ("agent", 404, True), ("tcp", 503, False)],
)
def test_without_a_path_of_its_own_any_answer_of_a_domain_counts(
    port: int, protocol: str, status: int, is_answering: bool
) -> None:
    assert answers("web", group(port, protocol, status)) is is_answering


@pytest.mark.parametrize("endpoint", ["[::1]:{}", "[::]:{}"])
def test_a_tcp_group_is_asked_at_its_ipv6_address(endpoint: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        at = endpoint.format(server.getsockname()[1])
        assert answers("web", Group.model_validate({"prefix": "web-", "protocol": "tcp", "endpoint": at}))
