"""The HTTP server of the page: a few threads, each bounded in time, none of which the bus waits for."""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.endpoint import split_endpoint

CLIENT_TIMEOUT_S: Final = 10.0
MAX_CLIENTS: Final = 16
INDEX: Final = b"libvirt-autoscaler: metrics for Prometheus are at /metrics\n"
_TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]


class _Handler(WSGIRequestHandler):
    """One client; whoever says nothing for a while is hung up on."""

    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape each few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client, at most ``MAX_CLIENTS`` of them; the next one is hung up on at once."""

    daemon_threads = True
    request_queue_size = MAX_CLIENTS

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as ``http.server`` would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the client in a thread of its own, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the client, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away or stalled: it has no answer, and knows."""


class PageServer:
    """The page at one address, until ``close``."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        """Bind ``listen`` (ADDRESS:PORT, ``*`` for every address) and serve in the background.

        Raises:
            OSError: the address cannot be used.
        """
        host, port = split_endpoint(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server(("" if host == "*" else host, port), family)
        self._server.set_app(_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _app(registry: CollectorRegistry) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """Return the application: ``/metrics``, a word at ``/``, and nothing else."""
    metrics: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO", "/"):
            case "/metrics":
                return metrics(environ, start)
            case "/":
                start("200 OK", _TEXT)
                return [INDEX]
            case _:
                start("404 Not Found", _TEXT)
                return [INDEX]

    return answer
