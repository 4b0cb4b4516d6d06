"""The HTTP server of the page: a few threads, each bounded in time, none of which the bus waits for."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.clock import Clock
from common.endpoint import split_endpoint
from services.exporter.core.room import MOST, Room

CLIENT_TIMEOUT_S: Final = 10.0  # for a request as a whole, and for each silence in it
INDEX: Final = b"libvirt-autoscaler: metrics for Prometheus are at /metrics\n"
_TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]


class _Handler(WSGIRequestHandler):
    """One client; whoever says nothing for a while is hung up on."""

    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape each few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client that ``core.room`` lets in; the others, and those that take too long, are hung up on."""

    daemon_threads = True
    request_queue_size = MOST

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, clock: Clock) -> None:
        self.address_family = family
        self._clock = clock
        self._lock = threading.Lock()
        self._room = Room()
        self._doors: dict[int, socket.socket] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as ``http.server`` would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the client in a thread of its own, if there is room."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            answer = self._room.enter(id(request), str(client_address[0]), now_s)
            if answer.is_in:
                self._doors[id(request)] = request
            if answer.goes is not None:
                _hang_up(self._doors.get(answer.goes))
        if not answer.is_in:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the client, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def shutdown_request(self, request: Any) -> None:
        """Forget the client before its socket is closed: nobody is to hang up on whoever gets its number next."""
        self._forget(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who takes too long, however steadily it says something; called twice a second."""
        with self._lock:
            for late in self._room.late(self._clock.monotonic_s(), CLIENT_TIMEOUT_S):
                _hang_up(self._doors.get(late))

    def _forget(self, request: Any) -> None:
        with self._lock:
            self._room.leave(id(request))
            self._doors.pop(id(request), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away or stalled: it has no answer, and knows."""


class PageServer:
    """The page at one address, until ``close``."""

    def __init__(self, listen: str, registry: CollectorRegistry, clock: Clock) -> None:
        """Bind ``listen`` (ADDRESS:PORT, ``*`` for every address) and serve in the background.

        Raises:
            OSError: the address cannot be used.
        """
        host, port = split_endpoint(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server(("" if host == "*" else host, port), family, clock)
        self._server.set_app(_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _hang_up(door: socket.socket | None) -> None:
    """End both directions: the thread that serves it finds out, and closes it."""
    if door is not None:
        with suppress(OSError):  # the client was faster
            door.shutdown(socket.SHUT_RDWR)


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
